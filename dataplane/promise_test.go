package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// narrow masquerades to few ports under a mapping.
func narrow(mapping, filtering nat.Behaviour, first, last uint16) func(*rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		src := &s.Lists[rules.Snat][0].Src
		src.Mapping, src.Filtering = mapping, filtering
		src.Ports = nat.PortRange{First: first, Last: last}
	}
}

// TestAnnouncedPortsAreGoodWhenNearlyAllAreUsed: flows of other hosts come and go, all to
// the host that is told, at 99 % use of the ports. Whatever was told works, from any of
// its ports, until the flow has come.
func TestAnnouncedPortsAreGoodWhenNearlyAllAreUsed(t *testing.T) {
	const first, last, used = 40000, 40999, 990
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			l := parrotLab(t, labConfig{rules: narrow(k.mapping, k.filtering, first, last)}, alg.Options{})
			rnd := rand.New(rand.NewPCG(1, 7))
			var flows []tuple.Tuple // of others
			next := uint16(1024)
			begin := func() {
				next++
				from, to := netip.MustParseAddr("10.0.0.6"), uint16(7000+rnd.IntN(3))
				l.send("lan", udp(fmt.Sprintf("%v:%d", from, next), fmt.Sprintf("198.51.100.7:%d", to)))
				if len(l.ports["wan"].TakeFrames()) == 1 {
					flows = append(flows, tuple.Tuple{Src: tuple.AddrFrom(from), SrcPort: next, Dst: addr("198.51.100.7"), DstPort: to,
						Proto: tuple.UDP, Family: tuple.IPv4})
				}
				l.ports["lan"].TakeFrames()
			}
			end := func() {
				i := rnd.IntN(len(flows))
				if err := l.table.Delete(flows[i]); err != nil {
					t.Fatal(err)
				}
				flows[i] = flows[len(flows)-1]
				flows = flows[:len(flows)-1]
				l.step()
			}
			told := 0
			socket := uint16(2000)
			for range 300 {
				for len(flows) < used {
					begin()
				}
				for range 20 {
					end()
				}
				socket++
				l.now += int64(50 * time.Millisecond) // no flow expires
				said := strings.TrimSpace(l.say(fmt.Sprintf("@10.0.0.5:%d\n", socket)))
				for range 30 {
					begin()
				}
				if strings.HasPrefix(said, "!") {
					continue
				}
				told++
				from := fmt.Sprintf("198.51.100.7:%d", 7000+rnd.IntN(4))
				l.send("wan", udp(from, said))
				l.want("lan", fmt.Sprintf("udp %s > 10.0.0.5:%d ttl 63 len 0", from, socket))
				l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", socket), from))
				l.want("wan", fmt.Sprintf("udp %s > %s ttl 63 len 0", said, from))
				child := tuple.Tuple{Src: addr("198.51.100.7"), SrcPort: netip.MustParseAddrPort(from).Port(), Dst: addr("203.0.113.1"),
					DstPort: netip.MustParseAddrPort(said).Port(), Proto: tuple.UDP, Family: tuple.IPv4}
				if err := l.table.Delete(child); err != nil {
					t.Fatal(err)
				}
			}
			if told < 250 {
				t.Errorf("%d of 300 announcements found a port", told)
			}
		})
	}
}

// TestPromiseAndClaimNeverBothSucceed: a flow that claims a port and a helper that
// promises it, at the same time.
func TestPromiseAndClaimNeverBothSucceed(t *testing.T) {
	l := newLab(t, labConfig{table: func(c *conntrack.Config) { c.Workers = 2 }})
	terms, rounds := ports.Terms{}, 20000
	use := terms.Announced(ports.LinuxOnly)
	original := tuple.Tuple{Src: addr("10.0.0.6"), Dst: addr("198.51.100.7"), SrcPort: 1, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}
	reply := tuple.Tuple{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), SrcPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}
	var promised, claimed [2]bool
	var meet [2]sync.WaitGroup
	both, neither := 0, 0
	var turn sync.WaitGroup
	start := [2]chan int{make(chan int), make(chan int)}
	turn.Go(func() {
		w := l.e.Worker(0)
		for n := range start[0] {
			k := reply
			k.DstPort = uint16(1024 + n)
			f := ports.Flow{Proto: k.Proto, Inside: ports.Endpoint{Addr: addr("10.0.0.5"), Port: 6000},
				External: ports.Endpoint{Addr: k.Dst, Port: k.DstPort}, Remote: ports.Endpoint{Addr: k.Src}}
			out, _, _ := l.e.leases.Promise(&f, use, &terms, ports.Fits{}, 1)
			promised[0] = out == ports.Granted
			if promised[0] && w.e.table.Toward(&k) > 0 {
				promised[0] = false
				l.e.leases.Abandon(&f, use, 1)
			}
			meet[0].Done()
		}
	})
	turn.Go(func() {
		w := l.e.Worker(1)
		for n := range start[1] {
			w.begin(l.now)
			p := conntrack.Proposal{Original: original, Reply: reply, Status: conntrack.SrcNAT}
			p.Original.SrcPort, p.Reply.DstPort = uint16(1024+n), uint16(1024+n)
			ref, c := w.ct.Claim(&p, w.tick)
			claimed[1] = c == conntrack.Claimed
			if claimed[1] && w.promised(&p) {
				claimed[1] = false
				w.ct.Abort(ref)
			} else if claimed[1] {
				w.ct.Confirm(ref, w.tick)
			}
			w.park()
			meet[1].Done()
		}
	})
	for n := range rounds {
		meet[0].Add(1)
		meet[1].Add(1)
		start[n&1] <- n % 3000
		start[n&1^1] <- n % 3000
		meet[0].Wait()
		meet[1].Wait()
		switch {
		case promised[0] && claimed[1]:
			both++
		case !promised[0] && !claimed[1]:
			neither++
		}
		f := ports.Flow{Proto: tuple.UDP, Inside: ports.Endpoint{Addr: addr("10.0.0.5"), Port: 6000},
			External: ports.Endpoint{Addr: reply.Dst, Port: uint16(1024 + n%3000)}, Remote: ports.Endpoint{Addr: reply.Src}}
		if promised[0] {
			l.e.leases.Release(&f, use, 1)
		}
		if claimed[1] {
			k := original
			k.SrcPort = uint16(1024 + n%3000)
			if err := l.table.Delete(k); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(start[0])
	close(start[1])
	turn.Wait()
	if both > 0 {
		t.Errorf("in %d of %d rounds both got the port", both, rounds)
	}
	t.Logf("in %d rounds both gave way", neither)
}

// TestAnnouncedSocketsKeepTheirPort: the socket's own flows leave from it, to whoever it
// is free, and it is announced again as what it was.
func TestAnnouncedSocketsKeepTheirPort(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.send("lan", udp("10.0.0.6:6000", "198.51.100.7:7000")) // somebody has the port there
	l.want("wan", "udp 203.0.113.1:6000 > 198.51.100.7:7000 ttl 63 len 0")
	if got, want := l.say("@10.0.0.5:6000\n"), "203.0.113.1:6001\n"; got != want {
		t.Fatalf("the server was told %q, want %q", got, want)
	}
	l.send("lan", udp("10.0.0.5:6000", "198.51.100.7:7002")) // RTP is symmetric (RFC 4961)
	l.want("wan", "udp 203.0.113.1:6001 > 198.51.100.7:7002 ttl 63 len 0")
	l.send("lan", udp("10.0.0.5:6000", "198.51.100.9:7002"))
	l.want("wan", "udp 203.0.113.1:6001 > 198.51.100.9:7002 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:7000", "203.0.113.1:6001"))
	l.want("lan", "udp 198.51.100.7:7000 > 10.0.0.5:6000 ttl 63 len 0")
	if got, want := l.say("@10.0.0.5:6000\n"), "203.0.113.1:6001\n"; got != want {
		t.Errorf("while its flows live the server was told %q, want %q", got, want)
	}
}

// TestWhatIsAnnouncedIsGivenBack: an expectation that ends, however it does, leaves
// nothing behind.
func TestWhatIsAnnouncedIsGivenBack(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			l := parrotLab(t, labConfig{rules: narrow(k.mapping, k.filtering, 0, 0)}, alg.Options{})
			l.say("plain\n")
			before := l.e.leases.Len()
			l.say("@10.0.0.5:6000\n")
			l.say("@10.0.0.5:6001\n")
			l.say("@10.0.0.5:6002\n") // the first one gives way
			if l.e.leases.Len() == before {
				t.Error("nothing is held")
			}
			l.send("wan", udp("198.51.100.7:7000", "203.0.113.1:6001"))
			l.want("lan", "udp 198.51.100.7:7000 > 10.0.0.5:6001 ttl 63 len 0")
			l.table.Flush()
			l.step()
			if n := l.e.leases.Len(); n != 0 {
				t.Errorf("at the end %d leases are left", n)
			}
		})
	}
}

// TestAnnouncedPortsCountForTheirClient: with its quota a client is told of no more.
func TestAnnouncedPortsCountForTheirClient(t *testing.T) {
	l := parrotLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Snat][0].Src.PortsPerClient = 2
	}}, alg.Options{})
	if got, want := l.say("@10.0.0.5:6000\n"), "203.0.113.1:6000\n"; got != want {
		t.Fatalf("the server was told %q, want %q", got, want)
	}
	if got, want := l.say("@10.0.0.5:6001\n"), "!"+alg.ErrQuota.Error()+"\n"; got != want {
		t.Errorf("with two ports the server was told %q, want %q", got, want)
	}
	l.send("wan", udp("198.51.100.7:7000", "203.0.113.1:6000"))
	l.want("lan", "udp 198.51.100.7:7000 > 10.0.0.5:6000 ttl 63 len 0")
	if got, want := l.say("@10.0.0.5:6001\n"), "!"+alg.ErrQuota.Error()+"\n"; got != want {
		t.Errorf("while the flow lives the server was told %q, want %q", got, want)
	}
}
