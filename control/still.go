package control

import (
	"maps"
	"slices"
	"sync"
	"time"

	"example.com/culvert/dataplane"
)

// stillWatch knows which workers stand still: they hang in a batch, or the machine does
// not let their threads run. Their packets wait, those of the others do not.
type stillWatch struct {
	mu    sync.Mutex // guards the rest
	since map[int]time.Time
	times map[int]uint64 // how often each has
}

// watchWorkers says when workers stand still, and when they go on, until the gateway
// ends.
func (g *Gateway) watchWorkers() {
	var pulse dataplane.Pulse
	for wait := time.NewTimer(dataplane.StillAfter); ; wait.Reset(dataplane.StillAfter) {
		select {
		case <-wait.C:
		case <-g.ending:
			wait.Stop()
			return
		}
		stopped, gone := g.stillWatch.look(g.engine.Still(&pulse), time.Now())
		for _, w := range stopped {
			g.log.Error("worker stands still", "worker", w)
		}
		for w, lasted := range gone {
			g.log.Info("worker goes on", "worker", w, "after", lasted.Round(time.Millisecond))
		}
	}
}

// look takes note of the workers that stand still at a time, and returns those that
// did not before, and for how long those did that do so no longer.
func (s *stillWatch) look(still []int, now time.Time) (stopped []int, gone map[int]time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.since
	s.since = make(map[int]time.Time, len(still))
	if s.times == nil {
		s.times = make(map[int]uint64)
	}
	for _, w := range still {
		at, before := was[w]
		if !before {
			at = now.Add(-dataplane.StillAfter)
			stopped = append(stopped, w)
			s.times[w]++
		}
		s.since[w] = at
	}
	gone = make(map[int]time.Duration)
	for w, at := range was {
		if _, is := s.since[w]; !is {
			gone[w] = now.Sub(at)
		}
	}
	return stopped, gone
}

// now returns the workers that stand still.
func (s *stillWatch) now() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.since))
}

// count adds to counters of workers how often each has stood still.
func (s *stillWatch) count(workers []dataplane.WorkerStats) []dataplane.WorkerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range workers {
		workers[i].Stalls = s.times[i]
	}
	return workers
}
