package control

import (
	"net/netip"
	"slices"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// losses is what flows may depend on and the next state no longer has.
type losses struct {
	addresses map[netip.Addr]conntrack.Cause // the gateway's own, and those that rules translated to
	links     []netip.Prefix                 // networks of interfaces that go
	rerouted  bool                           // routes are others than before; known once the state is applied
}

// endpoint is what packets find at an interface of the gateway.
type endpoint struct {
	Netns   string         `json:"netns,omitempty"`
	Name    string         `json:"name"`
	Local   []netip.Prefix `json:"local,omitempty"`
	Proxied []netip.Addr   `json:"proxied,omitempty"` // that rules translate from and to
}

// present returns what packets find at the gateway now. g.mu must be held.
func (g *Gateway) present() (all []endpoint) {
	for k, o := range g.ports {
		all = append(all, endpoint{k.netns, k.name, o.local, o.proxied})
	}
	return all
}

// lost compares p, and what is proxied in it, with what is in force: at the start with what
// was when the last process ended. g.mu must be held.
func (g *Gateway) lost(p *plan, proxied []proxies) *losses {
	before := g.present()
	if left := g.keeper.left; left != nil {
		before = left.present
	}
	return lossesOf(before, p.external(proxied), func(k key) bool { return p.find(k) != nil })
}

// lossesOf returns what was before and is not among the addresses and interfaces that are kept.
func lossesOf(before []endpoint, kept map[netip.Addr]struct{}, serves func(key) bool) *losses {
	x := &losses{addresses: make(map[netip.Addr]conntrack.Cause)}
	for i := range before {
		o := &before[i]
		why := conntrack.AddressLost
		if !serves(key{o.Netns, o.Name}) {
			why = conntrack.InterfaceGone
			for _, a := range o.Local {
				x.links = append(x.links, a.Masked())
			}
		}
		note := func(a netip.Addr) {
			if _, still := kept[a]; !still {
				x.addresses[a] = why
			}
		}
		for _, a := range o.Local {
			note(a.Addr())
		}
		for _, a := range o.Proxied {
			note(a)
		}
	}
	return x
}

// external returns the addresses that packets find at the gateway: its own, and
// those that its rules translate from and to on its links.
func (p *plan) external(proxied []proxies) map[netip.Addr]struct{} {
	all := make(map[netip.Addr]struct{})
	for i := range p.links {
		for _, a := range p.links[i].addresses {
			all[a.Addr()] = struct{}{}
		}
		for _, a := range proxied[i].addrs {
			all[a] = struct{}{}
		}
	}
	return all
}

// end ends the flows that depend on what is lost. The state without it is in force.
func (g *Gateway) end(x *losses) {
	if len(x.addresses) == 0 && len(x.links) == 0 {
		return
	}
	causes := make(map[tuple.Addr]conntrack.Cause, len(x.addresses))
	for a, why := range x.addresses {
		causes[tuple.AddrFrom(a)] = why
	}
	n := g.engine.End(func(f *conntrack.Flow) conntrack.Cause {
		// Translated to the address, to it, or the box's own: packets cannot arrive.
		for d := range f.Tuple {
			if why := causes[f.Tuple[d].Dst]; why != conntrack.Unspecified {
				return why
			}
		}
		for d := range f.Tuple {
			if x.behind(f.Tuple[d].Src) {
				return conntrack.InterfaceGone
			}
		}
		return conntrack.Unspecified
	})
	g.log.Info("addresses lost", "addresses", len(x.addresses), "networks", len(x.links), "flows_ended", n)
}

// behind reports whether a host was on a link that goes.
func (x *losses) behind(a tuple.Addr) bool {
	if len(x.links) == 0 {
		return false
	}
	host := a.Netip()
	return slices.ContainsFunc(x.links, func(p netip.Prefix) bool { return p.Contains(host) })
}

// endStranded ends the flows bound to uplinks that a new state has taken away.
func (g *Gateway) endStranded(x *losses) {
	if !x.rerouted {
		return
	}
	if n := g.engine.EndStranded(); n > 0 {
		g.log.Info("uplinks lost", "flows_ended", n)
	}
}
