package conntrack

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack/internal/word"
	"example.com/culvert/conntrack/tuple"
)

// note is an event on its way from a worker to the pump: no pointers, so that
// writing one is a copy.
type note struct {
	seq    uint64
	tick   Tick
	slot   uint32
	typ    EventType
	change Change // the Cause of an EventDestroy
	entry  Entry
	ext    extension
}

// ring carries notes from one actor, the only writer of head, to the pump, the
// only writer of tail.
type ring struct {
	notes atomic.Pointer[[]note] // nil until somebody subscribes; length a power of two
	lost  [numEventTypes]atomic.Uint64
	_     [64]byte
	head  atomic.Uint64
	_     [56]byte
	tail  atomic.Uint64
	_     [56]byte
}

// pump orders what the actors noted and hands it to the subscribers. Sequence
// numbers are taken only for notes that find room, so they have no gaps and
// the pump knows when a smaller one is still being written. Some notes turn out
// to be void; Event.Seq counts those that are told.
type pump struct {
	t     *Table
	rings []ring
	mask  atomic.Uint32 // EventMask of all subscribers
	seq   atomic.Uint64 // of the last note
	sleep atomic.Bool   // the pump waits for wake
	wake  chan struct{}
	quit  chan struct{}
	done  chan struct{}

	mu        sync.Mutex // guards subs and delivery
	subs      []*Subscription
	delivered uint64 // events that were told, the last one's Event.Seq
}

func (p *pump) init(t *Table, actors int) {
	p.t = t
	p.rings = make([]ring, actors)
	p.wake = make(chan struct{}, 1)
	p.quit = make(chan struct{})
	p.done = make(chan struct{})
}

// emit notes an event if anybody wants it. It never waits: a full ring loses
// the event and counts it.
func (a *actor) emit(typ EventType, change Change, slot uint32, now Tick) {
	if !a.note(typ, change, slot, now) {
		a.ring.lost[typ].Add(1)
	}
}

// note is emit, but reports false when the ring is full.
func (a *actor) note(typ EventType, change Change, slot uint32, now Tick) bool {
	p := &a.t.events
	if EventMask(p.mask.Load())&(1<<typ) == 0 {
		return true
	}
	r := a.ring
	notes := *r.notes.Load()
	head := r.head.Load()
	if head-r.tail.Load() == uint64(len(notes)) {
		return false
	}
	n := &notes[head&uint64(len(notes)-1)]
	n.tick, n.slot, n.typ, n.change = now, slot, typ, change
	n.seq = p.seq.Add(1) // before the look at Dying: a DESTROY after it has a later number
	a.t.entries[slot].copyTo(&n.entry)
	a.t.copyExt(&n.ext, n.entry.ext)
	switch typ {
	case EventNew:
		n.entry.status |= uint32(Confirmed)
	case EventUpdate:
		if Status(n.entry.status)&Dying != 0 {
			n.typ = numEventTypes // its end may have been reported: nobody gets this
		}
	}
	r.head.Store(head + 1)
	if p.sleep.Load() {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// maxDying is how many entries of one actor may wait for room in its ring.
const maxDying = 1024

// linger keeps an ended entry until its DESTROY finds room. It reports false,
// and counts the event as lost, when too many wait already.
func (a *actor) linger(slot uint32, why Cause) bool {
	if a.dying.n == maxDying {
		a.ring.lost[EventDestroy].Add(1)
		return false
	}
	a.t.entries[slot].SetStatus(undelivered)
	a.dying.append(a.t.slots.link, slot)
	a.causes.keep(slot, why)
	return true
}

// deliverDying tries again what linger kept, in its order.
func (a *actor) deliverDying(now Tick) {
	for a.dying.n > 0 && a.note(EventDestroy, Change(a.causes[a.dying.head]), a.dying.head, now) {
		slot := a.dying.pop(a.t.slots.link)
		delete(a.causes, slot)
		atomic.AndUint32(&a.t.entries[slot].status, ^uint32(undelivered))
		a.retired.open.push(a.t.slots.link, slot)
	}
}

// run delivers until stop.
func (p *pump) run() {
	defer close(p.done)
	next := uint64(1)
	for {
		if r := p.holder(next); r != nil {
			p.deliver(r)
			next++
			continue
		}
		if p.seq.Load() >= next { // taken, and about to be published
			runtime.Gosched()
			continue
		}
		p.sleep.Store(true)
		if p.seq.Load() < next {
			select {
			case <-p.wake:
			case <-p.quit:
				return
			}
		}
		p.sleep.Store(false)
	}
}

// holder returns the ring whose oldest note is number seq.
func (p *pump) holder(seq uint64) *ring {
	for i := range p.rings {
		r := &p.rings[i]
		tail := r.tail.Load()
		if r.head.Load() == tail {
			continue
		}
		notes := *r.notes.Load()
		if notes[tail&uint64(len(notes)-1)].seq == seq {
			return r
		}
	}
	return nil
}

// deliver hands the oldest note of r to all who want it.
func (p *pump) deliver(r *ring) {
	notes := *r.notes.Load()
	tail := r.tail.Load()
	n := &notes[tail&uint64(len(notes)-1)]
	if n.typ == numEventTypes {
		r.tail.Store(tail + 1)
		return
	}
	e := Event{Type: n.typ, Time: p.t.Time(n.tick)}
	if n.typ == EventDestroy {
		e.Cause = Cause(n.change)
	} else {
		e.Change = n.change
	}
	p.t.describe(&e.Flow, n.slot, &n.entry, &n.ext, n.tick)
	r.tail.Store(tail + 1)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.delivered++
	e.Seq = p.delivered
	for _, s := range p.subs {
		if s.mask&(1<<e.Type) == 0 {
			continue
		}
		select {
		case s.events <- e:
		default:
			s.dropped.Add(1)
		}
	}
}

// stop ends delivery after what was noted so far and closes all subscriptions.
func (p *pump) stop() {
	close(p.quit)
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.subs {
		close(s.events)
	}
	p.subs = nil
	p.mask.Store(0)
}

// lost returns how many events of the types in mask did not fit into a ring.
func (p *pump) lost(mask EventMask) uint64 {
	n := uint64(0)
	for i := range p.rings {
		for typ := range numEventTypes {
			if mask&(1<<typ) != 0 {
				n += p.rings[i].lost[typ].Load()
			}
		}
	}
	return n
}

// Subscription receives events in order. Its methods may be called from any
// goroutine.
type Subscription struct {
	pump    *pump
	mask    EventMask
	events  chan Event
	dropped atomic.Uint64
	lost    uint64 // pump.lost when it began
	left    sync.Once
}

// Subscribe starts to deliver events of the types in mask. Up to buf of them
// wait for the reader; what comes then is dropped and counted, so that a slow
// reader holds up nobody.
func (t *Table) Subscribe(buf int, mask EventMask) *Subscription {
	p := &t.events
	p.mu.Lock()
	defer p.mu.Unlock()
	size := 1
	for size < t.cfg.EventRing {
		size *= 2
	}
	for i := range p.rings {
		if p.rings[i].notes.Load() == nil {
			notes := make([]note, size)
			p.rings[i].notes.Store(&notes)
		}
	}
	s := &Subscription{pump: p, mask: mask, events: make(chan Event, max(buf, 1)), lost: p.lost(mask)}
	p.subs = append(p.subs, s)
	p.setMaskLocked()
	return s
}

// setMaskLocked recomputes which events are wanted. p.mu must be held.
func (p *pump) setMaskLocked() {
	mask := EventMask(0)
	for _, s := range p.subs {
		mask |= s.mask
	}
	p.mask.Store(uint32(mask))
}

// Events is where they arrive. It is closed by Close and by Table.Close.
func (s *Subscription) Events() <-chan Event { return s.events }

// Missed returns exactly how many events the subscriber did not get: because
// it was slow, or because a worker's ring was full.
func (s *Subscription) Missed() uint64 {
	return s.dropped.Load() + s.pump.lost(s.mask) - s.lost
}

// Close ends delivery and closes the channel; buffered events stay readable.
func (s *Subscription) Close() {
	s.left.Do(func() {
		p := s.pump
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range p.subs {
			if p.subs[i] == s {
				p.subs = append(p.subs[:i:i], p.subs[i+1:]...)
				p.setMaskLocked()
				close(s.events)
				return
			}
		}
	})
}

// copyExt copies an extension record; to is zero when there is none.
func (t *Table) copyExt(to *extension, ext uint32) {
	if ext == 0 {
		*to = extension{}
		return
	}
	t.exts[ext].copyTo(to)
}

// describe fills f from copies of a slot's records.
func (t *Table) describe(f *Flow, slot uint32, e *Entry, x *extension, now Tick) {
	*f = Flow{
		Status: e.Status() & kernelBits,
		State:  e.State(),
		ID:     t.index.key.id(slot, e.gen),
		Mark:   e.mark,
		Rule:   e.rule,
		Choice: e.Choice(),
		Holds:  e.Holds(),
		Labels: x.labels,
		User:   e.Status() & userBits,

		Generation: word.Load32(&t.rules[slot]),
	}
	f.Master = x.master.Original
	f.Seq = x.seq
	f.Helper, f.Attached = t.HelperName(x.helper), x.helper
	for d := range e.half {
		f.Tuple[d], f.Packets[d], f.Bytes[d] = e.half[d].tuple, e.half[d].packets, e.half[d].bytes
		f.Hint[d] = e.half[d].hint
	}
	if e.Proto() == tuple.SCTP {
		f.Tags = [tuple.NumDirections]uint32{e.proto[0], e.proto[1]}
	}
	if left := e.deadline().Sub(now); left > 0 {
		f.Timeout = Tick(left).Duration()
	}
	if x.start != 0 {
		f.Start = time.Unix(0, int64(x.start))
	}
	if x.stop != 0 {
		f.Stop = time.Unix(0, int64(x.stop))
	}
}
