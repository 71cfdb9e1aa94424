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
	doubt   bool  // in LastAck: the next ACK may be a challenge to an ignored SYN (RFC 5961 4); before: the open was simultaneous
	side    [tuple.NumDirections]tcpSide
	flags   [tuple.NumDirections]uint8
	scale   [tuple.NumDirections]uint8 // window shift of what this side announces

	// last is about the latest packet: with noteSYN what ignoredSYN packs of an
	// ignored SYN, with noteACK the sequence number after an ignored packet; else of
	// the last ACK its direction, a hash and the low half of the number after it.
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
	flagOnce                      // see flagFIN and flagShut
	sideLoose                     // history unknown: windows are not enforced
	sideUnacked                   // sent data that is not acknowledged
	sideAcked                     // maxAck is valid
	noteLow                       // the two bits of the note
	noteHigh

	// One bit for both sides is enough for these: the first is kept with the
	// original side, the second with the reply side.
	flagFIN  = flagOnce // somebody has sent a FIN that counted
	flagShut = flagOnce // the latest ACK announced no window; also before the first one

	noteMask = noteLow | noteHigh
	noteACK  = noteLow            // the latest packet: an ignored ACK
	noteSYN  = noteHigh           // the latest packet: an ignored SYN
	noteEnd  = noteLow | noteHigh // the latest packet: a RST, or a FIN that was invalid
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
	idleShorten                // no longer than the timeout for unacknowledged data, from now
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
	case next == TimeWait && old == LastAck && class == segACK && c.doubt && c.noted(d.Other(), noteSYN):
		c.doubt = false // this is no answer to the FIN
		return tcpResult{verdict: Ignore}
	case next == SynSent2:
		c.doubt = true
	case next == SynRecv && c.doubt && class == segACK:
		next = Established // both sides have sent SYN+ACK, or need not (RFC 9293 3.5)
	case class == segRST:
		var v Verdict
		if closing(c.state) {
			return c.settle(d, s, class, next, status, l) // over anyway, and the end shall not be missed
		}
		if next, v = c.reset(d, s, next, status, l); v != Accept {
			return tcpResult{verdict: v}
		}
		if c.refused(d, s, status) {
			return c.settle(d, s, class, next, status, l) // it may acknowledge what we ignored
		}
	}
	if v := c.window(d, s, class, l); v != Accept {
		return c.stray(d, class, v, status)
	}
	return c.settle(d, s, class, next, status, l)
}

// stray handles a segment outside of the window. A FIN or RST that the other
// host answers with one of its own tells that the hosts have ended a connection
// the tracker lost sight of: it shall not stay established for days.
func (c *tcpConn) stray(d tuple.Direction, class tcpClass, v Verdict, status Status) tcpResult {
	r := tcpResult{verdict: v}
	if !v.Invalid() || class != segFIN && class != segRST || status&Assured == 0 {
		return r
	}
	if c.noted(d.Other(), noteEnd) {
		r.idle = idleShorten
		return r
	}
	c.note(d, noteEnd)
	return r
}

// settle stores the new state and finds what follows from it.
func (c *tcpConn) settle(d tuple.Direction, s *Segment, class tcpClass, next State, status Status, l *tcpLimits) tcpResult {
	old := c.state
	c.state = next
	if old != next && next == FinWait {
		c.flags[tuple.Original] |= flagFIN
	}
	c.note(d, 0)
	if class == segRST {
		c.note(d, noteEnd)
	}
	r := tcpResult{verdict: Accept}
	switch {
	case c.retrans >= l.maxRetrans:
		r.timer = timerRetrans
	case class == segRST:
		r.timer = timerClosed
	case (c.flags[0]|c.flags[1])&sideUnacked != 0:
		r.timer = timerUnacked
	case c.flags[tuple.Reply]&flagShut != 0:
		r.timer = timerRetrans
	}
	switch {
	case status&SeenReply == 0 && class == segRST:
		r.idle = idleEnd // refused or given up: nothing to remember
	case status&SeenReply == 0 && class == segSYN && old == SynSent:
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
		c.flags[tuple.Reply] |= flagShut
		return
	}
	// The scale factors are unknown, so windows cannot be enforced.
	c.side[d] = tcpSide{end: end, maxEnd: end + win, maxWin: win}
	c.flags[d] = sideSACK | sideLoose
	c.flags[d.Other()] = sideSACK | sideLoose
	c.flags[tuple.Reply] |= flagShut
}

// options takes over what a SYN offers (RFC 7323, RFC 2018).
func (c *tcpConn) options(d tuple.Direction, s *Segment) {
	c.flags[d] &= noteMask | flagOnce
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
	return c.flags[tuple.Original]&flagFIN != 0 || c.noted(d, noteEnd)
}

// overlook remembers an ignored segment: the answer to it tells who was right.
func (c *tcpConn) overlook(d tuple.Direction, s *Segment, class tcpClass) {
	c.shut(s)
	if class != segSYN {
		c.last = s.Seq + segLength(s)
		c.note(d, 0)
		if class == segACK {
			c.note(d, noteACK)
		}
		if c.state == SynSent {
			c.side[d].maxAck = s.Ack // of no other use before this side is met
		}
		return
	}
	c.last = packSYN(s)
	c.note(d, noteSYN)
	c.doubt = c.state == LastAck
}

// What packSYN keeps of an ignored SYN, from the lowest bit.
const (
	synEndBits  = 26 // of the sequence number behind it
	synEndMask  = 1<<synEndBits - 1
	synScaleOff = synEndBits // 4 bits
	synHasScale = 1 << 30
	synHasSACK  = 1 << 31
)

// packSYN packs what a SYN says that must be known should the other host answer
// it: where it ends, as far as an answer is to be recognised, and its options.
func packSYN(s *Segment) uint32 {
	p := (s.Seq + segLength(s)) & synEndMask
	if s.Options&OptWindowScale != 0 {
		p |= synHasScale | uint32(min(s.WindowScale, 14))<<synScaleOff
	}
	if s.Options&OptSACKPermit != 0 {
		p |= synHasSACK
	}
	return p
}

// answers reports whether s acknowledges the segment from side o that was ignored.
func (c *tcpConn) answers(o tuple.Direction, s *Segment) bool {
	if c.noted(o, noteSYN) {
		return (s.Ack^c.last)&synEndMask == 0
	}
	return s.Ack == c.last
}

// resync handles a SYN+ACK in the reply direction that answers a SYN we
// ignored: the hosts agree on a new connection, so follow them. It reports
// whether that was it.
func (c *tcpConn) resync(d tuple.Direction, s *Segment, class tcpClass) bool {
	o := d.Other()
	if class != segSYNACK || !c.noted(o, noteSYN) || !c.answers(o, s) {
		return false
	}
	// The window of the SYN was not kept: it is taken to be the largest there is.
	c.side[o] = tcpSide{end: s.Ack, maxEnd: s.Ack, maxWin: maxWindow}
	c.side[d] = tcpSide{}
	c.flags[o] &= flagOnce
	c.flags[d] &= flagOnce | sideLoose
	c.flags[tuple.Original] &^= flagFIN
	c.scale = [tuple.NumDirections]uint8{}
	if c.last&synHasScale != 0 {
		c.flags[o] |= sideScale
		c.scale[o] = uint8(c.last >> synScaleOff & 0xf)
	}
	if c.last&synHasSACK != 0 {
		c.flags[o] |= sideSACK
	}
	c.doubt = false
	return true
}

// maxWindow is the largest window that a SYN can announce.
const maxWindow = 1<<16 - 1

// reset decides whether a RST is credible and returns the state it leads to.
// After an ignored SYN the old numbers mean nothing.
func (c *tcpConn) reset(d tuple.Direction, s *Segment, next State, status Status, l *tcpLimits) (State, Verdict) {
	peer := &c.side[d.Other()]
	proven := c.state == Established && status&Assured != 0
	if c.flags[d.Other()]&sideAcked == 0 || c.noted(0, noteSYN) || c.noted(1, noteSYN) || s.Seq == 0 && !proven {
		return next, Accept
	}
	if before(s.Seq, peer.maxAck) && !l.ignoreInvalidRST {
		return c.state, InvalidRST
	}
	if !proven || s.Seq == peer.maxAck || c.follows(d, s) {
		return next, Accept
	}
	return c.state, Accept // not exact: the receiver may send a challenge ACK (RFC 5961 3.2)
}

// follows reports whether a RST comes right behind the latest ACK of its sender,
// as far as half of its number tells; the window check is still to come.
func (c *tcpConn) follows(d tuple.Direction, s *Segment) bool {
	plain := c.noted(d, 0) && c.noted(d.Other(), 0)
	return plain && c.last>>lastDirShift == uint32(d) && uint16(s.Seq) == uint16(c.last) &&
		(c.flags[d]&sideLoose != 0 || !before(c.side[d].end, s.Seq))
}

// closing reports whether one side at least has ended the connection.
func closing(s State) bool {
	switch s {
	case FinWait, CloseWait, LastAck, TimeWait, Closed:
		return true
	}
	return false
}

// shut notes whether a segment closes its sender's window.
func (c *tcpConn) shut(s *Segment) {
	c.flags[tuple.Reply] &^= flagShut
	if s.Window == 0 {
		c.flags[tuple.Reply] |= flagShut
	}
}

// refused reports whether a RST answers a segment that was ignored.
func (c *tcpConn) refused(d tuple.Direction, s *Segment, status Status) bool {
	o := d.Other()
	if c.state == SynSent && c.noted(o, noteACK) && s.Seq == c.side[o].maxAck {
		return true // it answers a challenge ACK (RFC 9293 3.10.7.3)
	}
	half := status&SeenReply != 0 && c.noted(o, noteSYN) || status&Assured == 0 && c.noted(o, noteACK)
	return half && c.answers(o, s)
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
