package conntrack

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Saved is a flow with all that a table knows of it, as it is kept outside: in a
// file, for another process. It has no pointers and no padding. Its times are ticks,
// its policy, helper and master are numbers of the table that saved it.
type Saved struct {
	slot       uint32
	generation uint32 // of the rules
	entry      Entry
	ext        extension
}

// SavedExpect is the same for an expectation.
type SavedExpect struct {
	Expectation
	master   Master
	deadline Tick
	_        uint32
}

// Sizes of what is saved, bytes. They are part of file formats.
const (
	SavedSize       = int(unsafe.Sizeof(Saved{}))
	SavedExpectSize = int(unsafe.Sizeof(SavedExpect{}))
)

var (
	_ [328]byte = [unsafe.Sizeof(Saved{})]byte{}
	_ [160]byte = [unsafe.Sizeof(SavedExpect{})]byte{}
)

// Bytes views s in the byte order of the machine.
func (s *Saved) Bytes() *[SavedSize]byte { return (*[SavedSize]byte)(unsafe.Pointer(s)) }

// Bytes views x in the byte order of the machine.
func (x *SavedExpect) Bytes() *[SavedExpectSize]byte {
	return (*[SavedExpectSize]byte)(unsafe.Pointer(x))
}

// Tuple returns the tuple of packets in direction d.
func (s *Saved) Tuple(d tuple.Direction) tuple.Tuple { return s.entry.half[d].tuple }

// Rule returns the id of the rule that admitted the flow.
func (s *Saved) Rule() uint32 { return s.entry.rule }

// Holds returns Proposal.Holds.
func (s *Saved) Holds() uint8 { return s.entry.Holds() }

// Expected reports whether the flow has, or had, a master.
func (s *Saved) Expected() bool { return Status(s.entry.status)&Expected != 0 }

// Helper returns the number of the helper that watches the flow, 0 if there is none.
func (s *Saved) Helper() uint32 { return s.ext.helper }

// Slot returns the slot that the flow had.
func (s *Saved) Slot() uint32 { return s.slot }

// Rank is lower for a flow than for those that it may have announced: who adopts
// flows in this order, 0 first, finds masters before their children.
func (s *Saved) Rank() int {
	switch {
	case Status(s.entry.status)&announces == 0:
		return Ranks - 1
	case s.Expected():
		return 1
	}
	return 0
}

// Ranks is how many different results Rank has.
const Ranks = 3

// saveChunk is how many slots Save looks at before it calls f.
const saveChunk = 256

// Save calls f with each confirmed flow until it returns false. Flows that begin or
// end meanwhile may or may not be among them. Workers go on, however long f takes. s
// is valid until the next call.
func (t *Table) Save(f func(s *Saved) bool) {
	var batch [saveChunk]Saved
	for from := uint32(1); from <= t.slots.high.Load(); from += saveChunk {
		n := t.saveFrom(from, &batch)
		for i := range n {
			if !f(&batch[i]) {
				return
			}
		}
	}
}

// saveFrom fills batch from a chunk of slots and returns how many flows were there.
func (t *Table) saveFrom(from uint32, batch *[saveChunk]Saved) (n int) {
	seat := t.reader()
	defer t.leave(seat)
	now := t.Now()
	for slot := from; slot <= min(t.slots.high.Load(), from+saveChunk-1); slot++ {
		if t.save(slot, &batch[n], now) {
			n++
		}
	}
	return n
}

// save fills s from a slot, and reports false if no confirmed flow is there. The
// caller is in an epoch.
func (t *Table) save(slot uint32, s *Saved, now Tick) bool {
	return !t.entries[slot].expired(tuple.Original, now) && t.capture(slot, s)
}

// capture is save for flows whose time is over, too.
func (t *Table) capture(slot uint32, s *Saved) bool {
	e := &t.entries[slot]
	if st := e.Status(); word.Load32(&t.due[slot]) == 0 || st&(Confirmed|Dying) != Confirmed {
		return false
	}
	*s = Saved{slot: slot, generation: word.Load32(&t.rules[slot])}
	e.copyTo(&s.entry)
	if HasStates(e.Proto()) {
		packed := e.lock()
		s.entry.word, s.entry.segment, s.entry.proto = packed, e.segment, e.proto
		s.entry.timeout = word.Load32(&e.timeout)
		e.unlock(packed)
	} else {
		s.entry.proto[areaStream] = word.Load32(&e.proto[areaStream])
	}
	if s.entry.ext != 0 {
		t.copyExt(&s.ext, s.entry.ext)
	}
	return s.entry.Status()&Dying == 0
}

// SaveExpects returns the expectations whose time is not over.
func (t *Table) SaveExpects() (all []SavedExpect) {
	now, ex := t.Now(), &t.expects
	ex.mu.Lock()
	defer ex.mu.Unlock()
	for i := range ex.recs {
		if r := &ex.recs[i]; r.born != 0 && !now.Reached(r.deadline) {
			all = append(all, SavedExpect{Expectation: r.x, master: r.master, deadline: r.deadline})
		}
	}
	return all
}

// Policies returns the timeouts by number that flows name: those of the table first.
func (t *Table) Policies() []Timeouts { return slices.Clone(t.policies.Load().timeouts) }

// Why a saved flow or expectation is not adopted, besides what Insert says.
var (
	ErrTorn    = errors.New("the record makes no sense")
	ErrExpired = errors.New("its time is over")
)

// check says what is wrong with a record that anybody may have written.
func (s *Saved) check(policies int) error {
	e := &s.entry
	o, r := &e.half[tuple.Original].tuple, &e.half[tuple.Reply].tuple
	st := Status(e.status)
	torn := func(format string, args ...any) error {
		return fmt.Errorf("%w: flow %v: %s", ErrTorn, *o, fmt.Sprintf(format, args...))
	}
	switch {
	case s.slot == 0:
		return torn("it has no slot")
	case o.Proto != r.Proto:
		return torn("protocols %d and %d", o.Proto, r.Proto)
	case !familyFits(o), !familyFits(r):
		return torn("families %d and %d", o.Family, r.Family)
	case st&(Confirmed|linked) != Confirmed|linked, st&(Dying|undelivered) != 0:
		return torn("status %#x", e.status)
	case !e.State().fits(o.Proto):
		return torn("state %d", e.word&stateMask)
	case Tick(e.timeout) > maxTimeout:
		return torn("timeout %d", e.timeout)
	case s.ext.turn&1 != 0:
		return torn("its corrections were being changed")
	case int64(s.ext.policy) >= int64(policies):
		return torn("timeouts %d of %d", s.ext.policy, policies)
	}
	return nil
}

// familyFits reports whether a tuple has addresses of the family that it says.
func familyFits(t *tuple.Tuple) bool {
	switch t.Family {
	case tuple.IPv4:
		return t.Src.Is4() && t.Dst.Is4()
	case tuple.IPv6:
		return !t.Src.Is4() && !t.Dst.Is4()
	}
	return false
}
