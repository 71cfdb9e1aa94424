package frag

import (
	"slices"
	"testing"
	"time"
)

// collected has table take the fragments, the first of which asks for the whole
// datagram, and returns the last verdict.
func collected(table *Table, now int64, pieces ...piece) (v Verdict) {
	for _, f := range pieces {
		p := f.make()
		if v = table.Track(p, 1, now); v.Action == First {
			v = table.Collect(p, 1)
		}
	}
	return v
}

func TestCollectHandsOutTheWholeOnce(t *testing.T) {
	first := piece{source: 1, id: 1, end: 80}
	middle := piece{source: 1, id: 1, start: 80, end: 160}
	last := piece{source: 1, id: 1, start: 160, end: 170, last: true}
	for _, order := range [][]piece{{first, middle, last}, {last, middle, first}, {middle, first, last}, {last, first, middle}} {
		table := newTable(t, Config{})
		if v := collected(table, 0, order[:2]...); v.Action != Hold {
			t.Fatalf("two of three: %+v, want hold", v)
		}
		if v := collected(table, 0, order[1]); v != (Verdict{Action: Drop, Reason: Duplicate}) {
			t.Errorf("one again: %+v, want drop as duplicate", v)
		}
		v := collected(table, 0, order[2])
		if v.Action != Whole {
			t.Fatalf("all three: %+v, want the whole", v)
		}
		var got []int
		for p := range v.Held.All() {
			got = append(got, int(p.FragOff))
		}
		if want := []int{order[0].start, order[1].start, order[2].start}; !slices.Equal(got, want) {
			t.Errorf("handed out the fragments at %v, want %v", got, want)
		}
		table.Free(v.Held)
		if u := table.Usage(); u != (Usage{}) {
			t.Errorf("left: %+v, want nothing", u)
		}
		if lost := table.TakeLost(); lost != [NumReasons]uint64{} {
			t.Errorf("lost %v, want none", lost)
		}
	}
}

func TestCollectAfterTheEnd(t *testing.T) {
	first := piece{source: 1, id: 1, end: 80}
	tests := []struct {
		name   string
		before func(table *Table)
		want   Reason
	}{
		{"the datagram was displaced", func(table *Table) { table.Expire(int64(time.Hour)) }, Limit},
		{"it was refused", func(table *Table) { table.Refuse(KeyOf(first.make(), 1)) }, Orphan},
		{"it is let through", func(table *Table) { table.Learn(KeyOf(first.make(), 1), 7) }, Orphan},
		{"fragments overlap", func(table *Table) { table.Track(piece{source: 1, id: 1, start: 72, end: 96}.make(), 1, 0) }, Overlap},
	}
	for _, tt := range tests {
		table := newTable(t, Config{})
		p := first.make()
		table.Track(p, 1, 0)
		tt.before(table)
		if v := table.Collect(p, 1); v != (Verdict{Action: Drop, Reason: tt.want}) {
			t.Errorf("%s: %+v, want drop for %v", tt.name, v, tt.want)
		}
	}
}

func TestUnfinishedCollectionTimesOutWithAllItHeld(t *testing.T) {
	table := newTable(t, Config{})
	collected(table, 0, piece{source: 1, id: 1, end: 80}, piece{source: 1, id: 1, start: 80, end: 160})
	table.Expire(int64(timeout4))
	if lost := table.TakeLost(); lost[Timeout] != 2 {
		t.Errorf("lost %v, want 2 by timeout", lost)
	}
}

func TestOverlapKillsACollection(t *testing.T) {
	table := newTable(t, Config{})
	v := collected(table, 0, piece{source: 1, id: 1, end: 80}, piece{source: 1, id: 1, start: 72, end: 160})
	if v != (Verdict{Action: Drop, Reason: Overlap}) {
		t.Errorf("%+v, want drop for overlap", v)
	}
	if u, lost := table.Usage(), table.TakeLost(); u.Bytes != 0 || lost[Overlap] != 1 {
		t.Errorf("%d bytes left, lost %v, want none and 1 by overlap", u.Bytes, lost)
	}
}

func TestCollectionIsBoundedBySourceAndInAll(t *testing.T) {
	cfg := Config{Datagrams: 256, Bytes: 32 * bufferLen, BytesPerSource: 8 * bufferLen}
	table := newTable(t, cfg)
	for id := range uint32(100) { // one source, half-finished
		collected(table, int64(id), piece{source: 1, id: id, end: 80}, piece{source: 1, id: id, start: 160, end: 240})
		if u := table.Usage(); u.Bytes > cfg.BytesPerSource {
			t.Fatalf("one source holds %d bytes, want at most %d", u.Bytes, cfg.BytesPerSource)
		}
	}
	for s := range uint32(500) { // spoofed ones, too, and between them somebody honest
		collected(table, 1000, piece{source: 100 + s, id: 1, end: 80})
		if u := table.Usage(); u.Bytes > cfg.Bytes || u.Datagrams > cfg.Datagrams {
			t.Fatalf("%+v is beyond %+v", u, cfg)
		}
		if s%10 != 0 {
			continue
		}
		v := collected(table, 1000, piece{source: 7, id: s, end: 80}, piece{source: 7, id: s, start: 80, end: 90, last: true})
		if v.Action != Whole {
			t.Fatalf("datagram %d of an honest source: %+v, want the whole", s, v)
		}
		table.Free(v.Held)
		for _, err := range table.check() {
			t.Fatal(err)
		}
	}
}
