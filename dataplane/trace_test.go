package dataplane

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// tracedLab is a lab with a Trace of its own.
func tracedLab(t testing.TB, cfg labConfig, o TraceOptions) (*lab, *Trace) {
	t.Helper()
	l := newLab(t, cfg)
	trace, err := l.e.Trace(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trace.Close)
	return l, trace
}

// walksOf returns what a Trace has to tell.
func walksOf(s *Trace) (all []TracedPacket) {
	s.Read(func(p *TracedPacket) bool {
		c := *p
		for i := range c.Frames {
			c.Frames[i].Data = slices.Clone(c.Frames[i].Data)
		}
		all = append(all, c)
		return true
	})
	return all
}

// words are the steps of a walk, a line each.
func words(p *TracedPacket) string {
	var b strings.Builder
	for _, s := range p.Steps {
		b.WriteString(s.Name + ": " + s.Text)
		for _, r := range s.Rules {
			b.WriteString(" [" + RuleText(r) + "]")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func wantWords(t *testing.T, p *TracedPacket, want ...string) {
	t.Helper()
	got := words(p)
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("the walk does not say %q:\n%s", w, got)
		}
	}
}

func TestWalkOfAFlowIsToldFromPortToPort(t *testing.T) {
	l, trace := tracedLab(t, labConfig{}, TraceOptions{Snap: 2048})
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53", body("question")))
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:4000", body("answer")))
	l.ports["lan"].Take()
	l.ports["wan"].Take()
	all := walksOf(trace)
	if len(all) != 2 {
		t.Fatalf("%d walks, want 2", len(all))
	}
	wantWords(t, &all[0], "arrive: on lan, area lan, queue 0, worker 0", "parse: udp 10.0.0.5:4000", "lookup: begins flow",
		"filter: accept by the default policy", "snat: masquerade [", "translate: source 10.0.0.5:4000 becomes 203.0.113.1:4000, port ",
		"transmit: by wan as udp 203.0.113.1:4000")
	wantWords(t, &all[1], "arrive: on wan", "lookup: flow ", "reply direction", "[1 snat", "translate: destination 203.0.113.1:4000 becomes 10.0.0.5:4000",
		"transmit: by lan as udp 198.51.100.7:53")
	if all[0].Fate != Forwarded || all[0].In != "lan" || all[0].Out != "wan" || all[0].FlowID != all[1].FlowID || all[0].FlowID == 0 {
		t.Errorf("walks %+v", all)
	}
	f := all[0].Frames
	if len(f) != 2 || f[0].Port != "lan" || f[0].Stage != StageBefore || f[1].Port != "wan" || f[1].Stage != StageAfter {
		t.Fatalf("frames %+v, want one of lan before and one of wan after", f)
	}
	if !strings.HasSuffix(string(f[0].Data), "question") || !strings.HasSuffix(string(f[1].Data), "question") {
		t.Errorf("frames do not hold what was sent: %q, %q", f[0].Data, f[1].Data)
	}
	if src := netip.AddrFrom4([4]byte(f[1].Data[26:30])); src.String() != "203.0.113.1" {
		t.Errorf("it left with source %v in what was kept", src)
	}
}

func TestDropIsToldWithRuleAndAdvice(t *testing.T) {
	l, trace := tracedLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{
			If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 23, Last: 23})}, Then: rules.ActDrop,
			Source: rules.Location{File: "culvert.toml", Line: 9},
		}}
	}}, TraceOptions{})
	l.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:23", seq(1, 0)))
	l.wantDrops(RuleDenied)
	all := walksOf(trace)
	if len(all) != 1 || all[0].Fate != Dropped || all[0].Reason != RuleDenied {
		t.Fatalf("walks %+v", all)
	}
	wantWords(t, &all[0], "filter: drop [", "(culvert.toml:9)]", "drop: rule-denied: your rule; see culvert rules")
}

func TestAnswerOfTheGatewayIsTold(t *testing.T) {
	l, trace := tracedLab(t, labConfig{}, TraceOptions{})
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53", ttl(1)))
	l.take("lan")
	all := walksOf(trace)
	if len(all) != 1 || all[0].Reason != TTLExceeded || len(all[0].Frames) != 2 {
		t.Fatalf("walks %+v", all)
	}
	wantWords(t, &all[0], "answer: icmp 10.0.0.1", "to its sender by lan", "drop: ttl-exceeded")
}

func TestPacketThatWaitsIsToldTwice(t *testing.T) {
	l, trace := tracedLab(t, labConfig{cold: true}, TraceOptions{})
	l.send("lan", udp("10.0.0.5:4000", "203.0.113.7:53"))
	l.resolve(wanID, "203.0.113.7")
	l.step()
	l.take("wan")
	all := walksOf(trace)
	if len(all) != 2 || all[0].Fate != Kept || all[1].Fate != Forwarded || !all[1].Resumed || all[0].FlowID != all[1].FlowID {
		t.Fatalf("walks %+v", all)
	}
	wantWords(t, &all[0], "wait: for the address of its next hop")
	if len(all[0].Frames) != 1 || len(all[1].Frames) != 1 {
		t.Errorf("%d and %d frames, want the one that came and the one that left", len(all[0].Frames), len(all[1].Frames))
	}
}

func TestTraceFilters(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, tt := range []struct {
		claim  string
		filter TraceFilter
		want   string // letters of the packets below
	}{
		{"nothing asked for", TraceFilter{}, "abcd"},
		{"protocol", TraceFilter{Proto: tuple.TCP}, "c"},
		{"family", TraceFilter{Family: tuple.IPv6}, "d"},
		{"an inside host, of answers too", TraceFilter{Host: prefix("10.0.0.5/32")}, "ab"},
		{"a source as it leaves", TraceFilter{Src: prefix("203.0.113.1/32")}, "a"},
		{"a destination as it leaves", TraceFilter{Dst: prefix("10.0.0.0/24")}, "b"},
		{"source and destination of one packet", TraceFilter{Src: prefix("10.0.0.5/32"), Dst: prefix("203.0.113.1/32")}, ""},
		{"a port of either end", TraceFilter{Port: 53}, "ab"},
		{"a source port", TraceFilter{SrcPort: 53}, "b"},
		{"a destination port", TraceFilter{DstPort: 53}, "a"},
		{"the interface it came in by", TraceFilter{In: "wan"}, "bc"},
		{"the interface it left by", TraceFilter{Out: "wan"}, "a"},
		{"either interface", TraceFilter{Interface: "lan"}, "abd"},
		{"drops", TraceFilter{Dropped: true}, "cd"},
		{"a reason", TraceFilter{Reasons: []Reason{LocalDenied}}, "c"},
		{"a flow that is not there", TraceFilter{Flow: 1}, ""},
		{"a helper", TraceFilter{Helper: "ftp"}, ""},
	} {
		l, trace := tracedLab(t, labConfig{}, TraceOptions{Filter: tt.filter})
		l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))             // a
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:4000"))          // b
		l.send("wan", tcp("198.51.100.7:99", "203.0.113.1:22", seq(1, 0))) // c: local-denied
		l.send("lan", udp("[2001:db8:99::5]:1", "[2001:db8:2::7]:9"))      // d: spoofed-source
		l.ports["lan"].Take()
		l.ports["wan"].Take()
		got := ""
		for _, p := range walksOf(trace) {
			switch {
			case strings.Contains(p.Packet, "10.0.0.5"):
				got += "a"
			case strings.HasPrefix(p.Packet, "udp 198.51.100.7"):
				got += "b"
			case strings.HasPrefix(p.Packet, "tcp"):
				got += "c"
			default:
				got += "d"
			}
		}
		if got != tt.want {
			t.Errorf("%s: told %q, want %q", tt.claim, got, tt.want)
		}
	}
}

func TestTraceTellsExactlyHowManyItLost(t *testing.T) {
	l, trace := tracedLab(t, labConfig{}, TraceOptions{Walks: 16})
	send := func(n int) {
		for range n {
			l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
		}
		l.ports["wan"].Take()
	}
	send(20)
	if unread, beyond := trace.Lost(); unread != 4 || beyond != 0 {
		t.Errorf("lost %d unread and %d beyond the rate of 20 in a ring of 16, want 4 and 0", unread, beyond)
	}
	if n := len(walksOf(trace)); n != 16 {
		t.Errorf("%d walks, want 16", n)
	}
	send(3)
	if n := len(walksOf(trace)); n != 3 {
		t.Errorf("%d walks after the ring was read, want 3", n)
	}
}

func TestTraceKeepsToItsRate(t *testing.T) {
	l, trace := tracedLab(t, labConfig{}, TraceOptions{Rate: 10})
	for range 25 {
		l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
	}
	l.ports["wan"].Take()
	if unread, beyond := trace.Lost(); unread != 0 || beyond != 15 || len(walksOf(trace)) != 10 {
		t.Errorf("lost %d unread and %d beyond the rate of 10 of 25, want 0 and 15", unread, beyond)
	}
}

func TestClosedTraceLeavesTheWorkerAsItWas(t *testing.T) {
	l, trace := tracedLab(t, labConfig{}, TraceOptions{})
	l.unwatched()
	trace.Close()
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
	l.take("wan")
	if l.w.trace != nil || l.w.v != l.e.view.Load() || l.w.applied != nil {
		t.Error("the worker still notes what it does")
	}
	if n := len(walksOf(trace)); n != 0 {
		t.Errorf("%d walks after Close", n)
	}
}

func TestTracesAreBounded(t *testing.T) {
	l := newLab(t, labConfig{})
	l.unwatched()
	for range maxTraces {
		s, err := l.e.Trace(TraceOptions{Walks: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
	}
	if _, err := l.e.Trace(TraceOptions{Walks: 1}); err != ErrTraces {
		t.Errorf("one more: %v, want %v", err, ErrTraces)
	}
}

func TestPiecesOfASuperPacketAreAllKept(t *testing.T) {
	l, trace := tracedLab(t, labConfig{ports: func(_ *State, o map[string]mem.Options) {
		o["wan"] = mem.Options{GSO: port.NoGSO}
	}}, TraceOptions{Snap: 65536, Bytes: 1 << 20})
	l.inject("lan", superTCP(l, "lan", "10.0.0.5:4000", "198.51.100.7:80", 14000, 1000))
	l.step()
	sent := l.ports["wan"].TakeFrames()
	all := walksOf(trace)
	if len(all) != 1 || len(all[0].Frames) != 1+len(sent) || len(sent) != 14 {
		t.Fatalf("%d frames sent; walks %+v", len(sent), all)
	}
	for i, f := range sent {
		if string(f.Data) != string(all[0].Frames[1+i].Data) {
			t.Errorf("piece %d is not what was sent", i)
		}
	}
	wantWords(t, &all[0], "a super-packet of 14 segments of 1000 bytes", "in 14 pieces")
}

func TestWorkOfAHelperIsTold(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	trace, err := l.e.Trace(TraceOptions{Filter: TraceFilter{Helper: "parrot", Helped: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trace.Close)
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:5000", body("nothing to do\n")))
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:5000", body("at @10.0.0.5:7000\n")))
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:5000", body("at @10.0.0.6:7000 %\n")))
	l.ports["wan"].Take()
	all := walksOf(trace)
	if len(all) != 2 {
		t.Fatalf("%d packets that the helper did something in, want 2", len(all))
	}
	got := all[0].Helper.String() + all[1].Helper.String()
	want := "-at @10.0.0.5:7000\n+at 203.0.113.1:7000\n> one udp 198.51.100.7:* > 203.0.113.1:7000 = 10.0.0.5:7000\n" +
		"-at @10.0.0.6:7000 %\n+at !the address is not the sender's own %\n" +
		"! one 10.0.0.6:7000: the address is not the sender's own\n! the helper cannot read a message\n"
	if got != want {
		t.Errorf("told\n%s, want\n%s", got, want)
	}
	wantWords(t, &all[0], "helper: parrot: 1 replaced, 1 expected, 0 refused")
}

func TestWatchedBatchesDoNotAllocate(t *testing.T) {
	for _, o := range []TraceOptions{{}, {Snap: 2048}, {Filter: TraceFilter{Proto: tuple.ICMP, Host: netip.MustParsePrefix("10.0.0.0/8")}}, {Rate: 1}} {
		e, lan, _ := bulkLab(t, 1<<16)
		frames := batchOf(udp("10.0.0.5:1", "198.51.100.7:53", body("payload")))
		n := uint32(0)
		lan.load(frames, func(frames [][]byte) {
			for _, f := range frames {
				n++
				retarget(f, n%1000) // some flows are new, most are not
			}
		})
		trace, err := e.Trace(o)
		if err != nil {
			t.Fatal(err)
		}
		w, now := e.Worker(0), int64(1e12)
		w.Step(now)
		if allocs := testing.AllocsPerRun(200, func() { w.Step(now) }); allocs != 0 {
			t.Errorf("%+v: %v allocations a batch", o, allocs)
		}
		trace.Close()
	}
}

// BenchmarkWatched is what a Trace costs a worker: with none there is nothing to tell
// from a worker that cannot be watched; with one that nobody reads a batch takes
// twice as long, and never waits.
func BenchmarkWatched(b *testing.B) {
	for _, bb := range []struct {
		name string
		o    *TraceOptions
	}{
		{"nobody", nil},
		{"nothing wanted", &TraceOptions{Filter: TraceFilter{Proto: tuple.SCTP}}},
		{"walks, not read", &TraceOptions{}},
		{"whole frames, not read", &TraceOptions{Snap: 65536}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			e, lan, _ := bulkLab(b, 1<<16)
			frames := batchOf(udp("10.0.0.5:1", "198.51.100.7:53", body("payload")))
			for i, f := range frames {
				retarget(f, uint32(i))
			}
			lan.load(frames, nil)
			if bb.o != nil {
				trace, err := e.Trace(*bb.o)
				if err != nil {
					b.Fatal(err)
				}
				defer trace.Close()
			}
			w, now := e.Worker(0), int64(1e12)
			w.Step(now)
			for b.Loop() {
				w.Step(now)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*Batch), "ns/packet")
		})
	}
}
