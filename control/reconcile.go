package control

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/port/afpacket"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// onFailure says what becomes of an interface that cannot be taken.
type onFailure uint8

const (
	refuse   onFailure = iota // the whole plan is refused
	leaveOut                  // the others are served, and it is tried again
)

// equal reports whether p and q ask for the same.
func (p *plan) equal(q *plan) bool { return reflect.DeepEqual(p, q) }

// reconcile makes the gateway what p says. See the package comment for the
// order. g.mu must be held.
func (g *Gateway) reconcile(p *plan, failure onFailure) error {
	asked := *p
	asked.links = slices.Clone(p.links)
	ids, err := p.assignIDs(g.ids)
	if err != nil {
		return err
	}
	ports, opened, leftOut, err := g.openPorts(p, ids, failure)
	if err != nil {
		return err
	}
	proxied := p.proxies()
	lost := g.lost(p, proxied)
	program, err := g.apply(p, ids, ports, lost)
	if err != nil {
		return errors.Join(err, g.undo(opened))
	}
	old, was := g.ports, g.current.Load()
	g.ports, g.ids, g.cfg, g.lastPlan = ports, ids, p.cfg, &asked
	g.watchUplinks(p)
	g.publish(p, program, leftOut)
	g.logChanges(was, g.current.Load())
	g.afterwards(p, old, proxied, lost)
	if g.retry != nil {
		g.retry.Stop()
		g.retry = nil
	}
	if len(leftOut) > 0 || g.unsure {
		g.retryLater()
	}
	g.unsure = false
	return nil
}

// openPorts returns the ports of p: those that are open, and new ones. Links
// that were left out are no longer in p.
func (g *Gateway) openPorts(p *plan, ids map[key]uint16, failure onFailure) (ports map[key]*openPort, opened []*openPort, leftOut []string, err error) {
	ports = make(map[key]*openPort, len(p.links))
	slices.SortStableFunc(p.links, parentsFirst)
	var kept []link
	for i := range p.links {
		l := &p.links[i]
		o, isNew, err := g.openLink(l, ids[l.key], ports)
		switch {
		case err == nil && isNew:
			opened = append(opened, o)
			g.log.Info("interface taken", "interface", l.key.String(), "area", l.conf.Area, "port", o.id)
		case err == nil:
		case failure == leaveOut:
			g.log.Warn("interface left out", "interface", l.key.String(), "error", err)
			leftOut = append(leftOut, err.Error())
			continue
		default:
			return nil, nil, nil, errors.Join(err, g.undo(opened))
		}
		ports[l.key] = o
		kept = append(kept, *l)
	}
	p.links = kept
	return ports, opened, leftOut, nil
}

// undo closes ports that no state uses, and puts those back that they were to
// replace.
func (g *Gateway) undo(opened []*openPort) error {
	var errs []error
	for _, o := range opened {
		errs = append(errs, g.closePort(o))
		old := g.ports[o.key]
		if old == nil {
			continue
		}
		local, proxied := old.local, old.proxied
		old.local, old.proxied = nil, nil
		errs = append(errs, g.host.AddPort(old.id, old.info, old.sender, g.neighbour), g.announce(old, local, proxied))
	}
	return errors.Join(errs...)
}

// parentsFirst orders VLAN sub-interfaces after what carries them.
func parentsFirst(a, b link) int {
	return min(int(a.conf.VLAN), 1) - min(int(b.conf.VLAN), 1)
}

// openLink returns the port of l, opening it if need be.
func (g *Gateway) openLink(l *link, id uint16, ports map[key]*openPort) (o *openPort, isNew bool, err error) {
	var parent *openPort
	if l.conf.VLAN != 0 {
		if parent = ports[key{l.netns, l.conf.Parent}]; parent == nil {
			return nil, false, fmt.Errorf("interface %v: its parent %s is not served", l.key, l.conf.Parent)
		}
		if err := letTagsIn(parent); err != nil {
			return nil, false, fmt.Errorf("interface %v: let its tag in at %s: %w", l.key, l.conf.Parent, err)
		}
	}
	old := g.ports[l.key]
	if old != nil && old.sameDevice(l) && old.parent == parent {
		return old, false, g.refresh(old)
	}
	if old != nil && l.conf.Driver == config.TUN {
		return nil, false, fmt.Errorf("interface %v: its device settings changed, which needs a restart", l.key)
	}
	if old != nil {
		g.host.RemovePort(id) // the stack knows one link by an index
	}
	o, err = g.open(l, id, parent)
	return o, true, err
}

// letTagsIn opens the tag filter of the interface that carries sub-interfaces.
func letTagsIn(parent *openPort) error {
	if p, ok := parent.port.(*afpacket.Port); ok {
		return p.Widen(afpacket.AcceptAll)
	}
	return nil
}

// apply hands the engine its new state.
func (g *Gateway) apply(p *plan, ids map[key]uint16, ports map[key]*openPort, lost *losses) (*rules.Program, error) {
	st, err := g.state(p, ids, ports, lost)
	if err != nil {
		return nil, err
	}
	// Ports with fewer queues than workers get more senders, in the namespace of
	// the calling thread.
	if err := g.own.Do(func() error { return g.engine.Apply(st) }); err != nil {
		return nil, err
	}
	routes := st.Routes.Routes()
	lost.rerouted = !slices.Equal(g.routes, routes)
	g.routes = routes
	return st.Program, nil
}

// state returns what the engine needs to know of p.
func (g *Gateway) state(p *plan, ids map[key]uint16, ports map[key]*openPort, lost *losses) (st dataplane.State, err error) {
	st.Program, err = rules.Compile(&p.cfg.Rules, p.binding(ids), g.current.Load().generation+1)
	if err != nil {
		return st, err
	}
	if st.Routes, err = p.table(ids); err != nil {
		return st, err
	}
	st.Gone, st.Requests = slices.Collect(maps.Keys(lost.addresses)), requests(p.cfg)
	st.Helpers = helperBounds(&p.cfg.Helpers)
	local := p.local()
	for i := range p.links {
		l := &p.links[i]
		c := portConfig(l, ports[l.key])
		for _, a := range l.addresses {
			if local[a.Addr()] == l.key {
				c.Addresses = append(c.Addresses, a)
			}
		}
		st.Ports = append(st.Ports, c)
	}
	return st, nil
}

func portConfig(l *link, o *openPort) dataplane.PortConfig {
	c := dataplane.PortConfig{
		ID:   o.id,
		Name: l.name,
		Port: o.port,
		MTU:  l.conf.MTU,
		RPF:  dataplane.RPF(l.conf.RPF),
		MSS:  dataplane.MSSClamp(l.conf.MSSClamp),
		Box:  o.box,
	}
	if o.parent != nil {
		c.Parent, c.VLAN = o.parent.id, l.conf.VLAN
	}
	return c
}

// afterwards does what follows from a new state: addresses are announced, ports
// that are gone are closed, flows that cannot work any more are ended. The state
// is in force already, so failures are logged.
func (g *Gateway) afterwards(p *plan, old map[key]*openPort, proxied []proxies, lost *losses) {
	for i := range p.links {
		l := &p.links[i]
		if truncated := proxied[i].truncated; truncated > 0 {
			g.log.Warn("too many addresses to answer for: route them to the gateway instead",
				"interface", l.key.String(), "left_out", truncated)
		}
		if err := g.announce(g.ports[l.key], l.addresses, proxied[i].addrs); err != nil {
			g.log.Error("addresses are not answered for", "error", err)
		}
	}
	for k, o := range old {
		if g.ports[k] == o {
			continue
		}
		if g.ports[k] == nil {
			g.host.RemovePort(o.id)
			g.log.Info("interface let go", "interface", k.String())
		}
		if err := g.release(o); err != nil {
			g.log.Warn("interface was not let go cleanly", "error", err)
		}
	}
	g.pruneSpaces(p.cfg)
	g.servePorts(p)
	if left := g.keeper.left; left != nil { // its flows are yet to come
		left.lost = lost
		return
	}
	g.end(lost)
	g.endStranded(lost)
	g.describeAnew()
}

// newlyAbsent returns the interfaces of p that are absent and were not before.
// g.mu must be held.
func (g *Gateway) newlyAbsent(p *plan) []string {
	return slices.DeleteFunc(slices.Clone(p.absent), func(name string) bool {
		return slices.Contains(g.lastPlan.absent, name)
	})
}
