package conntrack

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Kind is what an event is about and what happened: the EventType of a flow, or that
// an expectation came or went.
type Kind uint8

// Kinds of events.
const (
	FlowNew Kind = iota
	FlowUpdate
	FlowDestroy
	ExpectNew
	ExpectDestroy
	NumKinds
)

// Kinds of flows have the numbers of their types.
const (
	_ = -uint(FlowNew ^ Kind(EventNew))
	_ = -uint(FlowUpdate ^ Kind(EventUpdate))
	_ = -uint(FlowDestroy ^ Kind(EventDestroy))
)

var kindNames = [...]string{"new", "update", "destroy", "expect-new", "expect-destroy"}

var _ [NumKinds]string = kindNames

// String returns new, update, destroy, expect-new or expect-destroy.
func (k Kind) String() string { return kindNames[k] }

// Type returns what happened to the flow or expectation.
func (k Kind) Type() EventType {
	switch k {
	case FlowUpdate:
		return EventUpdate
	case FlowDestroy, ExpectDestroy:
		return EventDestroy
	}
	return EventNew
}

// expectKind returns the kind of an event of an expectation.
func expectKind(typ EventType) Kind {
	if typ == EventDestroy {
		return ExpectDestroy
	}
	return ExpectNew
}

// Counts are numbers of events by kind.
type Counts [NumKinds]uint64

// Sum returns the number of events of all kinds.
func (c Counts) Sum() (n uint64) {
	for _, x := range c {
		n += x
	}
	return n
}

// Of returns the number of events of the kinds in mask.
func (c Counts) Of(mask EventMask) (n uint64) {
	for k, x := range c {
		if mask&(1<<k) != 0 {
			n += x
		}
	}
	return n
}

// Add adds the counts of d.
func (c *Counts) Add(d Counts) {
	for k := range c {
		c[k] += d[k]
	}
}

// Minus returns c less d, kind by kind.
func (c Counts) Minus(d Counts) Counts {
	for k := range c {
		c[k] -= d[k]
	}
	return c
}

// mask returns the kinds of which there are any.
func (c Counts) mask() (m EventMask) {
	for k, x := range c {
		if x > 0 {
			m |= 1 << k
		}
	}
	return m
}

// Record is one place in the order of all events of a table: an event, or, if Lost is
// not zero, events of which only the number is known, because a worker's ring was full.
type Record struct {
	Seq    uint64 // 1, 2, 3, ... over all events, the lost ones included; of the last it stands for
	Lost   Counts // if not zero, nothing below counts
	Kind   Kind
	Event  Event       // of a flow
	Expect ExpectEvent // of an expectation
	Mark   Mark
}

// Mark says which note a Record was and what about; it is for Cut.
type Mark struct {
	Note      uint64 // 1, 2, 3, ... over all notes, void ones included
	Slot, Gen uint32 // of the flow; of an expectation only Slot
}

// listener hears of events.
type listener struct {
	mask EventMask
	hear func(*Record)
	end  func() // with the table; nil: nothing
}

// Listen has f called with each event of the kinds in mask, in their order, and with
// what was lost of them (and, then, of others), until stop is called; when that
// returns, f is not running. f runs under a lock that holds up all delivery: it must
// be quick, not wait for anybody, not keep the Record and not call the table.
func (t *Table) Listen(mask EventMask, f func(*Record)) (stop func()) {
	l := &listener{mask: mask, hear: f}
	t.events.add(l)
	return func() { t.events.remove(l) }
}

func (p *pump) add(l *listener) {
	size := 1
	for size < p.t.cfg.EventRing {
		size *= 2
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.rings {
		p.rings[i].grow(size)
	}
	if l.mask&ExpectEvents != 0 {
		p.expects.grow(size)
	}
	p.listeners = append(p.listeners, l)
	p.setMaskLocked()
}

// remove reports whether l was there.
func (p *pump) remove(l *listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.listeners, l)
	if i < 0 {
		return false
	}
	p.listeners = slices.Delete(p.listeners, i, i+1)
	p.setMaskLocked()
	return true
}

// setMaskLocked recomputes which events are wanted. p.mu must be held.
func (p *pump) setMaskLocked() {
	mask := EventMask(0)
	for _, l := range p.listeners {
		mask |= l.mask
	}
	p.mask.Store(uint32(mask))
}

// LostEvents returns how many events found no room in a ring, ever.
func (t *Table) LostEvents() (lost Counts) {
	for k := range lost {
		lost[k] = t.events.expects.lost[k].Load()
		for i := range t.events.rings {
			lost[k] += t.events.rings[i].lost[k].Load()
		}
	}
	return lost
}

// Subscription receives events of flows in order. Its methods may be called from any
// goroutine.
type Subscription struct {
	table  *Table
	to     listener
	events chan Event
	late   atomic.Uint64 // events that found the reader too slow
	before uint64        // what rings had lost when it began
	left   sync.Once
}

// Subscribe starts to deliver events of the types in mask. Up to buf of them
// wait for the reader; what comes then is dropped and counted, so that a slow
// reader holds up nobody.
func (t *Table) Subscribe(buf int, mask EventMask) *Subscription {
	lost := t.LostEvents()
	s := &Subscription{table: t, events: make(chan Event, max(buf, 1)), before: lost.Of(mask)}
	s.to = listener{mask: mask & AllEvents, hear: s.hear, end: s.end}
	t.events.add(&s.to)
	return s
}

func (s *Subscription) hear(r *Record) {
	if r.Lost != (Counts{}) {
		return // Missed knows
	}
	select {
	case s.events <- r.Event:
	default:
		s.late.Add(1)
	}
}

func (s *Subscription) end() { s.left.Do(func() { close(s.events) }) }

// Events is where they arrive. It is closed by Close and by Table.Close.
func (s *Subscription) Events() <-chan Event { return s.events }

// Missed returns exactly how many events the subscriber did not get: because
// it was slow, or because a worker's ring was full.
func (s *Subscription) Missed() uint64 {
	lost := s.table.LostEvents()
	return s.late.Load() + lost.Of(s.to.mask) - s.before
}

// Close ends delivery and closes the channel; buffered events stay readable.
func (s *Subscription) Close() {
	s.table.events.remove(&s.to)
	s.end()
}
