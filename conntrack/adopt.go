package conntrack

import (
	"fmt"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Origin says what the numbers of saved flows mean.
type Origin struct {
	Shift    Tick       // what makes their ticks those of this table: 0 if no clock has begun anew since
	Policies []Timeouts // by number, as Table.Policies

	// Moved: the flows may have gone on since they were saved, through whatever passed
	// their packets. A TCP flow is not held to windows then, which nobody knows.
	Moved bool
}

// Adoption takes saved flows into a table, in the order of Saved.Rank, then their
// expectations. One goroutine at a time may use it. Workers may go on meanwhile.
type Adoption struct {
	t          *Table
	shift      Tick
	moved      bool
	policies   []uint32
	masters    map[uint32]Master // by the slot that they had; Gen: in the table that saved them
	now        Tick
	generation uint32
}

// Adopt begins an adoption at time now. generation is that of the rules in force. An
// error: the table has no room for the timeouts of the flows.
func (t *Table) Adopt(o *Origin, generation uint32, now Tick) (*Adoption, error) {
	a := &Adoption{t: t, shift: o.Shift, moved: o.Moved, masters: make(map[uint32]Master), now: now, generation: generation,
		policies: make([]uint32, 1, max(len(o.Policies), 1))} // what the table says of its own is its own affair
	t.advance(now) // no worker may have begun
	for i := 1; i < len(o.Policies); i++ {
		n, err := t.Policy(o.Policies[i])
		if err != nil {
			return nil, err
		}
		a.policies = append(a.policies, n)
	}
	return a, nil
}

// Verify says why a flow cannot be adopted whatever the table has: ErrTorn or
// ErrExpired, wrapped.
func (a *Adoption) Verify(s *Saved) error {
	if err := s.check(len(a.policies)); err != nil {
		return err
	}
	if a.now.Reached(s.entry.deadline() + a.shift) {
		return ErrExpired
	}
	return nil
}

// Flow takes a flow that Verify approved into the table: with its counters, tracking
// state, idle time and corrections. helper is the number that its helper has here, 0
// if none. Errors are those of Insert, ErrState apart.
func (a *Adoption) Flow(s *Saved, helper uint32) error {
	t, e := a.t, &s.entry
	in := s.insertion(helper, a.policies)
	in.Generation, in.Master = a.generation, a.master(&s.ext.master)
	s.shift(a.shift, a.now)
	if e.Proto() == tuple.TCP {
		if a.moved || e.word&wordLock != 0 { // or somebody died while he changed it
			s.loosen()
		} else if helper != 0 {
			s.began()
		}
	}
	seat := t.reader()
	defer t.leave(seat)
	c := &t.control
	c.mu.Lock()
	defer c.mu.Unlock()
	ref, err := c.makeLocked(&in, a.now)
	if err != nil {
		return err
	}
	c.resume(ref, told, a.now)
	if e.Status()&announces != 0 {
		a.masters[s.slot] = Master{ref.Slot, e.gen, in.Original}
	}
	return nil
}

// insertion returns what makes the flow again, but for its generation and master.
// policies are the numbers here of those that it names.
func (s *Saved) insertion(helper uint32, policies []uint32) Insertion {
	e, x := &s.entry, &s.ext
	in := Insertion{from: s, Proposal: Proposal{
		Original: s.Tuple(tuple.Original), Reply: s.Tuple(tuple.Reply),
		Status: e.Status() &^ Helper, Mark: e.mark, Rule: e.rule,
		Choice: e.Choice(), Holds: e.Holds(), Labels: x.labels, Helper: helper, Policy: policies[x.policy],
	}}
	if e.Status()&OwnTimeout != 0 {
		in.Timeout = max(Tick(e.timeout), 1)
	}
	return in
}

// master returns what a master that was saved is in the table, nobody if it was not
// adopted.
func (a *Adoption) master(m *Master) Master {
	slot := a.masterSlot(m)
	if slot == 0 {
		return Master{}
	}
	return Master{slot, word.Load32(&a.t.entries[slot].gen), m.Original}
}

func (a *Adoption) masterSlot(m *Master) uint32 {
	if at, ok := a.masters[m.Slot]; ok && at.Gen == m.Gen && at.Original == m.Original {
		return at.Slot
	}
	return 0
}

// Expect takes an expectation whose master was adopted. helper and child are the
// numbers that its helpers have here. Errors are ErrTorn, ErrExpired and those of
// Worker.Expect.
func (a *Adoption) Expect(x *SavedExpect, helper, child uint32) error {
	left := (x.deadline + a.shift).Sub(a.now)
	if left <= 0 {
		return ErrExpired
	}
	if !familyFits(&x.Tuple) {
		return fmt.Errorf("%w: expectation of %v", ErrTorn, x.Tuple)
	}
	slot := a.masterSlot(&x.master)
	if slot == 0 {
		return ErrExpectMaster
	}
	seat := a.t.reader()
	defer a.t.leave(seat)
	if m := a.master(&x.master); a.t.ended(&m, a.now) {
		return ErrExpectMaster
	}
	what := x.Expectation
	what.Helper, what.Child = helper, child
	return a.t.expect(slot, &what, ExpectPolicy{Timeout: Tick(left)}, a.now)
}

// telling says whether listeners hear of a flow that was adopted.
type telling uint8

const (
	told  telling = iota
	known         // from the process that had it before
)

// resume begins the life of a claimed flow that had one before: nobody changes when
// it had its last packet.
func (c *control) resume(r Ref, how telling, now Tick) {
	t := c.t
	e := &t.entries[r.Slot]
	atomic.OrUint32(&e.status, uint32(confirming))
	word.Add64(&c.stats.Insert, 1)
	if how == told {
		c.emit(EventNew, 0, r.Slot, now)
	}
	atomic.StoreUint32(&t.due[r.Slot], dueAt(e.deadline()))
	e.SetStatus(Confirmed)
}

// shift makes the moments of s those of another clock. None is ahead of now.
func (s *Saved) shift(by, now Tick) {
	move := func(at *uint32) {
		if moved := Tick(*at) + by; moved.Sub(now) <= 0 {
			*at = uint32(moved)
		} else {
			*at = uint32(now)
		}
	}
	for d := range s.entry.half {
		move(&s.entry.half[d].seen)
	}
	if !HasStates(s.entry.Proto()) {
		s.entry.proto[areaStream] += uint32(by)
	}
}

// resume writes what s has beside a Proposal into an entry that is nobody else's yet.
func (s *Saved) resume(e *Entry) {
	from := &s.entry
	for d := range e.half {
		e.half[d].packets, e.half[d].bytes = from.half[d].packets, from.half[d].bytes
		e.half[d].seen = from.half[d].seen
	}
	e.segment = from.segment
	word.Store32(&e.timeout, from.timeout)
	if HasStates(e.Proto()) {
		e.proto = from.proto
		word.Store32(&e.word, from.word&^wordLock)
	} else {
		e.proto[areaStream] = from.proto[areaStream]
	}
}

// extended reports whether s has what only an extension has, beside a Proposal.
func (s *Saved) extended() bool {
	return s.ext.start != 0 || s.ext.seq != [tuple.NumDirections]Correction{}
}

// resumeExt writes what s has beside a Proposal into an extension.
func (s *Saved) resumeExt(x *extension) { x.start, x.seq = s.ext.start, s.ext.seq }

// began says that whoever helps a TCP flow begins in its middle, where it is.
func (s *Saved) began() {
	var c tcpConn
	c.load(&s.entry, s.entry.word)
	for d := range s.ext.seq {
		if a := &s.ext.seq[d]; *a == (Correction{}) && c.side[d].maxWin != 0 {
			a.Pos = c.side[d].end | 1 // a correction by nothing
		}
	}
}

// loosen has the windows of a TCP flow not be held against it.
func (s *Saved) loosen() {
	var c tcpConn
	c.load(&s.entry, s.entry.word&^wordLock)
	for d := range c.flags {
		c.flags[d] |= sideLoose
	}
	s.entry.word = c.store(&s.entry)
}
