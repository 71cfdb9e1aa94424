package control

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
)

// loadWatch knows what the gateway did lately: samples of its counters, taken by the
// control side.
type loadWatch struct {
	mu      sync.Mutex // guards the rest
	samples [loadSamples]loadSample
	n       int // taken; the latest is n-1 modulo loadSamples
}

// loadSample are counters at a time.
type loadSample struct {
	at       time.Time
	stats    dataplane.Stats
	begun    uint64
	ended    uint64
	ringLost uint64 // frames, before they reached a worker
	busy     []time.Duration
	working  int
}

const (
	loadInterval = 5 * time.Second
	loadSamples  = 12 + 1 // a minute
)

// watchLoad samples until the gateway ends. Start has taken the first sample.
func (g *Gateway) watchLoad() {
	tick := time.NewTicker(loadInterval)
	defer tick.Stop()
	for {
		select {
		case <-g.ending:
			return
		case now := <-tick.C:
			g.loadWatch.add(g.loadSample(now))
		}
	}
}

func (g *Gateway) loadSample(now time.Time) loadSample {
	t := g.table.Stats()
	s := loadSample{at: now, stats: g.engine.Stats(), begun: t.Insert, ended: t.Expired + t.Deleted + t.EarlyDrop + t.Restart,
		working: g.engine.Steering().Working}
	for _, w := range g.engine.WorkerStats() {
		s.ringLost += w.RxRingDrops
		s.busy = append(s.busy, w.Busy)
	}
	return s
}

func (l *loadWatch) add(s loadSample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.samples[l.n%loadSamples] = s
	l.n++
}

// since returns what happened between the oldest sample, a minute ago at most, and now.
// Nil: there is no sample that is older than now.
func (l *loadWatch) since(now loadSample) *api.Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := max(l.n-loadSamples, 0)
	for oldest < l.n && now.at.Sub(l.samples[oldest%loadSamples].at) > (loadSamples-1)*loadInterval {
		oldest++
	}
	if oldest == l.n {
		return nil
	}
	return loadBetween(&l.samples[oldest%loadSamples], &now)
}

// loadBetween returns what happened between two samples, nil if no time passed.
func loadBetween(from, to *loadSample) *api.Load {
	seconds := to.at.Sub(from.at).Seconds()
	if seconds <= 0 {
		return nil
	}
	rate := func(was, is uint64) float64 { return float64(is-min(was, is)) / seconds }
	l := &api.Load{
		Seconds:  seconds,
		Packets:  rate(from.stats.Forwarded, to.stats.Forwarded),
		Bytes:    rate(from.stats.Bytes, to.stats.Bytes),
		Begun:    rate(from.begun, to.begun),
		Ended:    rate(from.ended, to.ended),
		RingLost: to.ringLost - min(from.ringLost, to.ringLost), // an interface that went takes its count along
		Busy:     []float64{},
		Working:  to.working,
		Drops:    []api.Counter{},
	}
	for i := range min(len(from.busy), len(to.busy)) {
		l.Busy = append(l.Busy, min((to.busy[i]-from.busy[i]).Seconds()/seconds, 1))
	}
	for _, r := range dataplane.Reasons() {
		if n := to.stats.Dropped[r] - from.stats.Dropped[r]; n > 0 {
			l.Drops = append(l.Drops, api.Counter{Reason: r.String(), Step: r.Step(), Count: n, Advice: r.Advice()})
		}
	}
	slices.SortStableFunc(l.Drops, func(a, b api.Counter) int { return cmp.Compare(b.Count, a.Count) })
	return l
}

// Census counts the flows by protocol and state.
func (g *Gateway) Census() (c conntrack.Census) {
	g.pressure.mu.RLock()
	defer g.pressure.mu.RUnlock()
	if g.current.Load().generation == 0 || g.pressure.ended {
		return c
	}
	return g.table.Census()
}

// Workers returns the counters of the workers.
func (g *Gateway) Workers() []dataplane.WorkerStats {
	if g.current.Load().generation == 0 {
		return nil
	}
	return g.stillWatch.count(g.engine.WorkerStats())
}

// Steering returns how packets are spread over the workers.
func (g *Gateway) Steering() (s dataplane.Steering) {
	if g.current.Load().generation == 0 {
		return s
	}
	return g.engine.Steering()
}

// queueEvent is the queue of the table, named beside those of the engine and the rings
// of the own stack.
const queueEvent dataplane.QueueName = "event"

// Queues returns how full the queues are.
func (g *Gateway) Queues() []dataplane.QueueLoad {
	if g.current.Load().generation == 0 {
		return nil
	}
	waiting, room := g.table.EventBacklog()
	all := append(g.engine.QueueLoads(), dataplane.QueueLoad{Name: queueEvent, Length: waiting, Room: room})
	for _, r := range g.host.RingLoads() {
		all = append(all, dataplane.QueueLoad{Name: dataplane.QueueName(r.Name), Length: r.Used, Room: r.Size})
	}
	return all
}
