package conntrack

import (
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// TCPSide is what the tracker knows of one host of a TCP flow.
type TCPSide struct {
	End    uint32 // sequence number behind what it has sent
	Window uint16 // the largest it has announced, as it stands in a header after the SYN
	SACK   bool   // it understands selective acknowledgements
	Known  bool   // its history is known from its SYN on
}

// tcp returns where a TCP flow stands.
func (e *Entry) tcp() (c tcpConn) {
	packed := e.lock()
	c.load(e, packed)
	e.unlock(packed)
	return c
}

// TCPSides returns what the tracker knows of the hosts of a TCP flow: of the one
// that sends in the original direction first.
func (w *Worker) TCPSides(r Ref) (sides [tuple.NumDirections]TCPSide) {
	c := w.t.entries[r.Slot].tcp()
	for d := range sides {
		s := &c.side[d]
		sides[d] = TCPSide{End: s.end, Window: uint16(min(s.maxWin>>c.scale[d], 0xffff)),
			SACK: c.flags[d]&sideSACK != 0, Known: s.maxWin != 0 && c.flags[d]&sideLoose == 0}
	}
	return sides
}

// EachExpect calls f with the expectations of a master that the worker found in this
// batch until f returns false. f must not call the table.
func (w *Worker) EachExpect(master Ref, f func(*Expectation) bool) {
	t := w.t
	e, ex := &t.entries[master.Slot], &t.expects
	if e.Status()&announces == 0 {
		return
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	for n := ex.family[master.Slot%masterCells]; n != 0; n = ex.recs[n].sibling {
		r := &ex.recs[n]
		if r.master.Slot == master.Slot && r.master.Gen == e.gen && !w.now.Reached(r.deadline) && !f(&r.x) {
			return
		}
	}
}

// Unexpect ends the expectations of a master that match, and returns how many there
// were.
func (w *Worker) Unexpect(master Ref, match func(*Expectation) bool) (count int) {
	t := w.t
	e, ex := &t.entries[master.Slot], &t.expects
	if e.Status()&announces == 0 {
		return 0
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	for n := ex.family[master.Slot%masterCells]; n != 0; {
		r := &ex.recs[n]
		next := r.sibling
		if r.master.Slot == master.Slot && r.master.Gen == e.gen && match(&r.x) {
			t.removeExpectLocked(n, w.now)
			count++
		}
		n = next
	}
	return count
}

// Awaited reports whether an expectation is about packets with tuple k, be it that it
// is not active yet. It stays. Without expectations it costs a load.
func (w *Worker) Awaited(k *tuple.Tuple) bool {
	ex := &w.t.expects
	cell, some := w.t.mayExpect(k)
	if !some {
		return false
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	for n := ex.heads[cell]; n != 0; n = ex.recs[n].next {
		if r := &ex.recs[n]; !w.now.Reached(r.deadline) && r.x.Mask.meets(&r.x.Tuple, k) {
			return true
		}
	}
	return false
}

// HelperOf returns the number of the helper that watches a flow, 0 if there is none.
func (w *Worker) HelperOf(r Ref) uint32 { return w.t.helperOf(r.Slot) }

// Unhelp takes the helper of a flow away, without an event. What it has announced stays.
func (w *Worker) Unhelp(r Ref) {
	if ext := word.Load32(&w.t.entries[r.Slot].ext); ext != 0 {
		word.Store32(&w.t.exts[ext].helper, 0)
	}
}

// Keep lets a flow live for at least d from now.
func (w *Worker) Keep(r Ref, d Tick) {
	e := &w.t.entries[r.Slot]
	e.see(r.Dir, w.now)
	if d = min(d, maxTimeout); e.Timeout() < d {
		w.t.setTimeout(r.Slot, e, d)
	}
}
