package conntrack

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// note is an event of a flow on its way from a worker to the pump: no pointers,
// so that writing one is a copy.
type note struct {
	seq    uint64
	tick   Tick
	slot   uint32
	typ    EventType
	change Change // the Cause of an EventDestroy
	asked  bool   // for Event.Commanded
	entry  Entry
	ext    extension // if entry has one: most have none, and then it isn't written
}

// expectNote is an event of an expectation on the same way.
type expectNote struct {
	seq  uint64
	tick Tick
	slot uint32 // number of the record
	typ  EventType
	rec  expectRecord
}

// ring carries notes from one writer at a time, the only one to change head, to the
// pump, the only one to change tail.
type ring[N any] struct {
	notes atomic.Pointer[[]N] // nil until somebody listens; length a power of two
	lost  [NumKinds]atomic.Uint64
	_     [64]byte
	head  atomic.Uint64
	seen  uint64 // what tail was when the writer last looked, which costs him a cache line
	_     [48]byte
	tail  atomic.Uint64
	told  Counts // of lost; the pump's
	_     [56]byte
}

// place returns where the next note goes, nil if there is no room.
func (r *ring[N]) place() *N {
	notes := *r.notes.Load()
	size, head := uint64(len(notes)), r.head.Load()
	if 2*(head+1-r.seen) >= size {
		if r.seen = r.tail.Load(); head-r.seen == size {
			return nil
		}
	}
	return &notes[head&(size-1)]
}

// publish hands the note in place to the pump, and reports how deep a rest of it ends
// with that: any if half of the room is taken.
func (r *ring[N]) publish() rest {
	head := r.head.Load() + 1
	r.head.Store(head)
	if 2*(head-r.seen) >= uint64(len(*r.notes.Load())) {
		return napping
	}
	return asleep
}

// oldest returns the note that waits longest, nil if none does.
func (r *ring[N]) oldest() *N {
	tail := r.tail.Load()
	if r.head.Load() == tail {
		return nil
	}
	notes := *r.notes.Load()
	return &notes[tail&uint64(len(notes)-1)]
}

// drop makes room where the oldest note is.
func (r *ring[N]) drop() { r.tail.Store(r.tail.Load() + 1) }

// grow makes the ring ready for n notes, a power of two, if it has no room at all.
func (r *ring[N]) grow(n int) {
	if r.notes.Load() == nil {
		notes := make([]N, n)
		r.notes.Store(&notes)
	}
}

// owes returns what was lost and not told yet, and takes it for told.
func (r *ring[N]) owes() (lost Counts) {
	for k := range lost {
		n := r.lost[k].Load()
		lost[k] = n - r.told[k]
		r.told[k] = n
	}
	return lost
}

// pump orders what the actors noted and tells the listeners. Numbers of notes are
// taken only for those that find room, so they have no gaps and the pump knows when
// a smaller one is still being written. Some notes turn out to be void; Record.Seq
// counts those that are told, and those that found no room.
type pump struct {
	t       *Table
	rings   []ring[note]     // of the actors
	expects ring[expectNote] // its writer holds expects.mu
	mask    atomic.Uint32    // EventMask of all listeners
	rest    atomic.Uint32    // a rest
	wake    chan struct{}    // ends it
	quit    chan struct{}
	done    chan struct{}

	_   [64]byte
	seq atomic.Uint64 // of the last note
	_   [64]byte      // what follows changes with each note that is told

	mu        sync.Mutex // guards what follows, and delivery
	listeners []*listener
	delivered uint64 // events that were told or lost: the last Record.Seq
	handled   uint64 // number of the last note that was told or void
	waiting   []waiter
	rec       Record // that is being told
}

// rest is what the pump does while there is nothing to tell. To wake it costs a worker as
// much as some hundred packets cost him: a system call, and an interrupt of another
// processor. So after an event the pump naps, and looks by itself whether there are more.
// Only when none has come for some time does it sleep until somebody wakes it.
type rest uint32

const (
	awake   rest = iota
	napping      // at most for nap
	asleep       // until the next note
)

const (
	nap      = 500 * time.Microsecond // of 2 million notes a second a ring of usual size holds twice as many
	idleNaps = 8                      // in a row, before sleep
)

// waiter waits until a note has been handled.
type waiter struct {
	note uint64
	done chan struct{}
}

func (p *pump) init(t *Table, actors int) {
	p.t = t
	p.rings = make([]ring[note], actors)
	p.wake = make(chan struct{}, 1)
	p.quit = make(chan struct{})
	p.done = make(chan struct{})
}

// wants reports whether anybody wants to know of a kind of event.
func (p *pump) wants(k Kind) bool { return EventMask(p.mask.Load())&(1<<k) != 0 }

// rouse wakes the pump if it rests that deeply, or deeper.
func (p *pump) rouse(from rest) {
	r := p.rest.Load()
	if rest(r) < from || !p.rest.CompareAndSwap(r, uint32(awake)) { // else it is awake now
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// emit notes an event if anybody wants it. It never waits: a full ring loses
// the event and counts it.
func (a *actor) emit(typ EventType, change Change, slot uint32, now Tick) {
	if a.t.events.wants(Kind(typ)) && !a.note(typ, change, slot, now) {
		a.lose(typ)
	}
}

// lose counts an event that found no room, and has the pump tell it.
func (a *actor) lose(typ EventType) {
	a.ring.lost[typ].Add(1)
	a.t.events.rouse(napping)
}

// note notes an event, or reports false when the ring is full.
func (a *actor) note(typ EventType, change Change, slot uint32, now Tick) bool {
	p := &a.t.events
	n := a.ring.place()
	if n == nil {
		return false
	}
	n.tick, n.slot, n.typ, n.change, n.asked = now, slot, typ, change, a.commands
	n.seq = p.seq.Add(1) // before the look at Dying: a DESTROY after it has a later number
	a.t.stamp(slot, typ, n.seq)
	a.t.entries[slot].copyTo(&n.entry)
	if x := n.entry.ext; x != 0 {
		a.t.exts[x].copyTo(&n.ext)
	}
	switch typ {
	case EventNew:
		n.entry.status |= uint32(Confirmed)
	case EventUpdate:
		if Status(n.entry.status)&Dying != 0 {
			n.typ = numEventTypes // its end may have been reported: nobody gets this
		}
	}
	p.rouse(a.ring.publish())
	return true
}

// maxDying is how many entries of one actor may wait for room in its ring.
const maxDying = 1024

// noteEnd notes the DESTROY of an entry, and reports whether it was able to. Else the
// entry stays until its DESTROY finds room, unless too many wait already: then the
// event is lost.
func (a *actor) noteEnd(slot uint32, why Cause, now Tick) bool {
	a.deliverDying(now) // in their order
	if a.dying.n == 0 && a.note(EventDestroy, Change(why), slot, now) {
		a.t.entries[slot].noted()
		return true
	}
	if a.dying.n == maxDying {
		a.t.entries[slot].noted()
		a.lose(EventDestroy)
		return true
	}
	a.dying.append(a.t.slots.link, slot)
	a.causes.keep(slot, why)
	return false
}

// noted says that nothing more will be told of the entry.
func (e *Entry) noted() { atomic.AndUint32(&e.status, ^uint32(undelivered)) }

// deliverDying tries again what noteEnd kept, in its order.
func (a *actor) deliverDying(now Tick) {
	for a.dying.n > 0 && a.note(EventDestroy, Change(a.causes[a.dying.head]), a.dying.head, now) {
		slot := a.dying.pop(a.t.slots.link)
		delete(a.causes, slot)
		a.t.entries[slot].noted()
		a.retired.open.push(a.t.slots.link, slot)
	}
}

// noteExpectLocked notes an event of the expectation with record number n.
// expects.mu must be held.
func (t *Table) noteExpectLocked(typ EventType, n uint32, now Tick) {
	p, k := &t.events, expectKind(typ)
	if !p.wants(k) {
		return
	}
	if x := p.expects.place(); x != nil {
		x.tick, x.slot, x.typ, x.rec = now, n, typ, t.expects.recs[n]
		x.seq = p.seq.Add(1)
		p.rouse(p.expects.publish())
	} else {
		p.expects.lost[k].Add(1)
		p.rouse(napping)
	}
}

// run tells until stop.
func (p *pump) run() {
	defer close(p.done)
	alarm := time.NewTimer(nap)
	defer alarm.Stop()
	next, naps := uint64(1), idleNaps
	for {
		switch {
		case p.handle(next):
			next++
			naps = 0
		case p.seq.Load() >= next: // taken, and about to be published
			runtime.Gosched()
		case naps < idleNaps:
			naps++
			alarm.Reset(nap)
			if !p.pause(napping, next, alarm.C) {
				return
			}
		default:
			if !p.pause(asleep, next, nil) {
				return
			}
		}
	}
}

// pause rests until somebody wakes the pump or the alarm rings, unless there is something
// to tell. It reports false when the pump has to end and everything is told.
func (p *pump) pause(how rest, next uint64, alarm <-chan time.Time) bool {
	p.rest.Store(uint32(how))
	defer p.rest.Store(uint32(awake))
	if p.seq.Load() >= next || p.settle() {
		return true
	}
	select {
	case <-alarm:
	case <-p.wake:
	case <-p.quit:
		return p.seq.Load() >= next || p.settle()
	}
	return true
}

// handle tells the note with number seq, and reports false if it is not there yet.
func (p *pump) handle(seq uint64) bool {
	for i := range p.rings {
		if n := p.rings[i].oldest(); n != nil && n.seq == seq {
			p.tellNote(&p.rings[i], n)
			return true
		}
	}
	if n := p.expects.oldest(); n != nil && n.seq == seq {
		p.tellExpect(n)
		return true
	}
	return false
}

// tellNote tells the oldest note of a ring, and what the ring lost.
func (p *pump) tellNote(r *ring[note], n *note) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellLossLocked(r.owes())
	if n.typ == numEventTypes {
		p.handledLocked(n.seq)
		r.drop()
		return
	}
	rec := &p.rec
	rec.Kind, rec.Mark = Kind(n.typ), Mark{Note: n.seq, Slot: n.slot, Gen: n.entry.gen}
	e := &rec.Event
	e.Type, e.Time, e.Change, e.Cause, e.Commanded = n.typ, p.t.Time(n.tick), n.change, Unspecified, n.asked
	if n.typ == EventDestroy {
		e.Change, e.Cause = 0, Cause(n.change)
	}
	x := &n.ext
	if n.entry.ext == 0 {
		x = &noExtension
	}
	p.t.describe(&e.Flow, n.slot, &n.entry, x, n.tick)
	r.drop()
	p.delivered++
	rec.Seq, e.Seq = p.delivered, p.delivered
	p.tellLocked(1 << rec.Kind)
	p.handledLocked(rec.Mark.Note)
}

// tellExpect tells the oldest note of an expectation, and what their ring lost.
func (p *pump) tellExpect(n *expectNote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellLossLocked(p.expects.owes())
	rec := &p.rec
	rec.Kind, rec.Mark = expectKind(n.typ), Mark{Note: n.seq, Slot: n.slot}
	rec.Expect.Type, rec.Expect.Time = n.typ, p.t.Time(n.tick)
	p.t.describeExpect(&rec.Expect.Expect, &n.rec, n.tick)
	p.expects.drop()
	p.delivered++
	rec.Seq = p.delivered
	p.tellLocked(1 << rec.Kind)
	p.handledLocked(rec.Mark.Note)
}

// settle tells what rings lost, and reports whether they lost anything.
func (p *pump) settle() bool {
	lost := p.expects.owes()
	for i := range p.rings {
		lost.Add(p.rings[i].owes())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellLossLocked(lost)
	return lost != Counts{}
}

// tellLossLocked tells that events found no room. p.mu must be held.
func (p *pump) tellLossLocked(lost Counts) {
	if lost == (Counts{}) {
		return
	}
	p.delivered += lost.Sum()
	p.rec.Seq, p.rec.Lost = p.delivered, lost
	p.tellLocked(lost.mask())
	p.rec.Lost = Counts{}
}

// tellLocked tells p.rec who wants one of the kinds. p.mu must be held.
func (p *pump) tellLocked(kinds EventMask) {
	for _, l := range p.listeners {
		if l.mask&kinds != 0 {
			l.hear(&p.rec)
		}
	}
}

// noExtension describes entries that have none.
var noExtension extension

// handledLocked notes how far the pump is. p.mu must be held.
func (p *pump) handledLocked(note uint64) {
	p.handled = note
	if len(p.waiting) == 0 {
		return
	}
	left := p.waiting[:0]
	for _, w := range p.waiting {
		if w.note > note {
			left = append(left, w)
			continue
		}
		close(w.done)
	}
	p.waiting = left
}

// reached returns a channel that is closed once a note has been handled.
func (p *pump) reached(note uint64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := waiter{note, make(chan struct{})}
	if p.handled >= note {
		close(w.done)
	} else {
		p.waiting = append(p.waiting, w)
		p.rouse(napping)
	}
	return w.done
}

// stop ends delivery after what was noted so far and closes all subscriptions.
func (p *pump) stop() {
	close(p.quit)
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.listeners {
		if l.end != nil {
			l.end()
		}
	}
	p.listeners = nil
	p.mask.Store(0)
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
		ID:     t.ids.of(slot, e.gen),
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
	if t.zeroed.Load() {
		t.takeBaseline(slot, e.gen, f)
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
