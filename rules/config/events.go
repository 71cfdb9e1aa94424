package config

import (
	"path/filepath"
	"time"
)

// Events has the settings of the journal of events.
type Events struct {
	Record    Recording
	Keep      time.Duration // that recording on demand goes on after the last reader
	Memory    int           // MiB
	Directory string        // of files with older events; empty: none
	Disk      int           // MiB of files
}

// Recording says when events are recorded.
type Recording uint8

const (
	RecordOnDemand Recording = iota // while somebody reads them, and for Keep after
	RecordAlways
)

// When is Record: with a directory it is always.
func (e *Events) When() Recording {
	if e.Directory != "" {
		return RecordAlways
	}
	return e.Record
}

// defaultEvents are the settings without [events].
var defaultEvents = Events{Keep: 10 * time.Minute, Memory: 8, Disk: 256}

// eventKeys describe [events].
var eventKeys = []key[Events]{
	{"record", `"on-demand" or "always"`, `"on-demand"; "always" with directory`, `"always"`,
		"Whether events of flows and expectations are recorded only while somebody follows them and for keep after that, or from the start. While nothing is recorded they cost nothing.",
		func(d *decoder, n *node, v *Events) { word(d, n, &v.Record, "on-demand", "always") }},
	{"keep", "duration 1s-100d", `"10m"`, `"1h"`,
		"How long recording on demand goes on after the last reader has left: so long he may come back with his cursor.",
		func(d *decoder, n *node, v *Events) { d.duration(n, &v.Keep) }},
	{"memory", "integer 1-65536", "8", "64",
		"MiB of memory for the latest events; a MiB holds about seven thousand. A reader who falls further behind is told how many he missed.",
		func(d *decoder, n *node, v *Events) { d.integer(n, &v.Memory, 1, 65536) }},
	{"directory", "path", "", `"/var/lib/culvert/events"`,
		"Where events are written to files, so that readers may be further behind, and cursors lead through restarts. Every gateway needs one of its own.",
		func(d *decoder, n *node, v *Events) { d.directory(n, &v.Directory) }},
	{"disk", "integer 1-1048576", "256", "4096",
		"MiB that the files in directory may take; the oldest go first.",
		func(d *decoder, n *node, v *Events) { d.integer(n, &v.Disk, 1, 1<<20) }},
}

// decodeEvents reads [events].
func (d *decoder) decodeEvents(c *Config) {
	single(d, "events", eventKeys, &c.Events)
	n := d.root.table["events"]
	if n == nil || n.kind != kindTable {
		return
	}
	if disk := n.table["disk"]; disk != nil && c.Events.Directory == "" {
		d.errorf(disk.at, "disk: nothing is written without directory: name one, or delete this line")
	}
	if record := n.table["record"]; record != nil && c.Events.Record == RecordOnDemand && c.Events.Directory != "" {
		d.errorf(record.at, "record: what goes to directory is recorded always: delete this line, or directory")
	}
}

func (d *decoder) directory(n *node, v *string) {
	switch s, ok := d.text(n); {
	case !ok:
	case !filepath.IsAbs(s):
		d.errorf(n.at, "%q is not an absolute path: begin it with /", s)
	default:
		*v = s
	}
}
