package conntrack

import (
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// udpStreamAfter is how old a UDP flow must be to count as a stream.
const udpStreamAfter = Tick(2 * time.Second / TickLength)

// ipv6NoNext as a protocol says that a packet carries nothing (RFC 8200 section
// 4.7), and no flow does that.
const ipv6NoNext = 59

// Admissible says whether a packet with tuple k that belongs to no flow may
// begin one: Accept, or why not, which is counted. It does not look at the table.
func (w *Worker) Admissible(k *tuple.Tuple, s *Segment) Verdict {
	v := w.t.MayBegin(k, s)
	if v.Invalid() {
		word.Add64(&w.stats.Invalid, 1)
	}
	return v
}

// MayBegin is Admissible for who only wants to know.
func (t *Table) MayBegin(k *tuple.Tuple, s *Segment) Verdict {
	v := Accept
	switch k.Proto {
	case tuple.TCP:
		switch cell := tcpNext[tuple.Original][classify(s.Flags)][None]; {
		case !legal(s.Flags):
			v = InvalidFlags
		case cell == invalid:
			v = InvalidState
		case cell != to(SynSent) && t.limits.pickup == Strict:
			v = InvalidPickup
		}
	case tuple.ICMP:
		switch k.DstPort >> 8 {
		case 8, 13, 15, 17: // echo, timestamp, information, address mask
		default:
			v = InvalidType
		}
	case tuple.ICMPv6:
		switch k.DstPort >> 8 {
		case 128, 139: // echo, node information (RFC 4620)
		default:
			v = InvalidType
		}
	case ipv6NoNext:
		if k.Family == tuple.IPv6 {
			v = InvalidType
		}
	case tuple.SCTP:
		if !s.SCTP.begins() {
			v = InvalidState
		}
	case tuple.DCCP:
		if !dccpBegins(s.DCCPType, t.limits.pickup) {
			v = InvalidPickup
		}
	}
	return v
}

// Track takes a packet through the tracker of its flow: state, timer,
// counters, status, events. Of the verdicts only Accept has an effect on
// them, but for Ignore in the reply direction, which counts as a reply. After
// Restart the entry is gone and the packet has to be looked up again, once: what
// it meets then is a newer entry.
func (w *Worker) Track(r Ref, s *Segment, now Tick) Verdict {
	e := &w.t.entries[r.Slot]
	proto := e.half[r.Dir&1].tuple.Proto
	if proto == tuple.UDP && w.SteadyUDP(r, s.Bytes, now) || proto == tuple.TCP && w.SteadyTCP(r, s, now) {
		return Accept
	}
	status := e.Status()
	switch proto {
	case tuple.TCP:
		return w.trackTCP(r, e, status, s, now)
	case tuple.UDP, tuple.UDPLite:
		return w.trackUDP(r, e, status, s, now)
	case tuple.SCTP:
		return w.trackSCTP(r, e, status, s, now)
	case tuple.DCCP:
		return w.trackDCCP(r, e, status, s, now)
	case tuple.GRE:
		if status&SeenReply == 0 {
			return w.pass(r, e, status, s, now, w.idleOf(e, status).gre)
		}
		if status&Assured == 0 {
			status |= w.assure(r.Slot)
		}
		return w.pass(r, e, status, s, now, w.idleOf(e, status).greStream)
	case tuple.ICMP:
		return w.pass(r, e, status, s, now, w.idleOf(e, status).icmp)
	case tuple.ICMPv6:
		return w.pass(r, e, status, s, now, w.idleOf(e, status).icmpv6)
	}
	return w.pass(r, e, status, s, now, w.idleOf(e, status).generic)
}

// idleOf returns the timeouts that apply to an entry.
func (w *Worker) idleOf(e *Entry, status Status) *idleTicks {
	if status&OwnPolicy == 0 {
		return &w.t.idle
	}
	return w.t.policy(word.Load32(&w.t.exts[word.Load32(&e.ext)].policy))
}

// trackUDP: an answered flow is a stream once it is two seconds old.
func (w *Worker) trackUDP(r Ref, e *Entry, status Status, s *Segment, now Tick) Verdict {
	if status&SeenReply == 0 || !now.Reached(Tick(word.Load32(&e.proto[areaStream]))) {
		return w.pass(r, e, status, s, now, w.idleOf(e, status).udp)
	}
	if status&Assured == 0 {
		status |= w.assure(r.Slot)
	}
	return w.pass(r, e, status, s, now, w.idleOf(e, status).udpStream)
}

// assure sets Assured and returns assuredNow if it was not set before.
func (a *actor) assure(slot uint32) Status {
	if a.answer(slot, Assured)&Assured != 0 {
		return 0
	}
	return assuredNow
}

// answer sets bits of the status of an entry, which its client is counted by, and
// returns what it was.
func (a *actor) answer(slot uint32, bits Status) (old Status) {
	e := &a.t.entries[slot]
	old = Status(atomic.OrUint32(&e.status, uint32(bits)))
	if old&bits != bits && old&Dying == 0 { // who ended it saw what it was
		a.t.clients.settle(word.Load32(&a.t.owner[slot]), e.half[tuple.Original].tuple.Proto, old, bits)
	}
	return old
}

// assuredNow marks, in a status that is passed on and never stored, that this
// packet set Assured. It is a bit that no entry has.
const assuredNow = HWOffload

// pass accepts a packet of a protocol that takes no lock.
func (w *Worker) pass(r Ref, e *Entry, status Status, s *Segment, now, timeout Tick) Verdict {
	w.account(r.Dir, e, s)
	if status&FixedTimeout == 0 {
		e.see(r.Dir, now)
		if status&OwnTimeout == 0 {
			w.t.setTimeout(r.Slot, e, timeout)
		}
	}
	change := Change(0)
	if status&assuredNow != 0 {
		change = ChangedAssured
	}
	w.replied(r, e, status, change, now)
	return Accept
}

// replied sets SeenReply on the first packet of the reply direction and
// reports the changes of the entry, if it is known to anybody yet.
func (w *Worker) replied(r Ref, e *Entry, status Status, change Change, now Tick) {
	if r.Dir == tuple.Reply && status&SeenReply == 0 && w.answer(r.Slot, SeenReply)&SeenReply == 0 {
		change |= ChangedReply
	}
	if change != 0 && status&Confirmed != 0 {
		w.emit(EventUpdate, change, r.Slot, now)
	}
}

// trackTCP takes a segment through the pure tracker under the entry's lock.
func (w *Worker) trackTCP(r Ref, e *Entry, status Status, s *Segment, now Tick) Verdict {
	var c tcpConn
	packed := e.lock()
	c.load(e, packed)
	old := c.state
	res := c.advance(r.Dir, s, status, &w.t.limits)
	counts := res.verdict == Accept
	if counts {
		e.countLocked(r.Dir, s)
		if res.idle == idleRefresh {
			w.refreshLocked(r, e, status, now, w.idleOf(e, status).ofTCP(c.state, res.timer))
		}
	}
	if res.idle == idleShorten && status&(FixedTimeout|OwnTimeout) == 0 {
		w.shortenLocked(r.Slot, e, w.idleOf(e, status).unack, now)
	}
	e.unlock(c.store(e))

	switch {
	case res.verdict == Restart:
		word.Add64(&w.stats.Restart, 1)
		w.kill(r.Slot, always, now)
		return Restart
	case !counts:
		if res.verdict.Invalid() {
			word.Add64(&w.stats.Invalid, 1)
		} else {
			w.replied(r, e, status, 0, now) // the other host is there, whatever it says
		}
		return res.verdict
	case res.idle == idleEnd && status&Confirmed != 0:
		w.kill(r.Slot, always, now)
		return Accept
	}
	change := Change(0)
	if c.state != old {
		change |= ChangedState
	}
	if res.assured && w.assure(r.Slot) != 0 {
		change |= ChangedAssured
	}
	w.replied(r, e, status, change, now)
	return Accept
}

// countLocked counts a packet of a protocol that takes the entry's lock.
func (e *Entry) countLocked(d tuple.Direction, s *Segment) {
	h := &e.half[d]
	word.Store64(&h.packets, h.packets+1)
	word.Store64(&h.bytes, h.bytes+uint64(s.Bytes))
}

// refreshLocked starts the timer of an entry anew, unless it is fixed.
func (w *Worker) refreshLocked(r Ref, e *Entry, status Status, now, timeout Tick) {
	if status&FixedTimeout != 0 {
		return
	}
	e.see(r.Dir, now)
	if status&OwnTimeout == 0 {
		w.t.setTimeout(r.Slot, e, timeout)
	}
}

// shortenLocked lets an entry live for atMost from now.
func (w *Worker) shortenLocked(slot uint32, e *Entry, atMost, now Tick) {
	if e.deadline().Sub(now) <= int32(atMost) {
		return
	}
	for d := range e.half {
		e.see(tuple.Direction(d), now)
	}
	w.t.setTimeout(slot, e, atMost)
}

// ofTCP returns the timeout of a state, cut as timer says.
func (i *idleTicks) ofTCP(s State, timer tcpTimer) Tick {
	switch timer {
	case timerRetrans:
		return min(i.tcp[s], i.retrans)
	case timerUnacked:
		return min(i.tcp[s], i.unack)
	case timerClosed:
		return i.tcp[Closed]
	}
	return i.tcp[s]
}
