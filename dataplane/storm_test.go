package dataplane

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// storm is what meets two workers at once: packets of few sockets, so that both meet
// the same flows, of every protocol, right and wrong, whole and in pieces.
type storm struct {
	inside, outside [][]byte // IP packets that arrive from there
}

func newStorm(r *rand.Rand) (s storm) {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	for range 512 {
		in := fmt.Sprintf("%s:%d", pick("10.0.0.5", "10.0.0.6", "10.0.0.7"), r.IntN(6))
		out := fmt.Sprintf("%s:%s", pick("198.51.100.7", "198.51.100.8"), pick("0", "53", "5000", "5000"))
		us := fmt.Sprintf("203.0.113.1:%d", []int{r.IntN(6), 1024 + r.IntN(64), 6000 + r.IntN(4), 8443}[r.IntN(4)])
		opts := func() []opt {
			return []opt{body(pick("a\n", "~\n", "#b\n", "@10.0.0.5:6000\n", "&10.0.0.6:6002\n", "half")), flags(uint8(r.IntN(64))), seq(r.Uint32N(40), r.Uint32N(40)), ipID(uint16(r.IntN(3)))}
		}
		one := func(src, dst string) []byte {
			switch r.IntN(8) {
			case 0:
				return [](func(string, string, uint16, ...opt) []byte){ping, pong}[r.IntN(2)](host(src), host(dst), uint16(r.IntN(3)))
			case 1:
				return icmpErrorAbout(host(src), host(dst), []uint8{3, 5, 11}[r.IntN(3)], uint8(r.IntN(5)), 1200, udp(dst, src))
			case 2:
				ip := udp(src, dst, length(100+r.IntN(200)), ipID(uint16(r.IntN(3))))
				parts := fragmentsOf(ip, 48)
				return parts[r.IntN(len(parts))]
			case 3, 4:
				return udp(src, dst, opts()...)
			case 5: // what a connection is made of
				return tcp(src, dst, flags([]uint8{packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST}[r.IntN(5)]), seq(r.Uint32N(3), r.Uint32N(3)))
			}
			return tcp(src, dst, opts()...)
		}
		s.inside, s.outside = append(s.inside, one(in, out)), append(s.outside, one(out, us))
	}
	return s
}

// host returns the address of an IPv4 socket.
func host(socket string) string {
	a, _, _ := strings.Cut(socket, ":")
	return a
}

// TestNothingBreaksUnderEverythingAtOnce has two workers meet each other's flows while
// rules change, commands end, mark and expect flows, and others list them. At the end
// the table is sound, ports are held by the flows there are, and every packet is
// accounted for.
func TestNothingBreaksUnderEverythingAtOnce(t *testing.T) {
	t.Run("linux", func(t *testing.T) { everythingAtOnce(t, conntrack.Linux, 1) })
	t.Run("rfc", func(t *testing.T) { everythingAtOnce(t, conntrack.RFC, 2) })
}

func everythingAtOnce(t *testing.T, profile conntrack.Profile, seed uint64) {
	set, helper := helperAt(t, 5000, parrot{}, alg.Options{})
	const began = 1<<32*int64(conntrack.TickLength) - int64(10*time.Second) // ticks wrap on the way
	const later = began + int64(200*time.Hour)
	const most = 100 // less than there would be, so that the table is full
	table, err := conntrack.New(conntrack.Config{Max: most, Workers: 2, Profile: profile, MaxExpect: 8, EventRing: 16, HelperName: set.Name, Timestamp: true})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{Workers: 2, Table: table, Seed: 1, Helpers: set, Pending: 16, Helper: helper})
	if err != nil {
		t.Fatal(err)
	}
	lan, wan := newPair("lan"), newPair("wan")
	l := &lab{TB: t, e: e, table: table}
	st := State{Ports: []PortConfig{
		{ID: lanID, Name: "lan", Port: lan, Addresses: prefixes("10.0.0.1/8")},
		{ID: wanID, Name: "wan", Port: wan, Addresses: prefixes("203.0.113.1/24")},
	}}
	st.Routes = l.routes(&st)
	edits := []func(*rules.Spec){everything, nil, zoneOfLAN, judging(rules.ActAccept, everything),
		translate(nat.EndpointIndependent, nat.EndpointIndependent, func(s *nat.Source) { s.Ports = nat.PortRange{First: 1024, Last: 1087} })}
	st.Program = l.program(&st, edits[0])
	if err := e.Apply(st); err != nil {
		t.Fatal(err)
	}
	for id, hosts := range map[uint16][]string{lanID: {"10.0.0.5", "10.0.0.6"}, wanID: {"203.0.113.254"}} { // 10.0.0.7 never answers
		for _, h := range hosts {
			e.neigh.Ask(id, addr(h), 1, began)
			e.NeighbourLearned(id, addr(h), macOf(addr(h)))
		}
	}
	slow := table.Subscribe(1, conntrack.AllEvents) // whose DESTROY events wait

	rounds := 200
	if testing.Short() {
		rounds = 50
	}
	var workers, others sync.WaitGroup
	for i := range 2 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		s := newStorm(r)
		from := func(b *bulk, packets [][]byte) {
			b.load(batchOf(make([]byte, 1600)), func(frames [][]byte) {
				for j := range frames {
					ip := packets[r.IntN(len(packets))]
					frames[j] = ethernet(b.info.MAC, macOf(sourceOf(ip)), ip)
				}
			})
		}
		from([...]*bulk{lan.bulk, lan.second}[i], s.inside)
		from([...]*bulk{wan.bulk, wan.second}[i], s.outside)
		workers.Go(func() {
			w, now := e.Worker(i), began
			for range rounds {
				now += r.Int64N(int64(300 * time.Millisecond))
				w.Step(now)
			}
			w.park()
		})
	}
	stop := make(chan struct{})
	until := func(f func(*rand.Rand)) {
		r := rand.New(rand.NewPCG(seed, 9))
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f(r)
				}
			}
		})
	}
	until(func(r *rand.Rand) { // commands
		var all []conntrack.Flow
		table.Dump(func(f *conntrack.Flow) bool {
			all = append(all, *f)
			return true
		})
		for i := range all {
			k := all[i].Tuple[r.IntN(2)]
			switch r.IntN(12) {
			case 0:
				_ = table.Delete(k) // it may be gone: that goes for all of these
			case 1:
				_ = table.SetMark(k, r.Uint32(), r.Uint32())
			case 2:
				_ = table.SetLabels(k, [2]uint64{r.Uint64()}, [2]uint64{r.Uint64()})
			case 3:
				_ = table.SetTimeout(k, conntrack.Ticks(time.Duration(r.IntN(100))*time.Second))
			case 4:
				_ = table.Update(k, &conntrack.Update{What: conntrack.ChangedStatus, Status: []conntrack.Status{conntrack.Assured, conntrack.FixedTimeout, conntrack.SeenReply}[r.IntN(3)]})
			case 5:
				x, ok := all[i].Tuple[0].Inverse()
				x.SrcPort, x.DstPort = 0, uint16(r.IntN(8))
				if ok {
					_ = table.CreateExpect(all[i].Tuple[0], conntrack.Expectation{Tuple: x, Mask: conntrack.WholeMask(0), Flags: conntrack.ExpectFlags(r.IntN(8))}, conntrack.Ticks(time.Second))
				}
			}
		}
		switch r.IntN(20) {
		case 0:
			table.Flush()
		case 1:
			table.FlushExpect()
		}
	})
	until(func(r *rand.Rand) { // reloads and neighbours
		before := e.Ruleset()
		st.Program = l.program(&st, edits[r.IntN(len(edits))])
		if err := e.Apply(st); err != nil {
			t.Error(err)
		}
		e.Settle(before, 0)
		e.NeighbourFailed(lanID, addr("10.0.0.7"))
		e.expireFragments()
	})
	until(func(*rand.Rand) { // who looks on
		for _, dump := range []func(func(*conntrack.Flow) bool){table.DumpDying, table.DumpUnconfirmed} {
			dump(func(*conntrack.Flow) bool { return true })
		}
		table.DumpExpect(func(*conntrack.Expect) bool { return true })
		table.Holders(3)
		e.Stats()
	})
	workers.Wait()
	close(stop)
	others.Wait()
	slow.Close()

	lan.idle, lan.second.idle, wan.idle, wan.second.idle = true, true, true, true
	e.NeighbourFailed(lanID, addr("10.0.0.7"))
	for i := range 2 {
		for e.Worker(i).Step(later) > 0 {
		}
	}
	e.expireFragments()
	for i := range 2 {
		for e.Worker(i).Step(later) > 0 {
		}
	}
	l.balance()
	for _, err := range table.Check(tickAt(later)) {
		t.Error(err)
	}
	checkLeases(t, e)
	s, c := e.Stats(), table.Stats()
	if s.Forwarded < s.Received/10 || c.Insert == 0 || c.Deleted == 0 || c.ClashResolve == 0 || c.EarlyDrop+c.TableFull+c.ClientFull == 0 {
		t.Errorf("the mixture is too hostile: forwarded %d of %d, %+v, dropped %v", s.Forwarded, s.Received, c, s.Dropped)
	}
	e.Close()
	if err := table.Close(); err != nil {
		t.Error(err)
	}
}
