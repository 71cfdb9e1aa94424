package control

import (
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
	j, err := journal.New(journal.Options{Memory: e.Memory << 20, Directory: e.Directory, Disk: int64(e.Disk) << 20, Log: g.log})
	if err != nil {
		return nil, err
	}
	return journal.Record(g.table, j, recordings[e.When()], e.Keep), nil
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
