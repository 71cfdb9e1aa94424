package frag

import (
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/culvert/dataplane/packet"
)

// twin is the table in its simplest form: no bounds but gaps, every byte of every
// datagram marked by itself.
type twin map[Key]*twinDatagram

// twinLen lies beyond every byte that step may send.
const twinLen = 4096

type twinDatagram struct {
	came     [twinLen]bool
	end      int // 0: not known
	state    state
	why      Reason
	ref      uint64
	held     []int // offsets
	deadline int64
}

func (m twin) track(p *packet.Packet, area uint16, now int64, life int64) Verdict {
	k := KeyOf(p, area)
	d := m[k]
	if d == nil {
		d = &twinDatagram{deadline: now + life}
		m[k] = d
	}
	if d.state == dead {
		return Verdict{Reason: d.why}
	}
	start, end := int(p.FragOff), int(p.FragOff)+p.End-p.FragAt
	last := p.Flags&(packet.FragmentFirst|packet.FragmentMore) == 0
	old := 0
	for i := start; i < end; i++ {
		if d.came[i] {
			old++
		}
	}
	if old == end-start {
		return Verdict{Reason: Duplicate}
	}
	wrong := old > 0 || d.end != 0 && (last || end > d.end) || last && slices.Contains(d.came[end:], true)
	if wrong {
		d.state, d.why, d.held = dead, Overlap, nil
		return Verdict{Reason: Overlap}
	}
	for i := start; i < end; i++ {
		d.came[i] = true
	}
	if last {
		d.end = end
	}
	if d.gaps() > maxRuns {
		d.state, d.why, d.held = dead, Limit, nil
		return Verdict{Reason: Limit}
	}
	switch {
	case start == 0:
		return Verdict{Action: First}
	case d.state == following:
		m.forget(k)
		return Verdict{Action: Follow, Ref: d.ref}
	}
	d.held = append(d.held, start)
	if d.state == collecting && d.all() {
		return Verdict{Action: Whole}
	}
	return Verdict{Action: Hold}
}

// all reports whether every byte has come.
func (d *twinDatagram) all() bool { return d.end != 0 && !slices.Contains(d.came[:d.end], false) }

// gaps counts the stretches that have come.
func (d *twinDatagram) gaps() (n int) {
	before := false
	for _, c := range d.came {
		if c && !before {
			n++
		}
		before = c
	}
	return n
}

// forget removes k if all of it has come.
func (m twin) forget(k Key) {
	if d := m[k]; d.state == following && d.all() {
		delete(m, k)
	}
}

func (m twin) learn(k Key, ref uint64) []int {
	d := m[k]
	if d == nil || d.state != waiting {
		return nil
	}
	held := d.held
	d.state, d.ref, d.held = following, ref, nil
	m.forget(k)
	return held
}

// collect takes the first fragment of k, all of which must be seen.
func (m twin) collect(k Key) Verdict {
	d := m[k]
	switch {
	case d == nil:
		return Verdict{Reason: Limit}
	case d.state == dead:
		return Verdict{Reason: d.why}
	case d.state != waiting:
		return Verdict{Reason: Orphan}
	}
	d.state = collecting
	d.held = append(d.held, 0)
	if d.all() {
		return Verdict{Action: Whole}
	}
	return Verdict{Action: Hold}
}

// handOut returns the offsets of k's fragments, all of which have come, and
// forgets it.
func (m twin) handOut(k Key) []int {
	d := m[k]
	delete(m, k)
	return d.held
}

func (m twin) refuse(k Key) int {
	d := m[k]
	if d == nil || d.state == dead {
		return 0
	}
	n := len(d.held)
	d.state, d.why, d.held = dead, Orphan, nil
	return n
}

func (m twin) expire(now int64) {
	for k, d := range m {
		if d.deadline <= now {
			delete(m, k)
		}
	}
}

// pair is a table and its twin, driven by a source of random numbers.
type pair struct {
	t     testing.TB
	table *Table
	twin  twin
	next  func(n int) int
	now   int64
	ref   uint64
	whole int // datagrams handed out whole
}

func newPair(t testing.TB, next func(n int) int) *pair {
	return &pair{t: t, table: newTable(t, Config{Bytes: 1 << 30, BytesPerSource: 1 << 30}), twin: twin{}, next: next}
}

// step does one random thing to both and compares.
func (x *pair) step() {
	x.now += int64(x.next(1000)) * 1e5
	x.table.Expire(x.now)
	x.twin.expire(x.now)
	f := piece{source: uint32(x.next(2)), id: uint32(x.next(3)), v6: x.next(2) == 0}
	f.start = 8 * x.next(24)
	if x.next(40) == 0 {
		f.start = 8 * x.next(500)
	}
	f.end = f.start + 8*(1+x.next(4))
	if f.start > 0 && x.next(8) == 0 {
		f.last = true
		f.end -= x.next(8)
	}
	if x.next(8) != 0 { // as honest senders do
		f.start = 32 * x.next(3)
		f.end, f.last = f.start+32, f.start == 64
	}
	p := f.make()
	k := KeyOf(p, 1)
	life := int64(timeout4)
	if f.v6 {
		life = int64(timeout6)
	}
	got, want := x.table.Track(p, 1, x.now), x.twin.track(p, 1, x.now, life)
	x.compareVerdicts(k, f, got, want)
	if got.Action != First && x.next(20) != 0 {
		return
	}
	if got.Action == First && x.next(3) == 0 {
		x.compareVerdicts(k, f, x.table.Collect(p, 1), x.twin.collect(k))
		return
	}
	if x.next(8) == 0 {
		if got, want := x.table.Refuse(k), x.twin.refuse(k); got != want {
			x.t.Fatalf("Refuse dropped %d, want %d", got, want)
		}
		return
	}
	x.ref++
	x.compareHeld(x.table.Learn(k, x.ref), x.twin.learn(k, x.ref))
}

// compareVerdicts compares what was said about f, and what is handed out.
func (x *pair) compareVerdicts(k Key, f piece, got, want Verdict) {
	x.t.Helper()
	list := got.Held
	got.Held = nil
	if got != want {
		x.t.Fatalf("%+v: table says %+v, twin %+v", f, got, want)
	}
	if got.Action == Whole {
		x.whole++
		x.compareHeld(list, x.twin.handOut(k))
	}
}

// compareHeld compares a list from the table with offsets, and frees it.
func (x *pair) compareHeld(list *Held, want []int) {
	x.t.Helper()
	var got []int
	for p := range list.All() {
		got = append(got, int(p.FragOff))
		for i, b := range p.Mem[p.FragAt:p.End] {
			if b != byte(int(p.FragOff)+i) {
				x.t.Fatalf("the fragment at %d is not what came", p.FragOff)
			}
		}
	}
	x.table.Free(list)
	if !slices.Equal(got, want) {
		x.t.Fatalf("handed out the fragments at %v, want %v", got, want)
	}
}

// compare looks at what is left in both.
func (x *pair) compare() {
	if got, want := x.table.Usage().Datagrams, len(x.twin); got != want {
		x.t.Fatalf("%d datagrams, want %d", got, want)
	}
	for _, err := range x.table.check() {
		x.t.Fatal(err)
	}
}

func TestTableAgreesWithItsTwin(t *testing.T) {
	whole := 0 // datagrams handed out
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		x := newPair(t, r.IntN)
		for range 500 {
			x.step()
		}
		x.compare()
		whole += x.whole
	}
	if whole < 50 {
		t.Errorf("%d datagrams were handed out whole, want at least 50", whole)
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{})
	r := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x := newPair(t, func(n int) int {
			if len(b) == 0 {
				return 0
			}
			v := int(b[0])
			b = b[1:]
			return v % n
		})
		for range 100 {
			if len(b) == 0 {
				break
			}
			x.step()
		}
		x.compare()
	})
}
