package route

import (
	"fmt"
	"net/netip"
	"slices"

	"example.com/culvert/conntrack/tuple"
)

// HostPort is the index of the gateway's own host among the ports.
const HostPort uint16 = 0

// Route sends a prefix out of a port.
type Route struct {
	Prefix  netip.Prefix
	Port    uint16
	Gateway netip.Addr // the neighbour to hand packets to; invalid: the destination itself is on the link
	Metric  uint32     // lower wins among equal prefixes
}

func (r Route) String() string {
	if r.Gateway.IsValid() {
		return fmt.Sprintf("%v via %v port %d", r.Prefix, r.Gateway, r.Port)
	}
	return fmt.Sprintf("%v port %d", r.Prefix, r.Port)
}

// NextHop is what a lookup finds.
type NextHop struct {
	Port    uint16
	Gateway tuple.Addr // valid when Via
	Via     bool
}

// Neighbour returns the address whose link-layer address a packet to dst needs.
func (h *NextHop) Neighbour(dst tuple.Addr) tuple.Addr {
	if h.Via {
		return h.Gateway
	}
	return dst
}

// Table is an immutable longest-prefix match over both address families. The
// zero Table routes nothing. It is safe for concurrent use.
type Table struct {
	levels4, levels6 []level // longest prefix first
	routes           []Route
}

// level holds the prefixes of one length. A lookup probes one map for each
// length in use, some handful on a gateway; flows cache the answer.
type level struct {
	mask tuple.Addr
	hops map[tuple.Addr]NextHop
}

// NewTable builds a table. Of several routes to one prefix the one with the
// lowest metric is used, the first given among equals.
func NewTable(routes []Route) (*Table, error) {
	t := &Table{routes: slices.Clone(routes)}
	slices.SortStableFunc(t.routes, func(a, b Route) int {
		if d := bits128(b.Prefix) - bits128(a.Prefix); d != 0 {
			return d
		}
		return int(int64(a.Metric) - int64(b.Metric))
	})
	for _, r := range t.routes {
		if !r.Prefix.IsValid() {
			return nil, fmt.Errorf("route: invalid prefix for port %d", r.Port)
		}
		if r.Gateway.IsValid() && r.Gateway.Is4() != r.Prefix.Addr().Is4() {
			return nil, fmt.Errorf("route: %v: gateway %v is of the other address family", r.Prefix, r.Gateway)
		}
		if r.Prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("route: %v: write an IPv4 prefix as such", r.Prefix)
		}
		levels := &t.levels6
		if r.Prefix.Addr().Is4() {
			levels = &t.levels4
		}
		mask := mask128(bits128(r.Prefix))
		if n := len(*levels); n == 0 || (*levels)[n-1].mask != mask {
			*levels = append(*levels, level{mask: mask, hops: map[tuple.Addr]NextHop{}})
		}
		l := &(*levels)[len(*levels)-1]
		key := and(tuple.AddrFrom(r.Prefix.Addr()), l.mask)
		if _, taken := l.hops[key]; !taken {
			l.hops[key] = NextHop{Port: r.Port, Gateway: tuple.AddrFrom(r.Gateway), Via: r.Gateway.IsValid()}
		}
	}
	return t, nil
}

// Lookup finds the route of dst and reports whether there is one. A route of one
// address family never carries the other, not even ::/0.
func (t *Table) Lookup(dst tuple.Addr) (NextHop, bool) {
	levels := t.levels6
	if dst.Is4() {
		levels = t.levels4
	}
	for i := range levels {
		l := &levels[i]
		if h, ok := l.hops[and(dst, l.mask)]; ok {
			return h, true
		}
	}
	return NextHop{}, false
}

// Routes returns the routes of the table, longest prefix first. Callers must
// not change it.
func (t *Table) Routes() []Route { return t.routes }

// bits128 is the prefix length in the 128-bit form that tuple.Addr uses.
func bits128(p netip.Prefix) int {
	if p.Addr().Is4() {
		return p.Bits() + 96
	}
	return p.Bits()
}

func mask128(bits int) (m tuple.Addr) {
	for i := range m {
		switch left := bits - 8*i; {
		case left >= 8:
			m[i] = 0xff
		case left > 0:
			m[i] = byte(0xff << (8 - left))
		}
	}
	return m
}

func and(a, m tuple.Addr) tuple.Addr {
	for i := range a {
		a[i] &= m[i]
	}
	return a
}
