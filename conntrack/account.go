package conntrack

import (
	"sync/atomic"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Packets of protocols that take no lock are counted like this. While one
// worker alone sees a direction, it owns the counters and adds to them plainly.
// The first packet on another worker ends that, but the owner may be in the
// middle of an addition and would overwrite whatever is added meanwhile. So the
// visitors count in a word of their own, until the owner has begun another
// batch: then that word is added to the counters, and from there on everybody
// adds to those atomically. At every moment the counters and the visitors' word
// together have every packet.
const (
	everybody = ^uint32(0) - iota // the counters are added to atomically
	visited                       // visitors use their own word; areaStamp says since when
	arriving                      // as visited, but areaStamp is not written yet
)

// The visitors' word.
const (
	visitBytes = 40 // bits of bytes; packets are above
	visitTries = 63 // the packets between two looks whether the owner has moved on, less one
)

// visitors returns the visitors' word of direction d.
func (e *Entry) visitors(d tuple.Direction) *uint64 {
	return (*uint64)(unsafe.Pointer(&e.proto[areaVisitors+2*int(d)]))
}

var _ = [1]struct{}{}[(unsafe.Offsetof(Entry{}.proto)+4*areaVisitors)%8] // is aligned

// owner is what w calls itself as the owner of counters.
func (w *Worker) owner() uint32 { return uint32(w.seat) + 1 }

// account counts a packet of a protocol that takes no lock.
func (w *Worker) account(d tuple.Direction, e *Entry, s *Segment) {
	h := &e.half[d]
	me := w.owner()
	owner := word.Load32(&e.proto[areaOwner+int(d)])
	if owner == 0 {
		atomic.CompareAndSwapUint32(&e.proto[areaOwner+int(d)], 0, me)
		owner = word.Load32(&e.proto[areaOwner+int(d)])
	}
	switch owner {
	case me:
		word.Add64(&h.packets, 1)
		word.Add64(&h.bytes, uint64(s.Bytes))
	case everybody:
		atomic.AddUint64(&h.packets, 1)
		atomic.AddUint64(&h.bytes, uint64(s.Bytes))
	default:
		w.visit(d, e, s, owner)
	}
}

// visit counts a packet that the owner of the direction has not met.
func (w *Worker) visit(d tuple.Direction, e *Entry, s *Segment, owner uint32) {
	at, guests := &e.proto[areaOwner+int(d)], e.visitors(d)
	if owner < arriving && atomic.CompareAndSwapUint32(at, owner, arriving) {
		// Whoever takes a later epoch than this has seen that he owns nothing.
		atomic.StoreUint32(&e.proto[areaStamp], uint32(w.t.epochs.now.Add(1)-1))
		atomic.StoreUint32(at, visited)
	}
	n := atomic.AddUint64(guests, 1<<visitBytes|uint64(s.Bytes))
	if n>>visitBytes&visitTries != 0 || atomic.LoadUint32(at) != visited || !w.t.epochs.passed(atomic.LoadUint32(&e.proto[areaStamp])) {
		return
	}
	n = atomic.SwapUint64(guests, 0)
	h := &e.half[d]
	atomic.AddUint64(&h.packets, n>>visitBytes)
	atomic.AddUint64(&h.bytes, n&(1<<visitBytes-1))
	atomic.StoreUint32(at, everybody)
}

// counters returns the packets and bytes of direction d.
func (e *Entry) counters(d tuple.Direction) (packets, bytes uint64) {
	h := &e.half[d]
	packets, bytes = word.Load64(&h.packets), word.Load64(&h.bytes)
	if HasStates(e.Proto()) {
		return packets, bytes
	}
	guests := word.Load64(e.visitors(d))
	return packets + guests>>visitBytes, bytes + guests&(1<<visitBytes-1)
}
