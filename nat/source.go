package nat

import (
	"slices"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// Behaviour is one of the three mapping and filtering behaviours of RFC 4787, or
// netfilter's own.
type Behaviour uint8

const (
	Linux                   Behaviour = iota // port kept when free; filter by address and port
	EndpointIndependent                      // RFC 4787 section 4.1
	AddressDependent                         // RFC 4787 section 4.1
	AddressAndPortDependent                  // RFC 4787 section 4.1
)

// Source says how to translate the source of a flow. It is immutable and safe
// for concurrent use.
type Source struct {
	Addrs              []AddrRange   // the pool; empty: masquerade
	Ports              PortRange     // zero: by class, see the package comment
	Flags              Flags         // Random, Persistent, RFC
	Mapping, Filtering Behaviour     // carried for the engine, as all up to MaxBlocks
	HoldDown           time.Duration // for how long a port is kept for the client that had it
	PortsPerClient     uint32        // for one protocol; 0: no limit
	BlockSize          uint16        // clients get ports in blocks of so many, a power of two; 0: one by one
	MaxBlocks          uint8         // of one client
	Plan               *Plan         // of the ports of each inside address; nil: whoever comes first
	Fit                Fit           // of Addrs; other than Choose, they are one prefix
	From               AddrRange     // the prefix that the rule matches, for Neutral

	Map *Map[Source] // what to do instead, by the packet's source; see For
}

// For returns what s means for a flow with tuple t: itself, or what its map has
// for t's source. It returns nil when the map has nothing.
func (s *Source) For(t *tuple.Tuple) *Source {
	if s.Map == nil {
		return s
	}
	return s.Map.Lookup(&t.Src, t.SrcPort)
}

// Each calls f for s and for all that its map leads to. Who makes s may change them
// so; later nobody may.
func (s *Source) Each(f func(*Source)) {
	f(s)
	if s.Map != nil {
		for i := range s.Map.entries {
			s.Map.entries[i].To.Each(f)
		}
	}
}

// Targets returns all addresses that flows may be translated to, none for
// masquerade.
func (s *Source) Targets() []AddrRange {
	all := slices.Clone(s.Addrs)
	if s.Map != nil {
		for i := range s.Map.entries {
			all = append(all, s.Map.entries[i].To.Targets()...)
		}
	}
	return all
}

// Masquerade reports whether the source becomes the address of the egress
// interface.
func (s *Source) Masquerade() bool { return len(s.Addrs) == 0 && s.Map == nil }

// Several reports whether flows of one client may leave with different addresses.
func (s *Source) Several() bool { return s.Fit == Choose && poolSize(s.Addrs) > 1 }

// Netmapped returns the one address that a netmap gives to a host with address a,
// and whether there is one.
func (s *Source) Netmapped(a tuple.Addr) (tuple.Addr, bool) {
	return s.Fit.netmap(a, &s.From, &s.Addrs[0])
}

// AllowsAddr reports whether flows may leave with address a. egress is the
// address of the egress interface for masquerade, the host's own for a netmap.
func (s *Source) AllowsAddr(a, egress tuple.Addr) bool {
	switch {
	case s.Masquerade():
		return a == egress
	case s.Fit != Choose && a != egress:
		return false
	}
	return poolHas(s.Addrs, a)
}

// Allows reports whether flows may leave with this source; see AllowsAddr.
func (s *Source) Allows(a tuple.Addr, port uint16, egress tuple.Addr) bool {
	return (s.Ports.IsZero() || s.Ports.Contains(port)) && s.AllowsAddr(a, egress)
}

// Search starts the walk over the sources that a flow with tuple t may leave
// with, best first. t is as the flow leaves: its destination is translated
// already. addr is the address of the egress interface for masquerade, ignored
// otherwise. rnd should be unpredictable to peers (RFC 6056). s must have no Map:
// see For.
func (s *Source) Search(t tuple.Tuple, addr tuple.Addr, rnd uint64) (c Search) {
	s.Start(&c, &t, &addr, rnd)
	return c
}

// Start is Search in place: whatever c was, it becomes that walk.
func (s *Source) Start(c *Search, t *tuple.Tuple, addr *tuple.Addr, rnd uint64) {
	c.begin(t, rnd)
	switch {
	case s.Plan != nil:
		at, ports, ok := s.Plan.Block(t.Src)
		if !ok {
			*c = Search{}
			return
		}
		*c = s.SearchIn(*t, at, ports, rnd)
		return
	case s.Masquerade():
		c.t.Src = *addr
	case s.Fit != Choose:
		var ok bool
		if c.t.Src, ok = s.Netmapped(t.Src); !ok {
			*c = Search{}
			return
		}
		if s.Fit == Neutral { // without state, so the port is not chosen either
			c.own, c.keep = t.SrcPort, keepOnly
			return
		}
	default:
		c.pool = s.Addrs
		c.left = poolSize(s.Addrs)
		choice := clientHash(t, s.Flags)
		if s.Flags&Arbitrary != 0 {
			choice = mix(rnd)
		}
		c.addr = pick(choice, c.left)
		c.size = c.left
		c.t.Src = poolAt(s.Addrs, c.addr)
	}
	c.plan(s.Ports, s.Flags)
}

// SearchIn is Search over one address and a range of its ports: what of them the
// rule allows.
func (s *Source) SearchIn(t tuple.Tuple, addr tuple.Addr, ports PortRange, rnd uint64) Search {
	if !s.Ports.IsZero() {
		ports = PortRange{max(ports.First, s.Ports.First), min(ports.Last, s.Ports.Last)}
	}
	if ports.First > ports.Last {
		return Search{}
	}
	c := Search{t: t, rnd: rnd, left: 1}
	c.t.Src = addr
	c.plan(ports, s.Flags)
	return c
}

// NullSearch starts the walk for a flow that no rule translates, as netfilter's
// null binding: the source stays as it is; if its reply tuple is taken the port
// moves within its class. The address never changes.
func NullSearch(t tuple.Tuple, rnd uint64) (c Search) {
	c.StartNull(&t, rnd)
	return c
}

// StartNull is NullSearch in place: whatever c was, it becomes that walk.
func (c *Search) StartNull(t *tuple.Tuple, rnd uint64) {
	c.begin(t, rnd)
	c.plan(PortRange{}, 0)
}
