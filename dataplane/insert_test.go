package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// commanded is a UDP flow from inside to insert, seen outside as external.
func commanded(inside, outside, external string) *Insertion {
	parse := func(from, to string) tuple.Tuple {
		f, t := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
		return tuple.Tuple{Src: tuple.AddrFrom(f.Addr()), Dst: tuple.AddrFrom(t.Addr()), SrcPort: f.Port(), DstPort: t.Port(),
			Proto: tuple.UDP, Family: tuple.IPv4}
	}
	in := &Insertion{}
	in.Original, in.Reply = parse(inside, outside), parse(outside, external)
	in.Lives = 100 * 60
	return in
}

// insertLab is a lab whose table has a clock.
func insertLab(t *testing.T, edit func(*rules.Spec)) *lab {
	l := newLab(t, labConfig{rules: edit})
	l.step()
	return l
}

func (l *lab) insert(in *Insertion) {
	l.Helper()
	if err := l.e.Insert(in); err != nil {
		l.Fatal(err)
	}
}

func TestInsertedFlowTranslatesBothWays(t *testing.T) {
	l := insertLab(t, nil)
	l.insert(commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:7777"))
	l.send("lan", udp("10.0.0.5:1000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:7777 > 198.51.100.7:53 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:7777"))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:1000 ttl 63 len 0")
	l.wantFlows("udp 10.0.0.5:1000 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:7777")
}

func TestInsertedFlowLetsItsAnswersInFirst(t *testing.T) {
	l := insertLab(t, nil)
	l.insert(commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:7777"))
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:7777"))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:1000 ttl 63 len 0")
}

func TestInsertedFlowSaysWhoDecided(t *testing.T) {
	l := insertLab(t, nil)
	in := commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:7777")
	l.insert(in)
	own := commanded("10.0.0.5:1001", "198.51.100.7:53", "10.0.0.5:1001")
	l.insert(own)
	for _, tt := range []struct {
		in      *Insertion
		rule    uint32
		snat    bool
		comment string
	}{
		{in, l.e.view.Load().prog.Rules()[0].ID, true, "the rule would have given such a source"},
		{own, 0, false, "no rule leaves the source as it is"},
	} {
		f, err := l.table.Get(tt.in.Original)
		if err != nil {
			t.Fatal(err)
		}
		if f.Rule != tt.rule || nat.Choice(f.Choice) != nat.Commanded || f.Status.Has(conntrack.SrcNAT) != tt.snat || f.Generation != 1 {
			t.Errorf("%s: rule %d, choice %v, status %v, generation %d", tt.comment, f.Rule, nat.Choice(f.Choice), f.Status, f.Generation)
		}
	}
}

func TestPortOfAnInsertedFlowIsTaken(t *testing.T) {
	mappings := append([]nat.Behaviour{nat.Linux}, behaviours...)
	for _, m := range mappings {
		t.Run(fmt.Sprintf("mapping %d", m), func(t *testing.T) {
			l := insertLab(t, translate(m, m, nil))
			l.insert(commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:7777"))
			if got := l.external(talkers["udp"], "10.0.0.6:7777", "198.51.100.7:53"); got == "203.0.113.1:7777" || got == "" {
				t.Errorf("another client left from %q", got)
			}
			second := commanded("10.0.0.7:1000", "198.51.100.7:53", "203.0.113.1:7777")
			if err := l.e.Insert(second); !errors.Is(err, conntrack.ErrExists) {
				t.Errorf("a second flow with its port: %v", err)
			}
			second.Move = MovedIfTaken
			l.insert(second)
			if second.Reply.DstPort == 7777 {
				t.Error("the second flow did not move")
			}
			checkLeases(t, l.e)
			l.table.Flush()
			if n := l.e.leases.Len(); n != 0 {
				t.Errorf("%d leases are left", n)
			}
		})
	}
}

func TestInsertedFlowKeepsTheMappingOfItsSocket(t *testing.T) {
	l := insertLab(t, translate(nat.EndpointIndependent, nat.EndpointIndependent, nil))
	l.insert(commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:7777"))
	if got := l.external(talkers["udp"], "10.0.0.5:1000", "198.51.100.8:99"); got != "203.0.113.1:7777" {
		t.Errorf("the next flow of the socket leaves from %q", got)
	}
	if err := l.e.Insert(commanded("10.0.0.5:1000", "198.51.100.9:53", "203.0.113.1:8888")); !errors.Is(err, conntrack.ErrExists) {
		t.Errorf("a second mapping of the socket: %v", err)
	}
}

func TestInsertedFlowKeepsToTheQuotaOfItsRule(t *testing.T) {
	l := insertLab(t, translate(nat.Linux, nat.Linux, func(s *nat.Source) { s.PortsPerClient = 1 }))
	l.insert(commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:7777"))
	if err := l.e.Insert(commanded("10.0.0.5:1001", "198.51.100.7:53", "203.0.113.1:7778")); !errors.Is(err, ErrNoLease) {
		t.Errorf("a second port: %v", err)
	}
}

// TestInsertedFlowIsAdmittedByItsCommand: only rules that look at each packet are asked.
func TestInsertedFlowIsAdmittedByItsCommand(t *testing.T) {
	for _, tt := range []struct {
		claim string
		match rules.Conditions
		want  []string
		drops []Reason
	}{
		{"a rule about flows", rules.Conditions{Proto: oneOf(tuple.UDP)}, []string{"udp 203.0.113.1:7777 > 198.51.100.7:53 ttl 63 len 0"}, nil},
		{"a rule about packets", rules.Conditions{Length: oneOf(rules.ShortRange{First: 20, Last: 100})}, nil, []Reason{RuleDenied}},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := insertLab(t, func(s *rules.Spec) {
				masquerade(s)
				s.Lists[rules.Filter] = []rules.RuleSpec{{If: tt.match, Then: rules.ActDrop}}
			})
			l.insert(commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:7777"))
			l.send("lan", udp("10.0.0.5:1000", "198.51.100.7:53"))
			l.want("wan", tt.want...)
			l.wantDrops(tt.drops...)
		})
	}
}

// TestDeletedFlowGetsANewMappingByTheNewRules: what -D is for after a reload.
func TestDeletedFlowGetsANewMappingByTheNewRules(t *testing.T) {
	l := insertLab(t, nil)
	l.send("lan", udp("10.0.0.5:1000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:1000 > 198.51.100.7:53 ttl 63 len 0")
	l.reload(func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Snat][0].Src.Ports = nat.PortRange{First: 40000, Last: 40000}
	})
	l.send("lan", udp("10.0.0.5:1000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:1000 > 198.51.100.7:53 ttl 63 len 0")
	k, _ := l.table.Get(commanded("10.0.0.5:1000", "198.51.100.7:53", "203.0.113.1:1").Original)
	if err := l.table.Delete(k.Tuple[tuple.Reply]); err != nil {
		t.Fatal(err)
	}
	l.send("lan", udp("10.0.0.5:1000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
}
