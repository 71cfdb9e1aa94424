package dataplane

import (
	"net/netip"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// What a helper tells a host about an external port is a promise: what comes from that
// host to that port goes to one inside socket, until the flow has come and ended, or the
// expectation ends. A flow that the socket itself begins to that host leaves from the port,
// and keeps the promise as well (bindPromised). Who promises takes leases (ports.Set.Promise) and then looks whether
// some flow has the port already; a flow that has claimed a port looks whether it was
// promised (promised). So one of two that want the same gives way, and nobody else has
// to know. The expectation holds the leases, then the flow that met it.

// promise is how the ports of an announcement are taken.
type promise struct {
	seen  netip.Addr  // the external address
	terms ports.Terms // of the rule that gave the master its source
	fits  ports.Fits
	plan  nat.PortRange // ports that the client may have; zero: all
	at    uint16        // the port that the inside socket has already, 0: none known
}

// promising returns how ports are taken for what the sender of c announces.
func (h *herald) promising(c *alg.Context) promise {
	v := h.w.v
	p := promise{seen: c.SelfSeen().Addr()}
	p.fits = ports.Fits{Source: &masqueraded, Egress: tuple.AddrFrom(p.seen)}
	rule := v.prog.Rule(h.w.e.table.Entry(h.ref.Slot).Rule())
	if rule != nil && rule.List == rules.Snat {
		p.terms = v.terms[rule.Index]
		src := rule.NewSource()
		if src.Plan != nil {
			_, p.plan, _ = src.Plan.Block(tuple.AddrFrom(c.Self().Addr()))
		} else if src.Map == nil {
			p.fits.Source = src
		}
	}
	return p
}

// may reports whether the rules let the announcement have a port.
func (p *promise) may(x *alg.Expectation, port uint16) bool {
	if !leasable(x.Proto) {
		return true // rules name ports, not call ids
	}
	return (p.plan.IsZero() || p.plan.Contains(port)) && p.fits.Source.Allows(tuple.AddrFrom(p.seen), port, p.fits.Egress)
}

// ends returns what leases know of an expectation with a promise. The remote address is
// zero when more than one may come.
func ends(x *conntrack.Expectation) ports.Flow {
	addr, port, _ := destinationOf(x)
	f := ports.Flow{
		Proto:    x.Tuple.Proto,
		Inside:   ports.Endpoint{Addr: addr, Port: port, Zone: uint16(x.Data[dataOwn] >> dataZone)},
		External: ports.Endpoint{Addr: x.Tuple.Dst, Port: x.Tuple.DstPort, Zone: x.Tuple.Zone},
	}
	if whole := conntrack.WholeMask(x.Mask.SrcPort); x.Mask == whole {
		f.Remote = ports.Endpoint{Addr: x.Tuple.Src, Port: x.Tuple.SrcPort, Zone: x.Tuple.Zone}
	}
	return f
}

// holds returns what an expectation holds, ports.NoUse if nothing.
func holds(x *conntrack.Expectation) ports.Use {
	return ports.Use(x.Data[dataOwn] >> dataUse)
}

// take takes what p needs for x, or nothing.
func (h *herald) take(c *alg.Context, p *promise, x *conntrack.Expectation) error {
	f := ends(x)
	now := ports.Tick(h.w.tick)
	terms := p.terms
	if _, ok := h.w.e.leases.Explicit(&f, p.fits); ok {
		terms.Mapping = nat.EndpointIndependent
	}
	use := terms.Announced(h.w.v.sharing)
	out, at, fresh := h.w.e.leases.Promise(&f, use, &terms, p.fits, now)
	switch out {
	case ports.Granted:
	case ports.Elsewhere:
		if at.Addr == f.External.Addr {
			p.at = at.Port
		}
		return alg.ErrNoPort
	case ports.QuotaReached:
		return alg.ErrQuota
	case ports.Full:
		return alg.ErrLimit
	default:
		return alg.ErrNoPort
	}
	if fresh && h.othersHave(c, &x.Tuple, f.Inside) {
		h.w.e.leases.Abandon(&f, use, now)
		return alg.ErrNoPort
	}
	x.Data[dataOwn] |= uint64(use) << dataUse
	return nil
}

// othersHave reports whether packets with tuple k, from whatever port, may be those of
// another inside socket's flow. Flows of inside itself that the master tells of are none.
func (h *herald) othersHave(c *alg.Context, k *tuple.Tuple, inside ports.Endpoint) bool {
	n := h.w.e.table.Toward(k)
	if n == 0 {
		return false
	}
	peer := c.Peer().Port()
	for _, port := range [...]uint16{k.SrcPort, peer, peer - 1} { // data comes from the port before (RFC 959 section 3.2)
		from := *k
		from.SrcPort = port
		if ref := h.w.ct.Find(&from); port != 0 && ref.Found() {
			back := h.w.e.table.Entry(ref.Slot).Tuple(ref.Dir.Other())
			if back.Src == inside.Addr && back.SrcPort == inside.Port {
				n--
			}
		}
	}
	return n > 0
}

// free reports whether it is worth a try to promise port for x.
func (h *herald) free(c *alg.Context, x *conntrack.Expectation) bool {
	f := ends(x)
	if inside, ok := h.w.e.leases.PromisedTo(&f); ok {
		return inside == f.Inside
	}
	return !h.othersHave(c, &x.Tuple, f.Inside)
}

// expectOver gives back what an expectation held that ended without a flow.
func (e *Engine) expectOver(x *conntrack.Over, now conntrack.Tick) {
	e.release(x.Expectation, ports.Tick(now))
}

// release gives back what an expectation held.
func (e *Engine) release(x *conntrack.Expectation, now ports.Tick) {
	if use := holds(x); use != ports.NoUse {
		f := ends(x)
		e.leases.Release(&f, use, now)
	}
}

// promised reports whether a helper has told the peer of prop that what would be answers
// to it are for another socket than the flow's own.
func (w *Worker) promised(prop *conntrack.Proposal) bool {
	if !w.e.leases.Promises() {
		return false
	}
	f := ports.Of(&prop.Original, &prop.Reply, ports.NoUse)
	return w.e.leases.Promised(&f)
}

// promisedAt returns the external endpoint that a helper has told the remote host of f
// for its inside one, if f may have it.
func (e *Engine) promisedAt(f *first) (ports.Endpoint, bool) {
	if !e.leases.Promises() {
		return ports.Endpoint{}, false
	}
	fits := f.fits
	switch {
	case f.heir.Says&nat.SrcEnd != 0 && f.heir.SrcPort == 0:
		fits = ports.Fits{Source: &masqueraded, Egress: f.heir.Src}
	case fits.Source == nil:
		return ports.Endpoint{}, false
	}
	flow := f.flow()
	return e.leases.PromisedAt(&flow, fits)
}

// keep has f, which met x, take what x held.
func (f *first) keep(x *conntrack.Expectation) {
	if use := holds(x); use != ports.NoUse {
		f.use, f.admitted = use, ports.Entry{Inside: ends(x).Inside, Use: use}
	}
}

// SeenAs implements alg.Gateway: what the receiver calls a socket of the sender's side,
// by what this flow has announced, by mappings, and by the flow that the socket has with
// the receiver; or, for a receiver inside, which inside socket an external one is.
func (h *herald) SeenAs(c *alg.Context, proto uint8, ep netip.AddrPort) (netip.AddrPort, bool) {
	seen := c.SelfSeen().Addr()
	if port, ok := h.known(proto, ep); ok {
		return netip.AddrPortFrom(seen, port), true
	}
	there, back := &c.Tuple[c.Dir], &c.Tuple[c.Dir.Other()]
	f := ports.Flow{
		Proto:    proto,
		Inside:   ports.Endpoint{Addr: tuple.AddrFrom(ep.Addr()), Port: ep.Port(), Zone: there.Zone},
		External: ports.Endpoint{Addr: tuple.AddrFrom(seen), Zone: back.Zone},
		Remote:   ports.Endpoint{Addr: there.Dst, Port: there.DstPort, Zone: back.Zone},
	}
	if at, ok := h.w.e.leases.Seen(&f); ok {
		return netip.AddrPortFrom(seen, at.Port), true
	}
	k := *there
	k.Proto, k.Src, k.SrcPort = proto, f.Inside.Addr, f.Inside.Port
	if ref := h.w.ct.Find(&k); ref.Found() {
		reply := h.w.e.table.Entry(ref.Slot).Tuple(ref.Dir.Other())
		return netip.AddrPortFrom(reply.Dst.Netip(), reply.DstPort), true
	}
	return h.behind(c, proto, ep)
}

// behind returns the inside socket that an external one stands for, if the receiver is
// inside, too: it would otherwise have to reach its neighbour by way of the gateway.
func (h *herald) behind(c *alg.Context, proto uint8, ep netip.AddrPort) (netip.AddrPort, bool) {
	v := h.w.v
	external, receiver := tuple.AddrFrom(ep.Addr()), tuple.AddrFrom(c.PeerSelf().Addr())
	if out, _ := v.outer(&external); out == nil || !v.inside(&receiver) {
		return netip.AddrPort{}, false
	}
	there := &c.Tuple[c.Dir]
	f := ports.Flow{
		Proto:    proto,
		External: ports.Endpoint{Addr: external, Port: ep.Port(), Zone: there.Zone},
		Remote:   ports.Endpoint{Addr: there.Src, Zone: there.Zone},
	}
	at, ok := h.w.e.leases.PromisedTo(&f)
	if !ok {
		at, ok = h.w.e.leases.Owner(&f)
	}
	return netip.AddrPortFrom(at.Addr.Netip(), at.Port), ok
}

// inside reports whether a is the address of a host in an inside area.
func (v *view) inside(a *tuple.Addr) bool {
	if _, own := v.own(a); own {
		return false
	}
	at := v.portTo(a)
	return at != nil && v.prog.Area(at.area).Side == rules.Inside
}
