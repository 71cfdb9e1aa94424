package dataplane

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/frag"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/internal/keep"
	"example.com/culvert/nat/ports"
)

// Host is what the engine needs of the gateway's own stack (dataplane/host). All
// methods but Port are called by workers: they copy into bounded rings, never block.
type Host interface {
	// DeliverLink hands over an ARP or neighbour-discovery frame received on
	// port id. It reports false when the ring is full.
	DeliverLink(id uint16, frame []byte) bool
	// Resolve asks for the link-layer address of addr on port id. The answer
	// comes back through Engine.NeighbourLearned, NeighbourAnnounced or NeighbourFailed.
	Resolve(id uint16, addr netip.Addr)
	// Owns reports whether a socket of an in-process service takes packets to
	// (proto, addr, port).
	Owns(proto uint8, addr tuple.Addr, port uint16) bool
	// Port carries IP packets between the engine and the stack.
	Port() port.Port
}

// Waiting says how a worker with nothing to do waits for packets.
type Waiting uint8

const (
	WaitAuto       Waiting = iota // sleep when idle, spin briefly after packets, nap under load
	WaitLatency                   // spin as long as nobody else wants the CPU
	WaitThroughput                // nap under any load
)

// Config makes an Engine. Table is required.
type Config struct {
	Workers    int              // 1..; default 1
	PinCPUs    []int            // CPU of worker i is PinCPUs[i%len], with CrewByLoad while all of them work; empty: not pinned
	Crew       Crew             // how many workers get packets
	Waiting    Waiting          // see the constants
	Table      *conntrack.Table // made for the same number of workers
	Host       Host             // nil: no own stack (some tests)
	Neighbours int              // most neighbours kept; default 16384
	ICMPRate   int              // own ICMP errors and resets a second; 0: default 1000, negative: no limit
	Pending    int              // most packets of a worker that wait for neighbours; default 256
	Fragments  frag.Config      // bounds of the fragment table
	Memory     keep.Memory      // as conntrack.Config.Memory, for ports; nil: they end with the process
	Clock      func() int64     // boot clock, ns; nil: the system's
	Wall       func() time.Time // for rules with hours and weekdays; nil: the system's
	RuleLog    func(RuleLine)   // gets what rules log; called from several goroutines; nil: nobody does
	Seed       uint64           // for port choices; 0: random

	Helpers *alg.Set // nil: no helpers
	// Helper gives a flow that no rule gives one a helper, by its number in Helpers, or
	// 0. Nil: no flow has one but for rules. t is what its first packet came with.
	Helper func(t tuple.Tuple) uint32
}

// Engine runs packets between ports. Create it with New, give it a State with
// Apply, then Start it, or drive its workers by hand (Worker, Step) in tests.
type Engine struct {
	cfg           Config
	clock         *clock
	table         *conntrack.Table
	leases        *ports.Set // of external ports
	refusals      chan Refusal
	host          Host
	neigh         *route.Neighbours
	helpers       helpers
	calls         calls
	seed          maphash.Seed // of askers, and of the ways of flows
	frags         *frag.Table
	view          atomic.Pointer[view]
	tracing       atomic.Pointer[tracing] // who watches
	workers       []*Worker
	steering      steering
	icmp          rateLimit
	fragmentsLost atomic.Uint64 // held, and ended by expireFragments

	senders map[senderKey]port.Sender // guarded by mu

	ending  sync.Mutex // serializes End
	tracers sync.Mutex // serializes changes of tracing
	mu      sync.Mutex // serializes Apply, Start and Stop
	running atomic.Bool
	stop    atomic.Bool
	quit    chan struct{} // ends upkeep

	done sync.WaitGroup
}

// New makes an engine without ports. Nothing runs until Start.
func New(cfg Config) (*Engine, error) {
	if cfg.Table == nil {
		return nil, errors.New("dataplane: Config.Table is missing")
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 1
	}
	if cfg.Neighbours <= 0 {
		cfg.Neighbours = 16384
	}
	if cfg.Pending <= 0 {
		cfg.Pending = 256
	}
	if cfg.ICMPRate == 0 {
		cfg.ICMPRate = 1000
	}
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	leases, err := ports.New(cfg.Table.Max(), cfg.Memory)
	if err != nil {
		return nil, err
	}
	c := newClock()
	if cfg.Clock == nil {
		cfg.Clock = c.now
	}
	e := &Engine{
		cfg:      cfg,
		clock:    c,
		table:    cfg.Table,
		leases:   leases,
		refusals: make(chan Refusal, refusalRoom),
		host:     cfg.Host,
		frags:    frag.New(cfg.Fragments),
		neigh:    route.NewNeighbours(cfg.Neighbours),
		seed:     maphash.MakeSeed(),
		senders:  make(map[senderKey]port.Sender),
	}
	e.steering.working.Store(int32(cfg.Workers))
	if cfg.Crew == CrewByLoad {
		e.steering.working.Store(1)
	}
	cfg.Table.OnEnd(e.flowEnded)
	cfg.Table.OnExpectEnd(e.expectOver)
	e.icmp.init(cfg.ICMPRate)
	e.helpers.init(&cfg)
	e.neigh.OnReplace(e.resolved)
	e.view.Store(emptyView(cfg.Workers))
	e.tracing.Store(&tracing{})
	if err := e.calls.init(cfg.Table); err != nil {
		e.Close()
		return nil, err
	}
	for i := range cfg.Workers {
		w, err := newWorker(e, i)
		if err != nil {
			e.Close()
			return nil, err
		}
		e.workers = append(e.workers, w)
	}
	return e, nil
}

// Table returns the connection-tracking table.
func (e *Engine) Table() *conntrack.Table { return e.table }

// Neighbours returns the neighbour table.
func (e *Engine) Neighbours() *route.Neighbours { return e.neigh }

// Worker returns worker i, for tests that drive the engine by hand.
func (e *Engine) Worker(i int) *Worker { return e.workers[i] }

// Workers returns how many workers there are.
func (e *Engine) Workers() int { return len(e.workers) }

// Now returns the engine's clock, ns.
func (e *Engine) Now() int64 { return e.cfg.Clock() }

// Start runs the workers, each on a thread of its own.
func (e *Engine) Start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running.Swap(true) {
		return errors.New("dataplane: already running")
	}
	// Workers hold a P each while busy; the control side needs some too.
	if want := len(e.workers) + 2; runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	e.table.StartClock(tickAt(e.cfg.Clock()))
	e.stop.Store(false)
	e.quit = make(chan struct{})
	for _, w := range e.workers {
		e.done.Add(1)
		go w.run()
	}
	if e.cfg.RuleLog != nil {
		for i := range e.workers {
			e.done.Add(1)
			go e.tellRules(i)
		}
	}
	if e.cfg.Crew == CrewByLoad && len(e.workers) > 1 {
		e.done.Add(1)
		go e.steerByLoad()
	}
	e.done.Add(1)
	go e.upkeep()
	return nil
}

// Stop ends the workers after their current batch and waits for them.
func (e *Engine) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running.Load() {
		return
	}
	e.stop.Store(true)
	close(e.quit)
	for _, w := range e.workers {
		w.wake()
	}
	e.done.Wait()
	e.running.Store(false)
}

// Close stops the engine and frees what it took. Ports stay open. No flow of the
// table may end after that.
func (e *Engine) Close() {
	e.Stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.helpers.shut.Do(func() { close(e.helpers.log) })
	e.closeSenders(emptyView(0))
	for _, w := range e.workers {
		w.close()
	}
	_ = e.leases.Close() // address space
	close(e.refusals)
}

// Apply makes st the state that new packets meet: when it returns, every worker
// has finished the batches it began under the old one, so ports that are no
// longer in st may be closed. A State that cannot be is refused and changes nothing.
func (e *Engine) Apply(st State) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.view.Load()
	v, err := e.newView(st, old.gen+1)
	if err != nil {
		return err
	}
	if err := e.direct(v, old); err != nil {
		return err
	}
	if err := e.publish(old, v); err != nil {
		return err
	}
	e.settle(v.gen)
	e.retire(old, v)
	return nil
}

// publish makes v the view of new batches.
func (e *Engine) publish(old, v *view) error {
	for id, p := range old.ports {
		if p != nil && !p.sameLink(v.portOf(uint16(id))) {
			e.neigh.Forget(uint16(id))
		}
	}
	for id, p := range v.ports {
		if p != nil && p.pointToPoint && uint16(id) != HostPort && !e.neigh.Static(uint16(id), tuple.Addr{}, [6]byte{}) {
			return portError(id, p.name, "no room in the neighbour table")
		}
	}
	v.ledger.Carry(old.ledger)
	e.view.Store(v)
	if !v.leadsAs(old) {
		e.neigh.Invalidate() // every cached next hop is chosen anew
	}
	return nil
}

// retire cleans up after the last batch under the old view. In it, after
// publish, a worker may have cached a next hop of the old routes, or asked for a
// neighbour on an old port.
func (e *Engine) retire(old, v *view) {
	v.ledger.Carry(old.ledger) // with those of the last batch
	for id, p := range old.ports {
		if p != nil && v.portOf(uint16(id)) == nil {
			e.neigh.Forget(uint16(id))
		}
	}
	if !v.leadsAs(old) {
		e.neigh.Invalidate()
	}
	for _, w := range e.workers {
		w.pending.resolved() // packets for neighbours that were forgotten
		w.wake()             // it sleeps on the old ports
	}
	e.closeSenders(v)
}

// closeSenders closes the extra senders of ports that are not in v. No worker
// uses them any more.
func (e *Engine) closeSenders(v *view) {
	for key, s := range e.senders {
		if v.has(key.port) {
			continue
		}
		if c, ok := s.(port.Closer); ok {
			_ = c.Close() // nothing was queued, and nobody could do anything about it
		}
		delete(e.senders, key)
	}
}

// settle waits until no worker uses a view older than gen.
func (e *Engine) settle(gen uint32) {
	for _, w := range e.workers {
		for e.running.Load() && !w.past(gen) {
			w.wake()
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// NeighbourLearned records an answer of the host stack and lets waiting packets go.
func (e *Engine) NeighbourLearned(id uint16, addr tuple.Addr, mac [6]byte) {
	if _, ok := e.neigh.Learn(id, addr, mac, e.cfg.Clock()); ok {
		e.resolved()
	}
}

// NeighbourAnnounced records an address that its owner announced without being
// asked. It is used at once, a router that takes over says no more; but anybody
// on the link can say so, therefore it is verified as soon as packets go there.
func (e *Engine) NeighbourAnnounced(id uint16, addr tuple.Addr, mac [6]byte) {
	if _, ok := e.neigh.Learn(id, addr, mac, e.cfg.Clock()-int64(neighbourAge)-1); ok {
		e.resolved()
	}
}

// NeighbourFailed records that nobody answered for addr.
func (e *Engine) NeighbourFailed(id uint16, addr tuple.Addr) {
	if _, ok := e.neigh.Fail(id, addr); ok {
		e.resolved()
	}
}

func (e *Engine) resolved() {
	for _, w := range e.workers {
		w.pending.resolved()
		w.wake()
	}
}

// neighbourAge is how long a neighbour in use is trusted without confirmation.
const neighbourAge = 30 * time.Second // RFC 4861 section 10: REACHABLE_TIME

// upkeep has neighbours in use verified.
func (e *Engine) upkeep() {
	defer e.done.Done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-e.quit:
			return
		case <-tick.C:
		}
		e.clock.sync()
		e.expireFragments()
		e.helpers.expire(e.table)
		e.calls.expire(e.table)
		e.verifyNeighbours()
	}
}

// verifyNeighbours has the host stack ask again for the neighbours that packets
// went to and that were not confirmed lately.
func (e *Engine) verifyNeighbours() {
	if e.host != nil {
		e.neigh.Upkeep(e.cfg.Clock()-int64(neighbourAge), func(id uint16, a tuple.Addr) { e.host.Resolve(id, a.Netip()) })
	}
}

// expireFragments ends datagrams whose first fragment never came and counts what
// they held.
func (e *Engine) expireFragments() {
	e.frags.Expire(e.cfg.Clock())
	for r, n := range e.frags.TakeLost() {
		if n > 0 {
			e.workers[0].drops[ofFragment[r]].Add(n)
			e.fragmentsLost.Add(n)
			e.tellExpired(ofFragment[r], n)
		}
	}
}

// portError names the port in an error of Apply.
func portError(id int, name string, format string, args ...any) error {
	return fmt.Errorf("port %d (%s): %w", id, name, fmt.Errorf(format, args...))
}
