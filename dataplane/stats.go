package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/rules"
)

// Stats are the counters of an engine since New.
type Stats struct {
	Received   uint64 // packets taken from ports, the own stack's and kernel's included
	Forwarded  uint64 // sent out of a port; what the kernel refuses later is in Dropped, too
	Delivered  uint64 // given to the own stack or kernel
	Originated uint64 // made here: ICMP errors, resets
	Unanswered uint64 // packets that got no ICMP error or reset, for ICMPRate
	Noticed    uint64 // hosts that were told that their flow was ended
	Joined     uint64 // fragments that went on within another packet: all of a datagram put together but one
	Held       uint64 // had to wait for a neighbour's address, or as fragments for others
	Waiting    uint64 // of these, still do
	Bytes      uint64 // of IP packets forwarded or delivered
	Batches    uint64
	Dropped    [numReasons]uint64          // by Reason
	Ended      [conntrack.NumCauses]uint64 // flows ended with notice, by cause
}

// Drops returns how many packets were dropped, of all Reasons.
func (s *Stats) Drops() (n uint64) {
	for _, d := range s.Dropped {
		n += d
	}
	return n
}

// Stats returns the sum over all workers. Any goroutine may call it. When no
// packet is in hand, Received is Forwarded, Delivered, Joined, Dropped and Waiting together.
func (e *Engine) Stats() (s Stats) {
	resumed := e.fragmentsLost.Load()
	for _, w := range e.workers {
		c := &w.counter
		s.Received += c.received.Load()
		s.Forwarded += c.forwarded.Load()
		s.Delivered += c.delivered.Load()
		s.Originated += c.originated.Load()
		s.Noticed += c.noticed.Load()
		s.Joined += c.joined.Load()
		resumed += c.resumed.Load() // before held, which is ahead of it
		s.Held += c.held.Load()
		s.Bytes += c.bytes.Load()
		s.Batches += c.load.batches()
		for r := range w.drops {
			s.Dropped[r] += w.drops[r].Load()
		}
		for why := range w.ended {
			s.Ended[why] += w.ended[why].Load()
		}
	}
	s.Unanswered = e.icmp.denied.Load()
	s.Waiting = s.Held - min(resumed, s.Held)
	return s
}

// PortStats are the counters of one port over all its queues.
type PortStats struct {
	ID   uint16
	Name string
	port.Stats
}

// PortStats returns the counters of every port that has queues of its own.
func (e *Engine) PortStats() []PortStats {
	v := e.view.Load()
	var all []PortStats
	for id, p := range v.ports {
		if p == nil || p.port == nil {
			continue
		}
		s := PortStats{ID: uint16(id), Name: p.name}
		for i := range p.port.Info().NumQueues {
			s.Stats.Add(p.port.Queue(i).Stats())
		}
		all = append(all, s)
	}
	return all
}

// RuleHits is how often a rule matched since it was first loaded: a rule that a
// new State has as well goes on counting.
type RuleHits struct {
	Rule  *rules.Rule
	Hits  uint64
	Bytes uint64 // of the IP packets
}

// RuleHits returns the rules of the running program with their counters.
func (e *Engine) RuleHits() []RuleHits {
	v := e.view.Load()
	all := make([]RuleHits, 0, len(v.prog.Rules()))
	for _, r := range v.prog.Rules() {
		t := v.ledger.Hits(r)
		all = append(all, RuleHits{Rule: r, Hits: t.Packets, Bytes: t.Bytes})
	}
	return all
}

// RuleCounter is a counter that rules name.
type RuleCounter struct {
	Name string
	rules.Traffic
}

// RuleCounters returns the counters that rules of the running program name. They
// go on over reloads for as long as a rule names them.
func (e *Engine) RuleCounters() []RuleCounter {
	all := []RuleCounter{}
	e.view.Load().ledger.Counters(func(name string, t rules.Traffic) {
		all = append(all, RuleCounter{name, t})
	})
	return all
}

// Generation counts the States applied so far.
func (e *Engine) Generation() uint32 { return e.view.Load().gen }

// Program returns the running rules.
func (e *Engine) Program() *rules.Program { return e.view.Load().prog }
