package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// limited compiles one filter rule with a limit and returns a ledger's page.
func limited(t testing.TB, l Limit, workers int) (*Program, *Ledger) {
	p := compile(t, map[List][]RuleSpec{Filter: {{If: Conditions{Limit: &l}, Then: ActDrop}}})
	return p, NewLedger(p, workers, nil, nil)
}

// meets takes n packets from a source at a time to the rule and returns how many it
// took.
func meets(p *Program, g *Page, src string, at time.Duration, n int) (taken int) {
	k := key(p, 1, 2, New)
	k.Tuple.Src = *addr(src)
	if !k.Tuple.Src.Is4() {
		k.Tuple.Family = tuple.IPv6
	}
	g.now = int64(at)
	for range n {
		d := Decision{Page: g}
		if p.Filter(&k, &d) == Drop {
			taken++
		}
	}
	return taken
}

func TestLimitIsATokenBucket(t *testing.T) {
	p, l := limited(t, Limit{Rate: Rate{10, time.Second, 5}}, 1)
	g := l.Page(0)
	for _, tt := range []struct {
		claim string
		at    time.Duration
		n     int
		want  int
	}{
		{"the burst comes at once", 10 * time.Second, 20, 5},
		{"a tenth of a second later there is one more", 10100 * time.Millisecond, 20, 1},
		{"half a second fills the burst", 10600 * time.Millisecond, 20, 5},
		{"an hour does not fill more than the burst", time.Hour, 20, 5},
	} {
		if got := meets(p, g, "10.0.0.5", tt.at, tt.n); got != tt.want {
			t.Errorf("%s: %d packets, want %d", tt.claim, got, tt.want)
		}
	}
}

func TestNegatedLimitTakesTheExcess(t *testing.T) {
	p, l := limited(t, Limit{Sense: IsNot, Rate: Rate{10, time.Second, 5}}, 1)
	if got := meets(p, l.Page(0), "10.0.0.5", time.Second, 20); got != 15 {
		t.Errorf("%d packets are beyond the limit, want 15", got)
	}
}

func TestLimitPerSourceIsEachSourcesOwn(t *testing.T) {
	p, l := limited(t, Limit{Rate: Rate{1, time.Minute, 3}, Share: PerSource}, 1)
	g := l.Page(0)
	for _, src := range []string{"10.0.0.5", "10.0.0.6", "2001:db8::1", "2001:db8:0:1::1"} {
		if got := meets(p, g, src, time.Second, 9); got != 3 {
			t.Errorf("%s: %d packets, want its own 3", src, got)
		}
	}
	if got := meets(p, g, "2001:db8::2", time.Second, 9); got != 0 {
		t.Errorf("another address of an IPv6 network gets %d packets, want 0: it can have any number of addresses", got)
	}
}

// Nobody gets a fresh bucket by crowding others out of the table.
func TestSourcesBeyondTheTableAreBeyondTheLimit(t *testing.T) {
	p, l := limited(t, Limit{Rate: Rate{1, time.Hour, 1}, Share: PerSource}, 1)
	g := l.Page(0)
	taken := 0
	const n = 4 * sourceSets * sourceWays
	for round := range 2 {
		for i := range n {
			taken += meets(p, g, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String(), time.Second, 1)
		}
		if round == 0 && (taken > sourceSets*sourceWays || taken < sourceSets*sourceWays*9/10) {
			t.Errorf("%d of %d sources got a packet, want as many as the table has places", taken, n)
		}
	}
	if taken > sourceSets*sourceWays {
		t.Errorf("%d packets of sources with one each: some got a fresh bucket", taken)
	}
	if got := meets(p, g, "192.0.2.1", 3*time.Hour, 1); got != 1 {
		t.Error("a new source gets nothing when all others are full again")
	}
}

// Whatever worker a packet comes to, all together get the rate and no more.
func TestWorkersShareALimit(t *testing.T) {
	const workers = 4
	for _, share := range []Share{PerRule, PerSource} {
		p, l := limited(t, Limit{Rate: Rate{1, time.Hour, 1000}, Share: share}, workers)
		var taken atomic.Int64
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() { taken.Add(int64(meets(p, l.Page(w), "10.0.0.5", time.Second, 1000))) })
		}
		wg.Wait()
		if taken.Load() != 1000 {
			t.Errorf("share %d: %d packets within the limit, want 1000", share, taken.Load())
		}
	}
}

// Over a long time a limit lets through its rate, however packets come.
func TestLimitIsItsRateInTheLongRun(t *testing.T) {
	r := rand.New(rand.NewPCG(19, 20))
	for range 20 {
		rate := Rate{1 + r.Uint32N(500), []time.Duration{time.Second, time.Minute}[r.IntN(2)], 2 + r.Uint32N(20)}
		p, l := limited(t, Limit{Rate: rate}, 1)
		taken, at := 0, time.Second
		step := time.Duration(rate.pace().interval) / 2
		for range 5000 {
			at += time.Duration(r.Int64N(int64(step)))
			taken += meets(p, l.Page(0), "10.0.0.5", at, 1)
		}
		want := float64(at-time.Second)/float64(rate.pace().interval) + float64(rate.Burst)
		if float64(taken) > want+1 || float64(taken) < want*0.95-1 {
			t.Errorf("%v: %d packets in %v, want about %.0f", rate, taken, at, want)
		}
	}
}

func TestLimitsGoOnOverReloads(t *testing.T) {
	limit := Limit{Rate: Rate{1, time.Hour, 5}}
	p, l := limited(t, limit, 1)
	if got := meets(p, l.Page(0), "10.0.0.5", time.Second, 9); got != 5 {
		t.Fatalf("%d packets, want 5", got)
	}
	q := compile(t, map[List][]RuleSpec{Filter: {{If: Conditions{InArea: is("wan")}, Then: ActDrop}, {If: Conditions{Limit: &limit}, Then: ActDrop}}})
	next := NewLedger(q, 1, nil, l)
	if got := meets(q, next.Page(0), "10.0.0.5", time.Second, 9); got != 0 {
		t.Errorf("after a reload %d more packets, want 0", got)
	}
}

func TestAskingTakesNothing(t *testing.T) {
	p, l := limited(t, Limit{Rate: Rate{1, time.Hour, 5}}, 1)
	k := key(p, 1, 2, New)
	for range 20 {
		d := Decision{Page: l.Reader(1, noon), Purpose: Ask}
		if p.Filter(&k, &d) != Drop {
			t.Fatal("a limit is reached by asking")
		}
	}
	if got := meets(p, l.Page(0), "10.0.0.5", time.Second, 9); got != 5 || l.Hits(p.Rules()[0]).Packets != 5 {
		t.Errorf("%d packets, %d hits; want 5 and 5", got, l.Hits(p.Rules()[0]).Packets)
	}
}

// flowsOf has n new flows from a source meet the rule, and returns which it took.
func flowsOf(p *Program, l *Ledger, src string, first, n uint32) (taken int) {
	k := key(p, 1, 2, New)
	k.Tuple.Src = *addr(src)
	for i := range n {
		d := Decision{Page: l.Page(0)}
		if p.Filter(&k, &d) == Accept {
			d.Begun(Flow{Slot: first + i, Gen: 1})
			taken++
		}
	}
	return taken
}

func TestFlowLimitCountsLivingFlowsOfASource(t *testing.T) {
	for _, sense := range []Sense{Is, IsNot} {
		within := RuleSpec{If: Conditions{Flows: &FlowLimit{Sense: sense, Most: 3}}, Then: ActAccept}
		if sense == IsNot {
			within.Then = ActDrop
		}
		p := compile(t, map[List][]RuleSpec{Filter: {within, {Then: map[Sense]Action{Is: ActDrop, IsNot: ActAccept}[sense]}}})
		ended := map[Flow]bool{}
		l := NewLedger(p, 1, func(f Flow) bool { return !ended[f] }, nil)
		if got := flowsOf(p, l, "10.0.0.5", 1, 9); got != 3 {
			t.Errorf("sense %d: %d flows, want 3", sense, got)
		}
		if got := flowsOf(p, l, "10.0.0.6", 101, 9); got != 3 {
			t.Errorf("sense %d: %d flows of another source, want 3", sense, got)
		}
		ended[Flow{2, 1}], ended[Flow{3, 1}] = true, true
		if got := flowsOf(p, l, "10.0.0.5", 201, 9); got != 2 {
			t.Errorf("sense %d: %d more flows after two ended, want 2", sense, got)
		}
		k := key(p, 1, 2, New)
		k.Flow = 1
		d := Decision{Page: l.Page(0)}
		if v := p.Filter(&k, &d); v != Accept {
			t.Errorf("sense %d: %v for a packet of a flow that exists, want accept", sense, v)
		}
		again := NewLedger(p, 1, nil, l)
		if got := flowsOf(p, again, "10.0.0.5", 301, 9); got != 0 {
			t.Errorf("sense %d: %d more flows after a reload, want 0", sense, got)
		}
	}
}

// However many sources there are, memory is bounded, and what finds no place is
// beyond the limit until flows end.
func TestFlowLimitIsBounded(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{Filter: {{If: Conditions{Flows: &FlowLimit{Most: 1}}, Then: ActAccept}, {Then: ActDrop}}})
	over := false
	l := NewLedger(p, 1, func(Flow) bool { return !over }, nil)
	taken := 0
	const n = 3 * flowParts * flowsOfPart
	for i := range uint32(n) {
		taken += flowsOf(p, l, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String(), i+1, 1)
	}
	if taken != flowParts*flowsOfPart {
		t.Errorf("%d sources have a flow, want the %d that there is room for", taken, flowParts*flowsOfPart)
	}
	over = true
	if got := flowsOf(p, l, "192.0.2.1", n+1, 1); got != 1 {
		t.Error("there is no room when all flows have ended")
	}
}

func TestFlowLimitDoesNotAllocate(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{Filter: {{If: Conditions{Flows: &FlowLimit{Most: 100}}, Then: ActAccept}, {Then: ActDrop}}})
	slot := uint32(0)
	l := NewLedger(p, 1, func(f Flow) bool { return f.Slot+50 > slot }, nil)
	k, page := key(p, 1, 2, New), l.Page(0)
	flow := func() {
		slot++
		d := Decision{Page: page}
		if p.Filter(&k, &d) == Accept {
			d.Begun(Flow{Slot: slot, Gen: 1})
		}
	}
	flow()
	if n := testing.AllocsPerRun(500, flow); n > 0 {
		t.Errorf("%v allocations a flow, want 0", n)
	}
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]string{"10/s": "10/s burst 5", "600/minute": "600/m burst 5", "1/h": "1/h burst 5", "4294967295/d": "4294967295/d burst 5"} {
		if r, err := ParseRate(s); err != nil || r.String() != want {
			t.Errorf("%s: %v, %v; want %s", s, r, err, want)
		}
	}
	for _, s := range []string{"", "10", "10/", "0/s", "-1/s", "10/w", "1.5/s", "4294967296/s", "10/s/s"} {
		if r, err := ParseRate(s); err == nil {
			t.Errorf("%q is the rate %v", s, r)
		}
	}
}

func BenchmarkLimit(b *testing.B) {
	for _, share := range []Share{PerRule, PerSource} {
		b.Run(fmt.Sprintf("share=%d", share), func(b *testing.B) {
			p, l := limited(b, Limit{Rate: Rate{1 << 30, time.Second, 5}, Share: share}, 1)
			k, g := key(p, 1, 2, New), l.Page(0)
			b.ReportAllocs()
			for i := range b.N {
				g.now = int64(i) * 100
				d := Decision{Page: g}
				p.Filter(&k, &d)
			}
		})
	}
}
