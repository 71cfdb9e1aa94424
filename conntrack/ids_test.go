package conntrack

import (
	"slices"
	"testing"
)

// TestFlowsThatLiveHaveDifferentIDs has a million slots used a different number of times
// each: of as many hashes some hundred would be equal.
func TestFlowsThatLiveHaveDifferentIDs(t *testing.T) {
	const slots = 1 << 20
	for key := range uint64(4) {
		n := newIDs(hashKey{key, ^key}, slots-1, 0)
		all := make([]uint32, 0, 2*slots)
		for slot := range uint32(slots) {
			gen := slot * 2654435761 >> 20 // any
			all = append(all, n.of(slot, gen), n.of(slot, gen+1))
		}
		slices.Sort(all)
		if same := len(all) - len(slices.Compact(all)); same != 0 {
			t.Errorf("with key %d: %d of %d ids are those of others", key, same, 2*slots)
		}
	}
}

// TestIDsTellNothingOfSlots: the next slot, or its next flow, has about half of all bits
// different.
func TestIDsTellNothingOfSlots(t *testing.T) {
	n := newIDs(hashKey{1, 2}, 1<<20, 0)
	for _, next := range []struct{ slot, gen uint32 }{{1, 0}, {0, 1}, {1 << 19, 0}} {
		var flips [32]int
		const tries = 1 << 14
		for i := range uint32(tries) {
			slot, gen := i*37, i%11
			diff := n.of(slot, gen) ^ n.of(slot^next.slot, gen+next.gen)
			for bit := range flips {
				flips[bit] += int(diff >> bit & 1)
			}
		}
		for bit, k := range flips {
			if k < tries/4 || k > tries*3/4 {
				t.Errorf("%+v: bit %d is another one in %d of %d", next, bit, k, tries)
			}
		}
	}
}

// TestLargerTableKeepsIDs: with the key and the bits of the table that it takes over.
func TestLargerTableKeepsIDs(t *testing.T) {
	small, err := New(Config{Max: 1 << 10, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	large, err := New(Config{Max: 1 << 14, Workers: 1, Key: small.Key(), SlotBits: small.SlotBits()})
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	all, _ := small.Slots()
	for slot := range all + 1 {
		if a, b := small.ids.of(slot, 7), large.ids.of(slot, 7); a != b {
			t.Fatalf("slot %d: id %d, then %d", slot, a, b)
		}
	}
}
