package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/privilege"
	"example.com/culvert/control/upgrade"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules/config"
)

// handing is what a gateway knows of upgrades.
type handing struct {
	count  atomic.Uint64 // upgrades that have led to this process
	pause  atomic.Int64  // of the last one, ns
	failed atomic.Uint64 // that were rolled back

	spawn func(g *Gateway, binary string) (successor, error) // nil: spawnProcess
	most  time.Duration                                      // that the new process may be silent; 0: as long as usual
	over  chan struct{}                                      // closed when another process goes on
	to    *api.UpgradeResult                                 // of the upgrade to that one; g.mu guards it
}

// successor is the process that is to go on.
type successor interface {
	Send(kind upgrade.Kind, content any, fds ...int) error
	Receive(want upgrade.Kind, content any, wait time.Duration) (fds []int, err error)
	PID() int
	Kill() bool // reports whether it has ended
}

// Rounds before the last one: they end when what has changed is little, or as much as in
// the round before.
const (
	maxRounds  = 6
	fewFlows   = 64
	roundShare = 2 // a round that is worth another one is smaller by this
)

// Upgrade has a new process go on in place of this one, with its interfaces, listeners and
// flows. When it returns without an error, that one forwards packets, and LeftTo is closed:
// who runs the gateway calls Close, which leaves to the other one what is its own. Otherwise nothing has changed, and the error, which
// wraps ErrRefused, says why: or that another upgrade came first.
func (g *Gateway) Upgrade(ctx context.Context, r api.UpgradeRequest) (api.UpgradeResult, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if to := g.handing.to; to != nil {
		return api.UpgradeResult{}, fmt.Errorf("upgrade %w: upgraded meanwhile, version %s goes on in process %d", ErrRefused, to.After, to.PID)
	}
	if g.phase != running {
		return api.UpgradeResult{}, ErrNotRunning
	}
	result, err := g.upgrade(ctx, r.Binary)
	if err != nil {
		g.handing.failed.Add(1)
		g.log.Error("upgrade was rolled back", "version", Version(), "error", err)
		return result, fmt.Errorf("upgrade %w and rolled back, version %s goes on: %w", ErrRefused, Version(), err)
	}
	g.phase, g.handing.to = left, &result
	g.log.Info("another process goes on", "version", result.After, "pid", result.PID, "pause_ms", result.Pause, "flows", result.Flows)
	close(g.handing.over)
	return result, nil
}

// LeftTo is closed when another process goes on in place of this one.
func (g *Gateway) LeftTo() <-chan struct{} { return g.handing.over }

// upgrade goes from process to process. g.mu must be held.
func (g *Gateway) upgrade(ctx context.Context, binary string) (result api.UpgradeResult, err error) {
	began := time.Now()
	spawn := g.handing.spawn
	if spawn == nil {
		spawn = (*Gateway).spawnProcess
	}
	next, err := spawn(g, binary)
	if err != nil {
		return result, err
	}
	h := handover{g: g, next: next}
	hello, err := h.prepare(ctx)
	if err == nil {
		result.Prepared = milliseconds(time.Since(began))
		err = h.commit(&result)
	}
	if err != nil {
		if !next.Kill() {
			// Both would forward: then rather nobody answers for a while.
			g.log.Error("the new process does not end though it was killed", "pid", next.PID())
		}
		return result, errors.Join(err, h.rollBack())
	}
	result.Before, result.After, result.PID = Version(), hello.Version, next.PID()
	return result, nil
}

// spawnProcess starts the new process like this one was.
func (g *Gateway) spawnProcess(binary string) (successor, error) {
	args := g.opts.Command
	if len(args) == 0 {
		return nil, errors.New("the program that embeds the gateway cannot be started anew")
	}
	if binary == "" {
		binary = args[0]
	}
	var child *upgrade.Child
	err := g.own.Do(func() (err error) { // it lives where we do
		child, err = upgrade.Start(binary, args, privilege.Inheritable())
		return err
	})
	if err != nil {
		return nil, err
	}
	return child, nil
}

// handover is an upgrade under way.
type handover struct {
	g       *Gateway
	next    successor
	flows   *dataplane.HandOver
	held    bool // requests are
	stopped bool // workers are
}

// unhurried runs f where the scheduler lets the workers of both processes go first: what
// they are kept from for longer than a ring lasts is lost. The thread ends with f, so that
// nobody has to be allowed to raise its priority again.
func unhurried(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, unhurriedNice) // 0: this thread. Refused: as fast as others
		f()
	}()
	<-done
}

// unhurriedNice leaves a tenth of a processor that others want.
const unhurriedNice = 10

// prepare does all that can be done while packets go on.
func (h *handover) prepare(ctx context.Context) (hello upgrade.Hello, err error) {
	if _, err := h.next.Receive(upgrade.KindHello, &hello, h.g.wait(helloWait)); err != nil {
		return hello, err
	}
	switch {
	case hello.Protocol != upgrade.Protocol:
		return hello, fmt.Errorf("version %s speaks protocol %d of upgrades, this one %d: it needs a restart", hello.Version, hello.Protocol, upgrade.Protocol)
	case hello.Format != upgrade.Digest():
		return hello, fmt.Errorf("version %s keeps flows in another format (digest %.12s, here %.12s): it needs a restart", hello.Version, hello.Format, upgrade.Digest())
	}
	offer, fds, err := h.g.offer()
	if err != nil {
		return hello, err
	}
	if err := h.next.Send(upgrade.KindOffer, offer, fds...); err != nil {
		return hello, err
	}
	if _, err := h.next.Receive(upgrade.KindReady, &upgrade.Ready{}, h.g.wait(readyWait)); err != nil {
		return hello, err
	}
	h.flows = h.g.engine.HandOver()
	before := 0
	for n := range maxRounds {
		if err := ctx.Err(); err != nil {
			return hello, err
		}
		var changed int
		unhurried(func() { changed, err = h.round() })
		if err != nil {
			return hello, err
		}
		if changed <= fewFlows || n > 0 && changed*roundShare > before {
			break
		}
		before = changed
	}
	return hello, nil
}

// round hands over what has changed, and returns how many flows these are.
func (h *handover) round() (int, error) {
	s := h.collect()
	var taken upgrade.Taken
	if err := h.send(upgrade.KindRound, upgrade.Round(h.names()), s); err != nil {
		return 0, err
	}
	if _, err := h.next.Receive(upgrade.KindTaken, &taken, h.g.wait(roundWait)); err != nil {
		return 0, err
	}
	for _, slot := range taken.Not {
		h.flows.Again(slot)
	}
	return len(s.Flows), nil
}

func (h *handover) names() (r upgrade.Round) {
	r.Policies, r.Helpers = h.flows.Names()
	return r
}

// collect returns what has changed since the round before.
func (h *handover) collect() *upgrade.State {
	s := &upgrade.State{}
	h.flows.Round(
		func(slot uint32) { s.Ended = append(s.Ended, slot) },
		func(f *conntrack.Saved) { s.Flows = append(s.Flows, *f) },
		func(l *ports.Saved) { s.Kept = append(s.Kept, *l) },
	)
	return s
}

// send says something with a state.
func (h *handover) send(kind upgrade.Kind, content any, s *upgrade.State) error {
	fd, err := s.File()
	if err != nil {
		return err
	}
	defer closeDescriptors([]int{fd})
	return h.next.Send(kind, content, fd)
}

// commit stops the workers, hands over the rest, and waits until the other process
// forwards: from then on it is the gateway.
func (h *handover) commit(result *api.UpgradeResult) error {
	g := h.g
	if err := h.hold(); err != nil {
		return err
	}
	stopped := dataplane.BootClock()
	h.stopped = true
	g.engine.Stop()
	final := upgrade.Final{Round: h.names(), Legacy: g.engine.Legacy(), Stopped: stopped, Helped: h.flows.Help(), Recorded: g.events.Recording()}
	for _, p := range g.movable() {
		final.Ports = append(final.Ports, upgrade.Rested{Queues: restsOf(p.port), Box: restsOf(p.box)})
	}
	if server := g.portService.server.Load(); server != nil {
		final.Epoch, final.Mappings = server.Save()
	}
	for i := range g.pressure.alarms {
		final.Alarms = append(final.Alarms, g.pressure.alarms[i].Load())
	}
	s := h.collect()
	s.Expects = h.flows.Expects()
	if err := h.send(upgrade.KindFinal, final, s); err != nil {
		return err
	}
	var running upgrade.Running
	if _, err := h.next.Receive(upgrade.KindRunning, &running, h.g.wait(finalWait)); err != nil {
		return err
	}
	// From here on nothing can be rolled back, and nothing that fails matters.
	did := &running.Done
	result.Pause = milliseconds(time.Duration(running.At - stopped))
	result.Flows, result.Expectations, result.Ports, result.Lost = did.Flows, did.Expectations, did.Ports, lostOf(did)
	g.tell(g.opts.Notify.Main(h.next.PID()))
	if g.services.api != nil {
		g.services.api.Dismiss()
	}
	for _, l := range g.services.listeners() {
		l.Keep(true)
	}
	h.leave()
	return nil
}

// leave gives the events that were recorded to the other process, and says that it is
// alone.
func (h *handover) leave() {
	g := h.g
	past, err := g.events.Leave()
	if err != nil {
		g.log.Error("events of before are not handed over", "error", err)
	}
	defer past.Close()
	if err := h.next.Send(upgrade.KindLeave, upgrade.Leave{Events: past}, past.Descriptors()...); err != nil {
		g.log.Warn("the new process was not told that it is alone", "error", err)
	}
}

// hold has connections and requests that change something wait.
func (h *handover) hold() error {
	if s := h.g.services.api; s != nil {
		if err := s.Hold(); err != nil {
			return err
		}
	}
	h.held = true
	var errs []error
	for _, l := range h.g.services.listeners() {
		errs = append(errs, l.Pause())
	}
	return errors.Join(errs...)
}

// rollBack goes on where the workers stopped. The new process has ended.
func (h *handover) rollBack() (err error) {
	g := h.g
	if h.stopped {
		for _, p := range g.movable() {
			for _, one := range []port.Port{p.port, p.box} {
				if m, ok := one.(port.Movable); ok {
					m.Strayed()
				}
			}
			if p.owner != nil {
				err = errors.Join(err, p.owner.Reclaim())
			}
		}
		err = errors.Join(err, g.engine.Start())
	}
	if h.held {
		for _, l := range g.services.listeners() {
			err = errors.Join(err, l.Resume())
		}
		if g.services.api != nil {
			g.services.api.Let()
		}
	}
	return err
}

// wait returns how long the new process may be silent where it usually may be for d.
func (g *Gateway) wait(d time.Duration) time.Duration {
	if most := g.handing.most; most > 0 {
		return min(d, most)
	}
	return d
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// movable returns the open ports that have queues of their own, in one order.
func (g *Gateway) movable() (all []*openPort) {
	for _, p := range slices.SortedFunc(maps.Values(g.ports), func(a, b *openPort) int { return cmp.Compare(a.id, b.id) }) {
		if p.parent == nil && p.port != nil {
			all = append(all, p)
		}
	}
	return all
}

func restsOf(p port.Port) []port.Rest {
	if m, ok := p.(port.Movable); ok {
		return m.Rests()
	}
	return nil
}

// offer returns what there is for a successor, and the descriptors that belong to it.
func (g *Gateway) offer() (o upgrade.Offer, fds []int, err error) {
	_, high := g.table.Slots()
	o = upgrade.Offer{Name: g.cfg.Gateway.Name, Version: Version(), Generation: g.current.Load().generation, Secret: g.table.Key(), SlotBits: g.table.SlotBits(), Slots: high,
		Upgrades: g.handing.count.Load()}
	for _, p := range g.movable() {
		i, some, err := p.bequeath()
		if err != nil {
			return o, nil, fmt.Errorf("interface %v: %w", p.key, err)
		}
		o.Interfaces, fds = append(o.Interfaces, i), append(fds, some...)
	}
	for _, s := range []struct {
		role, address string
		l             any
	}{
		{upgrade.SocketControl, g.socketPath(), g.services.control},
		{upgrade.SocketRemote, g.cfg.API.Listen, g.services.remote},
		{upgrade.SocketMetrics, g.cfg.Gateway.Metrics, g.services.scrape},
	} {
		l, ok := s.l.(*api.Pausable)
		if !ok {
			continue
		}
		fd, inode, err := l.Descriptor()
		if err != nil {
			return o, nil, err
		}
		o.Sockets, fds = append(o.Sockets, upgrade.Socket{Role: s.role, Address: s.address, Inode: inode}), append(fds, fd)
	}
	for _, i := range g.added {
		o.Added = append(o.Added, addedOf(&i))
	}
	for k := range g.excluded {
		o.Excluded = append(o.Excluded, upgrade.Key{Netns: k.netns, Name: k.name})
	}
	for k, u := range g.uplinks {
		r := u.report.Load()
		o.Uplinks = append(o.Uplinks, upgrade.Uplink{Key: upgrade.Key{Netns: k.netns, Name: k.name}, Down: r.down, Since: r.since, Changes: r.changes, Trouble: r.trouble})
	}
	return o, fds, nil
}

// bequeath describes an interface for a successor.
func (p *openPort) bequeath() (i upgrade.Interface, fds []int, err error) {
	i = upgrade.Interface{Key: upgrade.Key{Netns: p.netns, Name: p.name}, ID: p.id, Index: p.index, Driver: p.info.Driver}
	if m, ok := p.port.(port.Movable); ok {
		fds = m.Descriptors()
		i.Queues, i.Rings = m.Info().NumQueues, len(fds)
	}
	if p.owner != nil {
		var some []int
		if i.Estate, some, err = p.owner.Estate(); err != nil {
			return i, nil, err
		}
		i.Owned, fds = true, append(fds, some...)
	}
	if m, ok := p.box.(port.Movable); ok {
		i.Box, fds = true, append(fds, m.Descriptors()...)
	}
	return i, fds, nil
}

// addedOf returns the request that an interface was added by.
func addedOf(i *config.Interface) (a upgrade.Added) {
	a = upgrade.Added{Name: i.Name, Area: i.Area, Driver: driverNames[i.Driver]}
	for _, p := range i.Addresses {
		a.Addresses = append(a.Addresses, p.String())
	}
	a.NextHops = texts(i.NextHops)
	return a
}

// Upgrades returns how many upgrades have led to this process, how many were rolled back in
// it, and for how long packets waited in the last one.
func (g *Gateway) Upgrades() (done, failed uint64, pause time.Duration) {
	h := &g.handing
	return h.count.Load(), h.failed.Load(), time.Duration(h.pause.Load())
}
