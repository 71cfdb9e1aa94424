package dataplane

import (
	"sync/atomic"

	"example.com/culvert/alg/report"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/rules"
)

// traceRing carries what one worker saw to the reader of a Trace. The worker never
// waits: what finds no room is lost, and counted by who asked. Slots are of one size,
// the bytes of frames are in a ring of their own.
type traceRing struct {
	slots []traceSlot
	bytes []byte
	used  uint64 // bytes taken so far, the worker's

	head, tail atomic.Uint64 // slots, next to write and next to read
	freed      atomic.Uint64 // bytes that the reader has done with
}

// slotSends is how many frames of a walk a slot has room for; more take more slots.
const slotSends = 4

// traceSlot is a walk, or as many of its frames as its first slot has no room for.
type traceSlot struct {
	walk  traceWalk
	data  []byte // in the ring: what sent.at and walk.before refer to
	end   uint64 // of data, in bytes taken
	more  int    // slots after this one that belong to its walk
	nsent int
	sent  [slotSends]traceSent
}

// traceWalk is what became of one packet, or of n for a reason that came later.
type traceWalk struct {
	kind   traceKind
	at     int64 // boot clock, ns
	view   *view
	worker int
	in     uint16 // port; of refused ones the port that refused
	role   role
	n      uint64 // packets, for traceRefused

	packet  packet.Packet  // as it came, without its memory; its positions are in data
	length  int            // of its frame
	offload packet.Offload // as it came
	before  int            // bytes of that which were kept
	fault   packet.Fault
	reached bool // far enough for fault and what Parse found to hold

	rules  [walkRules]*rules.Rule // that applied to it, in order
	nrules int                    // of these; more are not told

	fate    Fate
	why     [walkReasons]Reason // of each of its pieces that were dropped
	drops   int                 // pieces dropped, the first of them in why
	orphans uint64              // fragments that waited for it and were refused with it
	joined  uint64              // fragments that are in it beside itself
	unsent  int                 // frames beyond what is kept of a walk

	flow struct {
		found, began bool
		dir          tuple.Direction
		id           uint32
		rule         uint32
		choice       uint8
		helper       uint32
		tuple        [tuple.NumDirections]tuple.Tuple
	}
	told *report.Work // nil: its helper did nothing
}

const (
	walkRules   = 12
	walkReasons = 4
	walkSends   = 128 // frames kept of one walk: a super-packet of the smallest segments has more
)

// traceKind says what a walk is about.
type traceKind uint8

const (
	traceArrived traceKind = iota
	traceResumed           // it had waited
	traceMade              // nobody sent it: notices of flows that end
	traceRefused           // frames that a port took and then refused, or fragments that waited in vain
)

// traceSent is one frame that a walk handed to a port.
type traceSent struct {
	out      uint16 // port
	sink     traceSink
	answer   bool // to the sender of the packet, made here
	link     packet.Link
	vlan     uint16
	tagged   bool
	offload  packet.Offload
	segments int
	tuple    tuple.Tuple
	at, kept int // in data
	length   int // of the frame
}

// traceSink says what is at the other end of a sender.
type traceSink uint8

const (
	sinkWire traceSink = iota
	sinkHost           // the gateway's own stack
	sinkBox            // the kernel of its namespace
)

// add copies a walk into the ring, with at most snap bytes of each frame, and reports
// whether there was room. What sent.at refers to is in data, which begins with the
// packet as it came.
func (r *traceRing) add(walk *traceWalk, sent []traceSent, data []byte, snap int) bool {
	need := max(1, (len(sent)+slotSends-1)/slotSends)
	head := r.head.Load()
	if int(head-r.tail.Load())+need > len(r.slots) {
		return false
	}
	size := min(walk.before, snap)
	for i := range sent {
		size += min(sent[i].kept, snap)
	}
	at, ok := r.room(size)
	if !ok {
		return false
	}
	kept := r.bytes[at : at+size]
	n := copy(kept, data[:min(walk.before, snap)])
	for i := range need {
		s := &r.slots[(head+uint64(i))%uint64(len(r.slots))]
		if i == 0 {
			s.walk = *walk
			s.walk.before = n
		}
		s.data, s.end, s.more = kept, r.used, need-1-i
		s.nsent = copy(s.sent[:], sent[i*slotSends:])
		for j := range s.sent[:s.nsent] {
			x := &s.sent[j]
			from := data[x.at : x.at+min(x.kept, snap)]
			x.at, x.kept = n, len(from)
			n += copy(kept[n:], from)
		}
	}
	r.head.Store(head + uint64(need))
	return true
}

// room takes n bytes in one piece.
func (r *traceRing) room(n int) (at int, ok bool) {
	size := uint64(len(r.bytes))
	if size == 0 {
		return 0, n == 0
	}
	start := r.used
	if rest := size - start%size; rest < uint64(n) {
		start += rest
	}
	if start+uint64(n)-r.freed.Load() > size {
		return 0, false
	}
	r.used = start + uint64(n)
	return int(start % size), true
}

// next returns the oldest walk, nil if there is none.
func (r *traceRing) next() *traceSlot {
	tail := r.tail.Load()
	if tail == r.head.Load() {
		return nil
	}
	return &r.slots[tail%uint64(len(r.slots))]
}

// sends appends the frames of the oldest walk to all.
func (r *traceRing) sends(all []traceSent) []traceSent {
	tail := r.tail.Load()
	for i := range uint64(r.next().more + 1) {
		s := &r.slots[(tail+i)%uint64(len(r.slots))]
		all = append(all, s.sent[:s.nsent]...)
	}
	return all
}

// done frees the oldest walk.
func (r *traceRing) done() {
	s := r.next()
	slots, end := uint64(s.more+1), s.end
	r.freed.Store(end)
	r.tail.Store(r.tail.Load() + slots)
}
