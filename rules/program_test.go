package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

func is[T any](values ...T) Match[T] { return Match[T]{Values: values} }

func compile(t testing.TB, lists map[List][]RuleSpec) *Program {
	t.Helper()
	spec := &Spec{Areas: testAreas()}
	for list, rs := range lists {
		spec.Lists[list] = rs
	}
	p, err := Compile(spec, &Binding{testPorts}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// key is a TCP packet from one bound port to another.
func key(p *Program, in, out uint16, s State) Key {
	k := Key{
		Tuple: tuple.Tuple{
			Src: tuple.AddrFrom(netip.MustParseAddr("10.0.0.5")), Dst: tuple.AddrFrom(netip.MustParseAddr("198.51.100.7")),
			SrcPort: 40000, DstPort: 443, Proto: tuple.TCP, Family: tuple.IPv4,
		},
		In: in, Out: out, InArea: p.AreaOf(in), OutArea: p.AreaOf(out), State: s, TTL: 64,
	}
	if out == HostPort {
		k.Local = ToLocal
	}
	return k
}

func TestDefaultPolicy(t *testing.T) {
	dnat := compile(t, map[List][]RuleSpec{Dnat: {{Then: ActRedirect, Dest: nat.Destination{Redirect: nat.ToLocal}}}})
	exempt := compile(t, map[List][]RuleSpec{Dnat: {{Then: ActNone}}})
	none := compile(t, nil)
	const lan, wan, guest, dmz = 1, 2, 3, 700
	for _, tt := range []struct {
		claim   string
		p       *Program
		in, out uint16
		state   State
		want    Verdict
	}{
		{"lan may go out", none, lan, wan, New, Accept},
		{"guest may go out", none, guest, wan, New, Accept},
		{"an area of the user's own may go out", none, dmz, wan, New, Accept},
		{"lan does not reach guest", none, lan, guest, New, Drop},
		{"guest does not reach lan", none, guest, lan, New, Drop},
		{"lan reaches lan", none, lan, lan, New, Accept},
		{"wan does not reach lan", none, wan, lan, New, Drop},
		{"wan does not reach wan", none, wan, wan, New, Drop},
		{"answers come back", none, wan, lan, Established, Accept},
		{"related packets come back", none, wan, lan, Related, Accept},
		{"invalid packets do not leave", none, lan, wan, Invalid, Drop},
		{"invalid packets do not come in", none, wan, lan, Invalid, Drop},
		{"untracked packets are as new ones outwards", none, lan, wan, Untracked, Accept},
		{"untracked packets are as new ones inwards", none, wan, lan, Untracked, Drop},
		{"lan reaches the gateway", none, lan, HostPort, New, Accept},
		{"wan does not reach the gateway", none, wan, HostPort, New, Drop},
		{"guest does not reach the gateway", none, guest, HostPort, New, Drop},
		{"an area with local = true reaches the gateway", none, dmz, HostPort, New, Accept},
		{"the gateway reaches wan", none, HostPort, wan, New, Accept},
		{"the gateway reaches guest", none, HostPort, guest, New, Accept},
		{"a redirect lets wan in", dnat, wan, HostPort, New, Accept},
		{"a dnat rule lets wan in", dnat, wan, lan, New, Accept},
		{"an exempting dnat rule lets nobody in", exempt, wan, lan, New, Drop},
		{"a dnat rule does not make invalid packets good", dnat, wan, lan, Invalid, Drop},
	} {
		k := key(tt.p, tt.in, tt.out, tt.state)
		var d Decision
		tt.p.Dnat(&k, &d)
		if got := tt.p.Filter(&k, &d); got != tt.want || d.FilterRule != nil {
			t.Errorf("%s: %v by %v, want %v by policy", tt.claim, got, d.FilterRule, tt.want)
		}
	}
}

func TestFirstTerminalRuleEndsAList(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{
		Pre: {
			{Then: ActMark, Mark: 1, MarkMask: 0xff},
			{If: Conditions{Mark: is(MarkMatch{1, 1})}, Then: ActZone, Zone: 7},
			{Then: ActNoTrack},
		},
		Dnat: {
			{Then: ActMark, Mark: 0x100, MarkMask: 0x100},
			{Then: ActNone},
			{Then: ActDnat},
		},
		Snat: {
			{If: Conditions{Mark: is(MarkMatch{0x101, 0xffff})}, Then: ActMasquerade},
			{Then: ActNone},
		},
	})
	k := key(p, 1, 2, New)
	l := NewLedger(p, 1, nil, nil)
	d := Decision{Page: l.Page(0)}
	p.Pre(&k, &d)
	if d.Zone != 7 || d.Tracking != Track || d.PreRule != p.Rules()[1] {
		t.Errorf("pre: zone %d, tracking %d by %v; want zone 7 by the second rule", d.Zone, d.Tracking, d.PreRule)
	}
	if dst := p.Dnat(&k, &d); dst != nil || d.DnatRule != p.Rules()[4] {
		t.Errorf("dnat: %v by %v, want none by the second rule", dst, d.DnatRule)
	}
	if src := p.Snat(&k, &d); src == nil || !src.Masquerade() || d.SnatRule != p.Rules()[6] {
		t.Errorf("snat: %v by %v, want masquerade by the first rule", src, d.SnatRule)
	}
	if got := d.ApplyMark(0xab02); got != 0xab01|0x100 {
		t.Errorf("mark 0xab02 became %#x, want 0xab01|0x100", got)
	}
	hits := ""
	for _, r := range p.Rules() {
		hits += fmt.Sprint(l.Hits(r).Packets)
	}
	if want := "11011010"; hits != want {
		t.Errorf("hits %s, want %s", hits, want)
	}
}

func TestScope(t *testing.T) {
	drop := func(c Conditions) RuleSpec { return RuleSpec{If: c, Then: ActDrop} }
	accept := func(c Conditions) RuleSpec { return RuleSpec{If: c, Then: ActAccept} }
	lowTTL := Conditions{TTL: is(ByteRange{0, 4})}
	for _, tt := range []struct {
		claim  string
		list   []RuleSpec
		state  State
		want   Scope
		follow Scope
	}{
		{"no rules: the flow is decided", nil, New, PerFlow, PerFlow},
		{"fixed fields decide the flow", []RuleSpec{accept(Conditions{DstPort: is(nat.PortRange{First: 443, Last: 443})})}, New, PerFlow, PerFlow},
		{"a drop rule on TTL meets every packet", []RuleSpec{drop(lowTTL)}, New, PerPacket, PerPacket},
		{"and goes on to", []RuleSpec{drop(lowTTL)}, Established, PerPacket, PerPacket},
		{"an accept rule on TTL that did not match changes nothing", []RuleSpec{accept(lowTTL)}, New, PerFlow, PerPacket},
		{"an accept rule on TTL that matched must match again", []RuleSpec{accept(Conditions{TTL: is(ByteRange{64, 64})})}, New, PerPacket, PerPacket},
		{"accepting established first costs nothing", []RuleSpec{accept(Conditions{State: is(Established, Related)})}, Established, PerFlow, PerFlow},
		{"accept new alone leaves the answer to later rules", []RuleSpec{accept(Conditions{State: is(New)})}, New, PerPacket, PerPacket},
		{"until an established packet found its rule", []RuleSpec{accept(Conditions{State: is(New)})}, Established, PerFlow, PerPacket},
		{"a drop rule for invalid packets costs nothing", []RuleSpec{drop(Conditions{State: is(Invalid)})}, New, PerFlow, PerFlow},
		{"a drop rule on another interface costs nothing", []RuleSpec{drop(Conditions{In: is("eth0"), TTL: is(ByteRange{0, 4})})}, New, PerFlow, PerPacket},
	} {
		p := compile(t, map[List][]RuleSpec{Filter: tt.list})
		k := key(p, 1, 2, tt.state)
		var d Decision
		if v := p.Filter(&k, &d); v != Accept || d.Scope != tt.want || p.Follow() != tt.follow {
			t.Errorf("%s: %v with scope %d, program %d; want accept, %d, %d", tt.claim, v, d.Scope, p.Follow(), tt.want, tt.follow)
		}
	}
}

func TestDropFromWanDoesNotEndAnswers(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{Filter: {{If: Conditions{InArea: is("wan")}, Then: ActDrop}}})
	for state, want := range map[State]Verdict{New: Drop, Related: Drop, Invalid: Drop, Untracked: Drop, Established: Accept} {
		k := key(p, 2, 1, state)
		var d Decision
		if got := p.Filter(&k, &d); got != want {
			t.Errorf("%v from wan: %v, want %v", state, got, want)
		}
	}
}

func TestRuleIDsAreHashesOfContent(t *testing.T) {
	a := RuleSpec{Name: "a", Comment: "one", If: Conditions{InArea: is("wan")}, Then: ActDrop}
	b := RuleSpec{If: Conditions{InArea: is("lan")}, Then: ActDrop}
	p := compile(t, map[List][]RuleSpec{Filter: {a, b}})
	a.Name, a.Comment, a.Source.Line = "z", "two", 99
	q := compile(t, map[List][]RuleSpec{Filter: {b, a}})
	if p.Rules()[0].ID != q.Rules()[1].ID || p.Rules()[1].ID != q.Rules()[0].ID {
		t.Error("moving rules or editing name, comment and line changed ids")
	}
	if p.Rules()[0].ID == p.Rules()[1].ID {
		t.Error("two rules have one id")
	}
	for i, r := range p.Rules() {
		if p.Rule(r.ID) != r || int(r.Index) != i || r.ID == 0 {
			t.Errorf("rule %d: id %d, index %d", i, r.ID, r.Index)
		}
	}
	if p.Rule(12345) != nil {
		t.Error("an unknown id has a rule")
	}
}

func TestTwinRulesHaveDifferentIDs(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{Filter: {{Then: ActDrop}, {Then: ActDrop}}})
	if p.Rules()[0].ID == p.Rules()[1].ID {
		t.Error("two rules have one id")
	}
}

func TestCompileRefuses(t *testing.T) {
	v4, v6 := ranges([]string{"10.0.0.0/8"}), ranges([]string{"fd00::/8"})
	for _, tt := range []struct {
		claim string
		spec  Spec
		b     Binding
		want  error
	}{
		{"an interface in an unknown area", Spec{Areas: testAreas()}, Binding{[]BoundPort{{1, "eth9", "mars"}}}, ErrArea},
		{"a port bound twice", Spec{Areas: testAreas()}, Binding{[]BoundPort{{1, "a", "lan"}, {1, "b", "lan"}}}, ErrPort},
		{"the host port", Spec{Areas: testAreas()}, Binding{[]BoundPort{{0, "a", "lan"}}}, ErrPort},
		{"a port out of range", Spec{Areas: testAreas()}, Binding{[]BoundPort{{MaxPorts, "a", "lan"}}}, ErrPort},
		{"an unknown area in a rule", Spec{Areas: testAreas(), Lists: [NumLists][]RuleSpec{Filter: {{If: Conditions{InArea: is("mars")}, Then: ActDrop}}}}, Binding{}, ErrArea},
		{"snat in the dnat list", Spec{Areas: testAreas(), Lists: [NumLists][]RuleSpec{Dnat: {{Then: ActSnat}}}}, Binding{}, ErrAction},
		{"mixed families", Spec{Areas: testAreas(), Lists: [NumLists][]RuleSpec{Filter: {{If: Conditions{Src: Match[nat.AddrRange]{Values: v4}, Dst: Match[nat.AddrRange]{Values: v6}}, Then: ActDrop}}}}, Binding{}, ErrFamilies},
	} {
		if p, err := Compile(&tt.spec, &tt.b, 1); !errors.Is(err, tt.want) || p != nil {
			t.Errorf("%s: %v, want %v", tt.claim, err, tt.want)
		}
	}
	if _, err := Compile(&Spec{}, &Binding{}, 1); err == nil {
		t.Error("a spec without the well-known areas compiles")
	}
}

func TestNormalForm(t *testing.T) {
	pool := ranges([]string{"203.0.113.4/30"})
	one := ranges([]string{"10.0.0.9/32"})
	for _, tt := range []struct {
		rule RuleSpec
		want string
	}{
		{RuleSpec{If: Conditions{OutArea: is("wan"), Family: tuple.IPv4}, Then: ActMasquerade, Src: nat.Source{Ports: nat.PortRange{First: 1024, Last: 65535}, Flags: nat.RFC}},
			"out-area wan family ipv4 masquerade ports 1024-65535"},
		{RuleSpec{If: Conditions{Proto: is(tuple.TCP), DstPort: is(nat.PortRange{First: 443, Last: 443}), Local: is(ToLocal)}, Then: ActDnat, Dest: nat.Destination{Addrs: one, Ports: nat.PortRange{First: 8443, Last: 8443}}},
			"proto tcp dst gateway dport 443 dnat to 10.0.0.9:8443"},
		{RuleSpec{If: Conditions{Src: Match[nat.AddrRange]{Sense: IsNot, Values: one}}, Then: ActSnat, Src: nat.Source{Addrs: pool, Flags: nat.Persistent | nat.Random}},
			"src !10.0.0.9 snat to 203.0.113.4/30 random persistent"},
		{RuleSpec{If: Conditions{ICMP: is(ICMPType{8, 0, 255}, ICMPType{3, 4, 4}), State: Match[State]{Sense: IsNot, Values: []State{Invalid}}}, Then: ActReject},
			"icmp-type 8,3/4 state !invalid reject"},
		{RuleSpec{If: Conditions{TTL: is(ByteRange{0, 4}), DSCP: is(ByteRange{46, 46}), Mark: is(MarkMatch{1, 0xff})}, Then: ActMark, Mark: 2, MarkMask: 0xffffffff},
			"mark 0x1/0xff ttl 0-4 dscp 46 mark 0x2"},
		{RuleSpec{Then: ActRedirect, Dest: nat.Destination{Ports: nat.PortRange{First: 80, Last: 81}, Flags: nat.Shift}}, "redirect ports 80-81 shift"},
		{RuleSpec{Then: ActZone, Zone: 7}, "zone 7"},
		{RuleSpec{Then: ActDrop, If: Conditions{Proto: is(uint8(50), uint8(4))}}, "proto esp,4 drop"},
	} {
		if got := tt.rule.Text(); got != tt.want {
			t.Errorf("normal form %q, want %q", got, tt.want)
		}
	}
}

func TestWalksDoNotAllocate(t *testing.T) {
	p := manyRules(t, 100)
	k := key(p, 1, 2, New)
	page := NewLedger(p, 1, nil, nil).Page(0)
	if n := testing.AllocsPerRun(100, func() {
		d := Decision{Page: page}
		p.Pre(&k, &d)
		p.Dnat(&k, &d)
		p.Filter(&k, &d)
		p.Snat(&k, &d)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// manyRules has n filter rules that a packet must pass before it meets the policy.
func manyRules(t testing.TB, n int) *Program {
	var list []RuleSpec
	for i := range n {
		prefix := fmt.Sprintf("172.%d.%d.0/24", 16+i/256, i%256)
		list = append(list, RuleSpec{If: Conditions{Dst: is(ranges([]string{prefix})...)}, Then: ActDrop})
	}
	return compile(t, map[List][]RuleSpec{
		Filter: list,
		Snat:   {{If: Conditions{OutArea: is("wan"), Family: tuple.IPv4}, Then: ActMasquerade}},
	})
}

func BenchmarkFirstPacket(b *testing.B) {
	for _, n := range []int{0, 10, 100} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			p := manyRules(b, n)
			k := key(p, 1, 2, New)
			d := Decision{}
			for range b.N {
				d = Decision{}
				p.Dnat(&k, &d)
				if p.Filter(&k, &d) != Accept || p.Snat(&k, &d) == nil {
					b.Fatal("not accepted")
				}
			}
		})
	}
}

func TestNamesAreDistinct(t *testing.T) {
	var names []string
	for s := range numStates {
		names = append(names, s.String())
	}
	for v := range numVerdicts {
		names = append(names, v.String())
	}
	for a := range numActions {
		names = append(names, "action "+a.String())
	}
	seen := map[string]bool{}
	for _, n := range names {
		if strings.TrimSpace(n) == "" || seen[n] {
			t.Errorf("name %q is empty or used twice", n)
		}
		seen[n] = true
	}
}
