package dataplane

import (
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

func shortUDP(d time.Duration) *conntrack.Timeouts { return &conntrack.Timeouts{UDP: d} }

func dport(p uint16) rules.Match[nat.PortRange] { return oneOf(nat.PortRange{First: p, Last: p}) }

func TestRulesGiveFlowsTheirTimeouts(t *testing.T) {
	for _, tt := range []struct {
		claim string
		rules func(s *rules.Spec)
		alive time.Duration // it is there so long after its packet, and gone two seconds later
	}{
		{"without a rule they are the table's", masquerade, 29 * time.Second},
		{"of a source rule", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Snat][0].Timeouts = shortUDP(10 * time.Second)
		}, 9 * time.Second},
		{"of a filter rule", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Filter] = []rules.RuleSpec{{If: rules.Conditions{DstPort: dport(53)}, Then: rules.ActAccept, Timeouts: shortUDP(5 * time.Second)}}
		}, 4 * time.Second},
		{"of a destination rule", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Dnat] = []rules.RuleSpec{{If: rules.Conditions{DstPort: dport(53)}, Then: rules.ActNone, Timeouts: shortUDP(60 * time.Second)}}
		}, 59 * time.Second},
		{"of a rule that goes on, when no later rule has some", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Filter] = []rules.RuleSpec{
				{Then: rules.ActMark, Mark: 1, MarkMask: 1, Timeouts: shortUDP(7 * time.Second)},
				{Then: rules.ActAccept},
			}
		}, 6 * time.Second},
		{"of the last rule on the way", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Filter] = []rules.RuleSpec{{Then: rules.ActAccept, Timeouts: shortUDP(5 * time.Second)}}
			s.Lists[rules.Snat][0].Timeouts = shortUDP(15 * time.Second)
		}, 14 * time.Second},
		{"of a rule that does not apply they are not", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Filter] = []rules.RuleSpec{{If: rules.Conditions{DstPort: dport(54)}, Then: rules.ActAccept, Timeouts: shortUDP(5 * time.Second)}}
		}, 29 * time.Second},
		{"fields that the rule leaves out are the table's", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Snat][0].Timeouts = &conntrack.Timeouts{Generic: time.Hour}
		}, 29 * time.Second},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{rules: tt.rules})
			l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
			l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
			const flow = "udp 10.0.0.5:40000 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:40000"
			l.advance(tt.alive)
			l.wantFlows(flow)
			l.advance(3 * time.Second)
			l.wantFlows()
		})
	}
}

func TestTimeoutsOfARuleHoldForAllStates(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		var tcp conntrack.Timeouts
		tcp.TCP[conntrack.Established] = time.Hour
		s.Lists[rules.Snat][0].Timeouts = &tcp
	}})
	handshake(l)
	f, ok := flowTo(l, 443)
	if !ok || f.State != conntrack.Established || f.Timeout > time.Hour || f.Timeout < time.Hour-time.Second {
		t.Errorf("%v in state %v has %v to live, want an hour", f.Tuple[tuple.Original], f.State, f.Timeout)
	}
}

// handshake opens a connection from lan to wan.
func handshake(l *lab) {
	l.Helper()
	const client, public, server = "10.0.0.5:40000", "203.0.113.1:40000", "198.51.100.7:443"
	l.send("lan", tcp(client, server, seq(1, 0)))
	l.want("wan", "tcp "+public+" > "+server+" S seq 1 ack 0 ttl 63 len 0")
	l.send("wan", tcp(server, public, flags(0x12), seq(9, 2)))
	l.want("lan", "tcp "+server+" > "+client+" SA seq 9 ack 2 ttl 63 len 0")
	l.send("lan", tcp(client, server, flags(0x10), seq(2, 10)))
	l.want("wan", "tcp "+public+" > "+server+" A seq 2 ack 10 ttl 63 len 0")
}

// Reloads with the same timeouts must not use up the numbers that a table has
// for sets of them.
func TestReloadKeepsTheNumbersOfTimeouts(t *testing.T) {
	short := func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Snat][0].Timeouts = shortUDP(10 * time.Second)
		s.Lists[rules.Filter] = []rules.RuleSpec{{Then: rules.ActAccept, Timeouts: shortUDP(10 * time.Second)}}
	}
	l := newLab(t, labConfig{rules: short})
	before := l.e.view.Load().policies
	l.reload(short)
	after := l.e.view.Load().policies
	if before[0] == 0 || before[0] != before[1] || after[0] != before[0] {
		t.Errorf("numbers %v, after a reload %v; want one number for all", before, after)
	}
}
