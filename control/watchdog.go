package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/culvert/dataplane"
)

// longestChange is how long a change of the gateway, such as a reload that ends a
// million flows, may keep everybody else waiting before it counts as hung.
const longestChange = 5 * time.Minute

// watchdog tells the service manager every interval that the gateway is alive. It
// does so only if every worker has slept or begun a batch since the last time, and
// no change has been under way for longestChange: a manager that hears nothing
// restarts the gateway.
func (g *Gateway) watchdog(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var pulse dataplane.Pulse
	changing := time.Duration(0)
	silent := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if changing += interval; g.mu.TryLock() {
			g.mu.Unlock()
			changing = 0
		}
		err := g.engine.Stuck(&pulse)
		if changing > longestChange {
			err = errors.Join(err, fmt.Errorf("a change has been under way for %v", changing))
		}
		switch {
		case err == nil:
			g.tell(g.opts.Notify.Watchdog())
			silent = false
		case !silent:
			g.log.Error("the gateway hangs: the service manager is told nothing", "error", err)
			silent = true
		}
	}
}

// stuckAfter is how long a worker may take for one batch before it counts as stuck.
const stuckAfter = 2 * time.Second

// Stuck returns what does not go on: nothing, as a rule. It waits up to stuckAfter for
// workers that are at work to begin another batch.
func (g *Gateway) Stuck(ctx context.Context) []string {
	if g.current.Load().generation == 0 {
		return []string{"the gateway does not run"}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var pulse dataplane.Pulse
	_ = g.engine.Stuck(&pulse) // nil: there is nothing yet to compare with
	for begun := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return []string{}
		}
		err := g.engine.Stuck(&pulse)
		if err == nil {
			return []string{}
		}
		if time.Since(begun) > stuckAfter {
			return []string{err.Error()}
		}
	}
}
