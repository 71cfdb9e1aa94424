package dataplane

import (
	"math/bits"
	"sync/atomic"
	"time"

	"example.com/culvert/dataplane/port"
)

// Bounds of the histograms of a worker. Each bucket but the last is twice as wide as
// the one before it.
const (
	sizeBuckets = 7  // packets of a batch: 1, 2, 4, ... 64
	spanBuckets = 16 // time of a step: 1.024 us, 2.048 us, ... 16.8 ms, longer
	spanShift   = 10 // the first bound is 1 << spanShift ns
)

var _ [sizeBuckets]struct{} = [bitsOfBatch + 1]struct{}{}

const bitsOfBatch = 6 // Batch is 1 << bitsOfBatch

var _ [1 << bitsOfBatch]struct{} = [Batch]struct{}{}

// load says how much a worker has to do. Only the worker writes it, once a batch.
type load struct {
	sizes [sizeBuckets]atomic.Uint64 // batches by their packets
	spans [spanBuckets]atomic.Uint64 // steps by their time
	busy  atomic.Uint64              // ns in steps that handled something

	waiting atomic.Int64 // packets that wait for a neighbour, when the last batch began
}

// took counts a batch of n packets, 1 <= n <= Batch.
func (l *load) took(n int) { count(&l.sizes[bits.Len(uint(n-1))], 1) }

// spent counts a step of a worker that handled something and took so many ns.
func (l *load) spent(ns int64) {
	ns = max(ns, 0)
	count(&l.spans[min(bits.Len64(uint64(ns)>>spanShift), spanBuckets-1)], 1)
	count(&l.busy, uint64(ns))
}

// holds takes note of how many packets wait for neighbours.
func (l *load) holds(n int) {
	if int64(n) != l.waiting.Load() {
		l.waiting.Store(int64(n))
	}
}

func (l *load) batches() (n uint64) {
	for i := range l.sizes {
		n += l.sizes[i].Load()
	}
	return n
}

// Histogram counts values up to rising bounds. Values above the last one are in Count
// alone.
type Histogram struct {
	Bounds []float64 // of the values, upper, inclusive
	Counts []uint64  // values up to a bound, those up to a lower one included
	Count  uint64
	Sum    float64
}

func cumulate(counts []atomic.Uint64, bounds []float64, sum float64) Histogram {
	h := Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)), Sum: sum}
	for i := range counts {
		h.Count += counts[i].Load()
		if i < len(bounds) {
			h.Counts[i] = h.Count
		}
	}
	return h
}

var sizeBounds, spanBounds = func() (sizes, spans []float64) {
	for i := range sizeBuckets {
		sizes = append(sizes, float64(int(1)<<i))
	}
	for i := range spanBuckets - 1 {
		spans = append(spans, float64(int(1)<<(spanShift+i))/1e9)
	}
	return sizes, spans
}()

// WorkerStats are the counters of one worker.
type WorkerStats struct {
	port.Stats               // of its queues of all ports that are open
	Received   uint64        // packets, those of the own stack and kernel included
	Forwarded  uint64        // packets sent out of a port
	Bytes      uint64        // of IP packets forwarded or delivered
	Busy       time.Duration // in steps that handled packets
	Stalls     uint64        // how often it began no batch for StillAfter; who looks at Engine.Still knows
	BatchSize  Histogram     // packets
	BatchTime  Histogram     // seconds from taking packets of the queues to having sent them
}

// WorkerStats returns the counters of each worker. Any goroutine may call it.
func (e *Engine) WorkerStats() []WorkerStats {
	all := make([]WorkerStats, len(e.workers))
	for i, w := range e.workers {
		c := &w.counter
		busy := c.load.busy.Load()
		all[i] = WorkerStats{
			Received:  c.received.Load(),
			Forwarded: c.forwarded.Load(),
			Bytes:     c.bytes.Load(),
			Busy:      time.Duration(busy),
			BatchSize: cumulate(c.load.sizes[:], sizeBounds, float64(c.received.Load())),
			BatchTime: cumulate(c.load.spans[:], spanBounds, float64(busy)/1e9),
		}
	}
	for _, p := range e.view.Load().ports {
		if p == nil || p.port == nil {
			continue
		}
		for i := range min(p.port.Info().NumQueues, len(all)) {
			all[i].Stats.Add(p.port.Queue(i).Stats())
		}
	}
	return all
}

// QueueLoad is how much waits in a queue of the engine.
type QueueLoad struct {
	Name   QueueName
	Length int
	Room   int // most that can wait
}

// QueueName names a queue of the engine.
type QueueName string

// Queues of an engine.
const (
	QueueNeighbour    QueueName = "neighbour"    // packets that wait for the address of a neighbour
	QueueEnding       QueueName = "ending"       // flows that are to be ended with notice
	QueueRefusal      QueueName = "refusal"      // flows without a port, to be logged
	QueueAnnouncement QueueName = "announcement" // flows that helpers announced, to be logged
	QueuePortBlock    QueueName = "port-block"   // blocks of ports, to be logged
	QueueNotice       QueueName = "port-notice"  // mappings and clients near their quota, to be exported
	QueueFragment     QueueName = "fragment"     // bytes of frames that wait for other fragments
)

// QueueLoads returns how full the queues are, those of all workers together.
func (e *Engine) QueueLoads() []QueueLoad {
	endings, waiting, n := 0, 0, len(e.workers)
	for _, w := range e.workers {
		endings += len(w.endings)
		waiting += int(w.counter.load.waiting.Load())
	}
	return []QueueLoad{
		{QueueNeighbour, waiting, n * (e.cfg.Pending + pendingBig)},
		{QueueEnding, endings, n * endingQueue},
		{QueueRefusal, len(e.refusals), cap(e.refusals)},
		{QueueAnnouncement, len(e.helpers.log), cap(e.helpers.log)},
		{QueuePortBlock, len(e.leases.Events()), cap(e.leases.Events())},
		{QueueNotice, len(e.leases.Notices()), cap(e.leases.Notices())},
		{QueueFragment, e.frags.Usage().Bytes, e.frags.Room()},
	}
}
