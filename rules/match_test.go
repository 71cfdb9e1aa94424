package rules

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// The generators draw from few values, so that conditions and packets meet.

var (
	testPorts = []BoundPort{{1, "eth1", "lan"}, {2, "eth0", "wan"}, {3, "veth3", "guest"}, {700, "veth7", "dmz"}}
	testAddrs = []string{"10.0.0.5", "10.0.0.6", "10.1.0.5", "198.51.100.7", "fd00::5", "2001:db8::7"}
	testNets  = []string{"10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "198.51.100.7/32", "fd00::/8", "::/0", "2001:db8::7/128"}
)

// testSets are what conditions of tests refer to.
func testSets() []*Set {
	return []*Set{
		{Name: "nets", Kind: SetAddrs, Addrs: NewAddrSet(ranges([]string{"10.0.0.0/24", "10.0.1.0/24", "198.51.100.0/24", "fd00::/16"}))},
		{Name: "ports", Kind: SetPorts, Ports: []nat.PortRange{{First: 80, Last: 443}, {First: 1024, Last: 1024}}},
		{Name: "ifs", Kind: SetInterfaces, Names: []string{"eth1", "veth*"}},
	}
}

// inSet lets a condition name a set now and then, beside its values or alone.
func inSet[T any](r *rand.Rand, m Match[T], name string) Match[T] {
	switch r.IntN(8) {
	case 0:
		m.Values, m.Sets = nil, []string{name}
	case 1:
		m.Sets = []string{name}
	}
	return m
}

// noon is a Wednesday.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func randomWindow(r *rand.Rand, rarity int) Window {
	return Window{
		Hours:    randomMatch(r, rarity, []HourRange{{0, 3600}, {11 * 3600, 13 * 3600}, {22 * 3600, 6 * 3600}, {12 * 3600, 86400}}),
		Weekdays: randomMatch(r, rarity, []time.Weekday{time.Sunday, time.Tuesday, time.Wednesday, time.Thursday}),
		Zone:     []*time.Location{time.UTC, time.FixedZone("UTC+13", 13*3600)}[r.IntN(2)],
	}
}

func testAreas() []Area { return append(DefaultAreas(), Area{"dmz", Answered, Inside}) }

func randomMatch[T any](r *rand.Rand, rarity int, pool []T) Match[T] {
	var m Match[T]
	if r.IntN(rarity) != 0 {
		return m
	}
	m.Sense = Sense(r.IntN(2))
	for range 1 + r.IntN(2) {
		m.Values = append(m.Values, pool[r.IntN(len(pool))])
	}
	return m
}

func ranges(prefixes []string) []nat.AddrRange {
	var out []nat.AddrRange
	for _, p := range prefixes {
		out = append(out, Prefix(netip.MustParsePrefix(p)))
	}
	return out
}

func randomConditions(r *rand.Rand, rarity int) Conditions {
	c := Conditions{
		In:      inSet(r, randomMatch(r, rarity, []string{"eth1", "eth0", "veth*", "nope"}), "ifs"),
		Out:     randomMatch(r, rarity, []string{"eth1", "eth0", "veth*", "nope"}),
		InArea:  randomMatch(r, rarity, []string{"lan", "wan", "guest", "host", "dmz"}),
		OutArea: randomMatch(r, rarity, []string{"lan", "wan", "guest", "host", "dmz"}),
		Src:     inSet(r, randomMatch(r, rarity, ranges(testNets)), "nets"),
		Dst:     randomMatch(r, rarity, ranges(testNets)),
		SrcPort: randomMatch(r, rarity, []nat.PortRange{{First: 1, Last: 1023}, {First: 1024, Last: 65535}, {First: 40000, Last: 40000}}),
		DstPort: inSet(r, randomMatch(r, rarity, []nat.PortRange{{First: 443, Last: 443}, {First: 1, Last: 1023}, {First: 53, Last: 80}}), "ports"),
		Proto:   randomMatch(r, rarity, []uint8{tuple.TCP, tuple.UDP, tuple.ICMP, tuple.ICMPv6, 50}),
		ICMP:    randomMatch(r, rarity*2, []ICMPType{{8, 0, 255}, {128, 0, 0}, {0, 1, 5}}),
		Local:   randomMatch(r, rarity*2, []Delivery{ToLocal}),
		State:   randomMatch(r, rarity, []State{New, Established, Related, Invalid, Untracked}),
		Mark:    randomMatch(r, rarity*2, []MarkMatch{{0, 0xff}, {1, 1}, {2, 0xffffffff}}),
		TTL:     randomMatch(r, rarity*2, []ByteRange{{0, 4}, {64, 64}}),
		DSCP:    randomMatch(r, rarity*2, []ByteRange{{46, 46}, {0, 7}}),

		Length:    randomMatch(r, rarity*2, []ShortRange{{0, 100}, {1500, 65535}}),
		Zone:      randomMatch(r, rarity*2, []ShortRange{{0, 0}, {1, 7}}),
		Direction: randomMatch(r, rarity*2, []tuple.Direction{tuple.Original, tuple.Reply}),
		Helper:    randomMatch(r, rarity*2, []string{"ftp", "sip"}),
		Window:    randomWindow(r, rarity*3),
	}
	if r.IntN(rarity) == 0 {
		c.Family = [...]uint8{tuple.IPv4, tuple.IPv6}[r.IntN(2)]
	}
	return c
}

func randomKey(r *rand.Rand, p *Program) Key {
	var k Key
	for {
		src, dst := netip.MustParseAddr(testAddrs[r.IntN(len(testAddrs))]), netip.MustParseAddr(testAddrs[r.IntN(len(testAddrs))])
		if src.Is4() != dst.Is4() {
			continue
		}
		k.Tuple = tuple.Tuple{Src: tuple.AddrFrom(src), Dst: tuple.AddrFrom(dst), Family: tuple.IPv6}
		if src.Is4() {
			k.Tuple.Family = tuple.IPv4
		}
		break
	}
	k.Tuple.Proto = [...]uint8{tuple.TCP, tuple.UDP, tuple.ICMP, tuple.ICMPv6, 50}[r.IntN(5)]
	switch {
	case tuple.HasPorts(k.Tuple.Proto):
		k.Tuple.SrcPort = [...]uint16{40000, 53, 1023, 1024}[r.IntN(4)]
		k.Tuple.DstPort = [...]uint16{443, 53, 80, 8080}[r.IntN(4)]
	case tuple.IsICMP(k.Tuple.Proto):
		k.Tuple.SrcPort = 77
		k.Tuple.DstPort = [...]uint16{8 << 8, 128 << 8, 128<<8 | 1, 3}[r.IntN(4)]
	}
	ports := []uint16{HostPort, 1, 2, 3, 700}
	k.In, k.Out = ports[r.IntN(5)], ports[r.IntN(5)]
	k.InArea, k.OutArea = p.AreaOf(k.In), p.AreaOf(k.Out)
	if k.Out == HostPort {
		k.Local = ToLocal
	}
	k.State = State(r.IntN(int(numStates)))
	k.Mark = uint32(r.IntN(4))
	k.TTL = [...]uint8{1, 64, 63}[r.IntN(3)]
	k.TOS = [...]uint8{0, 46 << 2, 46<<2 | 3, 32}[r.IntN(4)]
	k.Length = [...]uint32{40, 100, 101, 1500, 64000}[r.IntN(5)]
	k.Tuple.Zone = uint16(r.IntN(3) * 5)
	k.Dir = tuple.Direction(r.IntN(2))
	k.Helper = [...]string{"", "ftp", "sip", "tftp"}[r.IntN(4)]
	return k
}

// naive decides conditions one by one, from their written form.
func naive(c *Conditions, fam uint8, areas []Area, k *Key, mark uint32, now time.Time) bool {
	name := func(port uint16) string {
		for _, b := range testPorts {
			if b.Index == port {
				return b.Name
			}
		}
		return ""
	}
	t := &k.Tuple
	return (fam == 0 || fam == t.Family) &&
		check(with(c.In, testSets()[2].Names), func(v string) bool { return MatchName(v, name(k.In)) }) &&
		check(&c.Out, func(v string) bool { return MatchName(v, name(k.Out)) }) &&
		check(&c.InArea, func(v string) bool { return v == areas[k.InArea].Name }) &&
		check(&c.OutArea, func(v string) bool { return v == areas[k.OutArea].Name }) &&
		check(with(c.Src, ranges([]string{"10.0.0.0/23", "198.51.100.0/24", "fd00::/16"})), func(v nat.AddrRange) bool { return naiveIn(v, t.Src) }) &&
		check(&c.Dst, func(v nat.AddrRange) bool { return naiveIn(v, t.Dst) }) &&
		(c.SrcPort.IsAny() || tuple.HasPorts(t.Proto)) &&
		check(&c.SrcPort, func(v nat.PortRange) bool { return v.First <= t.SrcPort && t.SrcPort <= v.Last }) &&
		(c.DstPort.IsAny() || tuple.HasPorts(t.Proto)) &&
		check(with(c.DstPort, testSets()[1].Ports), func(v nat.PortRange) bool { return v.First <= t.DstPort && t.DstPort <= v.Last }) &&
		check(&c.Proto, func(v uint8) bool { return v == t.Proto }) &&
		(c.ICMP.IsAny() || tuple.IsICMP(t.Proto)) &&
		check(&c.ICMP, func(v ICMPType) bool {
			code := uint8(t.DstPort)
			return uint16(v.Type) == t.DstPort>>8 && v.MinCode <= code && code <= v.MaxCode
		}) &&
		check(&c.Local, func(v Delivery) bool { return v == k.Local }) &&
		check(&c.State, func(v State) bool { return v == k.State }) &&
		check(&c.Mark, func(v MarkMatch) bool { return mark&v.Mask == v.Value }) &&
		check(&c.TTL, func(v ByteRange) bool { return v.First <= k.TTL && k.TTL <= v.Last }) &&
		check(&c.DSCP, func(v ByteRange) bool { return v.First <= k.TOS/4 && k.TOS/4 <= v.Last }) &&
		check(&c.Length, func(v ShortRange) bool { return uint32(v.First) <= k.Length && k.Length <= uint32(v.Last) }) &&
		check(&c.Zone, func(v ShortRange) bool { return v.First <= t.Zone && t.Zone <= v.Last }) &&
		check(&c.Direction, func(v tuple.Direction) bool { return v == k.Dir }) &&
		check(&c.Helper, func(v string) bool { return v == k.Helper }) &&
		naiveWindow(&c.Window, now)
}

func naiveWindow(w *Window, now time.Time) bool {
	now = now.In(w.Zone)
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, w.Zone)
	return check(&w.Weekdays, func(v time.Weekday) bool { return v == now.Weekday() }) &&
		check(&w.Hours, func(v HourRange) bool {
			since := int32(now.Sub(midnight) / time.Second)
			if v.First > v.Last {
				return since >= v.First || since < v.Last
			}
			return since >= v.First && since < v.Last
		})
}

// with adds the elements of the set that m names, if it names one.
func with[T any](m Match[T], elements []T) *Match[T] {
	if len(m.Sets) > 0 {
		m.Values = slices.Concat(m.Values, elements)
	}
	return &m
}

func check[T any](m *Match[T], holds func(T) bool) bool {
	return m.IsAny() || slices.ContainsFunc(m.Values, holds) == (m.Sense == Is)
}

func naiveIn(r nat.AddrRange, a tuple.Addr) bool {
	first, last, addr := r.First.Netip(), r.Last.Netip(), a.Netip()
	return first.Is4() == addr.Is4() && first.Compare(addr) <= 0 && addr.Compare(last) <= 0
}

func TestMatcherAgreesWithTheWrittenConditions(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	held := 0
	for range 3000 {
		spec := &Spec{Areas: testAreas(), Sets: testSets()}
		rule := RuleSpec{If: randomConditions(r, 6), Then: ActMasquerade}
		spec.Lists[Snat] = []RuleSpec{rule}
		fam, err := rule.Family()
		p, cerr := Compile(spec, &Binding{testPorts}, 1)
		if (err == nil) != (cerr == nil) {
			t.Fatalf("%s: Family gives %v, Compile %v", rule.Text(), err, cerr)
		}
		if err != nil {
			continue
		}
		for range 40 {
			k := randomKey(r, p)
			now := noon.Add(time.Duration(r.IntN(7*24)) * time.Hour)
			d := Decision{Page: NewLedger(p, 1, nil, nil).Reader(0, now), Purpose: Ask}
			want := naive(&rule.If, fam, spec.Areas, &k, k.Mark, now)
			got := p.Snat(&k, &d) != nil
			if got != want {
				t.Fatalf("%s: matches %+v: %v, want %v", rule.Text(), k, got, want)
			}
			if got {
				held++
			}
		}
	}
	if held < 1000 {
		t.Errorf("only %d packets met a rule: the test has no force", held)
	}
}

func randomFilter(r *rand.Rand) *Spec {
	spec := &Spec{Areas: testAreas(), Sets: testSets()}
	for range 1 + r.IntN(6) {
		rule := RuleSpec{If: randomConditions(r, 12), Then: []Action{ActAccept, ActDrop, ActReject, ActMark, ActCount}[r.IntN(5)]}
		if rule.Then == ActMark {
			rule.Mark, rule.MarkMask = uint32(r.IntN(2)), 1
		}
		if rule.Then == ActCount || r.IntN(8) == 0 {
			rule.Count = "all"
		}
		if _, err := rule.Family(); err == nil {
			spec.Lists[Filter] = append(spec.Lists[Filter], rule)
		}
	}
	return spec
}

// An engine may skip the filter for packets of an established flow when the last
// verdict of their direction held for the flow. Then they must be accepted if
// they met it after all, whatever mark, TTL, DSCP, length and time they have, and no
// rule misses one that it counts.
func TestPerFlowVerdictsHoldForLaterPackets(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	skipped, met := 0, 0
	for range 4000 {
		p, err := Compile(randomFilter(r), &Binding{testPorts}, 1)
		if err != nil {
			t.Fatal(err)
		}
		l := NewLedger(p, 1, nil, nil)
		for range 10 {
			first := randomKey(r, p)
			first.State = []State{New, Established}[r.IntN(2)]
			if first.State == New {
				first.Dir = tuple.Original
			}
			d := Decision{Page: l.Reader(0, noon.Add(time.Duration(r.IntN(24))*time.Hour)), Purpose: Ask}
			v := p.Filter(&first, &d)
			if v != Accept {
				continue
			}
			if p.Follow() == PerFlow && d.Scope == PerPacket {
				t.Fatalf("program follows no flow, but %s gives scope per packet", d.FilterRule)
			}
			if d.Scope == PerPacket && !p.Settles(&first, &d) {
				met++
				continue
			}
			skipped++
			for range 10 {
				later := randomKey(r, p)
				later.Tuple, later.In, later.Out, later.InArea, later.OutArea, later.Local =
					first.Tuple, first.In, first.Out, first.InArea, first.OutArea, first.Local
				later.State, later.Dir, later.Helper = Established, first.Dir, first.Helper
				ld := Decision{Page: l.Page(0)}
				ld.Page.look(noon.Add(time.Duration(r.IntN(24)) * time.Hour))
				before := l.counted0()
				if got := p.Filter(&later, &ld); got != Accept {
					t.Fatalf("%+v is accepted by %s for the flow, but a later packet %+v meets %v by %s\n%s",
						first, d.FilterRule, later, got, ld.FilterRule, listing(p))
				}
				if after := l.counted0(); after != before {
					t.Fatalf("%+v is decided for the flow, but a later packet %+v is one to count\n%s", first, later, listing(p))
				}
			}
		}
	}
	if skipped < 1000 || met < 100 {
		t.Errorf("%d verdicts for flows, %d for packets: the test has no force", skipped, met)
	}
}

// counted0 is what the first counter has counted.
func (l *Ledger) counted0() (t Traffic) {
	if len(l.counted) > 0 {
		t = l.counter(0)
	}
	return t
}

func listing(p *Program) string {
	var b strings.Builder
	for _, r := range p.Rules() {
		b.WriteString(r.String() + "\n")
	}
	return b.String()
}

// The filter is a first match over the written rules, but for rules that decide
// about flows, which leave established packets alone, and for accept rules, which
// take invalid packets only when they name them.
func TestFilterAgreesWithTheWrittenList(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		spec := randomFilter(r)
		p, err := Compile(spec, &Binding{testPorts}, 1)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			k := randomKey(r, p)
			now := noon.Add(time.Duration(r.IntN(24)) * time.Hour)
			l := NewLedger(p, 1, nil, nil)
			d := Decision{Page: l.Page(0)}
			d.Page.look(now)
			got := p.Filter(&k, &d)
			want, mark, counted := naiveFilter(spec, &k, now)
			if n := l.counted0(); n.Packets != counted || n.Bytes != counted*uint64(k.Length) {
				t.Fatalf("%+v: counted %+v, want %d packets\n%s", k, n, counted, listing(p))
			}
			if want == "policy" {
				if d.FilterRule != nil || got != p.policy(&k, &d) {
					t.Fatalf("%+v: %v by %v, want the default policy\n%s", k, got, d.FilterRule, listing(p))
				}
			} else if got.String() != want {
				t.Fatalf("%+v: %v, want %s\n%s", k, got, want, listing(p))
			}
			if d.ApplyMark(k.Mark) != mark {
				t.Fatalf("%+v: mark %d, want %d\n%s", k, d.ApplyMark(k.Mark), mark, listing(p))
			}
		}
	}
}

func naiveFilter(spec *Spec, k *Key, now time.Time) (verdict string, mark uint32, counted uint64) {
	mark = k.Mark
	for i := range spec.Lists[Filter] {
		rule := &spec.Lists[Filter][i]
		fam, _ := rule.Family()
		c := &rule.If
		aboutFlows := rule.Then != ActAccept && c.State.IsAny() && c.Mark.IsAny() && c.TTL.IsAny() && c.DSCP.IsAny() &&
			c.Length.IsAny() && c.Direction.IsAny() && c.Window.IsAny() && (rule.Then.Terminal() || rule.Count == "")
		unasked := k.State == Invalid && rule.Then == ActAccept && !(c.State.Sense == Is && slices.Contains(c.State.Values, Invalid))
		if k.State == Established && aboutFlows || unasked || !naive(c, fam, spec.Areas, k, mark, now) {
			continue
		}
		if rule.Count != "" {
			counted++
		}
		switch rule.Then {
		case ActMark:
			mark = mark&^rule.MarkMask | rule.Mark
		case ActCount:
		case ActReject:
			if k.Tuple.Proto == tuple.TCP {
				return RejectReset.String(), mark, counted
			}
			return RejectProhibited.String(), mark, counted
		default:
			return rule.Then.String(), mark, counted
		}
	}
	return "policy", mark, counted
}
