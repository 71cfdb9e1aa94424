package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/flowlog"
	"example.com/culvert/control/ipfix"
	"example.com/culvert/control/logging"
	"example.com/culvert/control/nsthread"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules/config"
)

// exports are the flow logs and IPFIX collectors in force. A reload keeps those whose
// settings are the same.
type exports struct {
	mu         sync.RWMutex // guards the slices, which are never written to
	logs       []openLog
	collectors []*collector

	marks     marks
	fragments uint64 // dropped when exportFragments looked last; of the goroutine that samples
}

type openLog struct {
	conf config.FlowLog
	*flowlog.Logger
}

// collector is a collector with the subscription that its sessions come from.
type collector struct {
	conf config.IPFIX
	*ipfix.Exporter
	sub  *conntrack.Subscription // nil: no sessions
	done chan struct{}           // closed when it is read to its end
}

const (
	sessionRoom = 4096            // events between the table and the queue of a collector
	exportDrain = 5 * time.Second // for what a reload ends
)

// newExports are those that a configuration asks for: old ones that go on, and new ones.
type newExports struct {
	logs       []openLog
	collectors []*collector
	opened     []exporter // of these, what is new
}

// exporter is what logs and collectors have in common.
type exporter interface {
	Close(context.Context) error
}

// openExports opens what cfg asks for and is not open. On an error nothing has changed.
// g.mu must be held.
func (g *Gateway) openExports(cfg *config.Config) (next newExports, err error) {
	x := &g.exports
	for _, conf := range cfg.FlowLogs {
		i := slices.IndexFunc(x.logs, func(l openLog) bool { return l.conf == conf })
		if i >= 0 {
			next.logs = append(next.logs, x.logs[i])
			continue
		}
		l, err := flowlog.Open(g.table, g.flowLogConfig(&conf))
		if err != nil {
			closeExports(next.opened)
			return newExports{}, fmt.Errorf("flowlog: %w", err)
		}
		next.logs = append(next.logs, openLog{conf, l})
		next.opened = append(next.opened, l)
	}
	for _, conf := range cfg.IPFIX {
		i := slices.IndexFunc(x.collectors, func(c *collector) bool { return c.conf == conf })
		if i >= 0 {
			next.collectors = append(next.collectors, x.collectors[i])
			continue
		}
		c := g.openCollector(&conf)
		next.collectors = append(next.collectors, c)
		next.opened = append(next.opened, c)
	}
	return next, nil
}

// useExports puts next in force and ends what is not in it, which may take a while and
// is not waited for. g.mu must be held.
func (g *Gateway) useExports(next newExports) {
	x := &g.exports
	x.mu.Lock()
	logs, collectors := x.logs, x.collectors
	x.logs, x.collectors = next.logs, next.collectors
	x.mu.Unlock()
	g.watchPortsFor(next.collectors)
	var gone []exporter
	for _, l := range logs {
		if !slices.Contains(next.logs, l) {
			gone = append(gone, l.Logger)
		}
	}
	for _, c := range collectors {
		if !slices.Contains(next.collectors, c) {
			gone = append(gone, c)
		}
	}
	if len(gone) > 0 {
		g.tasks.Go(func() {
			if err := closeExports(gone); err != nil {
				logging.For(g.log, logging.Export).Warn("not all was exported before a reload", "error", err)
			}
		})
	}
}

// closeExports ends exporters side by side.
func closeExports(all []exporter) error {
	ctx, cancel := context.WithTimeout(context.Background(), exportDrain)
	defer cancel()
	return closeAll(ctx, all)
}

func closeAll(ctx context.Context, all []exporter) error {
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, e := range all {
		wait.Go(func() { errs[i] = e.Close(ctx) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// close ends all exports, as far as ctx allows with all that happened so far.
func (x *exports) close(ctx context.Context) error {
	x.mu.Lock()
	logs, collectors := x.logs, x.collectors
	x.logs, x.collectors = nil, nil
	x.mu.Unlock()
	var all []exporter
	for _, l := range logs {
		all = append(all, l.Logger)
	}
	for _, c := range collectors {
		all = append(all, c)
	}
	return closeAll(ctx, all)
}

// reopenLogs has files opened anew that somebody may have moved.
func (x *exports) reopenLogs() {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, l := range x.logs {
		l.Reopen()
	}
}

// flowLogConfig turns settings into those of package flowlog.
func (g *Gateway) flowLogConfig(c *config.FlowLog) flowlog.Config {
	out := flowlog.Config{Buffer: c.Buffer, Rule: g.ruleLabel, Log: logging.For(g.log, logging.Export)}
	if c.File != "" {
		out.Sink = &flowlog.File{Path: c.File, Mode: c.Mode, Max: c.MaxSize, Keep: c.Keep}
	} else {
		out.Sink = &flowlog.Syslog{Network: c.Network, Address: c.Address, Facility: c.Facility, Dial: g.dialer(c.Via), Name: g.cfg.Gateway.Name}
	}
	if c.JSON {
		out.Form = flowlog.JSON
	}
	if c.Translated {
		out.Flows = flowlog.Translated
	}
	for bit, events := range map[config.FlowEvents][]flowlog.Event{
		config.FlowNew: {flowlog.New}, config.FlowDestroy: {flowlog.Destroy}, config.FlowRefused: {flowlog.Refused},
		config.FlowBlock: {flowlog.BlockAllocated, flowlog.BlockReleased},
	} {
		for _, e := range events {
			out.Events[e] = c.Events&bit != 0
		}
	}
	return out
}

// ruleLabel names a rule in logs: by its name, else by its list and position; by its id
// if it is no longer there.
func (g *Gateway) ruleLabel(id uint32) string {
	r := g.engine.Program().Rule(id)
	switch {
	case r == nil:
		return fmt.Sprintf("%08x", id)
	case r.Name != "":
		return r.Name
	}
	return fmt.Sprintf("%s %d", r.List, r.Pos)
}

// openCollector starts an exporter and has it told of sessions.
func (g *Gateway) openCollector(conf *config.IPFIX) *collector {
	network := "udp"
	if conf.TCP {
		network = "tcp"
	}
	c := &collector{conf: *conf, done: make(chan struct{}), Exporter: ipfix.NewExporter(ipfix.Config{
		Network: network, Collector: conf.Collector.String(), Dial: g.dialer(conf.Via), Domain: conf.Domain, Max: conf.Max,
		Refresh: conf.Refresh, Queue: conf.Queue, Log: logging.For(g.log, logging.Export),
	})}
	if conf.Events&config.NATSession == 0 {
		close(c.done)
		return c
	}
	c.sub = g.table.Subscribe(sessionRoom, conntrack.NewEvents|conntrack.DestroyEvents)
	go c.follow()
	return c
}

// follow tells of sessions until the subscription ends.
func (c *collector) follow() {
	defer close(c.done)
	missed := uint64(0)
	for e := range c.sub.Events() {
		if n := c.sub.Missed(); n != missed {
			c.Lose(n - missed)
			missed = n
		}
		if e.Flow.Status&(conntrack.SrcNAT|conntrack.DstNAT) != 0 {
			c.Send(sessionEvent(&e))
		}
	}
}

// Close ends the exporter after the sessions that are known.
func (c *collector) Close(ctx context.Context) error {
	if c.sub != nil {
		c.sub.Close()
	}
	<-c.done // Send never waits
	return c.Exporter.Close(ctx)
}

// dialer returns how servers are reached.
func (g *Gateway) dialer(via config.Via) func(ctx context.Context, network, address string) (net.Conn, error) {
	if via == config.ViaGateway {
		return g.host.Dial
	}
	return g.dialKernel
}

// dialKernel connects from the kernel's stack in the gateway's own namespace, on a
// thread of its own: a server that does not answer must hold up nobody else.
func (g *Gateway) dialKernel(ctx context.Context, network, address string) (conn net.Conn, err error) {
	var thread *nsthread.Thread
	err = g.own.Do(func() (err error) {
		thread, err = nsthread.Current()
		return err
	})
	if err != nil {
		return nil, err
	}
	err = thread.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, errors.Join(err, thread.Close())
}

// exportBlock tells of a block of ports.
func (g *Gateway) exportBlock(e *ports.Event) {
	x := &g.exports
	x.mu.RLock()
	defer x.mu.RUnlock()
	now := time.Now()
	b := flowlog.Block{At: now, Event: flowlog.BlockAllocated, Client: e.Client, Zone: e.Zone, Address: e.Addr, Ports: e.Ports}
	if e.Kind == ports.BlockReleased {
		b.Event = flowlog.BlockReleased
	}
	for _, l := range x.logs {
		l.Block(b)
	}
	x.sendLocked(config.NATBlock, blockEvent(e, now))
}

// sendLocked sends an event to the collectors that want its kind. x.mu must be held.
func (x *exports) sendLocked(kind config.NATEvents, e ipfix.Event) {
	for _, c := range x.collectors {
		if c.conf.Events&kind != 0 {
			c.Send(e)
		}
	}
}

func (x *exports) send(kind config.NATEvents, e ipfix.Event) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	x.sendLocked(kind, e)
}

// failing returns the flow logs, collectors and files of events that take nothing at
// the moment.
func (g *Gateway) failing() (names []string) {
	for _, e := range g.Exports() {
		if !e.Working {
			names = append(names, map[string]string{api.ExportFlowLog: "flow log ", api.ExportIPFIX: "collector "}[e.Kind]+e.To)
		}
	}
	if g.events.Stats().Failing {
		names = append(names, "files of events")
	}
	return names
}

// Exports returns the flow logs and collectors, and how they fare.
func (g *Gateway) Exports() []api.Export {
	x := &g.exports
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := []api.Export{}
	for _, l := range x.logs {
		s := l.Stats()
		all = append(all, api.Export{Kind: api.ExportFlowLog, To: l.String(), Working: !s.Failing, Written: s.Written, Lost: s.Lost})
	}
	for _, c := range x.collectors {
		s := c.Stats()
		network := "udp:"
		if c.conf.TCP {
			network = "tcp:"
		}
		all = append(all, api.Export{Kind: api.ExportIPFIX, To: network + c.conf.Collector.String(), Working: s.Up, Written: s.Sent, Lost: s.Lost, Queued: s.Queued})
	}
	return all
}
