package dataplane

import (
	"slices"
	"strings"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// portMaker makes a port of a lab.
type portMaker = func(string, mem.Options) port.Port

func deny(c rules.Conditions) func(s *rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{If: c, Then: rules.ActDrop}}
	}
}

func TestNewRulesMeetNewFlows(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.reload(deny(rules.Conditions{DstPort: oneOf(nat.PortRange{First: 53, Last: 53})}))
	l.send("lan", udp("10.0.0.5:2", "198.51.100.7:53"))
	l.wantDrops(RuleDenied)
	l.wantHits(1)
	// The rule is about flows, and this one was admitted: both directions go on.
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
	l.take("lan")
	l.wantDrops()
	l.reload(nil)
	l.send("lan", udp("10.0.0.5:2", "198.51.100.7:53"))
	l.take("wan")
	if g := l.e.Generation(); g != 3 {
		t.Errorf("generation %d, want 3", g)
	}
}

func TestRulesWithStateEndEstablishedFlows(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
	l.take("lan")
	// Rules see sources before, destinations after translation, in both directions.
	l.reload(func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{State: oneOf(rules.Established), Src: oneOf(single("10.0.0.5")...)}, Then: rules.ActDrop},
			{If: rules.Conditions{State: oneOf(rules.Established), Dst: oneOf(single("10.0.0.5")...)}, Then: rules.ActDrop},
		}
	})
	for range 2 {
		l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
		l.wantDrops(RuleDenied, RuleDenied)
	}
	l.wantHits(2, 2)
	l.reload(nil)
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
}

func TestPerPacketRulesMeetEveryPacket(t *testing.T) {
	lowTTL := rules.Conditions{InArea: oneOf("wan"), TTL: oneOf(rules.ByteRange{First: 0, Last: 9})}
	l := newLab(t, labConfig{rules: deny(lowTTL)})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53", ttl(5))) // not from wan
	l.take("wan")
	for range 2 {
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1", ttl(5)))
		l.wantDrops(RuleDenied)
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1", ttl(50)))
		l.take("lan")
		l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53", ttl(5)))
		l.take("wan")
	}
	l.wantHits(2)
	l.wantDrops()
}

func TestPerPacketVerdictOfTheFirstPacketDoesNotHold(t *testing.T) {
	l := newLab(t, labConfig{rules: deny(rules.Conditions{InArea: oneOf("lan"), TTL: oneOf(rules.ByteRange{First: 0, Last: 9})})})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53", ttl(5)))
	l.wantDrops(RuleDenied)
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53", ttl(5)))
	l.wantDrops(RuleDenied)
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.wantHits(2)
}

func TestMarkIsKept(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{{If: rules.Conditions{In: oneOf("lan")}, Then: rules.ActMark, Mark: 3, MarkMask: 0xff}}
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{Mark: oneOf(rules.MarkMatch{Value: 3, Mask: 0xff}), DstPort: oneOf(nat.PortRange{First: 25, Last: 25})}, Then: rules.ActDrop},
		}
	}})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:25"))
	l.wantDrops(RuleDenied)
	l.send("guest", udp("10.9.0.5:1", "198.51.100.7:25"))
	l.take("wan")
	marks := map[uint32]int{}
	l.table.Dump(func(f *conntrack.Flow) bool { marks[f.Mark]++; return true })
	if marks[3] != 1 || marks[0] != 1 {
		t.Errorf("marks %v, want one flow with 3 and one without", marks)
	}
	l.wantHits(2, 1)
}

func TestRoutesTakeEffectAtOnce(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.cfg.routes = noRoutes
	st := l.stateNow()
	st.Routes = l.routes(&st)
	l.apply(st)
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.want("wan")
	l.wantDrops(NoRoute)
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/0 [udp 10.0.0.5:1 > 198.51.100.7:53 ttl 64 len 0]")
}

// TestLastOldBatchLeavesNoHints: a worker that is still in a batch under the old
// state when the new one is published caches next hops of the old routes.
func TestLastOldBatchLeavesNoHints(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	old := l.e.view.Load()
	l.cfg.routes = noRoutes
	st := l.stateNow()
	st.Routes = l.routes(&st)
	now, err := l.e.newView(st, old.gen+1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.e.publish(old, now); err != nil {
		t.Fatal(err)
	}
	l.e.view.Store(old) // the worker is in its last batch
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.e.view.Store(now)
	l.e.retire(old, now)
	l.take("wan")
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.want("wan")
	l.wantDrops(NoRoute)
	l.ports["lan"].Take()
}

func TestStatesThatCannotBeAreRefused(t *testing.T) {
	tests := []struct {
		claim string
		edit  func(st *State, l *lab)
		want  string
	}{
		{"port 0 is the host's", func(st *State, _ *lab) { st.Ports[0].ID = HostPort }, "is the host's"},
		{"two ports with one index", func(st *State, _ *lab) { st.Ports[0].ID = wanID }, "index is taken by"},
		{"a port without driver", func(st *State, _ *lab) { st.Ports[0].Port = nil }, "has no driver"},
		{"one address on two ports", func(st *State, _ *lab) { st.Ports[0].Addresses = st.Ports[1].Addresses }, "is already on"},
		{"a port that the rules do not know", func(st *State, _ *lab) { st.Ports[0].ID = 77 }, "the rules give it no area"},
		{"ports without any rules", func(st *State, _ *lab) { st.Program = nil }, "the rules give it no area"},
		{"a tag on nothing", func(st *State, _ *lab) {
			st.Ports = append(st.Ports, PortConfig{ID: 9, Name: "v", Parent: 50, VLAN: 3})
		}, "is no Ethernet port"},
		{"a tag on a tag", func(st *State, _ *lab) {
			st.Ports = append(st.Ports, PortConfig{ID: 9, Name: "v", Parent: lanID, VLAN: 3}, PortConfig{ID: 10, Name: "w", Parent: 9, VLAN: 4})
		}, "is no Ethernet port"},
		{"one tag twice", func(st *State, _ *lab) {
			st.Ports = append(st.Ports, PortConfig{ID: 9, Name: "v", Parent: lanID, VLAN: 3}, PortConfig{ID: 10, Name: "w", Parent: lanID, VLAN: 3})
		}, "is already v"},
		{"a tag that cannot be", func(st *State, _ *lab) {
			st.Ports = append(st.Ports, PortConfig{ID: 9, Name: "v", Parent: lanID, VLAN: 4095})
		}, "must be 1 to 4094"},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{})
			st := l.stateNow()
			tt.edit(&st, l)
			if err := l.e.Apply(st); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one about %q", err, tt.want)
			}
			if g := l.e.Generation(); g != 1 {
				t.Errorf("generation %d after a refusal, want 1", g)
			}
			l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
			l.take("wan")
		})
	}
}

// countingPort counts the senders it has opened and that were closed.
type countingPort struct {
	*mem.Port
	open *int
}

type countingSender struct {
	port.Sender
	open *int
}

func (p countingPort) NewSender() (port.Sender, error) {
	s, err := p.Port.NewSender()
	*p.open++
	return countingSender{s, p.open}, err
}

func (s countingSender) Close() error { *s.open--; return nil }

func TestExtraSendersLiveAsLongAsTheirPort(t *testing.T) {
	open := 0
	l := newLab(t, labConfig{
		table: func(c *conntrack.Config) { c.Workers = 3 },
		more: func(st *State, _ portMaker) {
			st.Ports[0].Port = countingPort{st.Ports[0].Port.(*mem.Port), &open}
		},
	})
	if open != 2 {
		t.Fatalf("%d extra senders for 3 workers on one queue, want 2", open)
	}
	l.reload(nil)
	if open != 2 {
		t.Errorf("%d extra senders after a reload, want the same 2", open)
	}
	l.removePort(lanID)
	if open != 0 {
		t.Errorf("%d extra senders of a port that went away", open)
	}
}

func TestWorkersOfOnePortSendEach(t *testing.T) {
	l := newLab(t, labConfig{
		table: func(c *conntrack.Config) { c.Workers = 2 },
		ports: func(_ *State, o map[string]mem.Options) {
			o["lan"] = mem.Options{Queues: 2, Steer: func([]byte) int { return 1 }}
		},
	})
	l.inject("lan", mem.Frame{Data: l.frame("lan", udp("10.0.0.5:1", "198.51.100.7:53"))})
	if n := l.w.Step(l.now); n != 0 {
		t.Errorf("worker 0 took %d packets of worker 1", n)
	}
	l.e.Worker(1).Step(l.now)
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:53 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1")) // worker 0
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:1 ttl 63 len 0")
}

// TestLostRaceJoinsTheWinner: two packets of one new flow on two workers.
func TestLostRaceJoinsTheWinner(t *testing.T) {
	l := newLab(t, labConfig{table: func(c *conntrack.Config) { c.Workers = 2 }})
	l.unwatched() // it takes a batch by hand
	l.e.Worker(1).begin(l.now)
	first := conntrack.Proposal{
		Original: tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 1, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4},
		Reply:    tuple.Tuple{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), SrcPort: 53, DstPort: 4242, Proto: tuple.UDP, Family: tuple.IPv4},
		Status:   conntrack.SrcNAT | conntrack.SrcNATDone,
	}
	// The winner comes between the lookup and the claim of the other.
	l.inject("lan", mem.Frame{Data: l.frame("lan", udp("10.0.0.5:1", "198.51.100.7:53"))})
	l.w.begin(l.now)
	src := l.w.v.sources[0][1] // after the host's
	n := src.q.Recv(l.w.pkts[:])
	if n != 1 || src.id != lanID {
		t.Fatalf("%d packets of port %d, want 1 of lan", n, src.id)
	}
	p := &l.w.pkts[0]
	p.In = src.id
	if !l.w.receive(p, l.w.v.portOf(src.id), roleWire) {
		t.Fatal("packet was refused")
	}
	count(&l.w.counter.received, 1)
	if ref, c := l.e.Worker(1).ct.Claim(&first, tickAt(l.now)); c != conntrack.Claimed {
		t.Fatalf("the winner got %v %v", ref, c)
	}
	l.w.consider()
	l.w.admit(p, roleWire)
	l.w.flush()
	src.q.Release()
	l.want("wan", "udp 203.0.113.1:4242 > 198.51.100.7:53 ttl 63 len 0")
	l.wantFlows("udp 10.0.0.5:1 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:4242")
	if s := l.table.Stats(); s.ClashResolve != 1 {
		t.Errorf("%d clashes counted, want 1", s.ClashResolve)
	}
	l.wantDrops()
	l.e.Worker(1).park()
}

func TestReasonsAreComplete(t *testing.T) {
	seen := map[string]Reason{}
	for _, r := range Reasons() {
		if r.String() == "" || r.Advice() == "" {
			t.Errorf("reason %d has no text", r)
		}
		if other, twice := seen[r.String()]; twice {
			t.Errorf("reasons %d and %d are both called %s", r, other, r)
		}
		seen[r.String()] = r
	}
	for v := conntrack.Verdict(0); v < conntrack.Accept; v++ {
		if ofVerdict[v] == None {
			t.Errorf("verdict %v has no reason", v)
		}
	}
	for f := packet.OK + 1; f < packet.NumFaults; f++ {
		if ofFault[f] == None {
			t.Errorf("fault %v has no reason", f)
		}
	}
	if !slices.Contains(Reasons(), Internal) {
		t.Error("internal is not a reason")
	}
}

// The mark of such flows shares a word with the table's own status bits.
func TestPerPacketFlowsReportOnlyChanges(t *testing.T) {
	l := newLab(t, labConfig{rules: deny(rules.Conditions{TTL: oneOf(rules.ByteRange{First: 0, Last: 9})})})
	events := l.table.Subscribe(64, conntrack.AllEvents)
	defer events.Close()
	for range 6 {
		l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
		l.take("wan")
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
		l.take("lan")
		l.advance(1e9)
	}
	l.table.Flush()
	var got []string
	for e := range events.Events() {
		if got = append(got, e.Type.String()); e.Type == conntrack.EventDestroy {
			break
		}
	}
	if want := []string{"NEW", "UPDATE", "UPDATE", "DESTROY"}; !slices.Equal(got, want) { // answered, assured
		t.Errorf("events %v, want %v", got, want)
	}
}
