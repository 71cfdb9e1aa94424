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

// lost compares p, and what is proxied in it, with what is in force. g.mu must be held.
func (g *Gateway) lost(p *plan, proxied []proxies) *losses {
	x := &losses{addresses: make(map[netip.Addr]conntrack.Cause)}
	kept := p.external(proxied)
	for _, o := range g.ports {
		why := conntrack.AddressLost
		if p.find(o.key) == nil {
			why = conntrack.InterfaceGone
			for _, a := range o.local {
				x.links = append(x.links, a.Masked())
			}
		}
		note := func(a netip.Addr) {
			if _, still := kept[a]; !still {
				x.addresses[a] = why
			}
		}
		for _, a := range o.local {
			note(a.Addr())
		}
		for _, a := range o.proxied {
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
