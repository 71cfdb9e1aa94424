package conntrack

import (
	"math/bits"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// HandOver is how a table gives its flows to that of another process (TakeOver), slot by
// slot, while packets go on: in rounds, each of which has what is not as it was in the one
// before. The last one is when workers have stopped. One goroutine at a time may use it.
type HandOver struct {
	t    *Table
	sent []uint64 // by slot: likeness of what was sent, 0: nothing
}

// HandOver begins to hand over the flows of t.
func (t *Table) HandOver() *HandOver {
	return &HandOver{t: t, sent: make([]uint64, t.slots.limit+1)}
}

// Round calls ended with the slots whose flows were sent and are there no more, and flow
// with each flow that has changed since it was sent. What flow gets is valid until it
// returns. Both are quick: slots that end meanwhile are not used again.
func (h *HandOver) Round(ended func(slot uint32), flow func(*Saved)) {
	for from := uint32(1); from <= h.t.slots.high.Load(); from += saveChunk {
		h.roundFrom(from, ended, flow)
	}
}

func (h *HandOver) roundFrom(from uint32, ended func(uint32), flow func(*Saved)) {
	t := h.t
	seat := t.reader()
	defer t.leave(seat)
	var s Saved
	for slot := from; slot <= min(t.slots.high.Load(), from+saveChunk-1); slot++ {
		like := t.likeness(slot) // first: what changes from here on makes the next one differ
		if like == h.sent[slot] {
			continue
		}
		if like != 0 && t.capture(slot, &s) {
			h.sent[slot] = like
			flow(&s)
			continue
		}
		if h.sent[slot] != 0 {
			h.sent[slot] = 0
			ended(slot)
		}
	}
}

// Again has the next round send the flow in a slot, which the other side could not take.
func (h *HandOver) Again(slot uint32) {
	if int64(slot) < int64(len(h.sent)) {
		h.sent[slot] = 0
	}
}

// likeness returns a number that is another one whenever something of the confirmed flow
// in a slot has changed, 0 if there is none. Each packet counts, and with it all that
// trackers note.
func (t *Table) likeness(slot uint32) uint64 {
	e := &t.entries[slot]
	st := e.Status()
	if word.Load32(&t.due[slot]) == 0 || st&(Confirmed|Dying) != Confirmed {
		return 0
	}
	l := likeness(1)
	l.add(uint64(e.Gen())<<32 | uint64(st))
	l.add(uint64(word.Load32(&e.timeout))<<32 | uint64(e.Mark()))
	l.add(uint64(word.Load32(&e.word)&^wordLock)<<32 | uint64(word.Load32(&t.rules[slot])))
	for d := range e.half {
		l.add(e.Packets(tuple.Direction(d)))
		l.add(uint64(word.Load32(&e.half[d].seen)))
	}
	if ext := word.Load32(&e.ext); ext != 0 {
		var x extension
		t.copyExt(&x, ext)
		l.add(x.labels[0])
		l.add(x.labels[1])
		l.add(uint64(x.policy)<<32 | uint64(x.helper))
		for _, c := range x.seq {
			l.add(uint64(c.Pos)<<32 | uint64(c.Before))
			l.add(uint64(c.After))
		}
	}
	return uint64(l) | 1
}

type likeness uint64

// add mixes one more word in: each step can be undone, so no change of one word is lost.
func (l *likeness) add(x uint64) {
	const odd = 0x9e3779b97f4a7c15
	*l = likeness(bits.RotateLeft64((uint64(*l)^x)*odd, 29))
}

// Key returns the secret of the hash and of ids: a table with the same one and the same
// SlotBits has the same ids for the same slots.
func (t *Table) Key() (key [16]byte) { return t.index.key.bytes() }

// SlotBits returns Config.SlotBits, or what it was taken for.
func (t *Table) SlotBits() int { return t.ids.bits }

// Slots returns how many slots the table has, and the highest that it has ever used.
func (t *Table) Slots() (all, high uint32) { return t.slots.limit, t.slots.high.Load() }
