package conntrack

import (
	"errors"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Insertion is a flow that a command makes, without a packet. Its Proposal's Status
// may have the bits of SettableStatus, too.
type Insertion struct {
	Proposal

	State State                       // of TCP, SCTP and DCCP
	Lives Tick                        // until it ends, unless a packet comes: that one sets the timeout as usual
	Tags  [tuple.NumDirections]uint32 // of SCTP: the verification tags of packets in a direction

	from *Saved // that the flow goes on from, nil: it begins
	at   uint32 // slot that it must have, which is free and nobody else's; 0: any
}

// Errors of Table.Insert besides ErrNoMemory.
var (
	ErrExists = errors.New("such conntrack exists")
	ErrState  = errors.New("no such state of this protocol")
)

// Insert makes a flow. When it returns, packets find it, and it is listed. ErrExists:
// one of its tuples is taken; ErrNoMemory: there is no room for it; ErrState.
//
// TCP of such a flow is not held to windows, which nobody knows.
func (t *Table) Insert(in *Insertion) error {
	if !in.State.fits(in.Original.Proto) {
		return ErrState
	}
	seat := t.reader()
	defer t.leave(seat)
	c := &t.control
	c.mu.Lock()
	defer c.mu.Unlock()
	now := t.Now()
	ref, err := c.makeLocked(in, now)
	if err == nil {
		c.Confirm(ref, now)
	}
	return err
}

// makeLocked claims what in says, and returns ErrExists or ErrNoMemory if that cannot be
// had. c.mu must be held, and the caller is in an epoch.
func (c *control) makeLocked(in *Insertion, now Tick) (Ref, error) {
	c.making = in
	ref, claim := c.Claim(&in.Proposal, now)
	c.making = nil
	c.pending.Store(true) // what the claim took out of the index
	switch claim {
	case Claimed:
		return ref, nil
	case OriginalTaken, ReplyTaken:
		return Ref{}, ErrExists
	}
	return Ref{}, ErrNoMemory
}

// begin writes what in has beside a Proposal into an entry that is nobody else's yet.
func (in *Insertion) begin(e *Entry) {
	if in.from != nil {
		in.from.resume(e)
		return
	}
	word.Store32(&e.timeout, uint32(min(in.Lives, maxTimeout)))
	switch in.Original.Proto {
	case tuple.TCP:
		c := tcpConn{state: in.State, flags: [tuple.NumDirections]uint8{sideLoose, sideLoose}}
		e.word = c.store(e)
	case tuple.SCTP:
		c := sctpConn{state: in.State, tag: in.Tags}
		e.word = c.store(e)
	case tuple.DCCP:
		e.word = packState(in.State)
	}
}
