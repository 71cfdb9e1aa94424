package api

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// busy is a gateway whose counters move by hand.
type busy struct {
	*gateway
	dropped uint64
	hits    uint64
	ports   []PortUse
}

func (b *busy) Status() Status { return Status{Dropped: b.dropped, Ports: b.ports} }
func (b *busy) Rules() []Rule {
	return []Rule{{ID: 7, Text: "a", Hits: b.hits, Bytes: 100 * b.hits}, {ID: 8, Text: "b", Hits: 50}}
}
func (b *busy) Counters() []Counter {
	return []Counter{{Reason: "no-route", Count: b.dropped}, {Reason: "martian", Count: 90}, {Reason: "land"}}
}

// carry sends packets of a flow from a client, of 100 bytes each, and answers each with
// 40 bytes.
func (b *busy) carry(t *testing.T, client string, sport uint16, rule uint32, packets int) {
	t.Helper()
	k := tuple.Tuple{Src: tuple.AddrFrom(netip.MustParseAddr(client)), Dst: tuple.AddrFrom(netip.MustParseAddr("192.0.2.53")),
		SrcPort: sport, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}
	if k.Src.Netip().Is6() {
		k.Dst, k.Family = tuple.AddrFrom(netip.MustParseAddr("2001:db8::53")), tuple.IPv6
	}
	reply, _ := k.Inverse()
	w, now := b.table.Worker(0), conntrack.Now()
	w.Begin(now)
	defer w.Park()
	ref := w.Find(&k)
	if !ref.Found() {
		var claim conntrack.Claim
		if ref, claim = w.Claim(&conntrack.Proposal{Original: k, Reply: reply, Rule: rule}, now); claim != conntrack.Claimed {
			t.Fatal(claim)
		}
		w.Confirm(ref, now)
	}
	for range packets {
		w.Track(conntrack.Ref{Slot: ref.Slot, Dir: tuple.Original}, &conntrack.Segment{Bytes: 100}, now)
		w.Track(conntrack.Ref{Slot: ref.Slot, Dir: tuple.Reply}, &conntrack.Segment{Bytes: 40}, now)
	}
}

func newBusy(t *testing.T) *busy {
	g, _, _ := serve(t)
	return &busy{gateway: g}
}

// near compares a rate with how much it was in its time.
func near(rate, seconds, amount float64) bool { return math.Abs(rate*seconds-amount) < 0.01 }

func TestTopRanksFlowsByWhatTheyCarryNow(t *testing.T) {
	b := newBusy(t)
	b.carry(t, "10.0.0.5", 1000, 7, 500) // long ago
	b.carry(t, "10.0.0.5", 1001, 7, 1)
	b.carry(t, "10.0.0.6", 1002, 7, 1)
	for _, tt := range []struct {
		order string
		want  []uint16 // source ports
	}{
		{"bytes", []uint16{1002, 1001}},
		{"packets", []uint16{1002, 1001}},
		{"total", []uint16{1000, 1002}},
	} {
		l := newLook(b, &TopRequest{View: ViewFlows, Sort: tt.order, Rows: 2})
		b.carry(t, "10.0.0.5", 1001, 7, 2)
		b.carry(t, "10.0.0.6", 1002, 7, 3)
		top := l.again()
		var got []uint16
		for _, f := range top.TopFlows {
			got = append(got, *f.Flow.Original.Sport)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("by %s: flows of ports %v, want %v", tt.order, got, tt.want)
		}
		if !near(top.Packets, top.Seconds, 10) || !near(top.Up, top.Seconds, 500) || !near(top.Down, top.Seconds, 200) || top.Begun != 0 || top.Matched != 3 || top.Flows != 3 {
			t.Errorf("by %s: %+v; want 10 packets, 500 bytes up, 200 down, of three flows", tt.order, top)
		}
		if f := top.TopFlows[0]; tt.order == "bytes" && (!near(f.Packets, top.Seconds, 6) || !near(f.Up, top.Seconds, 300) || !near(f.Down, top.Seconds, 120) || f.Total < 420) {
			t.Errorf("the first flow: %+v", f)
		}
	}
}

func TestTopNamesTalkers(t *testing.T) {
	b := newBusy(t)
	l := newLook(b, &TopRequest{View: ViewTalkers, Sort: "flows", Rows: 5})
	for sport := range uint16(3) {
		b.carry(t, "10.0.0.5", 2000+sport, 7, 1)
	}
	b.carry(t, "2001:db8:0:1::5", 2000, 7, 10)
	b.carry(t, "2001:db8:0:1::6", 2000, 7, 10) // of the same /64
	top := l.again()
	if len(top.Talkers) != 2 {
		t.Fatalf("talkers %+v, want two", top.Talkers)
	}
	if x := top.Talkers[0]; x.Client != "10.0.0.5" || x.Flows != 3 || !near(x.Begun, top.Seconds, 3) || !near(x.Packets, top.Seconds, 6) || !near(x.Up, top.Seconds, 300) || !near(x.Down, top.Seconds, 120) {
		t.Errorf("first: %+v", x)
	}
	if x := top.Talkers[1]; x.Client != "2001:db8:0:1::/64" || x.Flows != 2 || !near(x.Packets, top.Seconds, 40) {
		t.Errorf("second: %+v", x)
	}
	l.ask.Sort = "bytes"
	b.carry(t, "2001:db8:0:1::6", 2000, 7, 1)
	if top := l.again(); top.Talkers[0].Client != "2001:db8:0:1::/64" {
		t.Errorf("by bytes: %+v", top.Talkers)
	}
}

func TestTopFiltersAsConntrackDoes(t *testing.T) {
	b := newBusy(t)
	b.carry(t, "10.0.0.5", 1000, 7, 1)
	b.carry(t, "10.0.0.6", 1000, 7, 1)
	m, err := parseFilter(`{"original":{"src":"10.0.0.6/32"}}`)
	if err != nil {
		t.Fatal(err)
	}
	l := newLook(b, &TopRequest{View: ViewFlows, Sort: "bytes", Rows: 5, wants: m.wants})
	b.carry(t, "10.0.0.5", 1000, 7, 1)
	b.carry(t, "10.0.0.6", 1000, 7, 3)
	top := l.again()
	if top.Matched != 1 || top.Flows != 2 || len(top.TopFlows) != 1 || !near(top.Packets, top.Seconds, 6) {
		t.Errorf("%+v; want the flow of 10.0.0.6 alone", top)
	}
}

func TestTopRanksRulesDropsAndPorts(t *testing.T) {
	b := newBusy(t)
	b.dropped, b.hits = 10, 20
	b.ports = []PortUse{{Address: "203.0.113.1", Used: 50, Total: 100, FullIn: 60}, {Address: "203.0.113.2", Used: 90, Total: 100}}
	b.carry(t, "10.0.0.5", 1000, 8, 1)
	b.carry(t, "10.0.0.5", 1001, 99, 1) // by a rule that is not in force
	for _, tt := range []struct{ view, order, want string }{
		{ViewRules, "hits", "a 5 hits 500 bytes 0 flows, b 0 hits 0 bytes 1 flows"},
		{ViewRules, "flows", "b 0 hits 0 bytes 1 flows, a 5 hits 500 bytes 0 flows"},
		{ViewRules, "total", "b 0 hits 0 bytes 1 flows, a 5 hits 500 bytes 0 flows"},
		{ViewRules, "bytes", "a 5 hits 500 bytes 0 flows, b 0 hits 0 bytes 1 flows"},
		{ViewDrops, "packets", "no-route 3, martian 0"},
		{ViewDrops, "total", "martian 0, no-route 3"},
		{ViewPorts, "used", "203.0.113.2, 203.0.113.1"},
		{ViewPorts, "soon", "203.0.113.1, 203.0.113.2"},
	} {
		b.dropped, b.hits = 10, 20
		l := newLook(b, &TopRequest{View: tt.view, Sort: tt.order, Rows: 5})
		b.dropped, b.hits = 13, 25
		top := l.again()
		var got []string
		for _, r := range top.Rules {
			got = append(got, fmt.Sprintf("%s %.0f hits %.0f bytes %d flows", r.Text, r.HitRate*top.Seconds, r.ByteRate*top.Seconds, r.Flows))
		}
		for _, d := range top.Drops {
			got = append(got, fmt.Sprintf("%s %.0f", d.Reason, d.Rate*top.Seconds))
		}
		for _, p := range top.Ports {
			got = append(got, p.Address)
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s by %s: %s; want %s", tt.view, tt.order, s, tt.want)
		}
		if !near(top.Dropped, top.Seconds, 3) {
			t.Errorf("dropped %v a second in %v s, want 3 in all", top.Dropped, top.Seconds)
		}
	}
}

func TestTopHasFewReadersAtATime(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, topReaders)
	watching := make(chan struct{}, topReaders)
	for range topReaders {
		go func() {
			ended <- client.Top(ctx, TopRequest{Interval: minTopInterval}, func(*Top) bool {
				select {
				case watching <- struct{}{}:
				default:
				}
				return true
			})
		}()
	}
	for len(watching) < topReaders || len(ended) > 0 {
		select {
		case err := <-ended:
			t.Fatalf("a reader ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	err := client.Top(t.Context(), TopRequest{Count: 1}, func(*Top) bool { return true })
	if err == nil || !strings.Contains(err.Error(), "others are watching") {
		t.Errorf("one more: %v, want that others are watching", err)
	}
	cancel()
	for range topReaders {
		<-ended
	}
	deadline := time.Now().Add(10 * time.Second)
	for err = errBusy; err != nil && time.Now().Before(deadline); {
		err = client.Top(t.Context(), TopRequest{Count: 1, Interval: minTopInterval}, func(*Top) bool { return true })
	}
	if err != nil {
		t.Errorf("when the others are gone: %v", err)
	}
}

func TestTopRequestsAreReadAsTheyAreWritten(t *testing.T) {
	want := TopRequest{View: ViewTalkers, Sort: "begun", Rows: 7, Interval: 1500 * time.Millisecond, Count: 3}
	got, err := parseTop(want.query())
	if err != nil || got.View != want.View || got.Sort != want.Sort || got.Rows != want.Rows || got.Interval != want.Interval || got.Count != want.Count {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	got, err = parseTop((&TopRequest{}).query())
	if err != nil || got.View != ViewFlows || got.Sort != "bytes" || got.Rows != topRows || got.Interval != topInterval || got.Count != 0 {
		t.Errorf("of the zero request: %+v, %v", got, err)
	}
}

// TestRankingKeepsTheLargest compares it with sorting everything.
func TestRankingKeepsTheLargest(t *testing.T) {
	type item struct{ key, at int }
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		n, room := random.IntN(60), 1+random.IntN(20)
		top, all := newRanking[item](room), []item{}
		for i := range n {
			x := item{random.IntN(10), i}
			all = append(all, x)
			top.add(float64(x.key), x)
		}
		slices.SortStableFunc(all, func(a, b item) int { return b.key - a.key })
		if got, want := top.sorted(), all[:min(n, room)]; !slices.Equal(got, want) {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
	}
}
