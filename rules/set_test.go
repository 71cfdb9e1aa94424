package rules

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

func addr(s string) *tuple.Addr {
	a := tuple.AddrFrom(netip.MustParseAddr(s))
	return &a
}

func TestAddrSetHasItsBorders(t *testing.T) {
	s := NewAddrSet(ranges([]string{"0.0.0.0/8", "10.0.0.4/30", "10.0.0.8/32", "255.255.255.255/32", "::/128", "fd00::/64", "ffff::/16"}))
	for a, want := range map[string]bool{
		"0.0.0.0": true, "0.255.255.255": true, "1.0.0.0": false,
		"10.0.0.3": false, "10.0.0.4": true, "10.0.0.8": true, "10.0.0.9": false,
		"255.255.255.254": false, "255.255.255.255": true,
		"::": true, "::1": false, "fd00::": true, "fd00::ffff:ffff:ffff:ffff": true, "fd00:0:0:1::": false,
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": true, "fffe::": false,
	} {
		if got := s.Has(addr(a)); got != want {
			t.Errorf("has %s: %v, want %v", a, got, want)
		}
	}
	if s.Len() != 6 { // 10.0.0.4/30 and 10.0.0.8 touch
		t.Errorf("%d ranges, want 6", s.Len())
	}
	if (&AddrSet{}).Has(addr("10.0.0.1")) || NewAddrSet(nil).Has(addr("::1")) {
		t.Error("an empty set has something")
	}
}

// A set agrees with a list of its ranges, below and above the size from which on
// it has an index, and gives back what it holds.
func TestAddrSetAgreesWithAList(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	for _, n := range []int{1, 10, 300, 3 * indexed} {
		var list []nat.AddrRange
		spread := uint32(1) << (8 + r.IntN(24))
		for range n {
			list = append(list, randomRange(r, spread))
		}
		s := NewAddrSet(list)
		if n > indexed && spread > 1<<20 && s.first == nil {
			t.Errorf("%d ranges have no index", len(s.v4))
		}
		again := NewAddrSet(collect(s))
		for range min(2000, 200000/n) {
			a := randomRange(r, spread).First
			want := false
			for i := range list {
				want = want || naiveIn(list[i], a)
			}
			if got := s.Has(&a); got != want || again.Has(&a) != want {
				t.Fatalf("%d ranges: has %v: %v, want %v", n, a, got, want)
			}
		}
	}
}

func collect(s *AddrSet) (all []nat.AddrRange) {
	s.Ranges(func(r nat.AddrRange) bool {
		all = append(all, r)
		return true
	})
	return all
}

func randomRange(r *rand.Rand, spread uint32) nat.AddrRange {
	first := r.Uint32N(spread)
	last := first + r.Uint32N(1+spread/256)
	if r.IntN(4) == 0 {
		a := [16]byte{0: 0x20, 4: byte(first >> 24), 5: byte(first >> 16), 8: byte(first >> 8), 15: byte(first)}
		b := a
		b[15] |= 7
		return nat.AddrRange{First: tuple.AddrFrom(netip.AddrFrom16(a)), Last: tuple.AddrFrom(netip.AddrFrom16(b))}
	}
	four := func(v uint32) tuple.Addr {
		return tuple.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	return nat.AddrRange{First: four(first), Last: four(last)}
}

func TestCompileRefusesUnfitSets(t *testing.T) {
	for _, c := range []Conditions{
		{Src: Match[nat.AddrRange]{Sets: []string{"none"}}},
		{Dst: Match[nat.AddrRange]{Sets: []string{"ports"}}},
		{DstPort: Match[nat.PortRange]{Sets: []string{"nets"}}},
		{In: Match[string]{Sets: []string{"nets"}}},
	} {
		spec := &Spec{Areas: testAreas(), Sets: testSets()}
		spec.Lists[Filter] = []RuleSpec{{If: c, Then: ActDrop}}
		if _, err := Compile(spec, &Binding{testPorts}, 1); err == nil {
			t.Errorf("%s compiles", spec.Lists[Filter][0].Text())
		}
	}
}

// A million prefixes cost about what a few do, and nothing for the collector.
func BenchmarkAddrSet(b *testing.B) {
	r := rand.New(rand.NewPCG(17, 18))
	for _, n := range []int{10, 1000, 1 << 20} {
		list := make([]nat.AddrRange, n)
		for i := range list {
			v := r.Uint32()
			list[i] = Prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), 24+i%9).Masked())
		}
		s := NewAddrSet(list)
		probes := make([]tuple.Addr, 4096)
		for i := range probes {
			v := r.Uint32()
			probes[i] = tuple.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		}
		b.Run(sizeName(n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				s.Has(&probes[i%len(probes)])
			}
		})
	}
}

func sizeName(n int) string {
	if n == 1<<20 {
		return "prefixes=1M"
	}
	return map[int]string{10: "prefixes=10", 1000: "prefixes=1000"}[n]
}
