package conntrack

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// listed returns the original tuples that a dump lists.
func listed(dump func(func(*Flow) bool)) []tuple.Tuple {
	var all []tuple.Tuple
	dump(func(f *Flow) bool {
		all = append(all, f.Tuple[tuple.Original])
		return true
	})
	return all
}

func TestFlowIsUnconfirmedUntilItsFirstPacketLeaves(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	a, b := proposal(flowTuple(tuple.UDP, 1)), proposal(flowTuple(tuple.UDP, 2))
	ra, _ := w.Claim(a, start)
	rb, _ := w.Claim(b, start)
	w.Track(ra, data, start)
	if got := listed(w.t.DumpUnconfirmed); len(got) != 2 || len(listed(w.t.Dump)) != 0 {
		t.Errorf("two claimed flows: unconfirmed %v, confirmed %v", got, listed(w.t.Dump))
	}
	w.Confirm(ra, start)
	if got := listed(w.t.DumpUnconfirmed); len(got) != 1 || got[0] != b.Original {
		t.Errorf("after one left: %v", got)
	}
	w.Abort(rb)
	if got := listed(w.t.DumpUnconfirmed); len(got) != 0 {
		t.Errorf("after the other did not: %v", got)
	}
}

func TestFlowIsDyingUntilItsDestroyIsInTheRing(t *testing.T) {
	const flows, ring = 20, 4
	table := newTable(t, Config{Max: 100, EventRing: ring})
	sub := table.Subscribe(flows, DestroyEvents)
	w := table.Worker(0)
	w.Begin(start)
	table.events.mu.Lock() // nothing is delivered
	for i := range flows {
		w.Kill(mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start))
	}
	dying := listed(table.DumpDying)
	if n := len(dying); n < flows-ring-1 || n > flows-ring {
		t.Errorf("%d flows are dying with room for %d events, want %d", n, ring, flows-ring)
	}
	if table.Len() != 0 || len(listed(table.Dump)) != 0 || w.Find(&dying[0]).Found() {
		t.Error("dying flows are counted, listed or found")
	}
	w.Begin(start + 1) // no room yet
	if again := listed(table.DumpDying); len(again) < len(dying)-1 {
		t.Errorf("%d flows are dying without any room, before %d", len(again), len(dying))
	}
	table.events.mu.Unlock()
	for now := start + 2; len(listed(table.DumpDying)) > 0; now++ {
		w.Begin(now)
		runtime.Gosched()
	}
	for i := range flows {
		if e := <-sub.Events(); e.Type != EventDestroy || e.Flow.Tuple[0].SrcPort != uint16(i) {
			t.Errorf("event %d: %v of %v", i, e.Type, e.Flow.Tuple[0])
		}
	}
	if sub.Missed() != 0 {
		t.Errorf("missed %d", sub.Missed())
	}
}

func TestDyingFlowsAreBounded(t *testing.T) {
	const ring = 4
	table := newTable(t, Config{Max: 100, EventRing: ring})
	sub := table.Subscribe(2*maxDying, DestroyEvents)
	w := table.Worker(0)
	w.Begin(start)
	table.events.mu.Lock()
	for i := range ring + maxDying + 10 {
		w.Begin(start)
		w.Kill(mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start))
	}
	if n := len(listed(table.DumpDying)); n != maxDying {
		t.Errorf("%d flows are dying, want %d", n, maxDying)
	}
	table.events.mu.Unlock()
	if n := sub.Missed(); n < 9 || n > 10 {
		t.Errorf("missed %d, want the 10 that found no room", n)
	}
}

// TestNoUpdateAfterDestroy lets two actors race for the same flow: one changes
// it, the other ends it.
func TestNoUpdateAfterDestroy(t *testing.T) {
	const flows = 3000
	table := newTable(t, Config{Max: flows, EventRing: 4 * flows, Workers: 2})
	sub := table.Subscribe(4*flows, AllEvents)
	a, b := table.Worker(0), table.Worker(1)
	a.Begin(start)
	b.Begin(start)
	refs := make([]Ref, flows)
	for i := range refs {
		refs[i] = mustAdmit(t, a, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for _, r := range refs {
			b.Track(Ref{r.Slot, tuple.Reply}, data, start) // SEEN_REPLY
		}
	})
	running.Go(func() {
		for _, r := range refs {
			a.Kill(r)
		}
	})
	running.Wait()
	ended := map[uint32]bool{}
	for seq := uint64(1); len(ended) < flows; seq++ {
		e := <-sub.Events()
		if e.Seq != seq {
			t.Fatalf("event %d has number %d", seq, e.Seq)
		}
		if ended[e.Flow.ID] {
			t.Fatalf("%v of flow %d after its DESTROY", e.Type, e.Flow.ID)
		}
		if e.Type == EventDestroy {
			ended[e.Flow.ID] = true
		}
	}
	a.Park()
	b.Park()
}

func TestUpdate(t *testing.T) {
	w := newWorker(t, Config{Max: 10})
	p := proposal(flowTuple(tuple.UDP, 1))
	p.Mark = 0xff0f
	mustAdmit(t, w, p, data, start)
	sub := w.t.Subscribe(10, UpdateEvents)
	u := &Update{
		What: ChangedMark | ChangedLabels | ChangedStatus | ChangedTimeout,
		Mark: 0x1_0003, MarkMask: 0xff, Labels: [2]uint64{5, 8}, Mask: [2]uint64{7, 8},
		Status: Assured | FixedTimeout, Timeout: 7 * second,
	}
	if err := w.t.Update(p.Reply, u); err != nil {
		t.Fatal(err)
	}
	f, err := w.t.Get(p.Original)
	if err != nil || f.Mark != 0x1_ff03 || f.Labels != u.Labels || f.Status != Confirmed|Assured|FixedTimeout || f.Timeout != u.Timeout.Duration() {
		t.Errorf("after the update: %+v, %v", f, err)
	}
	if e := <-sub.Events(); e.Change != u.What || e.Flow.Labels != u.Labels {
		t.Errorf("event %+v", e)
	}
	if err := w.t.SetTimeout(p.Original, 500*second); !errors.Is(err, ErrTimeout) {
		t.Errorf("a user changes a fixed timeout: %v", err)
	}
	if err := w.t.SetLabels(p.Original, [2]uint64{}, [2]uint64{1, 0}); err != nil {
		t.Fatal(err)
	}
	if f, _ := w.t.Get(p.Original); f.Labels != [2]uint64{4, 8} {
		t.Errorf("labels %v after one was cleared, want 4 and 8", f.Labels)
	}
	if err := w.t.Update(p.Original, &Update{What: ChangedStatus, Status: Dying}); !errors.Is(err, ErrStatus) {
		t.Errorf("a user sets DYING: %v", err)
	}
	if err := w.t.SetLabels(flowTuple(tuple.UDP, 2), [2]uint64{1, 0}, [2]uint64{1, 0}); !errors.Is(err, ErrNotFound) {
		t.Errorf("labels of no flow: %v", err)
	}
}
