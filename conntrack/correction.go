package conntrack

import (
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Correction is by how much the sequence numbers of one direction of a TCP flow differ
// for its receiver, because a helper changed lengths: by Before up to Pos, by After from
// there on. Pos is the sender's number, and all numbers wrap.
//
// It is the latest correction alone. Who changes a stream keeps all that are in
// flight (alg/stream), and sets Before and After alike when nothing is, so that Pos,
// which the numbers pass once every 4 GB, does not matter then. This is what a flow
// needs to go on without its helper.
type Correction struct{ Pos, Before, After uint32 }

// ToReceiver returns the receiver's number for the sender's x.
func (a *Correction) ToReceiver(x uint32) uint32 {
	if before(x, a.Pos) {
		return x + a.Before
	}
	return x + a.After
}

// ToSender returns the largest of the sender's numbers that is not beyond the
// receiver's y: what an acknowledgement of y acknowledges.
func (a *Correction) ToSender(y uint32) uint32 {
	if x := y - a.After; !before(x, a.Pos) {
		return x
	}
	if x := y - a.Before; before(x, a.Pos) {
		return x
	}
	return a.Pos - 1 // in the middle of what was inserted
}

// Correction returns the correction of direction d, zero if there is none.
func (w *Worker) Correction(r Ref, d tuple.Direction) Correction {
	n := word.Load32(&w.t.entries[r.Slot].ext)
	if n == 0 {
		return Correction{}
	}
	return w.t.exts[n].seq[d].load()
}

// load reads a correction whose words others may write.
func (a *Correction) load() Correction {
	return Correction{word.Load32(&a.Pos), word.Load32(&a.Before), word.Load32(&a.After)}
}

// SetCorrection notes the correction of direction d. It reports false when there was no
// room for it: only a flow that has had no helper can lack it.
func (w *Worker) SetCorrection(r Ref, d tuple.Direction, a Correction) bool {
	e := &w.t.entries[r.Slot]
	x := w.extend(e)
	if x == nil {
		return false
	}
	s := &x.seq[d]
	atomic.AddUint32(&x.turn, 1) // the flow's helper has one worker at a time here
	word.Store32(&s.Pos, a.Pos)
	word.Store32(&s.Before, a.Before)
	word.Store32(&s.After, a.After)
	atomic.AddUint32(&x.turn, 1)
	if e.Status()&SeqAdjust == 0 {
		e.SetStatus(SeqAdjust)
	}
	return true
}
