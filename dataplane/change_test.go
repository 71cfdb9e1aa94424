package dataplane

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// settle gives the lab other rules and has flows follow them.
func (l *lab) settle(edit func(*rules.Spec)) Survey {
	l.Helper()
	before := l.e.Ruleset()
	l.reload(edit)
	return l.e.Settle(before, 8)
}

// foresee asks what settle would do.
func (l *lab) foresee(edit func(*rules.Spec)) Survey {
	l.Helper()
	st := l.stateNow()
	st.Program = l.program(&st, edit)
	s, err := l.e.Foresee(st, 8)
	if err != nil {
		l.Fatal(err)
	}
	return s
}

// groups returns the groups of a survey in words.
func groups(s *Survey) (all []string) {
	for _, g := range s.Groups {
		all = append(all, fmt.Sprintf("%d %s %s: %s -> %s: %s", g.Flows, g.What, g.Reason, name(g.Old), name(g.New), g.Fate))
	}
	return all
}

func name(r *rules.Rule) string {
	if r == nil {
		return "none"
	}
	return r.Text
}

func forward(to string, proto uint8, c rules.OnChange) func(*rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Dnat] = []rules.RuleSpec{{
			If:   rules.Conditions{InArea: oneOf("wan"), Proto: oneOf(proto), DstPort: oneOf(nat.PortRange{First: 80, Last: 80})},
			Then: rules.ActDnat, Dest: nat.Destination{Addrs: single(to)}, OnChange: c,
		}}
	}
}

func refuse80(action rules.Action, c rules.OnChange) func(*rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{
			If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 80, Last: 80})}, Then: action, OnChange: c,
		}}
	}
}

// connect opens a TCP connection from lan to wan, port 80.
func (l *lab) connectOut() {
	l.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:80", seq(100, 0)))
	l.take("wan")
	l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:4000", flags(0x12), seq(300, 101)))
	l.take("lan")
	l.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:80", flags(0x10), seq(101, 301)))
	l.take("wan")
}

func TestUnchangedRulesChangeNoFlow(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	flows := 0
	for range 100 {
		edit := anyRules(r)
		var spec rules.Spec
		edit(&spec)
		same := func(s *rules.Spec) { s.Lists = spec.Lists }
		l := newLab(t, labConfig{rules: same})
		l.anyFlows(r)
		if s := l.settle(same); s.Changed() != 0 {
			t.Fatalf("%d of %d flows differ: %v\n%v", s.Changed(), s.Flows, groups(&s), l.flows())
		} else {
			flows += s.Flows
		}
	}
	if flows < 500 {
		t.Errorf("%d flows: the test has no force", flows)
	}
}

// anyFlows sends packets of all kinds.
func (l *lab) anyFlows(r *rand.Rand) {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	for range 40 {
		port := pick("lan", "lan", "wan", "guest", "host")
		src := map[string][]string{"lan": {"10.0.0.5", "10.0.0.6"}, "wan": {"198.51.100.7", "203.0.113.7"}, "guest": {"10.9.0.5"}, "host": {"203.0.113.1", "10.0.0.1"}}[port]
		build := tcp
		if r.IntN(2) == 0 {
			build = udp
		}
		a, b := pick(src...), pick("198.51.100.7", "203.0.113.7", "10.0.0.6", "10.9.0.5", "203.0.113.1")
		if a == b {
			continue
		}
		l.send(port, build(fmt.Sprintf("%s:%d", a, 1000+r.IntN(3)), fmt.Sprintf("%s:%d", b, []int{53, 80, 443}[r.IntN(3)])))
		for _, p := range l.ports {
			p.TakeFrames()
		}
	}
}

// A flow differs exactly if its first packet, sent to a gateway that has had the new
// rules from the beginning, is refused or translated otherwise.
func TestFlowsDifferIfAFreshGatewayDiffers(t *testing.T) {
	r := rand.New(rand.NewPCG(33, 34))
	found := map[Difference]int{}
	for range 20 {
		l := newLab(t, labConfig{rules: anyRules(r)})
		l.anyFlows(r)
		var next rules.Spec
		anyRules(r)(&next)
		edit := func(s *rules.Spec) { s.Lists = next.Lists }
		before := len(l.flows())
		st := l.stateNow()
		st.Program = l.program(&st, edit)
		s, err := l.e.Foresee(st, 1000)
		if err != nil {
			t.Fatal(err)
		}
		differs := map[tuple.Tuple]Difference{}
		for _, c := range s.Sample {
			differs[c.Flow.Tuple[tuple.Original]] = c.What
			found[c.What]++
		}
		if after := len(l.flows()); after != before {
			t.Fatalf("looking changed %d flows to %d", before, after)
		}
		l.table.Dump(func(f *conntrack.Flow) bool {
			was := f.Tuple[tuple.Original]
			got := differs[was]
			if want := l.fresh(edit, f); (got == NoDifference) != (want == "") {
				t.Fatalf("%v / %v: foreseen %v, a fresh gateway: %q", was, f.Tuple[tuple.Reply], got, want)
			}
			return true
		})
	}
	t.Log(found)
	for _, d := range []Difference{WouldBeRefused, WouldGoElsewhere, WouldLookOther, WouldBeTracked} {
		if found[d] < 10 {
			t.Errorf("%d flows are %v: the test has no force", found[d], d)
		}
	}
}

// fresh sends the first packet of a flow to a gateway with other rules and returns
// what differs there.
func (l *lab) fresh(edit func(*rules.Spec), f *conntrack.Flow) string {
	l.Helper()
	n := newLab(l.TB, labConfig{rules: edit})
	was := f.Tuple[tuple.Original]
	port := map[string]string{"10.0.0.5": "lan", "10.0.0.6": "lan", "10.9.0.5": "guest", "203.0.113.1": "host", "10.0.0.1": "host"}[was.Src.String()]
	if port == "" {
		port = "wan"
	}
	build := tcp
	if was.Proto == tuple.UDP {
		build = udp
	}
	n.send(port, build(sourceText(&was), destinationText(&was)))
	for _, p := range n.ports {
		p.TakeFrames()
	}
	var got *conntrack.Flow
	n.table.Dump(func(f *conntrack.Flow) bool { got = f; return false })
	if got == nil {
		return "no flow"
	}
	a, b := f.Tuple[tuple.Reply], got.Tuple[tuple.Reply]
	switch {
	case got.Tuple[tuple.Original].Zone != was.Zone:
		return "other zone"
	case a.Src != b.Src || a.SrcPort != b.SrcPort:
		return "other destination"
	case a.Dst != b.Dst || rangeOf(a.DstPort) != rangeOf(b.DstPort) && rangeOf(b.DstPort) == "rule":
		return "other source"
	}
	return ""
}

// rangeOf tells ports that a rule of anyRules gives.
func rangeOf(port uint16) string {
	if port == 5000 || port == 5001 {
		return "rule"
	}
	return "own"
}

func TestWhatBecomesOfFlows(t *testing.T) {
	udpIn := func(l *lab) {
		l.send("wan", udp("198.51.100.7:5000", "203.0.113.1:80"))
		l.take("lan")
	}
	for _, tt := range []struct {
		claim        string
		before, next func(*rules.Spec)
		open         func(*lab)
		want         []string
		flows        int
		lan          []string
	}{
		{"a connection stays when it would be refused", masquerade, refuse80(rules.ActDrop, rules.ChangeDefault), (*lab).connectOut,
			[]string{"1 refused rule-denied: none -> dport 80 drop: keep"}, 1, nil},
		{"a connection ends with notice when the new rule says so", masquerade, refuse80(rules.ActDrop, rules.EndFlows), (*lab).connectOut,
			[]string{"1 refused rule-denied: none -> dport 80 drop on-change end: end"}, 0,
			[]string{"tcp 198.51.100.7:80 > 10.0.0.5:4000 RA seq 301 ack 101 ttl 64 len 0"}},
		{"a datagram flow is decided anew when its target is gone", forward("10.0.0.6", tuple.UDP, rules.ChangeDefault), forward("10.0.0.7", tuple.UDP, rules.ChangeDefault), udpIn,
			[]string{"1 other-destination none: in-area wan proto udp dport 80 dnat to 10.0.0.6 -> in-area wan proto udp dport 80 dnat to 10.0.0.7: reevaluate"}, 0, nil},
		{"unless its rule keeps it", forward("10.0.0.6", tuple.UDP, rules.KeepFlows), forward("10.0.0.7", tuple.UDP, rules.ChangeDefault), udpIn,
			[]string{"1 other-destination none: in-area wan proto udp dport 80 dnat to 10.0.0.6 on-change keep -> in-area wan proto udp dport 80 dnat to 10.0.0.7: keep"}, 1, nil},
		{"a flow whose rule is gone would be refused", forward("10.0.0.6", tuple.UDP, rules.ChangeDefault), masquerade, udpIn,
			[]string{"1 refused local-denied: in-area wan proto udp dport 80 dnat to 10.0.0.6 -> none: keep"}, 1, nil},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{rules: tt.before})
			tt.open(l)
			foreseen := l.foresee(tt.next)
			if err := l.e.Start(); err != nil { // workers end flows
				t.Fatal(err)
			}
			s := l.settle(tt.next)
			l.e.Stop()
			if got := groups(&s); !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if got := groups(&foreseen); !slices.Equal(got, tt.want) {
				t.Errorf("foreseen %q, want %q", got, tt.want)
			}
			if n := l.table.Len(); n != tt.flows {
				t.Errorf("%d flows left, want %d", n, tt.flows)
			}
			l.want("lan", tt.lan...)
		})
	}
}

func TestDecidedAnewMeansByTheNewRules(t *testing.T) {
	l := newLab(t, labConfig{rules: forward("10.0.0.6", tuple.UDP, rules.ChangeDefault)})
	l.send("wan", udp("198.51.100.7:5000", "203.0.113.1:80"))
	l.want("lan", "udp 198.51.100.7:5000 > 10.0.0.6:80 ttl 63 len 0")
	l.settle(forward("10.0.0.7", tuple.UDP, rules.ChangeDefault))
	l.send("wan", udp("198.51.100.7:5000", "203.0.113.1:80"))
	l.want("lan", "udp 198.51.100.7:5000 > 10.0.0.7:80 ttl 63 len 0")
}

// manyFlows puts UDP flows from lan to wan into the table, translated as masquerade
// does.
func (l *lab) manyFlows(n int) {
	l.Helper()
	w := l.w.ct
	for i := range n {
		if i%64 == 0 {
			w.Begin(tickAt(l.now))
		}
		p := conntrack.Proposal{Original: portTuple(tuple.UDP, "10.0.0.5", uint16(1+i%60000), "198.51.100.7", 53)}
		p.Original.Dst[14], p.Original.Dst[15] = byte(i/60000), byte(i/60000>>8)
		out := p.Original
		out.Src = addr("203.0.113.1")
		p.Reply, _ = out.Inverse()
		p.Status = conntrack.SrcNAT | conntrack.SrcNATDone | conntrack.DstNATDone
		ref, claim := w.Claim(&p, tickAt(l.now))
		if claim != conntrack.Claimed {
			l.Fatalf("flow %d: %v", i, claim)
		}
		w.Track(ref, &conntrack.Segment{Bytes: 28}, tickAt(l.now))
		w.Confirm(ref, tickAt(l.now))
	}
	l.w.park()
}

// BenchmarkForesee compares a flow with 10,000 rules.
func BenchmarkForesee(b *testing.B) {
	const flows = 100_000
	l := newLab(b, labConfig{table: func(c *conntrack.Config) { c.Max = 2 * flows }})
	l.manyFlows(flows)
	st := l.stateNow()
	st.Program = l.program(&st, func(s *rules.Spec) {
		masquerade(s)
		for i := range 10000 {
			s.Lists[rules.Filter] = append(s.Lists[rules.Filter], rules.RuleSpec{
				If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: uint16(1000 + i), Last: uint16(1000 + i)})}, Then: rules.ActDrop,
			})
		}
	})
	b.ResetTimer()
	for range b.N {
		s, err := l.e.Foresee(st, 0)
		if err != nil || s.Flows != flows || s.Changed() != 0 {
			b.Fatalf("%d flows, %v: %v", s.Flows, groups(&s), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*flows), "ns/flow")
}
