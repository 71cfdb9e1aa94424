package dataplane

import (
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/route"
)

// lastHops are the hints of neighbours that new flows went to lately: the table of
// neighbours has a lock that all workers take.
type lastHops [64]struct {
	hint route.Hint
	port uint16
	addr tuple.Addr
}

// known returns the hint of a neighbour if it is kept and still valid.
func (l *lastHops) known(n *route.Neighbours, port uint16, addr *tuple.Addr) (route.Hint, bool) {
	h := &l[l.at(port, addr)]
	if h.port != port || h.addr != *addr {
		return 0, false
	}
	_, _, ok := n.Get(h.hint)
	return h.hint, ok
}

// learn keeps the hint of a neighbour.
func (l *lastHops) learn(port uint16, addr *tuple.Addr, hint route.Hint) {
	h := &l[l.at(port, addr)]
	h.hint, h.port, h.addr = hint, port, *addr
}

// at returns where a neighbour is kept: those of one network differ in their last byte.
func (l *lastHops) at(port uint16, addr *tuple.Addr) int { return int(addr[15]^byte(port)*7) % len(l) }
