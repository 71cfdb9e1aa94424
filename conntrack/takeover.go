package conntrack

import (
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// TakeOver makes an empty table that of another process: each flow has the slot, the
// generation and, with the same key, the id that it had there. Nothing else uses the
// table until Finish: no worker runs, nobody listens, and no event is made. One goroutine
// at a time may use it.
type TakeOver struct {
	t        *Table
	policies []uint32
	now      Tick
	used     []bool // by slot
	newest   uint32 // generation of any slot
}

// TakeOver begins to take flows over at time now. An error: there is no room for the
// timeouts of the flows.
func (t *Table) TakeOver(policies []Timeouts, now Tick) (*TakeOver, error) {
	k := &TakeOver{t: t, used: make([]bool, t.slots.limit+1)}
	k.At(now)
	return k, k.Policies(policies)
}

// Policies takes the timeouts that flows name by number: those of the table first.
func (k *TakeOver) Policies(all []Timeouts) error {
	k.policies = make([]uint32, 1, max(len(all), 1)) // what the table says of its own is its own affair
	for i := 1; i < len(all); i++ {
		n, err := k.t.Policy(all[i])
		if err != nil {
			return err
		}
		k.policies = append(k.policies, n)
	}
	return nil
}

// At says what time it is.
func (k *TakeOver) At(now Tick) {
	k.now = now
	k.t.advance(now)
}

// Verify says what is wrong with a flow that was sent: ErrTorn, or ErrNoMemory, its slot
// is beyond those of the table.
func (k *TakeOver) Verify(s *Saved) error {
	if s.slot > k.t.slots.limit {
		return ErrNoMemory
	}
	return s.check(len(k.policies))
}

// Has reports whether the flow is there, as it was before.
func (k *TakeOver) Has(s *Saved) bool {
	return k.used[s.slot] && k.t.entries[s.slot].gen == s.entry.gen
}

// Flow takes a flow that Verify approved, in place of what there is in its slot. helper
// is the number that its helper has here, 0 if none. What the helper knows is not the
// table's affair. Errors are those of Insert, ErrState apart.
func (k *TakeOver) Flow(s *Saved, helper uint32) error {
	t, e := k.t, &s.entry
	k.newest = max(k.newest, e.gen)
	s.shift(0, k.now)
	if k.Has(s) {
		return k.renew(s, helper)
	}
	k.End(s.slot)
	in := s.insertion(helper, k.policies)
	in.at, in.Generation, in.Master = s.slot, s.generation, s.ext.master
	t.entries[s.slot].gen = e.gen
	seat := t.reader()
	defer t.leave(seat)
	c := &t.control
	c.mu.Lock()
	defer c.mu.Unlock()
	ref, err := c.makeLocked(&in, k.now)
	if err != nil {
		return err
	}
	c.resume(ref, known, k.now)
	k.used[s.slot] = true
	return nil
}

// renew makes a flow that is there what it has become.
func (k *TakeOver) renew(s *Saved, helper uint32) error {
	t, e, from := k.t, &k.t.entries[s.slot], &s.entry
	s.resume(e)
	word.Store32(&e.mark, from.mark)
	if from.ext != 0 {
		x := t.control.extend(e)
		if x == nil {
			return ErrNoMemory
		}
		x.labels, x.policy, x.helper = s.ext.labels, k.policies[s.ext.policy], helper
		s.resumeExt(x)
	}
	t.control.answer(s.slot, from.Status()&(kernelBits|userBits))
	atomic.StoreUint32(&t.due[s.slot], dueAt(e.deadline()))
	return nil
}

// End ends the flow in a slot, if there is one, without an event, and as if no packet of
// it had left: what is left of it elsewhere is sent, too.
func (k *TakeOver) End(slot uint32) {
	t := k.t
	if int64(slot) >= int64(len(k.used)) || !k.used[slot] {
		return
	}
	e, c := &t.entries[slot], &t.control
	key := &t.index.key
	ho, hr := key.tuple(&e.half[tuple.Original].tuple), key.tuple(&e.half[tuple.Reply].tuple)
	if _, ok := c.unlink(slot, always, k.now, ho, hr); ok && t.onEnd != nil {
		atomic.AndUint32(&e.status, ^uint32(Confirmed))
		t.onEnd(e, k.now)
	}
	c.forget(e) // nobody can see it
	k.used[slot] = false
}

// Expect takes an expectation over. helper and child are the numbers that its helpers
// have here. Errors are ErrExpired and those of Worker.Expect.
func (k *TakeOver) Expect(x *SavedExpect, helper, child uint32) error {
	left := x.deadline.Sub(k.now)
	slot := x.master.Slot
	switch {
	case left <= 0:
		return ErrExpired
	case int64(slot) >= int64(len(k.used)) || !k.used[slot] || k.t.ended(&x.master, k.now):
		return ErrExpectMaster
	}
	what := x.Expectation
	what.Helper, what.Child = helper, child
	return k.t.expect(slot, &what, ExpectPolicy{Timeout: Tick(left)}, k.now)
}

// Tally are the counters of a table that outlive it.
type Tally struct {
	Stats  Stats
	Expect ExpectStats
}

// Tally returns the counters of t.
func (t *Table) Tally() Tally { return Tally{t.Stats(), t.ExpectStats()} }

// Finish ends the taking over: the slots between those of flows are free, and counters go
// on from those of the other table.
func (k *TakeOver) Finish(from *Tally) {
	t := k.t
	p := &t.slots
	p.mu.Lock()
	high := uint32(len(k.used) - 1)
	for high > 0 && !k.used[high] {
		high--
	}
	for slot := uint32(1); slot <= high; slot++ {
		if !k.used[slot] {
			t.entries[slot].gen = k.newest + 1 // no flow gets the id of one that ended there
			p.free.append(p.link, slot)
		}
	}
	p.high.Store(high)
	p.mu.Unlock()
	p.grow(&t.grower)
	c := &t.control
	c.mu.Lock()
	c.stats = from.Stats
	c.mu.Unlock()
	t.expects.counts[expectNew].Store(from.Expect.New)
	t.expects.counts[expectCreate].Store(from.Expect.Create)
	t.expects.counts[expectDelete].Store(from.Expect.Delete)
}
