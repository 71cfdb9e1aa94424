package control

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
	"example.com/culvert/rules/config"
)

// An uplink is an interface whose routers are checked. A goroutine has the own stack
// send probes from the interface's address, which therefore leave by it whether it is
// in use or not (see dataplane). When the state changes the gateway makes a new plan:
// routes of an uplink that is down are marked so, and flows bound to it end.
type uplink struct {
	g     *Gateway
	key   key
	check config.Check
	stop  context.CancelFunc

	vitals vitals // of the goroutine
	report atomic.Pointer[report]
}

// report is what is known about an uplink. Immutable.
type report struct {
	down    bool
	since   time.Time
	changes uint64
	trouble string // of the last bad round
}

// vitals judge an uplink by its rounds: only so many in a row against what is
// believed change it.
type vitals struct {
	down    bool
	against int
}

// round takes the outcome of a round and reports whether the uplink is another now.
func (v *vitals) round(good bool, c *config.Check) (changed bool) {
	if good != v.down {
		v.against = 0
		return false
	}
	limit := c.DownAfter
	if v.down {
		limit = c.UpAfter
	}
	if v.against++; v.against < limit {
		return false
	}
	v.down, v.against = !v.down, 0
	return true
}

// watchUplinks checks the uplinks of p, and no others, from now on. g.mu must be held.
func (g *Gateway) watchUplinks(p *plan) {
	before := g.heir.uplinks()
	for k, u := range g.uplinks {
		if l := p.find(k); l == nil || !reflect.DeepEqual(l.conf.Check, u.check) {
			u.stop()
			before[k] = u.report.Load()
			delete(g.uplinks, k)
		}
	}
	for i := range p.links {
		l := &p.links[i]
		if _, watched := g.uplinks[l.key]; watched || !l.conf.Check.Enabled() {
			continue
		}
		ctx, stop := context.WithCancel(context.Background())
		u := &uplink{g: g, key: l.key, check: l.conf.Check, stop: stop}
		u.report.Store(&report{since: time.Now()}) // taken to work, so that no start waits for it
		if r := before[l.key]; r != nil {
			u.vitals.down = r.down
			u.report.Store(r)
		}
		g.uplinks[l.key] = u
		g.tasks.Go(func() { u.watch(ctx) })
	}
}

// down returns the uplinks that do not work. g.mu must be held.
func (g *Gateway) down() map[key]struct{} {
	all := make(map[key]struct{})
	for k, u := range g.uplinks {
		if u.report.Load().down {
			all[k] = struct{}{}
		}
	}
	return all
}

// watch goes round after round until ctx ends.
func (u *uplink) watch(ctx context.Context) {
	tick := time.NewTicker(u.check.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		round, cancel := context.WithTimeout(ctx, u.check.Every)
		err := u.probe(round)
		cancel()
		if ctx.Err() == nil {
			u.judge(err)
		}
	}
}

// judge takes the outcome of a round.
func (u *uplink) judge(err error) {
	r := *u.report.Load()
	changed := u.vitals.round(err == nil, &u.check)
	if err != nil {
		r.trouble = err.Error()
	}
	if changed {
		r.down, r.since = u.vitals.down, time.Now()
		r.changes++
	}
	u.report.Store(&r)
	switch {
	case !changed:
		return
	case r.down:
		logging.For(u.g.log, logging.Uplink).Warn("uplink is down: its routes are not used", "interface", u.key.String(), "error", err)
	default:
		logging.For(u.g.log, logging.Uplink).Info("uplink is up again", "interface", u.key.String())
	}
	u.g.resync()
}

// probe is one round: nil as soon as one target has answered.
func (u *uplink) probe(ctx context.Context) error {
	probes := u.probes()
	if len(probes) == 0 {
		return errors.New("the interface is absent, or has no address or next hop of the family to check")
	}
	ctx, cancel := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	answers := make(chan error, len(probes))
	for _, probe := range probes {
		asked.Go(func() { answers <- probe(ctx) })
	}
	var errs []error
	for range probes {
		err := <-answers
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// probes returns the questions of a round, as the interface is now.
func (u *uplink) probes() (all []func(context.Context) error) {
	b := u.g.current.Load().find(u.key)
	if b == nil {
		return nil
	}
	for _, to := range u.check.Ping {
		if from, ok := b.source(to); ok {
			all = append(all, func(ctx context.Context) error { return u.g.host.Ping(ctx, from, to) })
		}
	}
	for _, to := range u.check.TCP {
		if from, ok := b.source(to.Addr()); ok {
			all = append(all, func(ctx context.Context) error { return u.g.host.Knock(ctx, from, to) })
		}
	}
	if u.check.Neighbour {
		for _, hop := range b.nextHops {
			all = append(all, func(ctx context.Context) error { return u.g.host.Verify(ctx, uint16(b.id), hop) })
		}
	}
	return all
}

// find returns the interface called k if it is served, else nil.
func (a *active) find(k key) *boundInterface {
	for i := range a.interfaces {
		if b := &a.interfaces[i]; b.id >= 0 && b.conf.Name == k.name && b.conf.Netns == k.netns {
			return b
		}
	}
	return nil
}

// source returns the address of the interface that packets to an address come from.
func (b *boundInterface) source(to netip.Addr) (netip.Addr, bool) {
	for _, a := range b.addresses {
		if a.Addr().Is4() == to.Is4() && !a.Addr().IsLinkLocalUnicast() {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// describe returns what the API says about an uplink, nil for an interface that is
// not checked.
func (u *uplink) describe() *api.Uplink {
	if u == nil {
		return nil
	}
	r := u.report.Load()
	out := &api.Uplink{State: api.StateUp, Since: r.since, Changes: r.changes, Trouble: r.trouble}
	if r.down {
		out.State = api.StateDown
	}
	return out
}
