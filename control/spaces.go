package control

import (
	"errors"
	"fmt"
	"time"

	"example.com/culvert/control/kernel"
	"example.com/culvert/control/nsthread"
	"example.com/culvert/dataplane/port/tun"
	"example.com/culvert/rules/config"
)

// retryAfter is how long the gateway waits before it tries again what the kernel
// refused.
const retryAfter = time.Second

// space is a network namespace that interfaces of the gateway are in.
type space struct {
	thread  *nsthread.Thread
	watcher *kernel.Watcher
	quit    chan struct{} // ends the goroutine that follows it
}

// openSpaces opens the namespaces that cfg and the interfaces added at run time
// name and that are not open yet. g.mu must be held.
func (g *Gateway) openSpaces(cfg *config.Config) error {
	for name := range g.namespaces(cfg) {
		if g.spaces[name] != nil {
			continue
		}
		s, err := g.openSpace(name)
		if err != nil {
			return err
		}
		g.spaces[name] = s
		if g.phase == running {
			g.follow(s)
		}
	}
	return nil
}

// namespaces returns the namespaces whose kernel has a say.
func (g *Gateway) namespaces(cfg *config.Config) map[string]struct{} {
	names := make(map[string]struct{})
	for _, list := range [][]config.Interface{cfg.Interfaces, g.added} {
		for _, i := range list {
			_, provided := g.opts.Ports[i.Name]
			if !provided && i.Driver == config.AFPacket {
				names[i.Netns] = struct{}{}
			}
		}
	}
	return names
}

func (g *Gateway) openSpace(name string) (*space, error) {
	thread, err := g.own, error(nil)
	if name != "" {
		if thread, err = nsthread.Named(name); err != nil {
			return nil, err
		}
	}
	s := &space{thread: thread, quit: make(chan struct{})}
	err = thread.Do(func() (err error) {
		s.watcher, err = kernel.Watch()
		return err
	})
	if err != nil {
		if thread != g.own {
			err = errors.Join(err, thread.Close())
		}
		return nil, err
	}
	return s, nil
}

// closeSpace stops watching a namespace. g.mu must be held.
func (g *Gateway) closeSpace(name string) error {
	s := g.spaces[name]
	delete(g.spaces, name)
	close(s.quit)
	err := s.watcher.Close()
	if s.thread != g.own {
		err = errors.Join(err, s.thread.Close())
	}
	return err
}

// pruneSpaces lets namespaces go that nothing names any more: an open one is kept
// alive by us. g.mu must be held.
func (g *Gateway) pruneSpaces(cfg *config.Config) {
	wanted := g.namespaces(cfg)
	for name := range g.spaces {
		if _, keep := wanted[name]; keep {
			continue
		}
		if err := g.closeSpace(name); err != nil {
			g.log.Warn("namespace was not let go", "netns", name, "error", err)
		}
	}
}

// plan reads the kernel and makes a plan for cfg. g.mu must be held.
func (g *Gateway) plan(cfg *config.Config) (*plan, error) {
	w := world{
		kernels:  make(map[string]kernel.Snapshot, len(g.spaces)),
		provided: make(map[string]struct{}, len(g.opts.Ports)),
		excluded: g.excluded,
		down:     g.down(),
	}
	for name, s := range g.spaces {
		var err error
		if w.kernels[name], err = s.watcher.Snapshot(); err != nil {
			return nil, fmt.Errorf("netlink: %w", err)
		}
	}
	for name := range g.opts.Ports {
		w.provided[name] = struct{}{}
	}
	return makePlan(cfg, g.added, w)
}

// followAll starts to follow every open namespace. g.mu must be held.
func (g *Gateway) followAll() {
	for _, s := range g.spaces {
		g.follow(s)
	}
}

// follow adapts the gateway whenever the namespace changes.
func (g *Gateway) follow(s *space) {
	g.tasks.Go(func() {
		for {
			select {
			case <-s.watcher.Changes():
				g.resync()
			case <-s.quit:
				return
			}
		}
	})
}

// resync adapts the gateway to what the kernel says now. An interface that
// cannot be taken is left out and tried again later: the others must not wait
// for it.
func (g *Gateway) resync() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != running {
		return
	}
	p, err := g.plan(g.cfg)
	if err == nil {
		if g.retry == nil && !g.unsure && p.equal(g.lastPlan) {
			return // something else changed in the namespace
		}
		err = g.reconcile(p, leaveOut)
	}
	if err != nil {
		g.log.Error("change of the kernel was not followed", "error", err)
		g.retryLater()
	}
}

// watchMade has interfaces that the gateway made made anew when somebody has deleted
// them. No message tells of that: their namespaces need not be followed.
func (g *Gateway) watchMade() {
	tick := time.NewTicker(retryAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.ending:
			return
		}
		if g.madeIsGone() {
			g.resync()
		}
	}
}

// madeIsGone reports whether an interface that the gateway made was deleted, and has
// resync look.
func (g *Gateway) madeIsGone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	gone := false
	for _, p := range g.ports {
		made, ok := p.port.(*tun.Port)
		gone = gone || ok && made.Gone()
	}
	g.unsure = g.unsure || gone
	return gone
}

// retryLater has resync run again. g.mu must be held.
func (g *Gateway) retryLater() {
	if g.retry != nil {
		g.retry.Stop()
	}
	g.retry = time.AfterFunc(retryAfter, g.resync)
}
