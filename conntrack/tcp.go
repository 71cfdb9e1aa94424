package conntrack

import "example.com/culvert/conntrack/tuple"

// tcpClass is what the state table knows of a segment: the first of these
// flags that is set, in this order.
type tcpClass uint8

const (
	segNone tcpClass = iota
	segSYN
	segSYNACK
	segFIN
	segACK
	segRST
	numClasses
)

// classify returns the class of a segment's flags.
func classify(flags uint8) tcpClass {
	switch {
	case flags&RST != 0:
		return segRST
	case flags&(SYN|ACK) == SYN|ACK:
		return segSYNACK
	case flags&SYN != 0:
		return segSYN
	case flags&FIN != 0:
		return segFIN
	case flags&ACK != 0:
		return segACK
	}
	return segNone
}

// legalFlags has the combinations that a host may send; PSH, ECE and CWR are
// of no matter (RFC 9293 3.10).
var legalFlags = [256]bool{
	SYN: true, SYN | URG: true, SYN | ACK: true,
	RST: true, RST | ACK: true,
	FIN | ACK: true, FIN | ACK | URG: true,
	ACK: true, ACK | URG: true,
}

// legal reports whether flags may occur together.
func legal(flags uint8) bool { return legalFlags[flags&^(PSH|ECE|CWR)] }

// Cells of tcpNext that are not a state of their own.
const (
	invalid State = iota // the segment is impossible here; also the zero value
	ignore               // leave the entry alone, the hosts know better
	stay    State = iota // first state cell; see to
)

// to encodes a state as a cell, which leaves the zero value to invalid.
func to(s State) State { return s + stay }

// tcpNext is the state table: what a segment in a direction makes of a state.
// The tracker sits between the hosts, so it moves on what it sees, not on what
// arrives; ignore marks segments that are wrong for the entry, but may be right
// for the hosts, whose answer will tell.
var tcpNext = [tuple.NumDirections][numClasses][numTCPStates]State{
	tuple.Original: {
		segSYN: {
			None:        to(SynSent),
			SynSent:     to(SynSent), // retransmitted
			SynRecv:     ignore,      // late, or a new connection: SYN+ACK or RST will tell
			Established: ignore,
			FinWait:     ignore,
			CloseWait:   ignore,
			LastAck:     ignore,
			TimeWait:    to(SynSent), // reopened (RFC 9293 3.6.1)
			Closed:      to(SynSent),
			SynSent2:    to(SynSent2),
		},
		segSYNACK: { // only in a simultaneous open
			SynRecv:  to(SynRecv),
			SynSent2: to(SynRecv),
		},
		segFIN: {
			SynRecv:     to(FinWait),
			Established: to(FinWait),
			FinWait:     to(LastAck), // the other side's FIN, or ours again
			CloseWait:   to(LastAck),
			LastAck:     to(LastAck),
			TimeWait:    to(TimeWait),
			Closed:      to(Closed),
		},
		segACK: {
			None:        to(Established), // picked up in its middle
			SynRecv:     to(Established),
			Established: to(Established),
			FinWait:     to(CloseWait),
			CloseWait:   to(CloseWait),
			LastAck:     to(TimeWait),
			TimeWait:    to(TimeWait),
			Closed:      to(Closed),
		},
		segRST: {
			SynSent: to(Closed), SynRecv: to(Closed), Established: to(Closed), FinWait: to(Closed), CloseWait: to(Closed),
			LastAck: to(Closed), TimeWait: to(Closed), Closed: to(Closed), SynSent2: to(Closed),
		},
	},
	tuple.Reply: {
		segSYN: {
			SynSent:  to(SynSent2), // simultaneous open (RFC 9293 3.5)
			TimeWait: to(SynSent),  // reopened from the other side
			SynSent2: to(SynSent2),
		},
		segSYNACK: {
			SynSent:     to(SynRecv),
			SynRecv:     ignore, // retransmitted
			Established: ignore, // answers a SYN we ignored, perhaps
			FinWait:     ignore,
			CloseWait:   ignore,
			LastAck:     ignore,
			TimeWait:    ignore,
			Closed:      ignore,
			SynSent2:    to(SynRecv),
		},
		segFIN: {
			SynRecv:     to(FinWait),
			Established: to(FinWait),
			FinWait:     to(LastAck),
			CloseWait:   to(LastAck),
			LastAck:     to(LastAck),
			TimeWait:    to(TimeWait),
			Closed:      to(Closed),
		},
		segACK: {
			SynSent:     ignore, // half-open on the other side: its RST will tell (RFC 9293 3.5.1)
			SynRecv:     to(SynRecv),
			Established: to(Established),
			FinWait:     to(CloseWait),
			CloseWait:   to(CloseWait),
			LastAck:     to(TimeWait),
			TimeWait:    to(TimeWait),
			Closed:      to(Closed),
			SynSent2:    ignore,
		},
		segRST: {
			SynSent: to(Closed), SynRecv: to(Closed), Established: to(Closed), FinWait: to(Closed), CloseWait: to(Closed),
			LastAck: to(Closed), TimeWait: to(Closed), Closed: to(Closed), SynSent2: to(Closed),
		},
	},
}

// tcpLimits is the tracker's configuration.
type tcpLimits struct {
	pickup           Pickup
	window           Window
	ignoreInvalidRST bool
	maxRetrans       uint8
}

func (c *Config) tcpLimits() tcpLimits {
	return tcpLimits{c.Pickup, c.Window, c.IgnoreInvalidRST, uint8(c.TCPMaxRetrans)}
}

// tcpConn is the TCP part of an entry, unpacked. It has no lock, clock or table.
type tcpConn struct {
	state   State
	retrans uint8 // equal bare ACKs in a row, up to maxRetrans
	suspect bool  // an ignored SYN in LastAck may be answered by a challenge ACK (RFC 5961 4)
	side    [tuple.NumDirections]tcpSide
	flags   [tuple.NumDirections]uint8
	scale   [tuple.NumDirections]uint8 // window shift of what this side announces

	// last is about the latest packet: with noteSYN or noteACK, the sequence
	// number after an ignored packet; else a hash of the last ACK.
	last uint32
}

// tcpSide is what one host sent and may send. Sequence numbers.
type tcpSide struct {
	end    uint32 // highest sequence number sent, plus one
	maxEnd uint32 // highest the other side permits
	maxAck uint32 // highest acknowledgement sent; with sideAcked
	maxWin uint32 // largest window announced, scaled; 0: nothing seen yet
}

// Flags of a side.
const (
	sideScale   uint8 = 1 << iota // offers window scaling
	sideSACK                      // permits selective acknowledgements
	sideCloser                    // sent the first FIN
	sideLoose                     // history unknown: windows are not enforced
	sideUnacked                   // sent data that is not acknowledged
	sideAcked                     // maxAck is valid
	noteLow                       // the two bits of the note
	noteHigh

	noteMask = noteLow | noteHigh
	noteACK  = noteLow            // the latest packet: ignored, no SYN
	noteSYN  = noteHigh           // the latest packet: an ignored SYN
	noteRST  = noteLow | noteHigh // the latest packet: a RST
)

// note remembers what the latest packet was, and from which side.
func (c *tcpConn) note(d tuple.Direction, n uint8) {
	c.flags[d] = c.flags[d]&^noteMask | n
	c.flags[d.Other()] &^= noteMask
}

// noted reports whether the latest packet was an n from side d.
func (c *tcpConn) noted(d tuple.Direction, n uint8) bool { return c.flags[d]&noteMask == n }

// tcpTimer says which timeout follows from a segment.
type tcpTimer uint8

const (
	timerState   tcpTimer = iota // of the new state
	timerRetrans                 // no longer than the retransmission timeout
	timerUnacked                 // no longer than the one for unacknowledged data
	timerClosed                  // of state Closed
)

// tcpResult is what tcpConn.advance found.
type tcpResult struct {
	verdict Verdict
	timer   tcpTimer
	idle    tcpIdle
	assured bool // the flow has proved itself
}

// tcpIdle says what a segment means for the entry's life.
type tcpIdle uint8

const (
	idleRefresh tcpIdle = iota // the timer starts anew
	idleKeep                   // the packet counts, the timer runs on
	idleEnd                    // the entry ends with this packet
)

// advance takes a segment in direction d through the tracker. status is the
// entry's before this packet.
func (c *tcpConn) advance(d tuple.Direction, s *Segment, status Status, l *tcpLimits) tcpResult {
	if !legal(s.Flags) {
		return tcpResult{verdict: InvalidFlags}
	}
	class, old := classify(s.Flags), c.state
	cell := tcpNext[d][class][old]
	next := cell - stay
	if old == None && cell > ignore {
		if class != segSYN && l.pickup == Strict {
			return tcpResult{verdict: InvalidPickup}
		}
		c.begin(d, s, class)
	}
	switch {
	case cell == invalid:
		return tcpResult{verdict: InvalidState}
	case cell == ignore:
		if !c.resync(d, s, class) {
			c.overlook(d, s, class)
			return tcpResult{verdict: Ignore}
		}
		old, next = SynSent, SynRecv
		c.state = SynSent
	case next == SynSent && (old == TimeWait || old == Closed):
		if c.reopens(d) {
			return tcpResult{verdict: Restart}
		}
		c.overlook(d, s, class)
		return tcpResult{verdict: Ignore}
	case next == TimeWait && old == LastAck && class == segACK && c.suspect && c.noted(d.Other(), noteSYN):
		c.suspect = false // this is no answer to the FIN
		return tcpResult{verdict: Ignore}
	case class == segRST:
		var v Verdict
		if next, v = c.reset(d, s, next, l); v != Accept {
			return tcpResult{verdict: v}
		}
		if c.refused(d, s, status) {
			return c.settle(d, s, class, next, status, l) // it may acknowledge what we ignored
		}
	}
	if v := c.window(d, s, class, l); v != Accept {
		return tcpResult{verdict: v}
	}
	return c.settle(d, s, class, next, status, l)
}

// settle stores the new state and finds what follows from it.
func (c *tcpConn) settle(d tuple.Direction, s *Segment, class tcpClass, next State, status Status, l *tcpLimits) tcpResult {
	old := c.state
	c.state = next
	if old != next && next == FinWait {
		c.flags[d] |= sideCloser
	}
	c.note(d, 0)
	if class == segRST {
		c.note(d, noteRST)
	}
	r := tcpResult{verdict: Accept}
	switch {
	case c.retrans >= l.maxRetrans:
		r.timer = timerRetrans
	case class == segRST:
		r.timer = timerClosed
	case (c.flags[0]|c.flags[1])&sideUnacked != 0:
		r.timer = timerUnacked
	case s.Window == 0:
		r.timer = timerRetrans
	}
	switch {
	case status&SeenReply == 0 && class == segRST:
		r.idle = idleEnd // refused or given up: nothing to remember
	case status&SeenReply == 0 && class == segSYN && old == SynSent && next == SynSent:
		r.idle = idleKeep // or a SYN flood never ages out
	case status&SeenReply == 0 && next == Established && r.timer == timerState:
		r.timer = timerUnacked // picked up: nobody answered yet
	case status&(SeenReply|Assured) == SeenReply && (old == SynRecv || old == Established) && next == Established:
		r.assured = true
	}
	return r
}

// begin fills the sides from the first segment of a flow.
func (c *tcpConn) begin(d tuple.Direction, s *Segment, class tcpClass) {
	end := s.Seq + segLength(s)
	win := max(uint32(s.Window), 1)
	if class == segSYN {
		c.side[d] = tcpSide{end: end, maxEnd: end, maxWin: win}
		c.options(d, s)
		return
	}
	// The scale factors are unknown, so windows cannot be enforced.
	c.side[d] = tcpSide{end: end, maxEnd: end + win, maxWin: win}
	c.flags[d] = sideSACK | sideLoose
	c.flags[d.Other()] = sideSACK | sideLoose
}

// options takes over what a SYN offers (RFC 7323, RFC 2018).
func (c *tcpConn) options(d tuple.Direction, s *Segment) {
	c.flags[d] &= noteMask
	c.scale[d] = 0
	if s.Options&OptWindowScale != 0 {
		c.flags[d] |= sideScale
		c.scale[d] = min(s.WindowScale, 14) // RFC 7323 2.3
	}
	if s.Options&OptSACKPermit != 0 {
		c.flags[d] |= sideSACK
	}
}

// reopens reports whether a SYN from d in TimeWait or Closed begins a new
// connection: the old one was closed in order, or reset by the same side.
func (c *tcpConn) reopens(d tuple.Direction) bool {
	return (c.flags[0]|c.flags[1])&sideCloser != 0 || c.noted(d, noteRST)
}

// overlook remembers an ignored segment: the answer to it tells who was right.
func (c *tcpConn) overlook(d tuple.Direction, s *Segment, class tcpClass) {
	c.last = s.Seq + segLength(s)
	if class != segSYN {
		c.note(d, noteACK)
		return
	}
	c.note(d, noteSYN)
	c.suspect = c.state == LastAck
}

// resync handles a SYN+ACK in the reply direction that answers a SYN we
// ignored: the hosts agree on a new connection, so follow them. It reports
// whether that was it.
func (c *tcpConn) resync(d tuple.Direction, s *Segment, class tcpClass) bool {
	o := d.Other()
	if class != segSYNACK || !c.noted(o, noteSYN) || s.Ack != c.last {
		return false
	}
	c.side[o] = tcpSide{end: c.last, maxEnd: c.last, maxWin: 1}
	c.side[d] = tcpSide{}
	// The options of the ignored SYN are gone; without its scale the window
	// would come out too small, so it is not enforced.
	c.flags[o] = sideSACK | sideLoose
	c.flags[d] = sideLoose
	c.scale = [tuple.NumDirections]uint8{}
	c.suspect = false
	return true
}

// reset decides whether a RST is credible and returns the state it leads to.
func (c *tcpConn) reset(d tuple.Direction, s *Segment, next State, l *tcpLimits) (State, Verdict) {
	peer := &c.side[d.Other()]
	if c.flags[d.Other()]&sideAcked == 0 || s.Seq == 0 && c.state != Established {
		return next, Accept
	}
	if before(s.Seq, peer.maxAck) && !l.ignoreInvalidRST {
		return c.state, InvalidRST
	}
	if c.state != Established || s.Seq == peer.maxAck || s.Seq == c.side[d].end {
		return next, Accept
	}
	return c.state, Accept // not exact: the receiver may send a challenge ACK (RFC 5961 3.2)
}

// refused reports whether a RST answers a segment that was ignored.
func (c *tcpConn) refused(d tuple.Direction, s *Segment, status Status) bool {
	o := d.Other()
	half := status&SeenReply != 0 && c.noted(o, noteSYN) || status&Assured == 0 && c.noted(o, noteACK)
	return half && s.Ack == c.last
}

// before reports whether sequence number a comes before b.
func before(a, b uint32) bool { return int32(a-b) < 0 }

// segLength returns how many sequence numbers a segment takes.
func segLength(s *Segment) uint32 {
	n := s.Payload
	if s.Flags&SYN != 0 {
		n++
	}
	if s.Flags&FIN != 0 {
		n++
	}
	return n
}
