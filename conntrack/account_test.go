package conntrack

import (
	"sync"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestNoPacketIsLostFromTheCounts lets three workers count packets of both
// directions of one flow from the first packet on.
func TestNoPacketIsLostFromTheCounts(t *testing.T) {
	const workers, packets, flows = 3, 3000, 20
	table := newTable(t, Config{Max: 100, Workers: workers})
	first := table.Worker(0)
	first.Begin(start)
	refs := make([]Ref, flows)
	for i := range refs {
		refs[i] = mustAdmit(t, first, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			w := table.Worker(i)
			defer w.Park() // or the others wait for its next batch
			for n := range packets {
				if n%50 == 0 {
					w.Begin(start)
				}
				for f := range refs {
					w.Track(Ref{refs[f].Slot, tuple.Direction(n & 1)}, data, start)
				}
			}
		})
	}
	running.Wait()
	const each = workers * packets / 2
	for i, r := range refs {
		f, err := table.Get(flowTuple(tuple.UDP, i))
		if want := [2]uint64{each + 1, each}; err != nil || f.Packets != want || f.Bytes != [2]uint64{100 * want[0], 100 * want[1]} {
			t.Errorf("flow %d: %v packets, %v bytes, want %v packets (%v)", i, f.Packets, f.Bytes, want, err)
		}
		for d := range tuple.NumDirections {
			if owner := table.Entry(r.Slot).proto[areaOwner+int(d)]; owner != everybody {
				t.Errorf("flow %d %v: after thousands of packets it is counted in mode %#x", i, d, owner)
			}
		}
	}
}

func TestVisitorsWaitForTheOwnersNextBatch(t *testing.T) {
	table := newTable(t, Config{Max: 100, Workers: 2})
	a, b := table.Worker(0), table.Worker(1)
	a.Begin(start)
	b.Begin(start)
	k := proposal(flowTuple(tuple.UDP, 1))
	r := mustAdmit(t, a, k, data, start)
	e := table.Entry(r.Slot)
	count := func(w *Worker, n int, mode uint32, total uint64) {
		t.Helper()
		for range n {
			w.Track(r, data, start)
		}
		if got := e.proto[areaOwner]; got != mode || e.Packets(tuple.Original) != total {
			t.Errorf("mode %#x with %d packets, want %#x with %d", got, e.Packets(tuple.Original), mode, total)
		}
	}
	b.Begin(start)
	count(b, 200, visited, 201)
	b.Begin(start)
	count(b, 100, visited, 301) // the owner is still in its batch
	a.Begin(start)
	b.Begin(start)
	count(a, 64, everybody, 365)
	count(b, 1, everybody, 366)
	a.Park()
	b.Park()
}

func TestIdleWorkerKnowsThatItIsBehind(t *testing.T) {
	const flows = 3 * 4 * maxExamine
	w := newWorker(t, Config{Max: flows})
	for i := range flows {
		mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
	}
	w.now += 30*second + 2*sweepTicks
	for rounds := 0; ; rounds++ {
		w.Begin(w.now)
		if !w.Behind() {
			if left := w.t.Len(); left != 0 || rounds < 3 {
				t.Errorf("%d flows left after %d rounds at one moment", left, rounds)
			}
			return
		}
		if n := flows - w.t.Len(); n > (rounds+1)*(4*maxExamine+chunkSlots) {
			t.Errorf("%d flows ended in %d rounds: no bound", n, rounds+1)
		}
	}
}
