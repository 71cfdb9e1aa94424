package nat

import (
	"math/rand/v2"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func TestMapFindsWhatASlowWalkFinds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	byte4 := func(n int) tuple.Addr { return tuple.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }
	for range 300 {
		var entries []Entry[int]
		for at := rnd.IntN(4); at < 40; at += 1 + rnd.IntN(3) {
			last := at + rnd.IntN(3)
			for port := rnd.IntN(3); port < 20; port += 1 + rnd.IntN(4) {
				end := port + rnd.IntN(3)
				entries = append(entries, Entry[int]{AddrRange{byte4(at), byte4(last)}, PortRange{uint16(port), uint16(end)}, len(entries)})
				port = end
			}
			at = last
		}
		rnd.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		m, err := NewMap(entries)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			a, port := byte4(rnd.IntN(44)), uint16(rnd.IntN(24))
			var want *int
			for i := range entries {
				if e := &entries[i]; e.Addrs.Contains(a) && e.Ports.Contains(port) {
					want = &e.To
				}
			}
			if got := m.Lookup(&a, port); (got == nil) != (want == nil) || got != nil && *got != *want {
				t.Fatalf("%v port %d: found %v, want %v in %v", a, port, got, want, entries)
			}
		}
	}
}

func TestMapRefusesOverlaps(t *testing.T) {
	any4 := AddrRange{addr("0.0.0.0"), addr("255.255.255.255")}
	for _, tt := range []struct {
		claim string
		a, b  Entry[int]
	}{
		{"a range inside another", Entry[int]{Addrs: any4, Ports: AnyPort}, Entry[int]{Addrs: prefix("10.0.0.0/8"), Ports: AnyPort}},
		{"ranges that cross", Entry[int]{Addrs: AddrRange{addr("10.0.0.1"), addr("10.0.0.5")}}, Entry[int]{Addrs: AddrRange{addr("10.0.0.5"), addr("10.0.0.9")}}},
		{"ports that cross", Entry[int]{Addrs: any4, Ports: PortRange{1, 5}}, Entry[int]{Addrs: any4, Ports: PortRange{5, 9}}},
		{"one key twice", Entry[int]{Addrs: any4, Ports: PortRange{1, 5}}, Entry[int]{Addrs: any4, Ports: PortRange{1, 5}}},
	} {
		for _, order := range [][]Entry[int]{{tt.a, tt.b}, {tt.b, tt.a}} {
			if _, err := NewMap(order); err == nil {
				t.Errorf("%s is accepted", tt.claim)
			}
		}
	}
}

func TestMapOfTranslations(t *testing.T) {
	inside := Source{Ports: PortRange{2000, 3000}}
	m, err := NewMap([]Entry[Source]{
		{prefix("10.0.0.0/24"), AnyPort, Source{Addrs: []AddrRange{prefix("192.0.2.0/24")}, Fit: KeepBits}},
		{prefix("10.0.1.0/24"), AnyPort, Source{Addrs: []AddrRange{{addr("192.0.2.1"), addr("192.0.2.1")}}, Ports: PortRange{5000, 5000}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	inside.Map = m
	if inside.Masquerade() {
		t.Error("a map is taken for masquerade")
	}
	for _, tt := range []struct {
		src, want string
		port      uint16
	}{{"10.0.0.7", "192.0.2.7", 40000}, {"10.0.1.7", "192.0.2.1", 5000}} {
		f := flow(tuple.UDP, tt.src, 40000)
		c := inside.For(&f).Search(f, tuple.Addr{}, 1)
		if got, _, ok := c.Next(); !ok || got.Src != addr(tt.want) || got.SrcPort != tt.port {
			t.Errorf("%s leaves as %v", tt.src, got)
		}
	}
	f := flow(tuple.UDP, "10.0.2.7", 1)
	if s := inside.For(&f); s != nil {
		t.Errorf("an address without a key has %v", s)
	}
	if got := len(inside.Targets()); got != 2 {
		t.Errorf("%d targets, want 2", got)
	}
	seen := 0
	inside.Each(func(s *Source) { seen++; s.Flags |= RFC })
	if f = flow(tuple.UDP, "10.0.1.7", 1); seen != 3 || inside.For(&f).Flags&RFC == 0 {
		t.Errorf("Each saw %d sources, want the rule's and two of the map", seen)
	}
}
