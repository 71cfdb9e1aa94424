package dataplane

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// told returns an explanation in lines, with the positions of rules.
func told(x *Explanation) string {
	var b strings.Builder
	for _, s := range x.Steps {
		fmt.Fprintf(&b, "%s: %s", s.Name, s.Text)
		for _, r := range s.Rules {
			fmt.Fprintf(&b, " [%s]", RuleText(r))
		}
		b.WriteString("\n")
	}
	switch x.Fate {
	case Dropped, Rejected:
		fmt.Fprintf(&b, "%s: %s\n", x.Fate, x.Reason)
	default:
		fmt.Fprintf(&b, "%s: %s as %v\n", x.Fate, x.Out, x.Leaves)
	}
	return b.String()
}

func (l *lab) explain(q Probe) Explanation {
	l.Helper()
	x, err := l.e.Explain(&q)
	if err != nil {
		l.Fatal(err)
	}
	return x
}

func tcpTuple(src string, sport uint16, dst string, dport uint16) tuple.Tuple {
	return portTuple(tuple.TCP, src, sport, dst, dport)
}

func portTuple(proto uint8, src string, sport uint16, dst string, dport uint16) tuple.Tuple {
	t := tuple.Tuple{Src: addr(src), Dst: addr(dst), SrcPort: sport, DstPort: dport, Proto: proto, Family: tuple.IPv6}
	if t.Src.Is4() {
		t.Family = tuple.IPv4
	}
	return t
}

func at(line int) rules.Location { return rules.Location{File: "culvert.toml", Line: line} }

// explained are the rules of the tests that follow.
func explained(s *rules.Spec) {
	s.Lists[rules.Pre] = []rules.RuleSpec{
		{If: rules.Conditions{DSCP: oneOf(rules.ByteRange{First: 46, Last: 46})}, Then: rules.ActMark, Mark: 7, MarkMask: 0xff, Source: at(3)},
	}
	s.Lists[rules.Dnat] = []rules.RuleSpec{{
		If:   rules.Conditions{InArea: oneOf("wan"), Proto: oneOf(tuple.TCP), DstPort: oneOf(nat.PortRange{First: 443, Last: 443})},
		Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.6"), Ports: nat.PortRange{First: 8443, Last: 8443}}, Source: at(9),
	}}
	s.Lists[rules.Filter] = []rules.RuleSpec{
		{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 25, Last: 25})}, Then: rules.ActReject, Source: at(15)},
	}
	s.Lists[rules.Snat] = []rules.RuleSpec{{If: rules.Conditions{OutArea: oneOf("wan"), Family: tuple.IPv4}, Then: rules.ActMasquerade, Source: at(21)}}
}

func TestExplainTellsEveryStep(t *testing.T) {
	for _, tt := range []struct {
		claim  string
		before func(l *lab)
		probe  Probe
		want   string
	}{
		{"a connection that goes out", nil, Probe{Tuple: tcpTuple("10.0.0.5", 40000, "198.51.100.7", 443), In: lanID, TOS: 46 << 2},
			`arrive: on lan, area lan
pre: mark 0x7 [1 pre dscp 46 mark 0x7/0xff (culvert.toml:3)]
lookup: no flow has it
dnat: the destination stays
route: to 198.51.100.7 via 203.0.113.254 by wan, area wan; neighbour reachable
filter: accept by the default policy: new, lan to wan
snat: masquerade as the address of wan [1 snat out-area wan family ipv4 masquerade (culvert.toml:21)]
bind: 203.0.113.1:40000: its own port, which is free
transmit: by wan, up to 1500 bytes
forwarded: wan as tcp 203.0.113.1:40000 > 198.51.100.7:443
`},
		{"a connection to a forwarded port", nil, Probe{Tuple: tcpTuple("198.51.100.7", 5000, "203.0.113.1", 443), In: wanID},
			`arrive: on wan, area wan
pre: no rule changes anything
lookup: no flow has it
dnat: 203.0.113.1:443 becomes 10.0.0.6:8443, port fixed [1 dnat in-area wan proto tcp dport 443 dnat to 10.0.0.6:8443 (culvert.toml:9)]
route: to 10.0.0.6 on the link of lan, area lan; neighbour reachable
filter: accept by the default policy: new, wan to lan
snat: the source stays
bind: 198.51.100.7:5000: its own port, which is free
transmit: by lan, up to 1500 bytes
forwarded: lan as tcp 198.51.100.7:5000 > 10.0.0.6:8443
`},
		{"a connection that a rule rejects", nil, Probe{Tuple: tcpTuple("10.0.0.5", 40000, "198.51.100.7", 25), In: lanID},
			`arrive: on lan, area lan
pre: no rule changes anything
lookup: no flow has it
dnat: the destination stays
route: to 198.51.100.7 via 203.0.113.254 by wan, area wan; neighbour reachable
filter: reject tcp-reset [1 filter dport 25 reject (culvert.toml:15)]
rejected: rule-rejected
`},
		{"unsolicited traffic", nil, Probe{Tuple: portTuple(tuple.UDP, "198.51.100.7", 53, "203.0.113.1", 40000), In: wanID},
			`arrive: on wan, area wan
pre: no rule changes anything
lookup: no flow has it
dnat: the destination stays
route: 203.0.113.1 is the gateway itself
filter: drop by the default policy: new, wan to host
dropped: local-denied
`},
		{"a spoofed source", nil, Probe{Tuple: tcpTuple("10.0.0.5", 1, "203.0.113.1", 443), In: wanID},
			`arrive: on wan, area wan
pre: no rule changes anything
lookup: no flow has it
source: 10.0.0.5 does not live behind wan
dropped: spoofed-source
`},
		{"a segment of no connection", nil, Probe{Tuple: tcpTuple("10.0.0.5", 1, "198.51.100.7", 443), In: lanID, TCPFlags: packet.SYN | packet.ACK},
			`arrive: on lan, area lan
pre: no rule changes anything
lookup: no flow has it
track: it can not begin a flow
route: to 198.51.100.7 via 203.0.113.254 by wan, area wan; neighbour reachable
filter: drop by the default policy: invalid, lan to wan
dropped: invalid-state
`},
		{"the answer of a flow", func(l *lab) {
			l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
			l.take("wan")
		}, Probe{Tuple: portTuple(tuple.UDP, "198.51.100.7", 53, "203.0.113.1", 4000), In: wanID},
			`arrive: on wan, area wan
pre: no rule changes anything
lookup: reply direction of udp      17 30 src=10.0.0.5 dst=198.51.100.7 sport=4000 dport=53 [UNREPLIED] src=198.51.100.7 dst=203.0.113.1 sport=53 dport=4000 mark=0 use=1, by 1 snat out-area wan family ipv4 masquerade (culvert.toml:21)
route: to 10.0.0.5 on the link of lan, area lan; neighbour reachable
filter: the verdict on the flow holds for its packets
transmit: by lan, up to 1500 bytes
forwarded: lan as udp 198.51.100.7:53 > 10.0.0.5:4000
`},
		{"a port that another client has", func(l *lab) {
			l.send("lan", udp("10.0.0.6:4000", "198.51.100.7:53"))
			l.take("wan")
		}, Probe{Tuple: portTuple(tuple.UDP, "10.0.0.5", 4000, "198.51.100.7", 53), In: lanID},
			`bind: 203.0.113.1:*: a free port of its class, at random; 203.0.113.1:4000 is taken
`},
		{"what would pass if the flow existed", nil, Probe{Tuple: tcpTuple("198.51.100.7", 443, "10.0.0.5", 5), In: wanID, Assume: AssumeEstablished},
			`arrive: on wan, area wan
pre: no rule changes anything
lookup: taken for a packet of an established flow
route: to 10.0.0.5 on the link of lan, area lan; neighbour reachable
filter: accept by the default policy: established, wan to lan
transmit: by lan, up to 1500 bytes
forwarded: lan as tcp 198.51.100.7:443 > 10.0.0.5:5
`},
	} {
		l := newLab(t, labConfig{rules: explained})
		if tt.before != nil {
			tt.before(l)
		}
		x := l.explain(tt.probe)
		got := told(&x)
		if strings.HasPrefix(tt.want, "bind") { // that step alone, its random port left out
			got = bindStep(got)
		}
		if got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.claim, got, tt.want)
		}
	}
}

func bindStep(said string) string {
	_, rest, _ := strings.Cut(said, "\nbind: 203.0.113.1:")
	_, rest, _ = strings.Cut(rest, ": ")
	line, _, _ := strings.Cut(rest, "\n")
	return "bind: 203.0.113.1:*: " + line + "\n"
}

// anyRules draws rules that packets of the test below meet.
func anyRules(r *rand.Rand) func(*rules.Spec) {
	conditions := func() (c rules.Conditions) {
		if r.IntN(3) == 0 {
			c.InArea = oneOf([]string{"lan", "wan", "guest", "host"}[r.IntN(4)])
		}
		if r.IntN(3) == 0 {
			c.Proto = oneOf([]uint8{tuple.TCP, tuple.UDP}[r.IntN(2)])
		}
		if r.IntN(3) == 0 {
			c.DstPort = oneOf(nat.PortRange{First: 53, Last: 443})
			c.DstPort.Sense = rules.Sense(r.IntN(2))
		}
		if r.IntN(4) == 0 {
			c.Mark = oneOf(rules.MarkMatch{Value: 1, Mask: 1})
		}
		return c
	}
	action := func(a ...rules.Action) rules.Action { return a[r.IntN(len(a))] }
	return func(s *rules.Spec) {
		add := func(list rules.List, rs rules.RuleSpec) {
			rs.Mark, rs.MarkMask, rs.Source = 1, 1, at(len(s.Lists[list])+1)
			s.Lists[list] = append(s.Lists[list], rs)
		}
		for range r.IntN(3) {
			c := conditions()
			c.Mark = rules.Match[rules.MarkMatch]{} // that of a flow in another zone may count
			add(rules.Pre, rules.RuleSpec{If: c, Then: action(rules.ActMark, rules.ActNoTrack, rules.ActZone), Zone: uint16(r.IntN(3))})
		}
		for range r.IntN(3) {
			add(rules.Dnat, rules.RuleSpec{If: conditions(), Then: action(rules.ActDnat, rules.ActNone, rules.ActMark),
				Dest: nat.Destination{Addrs: single([]string{"10.0.0.6", "10.9.0.5", "198.51.100.7"}[r.IntN(3)]), Ports: nat.PortRange{First: 80, Last: 80}}})
		}
		for range r.IntN(4) {
			c := conditions()
			if r.IntN(4) == 0 {
				c.State = oneOf([]rules.State{rules.New, rules.Established, rules.Invalid, rules.Untracked}[r.IntN(4)])
			}
			add(rules.Filter, rules.RuleSpec{If: c, Then: action(rules.ActAccept, rules.ActDrop, rules.ActReject, rules.ActMark)})
		}
		for range r.IntN(3) {
			c := conditions()
			c.OutArea, c.Family = oneOf("wan"), tuple.IPv4
			add(rules.Snat, rules.RuleSpec{If: c, Then: action(rules.ActMasquerade, rules.ActNone, rules.ActMasquerade),
				Src: nat.Source{Ports: []nat.PortRange{{}, {First: 5000, Last: 5001}}[r.IntN(2)]}})
		}
	}
}

// What Explain says of a packet is what happens when it comes, and nothing has
// happened before.
func TestExplainAgreesWithWhatHappens(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	homes := map[string]uint16{"lan": lanID, "wan": wanID, "guest": guestID, "host": HostPort}
	fates := map[Fate]int{}
	reasons := map[Reason]int{}
	for range 150 {
		l := newLab(t, labConfig{rules: anyRules(r)})
		for range 60 {
			port := pick("lan", "lan", "wan", "wan", "guest", "host")
			src := map[string][]string{"lan": {"10.0.0.5", "10.0.0.6", "10.9.0.5"}, "wan": {"198.51.100.7", "203.0.113.7"},
				"guest": {"10.9.0.5"}, "host": {"203.0.113.1", "10.0.0.1"}}[port]
			q := Probe{Tuple: portTuple(tuple.TCP, pick(src...), uint16(r.IntN(3)*1000+52), pick("198.51.100.7", "203.0.113.7", "10.0.0.6", "10.9.0.5", "203.0.113.1", "10.0.0.255"), uint16([]int{53, 443, 1052, 2052}[r.IntN(4)])),
				In: homes[port], TTL: uint8([]int{1, 64, 64, 64}[r.IntN(4)])}
			ip := tcp
			q.TCPFlags = []uint8{packet.SYN, packet.SYN, packet.SYN | packet.ACK}[r.IntN(3)]
			if r.IntN(2) == 0 {
				ip, q.Tuple.Proto, q.TCPFlags = udp, tuple.UDP, 0
			}
			if q.Tuple.Src == q.Tuple.Dst {
				continue
			}
			flowsBefore, statsBefore, hitsBefore := l.flows(), l.e.Stats(), fmt.Sprint(l.e.RuleHits())
			x := l.explain(q)
			if fmt.Sprint(l.flows()) != fmt.Sprint(flowsBefore) || fmt.Sprint(l.e.Stats()) != fmt.Sprint(statsBefore) || fmt.Sprint(l.e.RuleHits()) != hitsBefore {
				t.Fatalf("asking about %v changed something", q.Tuple)
			}
			if q.Tuple.Proto == tuple.TCP && x.Flow != nil {
				continue // the tracker's word on sequence numbers is not foretold
			}
			l.send(port, ip(endText(&q.Tuple, q.Tuple.Src, q.Tuple.SrcPort), endText(&q.Tuple, q.Tuple.Dst, q.Tuple.DstPort), flags(q.TCPFlags), ttl(q.TTL)))
			now := l.e.Stats()
			fates[x.Fate]++
			reasons[x.Reason]++
			for why := range now.Dropped {
				n := now.Dropped[why] - statsBefore.Dropped[why]
				if want := x.Reason != None && Reason(why) == x.Reason; (n == 1) != want {
					t.Fatalf("%v by %s: dropped as %v %d times, explained\n%s", q.Tuple, port, Reason(why), n, told(&x))
				}
			}
			for name := range l.ports {
				for _, f := range l.ports[name].TakeFrames() {
					got := describe(f, l.ports[name].Info().Link)
					if x.Fate != Forwarded && x.Fate != Delivered {
						continue // an ICMP error or RST to the sender
					}
					leaves := x.Leaves
					leaves.Zone = 0 // not written on packets
					want := leaves.String()
					if x.Choice == nat.Class || x.Choice == nat.RandomPort {
						want, _, _ = strings.Cut(want, ":") // the port was random
					}
					if name != x.Out || !strings.HasPrefix(got, want) {
						t.Fatalf("%v by %s leaves by %s as %s, explained\n%s", q.Tuple, port, name, got, told(&x))
					}
				}
			}
			l.last = l.e.Stats()
			l.now += int64(time.Millisecond)
		}
	}
	t.Log(fates, reasons)
	for _, f := range []Fate{Dropped, Rejected, Forwarded, Delivered} {
		if fates[f] < 100 {
			t.Errorf("%d packets %s: the test has no force", fates[f], f)
		}
	}
}

func TestExplainFollowsExpectations(t *testing.T) {
	l := newLab(t, labConfig{})
	master := newMaster(l)
	announce(l, master, 2000, 0)
	q := Probe{Tuple: tcpTuple("2001:db8:77::7", 20, "2001:db8:1::5", 2000), In: wanID}
	for range 2 { // asking does not use it up
		x := l.explain(q)
		if x.Fate != Forwarded || !strings.Contains(told(&x), "expect: announced by "+master.String()+": related, mark 0x4d\n") {
			t.Fatalf("explained\n%s", told(&x))
		}
	}
	if n := l.table.ExpectLen(); n != 1 {
		t.Errorf("%d expectations left, want 1", n)
	}
}

func TestExplainTellsOfExhaustion(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Snat][0].Src.Ports = nat.PortRange{First: 5000, Last: 5000}
	}})
	l.send("lan", udp("10.0.0.6:4000", "198.51.100.7:53"))
	l.take("wan")
	x := l.explain(Probe{Tuple: portTuple(tuple.UDP, "10.0.0.5", 4000, "198.51.100.7", 53), In: lanID})
	if x.Reason != PortsExhausted || !strings.Contains(told(&x), "none of 1 candidates is free, 203.0.113.1:5000 first") {
		t.Errorf("explained\n%s", told(&x))
	}
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
	l.take("lan") // host unreachable
	l.wantDrops(PortsExhausted)
}

// mapped is masquerade under endpoint-independent mapping.
func mapped(filtering nat.Behaviour) func(*rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		src := &s.Lists[rules.Snat][0].Src
		src.Mapping, src.Filtering = nat.EndpointIndependent, filtering
	}
}

func TestExplainKnowsMappings(t *testing.T) {
	l := newLab(t, labConfig{rules: mapped(nat.EndpointIndependent)})
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:4000 > 198.51.100.7:53 ttl 63 len 0")
	for _, tt := range []struct {
		probe Probe
		say   string
		send  []byte
	}{
		{Probe{Tuple: portTuple(tuple.UDP, "10.0.0.5", 4000, "203.0.113.7", 53), In: lanID},
			"bind: 203.0.113.1:4000: the mapping that the source has\n", udp("10.0.0.5:4000", "203.0.113.7:53")},
		{Probe{Tuple: portTuple(tuple.UDP, "203.0.113.7", 99, "203.0.113.1", 4000), In: wanID},
			"bind: let in by the mapping of 10.0.0.5:4000\n", udp("203.0.113.7:99", "203.0.113.1:4000")},
	} {
		x := l.explain(tt.probe)
		if !strings.Contains(told(&x), tt.say) || x.Fate != Forwarded {
			t.Errorf("explained\n%s, want %s", told(&x), tt.say)
		}
		in := map[uint16]string{lanID: "lan", wanID: "wan"}[tt.probe.In]
		l.send(in, tt.send)
		if got := describe(l.take(x.Out), packet.LinkEthernet); !strings.HasPrefix(got, x.Leaves.String()+" ") {
			t.Errorf("left as %s, explained as %v", got, x.Leaves)
		}
	}
	other := l.explain(Probe{Tuple: portTuple(tuple.UDP, "10.0.0.6", 4000, "198.51.100.9", 53), In: lanID})
	if !strings.Contains(told(&other), "at random; 203.0.113.1:4000 is taken\n") {
		t.Errorf("a port that is another client's alone: explained\n%s", told(&other))
	}
}
