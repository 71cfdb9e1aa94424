package conntrack

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// A reader may have found the original tuple while the reply tuple was looking
// for a place.
func TestSlotOfAHalfMadeFlowWaitsForItsEpoch(t *testing.T) {
	w := newWorker(t, Config{Max: 1000})
	x := &w.t.index
	p := proposal(flowTuple(tuple.UDP, 1))
	hr := x.key.tuple(&p.Reply)
	const filler = 999<<1 | 1 // a value of a slot that is not in use
	fillers := 0
	x.lock(hr, hr)
	for x.insertLocked(hr, filler) {
		fillers++
	}
	x.unlock(hr, hr)
	if _, c := w.Claim(p, start); c != ChainFull {
		t.Fatalf("claim where the reply tuple has no place: %v, want %v", c, ChainFull)
	}
	slot := w.retired.open.head
	if slot == 0 {
		t.Fatal("the slot does not wait")
	}
	if r := w.Find(&p.Original); r.Found() {
		t.Errorf("the original tuple is found: %v", r)
	}
	x.lock(hr, hr)
	for range fillers {
		x.removeLocked(hr, filler)
	}
	x.unlock(hr, hr)
	r, c := w.Claim(p, start)
	if c != Claimed {
		t.Fatalf("claim with room: %v", c)
	}
	if r.Slot == slot {
		t.Errorf("slot %d is in use again within its epoch", slot)
	}
	w.Confirm(r, start)
	for _, err := range w.t.Check(start) {
		t.Error(err)
	}
}
