package control

import (
	"net/netip"
	"slices"

	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// maxProxied bounds the addresses that the gateway answers ARP and neighbour
// solicitations for on one interface beside its own.
const maxProxied = 1 << 16

// proxied returns the addresses that neighbours on l must find at the gateway
// though no interface has them: on-link addresses that a dnat rule translates
// from, or a snat rule translates to. Real hosts, which a dnat rule translates
// to, keep theirs. Of ranges too large for one link, truncated tells how many
// addresses were left out.
func (p *plan) proxied(l *link) (addrs []netip.Addr, truncated uint64) {
	own := p.local()
	want := make(map[netip.Addr]struct{})
	for _, r := range p.proxiedRanges(l) {
		if r.Size() > uint64(maxProxied-len(want)) {
			truncated += r.Size()
			continue
		}
		for a := r.First.Netip(); ; a = a.Next() {
			if _, mine := own[a]; !mine && !p.isTarget(a) {
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
		if (r.Then == rules.ActDnat || r.Then == rules.ActRedirect) && r.If.Dst.Sense == rules.Is && l.meets(&r.If.In, &r.If.InArea) {
			add(r.If.Dst.Values)
		}
	}
	for i := range lists[rules.Snat] {
		r := &lists[rules.Snat][i]
		if r.Then == rules.ActSnat && l.meets(&r.If.Out, &r.If.OutArea) {
			add(r.Src.Addrs)
		}
	}
	return ranges
}

// meets reports whether conditions on an interface and its area can hold for l.
func (l *link) meets(name, area *rules.Match[string]) bool {
	return holds(name, func(v string) bool { return matchName(v, l.name) }) &&
		holds(area, func(v string) bool { return v == l.conf.Area })
}

func holds[T any](m *rules.Match[T], fits func(T) bool) bool {
	return m.IsAny() || slices.ContainsFunc(m.Values, fits) == (m.Sense == rules.Is)
}

// matchName reports whether a name of a rule, which may end in *, fits name.
func matchName(pattern, name string) bool {
	if n := len(pattern) - 1; n >= 0 && pattern[n] == '*' {
		return len(name) >= n && name[:n] == pattern[:n]
	}
	return pattern == name
}

// isTarget reports whether a dnat rule translates to a.
func (p *plan) isTarget(a netip.Addr) bool {
	for i := range p.cfg.Rules.Lists[rules.Dnat] {
		for _, r := range p.cfg.Rules.Lists[rules.Dnat][i].Dest.Addrs {
			if r.First.Netip().Compare(a) <= 0 && a.Compare(r.Last.Netip()) <= 0 {
				return true
			}
		}
	}
	return false
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
