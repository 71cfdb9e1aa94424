package dataplane

import (
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/broadcast"
	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// askingLab is a boxLab whose rules give questions for names a helper.
func askingLab(t *testing.T) *lab {
	t.Helper()
	set, err := alg.NewSet(broadcast.NetBIOS)
	if err != nil {
		t.Fatal(err)
	}
	return newLab(t, labConfig{
		table:  func(c *conntrack.Config) { c.HelperName = set.Name },
		engine: func(c *Config) { c.Helpers = set },
		more: func(st *State, make portMaker) {
			st.Ports[1].Box = make("wan-box", mem.Options{GSO: port.WithGSO})
		},
		rules: func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Filter] = append([]rules.RuleSpec{
				{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 137, Last: 137})}, Then: rules.ActHelper, Helper: "netbios-ns"},
			}, s.Lists[rules.Filter]...)
		},
	})
}

// ask has the box's kernel ask all hosts of wan from a port.
func (l *lab) ask(from string) {
	l.Helper()
	const query = "\x12\x34\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x21\x00\x01"
	l.injectAsKernel("wan-box", l.boxFrame("wan", everybody, udp(from, "203.0.113.255:137", body(query))))
	f := l.take("wan")
	if [6]byte(f.Data) != everybody {
		l.Errorf("the question went to %x", f.Data[:6])
	}
}

// TestAnswersToTheBoxesQuestionsComeIn: from the service's port of every host that was
// asked, to the socket that has asked, for as long as the helper says.
func TestAnswersToTheBoxesQuestionsComeIn(t *testing.T) {
	for _, from := range []string{"203.0.113.1:5000", "203.0.113.1:137"} {
		l := askingLab(t)
		l.send("wan", udp("203.0.113.7:137", from))
		l.wantDrops(LocalDenied) // nobody has asked
		l.ask(from)
		for _, answer := range []string{"203.0.113.7:137", "203.0.113.8:137"} {
			l.send("wan", udp(answer, from))
			l.want("wan-box", "udp "+answer+" > "+from+" ttl 64 len 0")
			l.wantDrops()
		}
		l.send("wan", udp("203.0.113.9:138", from)) // of another service
		l.wantDrops(LocalDenied)
		l.send("wan", udp("198.51.100.7:137", from)) // of another network
		l.wantDrops(LocalDenied)
		l.send("wan", udp("203.0.113.9:137", "203.0.113.1:5001"))
		l.wantDrops(LocalDenied)
		l.advance(4 * time.Second)
		l.send("wan", udp("203.0.113.9:137", from)) // too late
		l.wantDrops(LocalDenied)
	}
}

// TestOnlyDirectedBroadcastsOfTheBoxAreFlows: all else to a group leaves as it came.
func TestOnlyDirectedBroadcastsOfTheBoxAreFlows(t *testing.T) {
	l := askingLab(t)
	for _, dst := range []string{"255.255.255.255:137", "224.0.0.251:137"} {
		l.injectAsKernel("wan-box", l.boxFrame("wan", everybody, udp("203.0.113.1:5000", dst)))
		l.take("wan")
	}
	l.wantFlows()
	l.send("lan", udp("10.0.0.5:5000", "203.0.113.255:137")) // is not forwarded (RFC 2644)
	l.wantDrops(Multicast)
	l.ask("203.0.113.1:5000")
	l.wantFlows("udp 203.0.113.1:5000 > 203.0.113.255:137 / udp 203.0.113.255:137 > 203.0.113.1:5000")
	if n := l.table.ExpectLen(); n != 1 {
		t.Errorf("%d flows are expected, want 1", n)
	}
}
