package conntrack

import "math/bits"

// ids makes the numbers that flows are told apart by (Flow.ID). No two flows that live
// have the same one: a number is the slot and, above it, how often the slot was used, in an
// order that a secret decides. It comes back when its slot was used 1<<(32-bits) times
// more. The kernel's are hashes, two of which may be equal.
type ids struct {
	bits int // that the slot takes
	add  uint32
	mul  uint32 // odd
}

func newIDs(key hashKey, slots uint32, slotBits int) ids {
	if slotBits == 0 {
		slotBits = bits.Len32(slots)
	}
	secret := key.words(0, 0, 0, 0, 1)
	return ids{bits: slotBits, add: uint32(secret), mul: uint32(secret>>32) | 1}
}

// of is the id of the flow in a slot that was used gen times before. It does not tell
// either: each step can be undone, so that different numbers stay different. Only the
// slots beyond those of SlotBits, in a table that took over a smaller one, may share ids.
func (n *ids) of(slot, gen uint32) uint32 {
	x := (slot ^ gen<<n.bits) + n.add
	x = (x ^ x>>16) * n.mul
	x = (x ^ x>>15) * 0x2c1b3c6d
	x = (x ^ x>>12) * 0x297a2d39
	return x ^ x>>15
}
