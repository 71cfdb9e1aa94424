// Package journal keeps the latest events of flows and expectations for readers who
// come back.
//
// # What it promises
//
// Every event has a number, those that found no room in a worker's ring included, and
// a reader comes upon each number exactly once: as an event, or within a gap that says
// how many of each kind are missing. A Cursor is a place between two events; it holds
// the counts of all kinds before it, so the size of a gap is the difference of two
// cursors, whether or not anybody remembers the events.
//
// # How it is made
//
// The goroutine that orders the events of a table appends each of them to a chunk of
// memory, under a lock that is held for no more than that. Chunks only grow, and the
// oldest go when Options.Memory is reached. A reader takes the published part of a
// chunk and decodes it without the lock; he may keep a chunk that the journal has let
// go. So nobody waits for a reader, and one who comes too late finds the first chunk
// behind his cursor.
//
// With a directory, one more goroutine copies chunks to files once a second, or when
// one is full; the oldest file goes when Options.Disk is reached. What it cannot write
// stays as long as memory has it, is counted when that lets it go, and is a gap for who
// reads files. A frame that its checksum does not fit is skipped, and a gap, too.
//
// # Instances
//
// A start makes a new instance, with numbers from 1. Cursors of an instance before lead
// through its files, then to a Restart, then on: Clean if it was closed, so that
// nothing is missing, else Torn. Without files they lead nowhere, which ExpiredError
// says, with the oldest place there is.
//
// A process that goes on in place of another one goes on with its instance: Leave says
// what there was, Continue puts it before what has happened since, and memory, files and
// the lock on them change hands. Between the two nobody reads, and nothing is written.
package journal
