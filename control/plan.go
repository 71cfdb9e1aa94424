package control

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"example.com/culvert/control/kernel"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// A plan is what the gateway should look like, computed from the configuration
// and what the kernel says, without touching anything. Everything that can be
// refused is refused here.
type plan struct {
	cfg    *config.Config
	links  []link   // what is there, in the order of the configuration
	absent []string // configured by a full name, but not there
}

// key names an interface. The same key has the same port index for as long as
// the gateway runs.
type key struct {
	netns, name string
}

func (k key) String() string {
	if k.netns == "" {
		return k.name
	}
	return k.netns + "/" + k.name
}

// link is one interface that is there: as configured, with the name of the
// interface in place of a pattern.
type link struct {
	key
	conf      config.Interface
	kernel    kernel.Interface // zero when the kernel has no such interface (yet)
	addresses []netip.Prefix
	routes    []route.Route // Port is filled in when the port has an index
	down      bool          // it is an uplink that does not work: its routers are not used
}

// world is what is known outside the configuration.
type world struct {
	kernels  map[string]kernel.Snapshot // by namespace
	provided map[string]struct{}        // interfaces with a port of their own making
	excluded map[key]struct{}           // removed at run time
	down     map[key]struct{}           // uplinks that do not work
}

// makePlan matches the configured interfaces, and those added at run time, with
// what is there. The first configuration that fits an interface wins.
func makePlan(cfg *config.Config, added []config.Interface, w world) (*plan, error) {
	p := &plan{cfg: cfg}
	taken := make(map[key]struct{})
	take := func(conf config.Interface, k kernel.Interface) {
		l := link{key: key{conf.Netns, conf.Name}, conf: conf, kernel: k}
		if _, excluded := w.excluded[l.key]; excluded {
			return
		}
		if _, twice := taken[l.key]; !twice {
			taken[l.key] = struct{}{}
			p.links = append(p.links, l)
		}
	}
	all := slices.Concat(cfg.Interfaces, added)
	// Full names first: a pattern takes what they leave.
	for _, conf := range all {
		if conf.Pattern() {
			continue
		}
		k, exists := w.kernels[conf.Netns].Interfaces[conf.Name]
		switch {
		case w.madeByUs(&conf):
			take(conf, kernel.Interface{})
		case exists || conf.VLAN != 0: // the kernel need not know of our sub-interfaces
			take(conf, k)
		default:
			p.absent = append(p.absent, key{conf.Netns, conf.Name}.String())
		}
	}
	for _, conf := range all {
		if !conf.Pattern() {
			continue
		}
		snapshot := w.kernels[conf.Netns]
		for _, name := range snapshot.Match(conf.Name) {
			if isTAP(name) {
				continue // the way to the kernel, not an interface to serve
			}
			one := conf
			one.Name = name
			take(one, snapshot.Interfaces[name])
		}
	}
	p.dropOrphans()
	for i := range p.links {
		p.links[i].address(w.kernels[p.links[i].netns])
	}
	if err := p.addRoutes(cfg.Routes); err != nil {
		return nil, err
	}
	for i := range p.links {
		l := &p.links[i]
		if _, down := w.down[l.key]; l.conf.Check.Enabled() && (down || l.unplugged()) {
			l.withdraw()
		}
	}
	return p, nil
}

// madeByUs reports whether the interface is not the kernel's: what the kernel
// says about one with its name is about something else.
func (w *world) madeByUs(conf *config.Interface) bool {
	_, provided := w.provided[conf.Name]
	return provided || conf.Driver == config.TUN
}

// dropOrphans moves VLAN sub-interfaces whose parent is not there to absent.
func (p *plan) dropOrphans() {
	p.links = slices.DeleteFunc(p.links, func(l link) bool {
		if l.conf.VLAN == 0 || p.find(key{l.netns, l.conf.Parent}) != nil {
			return false
		}
		p.absent = append(p.absent, l.key.String())
		return true
	})
}

// find returns the link called k, nil if there is none.
func (p *plan) find(k key) *link {
	for i := range p.links {
		if p.links[i].key == k {
			return &p.links[i]
		}
	}
	return nil
}

// address fills in addresses and routes: the configured ones, or the kernel's.
func (l *link) address(s kernel.Snapshot) {
	if l.conf.AddressFrom == config.Static {
		l.addresses = l.conf.Addresses
		for _, a := range l.addresses {
			l.routes = append(l.routes, route.Route{Prefix: a.Masked()})
		}
	} else {
		l.addresses = l.kernel.Addresses
		for _, r := range s.RoutesOf(l.kernel.Index) {
			if l.kernel.Index != 0 && !l.overrides(r) {
				l.routes = append(l.routes, l.outward(route.Route{Prefix: r.Prefix, Gateway: r.Via, Metric: uint32(r.Metric)}))
			}
		}
	}
	for _, hop := range l.conf.NextHops {
		l.routes = append(l.routes, l.outward(route.Route{Prefix: defaultOf(hop), Gateway: hop}))
	}
}

// outward gives a default route what its interface says about it.
func (l *link) outward(r route.Route) route.Route {
	if r.Prefix.Bits() == 0 {
		r.Weight = l.conf.Weight
		if l.conf.Metric != 0 {
			r.Metric = l.conf.Metric
		}
	}
	return r
}

// unplugged reports whether a checked uplink can be seen not to work. Others may
// come back before a host has noticed, so that nothing is done for them.
func (l *link) unplugged() bool {
	return l.kernel.Index != 0 && !l.kernel.Up
}

// withdraw marks the routes by routers of the link as down.
func (l *link) withdraw() {
	l.down = true
	for i := range l.routes {
		l.routes[i].Down = l.routes[i].Gateway.IsValid()
	}
}

// overrides reports whether a configured next hop replaces r.
func (l *link) overrides(r kernel.Route) bool {
	return r.Prefix.Bits() == 0 && slices.ContainsFunc(l.conf.NextHops, func(hop netip.Addr) bool {
		return hop.Is4() == r.Prefix.Addr().Is4()
	})
}

func defaultOf(hop netip.Addr) netip.Prefix {
	if hop.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// holds reports whether addr is on the link.
func (l *link) holds(addr netip.Addr) bool {
	return slices.ContainsFunc(l.addresses, func(a netip.Prefix) bool { return a.Contains(addr) })
}

// addRoutes gives each configured route to its interface. A route over an
// interface that is absent waits with it.
func (p *plan) addRoutes(routes []config.Route) error {
	for _, r := range routes {
		l := p.carrier(r)
		if l == nil {
			if len(p.absent) > 0 || r.Interface != "" {
				continue
			}
			return fmt.Errorf("%s:%d: route to %v: no interface has %v on its link; name one with interface =",
				r.Source.File, r.Source.Line, r.To, r.Via)
		}
		one := route.Route{Prefix: r.To, Gateway: r.Via, Metric: r.Metric, Weight: r.Weight, Only: p.only(&r)}
		if !r.ByNextHop {
			l.routes = append(l.routes, one)
			continue
		}
		for _, hop := range l.nextHops() {
			if one.Gateway = hop; hop.Is4() == r.To.Addr().Is4() {
				l.routes = append(l.routes, one)
			}
		}
	}
	return nil
}

// only returns which packets a configured route is for.
func (p *plan) only(r *config.Route) route.Only {
	o := route.Only{From: r.From, Mark: r.Mark.Value, MarkMask: r.Mark.Mask}
	if id, ok := p.cfg.Rules.AreaID(r.InArea); ok && r.InArea != "" {
		o.Area = route.AreaNumber(uint8(id))
	}
	return o
}

// nextHops returns the default routers of the link.
func (l *link) nextHops() (hops []netip.Addr) {
	for _, r := range l.routes {
		if r.Prefix.Bits() == 0 && r.Gateway.IsValid() && !slices.Contains(hops, r.Gateway) {
			hops = append(hops, r.Gateway)
		}
	}
	return hops
}

// carrier returns the link that r leaves by, nil if it is not there.
func (p *plan) carrier(r config.Route) *link {
	for i := range p.links {
		l := &p.links[i]
		if r.Interface == l.name || r.Interface == "" && l.holds(r.Via) {
			return l
		}
	}
	return nil
}

// table builds the routing table. Between default routes of equal metric and no
// weight the interface that is configured first wins.
func (p *plan) table(ids map[key]uint16) (*route.Table, error) {
	var all []route.Route
	for _, l := range p.links {
		for _, r := range l.routes {
			r.Port = ids[l.key]
			all = append(all, r)
		}
	}
	order := make(map[route.Only]int) // of the file, which the links do not keep
	for i := range p.cfg.Routes {
		if only := p.only(&p.cfg.Routes[i]); order[only] == 0 {
			order[only] = len(order) + 1
		}
	}
	slices.SortStableFunc(all, func(a, b route.Route) int { return order[a.Only] - order[b.Only] })
	return route.NewTable(all)
}

// binding tells the rules which interfaces there are.
func (p *plan) binding(ids map[key]uint16) *rules.Binding {
	b := &rules.Binding{}
	for _, l := range p.links {
		b.Ports = append(b.Ports, rules.BoundPort{Index: ids[l.key], Name: l.name, Area: l.conf.Area})
	}
	return b
}

// local returns every address of the gateway itself, with the link that has it:
// the first one, where several have the same (link-local addresses, mostly).
func (p *plan) local() map[netip.Addr]key {
	all := make(map[netip.Addr]key)
	for _, l := range p.links {
		for _, a := range l.addresses {
			if _, taken := all[a.Addr()]; !taken {
				all[a.Addr()] = l.key
			}
		}
	}
	return all
}

// assignIDs returns port indexes for all links: what they had in old, and the
// lowest free ones for new links. Parents need not come first.
func (p *plan) assignIDs(old map[key]uint16) (map[key]uint16, error) {
	ids := maps.Clone(old)
	if ids == nil {
		ids = make(map[key]uint16)
	}
	used := map[uint16]struct{}{rules.HostPort: {}}
	for k, id := range ids {
		if p.find(k) == nil {
			delete(ids, k)
			continue
		}
		used[id] = struct{}{}
	}
	next := uint16(rules.HostPort)
	for _, l := range p.links {
		if _, known := ids[l.key]; known {
			continue
		}
		for taken := true; taken; _, taken = used[next] {
			next++
		}
		if next >= rules.MaxPorts {
			return nil, fmt.Errorf("interface %v: more than %d interfaces", l.key, rules.MaxPorts-1)
		}
		ids[l.key], used[next] = next, struct{}{}
	}
	return ids, nil
}
