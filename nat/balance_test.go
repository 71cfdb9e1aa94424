package nat

import (
	"math"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func backends(weights ...uint16) (all []Backend) {
	for i, w := range weights {
		all = append(all, Backend{Addr: tuple.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Port: 8080, Weight: w})
	}
	return all
}

// client returns a flow of client n, its own port and one of 50 servers.
func client(n, flow int) tuple.Tuple {
	return tuple.Tuple{
		Src: tuple.AddrFrom4([4]byte{192, byte(n >> 16), byte(n >> 8), byte(n)}), SrcPort: uint16(1024 + flow),
		Dst: tuple.AddrFrom4([4]byte{203, 0, 113, byte(flow % 50)}), DstPort: 80, Proto: tuple.TCP, Family: tuple.IPv4,
	}
}

func TestBalanceFollowsWeights(t *testing.T) {
	const flows = 40000
	for _, by := range []BalanceBy{ByClient, ByFlow, RoundRobin} {
		d := Destination{Balance: &Balance{backends(1, 2, 5), by}}
		got := map[tuple.Addr]int{}
		for i := range flows {
			to, why := d.Apply(client(i, i), tuple.Addr{}, 0, uint64(i))
			if to.DstPort != 8080 || why != Fixed {
				t.Fatalf("port %d (%v)", to.DstPort, why)
			}
			got[to.Dst]++
		}
		for _, b := range d.Balance.Backends {
			want := flows * int(b.Weight) / 8
			if n := got[b.Addr]; math.Abs(float64(n-want)) > float64(want)/20 {
				t.Errorf("by %d: %v with weight %d has %d of %d flows, want about %d", by, b.Addr, b.Weight, n, flows, want)
			}
		}
	}
}

func TestAClientStaysWithItsBackend(t *testing.T) {
	b := Balance{Backends: backends(1, 1, 1, 1)}
	for c := range 100 {
		first := client(c, 0)
		want := b.pick(&first, 0)
		for flow := range 50 {
			if f := client(c, flow); b.pick(&f, uint64(flow)) != want {
				t.Fatalf("client %d moved with its flow %d", c, flow)
			}
		}
	}
}

func TestARemovedBackendMovesItsOwnClientsOnly(t *testing.T) {
	before := Balance{Backends: backends(3, 1, 2, 1)}
	after := Balance{Backends: append(backends(3), backends(3, 1, 2, 1)[2:]...)}
	moved := 0
	for c := range 5000 {
		f := client(c, c)
		old, now := before.pick(&f, 0).Addr, after.pick(&f, 0).Addr
		if old == before.Backends[1].Addr {
			moved++
			continue
		}
		if old != now {
			t.Fatalf("client %d moved from %v to %v though that is still there", c, old, now)
		}
	}
	if moved < 500 {
		t.Errorf("only %d clients were with the removed backend", moved)
	}
}

func TestBackendsWithoutPortKeepThePackets(t *testing.T) {
	d := Destination{Balance: &Balance{Backends: []Backend{{Addr: addr("10.0.0.1"), Weight: 1}}}}
	if got, why := d.Apply(client(1, 1), tuple.Addr{}, 0, 0); got.DstPort != 80 || why != Preserved {
		t.Errorf("port %d (%v)", got.DstPort, why)
	}
	f := client(1, 1)
	f.Proto, f.DstPort = tuple.ICMP, 8<<8
	if got, why := d.Apply(f, tuple.Addr{}, 0, 0); got.DstPort != 8<<8 || why != AddressOnly || got.Dst != addr("10.0.0.1") {
		t.Errorf("ping becomes %v (%v)", got, why)
	}
}

func TestTranslationsDoNotAllocate(t *testing.T) {
	m, err := NewMap([]Entry[Destination]{{prefix("203.0.113.0/24"), AnyPort, Destination{Balance: &Balance{Backends: backends(1, 2, 3)}}}})
	if err != nil {
		t.Fatal(err)
	}
	d := Destination{Map: m}
	s := Source{Addrs: []AddrRange{prefix("2001:db8:1::/48")}, Fit: Neutral, From: prefix("fd01:203:405::/48")}
	f, f6 := client(1, 1), flow(tuple.UDP, "fd01:203:405:1::1234", 99)
	n := testing.AllocsPerRun(100, func() {
		d.For(&f).Apply(f, tuple.Addr{}, 0, 0)
		c := s.For(&f6).Search(f6, tuple.Addr{}, 1)
		c.Next()
	})
	if n != 0 {
		t.Errorf("%v allocations for a flow", n)
	}
}
