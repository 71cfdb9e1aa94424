package conntrack

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// ExpectFlags qualify an expectation.
type ExpectFlags uint8

const (
	ExpectPermanent ExpectFlags = 1 << iota // stays after a flow has met it
	ExpectInactive                          // meets nothing
	ExpectUserspace                         // made by command
)

// ExpectMask says which bits of a source matter. The rest of a tuple always does.
type ExpectMask struct {
	Src     tuple.Addr
	SrcPort uint16
}

// WholeMask matches one source address, from any port if ports is 0.
func WholeMask(ports uint16) ExpectMask {
	m := ExpectMask{SrcPort: ports}
	for i := range m.Src {
		m.Src[i] = 0xff
	}
	return m
}

// AnyMask matches every source.
func AnyMask() ExpectMask { return ExpectMask{} }

// meets reports whether a packet with tuple k is the one expected as t.
func (m *ExpectMask) meets(t, k *tuple.Tuple) bool {
	if t.Dst != k.Dst || t.DstPort != k.DstPort || t.Proto != k.Proto || t.Family != k.Family || t.Zone != k.Zone ||
		(t.SrcPort^k.SrcPort)&m.SrcPort != 0 {
		return false
	}
	differ := byte(0)
	for i := range m.Src {
		differ |= (t.Src[i] ^ k.Src[i]) & m.Src[i]
	}
	return differ == 0
}

// Expectation announces a flow that belongs to another one, its master.
type Expectation struct {
	Tuple  tuple.Tuple // of its first packet
	Mask   ExpectMask  // which of its source matters
	Class  uint8       // of the helper's; limits are per class
	Flags  ExpectFlags
	Helper uint32    // number of the helper that announced it
	Child  uint32    // number of the helper that will watch the flow, 0 if none
	Data   [4]uint64 // what nat has to know about the flow; opaque here
}

// ExpectPolicy bounds the expectations of one master and class, and those of one client.
type ExpectPolicy struct {
	Max     int  // the oldest is replaced when there are more; 0: no bound
	Client  int  // of who began the master, over all masters: there are no more; 0: no bound
	Timeout Tick // how long one waits for its flow
}

// Over is an expectation that has ended without a flow, or was replaced.
type Over struct {
	*Expectation        // valid during the call
	Master       Master // its original tuple stays what it was
}

// OnExpectEnd has f called once for each expectation that ends, but for those that a
// flow has met: what such a one stands for goes over to who called Worker.Expected. f
// runs on any goroutine, under the lock of all expectations, and must not call the
// table. OnExpectEnd must be called before the first packet.
func (t *Table) OnExpectEnd(f func(x *Over, now Tick)) { t.onOver = f }

// Announced is an expectation that a packet has met.
type Announced struct {
	Expectation
	Master Master
	Reply  tuple.Tuple // of the master
	Mark   uint32      // of the master, now
}

// Master names the flow that announced another one.
type Master struct {
	Slot, Gen uint32 // Slot 0: none
	Original  tuple.Tuple
}

// Inherit makes a proposal for the flow that was expected: it has a master, and
// its mark and helper come from there. The same translation is for nat to find:
// see nat.Inherit.
func (x *Announced) Inherit(p *Proposal) {
	p.Status |= Expected
	p.Mark, p.Helper, p.Master = x.Mark, x.Child, x.Master
}

// Why an expectation is refused.
var (
	ErrExpectMaster = errors.New("master conntrack not found")
	ErrExpectClash  = errors.New("another expectation is in the way")
	ErrExpectFull   = errors.New("expectation table full")
	ErrExpectClient = errors.New("too many expectations of one client")
	ErrExpectAbsent = errors.New("such expectation doesn't exist")
)

// expects are all expectations of a table. They are few and short-lived, so
// one lock guards them; lookups take it only when the filter says that there
// may be something to find.
type expects struct {
	n      atomic.Int64                   // expectations there are
	filter [expectCells]atomic.Uint32     // how many have a hash that ends in the index
	sweep  atomic.Uint32                  // tick of the last look for expired ones
	counts [numExpectCounts]atomic.Uint64 // for ExpectStats

	mu     sync.Mutex // guards what follows
	max    int
	recs   []expectRecord      // by number; 0 is not used
	free   uint32              // first free record, through next
	heads  [expectCells]uint32 // first record by hash
	family [masterCells]uint32 // first record by the master's slot
	held   map[announcer]int   // expectations by who began their master
	born   uint64              // expectations ever made
}

const (
	expectCells     = 4096
	masterCells     = 1024
	leastShare      = 16
	defaultExpects  = 4096 // as Linux with the largest table that it chooses itself
	expectSweepTime = 100  // ticks between two looks for expired ones
)

// announcer is who has begun the masters of expectations: an address, for IPv6 its /64.
type announcer struct {
	addr tuple.Addr
	zone uint16
}

func announcerOf(t *tuple.Tuple) announcer { return announcer{clientAddr(t.Src), t.Zone} }

// expectRecord is one expectation, or a free place.
type expectRecord struct {
	x        Expectation
	master   Master
	deadline Tick
	born     uint64 // 0: free
	next     uint32 // with the same hash, or free
	sibling  uint32 // with the same cell of family
}

const (
	expectNew = iota
	expectCreate
	expectDelete
	numExpectCounts
)

// ExpectStats are the counters of conntrack -S expect.
type ExpectStats struct {
	New    uint64 // flows that met their expectation
	Create uint64 // expectations made
	Delete uint64 // expectations that ended, met or not
}

// ExpectStats returns the counters of all expectations ever.
func (t *Table) ExpectStats() ExpectStats {
	c := &t.expects.counts
	return ExpectStats{c[expectNew].Load(), c[expectCreate].Load(), c[expectDelete].Load()}
}

// ExpectShare returns how many expectations one client may have of the table's: a
// quarter, so that no client alone can fill it, but not so few that a phone system or a
// file server has none left.
func (t *Table) ExpectShare() int { return max(t.expects.max/4, leastShare) }

// ExpectLen returns the number of expectations.
func (t *Table) ExpectLen() int { return int(t.expects.n.Load()) }

// expectCell returns where expectations that a packet with tuple k may meet are.
func (t *Table) expectCell(k *tuple.Tuple) uint64 {
	c := *k
	c.Src, c.SrcPort = tuple.Addr{}, 0
	return t.index.key.tuple(&c) % expectCells
}

// mayExpect returns where expectations of packets with tuple k are, and whether any
// are there: without expectations it costs a load.
func (t *Table) mayExpect(k *tuple.Tuple) (cell uint64, some bool) {
	if t.expects.n.Load() == 0 {
		return 0, false
	}
	cell = t.expectCell(k)
	return cell, t.expects.filter[cell].Load() != 0
}

// Expect announces a flow of the master that the worker found in this batch. An
// expectation for the same packets, with the same Data, by the same master is
// replaced. Errors are ErrExpectMaster: it has ended or not begun; ErrExpectClash;
// ErrExpectClient; ErrExpectFull.
func (w *Worker) Expect(master Ref, x *Expectation, p ExpectPolicy) error {
	return w.t.expect(master.Slot, x, p, w.now)
}

func (t *Table) expect(slot uint32, x *Expectation, p ExpectPolicy, now Tick) error {
	e, ex := &t.entries[slot], &t.expects
	cell := t.expectCell(&x.Tuple)
	ex.mu.Lock()
	defer ex.mu.Unlock()
	// Whoever ends the master looks for this bit after he has set Dying, so one
	// of us sees the other.
	if old := Status(atomic.OrUint32(&e.status, uint32(announces))); old&Dying != 0 || old&linked == 0 {
		return ErrExpectMaster
	}
	if err := t.makeWayLocked(slot, e.gen, cell, x, now); err != nil {
		return err
	}
	t.limitClassLocked(slot, e.gen, x.Class, p.Max, now)
	who := announcerOf(&e.half[tuple.Original].tuple)
	if p.Client > 0 && ex.held[who] >= p.Client {
		return ErrExpectClient
	}
	n := ex.takeLocked()
	if n == 0 {
		return ErrExpectFull
	}
	ex.held[who]++
	ex.born++
	ex.recs[n] = expectRecord{
		x: *x, master: Master{slot, e.gen, e.half[tuple.Original].tuple}, deadline: now + min(p.Timeout, maxTimeout),
		next: ex.heads[cell], sibling: ex.family[slot%masterCells],
	}
	atomic.StoreUint64(&ex.recs[n].born, ex.born) // last: whoever is left with half a record sees that
	ex.heads[cell], ex.family[slot%masterCells] = n, n
	ex.n.Add(1)
	ex.filter[cell].Add(1)
	ex.counts[expectCreate].Add(1)
	t.noteExpectLocked(EventNew, n, now)
	return nil
}

// makeWayLocked looks at the expectations that x may be confused with: an equal
// one of the same master is replaced, any other is in the way.
func (t *Table) makeWayLocked(slot, gen uint32, cell uint64, x *Expectation, now Tick) error {
	ex := &t.expects
	for n := ex.heads[cell]; n != 0; n = ex.recs[n].next {
		r := &ex.recs[n]
		both := ExpectMask{SrcPort: x.Mask.SrcPort & r.x.Mask.SrcPort}
		for i := range both.Src {
			both.Src[i] = x.Mask.Src[i] & r.x.Mask.Src[i]
		}
		if !both.meets(&x.Tuple, &r.x.Tuple) {
			continue
		}
		if now.Reached(r.deadline) || t.ended(&r.master, now) || r.x.Tuple == x.Tuple && r.x.Mask == x.Mask &&
			r.x.Class == x.Class && r.x.Data == x.Data && r.master.Slot == slot && r.master.Gen == gen {
			t.removeExpectLocked(n, now)
			return t.makeWayLocked(slot, gen, cell, x, now)
		}
		return ErrExpectClash
	}
	return nil
}

// limitClassLocked makes room for one more expectation of a master and class.
func (t *Table) limitClassLocked(slot, gen uint32, class uint8, limit int, now Tick) {
	ex := &t.expects
	for limit > 0 {
		count, oldest := 0, uint32(0)
		for n := ex.family[slot%masterCells]; n != 0; n = ex.recs[n].sibling {
			r := &ex.recs[n]
			if r.master.Slot != slot || r.master.Gen != gen || r.x.Class != class {
				continue
			}
			count++
			if oldest == 0 || r.born < ex.recs[oldest].born {
				oldest = n
			}
		}
		if count < limit {
			return
		}
		t.removeExpectLocked(oldest, now)
	}
}

// takeLocked returns a free record, 0 if there is none.
func (ex *expects) takeLocked() uint32 {
	if n := ex.free; n != 0 {
		ex.free = ex.recs[n].next
		return n
	}
	if len(ex.recs) > ex.max {
		return 0
	}
	if ex.recs == nil { // most gateways have no helpers
		ex.use(make([]expectRecord, ex.max+1))
	}
	ex.recs = ex.recs[:len(ex.recs)+1]
	return uint32(len(ex.recs) - 1)
}

// use gives ex the memory for its records.
func (ex *expects) use(recs []expectRecord) {
	ex.recs = recs[:1]
	ex.held = make(map[announcer]int)
}

// removeExpectLocked ends an expectation that nothing has met.
func (t *Table) removeExpectLocked(n uint32, now Tick) {
	if r := &t.expects.recs[n]; t.onOver != nil {
		t.onOver(&Over{&r.x, r.master}, now)
	}
	t.unlistExpectLocked(n, now)
}

// unlistExpectLocked takes an expectation out and tells who wants to know.
func (t *Table) unlistExpectLocked(n uint32, now Tick) {
	ex := &t.expects
	r := &ex.recs[n]
	t.noteExpectLocked(EventDestroy, n, now)
	cell := t.expectCell(&r.x.Tuple)
	at := &ex.heads[cell]
	for *at != n {
		at = &ex.recs[*at].next
	}
	*at = r.next
	at = &ex.family[r.master.Slot%masterCells]
	for *at != n {
		at = &ex.recs[*at].sibling
	}
	*at = r.sibling
	if who := announcerOf(&r.master.Original); ex.held[who] > 1 {
		ex.held[who]--
	} else {
		delete(ex.held, who)
	}
	atomic.StoreUint64(&r.born, 0) // first, for the same reason
	*r = expectRecord{next: ex.free}
	ex.free = n
	ex.n.Add(-1)
	ex.filter[cell].Add(^uint32(0))
	ex.counts[expectDelete].Add(1)
}

// Expected finds the expectation that a packet with tuple k, which belongs to no
// flow, meets, and reports whether there is one. Unless it is permanent, it is
// used up. Nothing is allocated; without expectations it costs a load.
func (w *Worker) Expected(k *tuple.Tuple, x *Announced) bool {
	t := w.t
	ex := &t.expects
	cell, some := t.mayExpect(k)
	if !some {
		return false
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	n := t.announcedLocked(cell, k, x, w.now)
	if n == 0 {
		return false
	}
	ex.counts[expectNew].Add(1)
	if x.Flags&ExpectPermanent == 0 {
		t.unlistExpectLocked(n, w.now)
	}
	return true
}

// Announced is Expected for who only wants to know: nothing is used up.
func (t *Table) Announced(k tuple.Tuple, x *Announced) bool {
	t.expects.mu.Lock()
	defer t.expects.mu.Unlock()
	return t.announcedLocked(t.expectCell(&k), &k, x, t.Now()) != 0
}

// announcedLocked returns the number of the expectation that a packet with tuple k
// meets, and what it says; 0 if there is none.
func (t *Table) announcedLocked(cell uint64, k *tuple.Tuple, x *Announced, now Tick) uint32 {
	ex := &t.expects
	for n := ex.heads[cell]; n != 0; n = ex.recs[n].next {
		r := &ex.recs[n]
		if r.x.Flags&ExpectInactive != 0 || now.Reached(r.deadline) || !r.x.Mask.meets(&r.x.Tuple, k) || !t.aliveMaster(&r.master, now) {
			continue
		}
		master := &t.entries[r.master.Slot]
		*x = Announced{Expectation: r.x, Master: r.master, Reply: master.Tuple(tuple.Reply), Mark: master.Mark()}
		return n
	}
	return 0
}

// ended reports whether a master is no longer the flow it was.
func (t *Table) ended(m *Master, now Tick) bool {
	e := &t.entries[m.Slot]
	return word.Load32(&e.gen) != m.Gen || e.Status()&Dying != 0 || e.expired(tuple.Original, now)
}

// aliveMaster reports whether a master has not ended, and others may know about it.
func (t *Table) aliveMaster(m *Master, now Tick) bool {
	return !t.ended(m, now) && t.entries[m.Slot].Status().Has(Confirmed)
}

// orphan ends the expectations of a flow that has ended.
func (t *Table) orphan(slot, gen uint32, now Tick) {
	ex := &t.expects
	ex.mu.Lock()
	defer ex.mu.Unlock()
	for n := ex.family[slot%masterCells]; n != 0; {
		r := &ex.recs[n]
		next := r.sibling
		if r.master.Slot == slot && r.master.Gen == gen {
			t.removeExpectLocked(n, now)
		}
		n = next
	}
}

// expire ends the expectations whose time is over, once a second.
func (t *Table) expireExpects(now Tick) {
	ex := &t.expects
	if last := ex.sweep.Load(); now.Sub(Tick(last)) < expectSweepTime || !ex.sweep.CompareAndSwap(last, uint32(now)) {
		return
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	for n := range ex.recs {
		if r := &ex.recs[n]; r.born != 0 && now.Reached(r.deadline) {
			t.removeExpectLocked(uint32(n), now)
		}
	}
}

// Expect is a copy of an expectation as it is listed.
type Expect struct {
	Expectation
	Master     tuple.Tuple   // original tuple of the flow that announced it
	Timeout    time.Duration // until it ends, never negative
	HelperName string
}

// describeExpect fills x from a record.
func (t *Table) describeExpect(x *Expect, r *expectRecord, now Tick) {
	*x = Expect{Expectation: r.x, Master: r.master.Original}
	if left := r.deadline.Sub(now); left > 0 {
		x.Timeout = Tick(left).Duration()
	}
	x.HelperName = t.HelperName(r.x.Helper)
}
