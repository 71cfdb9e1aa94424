package dataplane

import (
	"math/rand/v2"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// first is the first packet of a flow on its way through the rules. Steps that
// were not reached leave their fields zero.
type first struct {
	// Set by who asks.
	key    rules.Key       // the packet as received; then as each step leaves it to the next
	in     uint16          // the port it came in by; key.In is the host's for what the box sends
	role   role            //
	ruling *rules.Decision // begun: the pre list has had its say
	rnd    *rand.PCG
	heir   nat.Inheritance // what it was announced with
	policy uint32          // timeouts, if no rule gives any

	// Said by the steps.
	prop    conntrack.Proposal // all but Reply and Choice, which the search gives
	dst     *nat.Destination   // what the rules give; nil: the destination stays
	local   tuple.Addr         // that a redirect goes to
	dnat    nat.Choice         // why the destination has its port
	turned  *portEntry         // the outside port whose mapping it was turned round by
	hop     *route.NextHop
	egress  *portEntry
	onLink  bool          // it stays on the link that the box's kernel chose
	link    route.NextHop // hop, then
	verdict rules.Verdict
	search  nat.Search // candidates for the source

	// What it takes to have one of them; see lease.go.
	fits     ports.Fits
	terms    ports.Terms
	use      ports.Use
	hint     bool        // its port is remembered for other flows of its inside endpoint
	admitted ports.Entry // the mapping that lets it in
}

// decide says what becomes of the first packet of a flow: destination, route,
// filter, source. It changes nothing but f, so that whoever only wants to know
// may ask. On None the flow may have the first candidate of f.search that is free.
func (v *view) decide(f *first) Reason {
	f.prop.Original.Set(&f.key.Tuple)
	f.prop.Generation = v.prog.Generation
	if f.role == roleBox {
		f.prop.Status |= atKernel
	}
	if why := v.destination(f); why != None {
		return why
	}
	if why := v.way(f); why != None {
		return why
	}
	if why := v.admission(f); why != None {
		return why
	}
	return v.source(f)
}

// destination takes f through the dnat list, unless it follows its master.
func (v *view) destination(f *first) Reason {
	if f.heir.Says&nat.DstEnd != 0 {
		f.redirect(f.heir.Apply(f.key.Tuple))
		return None
	}
	dst := v.prog.Dnat(&f.key, f.ruling)
	if dst == nil && f.ruling.DnatRule == nil {
		dst = v.turnRound(f)
	}
	if dst == nil {
		if f.ruling.DnatRule == nil {
			v.entry(f)
		}
		return None
	}
	local, ok := v.localFor(f.in, f.role, f.key.Tuple.Family)
	if !ok && dst.Redirect == nat.ToLocal {
		return SourceNeeded
	}
	to, why := dst.Apply(f.key.Tuple, local, f.rnd.Uint64(), f.ruling.Turn())
	if why == nat.None {
		return NoMapping
	}
	f.redirect(to)
	f.dst, f.local, f.dnat = dst, local, why
	if f.ruling.DnatRule != nil {
		f.prop.Rule = f.ruling.DnatRule.ID
	}
	return None
}

// redirect gives f the destination that was decided for it.
func (f *first) redirect(to tuple.Tuple) {
	f.prop.Status |= conntrack.DstNATDone
	if to.Dst != f.key.Tuple.Dst || to.DstPort != f.key.Tuple.DstPort {
		f.prop.Status |= conntrack.DstNAT
	}
	f.key.Tuple = to
}

// way routes f.
func (v *view) way(f *first) (why Reason) {
	f.hop, f.egress, why = v.route(&f.key, f.ruling.ApplyMark(f.key.Mark), unknown)
	if why == NoRoute && f.role == roleBox && linkLocal(&f.key.Tuple.Dst) {
		f.onLink, f.link.Port = true, f.in
		f.hop = &f.link
		f.egress, why = v.leave(&f.key, f.in)
	}
	return why
}

// admission takes f through the filter.
func (v *view) admission(f *first) Reason {
	f.verdict = v.prog.Filter(&f.key, f.ruling)
	if f.verdict != rules.Accept {
		return refusal(f.verdict, &f.key, f.ruling)
	}
	if f.ruling.Scope == rules.PerPacket && !v.prog.Settles(&f.key, f.ruling) {
		f.prop.Status |= perPacketFilter
	}
	if f.prop.Rule == 0 && f.ruling.FilterRule != nil {
		f.prop.Rule = f.ruling.FilterRule.ID
	}
	if f.role == roleWire && f.hop.Port != HostPort && f.key.TTL <= 1 {
		return TTLExceeded // as the kernel: no entry for it
	}
	return None
}

// refusal returns the Reason of a verdict that does not accept.
func refusal(verdict rules.Verdict, k *rules.Key, d *rules.Decision) Reason {
	switch {
	case verdict != rules.Drop:
		return RuleRejected
	case d.FilterRule != nil:
		return RuleDenied
	case k.Local == rules.ToLocal:
		return LocalDenied
	}
	return PolicyDenied
}

// source takes f through the snat list, unless it follows its master.
func (v *view) source(f *first) Reason {
	var src *nat.Source
	var egress tuple.Addr
	chosen := false // by a rule, or by its master
	if f.heir.Says&nat.SrcEnd != 0 {
		f.search, chosen = f.heir.Search(f.key.Tuple, f.rnd.Uint64()), true
		f.prop.Status |= conntrack.SrcNATDone
	} else if f.hop.Port != HostPort && !f.onLink {
		var why Reason
		if src, egress, why = v.newSource(f); why != None {
			return why
		}
		if src != nil {
			src.Start(&f.search, &f.key.Tuple, &egress, f.rnd.Uint64())
			chosen = true
			if f.search.Empty() {
				return NoMapping
			}
			f.prop.Status |= conntrack.SrcNATDone
			if f.ruling.SnatRule != nil {
				f.prop.Rule = f.ruling.SnatRule.ID
			}
		}
	}
	if !chosen {
		f.search.StartNull(&f.key.Tuple, f.rnd.Uint64())
	}
	if !f.use.Inbound() {
		v.lease(f, src, egress)
	}
	f.prop.Mark = f.ruling.ApplyFlowMark(f.prop.Mark)
	f.prop.Policy = v.policyOf(f.ruling.TimeoutRule)
	if f.prop.Policy == 0 {
		f.prop.Policy = f.policy
	}
	return None
}

// newSource returns what the rules say about f's source, and the address that
// masquerade means; nil if it stays.
func (v *view) newSource(f *first) (*nat.Source, tuple.Addr, Reason) {
	if src := v.prog.Snat(&f.key, f.ruling); src != nil {
		return sourceAt(src, f.egress, &f.key.Tuple)
	}
	if f.ruling.SnatRule != nil {
		return nil, tuple.Addr{}, None
	}
	return v.turnedSource(f)
}

// key is what rules see of p.
func (v *view) key(p *packet.Packet, r role, st rules.State) (k rules.Key) {
	v.fillKey(&k, p, r, st)
	return k
}

// fillKey makes k, which is zero, the key of p.
func (v *view) fillKey(k *rules.Key, p *packet.Packet, r role, st rules.State) {
	k.Tuple.Set(&p.Tuple)
	k.In, k.Out, k.State, k.TTL, k.TOS = p.In, rules.NoPort, st, p.TTL, p.TOS
	k.Length = uint32(p.End - p.L3)
	if r != roleWire {
		k.In = HostPort
	}
	if in := v.portOf(k.In); in != nil {
		k.InArea = in.area
	}
	if _, own := v.own(&p.Tuple.Dst); own {
		k.Local = rules.ToLocal
	}
}

// localFor returns the address a redirect of a packet that came in by a port goes
// to: the primary address there.
func (v *view) localFor(port uint16, r role, family uint8) (tuple.Addr, bool) {
	if r == roleHost {
		return tuple.Addr{}, false
	}
	in := v.portOf(port)
	if in == nil {
		return tuple.Addr{}, false
	}
	return in.primary(family)
}
