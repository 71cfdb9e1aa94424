package discover

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Scope says what is looked at beside what few packets tell. Scopes can be joined.
type Scope uint8

// Scopes.
const (
	Basic    Scope = 0      // days pass nevertheless: flows of one test end before the next
	Times    Scope = 1 << 0 // lifetimes, and what needs them: weeks pass
	Forwards Scope = 1 << 1 // forwarded ports: every port is knocked at

	Everything = Times | Forwards
)

// firstInside is where the inside ports of tests begin.
const firstInside = 20000

// Run finds out how a NAT behaves. It needs the hosts for itself, on links that carry nothing else.
func Run(net Network, hosts Hosts, scope Scope) (*Report, error) {
	if len(hosts.Inside) < MinInside || len(hosts.Outside) < MinOutside {
		return nil, fmt.Errorf("%d inside and %d outside hosts: at least %d and %d are needed",
			len(hosts.Inside), len(hosts.Outside), MinInside, MinOutside)
	}
	four := hosts.Inside[0].Is4()
	for _, a := range slices.Concat(hosts.Inside, hosts.Outside) {
		if a.Is4() != four || a.Is4In6() {
			return nil, fmt.Errorf("host %v: all hosts must be of one family", a)
		}
	}
	p := &prober{net: net, hosts: hosts, port: firstInside, parts: make(map[partKey]*parts), fault: make(map[string]struct{})}
	r := &Report{Family: "ipv6"}
	if four {
		r.Family = "ipv4"
	}
	transports := [...]struct {
		proto protocol
		into  *Transport
	}{{udp, &r.UDP}, {tcp, &r.TCP}}
	if scope&Forwards != 0 {
		for _, t := range transports {
			t.into.Forwards = p.forwards(t.proto)
		}
	}
	for _, t := range transports {
		p.transport(t.proto, t.into, scope)
	}
	p.connections(&r.Connections)
	p.rest()
	p.queries(&r.ICMP, scope)
	p.rest()
	p.fragments(&r.Fragments)
	p.sizes(&r.Sizes)
	r.Faults = slices.Sorted(maps.Keys(p.fault))
	return r, nil
}

// transport runs the tests that UDP and TCP have in common.
func (p *prober) transport(proto protocol, r *Transport, scope Scope) {
	r.Mapping = p.mapping(proto)
	if r.Mapping == NoTraffic {
		return
	}
	p.rest()
	r.Filtering = p.filtering(proto)
	if r.Mapping.translates() {
		p.rest()
		r.Hairpin = p.hairpin(proto)
		p.rest()
		r.Pooling = p.pooling(proto)
		p.rest()
		p.ports(proto, r)
	}
	p.rest()
	r.Errors = p.errors(proto)
	p.rest()
	if scope&Times == 0 {
		return
	}
	r.Lifetimes.Opened = p.lifetime(proto, opened)
	r.Lifetimes.Answered = p.lifetime(proto, answered)
	r.Lifetimes.Lasting = p.lifetime(proto, lasting)
	if proto == tcp {
		r.Lifetimes.Closed = p.lifetime(proto, closed)
		r.Lifetimes.Reset = p.lifetime(proto, reset)
	}
	r.Refresh = p.refresh(proto, r.Lifetimes.Lasting)
	if proto == udp && r.Preservation == Always {
		r.HoldDown = p.holdDown(r.Lifetimes.Answered)
	}
}

// queries runs the tests of ICMP echo.
func (p *prober) queries(r *Queries, scope Scope) {
	r.Mapping = p.mapping(icmp)
	if r.Mapping == NoTraffic {
		return
	}
	var t Transport
	if r.Mapping.translates() {
		p.ports(icmp, &t)
		r.Preservation, r.Overload = t.Preservation, t.Overload
	}
	r.Errors = p.errors(icmp)
	if scope&Times != 0 {
		r.Lifetimes.Opened = p.lifetime(icmp, opened)
	}
}

// rest lets every flow end, so that clients have all ports that they may have.
func (p *prober) rest() {
	p.net.Wait(longest)
	p.forget()
}

// twin returns the endpoint of another inside host with the same port.
func (p *prober) twin(of netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(p.hosts.Inside[1], of.Port())
}
