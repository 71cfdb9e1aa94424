package control

import (
	"cmp"
	"net/netip"
	"slices"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// maxProxied bounds the addresses that the gateway answers ARP and neighbour
// solicitations for on one interface beside its own.
const maxProxied = 1 << 16

// proxied returns the addresses that neighbours on l must find at the gateway
// though no interface has them: on-link addresses that a dnat rule translates
// from, or that a rule translates sources to. Real hosts keep theirs: what a dnat
// rule translates to, the routers on the link, and the link's own two addresses.
// Of ranges too large for one link, truncated tells how many addresses were left
// out.
func (p *plan) proxied(l *link) (addrs []netip.Addr, truncated uint64) {
	ranges := p.proxiedRanges(l)
	if len(ranges) == 0 {
		return nil, 0
	}
	others := p.others(l)
	targets := p.targets()
	want := make(map[netip.Addr]struct{})
	for _, r := range ranges {
		if r.Size() > uint64(maxProxied-len(want)) {
			truncated += r.Size()
			continue
		}
		for a := r.First.Netip(); ; a = a.Next() {
			if _, known := others[a]; !known && !contains(targets, a) {
				want[a] = struct{}{}
			}
			if a == r.Last.Netip() {
				break
			}
		}
	}
	for a := range want {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, truncated
}

// proxies are the addresses that are proxied on a link.
type proxies struct {
	addrs     []netip.Addr
	truncated uint64 // so many were left out
}

// proxies returns what is proxied on each link, in their order.
func (p *plan) proxies() []proxies {
	all := make([]proxies, len(p.links))
	for i := range p.links {
		all[i].addrs, all[i].truncated = p.proxied(&p.links[i])
	}
	return all
}

// others returns addresses that are not to be proxied on l, whatever the rules
// say.
func (p *plan) others(l *link) map[netip.Addr]struct{} {
	all := make(map[netip.Addr]struct{})
	for a := range p.local() {
		all[a] = struct{}{}
	}
	for _, r := range l.routes {
		all[r.Gateway] = struct{}{}
	}
	for _, a := range l.addresses {
		if bits := a.Addr().BitLen() - a.Bits(); bits > 1 {
			r := rules.Prefix(a)
			all[r.First.Netip()] = struct{}{} // the network; in IPv6 any router (RFC 4291 section 2.6.1)
			if a.Addr().Is4() {
				all[r.Last.Netip()] = struct{}{} // broadcast
			}
		}
	}
	return all
}

// proxiedRanges returns the parts of the rules' ranges that lie on l.
func (p *plan) proxiedRanges(l *link) []nat.AddrRange {
	var ranges []nat.AddrRange
	add := func(all []nat.AddrRange) {
		for _, r := range all {
			for _, a := range l.addresses {
				if part, ok := intersect(r, rules.Prefix(a)); ok && a.Bits() < a.Addr().BitLen() {
					ranges = append(ranges, part)
				}
			}
		}
	}
	lists := &p.cfg.Rules.Lists
	for i := range lists[rules.Dnat] {
		r := &lists[rules.Dnat][i]
		if r.TranslatesDestination() && r.If.Dst.Sense == rules.Is && l.meets(&r.If.In, &r.If.InArea) {
			add(r.If.Dst.Values)
		}
		if r.Twice != nil {
			add(r.Twice.Addrs)
		}
	}
	for i := range lists[rules.Snat] {
		if r := &lists[rules.Snat][i]; l.meets(&r.If.Out, &r.If.OutArea) {
			add(r.Src.Targets())
		}
	}
	return ranges
}

// meets reports whether conditions on an interface and its area can hold for l.
func (l *link) meets(name, area *rules.Match[string]) bool {
	return holds(name, func(v string) bool { return rules.MatchName(v, l.name) }) &&
		holds(area, func(v string) bool { return v == l.conf.Area })
}

func holds[T any](m *rules.Match[T], fits func(T) bool) bool {
	return m.IsAny() || slices.ContainsFunc(m.Values, fits) == (m.Sense == rules.Is)
}

// targets returns all addresses that dnat rules translate to, by their first
// ones. What netmap and nptv6 have on the inside is a plan of addresses, not a
// list of hosts, and counts all the same: the hosts of it answer for themselves.
func (p *plan) targets() []nat.AddrRange {
	var all []nat.AddrRange
	for i := range p.cfg.Rules.Lists[rules.Dnat] {
		all = append(all, p.cfg.Rules.Lists[rules.Dnat][i].Dest.Targets()...)
	}
	slices.SortFunc(all, func(a, b nat.AddrRange) int {
		return cmp.Or(slices.Compare(a.First[:], b.First[:]), slices.Compare(a.Last[:], b.Last[:]))
	})
	return merge(all)
}

// merge joins sorted ranges that overlap.
func merge(sorted []nat.AddrRange) []nat.AddrRange {
	var out []nat.AddrRange
	for _, r := range sorted {
		if n := len(out); n > 0 && out[n-1].Contains(r.First) {
			if !out[n-1].Contains(r.Last) {
				out[n-1].Last = r.Last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// contains reports whether a is in one of ranges, which merge has made.
func contains(ranges []nat.AddrRange, a netip.Addr) bool {
	i, found := slices.BinarySearchFunc(ranges, tuple.AddrFrom(a), func(r nat.AddrRange, a tuple.Addr) int {
		return slices.Compare(r.First[:], a[:])
	})
	return found || i > 0 && ranges[i-1].Contains(tuple.AddrFrom(a))
}

// intersect returns the common part of a and b, if there is one.
func intersect(a, b nat.AddrRange) (nat.AddrRange, bool) {
	r := a
	if slices.Compare(b.First[:], r.First[:]) > 0 {
		r.First = b.First
	}
	if slices.Compare(b.Last[:], r.Last[:]) < 0 {
		r.Last = b.Last
	}
	return r, slices.Compare(r.First[:], r.Last[:]) <= 0
}
