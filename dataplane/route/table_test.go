package route

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func addr(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }

func at(s string) *tuple.Addr {
	a := addr(s)
	return &a
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func mustTable(t *testing.T, routes ...Route) *Table {
	t.Helper()
	table, err := NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestLookup(t *testing.T) {
	gw4, gw6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")
	both := []Route{
		{Prefix: prefix("0.0.0.0/0"), Port: 1, Gateway: gw4},
		{Prefix: prefix("10.0.0.0/8"), Port: 2},
		{Prefix: prefix("10.1.0.0/16"), Port: 3},
		{Prefix: prefix("10.1.2.3/32"), Port: 4},
		{Prefix: prefix("::/0"), Port: 5, Gateway: gw6},
		{Prefix: prefix("2001:db8::/32"), Port: 6},
	}
	const nowhere = 0xffff
	tests := []struct {
		claim  string
		routes []Route
		dst    string
		port   uint16
		next   string // neighbour
	}{
		{"the longest prefix wins", both, "10.1.2.3", 4, "10.1.2.3"},
		{"a shorter one serves its neighbours", both, "10.1.2.4", 3, "10.1.2.4"},
		{"the default route is last", both, "8.8.8.8", 1, "192.0.2.1"},
		{"on-link destinations are their own neighbour", both, "2001:db8::7", 6, "2001:db8::7"},
		{"a gateway is the neighbour of what is behind it", both, "2001:db9::7", 5, "fe80::1"},
		{"::/0 does not carry IPv4", both[4:], "8.8.8.8", nowhere, ""},
		{"::/8 does not carry IPv4 either", []Route{{Prefix: prefix("::/8"), Port: 1}}, "8.8.8.8", nowhere, ""},
		{"0.0.0.0/0 does not carry IPv6", both[:4], "2001:db8::1", nowhere, ""},
		{"an empty table routes nothing", nil, "10.0.0.1", nowhere, ""},
		{
			"the lower metric wins, whatever the order",
			[]Route{{Prefix: prefix("10.0.0.0/8"), Port: 1, Metric: 20}, {Prefix: prefix("10.0.0.0/8"), Port: 2, Metric: 10}},
			"10.0.0.1", 2, "10.0.0.1",
		},
		{
			"the first of equal routes wins",
			[]Route{{Prefix: prefix("10.0.0.0/8"), Port: 1}, {Prefix: prefix("10.0.0.0/8"), Port: 2}},
			"10.0.0.1", 1, "10.0.0.1",
		},
		{
			"the largest metric loses",
			[]Route{{Prefix: prefix("10.0.0.0/8"), Port: 1, Metric: 1<<32 - 1}, {Prefix: prefix("10.0.0.0/8"), Port: 2}},
			"10.0.0.1", 2, "10.0.0.1",
		},
		{
			"host bits of a prefix do not matter",
			[]Route{{Prefix: prefix("10.0.0.1/8"), Port: 1}},
			"10.200.0.1", 1, "10.200.0.1",
		},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			hop, ok := mustTable(t, tt.routes...).Lookup(at(tt.dst))
			if !ok {
				hop.Port = nowhere
			}
			if hop.Port != tt.port {
				t.Fatalf("%s leaves by port %d, want %d", tt.dst, hop.Port, tt.port)
			}
			if ok && hop.Neighbour(addr(tt.dst)) != addr(tt.next) {
				t.Errorf("%s goes to neighbour %v, want %s", tt.dst, hop.Neighbour(addr(tt.dst)), tt.next)
			}
		})
	}
}

func TestImpossibleRoutesAreRefused(t *testing.T) {
	tests := []struct {
		claim string
		route Route
		want  string
	}{
		{"an IPv6 gateway cannot carry an IPv4 prefix", Route{Prefix: prefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("fe80::1")}, "other address family"},
		{"an IPv4 gateway cannot carry an IPv6 prefix", Route{Prefix: prefix("::/0"), Gateway: netip.MustParseAddr("192.0.2.1")}, "other address family"},
		{"a mapped gateway is no IPv4 gateway", Route{Prefix: prefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("::ffff:192.0.2.1")}, "other address family"},
		{"a mapped prefix is neither family", Route{Prefix: netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}, "IPv4"},
		{"the zero prefix is no default route", Route{}, "invalid prefix"},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			if _, err := NewTable([]Route{tt.route}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one about %q", err, tt.want)
			}
		})
	}
}

// slowChoices are the routes that a packet may take as the comment of Table says it:
// each route is held against every other one.
func slowChoices(routes []Route, dst, src netip.Addr, area Area, mark uint32) (best []Route) {
	fits := func(r Route) bool {
		return !r.Down && r.Prefix.Contains(dst) && (!r.Only.From.IsValid() || r.Only.From.Contains(src)) &&
			(r.Only.Area == 0 || r.Only.Area == area) && mark&r.Only.MarkMask == r.Only.Mark&r.Only.MarkMask
	}
	firstOf := func(r Route) int { // position of the first route for the same packets
		if r.Only == (Only{}) {
			return len(routes)
		}
		return slices.IndexFunc(routes, func(o Route) bool { return o.Only == r.Only })
	}
	compare := func(a, b Route) int { // negative: a is better
		return cmp.Or(b.Prefix.Bits()-a.Prefix.Bits(), firstOf(a)-firstOf(b), cmp.Compare(a.Metric, b.Metric))
	}
	for _, r := range routes {
		if !fits(r) {
			continue
		}
		switch {
		case len(best) == 0 || compare(r, best[0]) < 0:
			best = []Route{r}
		case compare(r, best[0]) == 0:
			best = append(best, r)
		}
	}
	if len(best) > 0 && best[0].Weight == 0 {
		return best[:1]
	}
	return slices.DeleteFunc(best, func(r Route) bool { return r.Weight == 0 })
}

// slowFeasible are the ports by which packets to dst may leave: those of all routes
// to it that are no shorter than the longest one for all packets that is up.
func slowFeasible(routes []Route, dst netip.Addr) map[uint16]Condition {
	shortest := 0
	for _, r := range routes {
		if r.Prefix.Contains(dst) && !r.Down && r.Only == (Only{}) {
			shortest = max(shortest, r.Prefix.Bits())
		}
	}
	ports := map[uint16]Condition{}
	for _, r := range routes {
		switch {
		case !r.Prefix.Contains(dst) || r.Prefix.Bits() < shortest:
		case !r.Down:
			ports[r.Port] = Up
		case ports[r.Port] == None:
			ports[r.Port] = Down
		}
	}
	return ports
}

// overlapping draws addresses of few bits, so that prefixes overlap.
func overlapping(rnd *rand.Rand) netip.Addr {
	if rnd.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, byte(rnd.IntN(4)), byte(rnd.IntN(4)) << 6, byte(rnd.IntN(256))})
	}
	a := netip.MustParseAddr("2001:db8::").As16()
	a[4], a[9], a[15] = byte(rnd.IntN(4)), byte(rnd.IntN(2))<<7, byte(rnd.IntN(256))
	return netip.AddrFrom16(a)
}

// randomRoutes draws routes of all kinds; each has a port of its own or one of few.
func randomRoutes(t *testing.T, rnd *rand.Rand) (routes []Route) {
	for range rnd.IntN(20) * (1 + rnd.IntN(5)) { // of one length more than fewPrefixes, too
		a := overlapping(rnd)
		p, err := a.Prefix([]int{0, 8, 12, 20, 32}[rnd.IntN(5)])
		if err != nil {
			t.Fatal(err)
		}
		r := Route{Prefix: p, Port: uint16(1 + rnd.IntN(6)), Metric: uint32(rnd.IntN(3)), Weight: uint32(rnd.IntN(4)), Down: rnd.IntN(4) == 0}
		if rnd.IntN(3) == 0 {
			from := overlapping(rnd)
			for from.Is4() != a.Is4() {
				from = overlapping(rnd)
			}
			if r.Only.From, err = from.Prefix(8 + rnd.IntN(8)); err != nil {
				t.Fatal(err)
			}
		}
		if rnd.IntN(4) == 0 {
			r.Only.Area = AreaNumber(uint8(rnd.IntN(2)))
		}
		if rnd.IntN(4) == 0 {
			r.Only.Mark, r.Only.MarkMask = uint32(rnd.IntN(4)), uint32(rnd.IntN(4))
		}
		r.Only.Mark &= r.Only.MarkMask
		routes = append(routes, r)
	}
	return routes
}

func TestTableAgreesWithItsSlowTwin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		routes := randomRoutes(t, rnd)
		table := mustTable(t, routes...)
		for range 100 {
			dst, src, area, mark := overlapping(rnd), overlapping(rnd), Area(rnd.IntN(3)), uint32(rnd.IntN(4))
			to, from := tuple.AddrFrom(dst), tuple.AddrFrom(src)
			got, ok := table.Choose(&Query{&to, &from, area, mark, rnd.Uint64()})
			want := slowChoices(routes, dst, src, area, mark)
			if ok != (len(want) > 0) || ok && !slices.ContainsFunc(want, func(r Route) bool { return r.Port == got.Port }) {
				t.Fatalf("%v from %v, area %d, mark %d: port %d (%v), slow twin says %v\n%v", dst, src, area, mark, got.Port, ok, want, routes)
			}
			feasible := slowFeasible(routes, dst)
			for port := range uint16(8) {
				way, is := table.Through(&to, port)
				if is != feasible[port] || is != None && way.Port != port || table.Reaches(&to, port) != (is != None) {
					t.Fatalf("%v by port %d: %v, slow twin says %v\n%v", dst, port, is, feasible[port], routes)
				}
				if _, stays := table.Stay(&to, port, new(tuple.Addr)); stays != (feasible[port] == Up) {
					t.Fatalf("%v by port %d: may stay %v, slow twin says %v\n%v", dst, port, stays, feasible[port], routes)
				}
			}
		}
	}
}

func TestOnlySomePackets(t *testing.T) {
	lan, guest := AreaNumber(1), AreaNumber(3)
	everywhere := prefix("0.0.0.0/0")
	table := mustTable(t,
		Route{Prefix: everywhere, Port: 1},
		Route{Prefix: everywhere, Port: 2, Only: Only{From: prefix("10.0.2.0/24")}},
		Route{Prefix: everywhere, Port: 3, Only: Only{Area: guest}},
		Route{Prefix: everywhere, Port: 4, Only: Only{Mark: 0x10, MarkMask: 0xf0}},
		Route{Prefix: prefix("10.0.0.0/16"), Port: 5},
		Route{Prefix: prefix("10.0.9.0/24"), Port: 6, Only: Only{Area: guest}},
	)
	for _, tt := range []struct {
		claim    string
		dst, src string
		area     Area
		mark     uint32
		port     uint16
	}{
		{"others take the route for all", "8.8.8.8", "10.0.1.5", lan, 0, 1},
		{"a source takes its own", "8.8.8.8", "10.0.2.5", lan, 0, 2},
		{"of two that fit, the first given", "8.8.8.8", "10.0.2.5", guest, 0, 2},
		{"an area takes its own", "8.8.8.8", "10.0.1.5", guest, 0, 3},
		{"a mark takes its own", "8.8.8.8", "10.0.1.5", lan, 0x1f, 4},
		{"another mark does not", "8.8.8.8", "10.0.1.5", lan, 0x2f, 1},
		{"a nearer network is not taken away", "10.0.1.1", "10.0.2.5", lan, 0, 5},
		{"unless a route of its own says so", "10.0.9.1", "10.0.1.5", guest, 0, 6},
		{"which is for no others", "10.0.9.1", "10.0.1.5", lan, 0, 5},
	} {
		if got, _ := table.Choose(&Query{Dst: at(tt.dst), Src: at(tt.src), Area: tt.area, Mark: tt.mark}); got.Port != tt.port {
			t.Errorf("%s: port %d, want %d", tt.claim, got.Port, tt.port)
		}
	}
}

func TestWeightsShareTheFlows(t *testing.T) {
	everywhere := prefix("0.0.0.0/0")
	table := mustTable(t, Route{Prefix: everywhere, Port: 1, Weight: 3}, Route{Prefix: everywhere, Port: 4}, Route{Prefix: everywhere, Port: 2, Weight: 1}, Route{Prefix: everywhere, Port: 3, Metric: 1, Weight: 100})
	rnd := rand.New(rand.NewPCG(3, 4))
	const flows = 40000
	taken := map[uint16]int{}
	for range flows {
		q := Query{Dst: at("8.8.8.8"), Hash: rnd.Uint64()}
		a, _ := table.Choose(&q)
		if b, _ := table.Choose(&q); a != b {
			t.Fatal("one flow takes two ways")
		}
		taken[a.Port]++
	}
	if share := float64(taken[1]) / flows; share < 0.74 || share > 0.76 || taken[1]+taken[2] != flows {
		t.Errorf("weights 3 and 1 share the flows %v", taken)
	}
}

func TestDownRoutes(t *testing.T) {
	everywhere := prefix("0.0.0.0/0")
	gw1, gw2 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	table := mustTable(t,
		Route{Prefix: everywhere, Port: 1, Gateway: gw1, Down: true},
		Route{Prefix: everywhere, Port: 2, Gateway: gw2, Metric: 10},
		Route{Prefix: prefix("10.0.0.0/8"), Port: 1, Gateway: gw1, Down: true},
	)
	for _, dst := range []string{"8.8.8.8", "10.1.1.1"} {
		if got, ok := table.Lookup(at(dst)); !ok || got.Port != 2 {
			t.Errorf("%s goes by port %d, want the one that is up", dst, got.Port)
		}
		if way, is := table.Through(at(dst), 1); is != Down || way.Gateway != tuple.AddrFrom(gw1) {
			t.Errorf("%s through port 1: %v, %v; want the way that is down", dst, way, is)
		}
		if _, ok := table.Stay(at(dst), 1, at(gw1.String())); ok {
			t.Errorf("a flow to %s stays on a way that is down", dst)
		}
		if _, ok := table.Stay(at(dst), 2, at(gw1.String())); ok {
			t.Errorf("a flow to %s stays with a gateway that is on another port", dst)
		}
		if !table.Reaches(at(dst), 1) || table.Reaches(at(dst), 3) {
			t.Errorf("%s: want packets from ports 1 and 2 only", dst)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	table := mustTable(t, Route{Prefix: prefix("0.0.0.0/0"), Port: 1}, Route{Prefix: prefix("10.0.0.0/8"), Port: 2})
	dst := addr("8.8.8.8")
	if n := testing.AllocsPerRun(100, func() { table.Lookup(&dst); table.Stay(&dst, 1, &dst); table.Through(&dst, 2) }); n != 0 {
		t.Errorf("%v allocations a lookup, want 0", n)
	}
}

// TestManyPrefixesOfOneLength: each is found, whether a level has few or many.
func TestManyPrefixesOfOneLength(t *testing.T) {
	for _, n := range []int{1, fewPrefixes, fewPrefixes + 1, 200} {
		var routes []Route
		for i := range n {
			routes = append(routes, Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16), Port: uint16(i + 1)})
		}
		table := mustTable(t, routes...)
		for i := range n {
			dst := tuple.AddrFrom4([4]byte{10, byte(i), 1, 2})
			hop, ok := table.Lookup(&dst)
			if !ok || hop.Port != uint16(i+1) {
				t.Errorf("of %d prefixes, the %dth leads to port %d (%v)", n, i, hop.Port, ok)
			}
		}
		if hop, ok := table.Lookup(at("11.0.1.2")); ok {
			t.Errorf("of %d prefixes one is for another network: port %d", n, hop.Port)
		}
	}
}

// BenchmarkChoose is a search that ends at the default route, after those of three other
// lengths.
func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{1, fewPrefixes, fewPrefixes + 1} {
		b.Run(fmt.Sprintf("prefixes=%d", n), func(b *testing.B) {
			routes := []Route{{Prefix: prefix("0.0.0.0/0"), Port: 1}}
			for i := range n {
				for _, bits := range []int{16, 24, 32} {
					routes = append(routes, Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), bits), Port: 2})
				}
			}
			table, err := NewTable(routes)
			if err != nil {
				b.Fatal(err)
			}
			q := Query{Dst: at("198.51.100.7"), Src: at("10.0.0.5")}
			for b.Loop() {
				if hop, ok := table.Choose(&q); !ok || hop.Port != 1 {
					b.Fatal(hop, ok)
				}
			}
		})
	}
}
