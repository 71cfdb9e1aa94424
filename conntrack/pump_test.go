package conntrack

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// pumped is a table in a bubble of its own time, a worker who begins flows, and a
// listener to that.
type pumped struct {
	w     *Worker
	flows int

	mu    sync.Mutex // guards heard: time that passes orders nothing
	heard []uint64   // numbers of events
}

func newPumped(t *testing.T, ring int) *pumped {
	return listenTo(t, newTable(t, Config{Max: 10_000, EventRing: ring}))
}

func listenTo(t *testing.T, table *Table) *pumped {
	x := &pumped{w: table.Worker(0)}
	x.w.Begin(start)
	t.Cleanup(table.Listen(NewEvents, func(r *Record) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.heard = append(x.heard, r.Seq)
	}))
	return x
}

// told returns how many events were heard of.
func (x *pumped) told() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.heard)
}

// begin has flows begin.
func (x *pumped) begin(t *testing.T, flows int) {
	t.Helper()
	for range flows {
		mustAdmit(t, x.w, proposal(flowTuple(tuple.UDP, x.flows)), data, start)
		x.flows++
	}
}

// want compares what was heard, by now, with so many events in their order.
func (x *pumped) want(t *testing.T, when string, events int) {
	t.Helper()
	synctest.Wait()
	inOrder := make([]uint64, events)
	for i := range inOrder {
		inOrder[i] = uint64(i + 1)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Equal(x.heard, inOrder) {
		t.Fatalf("%s: heard of %d events, %v, want %d in their order", when, len(x.heard), x.heard, events)
	}
}

func TestEventAfterSilenceIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newPumped(t, 16)
		for i := range 3 {
			x.begin(t, 1)
			x.want(t, "no time after it", i+1)
			time.Sleep(idleNaps*nap + 1)
		}
	})
}

// TestWorkersWakeThePumpOnce: whatever follows the event that woke it is told when the
// pump looks for it.
func TestWorkersWakeThePumpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newPumped(t, 1024)
		x.begin(t, 1)
		x.want(t, "after the first", 1)
		for range 100 { // more than idleNaps: as long as something happens it does not sleep
			told := x.told()
			for range 5 {
				x.begin(t, 2)
				x.want(t, "during a nap", told)
			}
			time.Sleep(nap)
			x.want(t, "after a nap", told+10)
		}
	})
}

func TestHalfFullRingEndsTheNap(t *testing.T) {
	const ring = 16
	synctest.Test(t, func(t *testing.T) {
		x := newPumped(t, ring)
		x.begin(t, 1)
		x.want(t, "after the first", 1)
		for range 10 {
			told := x.told()
			x.begin(t, ring/2-1)
			x.want(t, "with room for more than half of the ring", told)
			x.begin(t, 1)
			x.want(t, "with room for half of the ring", told+ring/2)
		}
		if lost := x.w.t.LostEvents(); lost != (Counts{}) {
			t.Errorf("lost %v", lost)
		}
	})
}

func TestWhoWaitsForEventsEndsTheNap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newPumped(t, 16)
		for i := range 3 {
			x.begin(t, 1)
			began := time.Now()
			x.w.t.Settle()
			if n := x.told(); n != i+1 || time.Since(began) != 0 {
				t.Errorf("heard of %d events after %v, want %d at once", n, time.Since(began), i+1)
			}
		}
	})
}

func TestClosingTheTableTellsWhatThePumpSleptThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, err := New(Config{Max: 100, EventRing: 16})
		if err != nil {
			t.Fatal(err)
		}
		x := listenTo(t, table)
		x.begin(t, 1)
		x.want(t, "after the first", 1)
		x.begin(t, 3)
		x.want(t, "during a nap", 1)
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
		x.want(t, "at the end", 4)
	})
}

func TestSilentTableHasNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newPumped(t, 16)
		x.begin(t, 1)
		x.want(t, "after it", 1)
		time.Sleep(idleNaps*nap + 1)
		synctest.Wait()
		if got := rest(x.w.t.events.rest.Load()); got != asleep {
			t.Errorf("the pump's rest is %d, want %d", got, asleep)
		}
	})
}
