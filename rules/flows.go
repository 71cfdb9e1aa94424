package rules

import (
	"hash/maphash"
	"sync"
)

// FlowLimit is a condition on how many flows the source of a new one has already
// that met the same rule: fewer than Most, or with IsNot that many. Packets of
// flows that exist are within it.
type FlowLimit struct {
	Sense Sense
	Most  uint32 // 1 to MaxFlowLimit
}

// MaxFlowLimit bounds FlowLimit.Most: a new flow costs a look at each one that its
// source has.
const MaxFlowLimit = 1000

// Flow names a flow of the table: a slot, and whose turn it is to have it.
type Flow struct{ Slot, Gen uint32 }

// flowCount knows the flows that met the FlowLimit of a rule, by source. It hears
// of flows that begin, but not of their ends: those are found when somebody counts,
// as nf_conncount does, so a flow needs nothing to be kept for it. Two workers that
// ask for one source at the same moment may both be told that there is room.
//
// When there is no room to note another flow, the next ones are beyond the limit.
type flowCount struct {
	seed  maphash.Seed
	alive func(Flow) bool
	parts [flowParts]flowPart
}

// Bounds of what is known of one rule.
const (
	flowParts   = 64
	flowChains  = 64   // of a part
	flowsOfPart = 1024 // together 65536
)

type flowPart struct {
	mu     sync.Mutex // guards what follows
	chains [flowChains]uint16
	nodes  []flowNode // node 0 is not used
	free   uint16
}

type flowNode struct {
	who  uint64
	flow Flow
	next uint16
}

func newFlowCount(alive func(Flow) bool) *flowCount {
	return &flowCount{seed: maphash.MakeSeed(), alive: alive}
}

func (c *flowCount) part(who uint64) (*flowPart, *uint16) {
	h := maphash.Comparable(c.seed, who)
	p := &c.parts[h%flowParts]
	return p, &p.chains[h/flowParts%flowChains]
}

// room reports whether who has fewer than most flows.
func (c *flowCount) room(who uint64, most uint32) bool {
	p, chain := c.part(who)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count(chain, who, c.alive) < most && p.make(c.alive)
}

// count returns how many flows of who are alive, and forgets the chain's others.
func (p *flowPart) count(chain *uint16, who uint64, alive func(Flow) bool) (n uint32) {
	for at := chain; *at != 0; {
		node := &p.nodes[*at]
		if !alive(node.flow) {
			gone := *at
			*at, node.next, p.free = node.next, p.free, gone
			continue
		}
		if node.who == who {
			n++
		}
		at = &node.next
	}
	return n
}

// make sees to it that a node is free, if one can be.
func (p *flowPart) make(alive func(Flow) bool) bool {
	if p.nodes == nil {
		p.nodes = make([]flowNode, flowsOfPart+1)
		for i := range p.nodes {
			p.nodes[i].next = uint16(i+1) % uint16(len(p.nodes))
		}
		p.nodes[0].next, p.free = 0, 1
	}
	if p.free == 0 {
		for i := range p.chains {
			p.count(&p.chains[i], 0, alive)
		}
	}
	return p.free != 0
}

// add notes a flow of who that has begun.
func (c *flowCount) add(who uint64, f Flow) {
	p, chain := c.part(who)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == 0 {
		return // it went to another worker since there was room
	}
	n := p.free
	p.free = p.nodes[n].next
	p.nodes[n] = flowNode{who, f, *chain}
	*chain = n
}

// maxCounted is how many flow limits one packet may meet.
const maxCounted = 4

// counting are the flow limits that a first packet has met.
type counting struct {
	n      int
	limits [maxCounted]*flowCount
	who    uint64
}

// Begun tells the flow limits that the packet has met that its flow exists.
func (d *Decision) Begun(f Flow) {
	for _, c := range d.counting.limits[:d.counting.n] {
		c.add(d.counting.who, f)
	}
	d.counting.n = 0
}

// fewFlows asks r's limit of flows.
func (d *Decision) fewFlows(r *Rule, k *Key) bool {
	if k.Flow != 0 || k.State == Established {
		return true
	}
	if d.Page == nil {
		return true
	}
	c, who := d.Page.ledger.flows[r.Index], sourceOf(&k.Tuple)
	if !c.room(who, r.spec.If.Flows.Most) || d.counting.n == maxCounted {
		return false
	}
	if d.Purpose == Act {
		d.counting.limits[d.counting.n], d.counting.who = c, who
		d.counting.n++
	}
	return true
}
