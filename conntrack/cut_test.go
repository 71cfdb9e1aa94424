package conntrack

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// heard is a listener that keeps everything, and a table as its records tell it.
type heard struct {
	mu      sync.Mutex
	records []Record
}

func (h *heard) hear(r *Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records = append(h.records, *r)
}

// since returns a copy of the records from a position, and the next one.
func (h *heard) since(from int) ([]Record, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.records[from:]), len(h.records)
}

func (h *heard) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.records)
}

// history is what a follower knows: the flows by their ids, for a tuple may have a new
// flow before the end of its last one is told, and the expectations.
type history struct {
	t       *testing.T
	flows   map[uint32]bool
	expects map[tuple.Tuple]bool
}

// apply fails the test when an event does not follow from what was before.
func (h *history) apply(r *Record) {
	if r.Kind >= ExpectNew {
		takeIn(h.t, h.expects, r.Expect.Expect.Tuple, r)
	} else {
		takeIn(h.t, h.flows, r.Event.Flow.ID, r)
	}
}

// takeIn changes who is there.
func takeIn[K comparable](t *testing.T, there map[K]bool, k K, r *Record) {
	typ := r.Kind.Type()
	if there[k] == (typ == EventNew) {
		t.Errorf("%v of %v: known before is %v", r.Kind, k, there[k])
	}
	if there[k] = true; typ == EventDestroy {
		delete(there, k)
	}
}

// cutNow lists a table piece by piece and goes on to where its events have settled.
func cutNow(t *testing.T, table *Table, kept *heard) (h *history, next int) {
	from := kept.len()
	c := table.NewCut()
	h = &history{t, map[uint32]bool{}, map[tuple.Tuple]bool{}}
	for at, more := uint32(0), true; more; more = at != 0 {
		left := 10
		at = c.Flows(at, func(f *Flow) bool {
			if h.flows[f.ID] {
				t.Errorf("%v is listed twice", f.Tuple[0])
			}
			h.flows[f.ID] = true
			left--
			return left > 0
		})
	}
	c.Expects(func(x *Expect) { h.expects[x.Tuple] = true })
	<-c.Settled()
	records, next := kept.since(from)
	for i := range records {
		if c.Wanted(&records[i]) {
			h.apply(&records[i])
		}
	}
	return h, next
}

func TestListAndEventsAreOneHistory(t *testing.T) {
	const workers, keys = 2, 300
	rounds := 3000
	if testing.Short() {
		rounds = 500
	}
	table := newTable(t, Config{Max: 1000, Workers: workers, EventRing: 1 << 16})
	var kept heard
	defer table.Listen(EveryEvent, kept.hear)()
	var running sync.WaitGroup
	var tick atomic.Uint32
	tick.Store(uint32(start))
	for i := range workers {
		running.Go(func() { hammer(t, table.Worker(i), &tick, rounds, keys) })
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	cuts := 0
	for over := false; !over; cuts++ {
		select {
		case <-done:
			over = true
		default:
			command(t, table, cuts, keys)
			k := flowTuple(tuple.UDP, cuts%keys)
			if f, err := table.Get(k); err == nil {
				x := &Expectation{Tuple: flowTuple(tuple.TCP, 60000+cuts%100), Mask: WholeMask(0)}
				_ = table.CreateExpect(f.Tuple[0], *x, second) // an error: it ended, or is there
			}
		}
		first, next := cutNow(t, table, &kept)
		if t.Failed() {
			t.FailNow()
		}
		last, to := cutNow(t, table, &kept)
		records, _ := kept.since(next)
		for i := range records[:to-next] {
			first.apply(&records[i])
		}
		if len(first.flows) != len(last.flows) || len(first.expects) != len(last.expects) {
			t.Fatalf("cut %d: %d flows and %d expectations are left of a list and its events, the next list has %d and %d",
				cuts, len(first.flows), len(first.expects), len(last.flows), len(last.expects))
		}
	}
	if lost := table.LostEvents(); lost != (Counts{}) {
		t.Errorf("rings lost %v", lost)
	}
	t.Logf("%d cuts, %d records", cuts, len(kept.records))
}

// TestQuietEndsAreNotListed: nobody was told of the end, so nobody must wait for it.
func TestQuietEndsAreNotListed(t *testing.T) {
	table := newTable(t, Config{Max: 10})
	w := table.Worker(0)
	w.Begin(start)
	w.Kill(mustAdmit(t, w, proposal(flowTuple(tuple.UDP, 1)), data, start))
	var kept heard
	defer table.Listen(EveryEvent, kept.hear)()
	if h, _ := cutNow(t, table, &kept); len(h.flows) != 0 {
		t.Errorf("listed: %v", h.flows)
	}
}

func TestFlowsThatWaitForTheirDestroyAreListed(t *testing.T) {
	table := newTable(t, Config{Max: 100, EventRing: 1})
	var kept heard
	defer table.Listen(EveryEvent, kept.hear)()
	w := table.Worker(0)
	w.Begin(start)
	r := mustAdmit(t, w, proposal(flowTuple(tuple.UDP, 1)), data, start)
	c := table.NewCut()
	table.events.mu.Lock() // nothing is told
	filler := mustAdmit(t, w, proposal(flowTuple(tuple.UDP, 2)), data, start)
	w.Kill(r)
	listed := map[tuple.Tuple]bool{}
	c.Flows(0, func(f *Flow) bool { listed[f.Tuple[0]] = true; return true })
	table.events.mu.Unlock()
	if !listed[flowTuple(tuple.UDP, 1)] {
		t.Error("a flow whose DESTROY is to come is not listed")
	}
	<-c.Settled()
	for w.Entry(r.Slot).Status()&undelivered != 0 {
		w.Begin(start)
	}
	<-table.NewCut().Settled()
	w.Kill(filler)
	records, n := kept.since(0)
	if last := records[n-1]; last.Kind != FlowDestroy || !c.Wanted(&last) {
		t.Errorf("last is %v, wanted %v", last.Kind, c.Wanted(&last))
	}
}

// TestLossesHavePlaces: the records stand for every number exactly once, with a ring
// that is full nearly always.
func TestLossesHavePlaces(t *testing.T) {
	const flows = 2000
	table := newTable(t, Config{Max: flows, EventRing: 2})
	var kept heard
	defer table.Listen(EveryEvent, kept.hear)()
	w := table.Worker(0)
	w.Begin(start)
	for i := range flows {
		mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	lost := table.LostEvents()
	if lost[FlowNew] == 0 {
		t.Fatal("the ring was never full")
	}
	told, next, sum := uint64(0), 0, Counts{}
	for told+sum.Sum() < flows { // what was lost last is told without a further event
		var records []Record
		records, next = kept.since(next)
		for _, r := range records {
			if r.Lost == (Counts{}) {
				told++
			}
			sum.Add(r.Lost)
			if r.Seq != told+sum.Sum() {
				t.Fatalf("number %d after %d told and %d lost", r.Seq, told, sum.Sum())
			}
		}
	}
	if sum != table.LostEvents() || told+sum.Sum() != flows {
		t.Errorf("%d told and %v lost of %d; the rings lost %v", told, sum, flows, table.LostEvents())
	}
}
