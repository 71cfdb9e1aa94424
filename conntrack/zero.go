package conntrack

import (
	"runtime"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Counters belong to the workers, who add to them plainly: nobody else can set them to
// zero. So what a reader was told is remembered as a baseline, and taken off what later
// readers are told. The baselines are an array of their own, whose memory is used only
// where flows were zeroed.

// baseline is what the counters of the flow in a slot had when they were zeroed.
type baseline struct {
	seq     uint32 // odd while it is written
	gen     uint32 // of the entry; another: none
	packets [tuple.NumDirections]uint64
	bytes   [tuple.NumDirections]uint64
}

// ZeroFrom is DumpFrom for the flows that want returns true for, and sets the counters
// of each to zero when it has read them: every packet is told once, to one of those who
// call it.
func (t *Table) ZeroFrom(position uint32, want, f func(*Flow) bool) (next uint32) {
	t.zeroed.Store(true)
	return t.each(max(position, 1), func(slot uint32, flow *Flow) bool {
		if !want(flow) {
			return true
		}
		t.zero(slot, flow)
		return f(flow)
	})
}

// zero reads the counters of the entry in a slot again, and makes them the baseline. The
// caller is in an epoch.
func (t *Table) zero(slot uint32, f *Flow) {
	t.control.mu.Lock()
	defer t.control.mu.Unlock()
	e, b := &t.entries[slot], &t.baselines[slot]
	var now baseline
	now.gen = e.Gen() + 1 // never 0, that of a slot not zeroed yet
	for d := range tuple.NumDirections {
		now.packets[d], now.bytes[d] = e.counters(tuple.Direction(d))
		f.Packets[d], f.Bytes[d] = now.packets[d], now.bytes[d]
	}
	t.takeBaseline(slot, e.Gen(), f)
	seq := atomic.AddUint32(&b.seq, 1)
	for d := range tuple.NumDirections {
		word.Store64(&b.packets[d], now.packets[d])
		word.Store64(&b.bytes[d], now.bytes[d])
	}
	atomic.StoreUint32(&b.gen, now.gen)
	atomic.StoreUint32(&b.seq, seq+1)
}

// takeBaseline takes what was told already off the counters of f, a copy of the entry
// that had a slot at its generation gen.
func (t *Table) takeBaseline(slot, gen uint32, f *Flow) {
	from := &t.baselines[slot]
	for {
		seq := atomic.LoadUint32(&from.seq)
		b := baseline{gen: atomic.LoadUint32(&from.gen)}
		for d := range tuple.NumDirections {
			b.packets[d], b.bytes[d] = word.Load64(&from.packets[d]), word.Load64(&from.bytes[d])
		}
		if seq%2 != 0 || atomic.LoadUint32(&from.seq) != seq {
			runtime.Gosched()
			continue
		}
		if b.gen != gen+1 {
			return
		}
		for d := range tuple.NumDirections { // a copy may be older than the baseline
			f.Packets[d] -= min(b.packets[d], f.Packets[d])
			f.Bytes[d] -= min(b.bytes[d], f.Bytes[d])
		}
		return
	}
}
