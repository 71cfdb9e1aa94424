package dataplane

import (
	"math"
	"testing"
	"time"
)

func TestHistogramsHaveEveryValueInItsBucket(t *testing.T) {
	var l load
	sum := 0.0
	for n := 1; n <= Batch; n++ {
		l.took(n)
		sum += float64(n)
	}
	h := cumulate(l.sizes[:], sizeBounds, sum)
	for i, bound := range h.Bounds {
		if h.Counts[i] != uint64(bound) { // one of each size up to it
			t.Errorf("%d batches of up to %v packets, want as many", h.Counts[i], bound)
		}
	}
	if last := h.Bounds[len(h.Bounds)-1]; last != Batch || h.Count != Batch || l.batches() != Batch {
		t.Errorf("last bound %v, %d values, want %d of both", last, h.Count, Batch)
	}

	for _, ns := range []int64{-5, 0, 1023, 1024, 1_000_000, 16_000_000, int64(time.Minute)} {
		var l load
		l.spent(ns)
		h := cumulate(l.spans[:], spanBounds, float64(l.busy.Load())/1e9)
		seconds := float64(max(ns, 0)) / 1e9
		for i, bound := range h.Bounds {
			if got, want := h.Counts[i] == 1, seconds < bound; got != want {
				t.Errorf("a step of %d ns is up to %v s: %v, want %v", ns, bound, got, want)
			}
		}
		if h.Count != 1 || math.Abs(h.Sum-seconds) > 1e-12 {
			t.Errorf("a step of %d ns: count %d, sum %v s", ns, h.Count, h.Sum)
		}
	}
}

// TestWorkersTellTheirLoad runs two workers and compares what they tell with what all
// of them did together.
func TestWorkersTellTheirLoad(t *testing.T) {
	g := startGateway(t)
	g.exchange(200, 20000)
	g.e.Stop()
	s := g.e.Stats()
	var received, forwarded, taken, batches uint64
	for i, w := range g.e.WorkerStats() {
		received += w.Received
		forwarded += w.Forwarded
		taken += w.RxFrames
		batches += w.BatchSize.Count
		if w.Received > 0 && (w.Busy <= 0 || w.BatchTime.Count == 0 || w.BatchTime.Count > w.BatchSize.Count) {
			t.Errorf("worker %d took %d packets in %d batches, %d steps and %v", i, w.Received, w.BatchSize.Count, w.BatchTime.Count, w.Busy)
		}
		if w.BatchSize.Sum != float64(w.Received) {
			t.Errorf("worker %d: %v packets in batches, %d received", i, w.BatchSize.Sum, w.Received)
		}
	}
	if received != s.Received || forwarded != s.Forwarded || batches != s.Batches {
		t.Errorf("workers: %d received, %d forwarded, %d batches; engine: %d, %d, %d", received, forwarded, batches, s.Received, s.Forwarded, s.Batches)
	}
	if taken == 0 || taken > received {
		t.Errorf("%d frames taken from ports, %d packets received", taken, received)
	}
}

func TestQueuesTellHowFullTheyAre(t *testing.T) {
	l := newLab(t, labConfig{})
	byName := func() map[QueueName]QueueLoad {
		all := map[QueueName]QueueLoad{}
		for _, q := range l.e.QueueLoads() {
			if q.Room <= 0 || q.Length < 0 || q.Length > q.Room {
				t.Errorf("queue %s: %d of %d", q.Name, q.Length, q.Room)
			}
			all[q.Name] = q
		}
		return all
	}
	if n := byName()[QueueRefusal].Length; n != 0 {
		t.Errorf("%d refusals wait before the first", n)
	}
	l.e.refusals <- Refusal{}
	if n := byName()[QueueRefusal].Length; n != 1 {
		t.Errorf("%d refusals wait, want 1", n)
	}

	l.send("lan", fragmentsOf(noSum(udp("10.0.0.5:40000", "198.51.100.7:53", length(100))), 48)[1])
	l.step()
	if n := byName()[QueueFragment].Length; n == 0 {
		t.Error("no bytes of a fragment whose first one is missing wait")
	}

	l = coldLab(t)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.step()
	if n := byName()[QueueNeighbour].Length; n != 1 {
		t.Errorf("%d packets wait for a neighbour, want 1", n)
	}
	l.resolve(wanID, "203.0.113.254")
	l.step()
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
	l.step()
	if n := byName()[QueueNeighbour].Length; n != 0 {
		t.Errorf("%d packets wait for a neighbour that is known", n)
	}
}
