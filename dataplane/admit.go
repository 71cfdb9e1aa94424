package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// perPacketFilter marks an entry whose filter verdict, in one direction at least,
// held for one packet only: the rules looked at a field that differs from packet
// to packet.
const perPacketFilter = conntrack.UserStatus

// claimTries bounds how often a new flow may meet an entry that is just ending.
const claimTries = 8

// admit takes the first packet of a flow through the rules and makes its entry:
// expectation, destination NAT, route, filter, source NAT, bind. In that order,
// each once.
func (w *Worker) admit(p *packet.Packet, r role) {
	var seg conntrack.Segment
	segmentOf(p, &seg)
	if v := w.ct.Admissible(&p.Tuple, &seg); v.Invalid() {
		w.drop(ofVerdict[v])
		return
	}
	if w.dhcpToBox(p, r) {
		return
	}
	if why := w.reversePath(p, r); why != None {
		w.drop(why)
		return
	}
	d := &w.decision
	k := w.key(p, r, rules.New)
	prop := conntrack.Proposal{Original: k.Tuple}

	// Expectation. Rules translate its flow as any other; the filter sees it as related.
	var x conntrack.Announced
	if w.ct.Expected(&k.Tuple, &x) {
		x.Inherit(&prop)
		k.State, k.Mark = rules.Related, prop.Mark
	}

	// Destination.
	if dst := w.v.prog.Dnat(&k, d); dst != nil {
		local, ok := w.localFor(p, r)
		if !ok && dst.Redirect == nat.ToLocal {
			w.drop(SourceNeeded)
			return
		}
		k.Tuple, _ = dst.Apply(k.Tuple, local, w.rnd.Uint64())
		prop.Status |= conntrack.DstNATDone
		if k.Tuple.Dst != prop.Original.Dst || k.Tuple.DstPort != prop.Original.DstPort {
			prop.Status |= conntrack.DstNAT
		}
		if d.DnatRule != nil {
			prop.Rule = d.DnatRule.ID
		}
	}

	// Route.
	hop, why := w.route(&k)
	onLink := r == roleBox && why == NoRoute && linkLocal(&k.Tuple.Dst)
	if onLink {
		hop, why = route.NextHop{Port: p.In}, None // the link that the box's kernel chose
	}
	if why != None {
		w.refuse(p, conntrack.Ref{}, why, r)
		return
	}
	eg := w.v.portOf(hop.Port)
	if eg == nil {
		w.drop(EgressDown)
		return
	}
	k.Out, k.OutArea = hop.Port, eg.area

	// Filter.
	if !w.filter(p, &k, d, r) {
		return
	}
	if d.Scope == rules.PerPacket {
		prop.Status |= perPacketFilter
	}
	if prop.Rule == 0 && d.FilterRule != nil {
		prop.Rule = d.FilterRule.ID
	}
	if r == roleWire && hop.Port != HostPort && p.TTL <= 1 {
		w.refuse(p, conntrack.Ref{}, TTLExceeded, r) // as the kernel: no entry for it
		return
	}

	// Source.
	search, key := nat.NullSearch(k.Tuple, w.rnd.Uint64()), searchOf(k.Tuple, nil)
	if hop.Port != HostPort && !onLink {
		if src := w.v.prog.Snat(&k, d); src != nil {
			addr, ok := eg.primary(k.Tuple.Family)
			if !ok && src.Masquerade() {
				w.drop(SourceNeeded)
				return
			}
			search, key = src.Search(k.Tuple, addr, w.rnd.Uint64()), searchOf(k.Tuple, d.SnatRule)
			prop.Status |= conntrack.SrcNATDone
			if d.SnatRule != nil {
				prop.Rule = d.SnatRule.ID
			}
		}
	}
	prop.Mark = d.ApplyMark(prop.Mark)
	prop.Policy = w.v.policyOf(d.TimeoutRule)
	if w.exhausted.holds(&key, w.now) {
		w.refuse(p, conntrack.Ref{}, PortsExhausted, r)
		return
	}
	w.bind(p, &prop, &search, &key, &seg, r)
}

// key is what rules see of p.
func (w *Worker) key(p *packet.Packet, r role, st rules.State) rules.Key {
	k := rules.Key{Tuple: p.Tuple, In: p.In, Out: rules.NoPort, State: st, TTL: p.TTL, TOS: p.TOS}
	if r != roleWire {
		k.In = HostPort
	}
	if in := w.v.portOf(k.In); in != nil {
		k.InArea = in.area
	}
	if _, own := w.v.local[p.Tuple.Dst]; own {
		k.Local = rules.ToLocal
	}
	return k
}

// localFor returns the address a redirect of p goes to: the primary address of
// the interface p came in by.
func (w *Worker) localFor(p *packet.Packet, r role) (tuple.Addr, bool) {
	if r == roleHost {
		return tuple.Addr{}, false
	}
	in := w.v.portOf(p.In)
	if in == nil {
		return tuple.Addr{}, false
	}
	return in.primary(p.Tuple.Family)
}

// route finds where a packet with k's tuple goes, and updates k.Local.
func (w *Worker) route(k *rules.Key) (route.NextHop, Reason) {
	if _, own := w.v.local[k.Tuple.Dst]; own {
		k.Local = rules.ToLocal
		return route.NextHop{Port: HostPort}, None
	}
	k.Local = rules.Forward
	hop, ok := w.routeTo(&k.Tuple.Dst)
	if !ok {
		return hop, NoRoute
	}
	return hop, None
}

// filter asks the rules whether p may pass and disposes of it when it may not.
func (w *Worker) filter(p *packet.Packet, k *rules.Key, d *rules.Decision, r role) bool {
	switch w.v.prog.Filter(k, d) {
	case rules.Accept:
		return true
	case rules.RejectReset:
		w.reset(p, r)
		w.drop(RuleRejected)
	case rules.RejectProhibited:
		w.answer(p, conntrack.Ref{}, RuleRejected, r)
		w.drop(RuleRejected)
	default:
		switch {
		case d.FilterRule != nil:
			w.drop(RuleDenied)
		case k.Local == rules.ToLocal:
			w.drop(LocalDenied)
		default:
			w.drop(PolicyDenied)
		}
	}
	return false
}

// bind claims tuples for a new flow, candidate by candidate, and sends its
// first packet.
func (w *Worker) bind(p *packet.Packet, prop *conntrack.Proposal, search *nat.Search, key *searchKey, seg *conntrack.Segment, r role) {
	fixed, tries := prop.Status, 0
	for cand, why, ok := search.Next(); ok; cand, why, ok = search.Next() {
		tries++
		cand.Zone = prop.Original.Zone
		if prop.Reply, ok = cand.Inverse(); !ok {
			w.drop(InvalidNew)
			return
		}
		prop.Status, prop.Choice = fixed, uint8(why)
		if cand.Src != prop.Original.Src || cand.SrcPort != prop.Original.SrcPort {
			prop.Status |= conntrack.SrcNAT
		}
		if w.claim(p, prop, seg, r) {
			return
		}
	}
	if tries > longSearch {
		w.exhausted.add(key, w.now)
	}
	w.refuse(p, conntrack.Ref{}, PortsExhausted, r)
}

// claim makes the entry that prop asks for and sends p through it. When another
// packet of the flow was faster, p joins the entry of that one. It reports false
// when the reply tuple is taken.
func (w *Worker) claim(p *packet.Packet, prop *conntrack.Proposal, seg *conntrack.Segment, r role) bool {
	for range claimTries {
		ref, claim := w.ct.Claim(prop, w.tick)
		switch claim {
		case conntrack.Claimed:
			w.claimed = ref.Slot
		case conntrack.OriginalTaken:
		case conntrack.ReplyTaken:
			return false
		default:
			w.refuse(p, conntrack.Ref{}, ofClaim[claim], r)
			return true
		}
		v := w.ct.Track(ref, seg, w.tick)
		switch {
		case v == conntrack.Restart:
			continue // the other entry was at its end: now its tuple is free
		case v.Invalid():
			w.undo(ref)
			w.drop(ofVerdict[v])
		default:
			w.forward(p, w.e.table.Entry(ref.Slot), ref, r)
		}
		w.claimed = 0
		return true
	}
	w.drop(CommitRace)
	return true
}

// decide starts the decision about the packet in hand.
func (w *Worker) decide() *rules.Decision {
	w.decision = rules.Decision{Hits: w.v.hits[w.index]}
	return &w.decision
}

// pre runs the pre list for a packet before its lookup counts: it may say
// notrack, or give it a zone of its own. It reports true when it has dealt with
// the packet.
func (w *Worker) pre(p *packet.Packet, ref *conntrack.Ref, r role) bool {
	d := w.decide()
	k := w.key(p, r, rules.New)
	w.v.prog.Pre(&k, d)
	switch {
	case d.Tracking == rules.NoTrack:
		w.untracked(p, r)
		return true
	case d.Zone != 0:
		p.Tuple.Zone = d.Zone
		if p.Flags&packet.ICMPError != 0 {
			*ref = w.findError(p)
		} else {
			*ref = w.ct.Find(&p.Tuple)
		}
	}
	return false
}

// untracked forwards a packet without an entry: filter and route only.
func (w *Worker) untracked(p *packet.Packet, r role) {
	if why := w.reversePath(p, r); why != None {
		w.drop(why)
		return
	}
	k := w.key(p, r, rules.Untracked)
	hop, why := w.route(&k)
	if why != None {
		w.refuse(p, conntrack.Ref{}, why, r)
		return
	}
	eg := w.v.portOf(hop.Port)
	if eg == nil {
		w.drop(EgressDown)
		return
	}
	k.Out, k.OutArea = hop.Port, eg.area
	if !w.filter(p, &k, &w.decision, r) {
		return
	}
	w.forwardPlain(p, &hop, r)
}

// mustFilter reports whether a later packet of a flow has to meet the filter:
// its direction's last verdict was for one packet, or there is none under the
// running rules. Of the latter the next hop tells, which Apply makes miss.
func (w *Worker) mustFilter(e *conntrack.Entry, ref conntrack.Ref) bool {
	if e.Status()&perPacketFilter != 0 {
		return true
	}
	_, _, settled := w.e.neigh.Get(route.Hint(e.Hint(ref.Dir)))
	return !settled
}

// refilter runs the filter for a later packet of a flow. It reports whether the
// packet may go on. As in netfilter's forward hook, rules see its destination
// translated and its source not yet.
func (w *Worker) refilter(p *packet.Packet, e *conntrack.Entry, ref conntrack.Ref, r role) bool {
	d := rules.Decision{Hits: w.v.hits[w.index]}
	k := w.key(p, r, ruleState(e, ref.Dir))
	k.Mark = e.Mark()
	other := e.Tuple(ref.Dir.Other())
	to, _ := other.Inverse()
	k.Tuple.Dst, k.Tuple.DstPort = to.Dst, to.DstPort
	hop, why := w.route(&k)
	if why != None {
		w.refuse(p, ref, why, r)
		return false
	}
	if eg := w.v.portOf(hop.Port); eg != nil {
		k.Out, k.OutArea = hop.Port, eg.area
	}
	if !w.filter(p, &k, &d, r) {
		return false
	}
	if d.Scope == rules.PerPacket {
		e.SetStatus(perPacketFilter)
	}
	return true
}
