package rules

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

func TestCountersOutliveTheRulesThatNameThem(t *testing.T) {
	count := func(c Conditions, name string) RuleSpec { return RuleSpec{If: c, Then: ActCount, Count: name} }
	p := compile(t, map[List][]RuleSpec{
		Pre:    {count(Conditions{}, "all")},
		Filter: {count(Conditions{}, "all"), count(Conditions{In: is("eth0")}, "none"), {Then: ActAccept, Count: "passed"}},
	})
	l := NewLedger(p, 2, nil, nil)
	walk := func(p *Program, l *Ledger, worker int) {
		k := key(p, 1, 2, New)
		k.Length = 100
		d := Decision{Page: l.Page(worker)}
		p.Pre(&k, &d)
		p.Filter(&k, &d)
	}
	walk(p, l, 0)
	walk(p, l, 1)
	if got, want := counters(l), "all 4/400 none 0/0 passed 2/200 "; got != want {
		t.Errorf("counters %q, want %q", got, want)
	}
	q := compile(t, map[List][]RuleSpec{Filter: {
		count(Conditions{TTL: is(ByteRange{64, 64})}, "all"), {Then: ActDrop, Count: "new"},
	}})
	next := NewLedger(q, 2, nil, l)
	next.Carry(l)
	walk(p, l, 0) // the last batch under the old rules
	next.Carry(l)
	walk(q, next, 1)
	if got, want := counters(next), "all 7/700 new 1/100 "; got != want {
		t.Errorf("counters after a reload %q, want %q", got, want)
	}
}

func counters(l *Ledger) (s string) {
	l.Counters(func(name string, t Traffic) { s += fmt.Sprintf("%s %d/%d ", name, t.Packets, t.Bytes) })
	return s
}

// logging returns a program whose filter logs each packet, at most n at once.
func logging(t testing.TB, n uint32) *Program {
	return compile(t, map[List][]RuleSpec{Filter: {
		{Then: ActMark, Mark: 7, MarkMask: 0xff, Log: &Log{Prefix: "seen: ", Rate: Rate{1, time.Hour, n}}},
	}})
}

func TestLogLinesTellThePacketAndWhatIsMissing(t *testing.T) {
	p := logging(t, 3)
	l := NewLedger(p, 1, nil, nil)
	walk := func(n int, at int64) {
		l.Page(0).now = at
		for range n {
			k := key(p, 1, 2, New)
			d := Decision{Page: l.Page(0)}
			p.Filter(&k, &d)
		}
	}
	walk(5, 1)
	next := NewLedger(p, 1, nil, l) // a reload loses no line
	var got []Line
	next.Lines(0).Read(func(line *Line) { got = append(got, *line) })
	if len(got) != 3 || got[0].Rule.LogPrefix() != "seen: " || got[0].Key.Tuple.DstPort != 443 || got[0].Mark != 0 || got[0].At != 1 {
		t.Fatalf("%+v, want 3 lines about the packet", got)
	}
	walk(1, int64(4*time.Hour))
	got = nil
	l.Lines(0).Read(func(line *Line) { got = append(got, *line) })
	if len(got) != 1 || got[0].Missed != 2 || l.Lines(0).Missed() != 2 {
		t.Errorf("%+v, want a line that says that two are missing", got)
	}
	select {
	case <-l.Lines(0).Ready():
	default:
		t.Error("nobody is told that there are lines")
	}
}

// A worker that logs never waits for the reader; what is lost is counted exactly.
func TestFullLogLosesLinesAndCountsThem(t *testing.T) {
	p := logging(t, 1<<30)
	l := NewLedger(p, 1, nil, nil)
	const n = 20 * lineRing
	read, missed := uint64(0), uint64(0)
	var wg sync.WaitGroup
	quit := make(chan struct{})
	wg.Go(func() {
		for done := false; !done; {
			select {
			case <-l.Lines(0).Ready():
			case <-quit:
				done = true
			}
			l.Lines(0).Read(func(line *Line) {
				read++
				missed += line.Missed
			})
		}
	})
	k := key(p, 1, 2, New)
	for range n {
		d := Decision{Page: l.Page(0)}
		p.Filter(&k, &d)
	}
	close(quit)
	wg.Wait()
	if read+l.Lines(0).Missed() != n || missed > l.Lines(0).Missed() {
		t.Errorf("%d lines read, %d missed of which %d were told; want %d in all", read, l.Lines(0).Missed(), missed, n)
	}
}

func TestWindowsAreLookedAtOnceASecond(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{Filter: {
		{If: Conditions{Window: Window{Hours: is(HourRange{12 * 3600, 13 * 3600}), Zone: time.UTC}}, Then: ActDrop},
	}})
	l := NewLedger(p, 1, nil, nil)
	k, reads, wall := key(p, 1, 2, New), 0, noon.Add(-time.Second)
	clock := func() time.Time { reads++; return wall }
	at := func(now time.Duration) Verdict {
		l.Page(0).Begin(int64(now), clock)
		d := Decision{Page: l.Page(0)}
		return p.Filter(&k, &d)
	}
	if v := at(time.Hour); v != Accept {
		t.Errorf("%v before noon, want accept", v)
	}
	wall = noon
	if v := at(time.Hour + time.Millisecond); v != Accept || reads != 1 {
		t.Errorf("%v after %d reads of the clock, want none within a second", v, reads)
	}
	if v := at(time.Hour + time.Second); v != Drop || reads != 2 {
		t.Errorf("%v after %d reads of the clock, want drop after two", v, reads)
	}
	none := NewLedger(compile(t, nil), 1, nil, nil)
	none.Page(0).Begin(1, func() time.Time { t.Error("the clock is read for nobody"); return wall })
}

func TestMarksOfPacketAndFlowAreApart(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{Filter: {
		{Then: ActMark, PacketMark: MarkMatch{0x10, 0xf0}},
		{If: Conditions{Mark: is(MarkMatch{0x10, 0xf0})}, Then: ActAccept, Mark: 1, MarkMask: 0xf},
	}})
	k := key(p, 1, 2, New)
	k.Mark = 0xff22
	var d Decision
	p.Filter(&k, &d)
	if got, flow := d.ApplyMark(k.Mark), d.ApplyFlowMark(k.Mark); got != 0xff11 || flow != 0xff21 {
		t.Errorf("packet %#x, flow %#x; want 0xff11, 0xff21", got, flow)
	}
}

func TestRejectAnswersAsAsked(t *testing.T) {
	for _, tt := range []struct {
		kind Rejection
		tcp  Verdict
		udp  Verdict
	}{
		{RejectAuto, RejectReset, RejectProhibited},
		{WithReset, RejectReset, RejectReset},
		{WithNoRoute, RejectNoRoute, RejectNoRoute},
		{WithHostUnreachable, RejectHost, RejectHost},
		{WithPortUnreachable, RejectPort, RejectPort},
		{WithAdminProhibited, RejectProhibited, RejectProhibited},
	} {
		p := compile(t, map[List][]RuleSpec{Filter: {{Then: ActReject, Reject: tt.kind}}})
		for proto, want := range map[uint8]Verdict{tuple.TCP: tt.tcp, tuple.UDP: tt.udp} {
			k := key(p, 1, 2, New)
			k.Tuple.Proto = proto
			var d Decision
			if got := p.Filter(&k, &d); got != want {
				t.Errorf("%q of protocol %d: %v, want %v", tt.kind, proto, got, want)
			}
		}
	}
}
