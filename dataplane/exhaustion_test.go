package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// kinds are ways of mapping that find their ports differently.
var kinds = []struct {
	name               string
	mapping, filtering nat.Behaviour
}{
	{"linux", nat.Linux, nat.Linux},
	{"independent, independent", nat.EndpointIndependent, nat.EndpointIndependent},
	{"independent, by address", nat.EndpointIndependent, nat.AddressDependent},
	{"by address, independent", nat.AddressDependent, nat.EndpointIndependent},
	{"by address, by address", nat.AddressDependent, nat.AddressDependent},
	{"by port, by port", nat.AddressAndPortDependent, nat.AddressAndPortDependent},
}

// onePortEach is how many flows one address carries to one destination.
const onePortEach = 65536 - 1024

// crowd is an engine whose clients all want to one destination.
type crowd struct {
	testing.TB
	e   *Engine
	w   *Worker
	lan *bulk
	wan *bulk
	now int64
	one [][]byte
	dst uint32
}

func newCrowd(t testing.TB, m, f nat.Behaviour, more func(*nat.Source)) *crowd {
	c := &crowd{TB: t, now: 1e12, dst: 0xc6336407}
	c.e, c.lan, c.wan = bulkLabWith(t, 1<<17, func(s *rules.Spec) {
		masquerade(s)
		src := &s.Lists[rules.Snat][0].Src
		src.Mapping, src.Filtering = m, f
		if more != nil {
			more(src)
		}
	})
	c.w = c.e.Worker(0)
	c.one = batchOf(udp("10.0.0.5:1", "198.51.100.7:53", body("payload")))[:1]
	return c
}

// begin has flow n begin and reports whether it left.
func (c *crowd) begin(n uint32) bool {
	aim(c.one[0], n, c.dst)
	c.lan.load(c.one, nil)
	sent := c.wan.sent
	c.now += 1000
	c.w.Step(c.now)
	c.lan.idle = true
	return c.wan.sent > sent
}

// beginAll has the flows from first on begin, batch by batch, and returns how many
// left.
func (c *crowd) beginAll(first, n uint32) int {
	sent := c.wan.sent
	frames := batchOf(udp("10.0.0.5:1", "198.51.100.7:53", body("payload")))
	for end := first + n; first < end; {
		k := min(uint32(Batch), end-first)
		for i := range k {
			aim(frames[i], first, c.dst)
			first++
		}
		c.lan.load(frames[:k], nil)
		c.now += 20000
		c.w.Step(c.now)
	}
	c.lan.idle = true
	return c.wan.sent - sent
}

// end ends flow n.
func (c *crowd) end(n uint32) {
	c.Helper()
	k := tuple.Tuple{Src: tuple.AddrFrom4([4]byte{10, 0, 0, byte(5 + n/60000)}), SrcPort: uint16(1024 + n%60000),
		Dst: addr("198.51.100.7"), DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}
	if err := c.e.Table().Delete(k); err != nil {
		c.Fatal(err)
	}
	c.now += 1000
	c.w.Step(c.now) // gives the slot back
}

// portsToFill returns the ports of a rule, and how many they are: all of an address, with
// -short some thousands.
func portsToFill() (nat.PortRange, int) {
	if testing.Short() {
		r := nat.PortRange{First: 1024, Last: 5119}
		return r, r.Size()
	}
	return nat.PortRange{}, onePortEach
}

// TestEveryPortIsUsedBeforeTheFirstRefusal fills one address towards one
// destination, and finds the last free port again and again. With -short the rule
// has some thousands of ports only.
func TestEveryPortIsUsedBeforeTheFirstRefusal(t *testing.T) {
	ports, all := portsToFill()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			c := newCrowd(t, k.mapping, k.filtering, func(s *nat.Source) { s.Ports = ports })
			if n := c.beginAll(0, uint32(all)); n != all {
				t.Fatalf("%d flows left, want %d: %v", n, all, c.e.Stats().Dropped[PortsExhausted])
			}
			if c.begin(100000) {
				t.Error("one more flow left")
			}
			if n := c.e.Stats().Dropped[PortsExhausted]; n != 1 {
				t.Errorf("%d packets dropped for want of a port, want 1", n)
			}
			seen := map[uint16]bool{}
			c.e.Table().Dump(func(f *conntrack.Flow) bool {
				port := f.Tuple[tuple.Reply].DstPort
				if port < 1024 || seen[port] {
					t.Errorf("port %d is used twice, or not in range", port)
				}
				seen[port] = true
				return true
			})
			rnd := rand.New(rand.NewPCG(1, 1))
			for i := range uint32(200) { // the last one
				c.end(uint32(rnd.IntN(all/256))*256 + i)
				if !c.begin(100001 + i) {
					t.Fatalf("round %d: the one free port is not found", i)
				}
				if c.begin(110000) {
					t.Fatal("one more flow left")
				}
			}
			for _, err := range c.e.leases.Check() {
				t.Error(err)
			}
			c.e.Table().Flush()
			if n := c.e.leases.Len(); n != 0 {
				t.Errorf("%d leases without flows", n)
			}
		})
	}
}

// TestHoldDownUnderChurn ends and begins flows at the brim: kept ports go to
// nobody else, and come back when their time is over.
func TestHoldDownUnderChurn(t *testing.T) {
	c := newCrowd(t, nat.EndpointIndependent, nat.AddressDependent, func(s *nat.Source) {
		s.HoldDown = 120 * time.Second
		s.Ports = nat.PortRange{First: 2000, Last: 2999}
	})
	if n := c.beginAll(0, 1000); n != 1000 {
		t.Fatalf("%d flows left, want 1000", n)
	}
	for n := range uint32(100) {
		c.end(n)
	}
	if n := c.beginAll(60000, 100); n != 0 { // another client
		t.Errorf("%d kept ports went to another client", n)
	}
	if n := c.beginAll(50000, 50); n != 50 { // the same client, other sockets
		t.Errorf("the client got %d of its 100 ports back, want 50", n)
	}
	c.now += int64(121 * time.Second)
	for range 300 {
		c.now += int64(10 * time.Millisecond)
		c.w.Step(c.now)
	}
	if n := c.beginAll(60000, 100); n != 50 {
		t.Errorf("after the hold-down another client got %d ports, want 50", n)
	}
}

func TestQuotaOfPorts(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			c := newCrowd(t, k.mapping, k.filtering, func(s *nat.Source) { s.PortsPerClient = 10 })
			if n := c.beginAll(0, 50); n != 10 {
				t.Errorf("%d flows of one client left, want 10", n)
			}
			if n := c.e.Stats().Dropped[PortQuota]; n != 40 {
				t.Errorf("%d dropped for the quota, want 40", n)
			}
			if n := c.beginAll(60000, 5); n != 5 {
				t.Errorf("%d flows of another client left, want 5", n)
			}
			c.end(3)
			if !c.begin(20) || c.begin(21) {
				t.Error("one port of the quota was free, not none and not two")
			}
			c.e.Table().Flush()
			if n := c.e.leases.Len(); n != 0 {
				t.Errorf("%d leases without flows", n)
			}
		})
	}
}

func TestBlocksOfPorts(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			c := newCrowd(t, k.mapping, k.filtering, func(s *nat.Source) {
				s.BlockSize, s.MaxBlocks, s.Ports = 64, 2, nat.PortRange{First: 1024, Last: 1024 + 4*64 - 1}
			})
			blocksOf := func() map[tuple.Addr]map[uint16]bool {
				all := map[tuple.Addr]map[uint16]bool{}
				c.e.Table().Dump(func(f *conntrack.Flow) bool {
					who := f.Tuple[0].Src
					if all[who] == nil {
						all[who] = map[uint16]bool{}
					}
					all[who][f.Tuple[tuple.Reply].DstPort/64] = true
					return true
				})
				return all
			}
			if n := c.beginAll(0, 60); n != 60 {
				t.Fatalf("%d flows left, want 60", n)
			}
			if b := blocksOf()[addr("10.0.0.5")]; len(b) != 1 {
				t.Errorf("60 ports lie in %d blocks, want 1", len(b))
			}
			if n := c.beginAll(60, 100); n != 68 {
				t.Errorf("%d more flows left, want those of two blocks: 68", n)
			}
			if n := c.e.Stats().Dropped[PortBlocks]; n != 32 {
				t.Errorf("%d dropped for the blocks, want 32", n)
			}
			if n := c.beginAll(60000, 200); n != 128 {
				t.Errorf("%d flows of another client left, want 128", n)
			}
			if n := c.beginAll(120000, 10); n != 0 {
				t.Errorf("%d flows of a third client left, no block is free", n)
			}
			all := blocksOf()
			for b := range all[addr("10.0.0.5")] {
				if all[addr("10.0.0.6")][b] {
					t.Errorf("block %d is of two clients", b)
				}
			}
			var events []string
			for range 4 {
				e := <-c.e.leases.Events()
				events = append(events, fmt.Sprintf("%v %v %d", e.Kind, e.Client, e.Ports.Size()))
			}
			want := []string{"allocated 10.0.0.5 64", "allocated 10.0.0.5 64", "allocated 10.0.0.6 64", "allocated 10.0.0.6 64"}
			if !slices.Equal(events, want) {
				t.Errorf("told %q, want %q", events, want)
			}
			c.e.Table().Flush()
			for range 4 {
				if e := <-c.e.leases.Events(); e.Kind.String() != "released" {
					t.Errorf("told %+v, want a release", e)
				}
			}
			if n := c.e.leases.Len(); n != 0 {
				t.Errorf("%d leases without flows", n)
			}
			if n := c.beginAll(120000, 10); n != 10 {
				t.Errorf("%d flows of the third client left, want 10", n)
			}
		})
	}
}

// TestAllocationCostIsFlat compares the time that a new flow takes while a tenth of
// the ports is in use with that at 99 %. With -short, as under the race detector, it
// only wants every free port to be found.
func TestAllocationCostIsFlat(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			for try := range 3 {
				low, high := allocationCost(t, k.mapping, k.filtering, 10), allocationCost(t, k.mapping, k.filtering, 99)
				t.Logf("p99 %v at 10 %%, %v at 99 %%", low, high)
				if high <= 3*low || testing.Short() {
					return
				}
				if try == 2 {
					t.Errorf("p99 of a new flow: %v at 10 %% use, %v at 99 %%: more than three times as much", low, high)
				}
			}
		})
	}
}

// allocationCost returns the 99th percentile of the processor time of a first
// packet with so many percent of the ports in use.
func allocationCost(t testing.TB, m, f nat.Behaviour, percent int) time.Duration {
	ports, all := portsToFill()
	c := newCrowd(t, m, f, func(s *nat.Source) { s.Ports = ports })
	n := uint32(all * percent / 100)
	if left := c.beginAll(0, n); left != int(n) {
		t.Fatalf("%d flows left, want %d", left, n)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	rounds := min(3000, int(n))
	times := make([]time.Duration, rounds)
	for i := range times {
		c.end(uint32(i))
		before := threadTime()
		ok := c.begin(uint32(100000 + i))
		times[i] = threadTime() - before
		if !ok {
			t.Fatal("a free port is not found")
		}
	}
	slices.Sort(times)
	return times[rounds*99/100]
}

// threadTime is the processor time of the calling thread: what others take of a
// busy machine does not count.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func TestUseOfPortsIsCounted(t *testing.T) {
	for _, k := range kinds {
		c := newCrowd(t, k.mapping, k.filtering, func(s *nat.Source) { s.HoldDown = time.Minute })
		c.beginAll(0, 500)
		for n := range uint32(100) {
			c.end(n)
		}
		kept := 100
		if k.mapping == nat.Linux {
			kept = 0
		}
		use := c.e.PortUse()
		if len(use) != 1 || use[0].Addr != addr("203.0.113.1") || use[0].Proto != tuple.UDP || use[0].Used != 400 || use[0].Kept != kept ||
			use[0].Total != onePortEach || use[0].Free() != onePortEach-400-kept {
			t.Errorf("%s: %+v, want 400 of %d in use, %d kept", k.name, use, onePortEach, kept)
		}
	}
}

// TestRefusalsNameAddressProtocolAndDestination: at once, then once a second.
func TestRefusalsNameAddressProtocolAndDestination(t *testing.T) {
	c := newCrowd(t, nat.Linux, nat.Linux, func(s *nat.Source) { s.Ports = nat.PortRange{First: 2000, Last: 2009} })
	c.beginAll(0, 15)
	want := Refusal{Why: PortsExhausted, Client: addr("10.0.0.5"), Address: addr("203.0.113.1"), Proto: tuple.UDP,
		Dst: addr("198.51.100.7"), DstPort: 53, Packets: 1}
	want.Rule = c.e.Program().Rules()[0].ID
	if got := <-c.e.Refusals(); got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
	select {
	case r := <-c.e.Refusals():
		t.Errorf("told once more within a second: %+v", r)
	default:
	}
	c.now += 1e9
	c.begin(20)
	if want.Packets = 5; <-c.e.Refusals() != want {
		t.Errorf("a second later not told of 5 packets")
	}
}

// TestPoolsAreUsedToTheLastPort fills four addresses with a hundred ports each. A
// paired client goes on to the next address only when its own is full.
func TestPoolsAreUsedToTheLastPort(t *testing.T) {
	const each, addresses = 100, 4
	for _, k := range kinds {
		for name, pooling := range map[string]nat.Flags{"by hash": 0, "paired": nat.Persistent, "arbitrary": nat.Arbitrary} {
			t.Run(k.name+", "+name, func(t *testing.T) {
				c := newCrowd(t, k.mapping, k.filtering, func(s *nat.Source) {
					s.Addrs = []nat.AddrRange{{First: addr("203.0.113.20"), Last: addr("203.0.113.23")}}
					s.Ports = nat.PortRange{First: 2000, Last: 2000 + each - 1}
					s.Flags = pooling
				})
				used := func() map[tuple.Addr]int {
					all := map[tuple.Addr]int{}
					c.e.Table().Dump(func(f *conntrack.Flow) bool { all[f.Tuple[tuple.Reply].Dst]++; return true })
					return all
				}
				c.beginAll(0, each)
				if n := len(used()); (n == 1) != (pooling != nat.Arbitrary) {
					t.Errorf("a client's first %d flows are on %d addresses", each, n)
				}
				if n := c.beginAll(each, each*(addresses-1)); n != each*(addresses-1) {
					t.Errorf("%d more flows left, want %d", n, each*(addresses-1))
				}
				if c.begin(100000) {
					t.Error("a flow left when every port of the pool is taken")
				}
				for a, n := range used() {
					if n != each {
						t.Errorf("%v has %d flows, want %d", a, n, each)
					}
				}
				c.end(each + 7)
				if !c.begin(100001) || c.begin(100002) {
					t.Error("one port was free, not none and not two")
				}
				checkLeases(t, c.e)
			})
		}
	}
}

// TestNoPortAtAll has the only port of a rule be somebody's.
func TestNoPortAtAll(t *testing.T) {
	for _, k := range kinds {
		c := newCrowd(t, k.mapping, k.filtering, func(s *nat.Source) { s.Ports = nat.PortRange{First: 2000, Last: 2000} })
		if n := c.beginAll(0, 20); n != 1 {
			t.Errorf("%s: %d flows left by one port, want 1", k.name, n)
		}
		if n := c.e.Stats().Dropped[PortsExhausted]; n != 19 {
			t.Errorf("%s: %d dropped for want of a port, want 19", k.name, n)
		}
	}
}

// TestAddressChangeFreesWhatWasExhausted uses up the ports of an address, changes the
// address, and uses up those of the new one: the old ones hold nobody back, kept ones
// and blocks included.
func TestAddressChangeFreesWhatWasExhausted(t *testing.T) {
	const ports = 16
	for _, k := range kinds {
		for name, more := range map[string]func(*nat.Source){
			"plain":     func(*nat.Source) {},
			"hold-down": func(s *nat.Source) { s.HoldDown = 120 * time.Second },
			"blocks":    func(s *nat.Source) { s.BlockSize, s.MaxBlocks = 4, 4 },
		} {
			t.Run(k.name+", "+name, func(t *testing.T) {
				l := newLab(t, labConfig{rules: func(s *rules.Spec) {
					masquerade(s)
					src := &s.Lists[rules.Snat][0].Src
					src.Mapping, src.Filtering = k.mapping, k.filtering
					src.Ports = nat.PortRange{First: 2000, Last: 2000 + ports - 1}
					more(src)
				}})
				fill := func(first int) (left int) {
					for i := range ports + 1 {
						l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", first+i), "198.51.100.7:53"))
						left += len(l.ports["wan"].TakeFrames())
					}
					l.ports["lan"].TakeFrames() // what the last one is told
					return left
				}
				if n := fill(5000); n != ports {
					t.Fatalf("%d flows leave by %d ports", n, ports)
				}
				st := l.stateNow()
				for i := range st.Ports {
					if st.Ports[i].ID == wanID {
						st.Ports[i].Addresses = prefixes("203.0.113.2/24")
					}
				}
				lost := addr("203.0.113.1")
				st.Gone = []netip.Addr{lost.Netip()}
				l.apply(st)
				l.e.End(func(f *conntrack.Flow) conntrack.Cause {
					if f.Tuple[tuple.Reply].Dst == lost {
						return conntrack.AddressLost
					}
					return conntrack.Unspecified
				})
				l.advance(time.Second)
				l.ports["lan"].TakeFrames()
				l.wantFlows()
				if n := fill(6000); n != ports {
					t.Errorf("%d flows leave by %d ports of the new address", n, ports)
				}
				l.table.Dump(func(f *conntrack.Flow) bool {
					if f.Tuple[tuple.Reply].Dst == lost {
						t.Errorf("%v has the old address", f.Tuple)
					}
					return true
				})
				checkLeases(t, l.e)
				l.last = l.e.Stats() // its drops were meant
			})
		}
	}
}
