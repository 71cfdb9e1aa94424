package route

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"example.com/culvert/conntrack/tuple"
)

// HostPort is the index of the gateway's own host among the ports.
const HostPort uint16 = 0

// Route sends a prefix out of a port.
type Route struct {
	Prefix  netip.Prefix
	Port    uint16
	Gateway netip.Addr // the neighbour to hand packets to; invalid: the destination itself is on the link
	Metric  uint32     // lower wins among routes to one prefix for the same packets
	Weight  uint32     // share of the flows among routes of one metric that have one; 0: shares with none
	Only    Only       // packets that the route is for
	Down    bool       // the gateway does not answer: no choice, but known as a way; see Table
}

// Only says which packets a route is for. The zero value is for all.
type Only struct {
	From     netip.Prefix // source; invalid: any
	Area     Area         // they come in by
	Mark     uint32       // of their bits in MarkMask
	MarkMask uint32
}

// Area is an area of ports as the rules number them, plus one; 0 stands for any.
type Area uint16

// AreaNumber returns the Area of the rules' number i.
func AreaNumber(i uint8) Area { return Area(i) + 1 }

func (r Route) String() string {
	var b strings.Builder
	fmt.Fprint(&b, r.Prefix)
	if r.Only.From.IsValid() {
		fmt.Fprintf(&b, " from %v", r.Only.From)
	}
	if r.Only.Area != 0 {
		fmt.Fprintf(&b, " in area %d", r.Only.Area-1)
	}
	if r.Only.MarkMask != 0 {
		fmt.Fprintf(&b, " mark %#x/%#x", r.Only.Mark, r.Only.MarkMask)
	}
	if r.Gateway.IsValid() {
		fmt.Fprintf(&b, " via %v", r.Gateway)
	}
	fmt.Fprintf(&b, " port %d", r.Port)
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Weight > 0 {
		fmt.Fprintf(&b, " weight %d", r.Weight)
	}
	if r.Down {
		b.WriteString(" down")
	}
	return b.String()
}

// NextHop is what a lookup finds. It belongs to the table: nobody may change it. A copy
// would be made of pieces that overlap, which the processor reads back slowly.
type NextHop struct {
	Gateway tuple.Addr // valid when Via
	Port    uint16
	Via     bool
}

var noHop NextHop

// Neighbour returns the address whose link-layer address a packet to dst needs.
func (h *NextHop) Neighbour(dst tuple.Addr) tuple.Addr {
	if h.Via {
		return h.Gateway
	}
	return dst
}

// Query is a packet that looks for its way.
type Query struct {
	Dst, Src *tuple.Addr // Src nil: not known
	Area     Area
	Mark     uint32
	Hash     uint64 // of its flow, keyed: which of several equal routes it takes
}

// Table is an immutable longest-prefix match over both address families. The
// zero Table routes nothing. It is safe for concurrent use.
//
// The longest prefix with a route for the packet wins. Among routes to one prefix
// those for particular packets come before those for all, in the order they were
// given; then the lowest metric; then the first one given, unless it has a weight:
// then it shares the flows with the others that have one. So a route for some sources never takes packets away from a
// network that is nearer.
//
// A route that is down is never chosen, and the next one is. But it is still a way
// that packets may have come by (Reaches), and that answers take (Through).
type Table struct {
	levels4, levels6 []level // longest prefix first
	routes           []Route
	several          bool
}

// level holds the prefixes of one length. A lookup probes one for each length in
// use, some handful on a gateway, and most of them have few prefixes: to look at these
// is much faster than to ask a map. Flows cache the answer.
type level struct {
	mask halves
	few  []entry          // at most fewPrefixes
	all  map[halves]*ways // the same when there are more, else nil
}

type entry struct {
	prefix halves
	ways   *ways
}

// fewPrefixes is how many are looked at one after the other.
const fewPrefixes = 8

// halves is an address in two words.
type halves struct{ hi, lo uint64 }

func halvesOf(a *tuple.Addr) halves {
	return halves{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])}
}

func (h halves) and(mask halves) halves { return halves{h.hi & mask.hi, h.lo & mask.lo} }

// ways are the routes to one prefix.
type ways struct {
	groups []group // that are up, in the order in which they are tried
	hops   []hop   // of all routes, best first
	final  bool    // one that is up is for all packets: nobody goes on to shorter prefixes
}

// group are the routes for the same packets of the lowest metric that is up.
type group struct {
	of     Only
	metric uint32
	only   only
	hops   []hop
	total  uint64 // of weights, 0 if the one hop has none
}

type hop struct {
	NextHop
	weight uint64
	down   bool
}

// only is Only as packets are held against it.
type only struct {
	from, mask     halves
	area           Area
	mark, markMask uint32
	is4, anyFrom   bool
}

func onlyOf(o Only) only {
	c := only{anyFrom: !o.From.IsValid(), area: o.Area, mark: o.Mark & o.MarkMask, markMask: o.MarkMask}
	if !c.anyFrom {
		c.is4 = o.From.Addr().Is4()
		c.from, c.mask = halvesOfPrefix(o.From)
	}
	return c
}

func (o *only) fits(q *Query) bool {
	return (o.anyFrom || q.Src != nil && q.Src.Is4() == o.is4 && halvesOf(q.Src).and(o.mask) == o.from) &&
		(o.area == 0 || o.area == q.Area) && q.Mark&o.markMask == o.mark
}

// choose returns the hop that a flow with a hash takes.
func (g *group) choose(hash uint64) *NextHop {
	if len(g.hops) == 1 {
		return &g.hops[0].NextHop
	}
	at, _ := bits.Mul64(hash, g.total) // hash scaled to 0..total-1
	for i := range g.hops {
		if at < g.hops[i].weight {
			return &g.hops[i].NextHop
		}
		at -= g.hops[i].weight
	}
	return &g.hops[0].NextHop // not reached: the weights sum up to total
}

// NewTable builds a table of routes in the order in which they are given; see Table
// for what that decides.
func NewTable(routes []Route) (*Table, error) {
	t := &Table{routes: slices.Clone(routes)}
	for i, r := range t.routes {
		if err := check(r); err != nil {
			return nil, err
		}
		t.routes[i].Prefix = r.Prefix.Masked()
		if r.Only.From.IsValid() {
			t.routes[i].Only.From = r.Only.From.Masked()
		}
		t.routes[i].Only.Mark &= r.Only.MarkMask
	}
	rank := make(map[Only]int) // by the order of their first route
	for _, r := range t.routes {
		if _, known := rank[r.Only]; !known {
			rank[r.Only] = len(rank)
		}
	}
	rank[Only{}] = len(t.routes)
	slices.SortStableFunc(t.routes, func(a, b Route) int {
		return cmp.Or(
			cmp.Compare(bits128(b.Prefix), bits128(a.Prefix)),
			cmp.Compare(rank[a.Only], rank[b.Only]),
			cmp.Compare(a.Metric, b.Metric),
		)
	})
	for i := range t.routes {
		t.add(&t.routes[i])
	}
	return t, nil
}

func check(r Route) error {
	switch {
	case !r.Prefix.IsValid():
		return fmt.Errorf("route: invalid prefix for port %d", r.Port)
	case r.Gateway.IsValid() && r.Gateway.Is4() != r.Prefix.Addr().Is4():
		return fmt.Errorf("route: %v: gateway %v is of the other address family", r.Prefix, r.Gateway)
	case r.Prefix.Addr().Is4In6():
		return fmt.Errorf("route: %v: write an IPv4 prefix as such", r.Prefix)
	case r.Only.From.IsValid() && r.Only.From.Addr().Is4() != r.Prefix.Addr().Is4():
		return fmt.Errorf("route: %v: source %v is of the other address family", r.Prefix, r.Only.From)
	}
	return nil
}

// add takes the next route in the order of the table.
func (t *Table) add(r *Route) {
	levels := &t.levels6
	if r.Prefix.Addr().Is4() {
		levels = &t.levels4
	}
	prefix, mask := halvesOfPrefix(r.Prefix)
	if n := len(*levels); n == 0 || (*levels)[n-1].mask != mask {
		*levels = append(*levels, level{mask: mask})
	}
	w := (*levels)[len(*levels)-1].add(prefix)
	h := hop{
		NextHop: NextHop{Port: r.Port, Gateway: tuple.AddrFrom(r.Gateway), Via: r.Gateway.IsValid()},
		weight:  uint64(r.Weight), down: r.Down,
	}
	w.hops = append(w.hops, h)
	t.several = t.several || len(w.hops) > 1 || r.Only != Only{}
	if r.Down {
		return
	}
	w.final = w.final || r.Only == Only{}
	if n := len(w.groups); n > 0 && w.groups[n-1].of == r.Only {
		if g := &w.groups[n-1]; g.metric == r.Metric && g.total > 0 && r.Weight > 0 {
			g.hops, g.total = append(g.hops, h), g.total+h.weight
		}
		return
	}
	w.groups = append(w.groups, group{of: r.Only, metric: r.Metric, only: onlyOf(r.Only), hops: []hop{h}, total: h.weight})
}

// Choose finds the route of a packet and reports whether there is one. A route of
// one address family never carries the other, not even ::/0. Where there is none, the hop
// is that of the zero NextHop, as in all lookups.
func (t *Table) Choose(q *Query) (*NextHop, bool) {
	levels, dst := t.family(q.Dst), halvesOf(q.Dst)
	for i := range levels {
		w := levels[i].to(dst)
		if w == nil {
			continue
		}
		for j := range w.groups {
			if g := &w.groups[j]; g.only.fits(q) {
				return g.choose(q.Hash), true
			}
		}
	}
	return &noHop, false
}

// Lookup is Choose for packets of which only the destination is known.
func (t *Table) Lookup(dst *tuple.Addr) (*NextHop, bool) { return t.Choose(&Query{Dst: dst}) }

// family returns the levels of dst's address family.
func (t *Table) family(dst *tuple.Addr) []level {
	if dst.Is4() {
		return t.levels4
	}
	return t.levels6
}

// add returns the routes to a prefix, new ones if it has none.
func (l *level) add(prefix halves) *ways {
	if w := l.to(prefix); w != nil {
		return w
	}
	w := &ways{}
	if l.all == nil && len(l.few) < fewPrefixes {
		l.few = append(l.few, entry{prefix, w})
		return w
	}
	if l.all == nil {
		l.all = make(map[halves]*ways)
		for _, e := range l.few {
			l.all[e.prefix] = e.ways
		}
		l.few = nil
	}
	l.all[prefix] = w
	return w
}

// to returns the routes of the level to dst, nil if it has none.
func (l *level) to(dst halves) *ways {
	prefix := dst.and(l.mask)
	for i := range l.few {
		if e := &l.few[i]; e.prefix == prefix {
			return e.ways
		}
	}
	if l.all == nil {
		return nil
	}
	return l.all[prefix]
}

// Stay returns the way of a flow that has left by a port to a neighbour, if it is
// still one that some packets to dst take: a flow does not move because a better way
// turned up. The zero neighbour stands for any.
func (t *Table) Stay(dst *tuple.Addr, port uint16, neighbour *tuple.Addr) (*NextHop, bool) {
	levels, at := t.family(dst), halvesOf(dst)
	for i := range levels {
		w := levels[i].to(at)
		if w == nil {
			continue
		}
		for j := range w.hops {
			h := &w.hops[j]
			if !h.down && h.Port == port && (*neighbour == tuple.Addr{} || h.Neighbour(*dst) == *neighbour) {
				return &h.NextHop, true
			}
		}
		if w.final {
			break
		}
	}
	return &noHop, false
}

// Condition of a way.
type Condition uint8

const (
	None Condition = iota // there is no such way
	Up
	Down // its gateway does not answer
)

// Through returns the way to dst out of a port, whatever packets it is for: answers
// go back by the port that the question came in by. One that is up is preferred.
func (t *Table) Through(dst *tuple.Addr, port uint16) (way *NextHop, is Condition) {
	levels, at := t.family(dst), halvesOf(dst)
	way = &noHop
	for i := range levels {
		w := levels[i].to(at)
		if w == nil {
			continue
		}
		for j := range w.hops {
			switch h := &w.hops[j]; {
			case h.Port != port:
			case !h.down:
				return &h.NextHop, Up
			case is == None:
				way, is = &h.NextHop, Down
			}
		}
		if w.final {
			break
		}
	}
	return way, is
}

// Reaches reports whether packets to dst may leave by a port, and therefore packets
// from there may come in by it: the feasible paths of RFC 3704 section 2.3.
func (t *Table) Reaches(dst *tuple.Addr, port uint16) bool {
	_, is := t.Through(dst, port)
	return is != None
}

// Several reports whether the way of a packet may depend on more than its
// destination.
func (t *Table) Several() bool { return t.several }

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

// halvesOfPrefix returns the address of a prefix and its mask.
func halvesOfPrefix(p netip.Prefix) (prefix, mask halves) {
	n := bits128(p)
	mask = halves{^uint64(0) << max(64-n, 0), ^uint64(0) << (128 - max(n, 64))}
	addr := tuple.AddrFrom(p.Addr())
	return halvesOf(&addr).and(mask), mask
}
