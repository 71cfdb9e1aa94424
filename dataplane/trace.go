package dataplane

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// TraceOptions says what a Trace is about and what it may cost.
type TraceOptions struct {
	Filter TraceFilter
	Snap   int // bytes of each frame that are kept; the first 128 always are
	Rate   int // most packets told in a second, by all workers; 0: no limit
	Walks  int // room in the ring of each worker, in packets; 0: 1024
	Bytes  int // room there for frames; 0: as many as Walks times 512
}

// maxTraces bounds how many Traces an engine has at the same time.
const maxTraces = 8

// Errors of Engine.Trace.
var ErrTraces = errors.New("as many traces run as may")

// Trace shows what workers do with packets from Engine.Trace until Close. Workers
// write into rings and never wait: who reads too late loses packets and hears how many.
// Only one goroutine may read.
type Trace struct {
	e      *Engine
	filter TraceFilter
	snap   int
	rate   rateLimit
	rings  []*traceRing // by worker; the last one is upkeep's
	ready  chan struct{}
	offset int64 // wall-clock time minus boot clock, ns
	sends  []traceSent

	lost  atomic.Uint64
	over  atomic.Uint64
	close sync.Once
}

// Trace begins to watch what becomes of packets: of all that workers take in hand after
// it has returned. Without one they do nothing for it but to look, once a batch,
// whether there is one.
func (e *Engine) Trace(o TraceOptions) (*Trace, error) {
	if o.Walks <= 0 {
		o.Walks = 1024
	}
	if o.Bytes <= 0 {
		o.Bytes = 512 * o.Walks
	}
	s := &Trace{
		e: e, filter: o.Filter, snap: max(o.Snap, traceHeaders), ready: make(chan struct{}, 1),
		offset: e.cfg.Wall().UnixNano() - e.cfg.Clock(), sends: make([]traceSent, 0, walkSends),
	}
	s.rate.init(o.Rate)
	for range len(e.workers) + 1 {
		s.rings = append(s.rings, &traceRing{slots: make([]traceSlot, o.Walks), bytes: make([]byte, o.Bytes)})
	}
	e.tracers.Lock()
	defer e.tracers.Unlock()
	old := e.tracing.Load()
	if len(old.all) == maxTraces {
		return nil, ErrTraces
	}
	e.watch(append(old.all[:len(old.all):len(old.all)], s))
	return s, nil
}

// watch makes all who watch the engine. It returns when every worker knows. e.tracers
// is held.
func (e *Engine) watch(all []*Trace) {
	next := &tracing{gen: e.tracing.Load().gen + 1, all: all}
	for _, s := range all {
		next.snap = max(next.snap, s.snap)
	}
	e.tracing.Store(next)
	for _, w := range e.workers {
		for e.running.Load() && w.watched.Load() != next.gen && !w.asleep.Load() {
			w.wake()
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// Close ends the Trace. What is in its rings may still be read.
func (s *Trace) Close() {
	s.close.Do(func() {
		s.e.tracers.Lock()
		defer s.e.tracers.Unlock()
		var rest []*Trace
		for _, other := range s.e.tracing.Load().all {
			if other != s {
				rest = append(rest, other)
			}
		}
		s.e.watch(rest)
	})
}

// add is called by a worker.
func (s *Trace) add(ring int, walk *traceWalk, sent []traceSent, data []byte) {
	if !s.rate.allow(walk.at) {
		s.over.Add(1)
		return
	}
	if !s.rings[ring].add(walk, sent, data, s.snap) {
		s.lost.Add(1)
		return
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Ready has an element when there may be something to read.
func (s *Trace) Ready() <-chan struct{} { return s.ready }

// Lost returns how many packets found no room because they were not read in time,
// and how many were beyond the rate.
func (s *Trace) Lost() (unread, beyond uint64) { return s.lost.Load(), s.over.Load() }

// Read calls f for every packet there is, the oldest first, until f returns false. What
// f gets is valid until it returns.
func (s *Trace) Read(f func(*TracedPacket) bool) {
	for more := true; more; {
		var oldest *traceRing
		for _, r := range s.rings {
			if next := r.next(); next != nil && (oldest == nil || next.walk.at < oldest.next().walk.at) {
				oldest = r
			}
		}
		if oldest == nil {
			return
		}
		s.sends = oldest.sends(s.sends[:0])
		slot := oldest.next()
		p := s.traced(&slot.walk, s.sends, slot.data)
		more = f(&p)
		oldest.done()
	}
}

// tellExpired tells of fragments that waited in vain. Upkeep calls it.
func (e *Engine) tellExpired(why Reason, n uint64) {
	for _, s := range e.tracing.Load().all {
		walk := traceWalk{kind: traceRefused, at: e.cfg.Clock(), view: e.view.Load(), worker: -1, in: HostPort, n: n, drops: 1, fate: Dropped}
		walk.why[0] = why
		if s.filter.wantsRefused(&walk) {
			s.add(len(e.workers), &walk, nil, nil)
		}
	}
}
