package conntrack

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

const maxFaults = 100 // reported by one Check

// checker collects what Check finds.
type checker struct {
	t      *Table
	faults []error
}

func (c *checker) fault(format string, args ...any) {
	if len(c.faults) < maxFaults {
		c.faults = append(c.faults, fmt.Errorf("conntrack: "+format, args...))
	}
}

// Check verifies the invariants of the table, which may be in use, at time
// now, and returns what is wrong:
//
//   - every value of the index has its tag, lies on the search path of its
//     tuple and names an entry that is in use; a tuple has one owner;
//   - both tuples of an entry are in the index;
//   - overflow counts and the number of values are right, and twice that of flows;
//   - a confirmed entry is swept at its deadline, or little later when workers
//     whose clocks differ saw it;
//   - what is in the free list is in no use;
//   - a client's counts are those of its flows, and the counts of sockets that
//     hosts send to are those of their tuples;
//   - an expectation has a master that lives, is found by hash and by master,
//     and is counted.
//
// It takes each shard's lock in turn, then all of them for a moment.
func (t *Table) Check(now Tick) []error {
	seat := t.reader()
	defer t.leave(seat)
	c := &checker{t: t}
	for i := range t.index.shards {
		c.shard(i)
	}
	c.entries(now)
	c.count()
	c.free()
	c.expects()
	return c.faults
}

// shard checks the buckets of one shard under its lock.
func (c *checker) shard(i int) {
	x := &c.t.index
	s := &x.shards[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	overflow := make([]uint16, x.perShard)
	n := 0
	for at := range x.perShard {
		b := &x.buckets[uint64(i)*x.perShard+at]
		for place := range places {
			if b.tag(place) != 0 {
				n++
				c.value(i, at, b, place, overflow)
			}
		}
	}
	for at := range x.perShard {
		if got := x.buckets[uint64(i)*x.perShard+at].overflow(); got != overflow[at] {
			c.fault("shard %d bucket %d: overflow count %d, want %d", i, at, got, overflow[at])
		}
	}
	if n != s.n {
		c.fault("shard %d: counts %d values, has %d", i, s.n, n)
	}
}

// value checks one place of a bucket and adds to the overflow counts it causes.
func (c *checker) value(shard int, at uint64, b *bucket, place int, overflow []uint16) {
	x := &c.t.index
	r := refOf(b.ids[place])
	e := &c.t.entries[r.Slot]
	k := e.half[r.Dir].tuple
	h := x.key.tuple(&k)
	if r.Slot == 0 || r.Slot > c.t.slots.high.Load() {
		c.fault("shard %d bucket %d: slot %d does not exist", shard, at, r.Slot)
		return
	}
	if x.shardOf(h) != shard || tagOf(h) != b.tag(place) {
		c.fault("slot %d %v: %v is in shard %d with tag %#x, want %d, %#x", r.Slot, r.Dir, k, shard, b.tag(place), x.shardOf(h), tagOf(h))
		return
	}
	if e.Status()&Dying != 0 {
		c.fault("slot %d: dying, but in the index", r.Slot)
	}
	distance := (at + x.perShard - x.homeOf(h)) % x.perShard
	if distance >= x.probe {
		c.fault("slot %d %v: %d buckets from home, searches end at %d", r.Slot, r.Dir, distance, x.probe)
		return
	}
	for i := range distance {
		overflow[(x.homeOf(h)+i)%x.perShard]++
	}
	same := e.half[0].tuple == e.half[1].tuple
	if got := x.find(c.t.entries, &k, h); got != b.ids[place] && !(same && got>>1 == r.Slot) {
		c.fault("slot %d %v: a search for %v finds slot %d", r.Slot, r.Dir, k, got>>1)
	}
}

// entries checks the confirmed entries against the index. Something odd is
// looked at again under the locks: entries come and go.
func (c *checker) entries(now Tick) {
	t := c.t
	for slot := uint32(1); slot <= t.slots.high.Load(); slot++ {
		if word.Load32(&t.due[slot]) == 0 {
			continue
		}
		e := &t.entries[slot]
		ho, hr := t.index.key.tuple(&e.half[tuple.Original].tuple), t.index.key.tuple(&e.half[tuple.Reply].tuple)
		t.index.lock(ho, hr)
		c.entry(slot, ho, hr, now)
		t.index.unlock(ho, hr)
	}
}

func (c *checker) entry(slot uint32, ho, hr uint64, now Tick) {
	t := c.t
	e := &t.entries[slot]
	due := word.Load32(&t.due[slot])
	if due == 0 || !e.Status().Has(Confirmed) {
		return // ended, or about to be confirmed
	}
	for d, h := range []uint64{ho, hr} {
		if got := t.index.find(t.entries, &e.half[d].tuple, h); got>>1 != slot {
			c.fault("slot %d: %v tuple %v leads to slot %d", slot, tuple.Direction(d), e.half[d].tuple, got>>1)
		}
	}
	if e.half[0].tuple.Proto != e.half[1].tuple.Proto {
		c.fault("slot %d: protocols %d and %d", slot, e.half[0].tuple.Proto, e.half[1].tuple.Proto)
	}
	if !e.State().fits(e.Proto()) {
		c.fault("slot %d: protocol %d in state %d", slot, e.Proto(), e.State())
	}
	for range settleTries {
		due, deadline := word.Load32(&t.due[slot]), e.deadline()
		if due == 0 || Tick(due).Sub(deadline) <= clockSkew {
			return
		}
		runtime.Gosched() // a timeout is being shortened
	}
	c.fault("slot %d: swept at tick %d, after its deadline %d (now %d)", slot, due, e.deadline(), now)
}

const (
	settleTries = 10
	clockSkew   = sweepTicks // between batches of two workers
)

// count compares the number of values with that of flows.
func (c *checker) count() {
	t := c.t
	values := 0
	for i := range t.index.shards {
		t.index.shards[i].mu.Lock()
	}
	for i := range t.index.shards {
		values += t.index.shards[i].n
	}
	live := t.live.Load()
	c.clients()
	for i := range t.index.shards {
		t.index.shards[i].mu.Unlock()
	}
	if int64(values) != 2*live {
		c.fault("%d values for %d flows", values, live)
	}
	if live < 0 {
		c.fault("%d flows", live)
	}
}

// free checks the slots that everybody may take.
func (c *checker) free() {
	p := &c.t.slots
	p.mu.Lock()
	defer p.mu.Unlock()
	slot := p.free.head
	for range p.free.n {
		if status := c.t.entries[slot].Status(); status != 0 || word.Load32(&c.t.due[slot]) != 0 {
			c.fault("slot %d is free with status %v", slot, status)
		}
		slot = p.link[slot]
	}
}

// expects checks the expectations and the lists they are in.
func (c *checker) expects() {
	t, ex := c.t, &c.t.expects
	ex.mu.Lock()
	defer ex.mu.Unlock()
	byHash, byMaster, used := 0, 0, 0
	for cell := range ex.heads {
		n := 0
		for i := ex.heads[cell]; i != 0; i = ex.recs[i].next {
			if at := t.expectCell(&ex.recs[i].x.Tuple); at != uint64(cell) {
				c.fault("expectation %d is in list %d, want %d", i, cell, at)
			}
			n++
		}
		if got := ex.filter[cell].Load(); got != uint32(n) {
			c.fault("expectation filter %d: %d, want %d", cell, got, n)
		}
		byHash += n
	}
	for cell := range ex.family {
		for i := ex.family[cell]; i != 0; i = ex.recs[i].sibling {
			byMaster++
		}
	}
	for i := range ex.recs {
		r := &ex.recs[i]
		if r.born == 0 {
			continue
		}
		used++
		if e := &t.entries[r.master.Slot]; word.Load32(&e.gen) != r.master.Gen || e.Status()&announces == 0 {
			c.fault("expectation %d: its master in slot %d is gone", i, r.master.Slot)
		}
	}
	if n := int(ex.n.Load()); used != n || byHash != n || byMaster != n {
		c.fault("%d expectations: %d records, %d by hash, %d by master", n, used, byHash, byMaster)
	}
}

// clients holds the counts of clients against the entries. All shards are
// locked, so that no flow begins or ends; a claim under way has been counted
// for its client already, an Assured may be on its way to the count.
func (c *checker) clients() {
	t := c.t
	flows := make([]uint32, len(t.clients.recs))
	toward := make(map[*uint32]uint32)
	for slot := uint32(1); slot <= t.slots.high.Load(); slot++ {
		if t.entries[slot].Status()&(linked|Dying) == linked {
			flows[word.Load32(&t.owner[slot])]++
			for _, cell := range t.towardCellsOf(&t.entries[slot]) {
				if cell != nil {
					toward[cell]++
				}
			}
		}
	}
	for i := range t.toward.cells {
		if got, want := atomic.LoadUint32(&t.toward.cells[i]), toward[&t.toward.cells[i]]; got != want {
			c.fault("sockets of cell %d: counts %d tuples, has %d", i, got, want)
		}
	}
	for i := range t.clients.recs {
		r := &t.clients.recs[i]
		got := r.flows()
		assured, answered := int32(got-r.half()), int32(atomic.LoadUint32(&r.answered))
		slack := int32(len(t.workers))
		if got < flows[i] || got-flows[i] > uint32(slack) || assured < -slack || assured > int32(got)+slack || answered < -slack || answered > int32(got)+slack {
			c.fault("client %d: counts %d flows, %d assured and %d answered, has %d", i, got, assured, answered, flows[i])
		}
	}
}
