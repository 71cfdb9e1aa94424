package nat

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func addr(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }

func flow(proto uint8, src string, sport uint16) tuple.Tuple {
	return tuple.Tuple{
		Src: addr(src), Dst: addr("198.51.100.7"), SrcPort: sport, DstPort: 443,
		Proto: proto, Family: tuple.IPv4,
	}
}

// offer is one candidate.
type offer struct {
	addr tuple.Addr
	port uint16
}

// walk lists all candidates of c and fails on a repeat or a change of anything
// but the source.
func walk(t *testing.T, from tuple.Tuple, c Search) ([]offer, []Choice) {
	t.Helper()
	var offers []offer
	var whys []Choice
	type seenPorts [65536]bool
	seen := map[tuple.Addr]*seenPorts{}
	for cand, why, ok := c.Next(); ok; cand, why, ok = c.Next() {
		o := offer{cand.Src, cand.SrcPort}
		if seen[o.addr] == nil {
			seen[o.addr] = new(seenPorts)
		}
		if seen[o.addr][o.port] {
			t.Fatalf("%v is offered twice", o)
		}
		seen[o.addr][o.port] = true
		offers, whys = append(offers, o), append(whys, why)
		cand.Src, cand.SrcPort = from.Src, from.SrcPort
		if cand != from {
			t.Fatalf("candidate changes more than the source: %v, from %v", cand, from)
		}
	}
	if _, _, ok := c.Next(); ok {
		t.Fatal("the walk goes on after its end")
	}
	return offers, whys
}

// allowedPorts is the slow twin of Search: all ports that a rule allows, best
// group first. The own port is a group by itself when it may be kept.
func allowedPorts(proto uint8, own uint16, r PortRange, f Flags) (groups [][]uint16) {
	keep := f&(Random|FullyRandom) == 0 && (r.IsZero() || r.Contains(own))
	group := func(want func(p int) bool) {
		var g []uint16
		for p := range 65536 {
			inRange := r.IsZero() || r.Contains(uint16(p))
			if inRange && want(p) && !(keep && p == int(own)) {
				g = append(g, uint16(p))
			}
		}
		if len(g) > 0 {
			groups = append(groups, g)
		}
	}
	if keep {
		groups = append(groups, []uint16{own})
	}
	isHigh := func(p int) bool { return p >= 1024 }
	switch {
	case tuple.IsICMP(proto):
		group(func(int) bool { return true })
	case f&RFC != 0:
		class := func(p int) bool { return p > 0 && isHigh(p) == isHigh(int(own)) }
		parity := func(p int) bool { return uint16(p)&1 == own&1 }
		group(func(p int) bool { return class(p) && parity(p) })
		group(func(p int) bool { return class(p) && !parity(p) })
		if !r.IsZero() || own < 1024 {
			group(func(p int) bool { return p > 0 && !class(p) })
		}
	case !r.IsZero():
		group(func(int) bool { return true })
	case own < 512:
		group(func(p int) bool { return 1 <= p && p <= 511 })
		group(isHigh)
	case own < 1024:
		group(func(p int) bool { return 600 <= p && p <= 1023 })
		group(isHigh)
	default:
		group(isHigh)
	}
	return groups
}

func TestEveryAllowedPortIsOfferedOnceBestGroupFirst(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	protos := []uint8{tuple.TCP, tuple.UDP, tuple.UDPLite, tuple.SCTP, tuple.DCCP, tuple.ICMP, tuple.ICMPv6}
	owns := []uint16{0, 1, 80, 511, 512, 599, 600, 1023, 1024, 1025, 40000, 65535}
	for i := range 60 {
		proto, own := protos[rnd.IntN(len(protos))], owns[rnd.IntN(len(owns))]
		var r PortRange
		if i%2 == 0 {
			low := 1 + rnd.IntN(65535)
			high := low + rnd.IntN(65536-low)
			if i%4 == 0 {
				high = min(low+rnd.IntN(20), 65535)
			}
			r = PortRange{uint16(low), uint16(high)}
		}
		f := []Flags{0, Random, FullyRandom, RFC, RFC | Random}[rnd.IntN(5)]
		s := Source{Ports: r, Flags: f}
		ft := flow(proto, "10.0.0.5", own)
		offers, _ := walk(t, ft, s.Search(ft, addr("203.0.113.1"), rnd.Uint64()))
		name := fmt.Sprintf("%s port %d range %v flags %b", tuple.ProtoName(proto), own, r, f)

		at := 0
		for _, g := range allowedPorts(proto, own, r, f) {
			var want [65536]bool
			for _, p := range g {
				want[p] = true
			}
			if at+len(g) > len(offers) {
				t.Fatalf("%s: %d candidates, want more", name, len(offers))
			}
			for _, o := range offers[at : at+len(g)] {
				if !want[o.port] || o.addr != addr("203.0.113.1") {
					t.Fatalf("%s: %v %d is offered with a group that it is not in", name, o.addr, o.port)
				}
			}
			at += len(g)
		}
		if at != len(offers) {
			t.Fatalf("%s: %d candidates, want %d", name, len(offers), at)
		}
	}
}

func TestOneAddressCarries64512FlowsToOneDestination(t *testing.T) {
	var s Source
	from := flow(tuple.TCP, "10.0.0.5", 40000)
	offers, whys := walk(t, from, s.Search(from, addr("203.0.113.1"), 7))
	if len(offers) != 64512 {
		t.Errorf("%d candidates, want 64512", len(offers))
	}
	if offers[0].port != 40000 || whys[0] != Preserved || whys[1] != Class {
		t.Errorf("first is port %d (%v), then %v; want 40000 (preserved), then class", offers[0].port, whys[0], whys[1])
	}
}

func TestPoolIsUsedUpAddressByAddress(t *testing.T) {
	pool := []AddrRange{{addr("203.0.113.4"), addr("203.0.113.6")}, {addr("203.0.113.9"), addr("203.0.113.9")}}
	s := Source{Addrs: pool, Ports: PortRange{5000, 5009}}
	from := flow(tuple.UDP, "10.0.0.5", 5003)
	offers, whys := walk(t, from, s.Search(from, tuple.Addr{}, 3))
	if len(offers) != 40 {
		t.Fatalf("%d candidates, want 40", len(offers))
	}
	seen := map[tuple.Addr]bool{}
	for i := 0; i < 40; i += 10 {
		if whys[i] != Preserved || offers[i].port != 5003 {
			t.Errorf("address %v begins with port %d (%v), want 5003 (preserved)", offers[i].addr, offers[i].port, whys[i])
		}
		for _, o := range offers[i : i+10] {
			if o.addr != offers[i].addr {
				t.Errorf("%v comes before %v is used up", o.addr, offers[i].addr)
			}
		}
		seen[offers[i].addr] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d addresses were used, want 4", len(seen))
	}
}

func TestPersistentIgnoresTheDestination(t *testing.T) {
	pool := []AddrRange{{addr("203.0.113.0"), addr("203.0.113.255")}}
	addrs := func(f Flags) int {
		seen := map[tuple.Addr]bool{}
		for i := range 50 {
			from := flow(tuple.TCP, "10.0.0.5", 40000)
			from.Dst[15] = byte(i)
			c := (&Source{Addrs: pool, Flags: f}).Search(from, tuple.Addr{}, uint64(i))
			cand, _, _ := c.Next()
			seen[cand.Src] = true
		}
		return len(seen)
	}
	if n := addrs(Persistent); n != 1 {
		t.Errorf("a client had %d addresses with persistent, want 1", n)
	}
	if n := addrs(0); n < 20 {
		t.Errorf("50 destinations shared %d addresses, want them spread", n)
	}
}

func TestPoolOfAPrefixIsSpreadEvenly(t *testing.T) {
	s := Source{Addrs: []AddrRange{{addr("2001:db8::"), addr("2001:db8::3")}}}
	count := map[tuple.Addr]int{}
	for i := range 4000 {
		from := tuple.Tuple{Src: addr("fd00::5"), Dst: addr("2001:db8:1::1"), SrcPort: 40000, DstPort: 443, Proto: tuple.TCP, Family: tuple.IPv6}
		from.Src[14], from.Src[15] = byte(i>>8), byte(i)
		c := s.Search(from, tuple.Addr{}, 0)
		cand, _, _ := c.Next()
		count[cand.Src]++
	}
	for a, n := range count {
		if n < 800 || n > 1200 {
			t.Errorf("%v got %d of 4000 clients, want about 1000", a, n)
		}
	}
}

func TestSameSeedSameOrder(t *testing.T) {
	s := Source{Ports: PortRange{1024, 2047}, Flags: Random}
	from := flow(tuple.TCP, "10.0.0.5", 40000)
	a, _ := walk(t, from, s.Search(from, addr("203.0.113.1"), 42))
	b, _ := walk(t, from, s.Search(from, addr("203.0.113.1"), 42))
	c, _ := walk(t, from, s.Search(from, addr("203.0.113.1"), 43))
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Error("one seed gave two orders")
	}
	if fmt.Sprint(a) == fmt.Sprint(c) {
		t.Error("two seeds gave one order")
	}
}

func TestCopyForksTheWalk(t *testing.T) {
	from := flow(tuple.TCP, "10.0.0.5", 40000)
	a := (&Source{}).Search(from, addr("203.0.113.1"), 42)
	a.Next()
	b := a
	x, _, _ := a.Next()
	y, _, _ := b.Next()
	if x != y {
		t.Errorf("copies went on with %v and %v", x, y)
	}
}

func TestStartsAreSpreadOverTheRange(t *testing.T) {
	s := Source{Ports: PortRange{10000, 10009}, Flags: Random}
	from := flow(tuple.TCP, "10.0.0.5", 40000)
	count := map[uint16]int{}
	for i := range 10000 {
		c := s.Search(from, addr("203.0.113.1"), uint64(i))
		cand, _, _ := c.Next()
		count[cand.SrcPort]++
	}
	for p := uint16(10000); p < 10010; p++ {
		if count[p] < 850 || count[p] > 1150 {
			t.Errorf("port %d came first %d times of 10000, want about 1000", p, count[p])
		}
	}
}

func TestProtocolsWithoutPortsHaveOneCandidate(t *testing.T) {
	for _, proto := range []uint8{50, 51, 4, tuple.GRE} {
		from := flow(proto, "10.0.0.5", 0)
		from.DstPort = 0
		offers, whys := walk(t, from, (&Source{Ports: PortRange{5, 9}}).Search(from, addr("203.0.113.1"), 1))
		if len(offers) != 1 || offers[0] != (offer{addr("203.0.113.1"), 0}) || whys[0] != AddressOnly {
			t.Errorf("protocol %d: %v %v, want the address alone", proto, offers, whys)
		}
	}
}

func TestGRECallIDsAreKeptOrMoved(t *testing.T) {
	from := flow(tuple.GRE, "10.0.0.5", 7)
	offers, whys := walk(t, from, (&Source{}).Search(from, addr("203.0.113.1"), 1))
	if len(offers) != 65535 || offers[0].port != 7 || whys[0] != Preserved {
		t.Errorf("%d candidates, first %v (%v); want 65535, first call id 7", len(offers), offers[0], whys[0])
	}
}

func TestNullBindingKeepsTheAddress(t *testing.T) {
	from := flow(tuple.UDP, "10.0.0.5", 40000)
	offers, whys := walk(t, from, NullSearch(from, 9))
	if offers[0].port != 40000 || whys[0] != Preserved || len(offers) != 64512 {
		t.Errorf("%d candidates, first port %d (%v); want 64512, first 40000 (preserved)", len(offers), offers[0].port, whys[0])
	}
	for _, o := range offers {
		if o.addr != from.Src {
			t.Fatalf("null binding offers %v", o.addr)
		}
	}
}

func TestZeroSearchHasNoCandidates(t *testing.T) {
	var c Search
	if _, _, ok := c.Next(); ok {
		t.Error("zero Search offers something")
	}
}

func TestSearchDoesNotAllocate(t *testing.T) {
	s := Source{Addrs: []AddrRange{{addr("203.0.113.4"), addr("203.0.113.6")}}}
	from := flow(tuple.TCP, "10.0.0.5", 40000)
	if n := testing.AllocsPerRun(100, func() {
		c := s.Search(from, tuple.Addr{}, 5)
		for range 10 {
			c.Next()
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkSearchFirst(b *testing.B) {
	var s Source
	from, egress := flow(tuple.TCP, "10.0.0.5", 40000), addr("203.0.113.1")
	for i := range b.N {
		c := s.Search(from, egress, uint64(i))
		c.Next()
	}
}

// TestAvoidedPortsAreLeftOut compares a search that avoids ports with one that
// does not, of which these are struck out.
func TestAvoidedPortsAreLeftOut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		from := flow(tuple.UDP, "10.0.0.5", uint16(rnd.Uint32()))
		src := Source{Addrs: []AddrRange{{addr("203.0.113.1"), addr("203.0.113.1")}}}
		if rnd.IntN(2) == 0 {
			src.Flags |= RFC
		}
		if rnd.IntN(2) == 0 {
			src.Ports.First = uint16(1 + rnd.IntN(60000))
			src.Ports.Last = src.Ports.First + uint16(rnd.IntN(5000))
		}
		var a, b PortSet
		free := rnd.IntN(50)
		for p := range 65536 {
			switch {
			case rnd.IntN(65536) < free*free:
			case rnd.IntN(2) == 0:
				a.Add(uint16(p))
			default:
				b.Add(uint16(p))
			}
		}
		seed := rnd.Uint64()
		all, _ := walk(t, from, src.Search(from, tuple.Addr{}, seed))
		var want []offer
		for i, o := range all {
			if !a.Has(o.port) && !b.Has(o.port) || i == 0 && o.port == from.SrcPort {
				want = append(want, o)
			}
		}
		c := src.Search(from, tuple.Addr{}, seed)
		c.Avoid(&a, nil, &b)
		got, _ := walk(t, from, c)
		if !slices.Equal(got, want) {
			t.Fatalf("%d ports of %d, want %d: %v, want %v", len(got), len(all), len(want), got[:min(9, len(got))], want[:min(9, len(want))])
		}
	}
}

// A flow whose port is taken gets one of the same bucket, so that both its directions go
// to one worker; not where ports are to be hard to guess, or next to each other.
func TestANewPortKeepsTheBucketOfTheOwnOne(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 1))
	tests := []struct {
		claim string
		ports PortRange
		flags Flags
		all   bool
	}{
		{"any port", PortRange{}, 0, true},
		{"next to the own one, of its parity", PortRange{}, RFC, false},
		{"of a range", PortRange{20000, 29999}, 0, true},
		{"hard to guess", PortRange{}, Random, false},
		{"fully random", PortRange{}, FullyRandom, false},
	}
	for _, tt := range tests {
		kept, starts := 0, map[uint16]bool{}
		const flows = 2000
		for range flows {
			own := uint16(1024 + rnd.IntN(64512))
			from := flow(tuple.UDP, "10.0.0.5", own)
			c := (&Source{Ports: tt.ports, Flags: tt.flags}).Search(from, addr("203.0.113.1"), rnd.Uint64())
			cand, why, _ := c.Next()
			if why == Preserved {
				cand, _, _ = c.Next()
			}
			if tuple.PortBucket(cand.SrcPort) == tuple.PortBucket(own) {
				kept++
			}
			starts[cand.SrcPort] = true
		}
		// At the ends of a range, and next to the own port, there may be none.
		if tt.all && kept < flows*97/100 || !tt.all && kept > flows/20 {
			t.Errorf("%s: %d of %d keep the bucket", tt.claim, kept, flows)
		}
		if len(starts) < flows/2 {
			t.Errorf("%s: %d flows begin at %d different ports", tt.claim, flows, len(starts))
		}
	}
}
