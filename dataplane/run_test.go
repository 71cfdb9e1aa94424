package dataplane

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules"
)

// gateway is a running engine with two workers between two wires; the far ends
// are in the test's hands.
type gateway struct {
	*testing.T
	e        *Engine
	table    *conntrack.Table
	st       State
	lan, wan *mem.Port // far ends
	got      []packet.Packet
}

// answering is a Host that knows every neighbour at once.
type answering struct {
	e    atomic.Pointer[Engine]
	port *mem.Port
}

func (h *answering) DeliverLink(uint16, []byte) bool { return true }
func (h *answering) Listens(tuple.Addr, uint16) bool { return false }

func (h *answering) Owns(uint8, tuple.Addr, uint16) bool { return false }
func (h *answering) Port() port.Port                     { return h.port }
func (h *answering) Resolve(id uint16, a netip.Addr) {
	h.e.Load().NeighbourLearned(id, tuple.AddrFrom(a), [6]byte{2, 0, 0, 0, 0, byte(id)})
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{T: t, got: make([]packet.Packet, Batch)}
	var err error
	if g.table, err = conntrack.New(conntrack.Config{Max: 1 << 14, Workers: 2}); err != nil {
		t.Fatal(err)
	}
	hostPort, err := mem.New("host", mem.Options{Link: packet.LinkIP, Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	host := &answering{port: hostPort}
	if g.e, err = New(Config{Workers: 2, Table: g.table, Host: host}); err != nil {
		t.Fatal(err)
	}
	host.e.Store(g.e)
	near := func(name string) (a, b *mem.Port) {
		// Far ends take frames for any address; both workers get some of each flow.
		a, b, err := mem.Pair(name, mem.Options{Queues: 2, Depth: 4096, Steer: func(f []byte) int { return int(f[len(f)-1]) }})
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	var lan, wan *mem.Port
	lan, g.lan = near("lan")
	wan, g.wan = near("wan")
	g.st.Ports = []PortConfig{
		{ID: lanID, Name: "lan", Port: lan, Addresses: prefixes("10.0.0.1/16")},
		{ID: wanID, Name: "wan", Port: wan, Addresses: prefixes("203.0.113.1/24")},
	}
	g.apply()
	if err := g.e.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.stop)
	return g
}

// apply routes and binds the ports of g.st and applies it.
func (g *gateway) apply() {
	g.Helper()
	spec := &rules.Spec{Areas: rules.DefaultAreas()}
	masquerade(spec)
	routes := []route.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: wanID, Gateway: netip.MustParseAddr("203.0.113.254")}}
	var b rules.Binding
	for _, p := range g.st.Ports {
		area := "lan"
		if p.Name == "wan" {
			area = "wan"
		}
		b.Ports = append(b.Ports, rules.BoundPort{Index: p.ID, Name: p.Name, Area: area})
		for _, a := range p.Addresses {
			routes = append(routes, route.Route{Prefix: a.Masked(), Port: p.ID})
		}
	}
	var err error
	if g.st.Routes, err = route.NewTable(routes); err != nil {
		g.Fatal(err)
	}
	if g.st.Program, err = rules.Compile(spec, &b, 1); err != nil {
		g.Fatal(err)
	}
	if err := g.e.Apply(g.st); err != nil {
		g.Fatal(err)
	}
}

func (g *gateway) stop() {
	g.e.Stop()
	s := g.e.Stats()
	if sum := s.Forwarded + s.Delivered + s.Drops() + s.Waiting; s.Received != sum || s.Dropped[Internal] != 0 {
		g.Errorf("received %d, accounted for %d; %d defects", s.Received, sum, s.Dropped[Internal])
	}
	for _, err := range g.table.Check(tickAt(g.e.Now())) {
		g.Error(err)
	}
	g.e.Close()
	if err := g.table.Close(); err != nil {
		g.Error(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// receive takes the frames that wait at a far end and calls f for each.
func (g *gateway) receive(far *mem.Port, f func(ip []byte)) (n int) {
	for i := range 2 {
		q := far.Queue(i)
		for k := q.Recv(g.got); k > 0; k = q.Recv(g.got) {
			for j := range g.got[:k] {
				f(g.got[j].Frame()[14:])
			}
			n += k
			q.Release()
		}
	}
	return n
}

// exchange sends one datagram on each of n flows from lan and answers each,
// packets of both directions on both workers.
func (g *gateway) exchange(n int, base int) {
	g.Helper()
	lan, wan := g.lan.Queue(0), g.wan.Queue(0)
	lanMAC, wanMAC := g.st.Ports[0].Port.Info().MAC, g.st.Ports[1].Port.Info().MAC
	send := func(q port.Queue, mac [6]byte, ip []byte) {
		frame := append(make([]byte, packet.Headroom), ethernet(mac, [6]byte{2, 1}, ip)...)
		p := packet.Packet{Mem: frame, Off: packet.Headroom, End: len(frame)}
		if st := q.Send(&p); st != port.Sent {
			g.Fatalf("far end: %v", st)
		}
		q.Flush()
	}
	for i := range n {
		send(lan, lanMAC, udp(fmt.Sprintf("10.0.%d.%d:%d", 1+i%8, 5+i%64, base+i), "198.51.100.7:53", body(string(rune('a'+i%2)))))
	}
	out, back := 0, 0
	until(g.T, "every packet crosses the gateway and is answered", func() bool {
		out += g.receive(g.wan, func(ip []byte) {
			src := netip.AddrPortFrom(sourceOf(ip).Netip(), uint16(ip[20])<<8|uint16(ip[21]))
			send(wan, wanMAC, udp("198.51.100.7:53", src.String(), body(string(ip[28]+1))))
		})
		back += g.receive(g.lan, func([]byte) {})
		return out >= n && back >= n
	})
	if out != n || back != n {
		g.Errorf("%d packets went out and %d came back, want %d each", out, back, n)
	}
}

func TestTwoWorkersForward(t *testing.T) {
	g := startGateway(t)
	for round := range 3 {
		g.exchange(500, 20000) // the same flows each time
		if n := g.table.Len(); n != 500 {
			t.Errorf("round %d: %d flows, want 500", round, n)
		}
	}
	g.e.Stop()
	if s := g.e.Stats(); s.Drops() != 0 || s.Forwarded != 3000 {
		t.Errorf("forwarded %d, dropped %d; want 3000 and none", s.Forwarded, s.Drops())
	}
}

func TestStartAndStopAgain(t *testing.T) {
	g := startGateway(t)
	if err := g.e.Start(); err == nil {
		t.Error("a running engine starts again")
	}
	for range 3 {
		g.exchange(10, 20000)
		g.e.Stop()
		g.e.Stop()
		if err := g.e.Start(); err != nil {
			t.Fatal(err)
		}
	}
	g.exchange(10, 20000)
}

func TestApplyWhileRunning(t *testing.T) {
	g := startGateway(t)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				done <- n
				return
			default:
				g.apply()
			}
		}
	}()
	for round := range 5 {
		g.exchange(200, 20000+200*round)
	}
	close(stop)
	applied := <-done
	g.e.Stop()
	if s := g.e.Stats(); s.Drops() != 0 || s.Waiting != 0 {
		t.Errorf("dropped %d, waiting %d during %d reloads, want none", s.Drops(), s.Waiting, applied)
	}
	if applied < 5 {
		t.Errorf("only %d reloads", applied)
	}
}

func TestPortsComeAndGoWhileRunning(t *testing.T) {
	g := startGateway(t)
	for round := range 5 {
		near, far, err := mem.Pair(fmt.Sprintf("guest%d", round), mem.Options{Queues: 1})
		if err != nil {
			t.Fatal(err)
		}
		without := g.st.Ports[:2:2]
		g.st.Ports = append(without, PortConfig{ID: guestID, Name: "guest", Port: near, Addresses: prefixes("10.99.0.1/24")})
		g.apply()
		// The new port works, with a worker that has no queue of its own there, too.
		frame := append(make([]byte, packet.Headroom), ethernet(near.Info().MAC, [6]byte{2, 2}, udp("10.99.0.5:1", "10.0.0.5:9"))...)
		q := far.Queue(0)
		if st := q.Send(&packet.Packet{Mem: frame, Off: packet.Headroom, End: len(frame)}); st != port.Sent {
			t.Fatal(st)
		}
		q.Flush()
		until(t, "a packet from the new port arrives", func() bool { return g.receive(g.lan, func([]byte) {}) == 1 })
		g.exchange(50, 20000)
		g.st.Ports = without
		g.apply()
		if err := near.Close(); err != nil { // nobody uses it any more
			t.Fatal(err)
		}
		if err := far.Close(); err != nil {
			t.Fatal(err)
		}
		g.exchange(50, 20000)
	}
}

// TestStorm has two workers forward while flows are deleted, neighbours come and
// go, and states are applied. What comes out is not asked, only that the accounts
// balance and the table is sound (gateway.stop), and that it still works.
func TestStorm(t *testing.T) {
	g := startGateway(t)
	stop := make(chan struct{})
	var others sync.WaitGroup
	meanwhile := func(f func(i int)) {
		others.Add(1)
		go func() {
			defer others.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
					runtime.Gosched()
				}
			}
		}()
	}
	meanwhile(func(int) { g.table.Flush() })
	meanwhile(func(int) { g.apply() })
	meanwhile(func(i int) {
		client := tuple.AddrFrom4([4]byte{10, 0, 1, byte(5 + i%8)})
		g.e.NeighbourFailed(lanID, client)
		g.e.NeighbourFailed(wanID, addr("203.0.113.254"))
		g.e.NeighbourLearned(lanID, client, [6]byte{2, 0, 0, 0, 0, byte(i)})
		g.e.NeighbourLearned(wanID, addr("203.0.113.254"), [6]byte{2, 0, 0, 0, 1, byte(i)})
		_ = g.e.Stats()
		_ = g.e.RuleHits()
		_ = g.e.PortStats()
	})
	lan, lanMAC := g.lan.Queue(0), g.st.Ports[0].Port.Info().MAC
	wan, wanMAC := g.wan.Queue(0), g.st.Ports[1].Port.Info().MAC
	put := func(q port.Queue, mac [6]byte, ip []byte) {
		frame := append(make([]byte, packet.Headroom), ethernet(mac, [6]byte{2, 1}, ip)...)
		q.Send(&packet.Packet{Mem: frame, Off: packet.Headroom, End: len(frame)})
		q.Flush() // what finds no room is lost: there is enough
	}
	for i := range 10000 {
		put(lan, lanMAC, udp(fmt.Sprintf("10.0.1.%d:%d", 5+i%8, 20000+i%300), "198.51.100.7:53", body(string(rune('a'+i%2)))))
		if i%8 == 0 {
			put(lan, lanMAC, tcp(fmt.Sprintf("10.0.1.5:%d", 20000+i%50), "198.51.100.7:80", flags([]uint8{packet.SYN, packet.ACK, packet.FIN | packet.ACK, packet.RST}[i/8%4]), body(string(rune('a'+i%3)))))
		}
		g.receive(g.wan, func(ip []byte) {
			if ip[9] == tuple.UDP {
				src := netip.AddrPortFrom(sourceOf(ip).Netip(), uint16(ip[20])<<8|uint16(ip[21]))
				put(wan, wanMAC, udp("198.51.100.7:53", src.String(), body(string(ip[28]+1))))
			}
		})
		g.receive(g.lan, func([]byte) {})
	}
	close(stop)
	others.Wait()
	g.apply()
	put(lan, lanMAC, udp("10.0.1.5:60001", "198.51.100.7:53"))
	through := false
	until(t, "after the storm a packet gets through", func() bool {
		g.receive(g.lan, func([]byte) {})
		g.receive(g.wan, func(ip []byte) { through = through || ip[9] == tuple.UDP && int(ip[20])<<8|int(ip[21]) == 60001 })
		return through
	})
}

// A worker may take its time to begin its first batch; commands do not wait for it.
func TestClockOfTheTableGoesOnceTheEngineHasStarted(t *testing.T) {
	began := tickAt(newClock().now())
	g := startGateway(t)
	if now := g.table.Now(); now.Sub(began) < 0 {
		t.Errorf("the table is at tick %d, the engine started after %d", now, began)
	}
}
