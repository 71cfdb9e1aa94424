package dataplane

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
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
	hint  route.Hint    // names the neighbour
	role  role
	since int64
	next  int32 // free list
}

// pending holds the packets of one worker that wait, in the order they came.
type pending struct {
	mem   []byte // off-heap: slots are touched only when used
	slots []waiting
	small int32   // free lists by size, -1: none
	big   int32   //
	queue []int32 // slots in use, oldest first
	spare []int32 // retry builds the next queue here
	ready atomic.Bool
	next  int64 // when to look for those that waited too long
}

func (q *pending) init(n int) (err error) {
	total := n*pendingSlot + pendingBig*(packet.Headroom+maxFrame)
	q.mem, err = unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("memory for %d waiting packets: %w", n, err)
	}
	q.slots = make([]waiting, n+pendingBig)
	q.queue, q.spare = make([]int32, 0, n+pendingBig), make([]int32, 0, n+pendingBig)
	q.small, q.big = -1, -1
	rest := q.mem
	for i := range q.slots {
		size, list := pendingSlot, &q.small
		if i >= n {
			size, list = packet.Headroom+maxFrame, &q.big
		}
		q.slots[i] = waiting{mem: rest[:size:size], next: *list}
		*list = int32(i)
		rest = rest[size:]
	}
	return nil
}

func (q *pending) close() { _ = unix.Munmap(q.mem) }

// resolved says that the state of a neighbour has changed. Any goroutine.
func (q *pending) resolved() { q.ready.Store(true) }

// due reports whether retry has work.
func (q *pending) due() bool { return q.ready.Load() || len(q.queue) > 0 && q.next != 0 }

// take returns a free slot for a frame of n bytes.
func (q *pending) take(n int) *waiting {
	list := &q.small
	if n > pendingSlot-packet.Headroom {
		list = &q.big
	}
	if *list < 0 {
		return nil
	}
	i := *list
	s := &q.slots[i]
	*list = s.next
	q.queue = append(q.queue, i)
	return s
}

// give frees slot i, which must no longer be in the queue.
func (q *pending) give(i int32) {
	s := &q.slots[i]
	list := &q.small
	if len(s.mem) > pendingSlot {
		list = &q.big
	}
	s.next = *list
	*list = i
}

// wait keeps p until its next hop's address is known.
func (w *Worker) wait(p *packet.Packet, ref conntrack.Ref, hint route.Hint, r role) {
	same := 0
	for _, i := range w.pending.queue {
		if w.pending.slots[i].hint.Slot() == hint.Slot() {
			same++
		}
	}
	var s *waiting
	if same < pendingPerNeighbour {
		s = w.pending.take(p.End - p.Off)
	}
	if s == nil {
		w.undo(ref)
		w.drop(NeighbourQueue)
		return
	}
	s.p = *p
	s.p.Mem = s.mem
	s.p.Off = packet.Headroom
	s.p.End = packet.Headroom + copy(s.mem[packet.Headroom:], p.Frame())
	s.ref, s.hint, s.role, s.since = ref, hint, r, w.now
	if ref.Found() {
		s.gen = w.e.table.Entry(ref.Slot).Gen()
	}
	s.claim, w.claimed = w.claimed, 0
	if len(w.pending.queue) == 1 {
		w.pending.next = w.now + pendingTimeout
	}
	count(&w.counter.held, 1)
	if _, st := w.e.neigh.Peek(hint.Slot()); st != route.Incomplete {
		w.pending.ready.Store(true) // answered meanwhile
	}
}

// retry sends the waiting packets whose neighbour has answered, and gives up
// those whose neighbour did not.
func (w *Worker) retry() {
	q := &w.pending
	if !q.ready.Swap(false) && w.now < q.next {
		return
	}
	work := q.queue
	q.queue = q.spare[:0] // a packet may have to wait once more
	for _, i := range work {
		s := &q.slots[i]
		_, st := w.e.neigh.Peek(s.hint.Slot())
		late := w.now-s.since >= pendingTimeout
		if st == route.Incomplete && !late {
			q.queue = append(q.queue, i)
			continue
		}
		w.resume(s, st == route.Reachable)
		w.flush() // the frame is in the slot's memory
		q.give(i)
	}
	q.spare = work
	q.next = 0
	if len(q.queue) > 0 {
		q.next = w.now + int64(time.Second)
	}
}

// resume takes up a packet where wait left it.
func (w *Worker) resume(s *waiting, reachable bool) {
	count(&w.counter.resumed, 1)
	w.held = s.p
	p := &w.held
	ref, zone := s.ref, p.Tuple.Zone
	if ref.Found() && !alive(w.e.table.Entry(ref.Slot), s.gen) {
		w.drop(NeighbourFailed) // its flow was deleted meanwhile
		return
	}
	w.claimed = s.claim
	lost := w.v.portOf(p.In) == nil || packet.Parse(p) != packet.OK
	p.Tuple.Zone = zone
	switch {
	case lost: // its ingress went away meanwhile
		w.undo(ref)
		w.drop(EgressDown)
	case !reachable:
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
