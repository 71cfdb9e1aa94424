package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"example.com/culvert/alg"
	"example.com/culvert/alg/pptp"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/rules"
)

const vpnServer = "198.51.100.7"

// callLab is a lab in which connections to port 1723 have the helper for PPTP.
func callLab(t *testing.T, cfg labConfig) *lab {
	t.Helper()
	return helperLab(t, cfg, 1723, pptp.Helper{}, alg.Options{})
}

// control is a control connection of a client with vpnServer.
type control struct {
	*lab
	end  [2]string // the client, and how the server knows it
	next [2]uint32 // numbers of client and server
}

// controlMessage is a message of a kind with words behind its header.
func controlMessage(kind uint16, length int, words ...uint16) string {
	b := make([]byte, length)
	for i, w := range append([]uint16{uint16(length), 1, 0x1a2b, 0x3c4d, kind, 0}, words...) {
		binary.BigEndian.PutUint16(b[2*i:], w)
	}
	return string(b)
}

// control opens a control connection, and has both sides agree to start.
func (l *lab) control(client, seen string) *control {
	l.Helper()
	c := &control{l, [2]string{client, seen}, [2]uint32{100, 500}}
	to := vpnServer + ":1723"
	l.send("lan", tcp(client, to, seq(c.next[0], 0)))
	l.send("wan", tcp(to, seen, flags(packet.SYN|packet.ACK), seq(c.next[1], c.next[0]+1)))
	c.next[0]++
	c.next[1]++
	l.send("lan", tcp(client, to, flags(ackFlag), seq(c.next[0], c.next[1])))
	l.ports["wan"].TakeFrames()
	l.ports["lan"].TakeFrames()
	c.say(controlMessage(1, 156, 0x100))
	c.hear(controlMessage(2, 156, 0x100, 0x100))
	return c
}

// say has the client send a message, hear the server. Each returns the two call ids, or
// what is in their place, as the other side got them.
func (c *control) say(text string) [2]uint16 {
	c.Helper()
	return c.carry(0, "lan", "wan", tcp(c.end[0], vpnServer+":1723", flags(ackFlag), seq(c.next[0], c.next[1]), body(text)), len(text))
}

func (c *control) hear(text string) [2]uint16 {
	c.Helper()
	return c.carry(1, "wan", "lan", tcp(vpnServer+":1723", c.end[1], flags(ackFlag), seq(c.next[1], c.next[0]), body(text)), len(text))
}

func (c *control) carry(from int, in, out string, ip []byte, n int) (ids [2]uint16) {
	c.Helper()
	c.send(in, ip)
	c.next[from] += uint32(n)
	f := c.take(out)
	if d := describe(f, c.ports[out].Info().Link); strings.Contains(d, "BAD") {
		c.Errorf("sent %s", d)
	}
	got := ipOf(f, c.ports[out].Info().Link)
	got = got[len(got)-n+12:]
	return [2]uint16{binary.BigEndian.Uint16(got), binary.BigEndian.Uint16(got[2:])}
}

// call sets up a call between two ids, and returns what the server is told of the
// client's.
func (c *control) call(client, server uint16) uint16 {
	c.Helper()
	seen := c.say(controlMessage(7, 168, client))[0]
	if got := c.hear(controlMessage(8, 32, server, seen, 0x100)); got != [2]uint16{server, client} {
		c.Errorf("the client was told of ids %d, want %d and %d", got, server, client)
	}
	return seen
}

// gre is a packet of PPTP for a call id.
func gre(src, dst string, id uint16) []byte {
	b := []byte{0x30, 0x01, 0x88, 0x0b, 0, 4, byte(id >> 8), byte(id), 0, 0, 0, 1, 0xff, 3, 0xc0, 0x21}
	s := packetSpec{ttl: 64, raw: b}
	return serialize(netip.MustParseAddr(src), netip.MustParseAddr(dst), layers.IPProtocolGRE, &s)
}

// wantGRE checks the one packet of PPTP that left by a port.
func (l *lab) wantGRE(name, src, dst string, id uint16) {
	l.Helper()
	f := l.take(name)
	ip := ipOf(f, l.ports[name].Info().Link)
	got := fmt.Sprintf("%s id %d", describe(f, l.ports[name].Info().Link), binary.BigEndian.Uint16(ip[headerLen(ip)+6:]))
	if want := fmt.Sprintf("proto %s > %s ttl 63 id %d", src, dst, id); got != want {
		l.Errorf("%s sent %s, want %s", name, got, want)
	}
}

// TestCallsOfTwoClientsWithTheSameID reach one server side by side, whoever sends the
// first packet.
func TestCallsOfTwoClientsWithTheSameID(t *testing.T) {
	l := callLab(t, labConfig{})
	first := l.control("10.0.0.5:40000", "203.0.113.1:40000").call(7, 21)
	second := l.control("10.0.0.6:41000", "203.0.113.1:41000").call(7, 22)
	if first != 40000 || second != 41000 {
		t.Fatalf("the server knows the clients' ids as %d and %d, want the ports of their connections", first, second)
	}
	l.send("lan", gre("10.0.0.5", vpnServer, 21))
	l.wantGRE("wan", "203.0.113.1", vpnServer, 21)
	l.send("wan", gre(vpnServer, "203.0.113.1", second))
	l.wantGRE("lan", vpnServer, "10.0.0.6", 7)
	for range 2 {
		l.send("wan", gre(vpnServer, "203.0.113.1", first))
		l.wantGRE("lan", vpnServer, "10.0.0.5", 7)
		l.send("lan", gre("10.0.0.6", vpnServer, 22))
		l.wantGRE("wan", "203.0.113.1", vpnServer, 22)
	}
	if n := l.table.ExpectLen(); n != 0 {
		t.Errorf("%d expectations are left of calls that have begun", n)
	}
	f, err := l.table.Get(tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr(vpnServer), SrcPort: 7, DstPort: 21, Proto: tuple.GRE, Family: tuple.IPv4})
	want := tuple.Tuple{Src: addr(vpnServer), Dst: addr("203.0.113.1"), SrcPort: 21, DstPort: 40000, Proto: tuple.GRE, Family: tuple.IPv4}
	if err != nil || f.Tuple[tuple.Reply] != want || !f.Status.Has(conntrack.Expected|conntrack.Assured) || f.Timeout.Round(time.Minute) != callStream {
		t.Errorf("flow %+v, %v", f, err)
	}
	l.send("wan", gre(vpnServer, "203.0.113.1", 9)) // in no call
	l.wantDrops(LocalDenied)
}

func TestCallIDsThatAreInUseAreNotGivenAway(t *testing.T) {
	l := callLab(t, labConfig{})
	c := l.control("10.0.0.5:40000", "203.0.113.1:40000")
	c.call(7, 21)
	l.send("lan", gre("10.0.0.5", vpnServer, 21))
	l.wantGRE("wan", "203.0.113.1", vpnServer, 21)
	if again := c.call(8, 22); again != 8 {
		t.Errorf("the second call of a connection has id %d, want its own: the port is in use", again)
	}
	l.send("wan", gre(vpnServer, "203.0.113.1", 8))
	l.wantGRE("lan", vpnServer, "10.0.0.5", 8)
	l.send("wan", gre(vpnServer, "203.0.113.1", 40000))
	l.wantGRE("lan", vpnServer, "10.0.0.5", 7)
}

func TestCallsWithoutTranslation(t *testing.T) {
	l := callLab(t, labConfig{rules: func(*rules.Spec) {}})
	if seen := l.control("10.0.0.5:40000", "10.0.0.5:40000").call(7, 21); seen != 7 {
		t.Errorf("the server knows the client's id as %d, want 7", seen)
	}
	l.send("wan", gre(vpnServer, "10.0.0.5", 7))
	l.wantGRE("lan", vpnServer, "10.0.0.5", 7)
	l.send("lan", gre("10.0.0.5", vpnServer, 21))
	l.wantGRE("wan", "10.0.0.5", vpnServer, 21)
	if n := l.table.Len(); n != 2 {
		t.Errorf("%d flows, want the connection and its call", n)
	}
}

func TestErrorsAboutCallsReachTheirSender(t *testing.T) {
	l := callLab(t, labConfig{})
	l.control("10.0.0.5:40000", "203.0.113.1:40000").call(7, 21)
	l.send("lan", gre("10.0.0.5", vpnServer, 21))
	l.wantGRE("wan", "203.0.113.1", vpnServer, 21)
	l.send("wan", icmpErrorAbout("203.0.113.254", "203.0.113.1", 3, 4, 1400, gre("203.0.113.1", vpnServer, 21)))
	l.want("lan", "icmp 203.0.113.254 > 10.0.0.5 3/4 mtu 1400 [proto 10.0.0.5 > "+vpnServer+" ttl 64]")
	l.send("wan", gre(vpnServer, "203.0.113.1", 40000))
	l.wantGRE("lan", vpnServer, "10.0.0.5", 7)
	l.send("lan", icmpErrorAbout("10.0.0.5", vpnServer, 3, 2, 0, gre(vpnServer, "10.0.0.5", 7)))
	f := l.take("wan")
	ip := ipOf(f, l.ports["wan"].Info().Link)
	if id := binary.BigEndian.Uint16(ip[20+8+20+6:]); id != 40000 {
		t.Errorf("the server was told of id %d, want 40000", id)
	}
	if d := describe(f, l.ports["wan"].Info().Link); strings.Contains(d, "BAD") || !strings.Contains(d, "[proto "+vpnServer+" > 203.0.113.1 ") {
		t.Errorf("the server was told %s", d)
	}
}

func TestCallsEndWithTheirConnection(t *testing.T) {
	l := callLab(t, labConfig{})
	l.control("10.0.0.5:40000", "203.0.113.1:40000").call(7, 21)
	l.send("lan", gre("10.0.0.5", vpnServer, 21))
	l.wantGRE("wan", "203.0.113.1", vpnServer, 21)
	l.e.calls.expire(l.table)
	if n := l.table.Len(); n != 2 {
		t.Fatalf("%d flows, want the connection and its call", n)
	}
	l.table.DeleteIf(func(f *conntrack.Flow) bool { return f.Tuple[0].Proto == tuple.TCP })
	l.e.calls.expire(l.table)
	l.e.calls.expire(l.table)
	if n, ends := l.table.Len(), l.e.calls.n.Load(); n != 0 || ends != 0 {
		t.Errorf("%d flows and %d ids are left", n, ends)
	}
}

// TestOtherGREHasNoCallIDs: calls change nothing for tunnels beside them.
func TestOtherGREHasNoCallIDs(t *testing.T) {
	l := callLab(t, labConfig{})
	l.control("10.0.0.5:40000", "203.0.113.1:40000").call(7, 21)
	plain := gre("10.0.0.6", vpnServer, 21)
	plain[21] = 0 // version 0
	l.send("lan", plain)
	l.wantGRE("wan", "203.0.113.1", vpnServer, 21)
	if _, err := l.table.Get(tuple.Tuple{Src: addr("10.0.0.6"), Dst: addr(vpnServer), Proto: tuple.GRE, Family: tuple.IPv4}); err != nil {
		t.Error(err)
	}
}

// TestExplainKnowsCalls: what it says of both ends' packets is what happens to them, to the
// first ones, which are announced, and to those of the flow that comes of them.
func TestExplainKnowsCalls(t *testing.T) {
	l := callLab(t, labConfig{})
	l.control("10.0.0.5:40000", "203.0.113.1:40000").call(7, 21)
	of := func(src, dst string, id uint16) tuple.Tuple { return portTuple(tuple.GRE, src, 0, dst, id) }
	for _, begun := range []string{"expect: announced by tcp 10.0.0.5:40000 > " + vpnServer + ":1723: related", "direction of gre      47"} {
		out := l.explain(Probe{Tuple: of("10.0.0.5", vpnServer, 21), In: lanID})
		in := l.explain(Probe{Tuple: of(vpnServer, "203.0.113.1", 40000), In: wanID})
		for _, tt := range []struct {
			x            *Explanation
			call, leaves string
		}{
			{&out, "call: 21 of " + vpnServer + ", which is 7 of 10.0.0.5\n", "forwarded: wan as gre 203.0.113.1:40000 > " + vpnServer + ":21\n"},
			{&in, "call: 40000 of 203.0.113.1, which is 21 of " + vpnServer + "\n", "forwarded: lan as gre " + vpnServer + ":21 > 10.0.0.5:7\n"},
		} {
			if said := told(tt.x); !strings.Contains(said, tt.call) || !strings.Contains(said, begun) || !strings.HasSuffix(said, tt.leaves) {
				t.Errorf("explained\n%s, want %q, %q and %q", said, tt.call, begun, tt.leaves)
			}
		}
		l.send("lan", gre("10.0.0.5", vpnServer, 21))
		l.wantGRE("wan", "203.0.113.1", vpnServer, 21)
		l.send("wan", gre(vpnServer, "203.0.113.1", 40000))
		l.wantGRE("lan", vpnServer, "10.0.0.5", 7)
	}
	if said := l.explain(Probe{Tuple: of(vpnServer, "203.0.113.1", 9), In: wanID}); said.Reason != LocalDenied || !strings.Contains(told(&said), "call: none that 203.0.113.1 takes part in has id 9:") {
		t.Errorf("of no call: explained\n%s", told(&said))
	}
	pasted := portTuple(tuple.GRE, "10.0.0.5", 8, vpnServer, 21)
	if said := l.explain(Probe{Tuple: pasted, In: lanID}); !strings.Contains(told(&said), "which is 7 of 10.0.0.5, not 8\n") {
		t.Errorf("of another call's sender: explained\n%s", told(&said))
	}
}

// TestCallsInAZone: the call id of a packet belongs to a call of its zone.
func TestCallsInAZone(t *testing.T) {
	l := callLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{{Then: rules.ActZone, Zone: 5}}
	}})
	seen := l.control("10.0.0.5:40000", "203.0.113.1:40000").call(7, 21)
	for range 2 {
		x := l.explain(Probe{Tuple: portTuple(tuple.GRE, "10.0.0.5", 0, vpnServer, 21), In: lanID})
		if want := "call: 21 of " + vpnServer + ", which is 7 of 10.0.0.5\n"; !strings.Contains(told(&x), want) {
			t.Errorf("explained\n%s, want %s", told(&x), want)
		}
		l.send("wan", gre(vpnServer, "203.0.113.1", seen))
		l.wantGRE("lan", vpnServer, "10.0.0.5", 7)
		l.send("lan", gre("10.0.0.5", vpnServer, 21))
		l.wantGRE("wan", "203.0.113.1", vpnServer, 21)
	}
	l.send("wan", icmpErrorAbout("203.0.113.254", "203.0.113.1", 3, 4, 1400, gre("203.0.113.1", vpnServer, 21)))
	l.want("lan", "icmp 203.0.113.254 > 10.0.0.5 3/4 mtu 1400 [proto 10.0.0.5 > "+vpnServer+" ttl 64]")
}

func TestPacketsOfCallsDoNotAllocate(t *testing.T) {
	l := callLab(t, labConfig{})
	l.control("10.0.0.5:40000", "203.0.113.1:40000").call(7, 21)
	p := packet.Packet{Tuple: tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr(vpnServer), Proto: tuple.GRE, Family: tuple.IPv4}}
	ip := gre("10.0.0.5", vpnServer, 21)
	p.Mem, p.L4, p.End = ip, 20, len(ip)
	if n := testing.AllocsPerRun(100, func() { l.e.calls.name(&p) }); n != 0 || p.Tuple.SrcPort != 7 || p.Tuple.DstPort != 21 {
		t.Errorf("naming the call allocates %v times, and gives ids %d and %d", n, p.Tuple.SrcPort, p.Tuple.DstPort)
	}
}
