package conntrack

import (
	"runtime"
	"sync/atomic"
)

// A stamp is what the last note about the flow in a slot was: 48 bits of its number,
// stampEnd if it was the DESTROY, and above that 15 bits of the flow's generation.
const (
	stampEnd      = 1 << 48
	stampNumber   = stampEnd - 1
	stampGenShift = 49
)

// stamp notes that the flow in a slot has an event with a number. Two actors may do
// so at once: the larger number stays, and the end.
func (t *Table) stamp(slot uint32, typ EventType, number uint64) {
	s := uint64(t.entries[slot].Gen())<<stampGenShift | number
	if typ == EventDestroy {
		s |= stampEnd
	}
	for at := &t.stamps[slot]; ; {
		old := atomic.LoadUint64(at)
		if old>>stampGenShift == s>>stampGenShift && old > s || atomic.CompareAndSwapUint64(at, old, s) {
			return
		}
	}
}

// stamped returns the number of the last note about the flow in a slot, 0 if there is
// none, and whether it was the DESTROY.
func (t *Table) stamped(slot, gen uint32) (number uint64, ended bool) {
	s := atomic.LoadUint64(&t.stamps[slot])
	if s>>stampGenShift != uint64(gen)<<stampGenShift>>stampGenShift {
		return 0, false // of a flow that had the slot before
	}
	return s & stampNumber, s&stampEnd != 0
}

// Cut joins a list of the flows and expectations with the events that follow it, so
// that each event is either in the list, by what it has changed, or wanted after it:
// none is lost, none comes twice, no DESTROY is of a flow that the list does not have.
// This takes a listener to all kinds of events, who has been there since before
// NewCut. He calls Flows until it is through, Expects and Settled, and keeps the
// records that come until that says so. Of these he takes those that are Wanted.
//
// The cut is another one for each flow: the moment at which the walk came by. So the
// list may have two flows with one tuple, the first of which ends next; their ids
// differ. A packet never waits for it. One goroutine at a time may use a Cut.
type Cut struct {
	t        *Table
	begin    uint64             // notes up to here are in the list
	end      uint64             // notes after it are not
	listed   []uint64           // slots that had the same flow from before begin until they were listed
	last     map[cutFlow]uint64 // notes that the list has, of flows with some since begin
	expects  []uint64           // notes that the list has, by chunks of records
	complete bool               // the listener has every record since begin
}

// cutFlow names a flow.
type cutFlow struct{ slot, gen uint32 }

// NewCut begins a cut. It waits until what was noted before has been told: until then
// a note may have its number, and no stamp.
func (t *Table) NewCut() *Cut {
	c := &Cut{t: t, begin: t.events.seq.Load(), last: make(map[cutFlow]uint64), complete: true}
	<-t.events.reached(c.begin)
	return c
}

// Settle waits until listeners have heard of every event that was noted before.
func (t *Table) Settle() { <-t.events.reached(t.events.seq.Load()) }

// Flows is DumpFrom. It has flows whose time is over, too, until their DESTROY.
func (c *Cut) Flows(position uint32, f func(*Flow) bool) (next uint32) {
	t := c.t
	seat := t.reader()
	defer t.leave(seat)
	var flow Flow
	now := t.Now()
	for slot := max(position, 1); slot <= t.slots.high.Load(); slot++ {
		if slot%chunkSlots == 0 {
			t.epochs.enter(seat)
		}
		gen, number, there := t.told(slot)
		if !there {
			continue
		}
		c.list(slot, gen, number)
		t.copyFlow(slot, &flow, now)
		flow.Status = flow.Status&^Dying | Confirmed // it may be about to be either
		if !f(&flow) {
			return slot + 1
		}
	}
	return 0
}

// told reports whether somebody who hears of all events knows the flow in a slot: its
// NEW is noted and its DESTROY is not. It also returns the number of the last note
// about it; what is read afterwards is not older. The caller is in an epoch.
func (t *Table) told(slot uint32) (gen uint32, number uint64, there bool) {
	e := &t.entries[slot]
	s := e.Status()
	gen = e.Gen()
	for s&(confirming|Confirmed) == confirming && number == 0 { // NEW is being noted, or lost
		runtime.Gosched()
		number, _ = t.stamped(slot, gen)
		s = e.Status()
	}
	if s&(confirming|Confirmed) == 0 || s&(Dying|undelivered) == Dying {
		return gen, 0, false
	}
	number, ended := t.stamped(slot, gen)
	return gen, number, !ended
}

// list notes that the list has a flow, and which was the last note about it.
func (c *Cut) list(slot, gen uint32, number uint64) {
	if number > c.begin {
		c.last[cutFlow{slot, gen}] = number
		return
	}
	for int(slot/64) >= len(c.listed) {
		c.listed = append(c.listed, make([]uint64, 64)...)
	}
	c.listed[slot/64] |= 1 << (slot % 64)
}

// Expects calls f with a copy of each expectation.
func (c *Cut) Expects(f func(*Expect)) {
	var batch [expectChunk]Expect
	for from, more := 0, true; more; from += expectChunk {
		var n int
		n, more = c.copyExpects(from, &batch)
		for i := range n {
			f(&batch[i])
		}
	}
}

// copyExpects copies one chunk of records, notes its moment and reports whether
// there are more.
func (c *Cut) copyExpects(from int, batch *[expectChunk]Expect) (n int, more bool) {
	t := c.t
	now, ex := t.Now(), &t.expects
	ex.mu.Lock()
	defer ex.mu.Unlock()
	c.expects = append(c.expects, t.events.seq.Load())
	end := min(from+expectChunk, len(ex.recs))
	for i := from; i < end; i++ {
		if r := &ex.recs[i]; r.born != 0 {
			t.describeExpect(&batch[n], r, now)
			n++
		}
	}
	return n, end < len(ex.recs)
}

// Settled ends the list. The channel it returns is closed once the listener has
// heard of every event that the list may have.
func (c *Cut) Settled() <-chan struct{} {
	c.end = c.t.events.seq.Load()
	return c.t.events.reached(c.end)
}

// Missed says that the listener has lost a record: what is Wanted is no longer
// judged by those before.
func (c *Cut) Missed() { c.complete = false }

// Wanted reports whether an event is not in the list. After Settled, every record that
// was heard since NewCut is to be asked for, in their order.
func (c *Cut) Wanted(r *Record) bool {
	note := r.Mark.Note
	switch {
	case r.Lost != Counts{}:
		c.Missed()
		return true
	case note <= c.begin:
		return false
	case note > c.end:
		return true
	case r.Kind >= ExpectNew:
		return c.wantsExpect(r.Mark.Slot, note)
	}
	flow := cutFlow{r.Mark.Slot, r.Mark.Gen}
	if last, ok := c.last[flow]; ok {
		return note > last
	}
	if i := int(flow.slot / 64); i < len(c.listed) && c.listed[i]&(1<<(flow.slot%64)) != 0 {
		return true
	}
	if r.Kind == FlowNew { // the walk missed it: what follows is wanted
		c.last[flow] = 0
		return true
	}
	return !c.complete // else it ended before the walk came by
}

func (c *Cut) wantsExpect(slot uint32, note uint64) bool {
	if len(c.expects) == 0 {
		return true
	}
	return note > c.expects[min(int(slot)/expectChunk, len(c.expects)-1)]
}
