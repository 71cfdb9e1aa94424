package dataplane

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

func TestMasqueradeOutAndBack(t *testing.T) {
	tests := []struct {
		claim     string
		out, back []byte
		sent, got string
	}{
		{
			"udp keeps its port",
			udp("10.0.0.5:40000", "198.51.100.7:53", body("hi")), udp("198.51.100.7:53", "203.0.113.1:40000", body("yes"), ttl(50)),
			"udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 2", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 49 len 3",
		},
		{
			"tcp handshake",
			tcp("10.0.0.5:40000", "198.51.100.7:443", seq(7, 0), mss(1460)), tcp("198.51.100.7:443", "203.0.113.1:40000", flags(packet.SYN|packet.ACK), seq(9, 8)),
			"tcp 203.0.113.1:40000 > 198.51.100.7:443 S seq 7 ack 0 ttl 63 len 0 mss 1460", "tcp 198.51.100.7:443 > 10.0.0.5:40000 SA seq 9 ack 8 ttl 63 len 0",
		},
		{
			"echo keeps its identifier",
			ping("10.0.0.5", "198.51.100.7", 99), pong("198.51.100.7", "203.0.113.1", 99),
			"icmp 203.0.113.1 > 198.51.100.7 echo id 99 ttl 63", "icmp 198.51.100.7 > 10.0.0.5 reply id 99 ttl 63",
		},
		{
			"a udp packet without checksum stays without",
			noSum(udp("10.0.0.5:40000", "198.51.100.7:53", body("hi"))), udp("198.51.100.7:53", "203.0.113.1:40000"),
			"udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 2", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 63 len 0",
		},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{})
			for range 3 {
				l.send("lan", tt.out)
				l.want("wan", tt.sent)
				l.send("wan", tt.back)
				l.want("lan", tt.got)
			}
			if n := l.table.Len(); n != 1 {
				t.Errorf("%d entries, want 1", n)
			}
			l.wantDrops()
		})
	}
}

// noSum clears the checksum of an IPv4 UDP packet.
func noSum(ip []byte) []byte {
	ip[26], ip[27] = 0, 0
	return ip
}

func TestIPv6IsRouted(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("[2001:db8:1::5]:40000", "[2001:db8:77::7]:53"))
	l.want("wan", "udp [2001:db8:1::5]:40000 > [2001:db8:77::7]:53 ttl 63 len 0")
	l.send("wan", udp("[2001:db8:77::7]:53", "[2001:db8:1::5]:40000"))
	l.want("lan", "udp [2001:db8:77::7]:53 > [2001:db8:1::5]:40000 ttl 63 len 0")
	l.send("lan", ping("2001:db8:1::5", "2001:db8:77::7", 3))
	l.want("wan", "icmpv6 2001:db8:1::5 > 2001:db8:77::7 echo id 3 ttl 63")
	l.send("wan", pong("2001:db8:77::7", "2001:db8:1::5", 3))
	l.want("lan", "icmpv6 2001:db8:77::7 > 2001:db8:1::5 reply id 3 ttl 63")
	l.send("wan", tcp("[2001:db8:77::7]:53", "[2001:db8:1::5]:22"))
	l.wantDrops(PolicyDenied)
}

func TestFramesGoToTheNextHop(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	f := l.take("wan")
	if got, want := [6]byte(f.Data), macOf(addr("203.0.113.254")); got != want {
		t.Errorf("sent to %x, want the default router %x", got, want)
	}
	if got, want := [6]byte(f.Data[6:]), l.ports["wan"].Info().MAC; got != want {
		t.Errorf("sent from %x, want the port's own %x", got, want)
	}
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000"))
	f = l.take("lan")
	if got, want := [6]byte(f.Data), macOf(addr("10.0.0.5")); got != want {
		t.Errorf("answer sent to %x, want the client %x", got, want)
	}
	l.e.NeighbourLearned(lanID, addr("10.0.0.5"), [6]byte{2, 9, 9, 9, 9, 9})
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000"))
	if f := l.take("lan"); [6]byte(f.Data) != [6]byte{2, 9, 9, 9, 9, 9} {
		t.Errorf("sent to %x after the client moved", f.Data[:6])
	}
}

func portForward(s *rules.Spec) {
	masquerade(s)
	s.Lists[rules.Dnat] = []rules.RuleSpec{
		{
			If:   rules.Conditions{InArea: oneOf("wan"), Local: oneOf(rules.ToLocal), Proto: oneOf(tuple.TCP), DstPort: oneOf(nat.PortRange{First: 443, Last: 443})},
			Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.6"), Ports: nat.PortRange{First: 8443, Last: 8443}},
		},
		{
			If:   rules.Conditions{InArea: oneOf("lan"), Proto: oneOf(tuple.UDP), DstPort: oneOf(nat.PortRange{First: 53, Last: 53})},
			Then: rules.ActRedirect, Dest: nat.Destination{Redirect: nat.ToLocal, Ports: nat.PortRange{First: 5353, Last: 5353}},
		},
	}
}

func TestForwardedPort(t *testing.T) {
	l := newLab(t, labConfig{rules: portForward})
	l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:443", seq(1, 0)))
	l.want("lan", "tcp 198.51.100.7:40000 > 10.0.0.6:8443 S seq 1 ack 0 ttl 63 len 0")
	l.send("lan", tcp("10.0.0.6:8443", "198.51.100.7:40000", flags(packet.SYN|packet.ACK), seq(5, 2)))
	l.want("wan", "tcp 203.0.113.1:443 > 198.51.100.7:40000 SA seq 5 ack 2 ttl 63 len 0")
	l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:443", flags(packet.ACK), seq(2, 6), body("GET")))
	l.want("lan", "tcp 198.51.100.7:40000 > 10.0.0.6:8443 A seq 2 ack 6 ttl 63 len 3")
	l.wantFlows("tcp 198.51.100.7:40000 > 203.0.113.1:443 / tcp 10.0.0.6:8443 > 198.51.100.7:40000")
	l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:444"))
	l.wantDrops(LocalDenied)
	l.wantFlows("tcp 198.51.100.7:40000 > 203.0.113.1:443 / tcp 10.0.0.6:8443 > 198.51.100.7:40000")
}

func TestRedirectToTheHost(t *testing.T) {
	l := newLab(t, labConfig{rules: portForward})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", body("q")))
	l.want("host", "udp 10.0.0.5:40000 > 10.0.0.1:5353 ttl 64 len 1")
	l.inject("host", mem.Frame{Data: udp("10.0.0.1:5353", "10.0.0.5:40000", body("answer"))})
	l.step()
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 64 len 6")
	s := l.e.Stats()
	if s.Delivered != 1 || s.Forwarded != 1 {
		t.Errorf("delivered %d, forwarded %d; want one each", s.Delivered, s.Forwarded)
	}
	l.send("guest", udp("10.9.0.5:40000", "10.9.0.1:5353"))
	l.wantDrops(LocalDenied)
}

func TestHostTrafficIsTrackedAndTranslated(t *testing.T) {
	l := newLab(t, labConfig{})
	l.inject("host", mem.Frame{Data: udp("10.0.0.1:1000", "198.51.100.7:53", ttl(1))})
	l.step()
	l.want("wan", "udp 203.0.113.1:1000 > 198.51.100.7:53 ttl 1 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1000"))
	l.want("host", "udp 198.51.100.7:53 > 10.0.0.1:1000 ttl 64 len 0")
	l.send("lan", ping("10.0.0.5", "203.0.113.1", 1))
	l.want("host", "icmp 10.0.0.5 > 203.0.113.1 echo id 1 ttl 64")
	l.inject("host", mem.Frame{Data: pong("203.0.113.1", "10.0.0.5", 1)})
	l.step()
	l.want("lan", "icmp 203.0.113.1 > 10.0.0.5 reply id 1 ttl 64")
	l.wantDrops()
}

func TestDefaultPolicy(t *testing.T) {
	tests := []struct {
		claim string
		port  string
		ip    []byte
		why   Reason
	}{
		{"outside does not reach inside", "wan", udp("198.51.100.7:53", "10.0.0.5:40000"), PolicyDenied},
		{"outside does not reach the gateway", "wan", udp("198.51.100.7:53", "203.0.113.1:40000"), LocalDenied},
		{"nor ping it", "wan", ping("198.51.100.7", "203.0.113.1", 1), LocalDenied},
		{"lan does not reach guest", "lan", udp("10.0.0.5:1", "10.9.0.5:2"), PolicyDenied},
		{"guest does not reach lan", "guest", udp("10.9.0.5:1", "10.0.0.5:2"), PolicyDenied},
		{"guest does not reach the gateway", "guest", udp("10.9.0.5:1", "10.9.0.1:53"), LocalDenied},
		{"an answer without question is nothing", "lan", pong("10.0.0.5", "198.51.100.7", 4), InvalidNew},
		{"nor is half a handshake", "lan", tcp("10.0.0.5:1", "198.51.100.7:2", flags(packet.SYN|packet.ACK)), InvalidState},
		{"no tcp sends SYN and FIN", "lan", tcp("10.0.0.5:1", "198.51.100.7:2", flags(packet.SYN|packet.FIN)), BadTCPFlags},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{})
			l.send(tt.port, tt.ip)
			l.wantDrops(tt.why)
			l.wantProhibited(tt.port, tt.why)
			l.wantFlows()
		})
	}
}

func TestReject(t *testing.T) {
	reject := func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 25, Last: 25})}, Then: rules.ActReject}}
	}
	l := newLab(t, labConfig{rules: reject})
	l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:25", seq(41, 0)))
	l.want("lan", "tcp 198.51.100.7:25 > 10.0.0.5:40000 RA seq 0 ack 42 ttl 64 len 0")
	l.wantDrops(RuleRejected)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:25"))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/13 [udp 10.0.0.5:40000 > 198.51.100.7:25 ttl 64 len 0]")
	l.send("lan", udp("[2001:db8:1::5]:40000", "[2001:db8:77::7]:25"))
	l.want("lan", "icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/1 [udp [2001:db8:1::5]:40000 > [2001:db8:77::7]:25 ttl 64 len 0]")
	l.wantDrops(RuleRejected, RuleRejected)
	// A rule that says reject is answered outside, too: who wants silence writes drop.
	l.send("wan", udp("198.51.100.7:40000", "203.0.113.1:25"))
	l.want("wan", "icmp 203.0.113.1 > 198.51.100.7 3/13 [udp 198.51.100.7:40000 > 203.0.113.1:25 ttl 64 len 0]")
	l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:25", flags(packet.ACK), seq(3, 4)))
	l.want("wan", "tcp 203.0.113.1:25 > 198.51.100.7:40000 R seq 4 ack 0 ttl 64 len 0")
	l.wantDrops(RuleRejected, RuleRejected)
	l.wantFlows()
	if n := l.e.Stats().Originated; n != 5 {
		t.Errorf("originated %d answers, want 5", n)
	}
}

func TestTTLExceeded(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:33434", "198.51.100.7:33434", ttl(1)))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 11/0 [udp 10.0.0.5:33434 > 198.51.100.7:33434 ttl 1 len 0]")
	l.wantDrops(TTLExceeded)
	l.wantFlows()
	l.send("lan", udp("[2001:db8:1::5]:33434", "[2001:db8:77::7]:33434", ttl(1)))
	l.want("lan", "icmpv6 2001:db8:1::1 > 2001:db8:1::5 3/0 [udp [2001:db8:1::5]:33434 > [2001:db8:77::7]:33434 ttl 1 len 0]")
	l.wantDrops(TTLExceeded)
	l.wantFlows()
	// On a known flow, in both directions; the quoted packet is as its sender knows it.
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", ttl(1)))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 11/0 [udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 1 len 0]")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000", ttl(1)))
	l.want("wan", "icmp 203.0.113.1 > 198.51.100.7 11/0 [udp 198.51.100.7:53 > 203.0.113.1:40000 ttl 1 len 0]")
	l.wantDrops(TTLExceeded, TTLExceeded)
	// What stays on the gateway is not hurt.
	l.send("lan", ping("10.0.0.5", "10.0.0.1", 1, ttl(1)))
	l.want("host", "icmp 10.0.0.5 > 10.0.0.1 echo id 1 ttl 1")
	l.wantDrops()
}

func TestTwoClientsWithOnePort(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Snat][0].Src.Ports = nat.PortRange{First: 40000, Last: 40001}
	}})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
	l.send("lan", udp("10.0.0.6:40000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40001 > 198.51.100.7:53 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40001"))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.6:40000 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000"))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 63 len 0")
	// The third is told, and every further one, whatever its own port.
	l.send("lan", udp("10.0.0.7:41000", "198.51.100.7:53"))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.7 3/1 [udp 10.0.0.7:41000 > 198.51.100.7:53 ttl 64 len 0]")
	l.wantDrops(PortsExhausted)
	// Another destination has ports of its own.
	l.send("lan", udp("10.0.0.7:40001", "198.51.100.8:53"))
	l.want("wan", "udp 203.0.113.1:40001 > 198.51.100.8:53 ttl 63 len 0")
	// When a flow ends its port is free again.
	l.advance(31 * time.Second)
	l.send("lan", udp("10.0.0.7:40001", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40001 > 198.51.100.7:53 ttl 63 len 0")
	l.wantDrops()
}

func TestFullTableTellsTheSender(t *testing.T) {
	l := newLab(t, labConfig{table: func(c *conntrack.Config) { c.Max, c.Profile = 2, conntrack.RFC }})
	for _, src := range []string{"10.0.0.5:1", "10.0.0.5:2"} {
		l.send("lan", udp(src, "198.51.100.7:53"))
		l.take("wan")
	}
	l.send("lan", udp("10.0.0.5:3", "198.51.100.7:53"))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/1 [udp 10.0.0.5:3 > 198.51.100.7:53 ttl 64 len 0]")
	l.wantDrops(TableFull)
}

// TestFullChainTellsTheSender fills the place in the index that some flows share,
// as only who knows the key can.
func TestFullChainTellsTheSender(t *testing.T) {
	l := newLab(t, labConfig{})
	target := func(i int) string { return fmt.Sprintf("198.51.%d.%d:%d", i>>8&255, i&255, 1+i>>16) }
	home, crowded := -1, 0
	for i := 0; ; i++ {
		to := netip.MustParseAddrPort(target(i))
		k := tuple.Tuple{Src: addr("10.0.0.5"), Dst: tuple.AddrFrom(to.Addr()), SrcPort: 40000, DstPort: to.Port(), Proto: tuple.UDP, Family: tuple.IPv4}
		if home < 0 {
			home = l.table.Home(&k)
		}
		if l.table.Home(&k) != home {
			continue
		}
		l.send("lan", udp("10.0.0.5:40000", target(i)))
		if f := l.ports["wan"].TakeFrames(); len(f) == 1 {
			crowded++
			continue
		}
		l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/1 [udp 10.0.0.5:40000 > "+target(i)+" ttl 64 len 0]")
		break
	}
	l.wantDrops(ChainFull)
	if s := l.table.Stats(); s.ChainTooLong != 1 || s.Drop != 1 || l.table.Len() != crowded || crowded == l.table.Max() {
		t.Errorf("%d of at most %d flows, counters %+v; want one chain too long", l.table.Len(), l.table.Max(), s)
	}
	l.send("lan", udp("10.0.0.6:40000", target(0))) // others are not in the way
	l.take("wan")
	l.wantDrops()
}

func TestNoRouteIsTold(t *testing.T) {
	l := newLab(t, labConfig{routes: noRoutes})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/0 [udp 10.0.0.5:1 > 198.51.100.7:53 ttl 64 len 0]")
	l.send("lan", udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:53"))
	l.want("lan", "icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/0 [udp [2001:db8:1::5]:1 > [2001:db8:77::7]:53 ttl 64 len 0]")
	l.wantDrops(NoRoute, NoRoute)
	l.wantFlows()
	// Guests are inside, too: only the gateway's services are not for them.
	l.send("guest", udp("10.9.0.5:1", "198.51.100.7:53"))
	l.want("guest", "icmp 10.9.0.1 > 10.9.0.5 3/0 [udp 10.9.0.5:1 > 198.51.100.7:53 ttl 64 len 0]")
	l.send("wan", udp("203.0.113.7:1", "198.51.100.7:53"))
	l.want("wan")
	l.wantDrops(NoRoute, NoRoute)
}

func TestMasqueradeWithoutAddress(t *testing.T) {
	l := newLab(t, labConfig{ports: func(st *State, _ map[string]mem.Options) {
		st.Ports[1].Addresses = prefixes("2001:db8:2::1/64")
	}})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.wantDrops(SourceNeeded)
	l.wantFlows()
}

func TestExpiredFlowStartsAnew(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.advance(31 * time.Second)
	l.wantFlows()
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
	l.wantDrops(LocalDenied)
}

func TestNewConnectionOnAnOldTuple(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", tcp("10.0.0.5:1", "198.51.100.7:80", seq(1, 0)))
	l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:1", flags(packet.SYN|packet.ACK), seq(100, 2)))
	l.send("lan", tcp("10.0.0.5:1", "198.51.100.7:80", flags(packet.ACK), seq(2, 101)))
	l.send("lan", tcp("10.0.0.5:1", "198.51.100.7:80", flags(packet.FIN|packet.ACK), seq(2, 101)))
	l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:1", flags(packet.FIN|packet.ACK), seq(101, 3)))
	l.send("lan", tcp("10.0.0.5:1", "198.51.100.7:80", flags(packet.ACK), seq(3, 102)))
	l.ports["lan"].Take()
	l.ports["wan"].Take()
	l.send("lan", tcp("10.0.0.5:1", "198.51.100.7:80", seq(5000, 0)))
	l.want("wan", "tcp 203.0.113.1:1 > 198.51.100.7:80 S seq 5000 ack 0 ttl 63 len 0")
	l.wantDrops()
	l.wantFlows("tcp 10.0.0.5:1 > 198.51.100.7:80 / tcp 198.51.100.7:80 > 203.0.113.1:1")
}

// A client that holds every port must not make each further packet of the link
// search through all of them.
func TestExhaustionIsKnownAtOnce(t *testing.T) {
	const first, last = 2000, 4999
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Snat][0].Src.Ports = nat.PortRange{First: first, Last: last}
	}})
	one := noSum(udp("10.0.0.5:1", "198.51.100.7:53"))
	for port := first; port <= last; port++ {
		one[20], one[21] = byte(port>>8), byte(port)
		l.inject("lan", mem.Frame{Data: l.frame("lan", one)})
		l.step()
	}
	if n := len(l.ports["wan"].Take()); n != last-first+1 {
		t.Fatalf("%d flows left, want one for each of %d ports", n, last-first+1)
	}
	failed := func() uint64 { return l.table.Stats().InsertFailed }
	before := failed()
	for range 10 {
		l.send("lan", udp("10.0.0.6:3000", "198.51.100.7:53"))
	}
	if n := failed() - before; n > last-first+1+crowdTries {
		t.Errorf("%d claims for ten packets, want hardly more than one for each port, once", n)
	}
	if n := l.e.Stats().Dropped[PortsExhausted]; n != 10 {
		t.Errorf("%d packets refused, want 10", n)
	}
	l.ports["lan"].Take()
	// Other destinations are not affected, and a port that is free again is found.
	l.send("lan", udp("10.0.0.6:3000", "198.51.100.8:53"))
	l.want("wan", "udp 203.0.113.1:3000 > 198.51.100.8:53 ttl 63 len 0")
	if err := l.table.Delete(tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 4321, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}); err != nil {
		t.Fatal(err)
	}
	l.send("lan", udp("10.0.0.6:3000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:4321 > 198.51.100.7:53 ttl 63 len 0")
}

func TestEntryThatEndsWithinABatch(t *testing.T) {
	l := newLab(t, labConfig{})
	l.unwatched() // it takes a batch by hand
	out := udp("10.0.0.5:1", "198.51.100.7:53")
	l.send("lan", out)
	l.take("wan")
	// The batch has been looked up when the flow is deleted.
	l.w.begin(l.now)
	l.inject("lan", mem.Frame{Data: l.frame("lan", out)})
	src := l.w.v.sources[0][1]
	if n := src.q.Recv(l.w.pkts[:]); n != 1 || src.id != lanID {
		t.Fatalf("%d packets of port %d, want 1 of lan", n, src.id)
	}
	p := &l.w.pkts[0]
	p.In = src.id
	if !l.w.receive(p, l.w.v.portOf(src.id), roleWire) {
		t.Fatal("packet was refused")
	}
	count(&l.w.counter.received, 1)
	ref := l.w.ct.Find(&p.Tuple)
	if l.table.Flush() != 1 || !ref.Found() {
		t.Fatal("no flow to delete")
	}
	l.w.finish(p, ref, roleWire)
	l.w.flush()
	src.q.Release()
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:53 ttl 63 len 0")
	l.wantFlows("udp 10.0.0.5:1 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:1")
	l.wantDrops()
}

// RFC 4787 REQ-9: a host inside reaches a forwarded port by the public address.
func TestHairpin(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		portForward(s)
		s.Lists[rules.Dnat][0].If.InArea = rules.Match[string]{}
		s.Lists[rules.Snat] = append(s.Lists[rules.Snat], rules.RuleSpec{
			If: rules.Conditions{InArea: oneOf("lan"), OutArea: oneOf("lan"), Family: tuple.IPv4}, Then: rules.ActMasquerade,
		})
	}})
	for range 2 {
		l.send("lan", tcp("10.0.0.5:40000", "203.0.113.1:443"))
		l.want("lan", "tcp 10.0.0.1:40000 > 10.0.0.6:8443 S seq 0 ack 0 ttl 63 len 0")
	}
	l.send("lan", tcp("10.0.0.6:8443", "10.0.0.1:40000", flags(packet.SYN|packet.ACK), seq(5, 1)))
	l.want("lan", "tcp 203.0.113.1:443 > 10.0.0.5:40000 SA seq 5 ack 1 ttl 63 len 0")
	// An error of the server about it goes to the client, with what the client knows.
	l.send("lan", icmpErrorAbout("10.0.0.6", "10.0.0.1", 3, 1, 0, tcp("10.0.0.1:40000", "10.0.0.6:8443", ttl(63))))
	l.want("lan", "icmp 203.0.113.1 > 10.0.0.5 3/1 [tcp 10.0.0.5:40000 > 203.0.113.1:443 S seq 0 ack 0 ttl 63 len 0]")
	l.wantFlows("tcp 10.0.0.5:40000 > 203.0.113.1:443 / tcp 10.0.0.6:8443 > 10.0.0.1:40000")
	l.wantDrops()
}

func TestIPv6TranslatesToo(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		portForward(s)
		s.Lists[rules.Dnat][0].Dest.Addrs = single("2001:db8:1::6")
		s.Lists[rules.Snat][0].If.Family = 0
	}})
	l.send("lan", udp("[2001:db8:1::5]:40000", "[2001:db8:77::7]:53", body("q")))
	l.want("host", "udp [2001:db8:1::5]:40000 > [2001:db8:1::1]:5353 ttl 64 len 1")
	l.injectHost(udp("[2001:db8:1::1]:5353", "[2001:db8:1::5]:40000", body("a")))
	l.want("lan", "udp [2001:db8:77::7]:53 > [2001:db8:1::5]:40000 ttl 64 len 1")
	l.send("wan", tcp("[2001:db8:77::7]:40000", "[2001:db8:2::1]:443"))
	l.want("lan", "tcp [2001:db8:77::7]:40000 > [2001:db8:1::6]:8443 S seq 0 ack 0 ttl 63 len 0")
	l.send("lan", tcp("[2001:db8:1::6]:8443", "[2001:db8:77::7]:40000", flags(packet.SYN|packet.ACK), seq(5, 1)))
	l.want("wan", "tcp [2001:db8:2::1]:443 > [2001:db8:77::7]:40000 SA seq 5 ack 1 ttl 63 len 0")
	l.send("lan", ping("2001:db8:1::5", "2001:db8:77::7", 9))
	l.want("wan", "icmpv6 2001:db8:2::1 > 2001:db8:77::7 echo id 9 ttl 63")
	l.send("wan", pong("2001:db8:77::7", "2001:db8:2::1", 9))
	l.want("lan", "icmpv6 2001:db8:77::7 > 2001:db8:1::5 reply id 9 ttl 63")
	l.send("wan", icmpErrorAbout("2001:db8:66::1", "2001:db8:2::1", 3, 0, 0, ping("2001:db8:2::1", "2001:db8:77::7", 9)))
	l.want("lan", "icmpv6 2001:db8:66::1 > 2001:db8:1::5 3/0 [icmpv6 2001:db8:1::5 > 2001:db8:77::7 echo id 9 ttl 64]")
	l.wantDrops()
}
