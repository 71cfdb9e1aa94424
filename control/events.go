package control

import (
	"errors"

	"example.com/culvert/control/journal"
	"example.com/culvert/rules/config"
)

var recordings = map[config.Recording]journal.Recording{
	config.RecordOnDemand: journal.OnDemand,
	config.RecordAlways:   journal.Always,
}

// record makes the recorder of the table's events.
func (g *Gateway) record() (*journal.Recorder, error) {
	e := &g.cfg.Events
	j, err := journal.New(journal.Options{Memory: e.Memory << 20, Directory: e.Directory, Disk: int64(e.Disk) << 20, Log: g.log, Later: g.heir != nil})
	if err != nil {
		return nil, err
	}
	return journal.Record(g.table, j, recordings[e.When()], e.Keep), nil
}

// recordToo has the events of the table recorded before packets go on, if those of the
// process before were: their numbers follow.
func (g *Gateway) recordToo() {
	if h := g.heir; h != nil {
		g.events.Succeed(h.final.Recorded)
	}
}

// recordOn has the recorder go on behind the events of the process before. The
// descriptors are those that came with past, which is nil if nothing was recorded.
func (g *Gateway) recordOn(past *journal.Past, fds []int) {
	var err error
	if past == nil {
		closeDescriptors(fds)
	} else if err = past.Adopt(fds); err != nil {
		err = errors.Join(err, past.Close())
		past = nil
	}
	if err = errors.Join(err, g.events.Continue(past)); err != nil {
		g.log.Warn("cursors of events begin anew", "error", err)
	}
}

// Events returns the recorder of events, nil before Start.
func (g *Gateway) Events() *journal.Recorder { return g.events }

// Journal returns the counters of the recorder.
func (g *Gateway) Journal() (s journal.Stats) {
	if g.current.Load().generation == 0 {
		return s
	}
	return g.events.Stats()
}
