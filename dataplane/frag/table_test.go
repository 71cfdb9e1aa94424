package frag

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// piece describes a fragment for tests.
type piece struct {
	source     uint32 // last four bytes of the source address
	id         uint32
	start, end int
	last       bool
	v6         bool
}

// make returns the fragment as Parse would have left it.
func (f piece) make() *packet.Packet {
	const l4 = packet.Headroom + 20
	p := &packet.Packet{
		Mem: make([]byte, l4+f.end-f.start),
		Off: packet.Headroom, End: l4 + f.end - f.start,
		L3: packet.Headroom, L4: l4, Payload: l4, FragAt: l4,
		FragID: f.id, FragOff: uint16(f.start),
		Tuple: tuple.Tuple{Proto: tuple.UDP, Family: tuple.IPv4, Dst: tuple.AddrFrom4([4]byte{198, 51, 100, 7})},
	}
	if f.v6 {
		p.Tuple.Family = tuple.IPv6
	}
	binary.BigEndian.PutUint32(p.Tuple.Src[12:], f.source)
	for i := l4; i < p.End; i++ {
		p.Mem[i] = byte(f.start + i - l4)
	}
	switch {
	case f.start == 0:
		p.Flags = packet.FragmentFirst
	case f.last:
		p.Flags = packet.FragmentLater
	default:
		p.Flags = packet.FragmentLater | packet.FragmentMore
	}
	return p
}

// check returns what is wrong inside t.
func (t *Table) check() (errs []error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	total, sourceBytes, sourceCount := 0, map[*source]int{}, map[*source]int{}
	for k, d := range t.datagrams {
		if d.key != k || t.sources[d.source.key] != d.source {
			bad("datagram %+v is filed under %+v", d.key, k)
		}
		sourceCount[d.source]++
		held := 0
		for h := d.first; h != nil; h = h.Next {
			held++
			total += len(h.Packet.Mem)
			sourceBytes[d.source] += len(h.Packet.Mem)
		}
		if held != d.numHeld || held > 0 && d.state != waiting && d.state != collecting {
			bad("datagram in state %d holds %d fragments, counts %d", d.state, held, d.numHeld)
		}
		for i := 1; i < d.numRuns; i++ {
			if d.runs[i-1].end >= d.runs[i].start {
				bad("runs %v are not apart", d.runs[:d.numRuns])
			}
		}
	}
	if total != t.bytes || total > t.cfg.Bytes {
		bad("%d bytes held, %d counted, %d allowed", total, t.bytes, t.cfg.Bytes)
	}
	if len(sourceCount) != len(t.sources) {
		bad("%d sources, want %d", len(t.sources), len(sourceCount))
	}
	for s, n := range sourceCount {
		if s.count != n || n > t.cfg.DatagramsPerSource || s.bytes != sourceBytes[s] || s.bytes > t.cfg.BytesPerSource {
			bad("source %v: %d datagrams and %d bytes, counts %d and %d", s.key, n, sourceBytes[s], s.count, s.bytes)
		}
	}
	if n := len(t.datagrams); n > t.cfg.Datagrams {
		bad("%d datagrams, want at most %d", n, t.cfg.Datagrams)
	}
	count := func(l list, which int) (n int) {
		for d := l.head; d != nil; d = d.links[which].next {
			n++
		}
		return n
	}
	if n := count(t.age[0], byAge) + count(t.age[1], byAge); n != len(t.datagrams) {
		bad("%d datagrams by age, want %d", n, len(t.datagrams))
	}
	for d := t.holders.head; d != nil; d = d.links[byHolder].next {
		if d.first == nil {
			bad("a datagram that holds nothing is among the holders")
		}
	}
	return errs
}

func newTable(t testing.TB, cfg Config) *Table {
	table := New(cfg)
	t.Cleanup(func() {
		for _, err := range table.check() {
			t.Error(err)
		}
	})
	return table
}

// step is one fragment and what must happen to it.
type step struct {
	piece
	want   Action
	reason Reason
}

func runSteps(t *testing.T, table *Table, steps []step) {
	t.Helper()
	for i, s := range steps {
		v := table.Track(s.make(), 1, 0)
		if v.Action != s.want || v.Reason != s.reason {
			t.Fatalf("step %d [%d,%d): action %d reason %v, want %d and %v", i, s.start, s.end, v.Action, v.Reason, s.want, s.reason)
		}
		if v.Action == First {
			table.Free(table.Learn(KeyOf(s.make(), 1), 7))
		}
	}
}

func TestFragmentsFollowTheFirst(t *testing.T) {
	at := func(start, end int) piece { return piece{source: 1, id: 1, start: start, end: end} }
	last := func(start, end int) piece { return piece{source: 1, id: 1, start: start, end: end, last: true} }
	tests := []struct {
		name  string
		steps []step
		left  int // datagrams still known
	}{
		{"in order", []step{{at(0, 80), First, None}, {at(80, 160), Follow, None}, {last(160, 170), Follow, None}}, 0},
		{"last before middle", []step{{at(0, 80), First, None}, {last(160, 170), Follow, None}, {at(80, 160), Follow, None}}, 0},
		{"backwards", []step{{last(160, 170), Hold, None}, {at(80, 160), Hold, None}, {at(0, 80), First, None}}, 0},
		{"identification used again", []step{{at(0, 80), First, None}, {last(80, 90), Follow, None},
			{at(0, 80), First, None}, {last(80, 90), Follow, None}}, 0},
		{"exact duplicate is dropped alone", []step{{at(0, 80), First, None}, {at(80, 160), Follow, None},
			{at(80, 160), Drop, Duplicate}, {last(160, 170), Follow, None}}, 0},
		{"first twice", []step{{at(0, 80), First, None}, {at(0, 80), Drop, Duplicate}, {last(80, 90), Follow, None}}, 0},
		{"overlap kills what comes later", []step{{at(0, 80), First, None}, {at(72, 160), Drop, Overlap},
			{last(160, 170), Drop, Overlap}, {at(80, 160), Drop, Overlap}}, 1},
		{"overlap kills what was held", []step{{at(80, 160), Hold, None}, {at(88, 168), Drop, Overlap}, {at(0, 80), Drop, Overlap}}, 1},
		{"longer than the first end said", []step{{at(0, 80), First, None}, {last(160, 170), Follow, None}, {at(176, 184), Drop, Overlap}}, 1},
		{"two different ends", []step{{at(0, 80), First, None}, {last(160, 170), Follow, None}, {last(80, 88), Drop, Overlap}}, 1},
		{"end before what came", []step{{at(0, 80), First, None}, {at(160, 240), Follow, None}, {last(80, 90), Drop, Overlap}}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(t, Config{})
			runSteps(t, table, tt.steps)
			if got := table.Usage(); got.Datagrams != tt.left || got.Bytes != 0 {
				t.Errorf("%+v left, want %d datagrams and no bytes", got, tt.left)
			}
		})
	}
}

func TestLearnHandsOutWhatWaitedInOrder(t *testing.T) {
	table := newTable(t, Config{})
	pieces := []piece{
		{source: 1, id: 1, start: 160, end: 3000, last: true}, // larger than a buffer
		{source: 1, id: 1, start: 80, end: 160},
	}
	for _, f := range pieces {
		p := f.make()
		if v := table.Track(p, 1, 0); v.Action != Hold {
			t.Fatalf("verdict %+v, want hold", v)
		}
		clear(p.Mem) // the port takes its memory back
	}
	first := piece{source: 1, id: 1, end: 80}.make()
	if v := table.Track(first, 1, 0); v.Action != First {
		t.Fatalf("verdict %+v, want first", v)
	}
	list := table.Learn(KeyOf(first, 1), 42)
	h := list
	for _, f := range pieces {
		if h == nil {
			t.Fatal("too few fragments handed out")
		}
		want := f.make()
		if !bytes.Equal(h.Packet.Frame(), want.Frame()) || h.Packet.Tuple != want.Tuple || h.Packet.Flags != want.Flags {
			t.Errorf("fragment at %d differs from what came", f.start)
		}
		if h.Packet.Off < packet.Headroom {
			t.Errorf("headroom of %d bytes, want %d", h.Packet.Off, packet.Headroom)
		}
		h = h.Next
	}
	if h != nil {
		t.Error("too many fragments handed out")
	}
	table.Free(list)
	if got := table.Usage(); got != (Usage{}) {
		t.Errorf("left: %+v, want nothing", got)
	}
	if lost := table.TakeLost(); lost != [NumReasons]uint64{} {
		t.Errorf("lost %v, want none", lost)
	}
}

func TestFollowersGetTheRef(t *testing.T) {
	table := newTable(t, Config{})
	for id, ref := range []uint64{42, 43} {
		p := piece{source: 1, id: uint32(id), end: 80}.make()
		table.Track(p, 1, 0)
		table.Learn(KeyOf(p, 1), ref)
	}
	for id, ref := range []uint64{42, 43} {
		v := table.Track(piece{source: 1, id: uint32(id), start: 80, end: 160}.make(), 1, 0)
		if v != (Verdict{Action: Follow, Ref: ref}) {
			t.Errorf("verdict %+v, want follow %d", v, ref)
		}
	}
	if v := table.Track(piece{source: 1, id: 0, start: 80, end: 160}.make(), 2, 0); v.Action != Hold {
		t.Errorf("same key from another area: %+v, want hold", v)
	}
}

func TestRefusedDatagramIsDroppedToTheEnd(t *testing.T) {
	table := newTable(t, Config{})
	first := piece{source: 1, id: 1, end: 80}
	table.Track(piece{source: 1, id: 1, start: 80, end: 160}.make(), 1, 0)
	table.Track(first.make(), 1, 0)
	if n := table.Refuse(KeyOf(first.make(), 1)); n != 1 {
		t.Errorf("Refuse dropped %d held fragments, want 1", n)
	}
	v := table.Track(piece{source: 1, id: 1, start: 160, end: 170, last: true}.make(), 1, 0)
	if v != (Verdict{Action: Drop, Reason: Orphan}) {
		t.Errorf("verdict %+v, want drop as orphan", v)
	}
	if h := table.Learn(KeyOf(first.make(), 1), 1); h != nil {
		t.Error("Learn after Refuse handed something out")
	}
}

func TestTimeoutEndsWaiting(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		life := timeout4
		if v6 {
			life = timeout6
		}
		table := newTable(t, Config{})
		later := piece{source: 1, id: 1, start: 80, end: 160, v6: v6}
		table.Track(later.make(), 1, 0)
		table.Expire(int64(life) - 1)
		if got := table.Usage().Datagrams; got != 1 {
			t.Errorf("v6=%v: %d datagrams just before the time-out, want 1", v6, got)
		}
		table.Expire(int64(life))
		if got := table.Usage(); got != (Usage{}) {
			t.Errorf("v6=%v: %+v at the time-out, want nothing", v6, got)
		}
		if lost := table.TakeLost(); lost[Timeout] != 1 {
			t.Errorf("v6=%v: lost %v, want 1 by timeout", v6, lost)
		}
	}
}

func TestTrackEndsOldDatagramsByItself(t *testing.T) {
	table := newTable(t, Config{})
	for id := range uint32(8) {
		table.Track(piece{source: 1, id: id, start: 80, end: 160}.make(), 1, 0)
	}
	for id := range uint32(2) {
		table.Track(piece{source: 2, id: id, start: 80, end: 160}.make(), 1, int64(timeout4))
	}
	if got := table.Usage().Datagrams; got != 2 {
		t.Errorf("%d datagrams, want only the 2 young ones", got)
	}
}

func TestTooManyGapsEndTheDatagram(t *testing.T) {
	table := newTable(t, Config{})
	for i := range maxRuns {
		if v := table.Track(piece{source: 1, id: 1, start: 16 + 16*i, end: 24 + 16*i}.make(), 1, 0); v.Action != Hold {
			t.Fatalf("gap %d: %+v, want hold", i, v)
		}
	}
	v := table.Track(piece{source: 1, id: 1, start: 8000, end: 8008}.make(), 1, 0)
	if v != (Verdict{Action: Drop, Reason: Limit}) {
		t.Errorf("verdict %+v, want drop by limit", v)
	}
	if lost := table.TakeLost(); lost[Limit] != maxRuns {
		t.Errorf("lost %v, want %d by limit", lost, maxRuns)
	}
}

func TestSourceAtItsBoundLosesItsOwn(t *testing.T) {
	table := newTable(t, Config{DatagramsPerSource: 4})
	other := piece{source: 9, id: 1, end: 80}
	table.Track(other.make(), 1, 0)
	table.Learn(KeyOf(other.make(), 1), 5)
	for id := range uint32(100) {
		table.Track(piece{source: 1, id: id, start: 80, end: 160}.make(), 1, int64(id))
	}
	if got := table.Usage().Datagrams; got != 5 {
		t.Errorf("%d datagrams, want 4 of the greedy source and 1 of the other", got)
	}
	v := table.Track(piece{source: 9, id: 1, start: 80, end: 90, last: true}.make(), 1, 100)
	if v != (Verdict{Action: Follow, Ref: 5}) {
		t.Errorf("the other source's fragment: %+v, want follow", v)
	}
}

func TestSourceMayHoldOnlyItsShareOfMemory(t *testing.T) {
	table := newTable(t, Config{Bytes: 16 * bufferLen, BytesPerSource: 4 * bufferLen})
	for id := range uint32(100) {
		table.Track(piece{source: 1, id: id, start: 80, end: 160}.make(), 1, 0)
	}
	if got := table.Usage().Bytes; got != 4*bufferLen {
		t.Errorf("greedy source holds %d bytes, want %d", got, 4*bufferLen)
	}
	if v := table.Track(piece{source: 2, id: 1, start: 80, end: 160}.make(), 1, 0); v.Action != Hold {
		t.Errorf("another source: %+v, want hold", v)
	}
}

func TestFloodDoesNotStarveOthers(t *testing.T) {
	const bound = 256
	table := newTable(t, Config{Datagrams: bound, Bytes: bound / 2 * bufferLen, BytesPerSource: 8 * bufferLen})
	spoofed := uint32(1000)
	flood := func(now int64) {
		for range bound / 4 {
			spoofed++
			table.Track(piece{source: spoofed, id: spoofed, start: 80, end: 160}.make(), 1, now)
		}
	}
	for id := range uint32(200) {
		now := int64(id) * int64(time.Millisecond)
		flood(now)
		if v := table.Track(piece{source: 7, id: id, start: 80, end: 90, last: true}.make(), 1, now); v.Action != Hold {
			t.Fatalf("datagram %d: last fragment %+v, want hold", id, v)
		}
		flood(now)
		first := piece{source: 7, id: id, end: 80}.make()
		if v := table.Track(first, 1, now); v.Action != First {
			t.Fatalf("datagram %d: first fragment %+v", id, v)
		}
		h := table.Learn(KeyOf(first, 1), 1)
		if h == nil {
			t.Fatalf("datagram %d: the flood displaced what was held", id)
		}
		table.Free(h)
		for _, err := range table.check() {
			t.Fatal(err)
		}
	}
}

func TestHeldBuffersAreUsedAgain(t *testing.T) {
	table := newTable(t, Config{})
	later, first := piece{source: 1, id: 1, start: 80, end: 90, last: true}.make(), piece{source: 1, id: 1, end: 80}.make()
	cycle := func() {
		table.Track(later, 1, 0)
		table.Track(first, 1, 0)
		table.Free(table.Learn(KeyOf(first, 1), 1))
	}
	cycle()
	if n := testing.AllocsPerRun(100, cycle); n > 2 { // the Held and the source
		t.Errorf("%v allocations a datagram, want at most 2", n)
	}
	table.Track(later, 1, 0) // keeps the source
	first2, later2 := piece{source: 1, id: 2, end: 80}.make(), piece{source: 1, id: 2, start: 80, end: 90, last: true}.make()
	inOrder := func() {
		table.Track(first2, 1, 0)
		table.Learn(KeyOf(first2, 1), 1)
		table.Track(later2, 1, 0)
	}
	inOrder()
	if n := testing.AllocsPerRun(100, inOrder); n != 0 {
		t.Errorf("%v allocations a datagram in order, want 0", n)
	}
}

func TestWorkersShareATable(t *testing.T) {
	table := newTable(t, Config{Datagrams: 64, Bytes: 32 * bufferLen})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				f := piece{source: uint32(i % 8), id: uint32(i / 8 % 16), start: 80 * ((i + w) % 4)}
				f.end, f.last = f.start+80, f.start == 240
				p := f.make()
				switch v := table.Track(p, 1, int64(i)); v.Action {
				case First:
					if i%5 == 0 {
						table.Refuse(KeyOf(p, 1))
					} else {
						table.Free(table.Learn(KeyOf(p, 1), 1))
					}
				}
				if i%100 == 0 {
					table.Expire(int64(i))
				}
			}
		})
	}
	wg.Wait()
}
