package route

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func addr(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }

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
			hop, ok := mustTable(t, tt.routes...).Lookup(addr(tt.dst))
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

// slowLookup is Lookup as RFC 1812 section 5.2.4.3 says it.
func slowLookup(routes []Route, dst netip.Addr) (best Route, ok bool) {
	for _, r := range routes {
		if !r.Prefix.Contains(dst) {
			continue
		}
		if !ok || r.Prefix.Bits() > best.Prefix.Bits() || r.Prefix.Bits() == best.Prefix.Bits() && r.Metric < best.Metric {
			best, ok = r, true
		}
	}
	return best, ok
}

func TestLookupAgreesWithItsSlowTwin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	// Addresses are drawn from few bits, so that prefixes overlap.
	draw := func() netip.Addr {
		if rnd.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(rnd.IntN(4)), byte(rnd.IntN(4)) << 6, byte(rnd.IntN(256))})
		}
		a := netip.MustParseAddr("2001:db8::").As16()
		a[4], a[9], a[15] = byte(rnd.IntN(4)), byte(rnd.IntN(2))<<7, byte(rnd.IntN(256))
		return netip.AddrFrom16(a)
	}
	for range 200 {
		var routes []Route
		for range rnd.IntN(40) {
			a := draw()
			p, err := a.Prefix(rnd.IntN(a.BitLen() + 1))
			if err != nil {
				t.Fatal(err)
			}
			routes = append(routes, Route{Prefix: p, Port: uint16(len(routes) + 1), Metric: uint32(rnd.IntN(3))})
		}
		table := mustTable(t, routes...)
		for range 100 {
			dst := draw()
			got, ok := table.Lookup(tuple.AddrFrom(dst))
			want, wantOK := slowLookup(routes, dst)
			if ok != wantOK || got.Port != want.Port {
				t.Fatalf("%v: port %d (%v), slow twin says %d (%v)\n%v", dst, got.Port, ok, want.Port, wantOK, routes)
			}
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	table := mustTable(t, Route{Prefix: prefix("0.0.0.0/0"), Port: 1}, Route{Prefix: prefix("10.0.0.0/8"), Port: 2})
	dst := addr("8.8.8.8")
	if n := testing.AllocsPerRun(100, func() { table.Lookup(dst) }); n != 0 {
		t.Errorf("%v allocations a lookup, want 0", n)
	}
}
