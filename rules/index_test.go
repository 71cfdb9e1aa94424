package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// linear makes p look at every rule of a list: the slow twin of the index.
func linear(p *Program) *Program {
	twin := *p
	for list := range NumLists {
		b := indexer{}
		b.runs = []uint32{0}
		b.root = b.run(positions(len(p.lists[list])))
		twin.index[list] = b.index
	}
	return &twin
}

func positions(n int) []uint32 {
	all := make([]uint32, n)
	for i := range all {
		all[i] = uint32(i)
	}
	return all
}

// crowd draws the values of rules and packets from many, so that an index has
// something to cut, but near each other, so that they meet.
type crowd struct {
	*rand.Rand
	nets, ports int
}

func (c crowd) addr4() netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(c.IntN(4)), byte(c.IntN(c.nets)), byte(c.IntN(8))})
}

func (c crowd) addr6() netip.Addr {
	a := [16]byte{0x20, 1, 0xd, 0xb8, 0, byte(c.IntN(c.nets)), 15: byte(c.IntN(8))}
	a[8] = byte(c.IntN(2))
	return netip.AddrFrom16(a)
}

func (c crowd) addrs() (m Match[nat.AddrRange]) {
	m.Sense = Sense(c.IntN(8) / 7)
	six := c.IntN(4) == 0
	for range 1 + c.IntN(2)*c.IntN(12) {
		a, bits := c.addr4(), []int{8, 16, 22, 24, 24, 24, 30, 32}
		if six {
			a, bits = c.addr6(), []int{0, 32, 48, 60, 64, 65, 127, 128}
		}
		r := Prefix(netip.PrefixFrom(a, bits[c.IntN(8)]))
		if c.IntN(6) == 0 { // a range that is no prefix
			b := r.First
			b[15] += 5
			b[14] += byte(c.IntN(3))
			if r.First.Netip().Compare(b.Netip()) <= 0 {
				r.Last = b
			}
		}
		m.Values = append(m.Values, r)
	}
	return m
}

func (c crowd) portRanges() (m Match[nat.PortRange]) {
	m.Sense = Sense(c.IntN(8) / 7)
	for range 1 + c.IntN(2)*c.IntN(5) {
		first := uint16(c.IntN(c.ports))
		m.Values = append(m.Values, nat.PortRange{First: first, Last: first + uint16(c.IntN(2)*c.IntN(300))})
	}
	return m
}

func (c crowd) conditions() Conditions {
	cond := randomConditions(c.Rand, 20)
	if c.IntN(3) != 0 {
		cond.Dst = c.addrs()
	}
	if c.IntN(3) == 0 {
		cond.Src = c.addrs()
	}
	if c.IntN(3) == 0 {
		cond.DstPort = c.portRanges()
	}
	if c.IntN(8) == 0 {
		cond.SrcPort = c.portRanges()
	}
	return cond
}

func (c crowd) spec(n int) *Spec {
	spec := &Spec{Areas: testAreas(), Sets: testSets()}
	add := func(list List, r RuleSpec) {
		if _, err := r.Family(); err == nil {
			spec.Lists[list] = append(spec.Lists[list], r)
		}
	}
	for range n {
		rule := RuleSpec{If: c.conditions(), Then: []Action{ActAccept, ActDrop, ActReject, ActMark}[c.IntN(4)]}
		if rule.Then == ActMark {
			rule.Mark, rule.MarkMask = uint32(c.IntN(2)), 1
		}
		add(Filter, rule)
		add(Pre, RuleSpec{If: c.conditions(), Then: []Action{ActZone, ActNoTrack, ActAccept}[c.IntN(3)], Zone: uint16(c.IntN(9))})
		add(Dnat, RuleSpec{If: c.conditions(), Then: []Action{ActDnat, ActNone}[c.IntN(2)]})
		add(Snat, RuleSpec{If: c.conditions(), Then: []Action{ActMasquerade, ActNone}[c.IntN(2)]})
	}
	return spec
}

func (c crowd) key(p *Program) Key {
	k := randomKey(c.Rand, p)
	if k.Tuple.Family == tuple.IPv4 {
		k.Tuple.Src, k.Tuple.Dst = tuple.AddrFrom(c.addr4()), tuple.AddrFrom(c.addr4())
	} else {
		k.Tuple.Src, k.Tuple.Dst = tuple.AddrFrom(c.addr6()), tuple.AddrFrom(c.addr6())
	}
	if tuple.HasPorts(k.Tuple.Proto) {
		k.Tuple.SrcPort, k.Tuple.DstPort = uint16(c.IntN(c.ports)), uint16(c.IntN(c.ports))
	}
	return k
}

// The index leaves out no rule that holds, and keeps the order of the list.
func TestIndexFindsEveryRuleThatHolds(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	held, shown, listed := 0, 0, 0
	for round := range 36 {
		c := crowd{r, 1 + r.IntN(200), 1 + r.IntN(60000)}
		p, err := Compile(c.spec(1+round*round/4), &Binding{testPorts}, 1)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			k := c.key(p)
			for list := range NumLists {
				var want, got []int
				for _, rule := range p.lists[list] {
					if rule.match.static(&k) {
						want = append(want, rule.Pos)
					}
				}
				var cand candidates
				p.candidates(list, &k, &cand)
				last := 0
				for rule := cand.next(); rule != nil; rule = cand.next() {
					if rule.Pos <= last {
						t.Fatalf("rule %d after rule %d", rule.Pos, last)
					}
					last = rule.Pos
					shown++
					if rule.match.static(&k) {
						got = append(got, rule.Pos)
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%s: %+v: index finds rules %v, want %v\n%s", list, k, got, want, listing(p))
				}
				held += len(want)
				listed += p.Len(list)
			}
		}
	}
	if held < 10000 || 2*(shown-held) > listed-held {
		t.Errorf("%d rules hold, the index shows %d of %d: the test has no force", held, shown, listed)
	}
}

// Decisions with the index are those without it, hits and scope included.
func TestIndexChangesNoDecision(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	walk := func(p *Program, k Key) (d Decision, said string) {
		l := NewLedger(p, 1, nil, nil)
		d.Page = l.Page(0)
		p.Pre(&k, &d)
		dst := p.Dnat(&k, &d)
		v := p.Filter(&k, &d)
		src := p.Snat(&k, &d)
		var hits []uint32
		for _, r := range p.Rules() {
			if l.Hits(r).Packets > 0 {
				hits = append(hits, r.Index)
			}
		}
		return d, fmt.Sprint(dst, v, src, d.Scope, d.Zone, d.Tracking, d.ApplyMark(k.Mark), d.PreRule, d.DnatRule, d.FilterRule, d.SnatRule, hits)
	}
	for round := range 36 {
		c := crowd{r, 1 + r.IntN(200), 1 + r.IntN(60000)}
		p, err := Compile(c.spec(1+round*round/4), &Binding{testPorts}, 1)
		if err != nil {
			t.Fatal(err)
		}
		twin := linear(p)
		for range 200 {
			k := c.key(p)
			_, got := walk(p, k)
			if _, want := walk(twin, k); got != want {
				t.Fatalf("%+v:\n%s with the index\n%s without\n%s", k, got, want, listing(p))
			}
		}
	}
}

// hardLists are lists that tell their rules apart in different ways.
var hardLists = map[string]func(i int) Conditions{
	"prefixes": func(i int) Conditions { return Conditions{Dst: is(nth4(i, 24))} },
	"hosts":    func(i int) Conditions { return Conditions{Src: is(nth4(i, 32))} },
	"ports": func(i int) Conditions {
		return Conditions{DstPort: is(nat.PortRange{First: uint16(i), Last: uint16(i)})}
	},
	"ipv6": func(i int) Conditions { return Conditions{Dst: is(nth6(i))} },
	"pairs": func(i int) Conditions {
		return Conditions{Src: is(nth4(i%100, 24)), DstPort: is(nat.PortRange{First: uint16(i / 100), Last: uint16(i / 100)})}
	},
	"sets": func(i int) Conditions {
		return Conditions{Dst: is(nth4(3*i, 24), nth4(3*i+1, 24), nth4(3*i+2, 24)), DstPort: is(nat.PortRange{First: 80, Last: 80}, nat.PortRange{First: 443, Last: 443})}
	},
	"mixed":  mixedConditions,
	"nested": func(i int) Conditions { return Conditions{Dst: is(nth4(i/16, 24-i%16))} },
	"overlapping ports": func(i int) Conditions {
		return Conditions{DstPort: is(nat.PortRange{First: uint16(i), Last: uint16(i + 20000)}), Src: is(nth4(i, 24))}
	},
	"rectangles": func(i int) Conditions { // any two differ in one dimension at most
		side := func(n int) nat.PortRange {
			return nat.PortRange{First: uint16(n % 100 * 600), Last: uint16(n%100*600 + 1800)}
		}
		return Conditions{SrcPort: is(side(i)), DstPort: is(side(i / 100))}
	},
	"half prefixes, half ports": func(i int) Conditions {
		if i%2 == 0 {
			return Conditions{Dst: is(nth4(i, 24))}
		}
		return Conditions{DstPort: is(nat.PortRange{First: uint16(i), Last: uint16(i)})}
	},
}

// mixedConditions tell rules apart by prefixes, ports, or sets of both, and by both at once.
func mixedConditions(i int) Conditions {
	port := func(n int) nat.PortRange { return nat.PortRange{First: uint16(1024 + n), Last: uint16(1024 + n)} }
	switch i % 5 {
	case 0:
		return Conditions{Dst: is(nth4(i, 24)), Proto: is(tuple.TCP)}
	case 1:
		return Conditions{Src: is(nth4(i, 28)), InArea: is("wan")}
	case 2:
		return Conditions{DstPort: is(port(i)), Proto: is(tuple.TCP, tuple.UDP)}
	case 3:
		return Conditions{Dst: is(nth4(i, 24), nth4(i+20000, 24), nth4(i+40000, 26)), DstPort: is(port(i), port(i+7))}
	}
	return Conditions{Dst: is(nth6(i)), DstPort: is(port(i))}
}

func nth4(i, bits int) nat.AddrRange {
	return Prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 0}), bits))
}

func nth6(i int) nat.AddrRange {
	return Prefix(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, byte(i >> 8), byte(i)}), 64))
}

// manyOf has n filter rules that drop, and then what goes out masqueraded.
func manyOf(t testing.TB, n int, conditions func(i int) Conditions) *Program {
	list := make([]RuleSpec, n)
	for i := range list {
		list[i] = RuleSpec{If: conditions(i), Then: ActDrop}
	}
	return compile(t, map[List][]RuleSpec{
		Filter: list,
		Snat:   {{If: Conditions{OutArea: is("wan"), Family: tuple.IPv4}, Then: ActMasquerade}},
	})
}

// packetsOf returns packets of which half meet a rule and half pass them all.
func packetsOf(p *Program, n int, conditions func(i int) Conditions) []Key {
	r := rand.New(rand.NewPCG(15, 16))
	keys := make([]Key, 1024)
	for j := range keys {
		k := key(p, 1, 2, New)
		if j%2 == 0 {
			c := conditions(r.IntN(n))
			if !c.Dst.IsAny() {
				k.Tuple.Dst = c.Dst.Values[0].First
			}
			if !c.Src.IsAny() {
				k.Tuple.Src = c.Src.Values[0].First
			}
			if !c.DstPort.IsAny() {
				k.Tuple.DstPort = c.DstPort.Values[0].First
			}
			if !k.Tuple.Dst.Is4() {
				k.Tuple.Family, k.Tuple.Src = tuple.IPv6, nth6(70000).First
			}
		} else {
			k.Tuple.DstPort = uint16(r.IntN(1024))
			k.Tuple.Dst[13] = byte(r.IntN(256))
		}
		keys[j] = k
	}
	return keys
}

// firstPackets has the rules decide n first packets.
func firstPackets(p *Program, keys []Key, n int) (accepted int) {
	for i := range n {
		var d Decision
		k := &keys[i%len(keys)]
		p.Dnat(k, &d)
		if p.Filter(k, &d) == Accept {
			p.Snat(k, &d)
			accepted++
		}
	}
	return accepted
}

func BenchmarkManyRules(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		p := manyOf(b, n, mixedConditions)
		keys := packetsOf(p, n, mixedConditions)
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			firstPackets(p, keys, b.N)
		})
		if n <= 1000 {
			twin := linear(p)
			b.Run(fmt.Sprintf("rules=%d/linear", n), func(b *testing.B) { firstPackets(twin, keys, b.N) })
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	list := make([]RuleSpec, 10000)
	for i := range list {
		list[i] = RuleSpec{If: mixedConditions(i), Then: ActDrop}
	}
	spec := &Spec{Areas: testAreas()}
	spec.Lists[Filter] = list
	for b.Loop() {
		if _, err := Compile(spec, &Binding{testPorts}, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// However the rules differ, a packet looks at few of 10,000 that do not hold, and the
// index is small.
func TestIndexOfTenThousandRulesIsSharpAndSmall(t *testing.T) {
	for name, conditions := range hardLists {
		p := manyOf(t, 10000, conditions)
		vain, most := 0, 0
		keys := packetsOf(p, 10000, conditions)
		for i := range keys {
			var c candidates
			p.candidates(Filter, &keys[i], &c)
			n := 0
			for r := c.next(); r != nil; r = c.next() {
				if !r.match.static(&keys[i]) {
					n++
				}
			}
			vain, most = vain+n, max(most, n)
		}
		x := &p.index[Filter]
		size := len(x.bounds)*12 + len(x.runs)*4 + len(x.nodes)*16
		average := float64(vain) / float64(len(keys))
		t.Logf("%-18s %5.2f rules in vain, at most %2d; %4d KB, %d nodes", name, average, most, size>>10, len(x.nodes))
		if average > cutSaves || most > 64 || size > 4<<20 {
			t.Errorf("%s: %.1f rules in vain, at most %d, %d bytes; want few", name, average, most, size)
		}
	}
}

// Rules that differ by sets of addresses alone are told apart, too, and a large set
// costs no more than a small one.
func TestIndexLooksIntoSets(t *testing.T) {
	spec := &Spec{Areas: testAreas()}
	for i := range 1000 {
		set := &Set{Name: fmt.Sprint("set", i), Kind: SetAddrs, Addrs: NewAddrSet([]nat.AddrRange{nth4(3*i, 24), nth4(3*i+2, 25), nth6(i)})}
		spec.Sets = append(spec.Sets, set)
		spec.Lists[Filter] = append(spec.Lists[Filter], RuleSpec{If: Conditions{Dst: Match[nat.AddrRange]{Sets: []string{set.Name}}}, Then: ActDrop})
	}
	var many []nat.AddrRange
	for i := range 20000 {
		many = append(many, nth4(4000+2*i, 24))
	}
	spec.Sets = append(spec.Sets, &Set{Name: "many", Kind: SetAddrs, Addrs: NewAddrSet(many)})
	spec.Lists[Filter] = append(spec.Lists[Filter], RuleSpec{If: Conditions{Dst: Match[nat.AddrRange]{Sets: []string{"many"}}}, Then: ActReject})
	p, err := Compile(spec, &Binding{testPorts}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dst  tuple.Addr
		want Verdict
	}{
		{nth4(3*500, 24).First, Drop}, {nth4(3*999+2, 25).Last, Drop}, {nth6(777).First, Drop},
		{nth4(4000, 24).First, RejectReset}, {nth4(4000+2*19999, 24).Last, RejectReset}, {nth4(4001, 24).First, Accept},
	} {
		k := key(p, 1, 2, New)
		k.Tuple.Dst = tt.dst
		if !k.Tuple.Dst.Is4() {
			k.Tuple.Family = tuple.IPv6
		}
		var d Decision
		if got := p.Filter(&k, &d); got != tt.want {
			t.Errorf("to %v: %v, want %v", tt.dst, got, tt.want)
		}
		var c candidates
		p.candidates(Filter, &k, &c)
		n := 0
		for c.next() != nil {
			n++
		}
		if n > cutSaves {
			t.Errorf("to %v: the index shows %d rules of 1,001", tt.dst, n)
		}
	}
}

func TestIndexOfNothingIsEmpty(t *testing.T) {
	p := compile(t, nil)
	k := key(p, 1, 2, New)
	var c candidates
	if p.candidates(Filter, &k, &c); c.next() != nil {
		t.Error("a rule in an empty list")
	}
}
