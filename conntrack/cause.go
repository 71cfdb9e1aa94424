package conntrack

import "example.com/culvert/conntrack/tuple"

// Cause says why the gateway ended a flow that could have gone on. The zero value
// stands for everything else: its time was over, a packet or a command ended it, or
// others needed its room.
type Cause uint8

const (
	Unspecified   Cause = iota
	AddressLost         // the gateway no longer has an address that the flow needs
	UplinkDown          // the next router it was bound to does not answer any more
	InterfaceGone       // an interface that it used is no longer the gateway's
	RulesChanged        // the rules of a reload say that it shall end
	numCauses
)

// NumCauses is the number of causes, Unspecified included.
const NumCauses = int(numCauses)

var causeNames = [...]string{
	Unspecified:   "",
	AddressLost:   "address-lost",
	UplinkDown:    "uplink-down",
	InterfaceGone: "interface-gone",
	RulesChanged:  "rules-changed",
}

var _ [numCauses]string = causeNames

func (c Cause) String() string { return causeNames[c] }

// End is Kill with a cause for the DESTROY event. It reports whether it was this
// call that ended the flow.
func (w *Worker) End(r Ref, why Cause) bool { return w.killFor(r.Slot, always, why, w.now) }

// ID returns the id of the flow in a slot found in this batch: that of Flow.ID.
func (w *Worker) ID(slot uint32) uint32 {
	return w.t.ids.of(slot, w.t.entries[slot].Gen())
}

// causes remembers why entries ended whose DESTROY waits for room. There are
// few: an entry with a cause that meets a full ring.
type causes map[uint32]Cause

func (c *causes) keep(slot uint32, why Cause) {
	if why == Unspecified {
		return
	}
	if *c == nil {
		*c = make(causes)
	}
	(*c)[slot] = why
}

// TCPEdge is where a TCP connection stands in one direction, in the receiver's numbers:
// what a segment must carry that it is to take for the sender's next.
type TCPEdge struct {
	Next  uint32 // the first sequence number that the sender has not used
	Acked uint32 // the receiver has last asked for this one; Next if it never did
	Ack   uint32 // all that the receiver has sent is acknowledged by this
}

// TCPEdge returns where a TCP flow stands in direction d, and whether it goes on at
// all: one that is over has nothing to be told.
func (w *Worker) TCPEdge(slot uint32, d tuple.Direction) (at TCPEdge, ok bool) {
	e := &w.t.entries[slot]
	c := e.tcp()
	switch c.state {
	case None, TimeWait, Closed:
		return at, false
	}
	from, peer := &c.side[d], &c.side[d.Other()]
	at = TCPEdge{Next: from.end, Acked: from.end, Ack: peer.end}
	if c.flags[d.Other()]&sideAcked != 0 {
		at.Acked = peer.maxAck
	}
	if e.Status()&SeqAdjust != 0 {
		a := w.Correction(Ref{Slot: slot}, d)
		at.Next, at.Acked = a.ToReceiver(at.Next), a.ToReceiver(at.Acked)
	}
	return at, true
}

// SCTPTag returns the verification tag of packets in direction d of an SCTP flow, 0
// if it is not known.
func (e *Entry) SCTPTag(d tuple.Direction) uint32 {
	var c sctpConn
	w := e.lock()
	c.load(e, w)
	e.unlock(w)
	return c.tag[d]
}
