package conntrack

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func TestPacketsAllocateNothing(t *testing.T) {
	table := newTable(t, Config{Max: 10_000, Timestamp: true})
	sub := table.Subscribe(1, AllEvents) // the rings fill, then lose
	w := table.Worker(0)
	w.Begin(start)
	keys := make([]tuple.Tuple, MaxBatch)
	refs := make([]Ref, MaxBatch)
	for i := range keys {
		p := proposal(flowTuple(tuple.TCP, i))
		keys[i] = p.Original
		mustAdmit(t, w, p, syn, start)
	}
	sub.Close()
	next, now := 1000, start
	p := proposal(flowTuple(tuple.UDP, next))
	tests := []struct {
		name string
		f    func()
	}{
		{"lookup of a batch", func() { w.Lookup(keys, refs) }},
		{"find", func() { w.Find(&keys[0]) }},
		{"track tcp", func() { w.Track(refs[0], syn, now) }},
		{"claim, track, confirm, kill", func() {
			now++
			next++
			w.Begin(now)
			p.Original.SrcPort, p.Reply.DstPort = uint16(next), uint16(next)
			r, _ := w.Claim(p, now)
			w.Track(r, data, now)
			w.Confirm(r, now)
			w.Track(Ref{r.Slot, tuple.Reply}, data, now)
			w.Kill(r)
		}},
	}
	for _, tt := range tests {
		if n := testing.AllocsPerRun(100, tt.f); n != 0 {
			t.Errorf("%s allocates %v times", tt.name, n)
		}
	}
}
