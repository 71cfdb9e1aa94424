package dataplane

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/rules"
)

func TestErrorsAboutFlowsAreTranslated(t *testing.T) {
	sent := func(ip []byte, hops uint8) []byte { // as the far end got it
		ip[8] = hops
		return ip
	}
	tests := []struct {
		claim string
		first func(l *lab) // makes the flow
		port  string
		ip    []byte
		out   string
		want  string
	}{
		{
			"a router outside, about a masqueraded flow",
			func(l *lab) { l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", body("q"))); l.take("wan") },
			"wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 11, 0, 0, udp("203.0.113.1:40000", "198.51.100.7:53", body("q"), ttl(1))),
			"lan", "icmp 192.0.2.33 > 10.0.0.5 11/0 [udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 1 len 1]",
		},
		{
			"path MTU, tcp",
			func(l *lab) { l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:80")); l.take("wan") },
			"wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 4, 1400, tcp("203.0.113.1:40000", "198.51.100.7:80", ttl(5))),
			"lan", "icmp 192.0.2.33 > 10.0.0.5 3/4 mtu 1400 [tcp 10.0.0.5:40000 > 198.51.100.7:80 S seq 0 ack 0 ttl 5 len 0]",
		},
		{
			"about a ping",
			func(l *lab) { l.send("lan", ping("10.0.0.5", "198.51.100.7", 9)); l.take("wan") },
			"wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, ping("203.0.113.1", "198.51.100.7", 9, ttl(1))),
			"lan", "icmp 192.0.2.33 > 10.0.0.5 3/1 [icmp 10.0.0.5 > 198.51.100.7 echo id 9 ttl 1]",
		},
		{
			"the client's own, about an answer: its address does not leave",
			func(l *lab) { l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53")); l.take("wan") },
			"lan", icmpErrorAbout("10.0.0.5", "198.51.100.7", 3, 3, 0, udp("198.51.100.7:53", "10.0.0.5:40000", body("late"))),
			"wan", "icmp 203.0.113.1 > 198.51.100.7 3/3 [udp 198.51.100.7:53 > 203.0.113.1:40000 ttl 64 len 4]",
		},
		{
			"a server behind a forwarded port",
			func(l *lab) { l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:443")); l.take("lan") },
			"lan", icmpErrorAbout("10.0.0.6", "198.51.100.7", 3, 1, 0, tcp("198.51.100.7:40000", "10.0.0.6:8443", ttl(63))),
			"wan", "icmp 203.0.113.1 > 198.51.100.7 3/1 [tcp 198.51.100.7:40000 > 203.0.113.1:443 S seq 0 ack 0 ttl 63 len 0]",
		},
		{
			"IPv6 too big",
			func(l *lab) { l.send("lan", udp("[2001:db8:1::5]:40000", "[2001:db8:77::7]:53")); l.take("wan") },
			"wan", icmpErrorAbout("2001:db8:66::1", "2001:db8:1::5", 2, 0, 1300, udp("[2001:db8:1::5]:40000", "[2001:db8:77::7]:53")),
			"lan", "icmpv6 2001:db8:66::1 > 2001:db8:1::5 2/0 mtu 1300 [udp [2001:db8:1::5]:40000 > [2001:db8:77::7]:53 ttl 64 len 0]",
		},
		{
			"about a flow of the gateway itself",
			func(l *lab) {
				l.injectHost(udp("203.0.113.1:1000", "198.51.100.7:53"))
				l.take("wan")
			},
			"wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 3, 0, udp("203.0.113.1:1000", "198.51.100.7:53")),
			"host", "icmp 192.0.2.33 > 203.0.113.1 3/3 [udp 203.0.113.1:1000 > 198.51.100.7:53 ttl 64 len 0]",
		},
		{
			"with an embedded header sum of nonsense hops",
			func(l *lab) { l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53")); l.take("wan") },
			"wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, sent(udp("203.0.113.1:40000", "198.51.100.7:53"), 9)),
			"lan", "icmp 192.0.2.33 > 10.0.0.5 3/1 [udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 9 len 0 BAD-IP-SUM]",
		},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{rules: func(s *rules.Spec) {
				portForward(s)
				s.Lists[rules.Dnat] = s.Lists[rules.Dnat][:1] // no redirect
			}})
			tt.first(l)
			before := l.flows()
			l.send(tt.port, tt.ip)
			l.want(tt.out, tt.want)
			l.wantDrops()
			l.wantFlows(before...)
		})
	}
}

// injectHost has the gateway's own stack send an IP packet.
func (l *lab) injectHost(ip []byte) {
	l.Helper()
	l.inject("host", frameOf(ip))
	l.step()
}

func TestErrorsThatGoNowhere(t *testing.T) {
	about := udp("203.0.113.1:40000", "198.51.100.7:53")
	tests := []struct {
		claim string
		port  string
		ip    []byte
		why   Reason
	}{
		{"no such flow", "wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, udp("203.0.113.1:40001", "198.51.100.7:53")), ICMPNoFlow},
		{"the flow's other side seen from here", "wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, udp("198.51.100.7:53", "203.0.113.1:40000")), ICMPNoFlow},
		{"sent to somebody else than the quoted sender", "wan", icmpErrorAbout("192.0.2.33", "10.0.0.6", 3, 1, 0, about), ICMPNoFlow},
		{"quoting an inside address outside", "wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, udp("10.0.0.5:40000", "198.51.100.7:53")), ICMPNoFlow},
		{"quoting too little to name a flow", "wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, about[:22]), ICMPNoFlow},
		{"quoting nothing", "wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, nil), BadPacket},
		{"a redirect of a translated flow", "wan", icmpErrorAbout("203.0.113.254", "203.0.113.1", 5, 1, 0xcb007107, about), Redirect},
		{"from a source that is not behind the port", "wan", icmpErrorAbout("10.0.0.9", "203.0.113.1", 3, 1, 0, about), SpoofedSource},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{})
			l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
			l.take("wan")
			l.send(tt.port, tt.ip)
			l.want("lan")
			l.wantDrops(tt.why)
		})
	}
}

func TestErrorsNeitherMakeNorKeepFlows(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.take("wan")
	e := icmpErrorAbout("192.0.2.33", "203.0.113.1", 11, 0, 0, udp("203.0.113.1:40000", "198.51.100.7:53"))
	l.advance(29e9)
	l.send("wan", e)
	l.take("lan")
	l.advance(2e9)
	l.wantFlows()
	l.send("wan", e)
	l.wantDrops(ICMPNoFlow)
}

func TestFilterSeesErrorsAsRelated(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{
			If:   rules.Conditions{State: oneOf(rules.Related), ICMP: oneOf(rules.ICMPType{Type: 11, MaxCode: 255}), InArea: oneOf("wan"), OutArea: oneOf("lan"), Dst: oneOf(single("10.0.0.5")...)},
			Then: rules.ActDrop,
		}}
	}})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.take("wan")
	about := udp("203.0.113.1:40000", "198.51.100.7:53")
	l.send("wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 11, 0, 0, about))
	l.wantDrops(RuleDenied)
	l.send("wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, about))
	l.want("lan", "icmp 192.0.2.33 > 10.0.0.5 3/1 [udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 64 len 0]")
	l.wantHits(1)
}

// wantHits checks the hit counters of all rules but masquerade's, in their order.
func (l *lab) wantHits(want ...uint64) {
	l.Helper()
	var got []uint64
	for _, h := range l.e.RuleHits() {
		if h.Rule.Action() != rules.ActMasquerade {
			got = append(got, h.Hits)
		}
	}
	if len(got) != len(want) {
		l.Fatalf("%d rules, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			l.Errorf("rule %d: %d hits, want %d", i, got[i], want[i])
		}
	}
}

// zoneOfLAN puts what lan starts, and what comes back to it, into zone 7.
func zoneOfLAN(s *rules.Spec) {
	masquerade(s)
	s.Lists[rules.Pre] = []rules.RuleSpec{{If: rules.Conditions{Proto: oneOf(tuple.UDP, tuple.ICMP)}, Then: rules.ActZone, Zone: 7}}
}

func TestZoneByRule(t *testing.T) {
	l := newLab(t, labConfig{rules: zoneOfLAN})
	for range 2 {
		l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
		l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000"))
		l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 63 len 0")
	}
	l.send("wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, udp("203.0.113.1:40000", "198.51.100.7:53")))
	l.want("lan", "icmp 192.0.2.33 > 10.0.0.5 3/1 [udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 64 len 0]")
	l.wantFlows("udp 10.0.0.5:40000 > 198.51.100.7:53 zone 7 / udp 198.51.100.7:53 > 203.0.113.1:40000 zone 7")
	l.wantHits(5)
	l.wantDrops()
}

func TestNoTrack(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{
			{If: rules.Conditions{}, Then: rules.ActMark, Mark: 5, MarkMask: 0xff},
			{If: rules.Conditions{Proto: oneOf(tuple.UDP, tuple.ICMP)}, Then: rules.ActNoTrack},
		}
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{State: oneOf(rules.Untracked), Mark: oneOf(rules.MarkMatch{Value: 5, Mask: 0xff})}, Then: rules.ActAccept},
		}
	}})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.want("wan", "udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:53", "10.0.0.5:40000"))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 63 len 0")
	l.send("wan", icmpErrorAbout("192.0.2.33", "10.0.0.5", 3, 1, 0, udp("10.0.0.5:40000", "198.51.100.7:53")))
	l.want("lan", "icmp 192.0.2.33 > 10.0.0.5 3/1 [udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 64 len 0]")
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53", ttl(1)))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 11/0 [udp 10.0.0.5:1 > 198.51.100.7:53 ttl 1 len 0]")
	l.send("lan", ping("10.0.0.5", "10.0.0.1", 1))
	l.want("host", "icmp 10.0.0.5 > 10.0.0.1 echo id 1 ttl 64")
	l.send("lan", udp("10.0.0.1:40000", "198.51.100.7:53"))
	l.wantDrops(TTLExceeded, SpoofedSource)
	l.wantFlows()
	l.wantHits(6, 6, 5)
}
