package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/rules"
)

// anyFlow has Engine.End end all flows.
func anyFlow(why conntrack.Cause) func(*conntrack.Flow) conntrack.Cause {
	return func(*conntrack.Flow) conntrack.Cause { return why }
}

// connect takes a TCP connection from 10.0.0.5:40000 to 198.51.100.7:80 through its
// handshake: the client goes on at 101, the server at 501.
func (l *lab) connect() {
	l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:80", seq(100, 0)))
	l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:40000", flags(packet.SYN|packet.ACK), seq(500, 101)))
	l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:80", flags(packet.ACK), seq(101, 501)))
	l.take("lan")
	if n := len(l.ports["wan"].TakeFrames()); n != 2 {
		l.Fatalf("%d segments of the handshake left, want 2", n)
	}
}

func TestEndTellsWhoIsInside(t *testing.T) {
	ack := flags(packet.ACK)
	tests := []struct {
		claim string
		begin func(l *lab)
		port  string
		want  []string
	}{
		{
			"an idle connection gets a RST at the number that its client expects",
			func(l *lab) { l.connect() },
			"lan", []string{"tcp 198.51.100.7:80 > 10.0.0.5:40000 RA seq 501 ack 101 ttl 64 len 0"},
		},
		{
			"one with data that nobody has acknowledged a second one at the number asked for",
			func(l *lab) {
				l.connect()
				l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:40000", ack, seq(501, 101), length(100)))
				l.take("lan")
			},
			"lan", []string{
				"tcp 198.51.100.7:80 > 10.0.0.5:40000 RA seq 601 ack 101 ttl 64 len 0",
				"tcp 198.51.100.7:80 > 10.0.0.5:40000 RA seq 501 ack 101 ttl 64 len 0",
			},
		},
		{
			"a SYN without an answer is refused",
			func(l *lab) {
				l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:80", seq(100, 0)))
				l.take("wan")
			},
			"lan", []string{"tcp 198.51.100.7:80 > 10.0.0.5:40000 RA seq 0 ack 101 ttl 64 len 0"},
		},
		{
			"the server behind a forwarded port, not its client outside",
			func(l *lab) {
				l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:443", seq(100, 0)))
				l.take("lan")
				l.send("lan", tcp("10.0.0.6:8443", "198.51.100.7:40000", flags(packet.SYN|packet.ACK), seq(500, 101)))
				l.take("wan")
			},
			"lan", []string{"tcp 198.51.100.7:40000 > 10.0.0.6:8443 RA seq 101 ack 501 ttl 64 len 0"},
		},
		{
			"a datagram flow by an error that quotes it",
			func(l *lab) {
				l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:1053", body("q")))
				l.take("wan")
			},
			"lan", []string{"icmp 10.0.0.1 > 10.0.0.5 3/3 [udp 10.0.0.5:40000 > 198.51.100.7:1053 ttl 64 len 0]"},
		},
		{
			"ping",
			func(l *lab) { l.send("lan", ping("10.0.0.5", "198.51.100.7", 9)); l.take("wan") },
			"lan", []string{"icmp 10.0.0.1 > 10.0.0.5 3/3 [icmp 10.0.0.5 > 198.51.100.7 echo id 9 ttl 64]"},
		},
		{
			"IPv6",
			func(l *lab) {
				l.send("lan", udp("[2001:db8:1::5]:40000", "[2001:db8:77::7]:1053"))
				l.take("wan")
			},
			"lan", []string{"icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/4 [udp [2001:db8:1::5]:40000 > [2001:db8:77::7]:1053 ttl 64 len 0]"},
		},
		{
			"the gateway itself",
			func(l *lab) { l.injectHost(udp("203.0.113.1:1000", "198.51.100.7:53")); l.take("wan") },
			"host", []string{"icmp 203.0.113.1 > 203.0.113.1 3/3 [udp 203.0.113.1:1000 > 198.51.100.7:53 ttl 64 len 0]"},
		},
		{
			"nobody about a connection that is over",
			func(l *lab) {
				l.connect()
				l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:80", flags(packet.RST|packet.ACK), seq(101, 501)))
				l.take("wan")
			},
			"lan", nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{rules: portForward})
			tt.begin(l)
			if n := l.e.End(anyFlow(conntrack.UplinkDown)); n != 1 {
				t.Fatalf("End took %d flows, want 1", n)
			}
			l.step()
			l.want(tt.port, tt.want...)
			l.wantFlows()
			s := l.e.Stats()
			if s.Ended[conntrack.UplinkDown] != 1 || s.Noticed != uint64(min(len(tt.want), 1)) || s.Originated != uint64(len(tt.want)) {
				t.Errorf("ended %v, told %d hosts by %d packets", s.Ended, s.Noticed, s.Originated)
			}
		})
	}
}

func TestEndBetweenTwoInsideAreasTellsBoth(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		s.Lists[rules.Filter] = []rules.RuleSpec{{Then: rules.ActAccept}}
	}})
	l.send("lan", udp("10.0.0.5:1", "10.9.0.5:2"))
	l.take("guest")
	l.e.End(anyFlow(conntrack.RulesChanged))
	l.step()
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/3 [udp 10.0.0.5:1 > 10.9.0.5:2 ttl 64 len 0]")
	l.want("guest", "icmp 10.9.0.1 > 10.9.0.5 3/3 [udp 10.9.0.5:2 > 10.0.0.5:1 ttl 64 len 0]")
}

func TestEndLeavesOtherFlowsAlone(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.send("lan", udp("10.0.0.6:2", "198.51.100.7:53"))
	l.ports["wan"].TakeFrames()
	events := l.table.Subscribe(8, conntrack.DestroyEvents)
	defer events.Close()
	n := l.e.End(func(f *conntrack.Flow) (why conntrack.Cause) {
		if f.Tuple[tuple.Original].SrcPort == 2 {
			why = conntrack.AddressLost
		}
		return why
	})
	l.step()
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.6 3/3 [udp 10.0.0.6:2 > 198.51.100.7:53 ttl 64 len 0]")
	l.wantFlows("udp 10.0.0.5:1 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:1")
	if e := <-events.Events(); n != 1 || e.Cause != conntrack.AddressLost || e.Flow.Tuple[tuple.Original].SrcPort != 2 {
		t.Errorf("%d flows ended, event %+v", n, e)
	}
}

func TestFlowThatBeganAnewIsNotEnded(t *testing.T) {
	l := newLab(t, labConfig{})
	first := udp("10.0.0.5:1", "198.51.100.7:53")
	l.send("lan", first)
	l.e.End(anyFlow(conntrack.AddressLost))
	l.table.Flush() // before the worker has come to it, and the same ports again:
	l.send("lan", first)
	if n := l.table.Len(); n != 1 {
		t.Errorf("%d flows, want the new one", n)
	}
	l.ports["wan"].TakeFrames()
}

// TestNothingLeavesWithALostAddress sends on flows after their address went and
// before End has seen them.
func TestNothingLeavesWithALostAddress(t *testing.T) {
	l := newLab(t, labConfig{})
	l.connect()
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	st := l.stateNow()
	for i := range st.Ports {
		if st.Ports[i].ID == wanID {
			st.Ports[i].Addresses = prefixes("203.0.113.2/24")
		}
	}
	st.Gone = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	l.apply(st)
	l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:80", flags(packet.ACK), seq(101, 501), body("GET")))
	l.want("lan", "tcp 198.51.100.7:80 > 10.0.0.5:40000 RA seq 501 ack 104 ttl 64 len 0")
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/3 [udp 10.0.0.5:1 > 198.51.100.7:53 ttl 64 len 0]")
	l.wantDrops(FlowEnded, FlowEnded)
	l.wantFlows()
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.2:1 > 198.51.100.7:53 ttl 63 len 0")
}

// TestEndOfManyFlowsDoesNotStallPackets ends more flows than workers hold at once
// and has packets pass meanwhile.
func TestEndOfManyFlowsDoesNotStallPackets(t *testing.T) {
	g := startGateway(t)
	const flows = 3000 // more than the queues of both workers
	g.exchange(flows, 20000)
	ended := make(chan int)
	go func() {
		ended <- g.e.End(anyFlow(conntrack.UplinkDown))
	}()
	told := 0
	count := func(ip []byte) {
		if ip[9] == tuple.ICMP {
			told++
		}
	}
	n := -1
	until(t, "every host is told", func() bool {
		g.receive(g.lan, count)
		select {
		case n = <-ended:
		default:
		}
		return n >= 0 && told >= flows
	})
	g.exchange(100, 40000)
	if s := g.e.Stats(); n != flows || s.Ended[conntrack.UplinkDown] != flows || s.Noticed != flows || g.table.Len() != 100 {
		t.Errorf("End took %d flows, %d ended, %d hosts told, %d flows left", n, s.Ended[conntrack.UplinkDown], s.Noticed, g.table.Len())
	}
}

func TestEndWithoutWorkersEnds(t *testing.T) {
	l := newLab(t, labConfig{})
	for i := range 2 * endingQueue {
		l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", i+1), "198.51.100.7:53"))
		l.ports["wan"].TakeFrames()
	}
	if n := l.e.End(anyFlow(conntrack.InterfaceGone)); n != 2*endingQueue {
		t.Errorf("End took %d flows, want %d", n, 2*endingQueue)
	}
	l.step()
	l.wantFlows()
	if n := len(l.ports["lan"].TakeFrames()); n != endingQueue {
		t.Errorf("%d hosts were told, want those of a full queue: %d", n, endingQueue)
	}
}
