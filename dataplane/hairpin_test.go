package dataplane

import (
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// forwardPorts masquerades and forwards TCP port 443 that comes in from wan, in
// both families.
func forwardPorts(s *rules.Spec) {
	masquerade(s)
	for _, to := range [...]string{"10.0.0.6", "2001:db8:1::6"} {
		s.Lists[rules.Dnat] = append(s.Lists[rules.Dnat], rules.RuleSpec{
			If:   rules.Conditions{InArea: oneOf("wan"), Proto: oneOf(tuple.TCP), DstPort: oneOf(nat.PortRange{First: 443, Last: 443})},
			Then: rules.ActDnat, Dest: nat.Destination{Addrs: single(to), Ports: nat.PortRange{First: 8443, Last: 8443}},
		})
	}
}

// RFC 4787 REQ-9, RFC 5382 REQ-8: by the outside address an inside host reaches
// what is forwarded there, and appears with an outside address itself.
func TestARuleForOutsideHoldsForInsideHosts(t *testing.T) {
	l := newLab(t, labConfig{rules: forwardPorts})
	for range 2 {
		l.send("lan", tcp("10.0.0.5:40000", "203.0.113.1:443"))
		l.want("lan", "tcp 203.0.113.1:40000 > 10.0.0.6:8443 S seq 0 ack 0 ttl 63 len 0")
	}
	l.send("lan", tcp("10.0.0.6:8443", "203.0.113.1:40000", flags(packet.SYN|packet.ACK), seq(5, 1)))
	l.want("lan", "tcp 203.0.113.1:443 > 10.0.0.5:40000 SA seq 5 ack 1 ttl 63 len 0")
	l.send("lan", icmpErrorAbout("10.0.0.6", "203.0.113.1", 3, 1, 0, tcp("203.0.113.1:40000", "10.0.0.6:8443", ttl(63))))
	l.want("lan", "icmp 203.0.113.1 > 10.0.0.5 3/1 [tcp 10.0.0.5:40000 > 203.0.113.1:443 S seq 0 ack 0 ttl 63 len 0]")
	l.send("guest", tcp("10.9.0.5:40001", "203.0.113.1:443"))
	l.want("lan", "tcp 203.0.113.1:40001 > 10.0.0.6:8443 S seq 0 ack 0 ttl 63 len 0")
	l.wantDrops()
}

func TestHairpinWithoutSourceRuleShowsTheAddressedAddress(t *testing.T) {
	l := newLab(t, labConfig{rules: forwardPorts})
	l.send("lan", tcp("[2001:db8:1::5]:40000", "[2001:db8:2::1]:443"))
	l.want("lan", "tcp [2001:db8:2::1]:40000 > [2001:db8:1::6]:8443 S seq 0 ack 0 ttl 63 len 0")
	l.send("lan", tcp("[2001:db8:1::6]:8443", "[2001:db8:2::1]:40000", flags(packet.SYN|packet.ACK), seq(5, 1)))
	l.want("lan", "tcp [2001:db8:2::1]:443 > [2001:db8:1::5]:40000 SA seq 5 ack 1 ttl 63 len 0")
	l.wantDrops()
}

func TestHairpinIsForOutsideAddressesOnly(t *testing.T) {
	l := newLab(t, labConfig{rules: forwardPorts})
	l.send("lan", tcp("10.0.0.5:1000", "198.51.100.7:443")) // some other server's port 443
	l.want("wan", "tcp 203.0.113.1:1000 > 198.51.100.7:443 S seq 0 ack 0 ttl 63 len 0")
	l.send("lan", tcp("10.0.0.5:1001", "10.0.0.1:443")) // the gateway's own
	l.want("host", "tcp 10.0.0.5:1001 > 10.0.0.1:443 S seq 0 ack 0 ttl 64 len 0")
	l.send("lan", tcp("10.0.0.5:1002", "203.0.113.1:80")) // not forwarded
	l.want("host", "tcp 10.0.0.5:1002 > 203.0.113.1:80 S seq 0 ack 0 ttl 64 len 0")
	l.injectHost(tcp("10.0.0.1:1003", "203.0.113.254:443")) // the gateway itself is not inside
	l.want("wan", "tcp 203.0.113.1:1003 > 203.0.113.254:443 S seq 0 ack 0 ttl 64 len 0")
	l.wantDrops()
}

func TestHairpinCanBeSwitchedOff(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		forwardPorts(s)
		for i := range s.Lists[rules.Dnat] {
			s.Lists[rules.Dnat][i].Hairpin = rules.NoHairpin
		}
	}})
	l.send("lan", tcp("10.0.0.5:40000", "203.0.113.1:443"))
	l.want("host", "tcp 10.0.0.5:40000 > 203.0.113.1:443 S seq 0 ack 0 ttl 64 len 0")
	l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:443"))
	l.want("lan", "tcp 198.51.100.7:40000 > 10.0.0.6:8443 S seq 0 ack 0 ttl 63 len 0")
	l.wantDrops()
}

// An address that only the rules have, and a pool that inside hosts appear with.
func TestHairpinByAPoolAddress(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		s.Lists[rules.Dnat] = []rules.RuleSpec{{
			If:   rules.Conditions{In: oneOf("wan"), Dst: oneOf(single("203.0.113.9")...)},
			Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.6")},
		}}
		s.Lists[rules.Snat] = []rules.RuleSpec{{
			If:   rules.Conditions{Out: oneOf("wan"), Dst: oneOf(rules.Prefix(netip.MustParsePrefix("203.0.113.0/24")))},
			Then: rules.ActSnat, Src: nat.Source{Addrs: single("203.0.113.8")},
		}}
	}})
	l.send("lan", udp("10.0.0.5:40000", "203.0.113.9:53", body("q")))
	l.want("lan", "udp 203.0.113.8:40000 > 10.0.0.6:53 ttl 63 len 1")
	l.send("lan", udp("10.0.0.6:53", "203.0.113.8:40000", body("a")))
	l.want("lan", "udp 203.0.113.9:53 > 10.0.0.5:40000 ttl 63 len 1")
	l.send("lan", ping("10.0.0.5", "203.0.113.9", 7))
	l.want("lan", "icmp 203.0.113.8 > 10.0.0.6 echo id 7 ttl 63")
	l.wantDrops()
}

func TestHairpinLeavesExemptFlowsAlone(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		forwardPorts(s)
		s.Lists[rules.Snat] = append([]rules.RuleSpec{{If: rules.Conditions{OutArea: oneOf("lan")}, Then: rules.ActNone}}, s.Lists[rules.Snat]...)
	}})
	l.send("guest", tcp("10.9.0.5:40000", "203.0.113.1:443"))
	l.want("lan", "tcp 10.9.0.5:40000 > 10.0.0.6:8443 S seq 0 ack 0 ttl 63 len 0")
	l.wantDrops()
}

// Questions to any resolver go to the one inside. It sees who asks, unless they
// share its link: then it would answer past the gateway.
func TestInsideDestinationOnTheClientsLink(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Dnat] = []rules.RuleSpec{{
			If:   rules.Conditions{InArea: oneOf("lan", "guest"), Proto: oneOf(tuple.UDP), DstPort: oneOf(nat.PortRange{First: 53, Last: 53})},
			Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.6")},
		}}
	}})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", body("q")))
	l.want("lan", "udp 10.0.0.1:40000 > 10.0.0.6:53 ttl 63 len 1")
	l.send("lan", udp("10.0.0.6:53", "10.0.0.1:40000", body("a")))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 63 len 1")
	l.send("guest", udp("10.9.0.5:40000", "198.51.100.7:53", body("q")))
	l.want("lan", "udp 10.9.0.5:40000 > 10.0.0.6:53 ttl 63 len 1")
	l.wantDrops()
}

func TestHairpinDoesNotAllocate(t *testing.T) {
	l := newLab(t, labConfig{rules: forwardPorts})
	f := first{in: lanID, ruling: &l.w.decision, rnd: l.w.rnd}
	v := l.e.view.Load()
	n := testing.AllocsPerRun(100, func() {
		f.key = rules.Key{
			Tuple: tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("203.0.113.1"), SrcPort: 1, DstPort: 443, Proto: tuple.TCP, Family: tuple.IPv4},
			In:    lanID, InArea: rules.AreaLAN, Local: rules.ToLocal, TTL: 64,
		}
		*f.ruling = rules.Decision{}
		if why := v.decide(&f); why != None || f.key.Tuple.Dst != addr("10.0.0.6") {
			t.Fatalf("%v: %v", f.key.Tuple, why)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for a flow", n)
	}
}

// RFC 4787 REQ-9: without any dnat rule, the mapping of an inside host leads other
// inside hosts to it. Its filtering is about the outside.
func TestHairpinByAMapping(t *testing.T) {
	for _, filtering := range behaviours {
		l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, filtering, nil)})
		l.send("lan", udp("10.0.0.6:4000", "198.51.100.7:53"))
		l.want("wan", "udp 203.0.113.1:4000 > 198.51.100.7:53 ttl 63 len 0")
		l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
		sent := l.ports["wan"].TakeFrames()
		if len(sent) != 1 {
			t.Fatalf("%d packets left", len(sent))
		}
		mapped := strings.Fields(describe(sent[0], packet.LinkEthernet))[1]

		l.send("lan", udp("10.0.0.5:4000", "203.0.113.1:4000"))
		l.want("lan", "udp "+mapped+" > 10.0.0.6:4000 ttl 63 len 0")
		l.send("lan", udp("10.0.0.6:4000", mapped))
		l.want("lan", "udp 203.0.113.1:4000 > 10.0.0.5:4000 ttl 63 len 0")
		l.wantDrops()
	}
}

func TestHairpinByAMappingKeepsAreasApart(t *testing.T) {
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.EndpointIndependent, nil)})
	l.send("lan", udp("10.0.0.6:4000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:4000 > 198.51.100.7:53 ttl 63 len 0")
	l.send("guest", udp("10.9.0.5:4001", "203.0.113.1:4000"))
	l.wantDrops(PolicyDenied)
	l.wantProhibited("guest", PolicyDenied)
}

func TestNoMappingNoHairpin(t *testing.T) {
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.EndpointIndependent, nil)})
	l.send("lan", udp("10.0.0.5:4001", "203.0.113.1:4000"))
	l.want("host", "udp 10.0.0.5:4001 > 203.0.113.1:4000 ttl 64 len 0")
	l.wantDrops()
}

func TestHairpinByAMappingDoesNotAllocate(t *testing.T) {
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.AddressDependent, nil)})
	l.send("lan", udp("10.0.0.6:4000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:4000 > 198.51.100.7:53 ttl 63 len 0")
	f := first{in: lanID, ruling: &l.w.decision, rnd: l.w.rnd}
	v := l.e.view.Load()
	n := testing.AllocsPerRun(100, func() {
		f.key = rules.Key{
			Tuple: tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("203.0.113.1"), SrcPort: 1, DstPort: 4000, Proto: tuple.UDP, Family: tuple.IPv4},
			In:    lanID, InArea: rules.AreaLAN, Local: rules.ToLocal, TTL: 64,
		}
		*f.ruling = rules.Decision{}
		f.turned = nil
		if why := v.decide(&f); why != None || f.key.Tuple.Dst != addr("10.0.0.6") {
			t.Fatalf("%v: %v", f.key.Tuple, why)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for a flow", n)
	}
}

// A socket that sends to its own external endpoint is its own peer.
func TestHairpinToOneself(t *testing.T) {
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.AddressDependent, nil)})
	l.send("lan", udp("10.0.0.6:4000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:4000 > 198.51.100.7:53 ttl 63 len 0")
	for range 2 {
		l.send("lan", udp("10.0.0.6:4000", "203.0.113.1:4000"))
		l.want("lan", "udp 203.0.113.1:4000 > 10.0.0.6:4000 ttl 63 len 0")
	}
	l.wantDrops()
}
