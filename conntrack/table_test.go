package conntrack

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// start is where virtual time begins in tests: shortly before the ticks wrap.
const start = Tick(1<<32 - 50)

// newTable makes a table that is checked and closed when the test ends.
func newTable(t testing.TB, cfg Config) *Table {
	t.Helper()
	cfg.Key = [16]byte{1, 2, 3}
	if cfg.Base.IsZero() {
		cfg.Base = time.Unix(1_700_000_000, 0)
	}
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range table.Check(table.Now()) {
			t.Error(err)
		}
		exactClients(t, table)
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

// exactClients compares the counts of clients, which nobody is changing now, with
// their flows.
func exactClients(t testing.TB, table *Table) {
	t.Helper()
	flows, half, waits := map[uint32]uint32{}, map[uint32]uint32{}, map[uint32]uint32{}
	for slot := uint32(1); slot <= table.slots.high.Load(); slot++ {
		status := table.entries[slot].Status()
		if status&(linked|Dying) != linked {
			continue
		}
		flows[table.owner[slot]]++
		if status&Assured == 0 {
			half[table.owner[slot]]++
		}
		if status.waits(table.entries[slot].half[0].tuple.Proto) {
			waits[table.owner[slot]]++
		}
	}
	for i := range table.clients.recs {
		r := &table.clients.recs[i]
		got, want := [...]uint32{r.flows(), r.half(), r.waits()}, [...]uint32{flows[uint32(i)], half[uint32(i)], waits[uint32(i)]}
		if got != want {
			t.Errorf("client %d: counts %v flows, half-open and without an answer, has %v", i, got, want)
		}
	}
}

// newWorker makes a table with one worker that has begun at start.
func newWorker(t testing.TB, cfg Config) *Worker {
	t.Helper()
	w := newTable(t, cfg).Worker(0)
	w.Begin(start)
	return w
}

// flowTuple returns the original tuple of the i-th flow of a protocol.
func flowTuple(proto uint8, i int) tuple.Tuple {
	k := tuple.Tuple{
		Src:     tuple.AddrFrom4([4]byte{10, byte(i >> 24), byte(i >> 16), 5}),
		Dst:     tuple.AddrFrom(netip.MustParseAddr("198.51.100.7")),
		SrcPort: uint16(i), DstPort: 443,
		Proto: proto, Family: tuple.IPv4,
	}
	if tuple.IsICMP(proto) {
		k.DstPort = 8 << 8
		if proto == tuple.ICMPv6 {
			k.DstPort = 128 << 8
		}
	}
	if proto == tuple.GRE {
		k.SrcPort, k.DstPort = 0, 0
	}
	return k
}

// proposal returns an untranslated flow.
func proposal(k tuple.Tuple) *Proposal {
	reply, ok := k.Inverse()
	if !ok {
		panic("no inverse of " + k.String())
	}
	return &Proposal{Original: k, Reply: reply}
}

// mustClaim claims a flow, tracks its first packet and confirms it.
func mustAdmit(t testing.TB, w *Worker, p *Proposal, s *Segment, now Tick) Ref {
	t.Helper()
	r, c := w.Claim(p, now)
	if c != Claimed {
		t.Fatalf("claim of %v: %v", p.Original, c)
	}
	if v := w.Track(r, s, now); v != Accept {
		t.Fatalf("first packet of %v: %v", p.Original, v)
	}
	w.Confirm(r, now)
	return r
}

var data = &Segment{Bytes: 100, Flags: ACK, Window: 1000}
var syn = &Segment{Bytes: 60, Flags: SYN, Seq: 1000, Window: 1000}

const second = Tick(time.Second / TickLength)

func TestBothTuplesLeadToTheEntry(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	p := proposal(flowTuple(tuple.UDP, 1))
	p.Reply.DstPort = 60000 // translated
	p.Mark, p.Rule, p.Choice = 7, 42, 3
	r := mustAdmit(t, w, p, data, start)
	for want, k := range []tuple.Tuple{p.Original, p.Reply} {
		got := w.Find(&k)
		if got.Slot != r.Slot || int(got.Dir) != want {
			t.Errorf("Find(%v) = %v, want slot %d direction %d", k, got, r.Slot, want)
		}
	}
	untranslated, _ := p.Original.Inverse()
	if got := w.Find(&untranslated); got.Found() {
		t.Errorf("a tuple of no flow is found: %v", got)
	}
	e := w.Entry(r.Slot)
	if e.Mark() != 7 || e.Rule() != 42 || e.Choice() != 3 || e.Status().Kernel() != Confirmed {
		t.Errorf("mark %d rule %d choice %d status %v", e.Mark(), e.Rule(), e.Choice(), e.Status())
	}
}

func TestZonesSeparateEqualTuples(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	a := proposal(flowTuple(tuple.UDP, 1))
	b := proposal(flowTuple(tuple.UDP, 1))
	b.Original.Zone, b.Reply.Zone = 9, 9
	ra, rb := mustAdmit(t, w, a, data, start), mustAdmit(t, w, b, data, start)
	if ra.Slot == rb.Slot || w.Find(&a.Original).Slot != ra.Slot || w.Find(&b.Reply).Slot != rb.Slot {
		t.Errorf("zones share an entry: %v %v", ra, rb)
	}
}

func TestClaim(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	first := proposal(flowTuple(tuple.UDP, 1))
	r := mustAdmit(t, w, first, data, start)
	crossing := proposal(flowTuple(tuple.UDP, 2))
	crossing.Reply = first.Reply
	backwards := &Proposal{Original: first.Reply, Reply: first.Original}
	tests := []struct {
		name string
		p    *Proposal
		want Claim
		by   Ref
	}{
		{"a second packet of the flow is told the winner", first, OriginalTaken, Ref{r.Slot, tuple.Original}},
		{"an external port has one owner", crossing, ReplyTaken, Ref{r.Slot, tuple.Reply}},
		{"an answer that raced is told the direction", backwards, OriginalTaken, Ref{r.Slot, tuple.Reply}},
	}
	for _, tt := range tests {
		if by, got := w.Claim(tt.p, start); got != tt.want || by != tt.by {
			t.Errorf("%s: %v by %v, want %v by %v", tt.name, got, by, tt.want, tt.by)
		}
	}
	if w.t.Len() != 1 {
		t.Errorf("%d flows after refused claims, want 1", w.t.Len())
	}
}

func TestAbortLeavesNoTrace(t *testing.T) {
	table := newTable(t, Config{Max: 100})
	sub := table.Subscribe(10, AllEvents)
	w := table.Worker(0)
	w.Begin(start)
	p := proposal(flowTuple(tuple.UDP, 1))
	r, _ := w.Claim(p, start)
	if !w.Find(&p.Original).Found() {
		t.Error("a claimed flow is not found by its second packet")
	}
	table.Dump(func(f *Flow) bool { t.Errorf("a claimed flow is listed: %v", f.Tuple[0]); return true })
	w.Abort(r)
	if w.Find(&p.Original).Found() || table.Len() != 0 {
		t.Error("an aborted flow is found")
	}
	mustAdmit(t, w, p, data, start)
	if e := <-sub.Events(); e.Type != EventNew || e.Seq != 1 {
		t.Errorf("first event %v %d, want NEW 1", e.Type, e.Seq)
	}
}

func TestOnEndIsToldOnceOfEveryEnd(t *testing.T) {
	w := newTable(t, Config{Max: 64}).Worker(0)
	var told []uint8
	w.t.OnEnd(func(e *Entry, _ Tick) {
		told = append(told, e.Holds())
		for d := range tuple.NumDirections {
			if k := e.Tuple(d); w.t.Taken(&k) {
				t.Errorf("%v is taken when OnEnd is called", k)
			}
		}
	})
	now := start
	w.Begin(now)
	begin := func(i int) Ref {
		p := proposal(flowTuple(tuple.UDP, i))
		p.Holds, p.Choice = uint8(i), 9
		r, c := w.Claim(p, now)
		if c != Claimed {
			t.Fatal(c)
		}
		if e := w.Entry(r.Slot); e.Holds() != uint8(i) || e.Choice() != 9 {
			t.Errorf("holds %d, choice %d; want %d, 9", e.Holds(), e.Choice(), i)
		}
		return r
	}
	want := func(what string, ids ...uint8) {
		t.Helper()
		if !slices.Equal(told, ids) {
			t.Errorf("%s: told of %v, want %v", what, told, ids)
		}
		told = nil
	}
	r := begin(63)
	w.Abort(r)
	w.Abort(r)
	want("abort", 63)
	r = begin(2)
	if _, c := w.Claim(proposal(flowTuple(tuple.UDP, 2)), now); c != OriginalTaken {
		t.Fatal(c)
	}
	want("lost claim")
	w.Confirm(r, now)
	w.Abort(r)
	want("abort of a confirmed entry")
	w.Kill(r)
	w.Kill(r)
	want("kill", 2)
	w.Confirm(begin(3), now)
	if err := w.t.Delete(flowTuple(tuple.UDP, 3)); err != nil {
		t.Fatal(err)
	}
	want("command", 3)
	w.Confirm(begin(4), now)
	for range 2 * sweepTicks {
		now += 60
		w.Begin(now)
	}
	want("expiry", 4)
}

func TestFlowEndsAfterItsTimeout(t *testing.T) {
	tests := []struct {
		name           string
		profile        Profile
		proto          uint8
		answered, aged bool
		want           time.Duration
	}{
		{"linux udp without answer", Linux, tuple.UDP, false, false, 30 * time.Second},
		{"linux udp answered at once", Linux, tuple.UDP, true, false, 30 * time.Second},
		{"linux udp stream", Linux, tuple.UDP, true, true, 120 * time.Second},
		{"linux udp-lite stream", Linux, tuple.UDPLite, true, true, 120 * time.Second},
		{"linux icmp", Linux, tuple.ICMP, true, true, 30 * time.Second},
		{"linux icmpv6", Linux, tuple.ICMPv6, true, true, 30 * time.Second},
		{"linux gre without answer", Linux, tuple.GRE, false, true, 30 * time.Second},
		{"linux gre answered", Linux, tuple.GRE, true, true, 180 * time.Second},
		{"linux other protocol", Linux, 50, true, true, 600 * time.Second},
		{"rfc udp without answer", RFC, tuple.UDP, false, false, 5 * time.Minute},
		{"rfc udp stream", RFC, tuple.UDP, true, true, 5 * time.Minute},
		{"rfc icmp", RFC, tuple.ICMP, true, false, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorker(t, Config{Max: 100, Profile: tt.profile})
			p := proposal(flowTuple(tt.proto, 1))
			now := start
			r := mustAdmit(t, w, p, data, now)
			if tt.aged {
				now += 3 * second
			}
			if tt.answered {
				w.Track(Ref{r.Slot, tuple.Reply}, data, now)
				w.Track(Ref{r.Slot, tuple.Original}, data, now)
			} else if tt.aged {
				w.Track(r, data, now)
			}
			if got := w.Entry(r.Slot).Timeout().Duration(); got != tt.want {
				t.Fatalf("timeout %v, want %v", got, tt.want)
			}
			w.Begin(now + Ticks(tt.want) - 1)
			if !w.Find(&p.Original).Found() || w.t.Len() != 1 {
				t.Fatal("ended a tick early")
			}
			w.Begin(now + Ticks(tt.want))
			if w.Find(&p.Reply).Found() {
				t.Fatal("found after its timeout")
			}
			if w.t.Len() != 0 || w.t.Stats().Expired != 1 {
				t.Fatalf("%d flows, %d expired", w.t.Len(), w.t.Stats().Expired)
			}
		})
	}
}

func TestSweepEndsFlowsNobodyLooksUp(t *testing.T) {
	w := newWorker(t, Config{Max: 5000})
	for i := range 5000 {
		mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	now := start
	for now = start; now.Sub(start) < int32(30*second); now += 10 {
		w.Begin(now)
	}
	if w.t.Len() != 5000 {
		t.Fatalf("%d flows before the timeout, want 5000", w.t.Len())
	}
	for end := now + 2*sweepTicks; now != end && w.t.Len() > 0; now += 10 {
		w.Begin(now)
	}
	if w.t.Len() != 0 {
		t.Fatalf("%d flows left two sweeps after the timeout", w.t.Len())
	}
	w.Begin(now)
	for i := range 5000 { // slots were given back
		mustAdmit(t, w, proposal(flowTuple(tuple.TCP, i)), syn, now)
	}
	if high := w.t.slots.high.Load(); high > 5000+2*refillCount {
		t.Errorf("%d slots touched for 5000 flows", high)
	}
}

// A packet writes when it was seen: neither the timeout nor the deadline of the
// sweep is written.
func TestPacketsMoveNoTimers(t *testing.T) {
	for _, proto := range []uint8{tuple.UDP, tuple.TCP} {
		w := newWorker(t, Config{Max: 10})
		r := mustAdmit(t, w, proposal(flowTuple(proto, 1)), syn, start)
		w.Track(Ref{r.Slot, tuple.Reply}, &Segment{Bytes: 60, Flags: SYN | ACK, Ack: syn.Seq + 1, Window: 1000}, start)
		ack := &Segment{Bytes: 60, Flags: ACK, Seq: syn.Seq + 1, Ack: 1, Window: 1000}
		now := start
		now += 5 * second
		w.Track(r, ack, now) // a stream, an established connection
		e := w.Entry(r.Slot)
		due, timeout := w.t.due[r.Slot], e.Timeout()
		for range 3 * second {
			now++
			ack.Window++ // no retransmission
			w.Track(r, ack, now)
			if w.t.due[r.Slot] != due || e.Timeout() != timeout || e.half[tuple.Reply].seen != uint32(start) {
				t.Fatalf("%s: a timer moved", tuple.ProtoName(proto))
			}
			if got := e.half[tuple.Original].seen; got != uint32(now) {
				t.Fatalf("%s: seen at %d, want %d", tuple.ProtoName(proto), got, now)
			}
		}
	}
}

func TestShortenedTimeoutIsSwept(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	p := proposal(flowTuple(50, 1)) // ten minutes
	mustAdmit(t, w, p, data, start)
	if err := w.t.SetTimeout(p.Original, 2*second); err != nil {
		t.Fatal(err)
	}
	for now := start; now.Sub(start) < int32(2*second+2*sweepTicks); now += 10 {
		w.Begin(now)
	}
	if w.t.Len() != 0 {
		t.Error("the flow outlives a timeout that was set to two seconds")
	}
}

func TestFullTable(t *testing.T) {
	tests := []struct {
		name    string
		profile Profile
		assured bool
		want    Claim
	}{
		{"linux evicts a flow without answer", Linux, false, Claimed},
		{"linux keeps assured flows", Linux, true, TableFull},
		{"rfc never evicts a live flow", RFC, false, TableFull},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorker(t, Config{Max: 4, Profile: tt.profile})
			for i := range 4 {
				r := mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
				if tt.assured {
					w.assure(r.Slot)
				}
			}
			if _, got := w.Claim(proposal(flowTuple(tuple.UDP, 99)), start); got != tt.want {
				t.Errorf("claim in a full table: %v, want %v", got, tt.want)
			}
			if w.t.Len() != 4 {
				t.Errorf("%d flows, want 4", w.t.Len())
			}
		})
	}
}

func TestFullTableTakesTheSlotOfAnExpiredFlow(t *testing.T) {
	w := newWorker(t, Config{Max: 4, Profile: RFC})
	for i := range 4 {
		mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	late := start + Ticks(udpIdle)
	if _, got := w.Claim(proposal(flowTuple(tuple.UDP, 99)), late); got != Claimed {
		t.Errorf("claim beside expired flows that were not swept: %v, want %v", got, Claimed)
	}
	if s := w.t.Stats(); s.EarlyDrop != 0 || s.Expired != 1 {
		t.Errorf("%d early drops and %d expired, want 0 and 1", s.EarlyDrop, s.Expired)
	}
}

func TestCommands(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	p := proposal(flowTuple(tuple.UDP, 1))
	mustAdmit(t, w, p, data, start)
	if err := w.t.SetMark(p.Reply, 0xff12, 0xff); err != nil {
		t.Fatal(err)
	}
	f, err := w.t.Get(p.Original)
	if err != nil || f.Mark != 0x12 || f.Packets[0] != 1 || f.Bytes[0] != 100 {
		t.Errorf("Get: %+v, %v; want mark 0x12 and one packet of 100 bytes", f, err)
	}
	if err := w.t.Delete(p.Reply); err != nil {
		t.Fatal(err)
	}
	if err := w.t.Delete(p.Reply); err != ErrNotFound {
		t.Errorf("second delete: %v, want %v", err, ErrNotFound)
	}
	if w.Find(&p.Original).Found() {
		t.Error("found after it was deleted")
	}
	for i := range 50 {
		mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	odd := func(f *Flow) bool { return f.Tuple[0].SrcPort%2 == 1 }
	if n := w.t.DeleteIf(odd); n != 25 {
		t.Errorf("DeleteIf ended %d, want 25", n)
	}
	if n := w.t.Flush(); n != 25 || w.t.Len() != 0 {
		t.Errorf("Flush ended %d and left %d, want 25 and 0", n, w.t.Len())
	}
	w.Begin(start + 1)
	w.Begin(start + 2)
	if w.t.control.pending.Load() {
		t.Error("deleted slots did not return to the pool")
	}
}

func TestSlotWaitsForTheSlowestWorker(t *testing.T) {
	table := newTable(t, Config{Max: 1000, Workers: 2})
	a, b := table.Worker(0), table.Worker(1)
	a.Begin(start)
	b.Begin(start)
	p := proposal(flowTuple(tuple.UDP, 1))
	mustAdmit(t, a, p, data, start)
	held := b.Find(&p.Original)
	a.Kill(Ref{held.Slot, tuple.Original})
	for i := range 300 {
		a.Begin(start)
		q := proposal(flowTuple(tuple.UDP, 2+i))
		r := mustAdmit(t, a, q, data, start)
		if r.Slot == held.Slot {
			t.Fatal("a slot was reused under a worker that holds it")
		}
		a.Kill(r)
	}
	if got := table.Entry(held.Slot).Tuple(tuple.Original); got != p.Original {
		t.Fatalf("the held entry became %v", got)
	}
	b.Park()
	a.Begin(start)
	seen := false
	for i := range 1000 {
		seen = seen || mustAdmit(t, a, proposal(flowTuple(tuple.UDP, 1000+i)), data, start).Slot == held.Slot
	}
	if !seen {
		t.Error("the slot never came back")
	}
}

func TestEventsTellALifeInOrder(t *testing.T) {
	table := newTable(t, Config{Max: 10, Timestamp: true})
	sub := table.Subscribe(20, AllEvents)
	w := table.Worker(0)
	w.Begin(start)
	p := proposal(flowTuple(tuple.TCP, 1))
	r := mustAdmit(t, w, p, syn, start)
	w.Track(Ref{r.Slot, tuple.Reply}, &Segment{Flags: SYN | ACK, Seq: 5000, Ack: 1001, Window: 1000}, start)
	w.Track(r, &Segment{Flags: ACK, Seq: 1001, Ack: 5001, Window: 1000}, start)
	if err := table.Delete(p.Original); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		typ    EventType
		change Change
		state  State
		status Status
	}{
		{EventNew, 0, SynSent, Confirmed},
		{EventUpdate, ChangedReply | ChangedState, SynRecv, Confirmed | SeenReply},
		{EventUpdate, ChangedState | ChangedAssured, Established, Confirmed | SeenReply | Assured},
		{EventDestroy, 0, Established, Confirmed | SeenReply | Assured | Dying},
	}
	id := uint32(0)
	for i, x := range want {
		e := <-sub.Events()
		if e.Type != x.typ || e.Change != x.change || e.Flow.State != x.state || e.Flow.Status != x.status || e.Seq != uint64(i+1) {
			t.Errorf("event %d: %v %b %v %v seq %d, want %+v", i, e.Type, e.Change, e.Flow.State, e.Flow.Status, e.Seq, x)
		}
		if i > 0 && e.Flow.ID != id {
			t.Errorf("event %d: id %d, before %d", i, e.Flow.ID, id)
		}
		id = e.Flow.ID
		if e.Flow.Start.IsZero() || e.Flow.Stop.IsZero() == (e.Type == EventDestroy) {
			t.Errorf("event %d: start %v stop %v", i, e.Flow.Start, e.Flow.Stop)
		}
	}
}

func TestSlowSubscriberIsToldWhatItMissed(t *testing.T) {
	const flows, buffer = 100, 8
	table := newTable(t, Config{Max: flows, EventRing: 16})
	sub := table.Subscribe(buffer, NewEvents)
	w := table.Worker(0)
	w.Begin(start)
	for i := range flows {
		mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	for sub.Missed() < flows-buffer {
		runtime.Gosched() // the pump is another goroutine
	}
	sub.Close()
	got := uint64(0)
	for range sub.Events() {
		got++
	}
	if got+sub.Missed() != flows {
		t.Errorf("%d received and %d missed of %d", got, sub.Missed(), flows)
	}
}

func TestConfigRefusals(t *testing.T) {
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{}, "conntrack: max 0: must be 1 to 1073741824"},
		{Config{Max: 1, Workers: 5000}, "conntrack: 5000 workers: must be 1 to 1024"},
		{Config{Max: 1, TCPMaxRetrans: 9}, "conntrack: tcp_max_retrans 9: must be 1 to 3"},
	}
	for _, tt := range tests {
		if _, err := New(tt.cfg); err == nil || err.Error() != tt.want {
			t.Errorf("New(%+v): %v, want %s", tt.cfg, err, tt.want)
		}
	}
}
