package conntrack

import "example.com/culvert/conntrack/tuple"

// Window tracking keeps, for each side, how far it sent (end), how far it may
// send (maxEnd), and the largest window it announced (maxWin). A segment
// belongs to the connection when
//
//	its first byte is not beyond what the receiver permitted,
//	its last byte is not older than one window of the receiver,
//	it acknowledges nothing that was not sent, and
//	it acknowledges nothing that is older than the largest plausible window.
//
// All numbers of a side are those that its host sees: where a helper changes lengths,
// acknowledgements come here as the host that they are for gets them (Correction).
//
// The method is that of G. van Rooij, "Real Stateful TCP Packet Filtering in IP
// Filter" (2001), with selective acknowledgements and window scaling.

// minAckWindow is how far behind an acknowledgement may always be.
const minAckWindow = 66000

// window checks a segment from side d against both sides and moves them.
// Accept: it is in the window, or windows are not enforced for this side.
// Ignore: old or slightly too far, let through without effect.
func (c *tcpConn) window(d tuple.Direction, s *Segment, class tcpClass, l *tcpLimits) Verdict {
	v := c.checkWindow(d, s, class)
	if v != Accept && (c.flags[d]&sideLoose != 0 || l.window == Liberal) {
		c.last = c.last&^lastDir | uint32(d)<<lastDirShift // the latest packet, though not the one that was counted
		return Accept
	}
	return v
}

func (c *tcpConn) checkWindow(d tuple.Direction, s *Segment, class tcpClass) Verdict {
	o := d.Other()
	from, peer := &c.side[d], &c.side[o]
	seq, end := s.Seq, s.Seq+segLength(s)
	ack, sack := s.Ack, s.Ack
	if s.Options&OptSACK != 0 && c.flags[o]&sideSACK != 0 && before(sack, s.SACK) {
		sack = s.SACK
	}

	if done := c.meet(d, s, end, sack); done {
		return Accept
	}
	if s.Flags&ACK == 0 || s.Flags&RST != 0 && ack == 0 {
		ack, sack = peer.end, peer.end // says nothing; taken as right
	}
	if s.Flags&RST != 0 && s.Seq == 0 && c.state == SynSent {
		seq, end = from.end, from.end // answers a SYN
	}

	backlog := max(from.maxWin, minAckWindow)
	switch {
	case before(from.maxEnd, seq):
		return c.overshot(d, end, sack)
	case before(peer.end, sack):
		return InvalidAck
	case peer.maxWin != 0 && before(end, from.end-peer.maxWin):
		return Ignore // data that was acknowledged long ago
	case before(sack, peer.end-backlog):
		return Ignore // a very late acknowledgement
	}
	c.move(d, s, end, ack, sack)
	if class == segACK {
		c.countRetrans(d, s)
		c.shut(s)
	}
	return Accept
}

// meet learns a side from its first segment, or anew from another SYN before
// the connection is up. It reports whether there is nothing left to check: a
// SYN without ACK of a simultaneous open.
func (c *tcpConn) meet(d tuple.Direction, s *Segment, end, sack uint32) bool {
	o := d.Other()
	from, peer := &c.side[d], &c.side[o]
	first := from.maxWin == 0
	switch {
	case s.Flags&SYN != 0 && (first || before(from.end, end) && (c.state == SynSent || c.state == SynRecv)):
		*from = tcpSide{end: end, maxEnd: end, maxWin: max(uint32(s.Window), 1)}
		loose := c.flags[d] & sideLoose
		c.options(d, s)
		c.flags[d] |= loose
		if d == tuple.Reply && c.flags[d]&c.flags[o]&sideScale == 0 {
			c.scale = [tuple.NumDirections]uint8{} // only if both offer it (RFC 7323 2.2)
		}
		return s.Flags&ACK == 0 && (first || d == tuple.Reply)
	case first: // joined in its middle
		win := max(uint32(s.Window)<<c.scale[d], 1)
		from.end, from.maxWin, from.maxEnd = end, win, end+win
		if peer.maxWin == 0 {
			peer.end, peer.maxEnd = sack, sack
		} else if sack == peer.end+1 {
			peer.end++ // answers a keep-alive
		}
	}
	return false
}

// overshot judges a segment that begins beyond the permitted end. One that
// went too far by no more than a window is only ignored, and noted as sent, so
// that an acknowledgement of it is not the next to be refused.
func (c *tcpConn) overshot(d tuple.Direction, end, sack uint32) Verdict {
	from, peer := &c.side[d], &c.side[d.Other()]
	backlog := max(from.maxWin, minAckWindow)
	if peer.maxWin == 0 || before(end, from.end-peer.maxWin) || end-from.maxEnd+1 > peer.maxWin ||
		before(peer.end, sack) || before(sack, peer.end-backlog) {
		return InvalidSeq
	}
	from.end = end
	c.flags[d] |= sideUnacked
	return Ignore
}

// move updates both sides from a segment that is in the window.
func (c *tcpConn) move(d tuple.Direction, s *Segment, end, ack, sack uint32) {
	o := d.Other()
	from, peer := &c.side[d], &c.side[o]
	win := uint32(s.Window)
	if s.Flags&SYN == 0 {
		win <<= c.scale[d] // the window of a SYN is never scaled (RFC 7323 2.2)
	}
	from.maxWin = max(from.maxWin, win+(sack-ack))
	if before(from.end, end) {
		from.end = end
		c.flags[d] |= sideUnacked
	}
	if s.Flags&ACK != 0 && (c.flags[d]&sideAcked == 0 || before(from.maxAck, ack)) {
		from.maxAck = ack
		c.flags[d] |= sideAcked
	}
	if peer.maxWin != 0 && before(from.maxEnd, end) {
		peer.maxWin += end - from.maxEnd
	}
	if !before(sack+win, peer.maxEnd) {
		peer.maxEnd = sack + win
		if win == 0 {
			peer.maxEnd++ // a zero window probe
		}
	}
	if ack == peer.end {
		c.flags[o] &^= sideUnacked
	}
}

// maxRetrans is the most retransmissions that can be counted.
const maxRetrans = 3

// Parts of tcpConn.last of an ACK; the rest is the low half of the sequence number
// after it.
const (
	lastDirShift = 31
	lastDir      = 1 << lastDirShift
	lastHash     = 0x7fff << 16
)

// countRetrans counts equal segments in a row.
func (c *tcpConn) countRetrans(d tuple.Direction, s *Segment) {
	h := lastOf(d, s)
	if c.last == h && c.noted(d, 0) {
		c.retrans = min(c.retrans+1, maxRetrans)
		return
	}
	c.last, c.retrans = h, 0
}

// lastOf returns tcpConn.last of an ACK.
func lastOf(d tuple.Direction, s *Segment) uint32 {
	h := (uint64(s.Seq)<<32 | uint64(s.Ack)) * 0x9e3779b97f4a7c15
	h = (h ^ h>>32 ^ uint64(s.Payload)<<16 ^ uint64(s.Window)) * 0xff51afd7ed558ccd
	return uint32(d)<<lastDirShift | uint32(h>>32)&lastHash | uint32(uint16(s.Seq+segLength(s)))
}

// Bits of Entry.word of a TCP flow, below wordLock.
const (
	scaleShift   = 4  // two fields of 4 bits
	flagsShift   = 12 // two fields of 8 bits
	retransShift = 28
	retransMask  = 3
	doubtBit     = 1 << 30
)

// load unpacks the TCP part of a locked entry.
func (c *tcpConn) load(e *Entry, w uint32) {
	c.state = State(w & stateMask)
	c.retrans = uint8(w >> retransShift & retransMask)
	c.doubt = w&doubtBit != 0
	for d := range c.side {
		c.scale[d] = uint8(w >> (scaleShift + 4*d) & 0xf)
		c.flags[d] = uint8(w >> (flagsShift + 8*d))
		p := e.proto[4*d:][:4]
		c.side[d] = tcpSide{p[0], p[1], p[2], p[3]}
	}
	c.last = e.segment
}

// store packs c into a locked entry and returns its word.
func (c *tcpConn) store(e *Entry) uint32 {
	w := uint32(c.state) | uint32(c.retrans)<<retransShift
	if c.doubt {
		w |= doubtBit
	}
	for d := range c.side {
		w |= uint32(c.scale[d])<<(scaleShift+4*d) | uint32(c.flags[d])<<(flagsShift+8*d)
		s := &c.side[d]
		*(*[4]uint32)(e.proto[4*d:]) = [4]uint32{s.end, s.maxEnd, s.maxAck, s.maxWin}
	}
	e.segment = c.last
	return w
}
