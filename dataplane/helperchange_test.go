package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// reading gives flows to port 5000 the helper parrot, with options.
func reading(o alg.Options, c rules.OnChange) func(*rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 5000, Last: 5000})}, Then: rules.ActHelper, Helper: "parrot", HelperOptions: o, OnChange: c},
			{If: rules.Conditions{InArea: oneOf("lan")}, Then: rules.ActAccept},
		}
	}
}

// ruledLab is a lab in which a rule gives flows to port 5000 the helper parrot.
func ruledLab(t *testing.T, c rules.OnChange) *lab {
	t.Helper()
	set, err := alg.NewSet(parrot{})
	if err != nil {
		t.Fatal(err)
	}
	return newLab(t, labConfig{
		rules:  reading(alg.Options{}, c),
		table:  func(c *conntrack.Config) { c.HelperName = set.Name },
		engine: func(c *Config) { c.Helpers = set },
	})
}

// TestFlowsFollowTheRulesOfHelpers: a reload that takes a helper away, or changes what it
// may do, holds for live flows and for what they have announced, and a dry run tells.
func TestFlowsFollowTheRulesOfHelpers(t *testing.T) {
	const line = "@10.0.0.6:6001 #\n" // of another host
	for _, tt := range []struct {
		claim   string
		was     rules.OnChange
		now     func(*rules.Spec)
		groups  []string // of the survey
		expects int      // flows that are still expected
		hears   string   // what the server gets of line then; "": nothing, the flow has ended
	}{
		{"the same rules", rules.ChangeDefault, reading(alg.Options{}, rules.ChangeDefault), nil, 1, "!" + alg.ErrForeign.Error() + " \n"},
		{"the rule is gone", rules.ChangeDefault, masquerade,
			[]string{"1 other-helper none: 5000 helper -> none: reevaluate"}, 0, line},
		{"the rule allows more", rules.ChangeDefault, reading(alg.Options{Foreign: true}, rules.ChangeDefault),
			[]string{"1 other-helper none: 5000 helper -> 5000 helper: reevaluate"}, 0, "203.0.113.1:6001 \n"},
		{"the rule said that flows keep it", rules.KeepFlows, masquerade,
			[]string{"1 other-helper none: 5000 helper -> none: keep"}, 1, "!" + alg.ErrForeign.Error() + " \n"},
		{"the rule said that they end", rules.EndFlows, masquerade,
			[]string{"1 other-helper none: 5000 helper -> none: end"}, 0, ""},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := ruledLab(t, tt.was)
			if got := l.say("@10.0.0.5:6000\n"); got != "203.0.113.1:6000\n" {
				t.Fatalf("the server was told %q", got)
			}
			short := func(s *Survey) (all []string) {
				for _, g := range s.Groups {
					of := func(r *rules.Rule) string {
						if r == nil {
							return "none"
						}
						return "5000 " + r.Action().String()
					}
					all = append(all, fmt.Sprintf("%d %s %s: %s -> %s: %s", g.Flows, g.What, g.Reason, of(g.Old), of(g.New), g.Fate))
				}
				return all
			}
			if s := l.foresee(tt.now); !slices.Equal(short(&s), tt.groups) {
				t.Errorf("the dry run says %q, want %q", short(&s), tt.groups)
			}
			if n := l.table.ExpectLen(); n != 1 {
				t.Fatalf("%d flows are expected after a dry run", n)
			}
			before := l.e.Ruleset()
			l.reload(tt.now)
			s := l.e.Settle(before, 8)
			l.step() // ends what is to end
			if !slices.Equal(short(&s), tt.groups) {
				t.Errorf("the reload says %q, want %q", short(&s), tt.groups)
			}
			l.ports["lan"].TakeFrames() // the notice of an end
			l.ports["wan"].TakeFrames()
			if n := l.table.ExpectLen(); n != tt.expects {
				t.Errorf("%d flows are expected, want %d", n, tt.expects)
			}
			if tt.hears == "" {
				if f, ok := flowTo(l, 5000); ok {
					t.Errorf("flow %v goes on", f.Tuple)
				}
				return
			}
			if got := l.say(line); got != tt.hears {
				t.Errorf("then %q arrived as %q, want %q", line, got, tt.hears)
			}
			if s := l.e.Stats(); s.Drops() != 0 {
				t.Errorf("dropped %v", s.Dropped)
			}
		})
	}
}

// TestConnectionOutlivesItsHelper: what was changed before stays right.
func TestConnectionOutlivesItsHelper(t *testing.T) {
	l := ruledLab(t, rules.ChangeDefault)
	l.talkTCP()
	l.settle(masquerade)
	if f, _ := flowTo(l, 5000); f.Helper != "" {
		t.Errorf("the flow still has helper %q", f.Helper)
	}
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(101, 501), body("abc~\n"))) // again
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 101 ack 501 ttl 63 len 54")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501), body("x~\n")))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 3")
}

// TestLongTransferOutlivesItsQuietSession: as with netfilter, a data connection does not
// keep its control connection alive; that has the time of every connection of TCP, and an
// expectation five minutes. Data goes on when the session has ended.
func TestLongTransferOutlivesItsQuietSession(t *testing.T) {
	l := phonesLab(t)
	c := l.login("10.0.0.5", 30000)
	c.port(6000)
	const data, mine = "198.51.100.7:20", "203.0.113.1:6000"
	l.send("wan", tcp(data, mine, seq(700, 0)))
	l.send("lan", tcp("10.0.0.5:6000", data, flags(packet.SYN|packet.ACK), seq(800, 701)))
	l.send("wan", tcp(data, mine, flags(ackFlag), seq(701, 801)))
	next := uint32(701)
	transfer := func(d time.Duration) {
		t.Helper()
		for end := l.now + int64(d); l.now < end; {
			l.now += int64(10 * time.Minute)
			l.step()
			l.ports["lan"].TakeFrames()
			l.ports["wan"].TakeFrames()
			l.send("wan", tcp(data, mine, flags(ackFlag), seq(next, 801), body("data")))
			l.want("lan", fmt.Sprintf("tcp %s > 10.0.0.5:6000 A seq %d ack 801 ttl 63 len 4", data, next))
			next += 4
			l.send("lan", tcp("10.0.0.5:6000", data, flags(ackFlag), seq(801, next)))
			l.ports["wan"].TakeFrames()
		}
	}
	session := func() bool {
		_, ok := flowTo(l, 21)
		return ok
	}
	acknowledge := func() {
		l.send("lan", tcp(c.client, ftpServer, flags(ackFlag), seq(c.next, c.srv)))
		l.ports["wan"].TakeFrames()
		l.ports["lan"].TakeFrames()
	}
	acknowledge()
	transfer(4 * 24 * time.Hour)
	if !session() {
		t.Fatal("the session has ended within the time of a connection")
	}
	if got := c.port(6002); !strings.HasPrefix(got, "203,0,113,1,") {
		t.Errorf("the next transfer is announced as %s", got)
	}
	if n := l.table.ExpectLen(); n != 1 {
		t.Errorf("%d flows are expected, want 1", n)
	}
	acknowledge()
	transfer(10 * time.Minute)
	if n := l.table.ExpectLen(); n != 0 {
		t.Errorf("%d flows are expected ten minutes later", n)
	}
	transfer(6 * 24 * time.Hour)
	if session() {
		t.Error("the session lives on without a packet")
	}
	if f, ok := flowTo(l, 6000); !ok || f.Status&conntrack.Expected == 0 {
		t.Errorf("the transfer is %v, %v", f.Tuple, f.Status)
	}
}
