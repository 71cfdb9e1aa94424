package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/alg/registry"
	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/journal"
	"example.com/culvert/control/logging"
	"example.com/culvert/control/nsthread"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/host"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules/config"
)

// Gateway is one gateway. Its methods are safe for concurrent use.
type Gateway struct {
	opts    Options
	log     *slog.Logger
	ruleLog *slog.Logger     // of rules with a log
	own     *nsthread.Thread // in the namespace that New was called in
	started time.Time

	table  *conntrack.Table // these three are set by Start and live until Close
	helped bool             // the table counts sockets: the gateway started with helpers
	host   *host.Host
	engine *dataplane.Engine
	events *journal.Recorder
	keeper keeper // set by Start, too

	current    atomic.Pointer[active]     // what is in force; never nil
	server     atomic.Pointer[api.Server] // nil without a control interface
	pressure   pressure
	portWatch  portWatch
	loadWatch  loadWatch
	stillWatch stillWatch
	ending     chan struct{} // closed when the gateway is taken down

	mu          sync.Mutex // serializes everything that changes the gateway; guards the rest
	phase       phase
	cfg         *config.Config
	added       []config.Interface // at run time
	excluded    map[key]struct{}   // removed at run time
	spaces      map[string]*space
	ids         map[key]uint16
	ports       map[key]*openPort
	uplinks     map[key]*uplink
	routes      []route.Route // in force
	lastPlan    *plan         // that was carried out; nil before Start
	retry       *time.Timer   // nil unless something is to be tried again
	unsure      bool          // an interface is to be looked at, even if the kernel says nothing new
	services    services
	portService portService
	exports     exports
	heir        *heir // nil unless it takes over from another process
	handing     handing
	leaving     bool           // Close leaves all to another process
	tasks       sync.WaitGroup // goroutines of the gateway
}

// phase of a gateway's life.
type phase uint8

const (
	idle    phase = iota // made, owns nothing but its thread. May: Start, Close
	running              // packets flow. May: everything but Start
	left                 // another process goes on. May: Close
	closed               // nothing is left. May: Close again
)

// active is what is in force. Immutable.
type active struct {
	generation uint32
	cfg        *config.Config
	rules      int
	interfaces []boundInterface
	waiting    []string     // what keeps the gateway from being ready
	changes    *api.Changes // that the last reload made for live flows; nil: none
	origins    *origins     // of flows
}

// New makes a gateway for cfg in the network namespace of the calling thread. It
// touches nothing until Start. Close it even if it was never started.
func New(cfg *config.Config, opts Options) (*Gateway, error) {
	if len(cfg.Interfaces) == 0 {
		return nil, fmt.Errorf("configuration has no interface: %w", ErrRefused)
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	own, err := nsthread.Current()
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		opts:     opts,
		log:      opts.Log,
		ruleLog:  logging.For(opts.Log, logging.Rule),
		own:      own,
		cfg:      cfg,
		excluded: make(map[key]struct{}),
		spaces:   make(map[string]*space),
		ports:    make(map[key]*openPort),
		ending:   make(chan struct{}),
		uplinks:  make(map[key]*uplink),
		handing:  handing{over: make(chan struct{})},
	}
	g.current.Store(&active{cfg: cfg, waiting: []string{"not started"}, origins: &origins{}})
	return g, nil
}

// Start takes the interfaces and runs the gateway. When it returns packets flow.
// When it fails the gateway is closed and has left nothing behind.
func (g *Gateway) Start(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != idle {
		return errors.New("gateway was started before")
	}
	g.started = time.Now()
	if err := g.start(ctx); err != nil {
		g.phase = closed
		g.heir.fail(err)
		return errors.Join(err, g.services.close(ctx), g.exports.close(ctx), g.releaseLocked())
	}
	g.phase = running
	a := g.current.Load()
	g.log.Info("gateway is up", "name", a.cfg.Gateway.Name, "generation", a.generation,
		"interfaces", len(a.interfaces), "rules", a.rules)
	g.tell(g.opts.Notify.Ready(statusLine(a)))
	return nil
}

func (g *Gateway) start(ctx context.Context) error {
	if err := g.checkPrivileges(); err != nil {
		return err
	}
	if err := g.greet(); err != nil {
		return err
	}
	if err := g.listen(); err != nil { // first: it tells that another instance runs
		return err
	}
	build := g.build
	if g.heir != nil {
		build = func() (err error) {
			unhurried(func() { err = g.build() })
			return err
		}
	}
	if err := build(); err != nil {
		return err
	}
	if err := g.openSpaces(g.cfg); err != nil {
		return err
	}
	p, err := g.plan(g.cfg)
	if err != nil {
		return err
	}
	if len(p.absent) > 0 {
		return absentError(p.absent)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := g.reconcile(p, refuse); err != nil {
		return err
	}
	if err := g.recall(); err != nil {
		return err
	}
	exports, err := g.openExports(g.cfg)
	if err != nil {
		return err
	}
	g.useExports(exports)
	if err := g.takeOver(); err != nil {
		return err
	}
	g.recordToo()
	if err := g.engine.Start(); err != nil {
		return err
	}
	g.endLeft()
	if err := g.succeed(); err != nil {
		return err
	}
	if err := g.bequeath(); err != nil {
		return err
	}
	g.events.Begin()
	g.tasks.Go(g.followAlarms)
	g.tasks.Go(g.followRefusals)
	g.tasks.Go(g.followBlocks)
	g.tasks.Go(g.followNotices)
	g.tasks.Go(g.watchPorts)
	g.loadWatch.add(g.loadSample(time.Now()))
	g.tasks.Go(g.watchLoad)
	g.tasks.Go(g.watchWorkers)
	g.tasks.Go(g.watchMade)
	g.tasks.Go(g.followAnnouncements)
	g.serve()
	g.followAll()
	return nil
}

// build makes the parts that live as long as the gateway.
func (g *Gateway) build() (err error) {
	workers := workersOf(g.cfg)
	table := g.cfg.Conntrack.Table()
	table.Key, table.SlotBits = g.heir.secret()
	table.Workers = workers
	table.EventRing = g.cfg.Limits.EventRing
	table.Timestamp = table.Timestamp || len(g.cfg.FlowLogs) > 0 // for durations
	helpers := registry.New()
	table.HelperName = helpers.Name
	if g.helped = hasHelpers(g.cfg); !g.helped {
		table.Sockets = conntrack.SocketsUncounted // nobody announces any
	}
	if err = g.openTable(table, helpers); err != nil {
		return err
	}
	if g.events, err = g.record(); err != nil {
		return err
	}
	if g.host, err = host.New(host.Config{QueueLen: g.cfg.Limits.HostQueue, Neighbours: g.cfg.Limits.Neighbours, Log: logging.For(g.log, logging.Stack)}); err != nil {
		return fmt.Errorf("own stack: %w", err)
	}
	g.engine, err = dataplane.New(g.engineConfig(workers, helpers))
	return err
}

// Close ends the gateway in order: it stops accepting requests and packets, sends
// what is queued, and gives the interfaces back as on_exit says. When ctx ends
// first, requests that still run are cut off. Further calls do nothing. After an Upgrade
// it leaves to the other process what that one goes on with.
func (g *Gateway) Close(ctx context.Context) error {
	g.mu.Lock()
	before := g.phase
	g.phase, g.leaving = closed, before == left
	var err error
	if g.leaving {
		err = g.keeper.leave()
	}
	g.mu.Unlock()
	switch before {
	case closed:
		return nil
	case running:
		g.tell(g.opts.Notify.Stopping())
		g.log.Info("gateway ends")
	}
	err = errors.Join(err, g.services.close(ctx)) // without the lock: requests that wait for it must end
	err = errors.Join(err, g.exports.close(ctx))
	g.mu.Lock()
	err = errors.Join(err, g.releaseLocked())
	g.mu.Unlock()
	g.tasks.Wait()
	return err
}

// releaseLocked takes down whatever start got up, in reverse. g.mu must be held.
func (g *Gateway) releaseLocked() error {
	close(g.ending)
	if g.retry != nil {
		g.retry.Stop()
	}
	for _, u := range g.uplinks {
		u.stop()
	}
	var errs []error
	for name := range g.spaces {
		errs = append(errs, g.closeSpace(name))
	}
	g.portService.close(g.leaving)
	if g.engine != nil {
		g.engine.Close() // sends what workers have queued
	}
	for _, p := range g.ports {
		if _, provided := g.opts.Ports[p.name]; provided && g.leaving {
			p.port = nil
		}
		errs = append(errs, g.closePort(p))
	}
	clear(g.ports)
	if g.host != nil {
		errs = append(errs, g.host.Close())
	}
	if g.events != nil {
		errs = append(errs, g.events.Close())
	}
	if g.table != nil {
		errs = append(errs, g.closeTable())
	}
	errs = append(errs, g.keeper.close())
	g.current.Store(&active{cfg: g.cfg, waiting: []string{"closed"}, origins: &origins{}})
	errs = append(errs, g.own.Close())
	return errors.Join(errs...)
}

// Listen opens a TCP listener ("tcp", "tcp4", "tcp6") on the gateway's own stack,
// for services on the gateway's addresses and the targets of redirect rules.
func (g *Gateway) Listen(network, address string) (net.Listener, error) {
	if h := g.stack(); h != nil {
		return h.Listen(network, address)
	}
	return nil, ErrNotRunning
}

// ListenPacket opens a UDP socket ("udp", "udp4", "udp6") on the gateway's own stack.
func (g *Gateway) ListenPacket(network, address string) (net.PacketConn, error) {
	if h := g.stack(); h != nil {
		return h.ListenPacket(network, address)
	}
	return nil, ErrNotRunning
}

// Dial connects from the gateway's own stack; the connection is tracked and
// translated like any other, as area host.
func (g *Gateway) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if h := g.stack(); h != nil {
		return h.Dial(ctx, network, address)
	}
	return nil, ErrNotRunning
}

// stack returns the own stack while the gateway runs.
func (g *Gateway) stack() *host.Host {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != running {
		return nil
	}
	return g.host
}

// tell logs what the service manager could not be told.
func (g *Gateway) tell(err error) {
	if err != nil {
		g.log.Warn("service manager was not told", "error", err)
	}
}

func statusLine(a *active) string {
	return fmt.Sprintf("generation %d, %d interfaces, %d rules", a.generation, len(a.interfaces), a.rules)
}
