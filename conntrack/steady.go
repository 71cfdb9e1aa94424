package conntrack

import (
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Most packets change nothing about their flow but counters, the time it was seen, and
// for TCP its windows. The functions here are Track for those.

// ownTimes are the bits of flows whose timeout is not the table's.
const ownTimes = FixedTimeout | OwnTimeout | OwnPolicy

// SteadyUDP tracks a packet of a UDP flow if Track would accept it, change neither
// status nor timeout, and the worker is the one that counts this direction. Else it
// reports false and has done nothing. Bytes are those of the IP packet.
func (w *Worker) SteadyUDP(r Ref, bytes uint32, now Tick) bool {
	e := &w.t.entries[r.Slot]
	status := e.Status()
	if status&ownTimes != 0 || word.Load32(&e.proto[areaOwner+int(r.Dir&1)]) != uint32(w.seat)+1 {
		return false
	}
	timeout := w.t.idle.udp
	switch {
	case status&SeenReply == 0:
		if r.Dir != tuple.Original {
			return false
		}
	case now.Reached(Tick(word.Load32(&e.proto[areaStream]))):
		if status&Assured == 0 {
			return false
		}
		timeout = w.t.idle.udpStream
	}
	if e.Timeout() != timeout {
		return false
	}
	h := &e.half[r.Dir&1]
	word.Add64(&h.packets, 1)
	word.Add64(&h.bytes, uint64(bytes))
	if now.Sub(Tick(word.Load32(&h.seen))) > 0 {
		word.Store32(&h.seen, uint32(now))
	}
	return true
}

// SteadyTCP tracks a segment if it carries data or an acknowledgement within the
// windows of an established connection, and Track would accept it and change nothing
// else. Otherwise it reports false and has done nothing.
func (w *Worker) SteadyTCP(r Ref, s *Segment, now Tick) bool {
	e := &w.t.entries[r.Slot]
	status := e.Status()
	if !steady(status, s) || status&ownTimes != 0 {
		return false
	}
	packed := e.lock()
	next, timer, ok := e.advanceSteady(packed, r.Dir&1, s, w.t.limits.maxRetrans)
	if ok {
		e.countLocked(r.Dir&1, s)
		e.see(r.Dir&1, now)
		w.t.setTimeout(r.Slot, e, w.t.idle.ofTCP(Established, timer))
	}
	e.unlock(next)
	return ok
}

// steady reports whether a segment may be one for advanceSteady.
func steady(status Status, s *Segment) bool {
	return status.Has(SeenReply|Assured) && s.Flags&^(PSH|ECE|CWR) == ACK && s.Options == 0
}

// sides are those of tcpConn as they lie in the entry.
func (e *Entry) sides() *[tuple.NumDirections]tcpSide {
	return (*[tuple.NumDirections]tcpSide)(unsafe.Pointer(&e.proto))
}

var _ [unsafe.Sizeof(Entry{}.proto)]byte = [unsafe.Sizeof([tuple.NumDirections]tcpSide{})]byte{}

// advanceSteady is tcpConn.advance for an ACK without options of a proven connection,
// on the TCP part of a locked entry as it is packed. It returns the new word and which
// timeout applies; or the old word and false, having done nothing, unless the connection
// is and stays established, both sides are known, and the segment is in the window.
func (e *Entry) advanceSteady(packed uint32, d tuple.Direction, s *Segment, most uint8) (uint32, tcpTimer, bool) {
	d &= 1
	o := d.Other()
	sides := e.sides()
	from, peer := &sides[d], &sides[o]
	fromShift, peerShift := (flagsShift+8*d)&31, (flagsShift+8*o)&31
	seq, end, ack := s.Seq, s.Seq+s.Payload, s.Ack
	fromEnd, fromMaxEnd, fromMaxWin := from.end, from.maxEnd, from.maxWin
	peerEnd, peerMaxEnd, peerMaxWin := peer.end, peer.maxEnd, peer.maxWin
	switch {
	case State(packed&stateMask) != Established,
		packed>>fromShift&uint32(sideAcked) == 0,
		fromMaxWin == 0, peerMaxWin == 0,
		before(fromMaxEnd, seq), before(peerEnd, ack), before(end, fromEnd-peerMaxWin),
		before(ack, peerEnd-max(fromMaxWin, minAckWindow)):
		return packed, timerState, false
	}
	w := packed

	// As tcpConn.move. What stays is not written: most of it does.
	win := uint32(s.Window) << (packed >> ((scaleShift + 4*d) & 31) & 0xf)
	if win > fromMaxWin {
		from.maxWin = win
	}
	if before(fromEnd, end) {
		from.end = end
		w |= uint32(sideUnacked) << fromShift
	}
	if before(from.maxAck, ack) {
		from.maxAck = ack
	}
	if before(fromMaxEnd, end) {
		peer.maxWin = peerMaxWin + end - fromMaxEnd
	}
	if !before(ack+win, peerMaxEnd) {
		if win == 0 {
			win = 1 // a zero window probe
		}
		peer.maxEnd = ack + win
	}
	if ack == peerEnd {
		w &^= uint32(sideUnacked) << peerShift
	}

	// As tcpConn.countRetrans and shut.
	retrans := packed >> retransShift & retransMask
	last := lastOf(d, s)
	if e.segment == last && packed>>fromShift&uint32(noteMask) == 0 {
		retrans = min(retrans+1, maxRetrans)
	} else {
		e.segment, retrans = last, 0
	}
	const shut = uint32(flagShut) << (flagsShift + 8*tuple.Reply)
	w &^= shut | retransMask<<retransShift | uint32(noteMask)<<flagsShift | uint32(noteMask)<<(flagsShift+8)
	w |= retrans << retransShift
	if s.Window == 0 {
		w |= shut
	}

	// As tcpConn.settle.
	switch {
	case uint8(retrans) >= most:
		return w, timerRetrans, true
	case w&(uint32(sideUnacked)<<flagsShift|uint32(sideUnacked)<<(flagsShift+8)) != 0:
		return w, timerUnacked, true
	case s.Window == 0:
		return w, timerRetrans, true
	}
	return w, timerState, true
}
