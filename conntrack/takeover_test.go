package conntrack

import (
	"errors"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestTakeOverBySmallerTableEndsNoFlowOfIt hands 100 flows over to a table for 60: it
// keeps those that it took and refuses the others, and no slot is given away twice afterwards.
func TestTakeOverBySmallerTableEndsNoFlowOfIt(t *testing.T) {
	const flows, room = 100, 60
	old := newTable(t, Config{Max: flows, Workers: 1})
	for i := range flows {
		if err := old.Insert(insertion(flowTuple(tuple.UDP, i+1))); err != nil {
			t.Fatal(err)
		}
	}
	next := newTable(t, Config{Max: room, Workers: 1})
	now := old.Now()
	to, err := next.TakeOver(nil, now)
	if err != nil {
		t.Fatal(err)
	}
	var taken, refused []uint32
	old.HandOver().Round(func(uint32) {}, func(s *Saved) {
		switch err := errors.Join(to.Verify(s), to.Flow(s, 0)); {
		case err == nil:
			taken = append(taken, s.Slot())
		case errors.Is(err, ErrNoMemory):
			refused = append(refused, s.Slot())
		default:
			t.Errorf("slot %d: %v, want it taken or refused for want of room", s.Slot(), err)
		}
	})
	if len(taken) != room || len(refused) != flows-room {
		t.Errorf("%d flows taken and %d refused, want %d and %d", len(taken), len(refused), room, flows-room)
	}
	const ended = 20
	for _, slot := range taken[:ended] { // as the next round says
		to.End(slot)
	}
	to.Finish(&Tally{})
	seen := map[uint32]bool{}
	next.Dump(func(f *Flow) bool { seen[next.slotOf(f)] = true; return true })
	if len(seen) != len(taken)-ended {
		t.Fatalf("%d flows are there, want %d", len(seen), len(taken)-ended)
	}
	for i := range ended {
		k := flowTuple(tuple.UDP, 1000+i)
		if err := next.Insert(insertion(k)); err != nil {
			t.Fatalf("flow %d behind those taken over: %v", i, err)
		}
		f, err := next.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		if slot := next.slotOf(&f); seen[slot] {
			t.Errorf("slot %d is given to two flows", slot)
		} else {
			seen[slot] = true
		}
	}
}
