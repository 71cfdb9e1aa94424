package nat

import (
	"errors"
	"fmt"

	"example.com/culvert/conntrack/tuple"
)

// Plan gives each inside address its ports by arithmetic alone (RFC 7422): the
// i-th address of the inside range has block i % n of the external address i / n,
// where n blocks of Size ports, from 1024 up, fit into one address. So the plan
// answers who had a port, without any log, as long as it is known.
type Plan struct {
	Inside AddrRange
	Pool   []AddrRange
	Size   uint32 // ports of one inside address
}

// Ports that a Plan gives away.
const (
	planFirst = 1024
	planPorts = 65536 - planFirst
)

// Errors of NewPlan.
var (
	ErrPlanTooSmall = errors.New("the pool has fewer ports than there are inside addresses")
	ErrPlanMixed    = errors.New("inside addresses and pool are of different families")
)

// NewPlan makes a plan with blocks of size ports, as large ones as fit if size is
// 0. The error wraps ErrPlanTooSmall and says what would fit.
func NewPlan(inside AddrRange, pool []AddrRange, size uint32) (*Plan, error) {
	clients, addrs := inside.Size(), poolSize(pool)
	if inside.First.Is4() != pool[0].First.Is4() {
		return nil, ErrPlanMixed
	}
	each := (clients + addrs - 1) / addrs // clients of one address
	largest := uint32(planPorts / max(each, 1))
	switch {
	case largest == 0:
		return nil, fmt.Errorf("%w: %d addresses share %d, which have %d ports each", ErrPlanTooSmall, clients, addrs, planPorts)
	case size > largest:
		return nil, fmt.Errorf("%w: %d inside addresses share %d, so each can have at most %d ports", ErrPlanTooSmall, clients, addrs, largest)
	case size == 0:
		size = largest
	}
	return &Plan{inside, pool, size}, nil
}

// Block returns the ports of an inside address. It reports false for one that is
// not in the plan.
func (p *Plan) Block(inside tuple.Addr) (addr tuple.Addr, ports PortRange, ok bool) {
	if !p.Inside.Contains(inside) {
		return addr, ports, false
	}
	each := uint64(planPorts / p.Size)
	i := p.Inside.index(inside)
	first := planFirst + uint32(i%each)*p.Size
	return poolAt(p.Pool, i/each), PortRange{uint16(first), uint16(first + p.Size - 1)}, true
}

// Client is the inverse of Block: the inside address that has an external port.
func (p *Plan) Client(addr tuple.Addr, port uint16) (inside tuple.Addr, ok bool) {
	each := uint64(planPorts / p.Size)
	block := (uint64(port) - planFirst) / uint64(p.Size)
	if port < planFirst || block >= each {
		return inside, false
	}
	n, ok := poolIndex(p.Pool, addr)
	if i := n*each + block; ok && i < p.Inside.Size() {
		return p.Inside.at(i), true
	}
	return inside, false
}

// index returns how far a lies after the first address of r, which has it.
func (r *AddrRange) index(a tuple.Addr) uint64 {
	span := AddrRange{r.First, a}
	return span.Size() - 1
}

// poolIndex is the inverse of poolAt.
func poolIndex(ranges []AddrRange, a tuple.Addr) (n uint64, ok bool) {
	for i := range ranges {
		if ranges[i].Contains(a) {
			return n + ranges[i].index(a), true
		}
		n += ranges[i].Size()
	}
	return 0, false
}
