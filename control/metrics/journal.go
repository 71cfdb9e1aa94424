package metrics

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/control/journal"
)

var (
	recording     = describe("culvert_journal_recording", "1 while events are recorded: somebody follows them, did lately, or [events] says always.")
	recorded      = describe("culvert_journal_events_total", "Events that were recorded or, for want of room in a ring, only counted, by kind; begins anew when recording does.", "kind")
	readers       = describe("culvert_journal_readers", "Who follows events now.")
	readersMissed = describe("culvert_journal_missed_total", "Events that readers were told they missed, of all readers together. If it grows, they are too slow for what memory and directory in [events] keep: raise these, or read faster.")
	journalBytes  = describe("culvert_journal_bytes", "What the events that are kept take.", "place")
	journalLimit  = describe("culvert_journal_limit_bytes", "What they may take; 0: nothing is kept there.", "place")
	unwritten     = describe("culvert_journal_unwritten_total", "Events that could not be written to files before memory let them go. If it grows, the disk is full or too slow; the log says which.")
	unreadable    = describe("culvert_journal_unreadable_bytes_total", "Bytes of files of events that were no events, each time they were read. If it grows, the disk is failing or somebody else writes to the directory.")
)

// places are the values of the label place.
var places = [...]string{"memory", "disk"}

func collectJournal(s *journal.Stats, gauge gauger, count counter) {
	gauge(recording, oneIf(s.Recording))
	for k := range conntrack.NumKinds {
		count(recorded, s.Events[k], k.String())
	}
	gauge(readers, float64(s.Readers))
	count(readersMissed, s.Missed)
	gauge(journalBytes, float64(s.Memory), places[0])
	gauge(journalBytes, float64(s.Disk), places[1])
	gauge(journalLimit, float64(s.MemoryLimit), places[0])
	gauge(journalLimit, float64(s.DiskLimit), places[1])
	count(unwritten, s.Unwritten)
	count(unreadable, s.Corrupt)
}
