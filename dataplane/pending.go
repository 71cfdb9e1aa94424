package dataplane

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/fair"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
)

const (
	pendingPerNeighbour = 16                     // Linux queues some 100 small packets; 16 hold a burst
	pendingTimeout      = int64(5e9)             // ns; the host stack answers after 3 s at the latest
	pendingSlot         = packet.Headroom + 2048 // bytes; larger frames take a big slot
	pendingBig          = 16                     // frames longer than that, at once
)

// waiting is a packet that waits for the link-layer address of its next hop. It
// is kept as it was received, so that its sender can be told if nobody answers.
type waiting struct {
	mem   []byte // of its slot; p.Mem is this
	p     packet.Packet
	ref   conntrack.Ref // of its entry, if it is tracked
	gen   uint32        // generation of the entry's slot
	claim uint32        // its slot, if this packet claimed it: Worker.claimed
	who   route.Waits   // the neighbour
	asker route.Asker   // whose packet it is
	place fair.Handle   // in the pool
	role  role
	since int64
}

// pending holds the packets of one worker that wait, in the order they came.
type pending struct {
	mem   []byte // off-heap: slots are touched only when used
	slots []waiting
	small pool
	big   pool
	queue []int32 // slots in use, oldest first
	hand  int32   // slot whose packet is on its way again, -1: none
	spare []int32 // retry builds the next queue here
	ready atomic.Bool
	next  int64 // when to look for those that waited too long
}

// pool shares the slots of one size among those whose packets wait.
type pool struct {
	held *fair.Queue
	free []int32
}

func (q *pending) init(n int) (err error) {
	total := n*pendingSlot + pendingBig*(packet.Headroom+maxFrame)
	q.mem, err = unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("memory for %d waiting packets: %w", n, err)
	}
	q.slots = make([]waiting, n+pendingBig)
	q.queue, q.spare = make([]int32, 0, n+pendingBig), make([]int32, 0, n+pendingBig)
	q.small = pool{fair.New(n), make([]int32, 0, n)}
	q.big = pool{fair.New(pendingBig), make([]int32, 0, pendingBig)}
	q.hand = -1
	rest := q.mem
	for i := range q.slots {
		size, of := pendingSlot, &q.small
		if i >= n {
			size, of = packet.Headroom+maxFrame, &q.big
		}
		q.slots[i] = waiting{mem: rest[:size:size]}
		of.free = append(of.free, int32(i))
		rest = rest[size:]
	}
	return nil
}

func (q *pending) close() { _ = unix.Munmap(q.mem) }

// resolved says that the state of a neighbour has changed. Any goroutine.
func (q *pending) resolved() { q.ready.Store(true) }

// due reports whether retry has work.
func (q *pending) due() bool { return q.ready.Load() || len(q.queue) > 0 && q.next != 0 }

// pool returns the slots for frames of n bytes.
func (q *pending) pool(n int) *pool {
	if n > pendingSlot-packet.Headroom {
		return &q.big
	}
	return &q.small
}

// take gives asker a slot of of, which must have a free one.
func (q *pending) take(of *pool, asker route.Asker) *waiting {
	last := len(of.free) - 1
	i := of.free[last]
	of.free = of.free[:last]
	q.queue = append(q.queue, i)
	s := &q.slots[i]
	s.asker, s.place = asker, of.held.Add(asker, uint32(i))
	return s
}

// give frees slot i, which must no longer be in the queue.
func (q *pending) give(i int32) {
	s := &q.slots[i]
	of := q.pool(len(s.mem) - packet.Headroom)
	of.held.Remove(s.place)
	of.free = append(of.free, i)
}

// crowded returns the slot whose packet gives way to one of asker's for the same
// neighbour, when as many wait for it as may: the oldest of whoever has most there.
func (q *pending) crowded(who route.Waits, asker route.Asker) (slot int32, ok bool) {
	var same [pendingPerNeighbour]int32
	n := 0
	for _, i := range q.queue {
		if q.slots[i].who == who {
			same[n] = i
			n++
		}
	}
	if n < pendingPerNeighbour {
		return 0, false
	}
	most := 0
	for _, i := range same {
		have := 0
		for _, j := range same {
			if q.slots[j].asker == q.slots[i].asker {
				have++
			}
		}
		if q.slots[i].asker == asker {
			have++ // with the one that has come
		}
		if have > most {
			slot, most = i, have
		}
	}
	return slot, true
}

// before reports whether a packet of the flow and direction of ref waits: one that
// came later may not overtake it.
func (q *pending) before(ref conntrack.Ref) bool {
	for _, i := range q.queue {
		if o := q.slots[i].ref; o.Found() && o.Slot == ref.Slot && o.Dir == ref.Dir {
			return true
		}
	}
	return false
}

// wait keeps p until its next hop's address is known. Who has most packets
// waiting loses the oldest one when there is no room (RFC 4861 section 7.2.2: the
// newest is worth more).
func (w *Worker) wait(p *packet.Packet, ref conntrack.Ref, hint route.Hint, r role) {
	q := &w.pending
	asker, who := w.asker(p), w.e.neigh.Waits(hint.Slot())
	if i, full := q.crowded(who, asker); full {
		w.giveUp(i, ref)
	}
	s := w.keep(p, asker, ref)
	s.ref, s.who, s.role = ref, who, r
	if ref.Found() {
		s.gen = w.e.table.Entry(ref.Slot).Gen()
	}
	s.claim, w.claimed = w.claimed, 0
	if len(q.queue) == 1 {
		q.next = w.now + pendingTimeout
	}
	count(&w.counter.held, 1)
	if w.trace != nil {
		w.trace.held()
	}
	if st, same := w.e.neigh.State(who); st != route.Incomplete || !same {
		q.ready.Store(true) // answered meanwhile
	}
}

// keep copies p into a slot for asker; a packet that has one stays where it is.
func (w *Worker) keep(p *packet.Packet, asker route.Asker, ref conntrack.Ref) *waiting {
	q := &w.pending
	if q.hand >= 0 {
		s := &q.slots[q.hand]
		q.queue = append(q.queue, q.hand)
		q.hand = -1
		return s
	}
	of := q.pool(p.End - p.Off)
	if len(of.free) == 0 {
		heaviest, most := of.held.Heaviest()
		if of.held.Count(asker) == most {
			heaviest = asker
		}
		w.giveUp(int32(of.held.Value(of.held.Oldest(heaviest))), ref)
	}
	s := q.take(of, asker)
	s.p, s.since = *p, w.now
	s.p.Mem = s.mem
	s.p.Off = packet.Headroom
	s.p.End = packet.Headroom + copy(s.mem[packet.Headroom:], p.Frame())
	return s
}

// giveUp drops the packet of slot i, which waits. If it has claimed its flow's
// entry, the next one of the flow to wait takes that over; the packet in hand, of
// entry ref, counts among them.
func (w *Worker) giveUp(i int32, ref conntrack.Ref) {
	q := &w.pending
	s := &q.slots[i]
	at := slices.Index(q.queue, i)
	q.queue = slices.Delete(q.queue, at, at+1)
	if s.claim != 0 && !w.passClaim(s, ref) && alive(w.e.table.Entry(s.ref.Slot), s.gen) {
		claimed := w.claimed
		w.claimed = s.claim
		w.undo(s.ref)
		w.claimed = claimed
	}
	count(&w.counter.resumed, 1)
	w.drops[NeighbourQueue].Add(1)
	if w.trace != nil {
		w.trace.gaveUp(&s.p, s.role, NeighbourQueue)
	}
	q.give(i)
}

// passClaim leaves the entry that s has claimed to another packet of the flow.
func (w *Worker) passClaim(s *waiting, ref conntrack.Ref) bool {
	if ref.Found() && ref.Slot == s.ref.Slot && w.e.table.Entry(ref.Slot).Gen() == s.gen {
		w.claimed = s.claim
		return true
	}
	for _, i := range w.pending.queue {
		if o := &w.pending.slots[i]; o.ref.Found() && o.ref.Slot == s.ref.Slot && o.gen == s.gen {
			o.claim = s.claim
			return true
		}
	}
	return false
}

// retry sends the waiting packets whose neighbour has answered, and gives up
// those whose neighbour did not. Those whose question was given up ask anew.
func (w *Worker) retry() {
	q := &w.pending
	if !q.ready.Swap(false) && w.now < q.next {
		return
	}
	work := q.queue
	q.queue = q.spare[:0] // a packet may have to wait once more
	for _, i := range work {
		s := &q.slots[i]
		st, same := w.e.neigh.State(s.who)
		late := w.now-s.since >= pendingTimeout
		if same && st == route.Incomplete && !late {
			q.queue = append(q.queue, i)
			continue
		}
		q.hand = i
		if w.trace != nil {
			w.trace.begin(&s.p, traceResumed, s.role)
			w.trace.found(s.ref)
		}
		w.resume(s, same && st != route.Reachable || late && !same)
		if w.trace != nil {
			w.trace.end()
		}
		w.flush() // the frame is in the slot's memory
		if q.hand >= 0 {
			q.give(i)
		}
		q.hand = -1
	}
	q.spare = work
	q.next = 0
	if len(q.queue) > 0 {
		q.next = w.now + int64(time.Second)
	}
}

// resume takes up a packet where wait left it.
func (w *Worker) resume(s *waiting, failed bool) {
	count(&w.counter.resumed, 1)
	w.held = s.p
	p := &w.held
	ref, zone, longest := s.ref, p.Tuple.Zone, p.FragMax
	if ref.Found() && !alive(w.e.table.Entry(ref.Slot), s.gen) {
		w.drop(NeighbourFailed) // its flow was deleted meanwhile
		return
	}
	w.claimed = s.claim
	lost := w.v.portOf(p.In) == nil || packet.Parse(p) != packet.OK
	p.Tuple.Zone, p.FragMax = zone, longest
	switch {
	case lost: // its ingress went away meanwhile
		w.undo(ref)
		w.drop(EgressDown)
	case failed:
		w.refuse(p, ref, NeighbourFailed, s.role)
	case ref.Found():
		w.forward(p, w.e.table.Entry(ref.Slot), ref, s.role)
	case p.Flags&packet.ICMPError != 0:
		w.finish(p, w.findError(p), s.role)
	default:
		w.finish(p, conntrack.Ref{}, s.role) // untracked
	}
	w.claimed = 0
}

// alive reports whether e is still the entry that had generation gen, and not
// on its way out.
func alive(e *conntrack.Entry, gen uint32) bool {
	return e.Gen() == gen && e.Status()&conntrack.Dying == 0
}
