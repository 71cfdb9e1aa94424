package conntrack

import (
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Table is a set of flows. Its own methods may be called from any goroutine;
// packets go through a Worker.
type Table struct {
	cfg    Config
	limits tcpLimits
	onEnd  func(*Entry, Tick) // nil: nobody wants to know
	onOver func(*Over, Tick)  // nil: nobody wants to know
	idle   idleTicks

	policies atomic.Pointer[policies] // number 0 is the table's own

	index   index
	entries []Entry     // by slot; slot 0 is never used
	exts    []extension // by Entry.ext; 0 is never used
	due     []uint32    // by slot: no later than the deadline; 0: not confirmed
	slots   pool
	extPool pool
	mem     [][]byte

	epochs  *epochs
	readers chan int // free seats for goroutines that are not workers
	workers []*Worker
	control control
	expects expects
	clients clients
	toward  toward
	grower  grower
	ids     ids
	owner   []uint32 // by slot: the client
	rules   []uint32 // by slot: generation of the rules that admitted the flow
	stamps  []uint64 // by slot: see stamp
	shares  shares

	keptPolicies []Timeouts // what a successor reads of policies; nil without Config.Memory

	baselines []baseline  // by slot: what ZeroFrom has told
	zeroed    atomic.Bool // it was called, ever

	_    [64]byte
	live atomic.Int64 // entries in the index
	_    [56]byte
	scan atomic.Uint64 // chunks of slots looked at for expiry, ever
	_    [56]byte

	clock    atomic.Uint64 // latest tick of any worker, above it how often ticks wrapped, and clockValid
	stepped  atomic.Int64  // ns by which wall-clock time has moved against Config.Base
	scanTick atomic.Uint64 // tick at which scanGoal was last set, and clockValid
	scanGoal atomic.Uint64 // chunks the sweep should have looked at, times sweepTicks
	events   pump
	closed   sync.Once
}

const (
	readerSeats = 16   // dumps and commands at the same time
	slotSlack   = 4096 // slots beyond Max: caches and entries waiting for their epoch
)

// idleTicks are the timeouts in ticks.
type idleTicks struct {
	tcp            [numTCPStates]Tick
	retrans, unack Tick
	udp, udpStream Tick
	gre, greStream Tick
	sctp           [numSCTPStates]Tick
	dccp           [numDCCPStates]Tick
	icmp, icmpv6   Tick
	generic        Tick
}

// New makes an empty table. It reserves address space for Config.Max flows;
// memory is used as flows come.
func New(cfg Config) (*Table, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Table{cfg: cfg, idle: cfg.Timeouts.ticks(), limits: cfg.tcpLimits()}
	t.policies.Store(&policies{[]Timeouts{cfg.Timeouts}, []idleTicks{t.idle}})
	t.expects.max = cfg.MaxExpect
	if t.index, err = newIndex(newHashKey(cfg.Key), cfg.Max); err != nil {
		return nil, err
	}
	t.mem = append(t.mem, t.index.mem)
	if err := t.allocate(cfg.Max + cfg.Max/8 + slotSlack + (cfg.Workers+1)*(4*refillCount+maxDying)); err != nil {
		return nil, errors.Join(err, t.free())
	}
	t.ids = newIDs(t.index.key, t.slots.limit, cfg.SlotBits)

	t.grower.start(t)
	t.epochs = newEpochs(cfg.Workers + readerSeats)
	t.readers = make(chan int, readerSeats)
	for i := range readerSeats {
		t.readers <- cfg.Workers + i
	}
	t.events.init(t, cfg.Workers+1)
	t.workers = make([]*Worker, cfg.Workers)
	for i := range t.workers {
		t.workers[i] = &Worker{seat: i}
		t.workers[i].init(t, i)
	}
	t.control.init(t, cfg.Workers)
	go t.events.run()
	return t, nil
}

// allocate makes the arrays for n slots.
func (t *Table) allocate(n int) error {
	var err error
	if t.entries, err = keptArray[Entry](t, entriesName, n+1); err != nil {
		return err
	}
	if t.exts, err = keptArray[extension](t, extsName, n+1); err != nil {
		return err
	}
	if t.due, err = keptArray[uint32](t, dueName, n+1); err != nil {
		return err
	}
	if err := t.keep(); err != nil {
		return err
	}
	if t.slots.link, err = newArray[uint32](t, n+1); err != nil {
		return err
	}
	if t.extPool.link, err = newArray[uint32](t, n+1); err != nil {
		return err
	}
	if t.owner, err = newArray[uint32](t, n+1); err != nil {
		return err
	}
	if t.rules, err = newArray[uint32](t, n+1); err != nil {
		return err
	}
	if t.baselines, err = newArray[baseline](t, n+1); err != nil {
		return err
	}
	if t.stamps, err = newArray[uint64](t, n+1); err != nil {
		return err
	}
	if t.cfg.Sockets == SocketsCounted {
		cells, err := newArray[uint32](t, towardCells(t.cfg.Max))
		if err != nil {
			return err
		}
		t.toward.init(cells, t.index.key)
		populate(bytesOf(cells))
	}
	count := clientCount(t.cfg.Max)
	if t.clients.recs, err = newArray[client](t, count); err != nil {
		return err
	}
	t.clients.shift = uint(64 - bits.Len(uint(count/clientWays-1)))
	populate(t.index.mem)
	populate(bytesOf(t.clients.recs))
	follow(&t.grower, t.entries)
	follow(&t.grower, t.due)
	follow(&t.grower, t.slots.link)
	follow(&t.grower, t.owner)
	follow(&t.grower, t.rules)
	if t.cfg.Timestamp { // every flow has an extension
		follow(&t.grower, t.exts)
		follow(&t.grower, t.extPool.link)
	}
	t.shares.alarms = make(chan Alarm, 2*len(alarmPercents))
	t.shares.flows.Store(unlimited)
	t.shares.half.Store(unlimited)
	t.shares.rate.Store(unlimited)
	t.slots.limit, t.extPool.limit = uint32(n), uint32(n)
	return nil
}

// newArray makes n zero elements that live as long as t. T has no pointers.
func newArray[T any](t *Table, n int) ([]T, error) {
	var zero T
	mem, err := newMemory(n * int(unsafe.Sizeof(zero)))
	if err != nil {
		return nil, err
	}
	t.mem = append(t.mem, mem)
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), n), nil
}

// Close ends event delivery, closes all subscriptions and releases the memory.
// Workers must have stopped and no other method may be running or follow.
func (t *Table) Close() error {
	var err error
	t.closed.Do(func() {
		t.grower.stop()
		t.events.stop()
		close(t.shares.alarms)
		err = t.free()
	})
	return err
}

func (t *Table) free() error {
	var errs []error
	for _, mem := range t.mem {
		errs = append(errs, freeMemory(mem))
	}
	t.mem = nil
	return errors.Join(errs...)
}

// OnEnd has f called once for each entry that ends, however it does: by expiry,
// early drop, command, or because its first packet did not leave (Abort). Both
// tuples are free then. f runs wherever the entry ended, on any goroutine and
// without a lock but that of commands, must not keep the entry, and must not call
// methods of the table but Taken. OnEnd must be called before the first packet.
func (t *Table) OnEnd(f func(e *Entry, now Tick)) { t.onEnd = f }

// Taken reports whether some entry has tuple k in either direction. It counts as
// no lookup. The caller is a worker in a batch, or OnEnd.
func (t *Table) Taken(k *tuple.Tuple) bool {
	return t.index.find(t.entries, k, t.index.key.tuple(k)) != 0
}

// Worker returns the handle of worker i, 0 <= i < Config.Workers. One
// goroutine at a time may use it.
func (t *Table) Worker(i int) *Worker { return t.workers[i] }

// Entry returns the record of a slot that the caller got in its current epoch:
// a worker since its last Begin.
func (t *Table) Entry(slot uint32) *Entry { return &t.entries[slot] }

// Len returns the number of flows, those whose first packet still waits included.
func (t *Table) Len() int { return int(t.live.Load()) }

// Max returns the number of flows the table can hold.
func (t *Table) Max() int { return t.cfg.Max }

// Now returns the latest tick at which a worker began a batch, or that of
// StartClock; 0 before either.
func (t *Table) Now() Tick { return Tick(t.clock.Load()) }

// StartClock tells the time before the first worker begins a batch: what commands
// make until then would have begun at tick 0, long expired.
func (t *Table) StartClock(now Tick) { t.advance(now) }

// clockValid is set in Table.clock once it holds a tick.
const clockValid = 1 << 63

// advance takes note of a worker's time. Once a second it compares the wall clock: a
// machine without a battery learns the time long after its gateway has started.
func (t *Table) advance(now Tick) {
	c := t.clock.Load()
	next := clockValid | uint64(now)
	if c&clockValid != 0 {
		passed := now.Sub(Tick(c))
		if passed <= 0 {
			return
		}
		next = c + uint64(passed) // carries into the count of wraps
	}
	if t.clock.CompareAndSwap(c, next) && t.cfg.Wall != nil && c/secondTicks != next/secondTicks {
		t.stepped.Store(int64(t.cfg.Wall().Sub(t.cfg.Base.Add(elapsed(next)))))
	}
}

// elapsed returns the time from tick 0 of the first turn to what a clock shows.
func elapsed(clock uint64) time.Duration { return time.Duration(clock&^clockValid) * TickLength }

// Time converts a tick near the present to wall-clock time.
func (t *Table) Time(at Tick) time.Time {
	c := t.clock.Load()
	if c&clockValid == 0 {
		return t.cfg.Base.Add(at.Duration())
	}
	since := elapsed(c) + time.Duration(at.Sub(Tick(c)))*TickLength
	return t.cfg.Base.Add(since + time.Duration(t.stepped.Load()))
}

// Stats are the counters of conntrack -S.
type Stats struct {
	Found        uint64 // lookups that found an entry
	Invalid      uint64 // packets a tracker refused
	Insert       uint64 // flows confirmed
	InsertFailed uint64 // claims that found a tuple taken
	Drop         uint64 // claims refused for lack of room
	EarlyDrop    uint64 // entries evicted to make room
	Error        uint64 // not used by this package
	Restart      uint64 // stale entries a new connection replaced
	ClashResolve uint64 // claims lost to a packet of the same flow
	ChainTooLong uint64 // claims whose buckets were full
	Expired      uint64 // entries that timed out
	Deleted      uint64 // entries deleted by command
	TableFull    uint64 // claims refused because the table was full
	ClientFull   uint64 // claims refused because the client was above its share
}

// statCount is the number of counters in Stats.
const statCount = int(unsafe.Sizeof(Stats{}) / 8)

// Stats returns the sum over all workers.
func (t *Table) Stats() Stats {
	var sum Stats
	for i := range t.workers {
		add(&sum, &t.workers[i].stats)
	}
	add(&sum, &t.control.stats)
	return sum
}

// WorkerStats returns the counters of each worker, for conntrack -S. What
// commands did is counted with the first.
func (t *Table) WorkerStats() []Stats {
	all := make([]Stats, len(t.workers))
	for i := range t.workers {
		add(&all[i], &t.workers[i].stats)
	}
	add(&all[0], &t.control.stats)
	return all
}

// add adds the counters of from, which may be moving, to sum.
func add(sum, from *Stats) {
	to := (*[statCount]uint64)(unsafe.Pointer(sum))
	f := (*[statCount]uint64)(unsafe.Pointer(from))
	for i := range f {
		to[i] += word.Load64(&f[i])
	}
}

// ticks converts to the table's unit.
func (t *Timeouts) ticks() idleTicks {
	var i idleTicks
	for s, d := range t.TCP {
		i.tcp[s] = Ticks(d)
	}
	i.retrans, i.unack = Ticks(t.TCPRetrans), Ticks(t.TCPUnacked)
	i.udp, i.udpStream = Ticks(t.UDP), Ticks(t.UDPStream)
	i.gre, i.greStream = Ticks(t.GRE), Ticks(t.GREStream)
	for s, d := range t.SCTP.byState() {
		i.sctp[s] = Ticks(d)
	}
	for s, d := range t.DCCP.byState() {
		i.dccp[s] = Ticks(d)
	}
	i.icmp, i.icmpv6 = Ticks(t.ICMP), Ticks(t.ICMPv6)
	i.generic = Ticks(t.Generic)
	return i
}

// initial returns the timeout of a flow before its first packet was tracked.
func (i *idleTicks) initial(proto uint8) Tick {
	switch proto {
	case tuple.TCP:
		return i.tcp[SynSent]
	case tuple.UDP, tuple.UDPLite:
		return i.udp
	case tuple.ICMP:
		return i.icmp
	case tuple.ICMPv6:
		return i.icmpv6
	case tuple.GRE:
		return i.gre
	case tuple.SCTP:
		return i.sctp[SCTPClosed-sctpBase]
	case tuple.DCCP:
		return i.dccp[DCCPRequested-dccpBase]
	}
	return i.generic
}
