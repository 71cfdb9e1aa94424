package nat

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func prefix(s string) AddrRange {
	p := netip.MustParsePrefix(s)
	first := p.Addr().As16()
	last, bits := first, p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := bits; i < 128; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return AddrRange{first, last}
}

func TestNetmapKeepsHostBits(t *testing.T) {
	for _, tt := range []struct{ from, to, addr, want string }{
		{"10.0.0.0/24", "192.0.2.0/24", "10.0.0.77", "192.0.2.77"},
		{"10.0.0.0/8", "11.0.0.0/8", "10.1.2.3", "11.1.2.3"},
		{"10.0.0.16/29", "192.0.2.8/29", "10.0.0.21", "192.0.2.13"},
		{"10.0.0.1/32", "192.0.2.8/32", "10.0.0.1", "192.0.2.8"},
		{"fd00:1::/64", "2001:db8:7:8::/64", "fd00:1::1:2:3", "2001:db8:7:8:0:1:2:3"},
		{"fd00::/60", "2001:db8:7:20::/60", "fd00:0:0:5::1", "2001:db8:7:25::1"},
	} {
		from, to := prefix(tt.from), prefix(tt.to)
		got, ok := KeepBits.netmap(addr(tt.addr), &from, &to)
		if !ok || got != addr(tt.want) {
			t.Errorf("%s in %s becomes %v, want %s", tt.addr, tt.to, got, tt.want)
		}
		if back, _ := KeepBits.netmap(got, &to, &from); back != addr(tt.addr) {
			t.Errorf("%v becomes %v on the way back, want %s", got, back, tt.addr)
		}
	}
}

// The example of RFC 6296, section 3.4, and what the sections after it ask for.
func TestPrefixTranslation(t *testing.T) {
	for _, tt := range []struct{ claim, from, to, addr, want string }{
		{"the subnet number takes the difference", "fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:1::1234", "2001:db8:1:d550::1234"},
		{"a shorter prefix changes the subnet number, too", "fd00::/32", "2001:db8::/32", "fd00:0:5:1::1", "2001:db8:5:cf48::1"},
		{"a longer prefix changes the identifier", "fd00:1:2:3::/64", "2001:db8:2:3::/64", "fd00:1:2:3::1", "2001:db8:2:3:cf48::1"},
		{"words of all ones are passed over", "fd00:1:2:3::/64", "2001:db8:2:3::/64", "fd00:1:2:3:ffff:ffff:0:1", "2001:db8:2:3:ffff:ffff:cf48:1"},
		{"no subnet has the number ffff", "fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:ffff::1", ""},
		{"an identifier of all ones has no other form", "fd00:1:2:3::/64", "2001:db8:2:3::/64", "fd00:1:2:3:ffff:ffff:ffff:ffff", ""},
	} {
		from, to := prefix(tt.from), prefix(tt.to)
		got, ok := Neutral.netmap(addr(tt.addr), &from, &to)
		if !ok && tt.want == "" {
			continue
		}
		if !ok || tt.want == "" || got != addr(tt.want) {
			t.Errorf("%s: %s becomes %v, %v; want %q", tt.claim, tt.addr, got, ok, tt.want)
		}
	}
}

// RFC 6296 section 2.6: the sum over the address is the same, and the other
// direction undoes the translation.
func TestPrefixTranslationIsNeutralAndReversible(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		bits := 16 + rnd.IntN(49)
		from, to := randomPrefix(rnd, bits), randomPrefix(rnd, bits)
		a, _ := KeepBits.netmap(randomAddr(rnd), nil, &from)
		got, ok := Neutral.netmap(a, &from, &to)
		if !ok {
			if bits <= 48 != (a[6]&a[7] == 0xff) {
				t.Fatalf("%v of /%d has no other address", a, bits)
			}
			continue
		}
		if !to.Contains(got) {
			t.Fatalf("%v of %v becomes %v, which is not in %v", a, from, got, to)
		}
		if before, after := sum(&a)%0xffff, sum(&got)%0xffff; before != after {
			t.Fatalf("%v with sum %#x becomes %v with sum %#x", a, before, got, after)
		}
		if back, ok := Neutral.netmap(got, &to, &from); !ok || back != a {
			t.Fatalf("%v becomes %v and then %v", a, got, back)
		}
	}
}

func sum(a *tuple.Addr) (s uint64) {
	for i := 0; i < len(a); i += 2 {
		s += uint64(a[i])<<8 | uint64(a[i+1])
	}
	return s
}

func randomAddr(rnd *rand.Rand) (a tuple.Addr) {
	for i := range a {
		a[i] = byte(rnd.Uint32())
		if rnd.IntN(3) == 0 {
			a[i] = 0xff // words of all ones are what the rules are about
		}
	}
	return a
}

func randomPrefix(rnd *rand.Rand, bits int) AddrRange {
	return prefix(netip.PrefixFrom(randomAddr(rnd).Netip(), bits).Masked().String())
}

func TestNetmapOfAFlow(t *testing.T) {
	from, to := prefix("10.0.0.0/24"), prefix("192.0.2.0/24")
	s := Source{Addrs: []AddrRange{to}, Fit: KeepBits}
	c := s.Search(flow(tuple.TCP, "10.0.0.9", 40000), tuple.Addr{}, 1)
	got, why, ok := c.Next()
	if !ok || got.Src != addr("192.0.2.9") || got.SrcPort != 40000 || why != Preserved {
		t.Errorf("first candidate %v, %v", got, why)
	}
	for n := 1; ; n++ {
		got, _, ok := c.Next()
		if !ok {
			if n != 64512 {
				t.Errorf("%d candidates, want one for each port", n)
			}
			break
		}
		if got.Src != addr("192.0.2.9") {
			t.Fatalf("candidate %v has another address", got)
		}
	}
	d := Destination{Addrs: []AddrRange{from}, Fit: KeepBits}
	back := flow(tuple.TCP, "198.51.100.7", 1)
	back.Dst = addr("192.0.2.9")
	if got, why := d.Apply(back, tuple.Addr{}, 1, 0); got.Dst != addr("10.0.0.9") || why != Preserved {
		t.Errorf("destination %v, %v", got, why)
	}
}

func TestNetmapAllowsAHostItsOwnAddressOnly(t *testing.T) {
	s := Source{Addrs: []AddrRange{prefix("192.0.2.0/24")}, Fit: KeepBits}
	own, ok := s.Netmapped(addr("10.0.0.9"))
	if !ok || own != addr("192.0.2.9") {
		t.Fatalf("10.0.0.9 becomes %v", own)
	}
	for a, want := range map[string]bool{"192.0.2.9": true, "192.0.2.8": false, "198.51.100.9": false} {
		if got := s.AllowsAddr(addr(a), own); got != want {
			t.Errorf("%s for the host with %v: %v, want %v", a, own, got, want)
		}
	}
}

func TestPrefixTranslationNeverMovesPorts(t *testing.T) {
	s := Source{Addrs: []AddrRange{prefix("2001:db8:1::/48")}, Fit: Neutral, From: prefix("fd01:203:405::/48")}
	c := s.Search(flow(tuple.UDP, "fd01:203:405:1::1234", 99), tuple.Addr{}, 1)
	got, _, ok := c.Next()
	if !ok || got.Src != addr("2001:db8:1:d550::1234") || got.SrcPort != 99 {
		t.Errorf("candidate %v, %v", got, ok)
	}
	if again, _, more := c.Next(); more {
		t.Errorf("a second candidate: %v", again)
	}
	c = s.Search(flow(tuple.UDP, "fd01:203:405:ffff::1", 99), tuple.Addr{}, 1)
	if !c.Empty() {
		t.Error("an address that cannot be translated has a candidate")
	}
}
