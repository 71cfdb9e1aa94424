package dataplane

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// Batch is how many packets a worker takes from a queue at once. 64 was the
// knee of the curve: 12 ns a packet in the table at 100 k flows against 23 ns
// with 16, and no better with 256.
const Batch = 64

// Worker moves the packets of one queue index of every port, on one thread.
// Everything it touches for a packet is here, made once.
type Worker struct {
	e     *Engine
	index int
	ct    *conntrack.Worker

	// The batch in hand.
	v    *view
	page *rules.Page    // of v's ledger
	now  int64          // boot clock, ns, read once a batch
	tick conntrack.Tick // the same for the table
	pkts [Batch]packet.Packet
	keys [Batch]tuple.Tuple
	refs [Batch]conntrack.Ref
	live [Batch]uint8 // indexes into pkts of keys and refs

	pending   pending
	endings   chan ending      // filled by Engine.End
	unended   atomic.Int64     // of these, those that have not ended yet
	scratch   packet.Packet    // ICMP errors, resets, fragments and segments are built here
	out       []byte           // memory of frames made here, see arena
	used      int              // of out, since the last flush
	held      packet.Packet    // a packet that waited, on its way again
	pieces    [2]packet.Packet // segment, and fragment of one, being sent
	decision  rules.Decision   // about the packet in hand, from the pre list on
	herald    herald           // what the parser in hand asks
	edited    packet.Packet    // takes the place of one that a helper changed
	edits     []byte           // memory of such packets, see editBuffer
	editsUsed int              // of edits
	text      []byte           // what sessions of helpers return
	claimed   uint32           // slot of the entry that the packet in hand has made: undo may take it back
	rnd       *rand.PCG
	first     first // flow that the packet in hand begins
	hops      lastHops
	refusals  refusals
	binding   binding                      // for it
	blocks    [ports.MaxBlocks]ports.Block // of its client
	dirty     []port.Sender                // senders with queued frames
	exit      exit                         // of the last packet that took the express walk, since the last flush
	sleep     waiter

	tracing *tracing       // of the last batch
	trace   *tracer        // nil: nobody watches
	applied *[]*rules.Rule // what it notes of the decision in hand, or nil

	seen    atomic.Uint32 // generation of the view of the last batch
	watched atomic.Uint32 // generation of tracing
	thread  atomic.Int32  // that it runs on, 0 before it runs
	asleep  atomic.Bool   // not in a batch: counts as past every generation
	rounds  atomic.Uint64 // batches begun, empty ones too: see Engine.Stuck
	drops   [numReasons]atomic.Uint64
	ended   [conntrack.NumCauses]atomic.Uint64
	tally   tally
	counter counters
}

// counters of a worker. Only the worker writes them, seldom more than once a batch.
type counters struct {
	received, forwarded, delivered, originated atomic.Uint64
	held, resumed, joined                      atomic.Uint64
	noticed                                    atomic.Uint64
	bytes                                      atomic.Uint64
	load                                       load
}

// count adds to a counter that has one writer. An atomic store is a locked
// instruction on amd64: not for every packet.
func count(c *atomic.Uint64, n uint64) { c.Store(c.Load() + n) }

// tally counts the packets of a batch; flush publishes it.
type tally struct{ forwarded, delivered, bytes uint64 }

func (w *Worker) publish() {
	if w.tally == (tally{}) {
		return
	}
	count(&w.counter.forwarded, w.tally.forwarded)
	count(&w.counter.delivered, w.tally.delivered)
	count(&w.counter.bytes, w.tally.bytes)
	w.tally = tally{}
}

func newWorker(e *Engine, index int) (*Worker, error) {
	w := &Worker{e: e, index: index, ct: e.table.Worker(index), tracing: e.tracing.Load()}
	seed := e.cfg.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	w.rnd = rand.NewPCG(seed, uint64(index))
	w.out = make([]byte, arenaSize)
	w.endings = make(chan ending, endingQueue)
	if err := w.pending.init(e.cfg.Pending); err != nil {
		return nil, err
	}
	if err := w.sleep.init(e.cfg.Waiting); err != nil {
		w.pending.close()
		return nil, err
	}
	w.asleep.Store(true)
	return w, nil
}

// maxFrame is the longest frame that can be in hand: a 64 KB IP packet with its
// link-layer header.
const maxFrame = 65535 + 32

// arenaSize: half of it holds the longest segment and its fragments.
const arenaSize = 4 * (packet.Headroom + maxFrame)

func (w *Worker) close() {
	w.sleep.close()
	w.pending.close()
}

// wake ends the worker's sleep, if any.
func (w *Worker) wake() { w.sleep.wake() }

// past reports whether w no longer uses views older than gen.
func (w *Worker) past(gen uint32) bool {
	return int32(w.seen.Load()-gen) >= 0 || w.asleep.Load()
}

// run is the life of a worker started by Engine.Start.
func (w *Worker) run() {
	defer w.e.done.Done()
	runtime.LockOSThread() // for good: the thread's affinity and name are changed
	w.nameThread()
	w.thread.Store(int32(unix.Gettid()))
	if w.e.cfg.Crew == CrewAll {
		w.place(apart)
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // naps of 30 us become 80 otherwise
	now := w.e.cfg.Clock()
	for !w.e.stop.Load() {
		n, began := w.Step(now), now
		now = w.e.cfg.Clock()
		if n > 0 {
			w.counter.load.spent(now - began)
		}
		if n == 0 && w.ct.Behind() {
			continue // nothing to forward: the time is for flows that have expired
		}
		if w.sleep.wait(w, n, began) {
			now = w.e.cfg.Clock()
		}
	}
	w.thread.Store(0)
	w.park()
}

// Step takes at most one batch from each of the worker's queues, at time now
// (boot clock, ns), and returns how many packets it handled and flows it ended for
// Engine.End. It never blocks. Only the worker's own goroutine may call it.
func (w *Worker) Step(now int64) int {
	w.begin(now)
	total := 0
	if w.index < len(w.v.sources) {
		for _, s := range w.v.sources[w.index] {
			n := s.q.Recv(w.pkts[:])
			if n == 0 {
				continue
			}
			total += n
			if w.trace == nil {
				w.batch(s, n)
			} else {
				w.trace.batch(s, n)
			}
			w.flush()
			s.q.Release()
		}
	}
	if w.pending.due() {
		w.retry()
		w.flush()
	}
	if len(w.endings) > 0 {
		total += w.endFlows()
		w.flush()
	}
	return total
}

// begin opens a batch: one clock, one view, one epoch.
func (w *Worker) begin(now int64) {
	w.asleep.Store(false)
	count(&w.rounds, 1)
	w.v = w.e.view.Load()
	w.seen.Store(w.v.gen)
	if on := w.e.tracing.Load(); on != w.tracing {
		w.watch(on)
	}
	if w.trace != nil {
		w.v = w.trace.viewed(w.v)
	}
	w.now, w.tick = now, tickAt(now)
	w.page = w.v.ledger.Page(w.index)
	w.page.Begin(now, w.e.cfg.Wall)
	w.ct.Begin(w.tick)
	w.e.leases.Sweep(ports.Tick(w.tick))
	w.counter.load.holds(len(w.pending.queue))
}

// tickAt converts boot-clock nanoseconds to the table's unit.
func tickAt(now int64) conntrack.Tick {
	return conntrack.Tick(uint64(now) / uint64(conntrack.TickLength))
}

// park says that the worker holds nothing until its next Step.
func (w *Worker) park() {
	w.ct.Park()
	w.asleep.Store(true)
}

// flush sends what the batch queued. A frame refused here was counted as
// forwarded; its Reason tells where it went.
func (w *Worker) flush() {
	for i, s := range w.dirty {
		refused := s.Flush()
		for st, n := range refused {
			if n == 0 || port.Status(st) == port.Sent {
				continue
			}
			why := ofStatus[st]
			w.drops[why].Add(uint64(n))
			w.refused(s, why, uint64(n))
		}
		w.dirty[i] = nil
	}
	w.dirty, w.exit = w.dirty[:0], exit{}
	w.used = 0
	w.publish()
}

// send queues p on s.
func (w *Worker) send(s port.Sender, p *packet.Packet) port.Status {
	st := s.Send(p)
	w.toFlush(s)
	return st
}

// toFlush has the next flush end what is queued on s.
func (w *Worker) toFlush(s port.Sender) {
	if !slices.Contains(w.dirty, s) {
		w.dirty = append(w.dirty, s)
	}
}

// drop counts a packet that goes no further.
func (w *Worker) drop(why Reason) {
	w.drops[why].Add(1)
	if w.trace != nil {
		w.trace.drop(why)
	}
}

// place lets the worker's thread run on one of Config.PinCPUs, or on all of them.
func (w *Worker) place(p placing) {
	cpus := w.e.cfg.PinCPUs
	tid := w.thread.Load()
	if len(cpus) == 0 || tid == 0 {
		return
	}
	if p == apart {
		cpus = cpus[w.index%len(cpus):][:1]
	}
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	_ = unix.SchedSetaffinity(int(tid), &set) // CPUs that are not ours: run where we may
}

// nameThread gives the worker's thread its name, for top -H and debuggers.
func (w *Worker) nameThread() {
	if name, err := unix.BytePtrFromString(w.String()); err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0) // cannot fail but for a bad address
	}
}

func (w *Worker) String() string { return fmt.Sprintf("worker %d", w.index) }
