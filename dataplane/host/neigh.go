package host

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// State says what is known of a neighbour.
type State uint8

const (
	Reachable State = iota + 1 // answered just now
	Stale                      // MAC was announced, not asked for: use it, an answer may follow
	Failed                     // no answer to three probes, and forgotten: packets that wait are undeliverable
)

func (s State) String() string {
	switch s {
	case Reachable:
		return "reachable"
	case Stale:
		return "stale"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// Neighbour is news about an address on a link.
type Neighbour struct {
	Port  uint16
	Addr  netip.Addr
	MAC   [6]byte // of a unicast station when Reachable or Stale, else zero
	State State
}

const (
	maxProbes  = 3                // RFC 4861 section 10: MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT
	probeEvery = time.Second      // RFC 4861 section 10: RETRANS_TIMER
	confirmFor = 15 * time.Second // RFC 4861 section 10: smallest REACHABLE_TIME (30 s times 0.5)
)

// Implementation limits.
const (
	lockTime   = time.Second           // a neighbour's MAC may change once in this time
	sweepEvery = 20 * time.Millisecond // probes are this late at most, so that many of them share a sweep
	evictTries = 16                    // entries looked at to find one that may go
	patience   = 30 * time.Second      // a neighbour is not given up while its answers may be lost here
)

type phase uint8

const (
	unresolved phase = iota // MAC unknown; probes are out
	known                   // MAC valid; confirmed says how fresh
	verifying               // MAC valid; probes are out
)

// neighbour is one address. Guarded by link.mu.
type neighbour struct {
	addr      netip.Addr
	mac       [6]byte // valid unless unresolved
	phase     phase
	probes    uint8 // sent since the question was opened
	due       tcpip.MonotonicTime
	confirmed tcpip.MonotonicTime // of the last answer, valid if proven
	changed   tcpip.MonotonicTime // mac was set
	opened    tcpip.MonotonicTime // the question was
	lost      uint64              // frames that the link ring had refused then
	proven    bool                // mac has answered since it was set
}

// resolve opens the question who has addr, or answers it at once when it was
// confirmed lately.
func (l *link) resolve(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	now := l.host.clock.NowMonotonic()
	n := l.neighbours[addr]
	switch {
	case n == nil:
		n = l.newNeighbourLocked(addr)
	case n.phase != known:
		return // asked already
	case n.proven && now.Sub(n.confirmed) < confirmFor:
		l.tellLocked(n, Reachable)
		return
	default:
		n.phase = verifying
		l.tellLocked(n, Stale)
	}
	l.askLocked(n)
}

// askLocked opens a question about n.
func (l *link) askLocked(n *neighbour) {
	now := l.host.clock.NowMonotonic()
	n.probes, n.opened, n.lost = 0, now, l.host.links.full.Load()
	l.open[n.addr] = n
	l.probeLocked(n, now)
	l.armLocked(now)
}

// newNeighbourLocked adds an unresolved entry, in the place of another one if the
// link is full.
func (l *link) newNeighbourLocked(addr netip.Addr) *neighbour {
	if len(l.neighbours) >= l.host.cfg.Neighbours {
		l.evictLocked()
	}
	n := &neighbour{addr: addr}
	l.neighbours[addr] = n
	return n
}

// evictLocked forgets some neighbour: one without an open question if it finds one
// soon, else the one of those it has seen whose question is the oldest. The engine
// keeps what it knows of the former; when it asks again, the address is resolved anew.
func (l *link) evictLocked() {
	var oldest *neighbour
	tries := 0
	for _, n := range l.neighbours { // random order
		if n.phase == known {
			delete(l.neighbours, n.addr)
			return
		}
		if oldest == nil || n.opened.Before(oldest.opened) {
			oldest = n
		}
		if tries++; tries == evictTries {
			break
		}
	}
	l.host.stats.neighboursFull.Add(1)
	l.failLocked(oldest)
}

// failLocked gives n up.
func (l *link) failLocked(n *neighbour) {
	delete(l.open, n.addr)
	delete(l.neighbours, n.addr)
	n.mac = [6]byte{}
	l.tellLocked(n, Failed)
}

// probeLocked sends the next probe for n: to everybody while its MAC is unknown and as the last
// try, else to the MAC in question.
func (l *link) probeLocked(n *neighbour, now tcpip.MonotonicTime) {
	n.probes++
	n.due = now.Add(probeEvery)
	dst := n.mac
	if n.phase == unresolved || n.probes == maxProbes {
		dst = broadcastMAC
	}
	var buf [maxLinkFrame]byte
	src := l.sourceLocked(n.addr)
	if n.addr.Is4() {
		l.transmit(appendARPRequest(buf[:0], dst, l.info.MAC, src, n.addr))
	} else {
		l.transmit(appendSolicit(buf[:0], dst, l.info.MAC, src, n.addr))
	}
}

// armLocked sets the timer for the earliest open question.
func (l *link) armLocked(now tcpip.MonotonicTime) {
	if l.armed || len(l.open) == 0 {
		return
	}
	wait := probeEvery
	for _, n := range l.open {
		wait = min(wait, n.due.Sub(now))
	}
	l.armed = true
	l.timer = l.host.clock.AfterFunc(max(wait, sweepEvery), l.sweep)
}

// sweep repeats probes that are due and gives up those without answer.
func (l *link) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if l.closed {
		return
	}
	now := l.host.clock.NowMonotonic()
	for _, n := range l.open {
		switch {
		case n.due.After(now):
		case n.probes < maxProbes:
			l.probeLocked(n, now)
		case l.mayHaveAnsweredLocked(n, now):
			n.lost = l.host.links.full.Load()
			n.probes--
			l.probeLocked(n, now)
		default:
			l.host.stats.failed.Add(1)
			l.failLocked(n)
		}
	}
	l.armLocked(now)
}

// mayHaveAnsweredLocked reports whether the answer of a neighbour whose MAC is in use
// may have been lost in the gateway itself: the link ring was full since the question,
// or frames wait in it. What is forwarded must not suffer from that.
func (l *link) mayHaveAnsweredLocked(n *neighbour, now tcpip.MonotonicTime) bool {
	links := l.host.links
	return n.phase == verifying && now.Sub(n.opened) < patience && (links.full.Load() != n.lost || links.waiting())
}

// learn takes what a received frame says about its sender (RFC 826; RFC 4861 sections
// 7.2.3 and 7.2.5, where unsolicited ARP counts as an advertisement with override).
func (l *link) learn(c claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if _, own := l.owned[c.addr]; own {
		if c.hasMAC && c.mac != l.info.MAC {
			l.host.stats.conflicts.Add(1)
			l.host.cfg.Log.Debug("another station uses an address of ours", "port", l.info.Name, "address", c.addr)
		}
		return
	}
	now := l.host.clock.NowMonotonic()
	n := l.neighbours[c.addr]
	if n == nil {
		l.learnStrangerLocked(c, now)
		return
	}
	answer := c.kind == claimAnswer && n.phase != known
	if n.phase == unresolved {
		if !c.hasMAC {
			return
		}
	} else if c.hasMAC && c.mac != n.mac {
		if c.keepOld {
			return
		}
		if now.Sub(n.changed) < lockTime {
			l.doubtLocked(n, now)
			return
		}
		n.proven = false
	} else if !answer {
		return // nothing new
	}
	if c.hasMAC && c.mac != n.mac {
		n.mac, n.changed = c.mac, now
	}
	delete(l.open, c.addr)
	n.phase = known
	if answer {
		n.confirmed, n.proven = now, true
		l.tellLocked(n, Reachable)
	} else {
		l.tellLocked(n, Stale)
	}
}

// doubtLocked has everybody asked for n when its MAC may change again: two stations
// claim the address, or it has just moved. Probes to the MAC in question, if any are
// under way, are not waited for.
func (l *link) doubtLocked(n *neighbour, now tcpip.MonotonicTime) {
	switch {
	case n.phase == known:
		n.opened, n.lost = now, l.host.links.full.Load()
	case n.phase == verifying && n.probes < maxProbes-1:
	default:
		return
	}
	n.phase, n.probes, n.due = verifying, maxProbes-1, n.changed.Add(lockTime)
	l.open[n.addr] = n
	l.armLocked(now)
}

// learnStrangerLocked takes what a station says of itself that the link does not know.
// The engine may know it: it goes on using what the link has forgotten, to make room or
// with an interface that was set up anew, and ignores what it never asked for. The
// address of a host that asks for one of ours is kept: it is about to send us packets,
// whose answers need it. Strangers take at most half of the table.
func (l *link) learnStrangerLocked(c claim, now tcpip.MonotonicTime) {
	if !c.hasMAC || c.keepOld || !l.onLinkLocked(c.addr) {
		return
	}
	if c.kind == claimRequest && len(l.neighbours) < l.host.cfg.Neighbours/2 {
		l.neighbours[c.addr] = &neighbour{addr: c.addr, mac: c.mac, phase: known, changed: now}
	}
	l.on(Neighbour{Port: l.id, Addr: c.addr, MAC: c.mac, State: Stale})
}

func (l *link) tellLocked(n *neighbour, s State) {
	if s != Stale {
		l.satisfyLocked(n.addr, s)
	}
	l.on(Neighbour{Port: l.id, Addr: n.addr, MAC: n.mac, State: s})
}
