package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// Which port a flow gets, and what it takes for it: bind tries candidates until one
// is granted by the leases (package ports) and free in the table.
//
//	promise the port that a helper has told the remote host of, if it did
//	mapped  the port that the inside endpoint has already, under endpoint-independent
//	        and address-dependent mapping the only one; under mapping linux the first
//	blocks  the blocks that the client has, under a rule with blocks
//	search  what the rule allows, best first (package nat)
//	kept    ports that are kept for this client, if nothing else is left

const (
	crowdTries = 8   // candidates of one address that are tried one by one
	keptTries  = 256 // kept ports that are tried: most of them are others'
	remapTries = 4   // mappings that end while they are being joined
)

// leasable reports whether flows of a protocol have ports, or identifiers, that
// can be somebody's.
func leasable(proto uint8) bool { return tuple.HasPorts(proto) || tuple.IsICMP(proto) }

// addTerms prepares what rules say about the ports of their flows.
func (v *view) addTerms(leases *ports.Set) {
	v.leases = leases
	v.terms = make([]ports.Terms, len(v.prog.Rules()))
	for _, r := range v.prog.Rules() {
		if r.List != rules.Snat {
			continue
		}
		src := r.NewSource()
		v.terms[r.Index] = ports.Terms{Mapping: src.Mapping, Filtering: src.Filtering, Hold: src.HoldDown, Quota: src.PortsPerClient,
			BlockSize: src.BlockSize, MaxBlocks: src.MaxBlocks, Rule: r.ID}
		if src.Mapping != nat.Linux {
			v.sharing = ports.Mixed
		}
	}
}

// lease says which leases f must hold to leave with a source of src, nil if its
// source stays.
func (v *view) lease(f *first, src *nat.Source, egress tuple.Addr) {
	f.fits.Source, f.fits.Egress = src, egress
	if !leasable(f.key.Tuple.Proto) {
		return
	}
	if src == nil {
		// What is the gateway's own, or follows a master, must not meet exclusive ports.
		if _, own := v.own(&f.key.Tuple.Src); own || f.heir.Says&nat.SrcEnd != 0 {
			f.use = f.terms.Outbound(v.sharing)
		}
		return
	}
	if r := f.ruling.SnatRule; r != nil {
		f.terms = v.terms[r.Index]
	}
	f.use = f.terms.Outbound(v.sharing)
	f.hint = f.terms.Mapping == nat.Linux && src.Flags&(nat.Random|nat.FullyRandom) == 0
	if f.terms.Mapping != nat.EndpointIndependent && v.leases.HasExplicit() {
		v.leaseExplicit(f)
	}
}

// leaseExplicit has f join the mapping that its inside endpoint was given at its
// request, if there is one, whatever mapping its rule makes.
func (v *view) leaseExplicit(f *first) {
	flow := f.flow()
	if _, ok := v.leases.Explicit(&flow, f.fits); !ok {
		return
	}
	f.terms.Mapping, f.hint = nat.EndpointIndependent, false
	if f.terms.Filtering == nat.Linux {
		f.terms.Filtering = nat.AddressAndPortDependent
	}
	f.use = f.terms.Outbound(v.sharing)
}

// entry lets f in by the mapping of the external endpoint that it goes to, if there
// is one whose filtering admits it. What the gateway itself takes goes there first:
// packets to a service of its own, and what a filter rule lets in. From inside no
// filtering is asked (hairpin.go).
func (v *view) entry(f *first) {
	k := &f.key
	if !tuple.HasPorts(k.Tuple.Proto) || v.leases == nil || v.leases.Empty() {
		return
	}
	flow := ports.Flow{Proto: k.Tuple.Proto,
		External: ports.Endpoint{Addr: k.Tuple.Dst, Port: k.Tuple.DstPort, Zone: k.Tuple.Zone},
		Remote:   ports.Endpoint{Addr: k.Tuple.Src, Port: k.Tuple.SrcPort, Zone: k.Tuple.Zone}}
	if v.fromInside(k) {
		v.turnRoundByMapping(f, &flow)
		return
	}
	e, ok := v.leases.Inbound(&flow)
	if !ok || k.Local == rules.ToLocal && v.locallyTaken(f) {
		return
	}
	to := k.Tuple
	to.Dst, to.DstPort = e.Inside.Addr, e.Inside.Port
	f.redirect(to)
	f.admitted, f.use, f.terms = e, e.Use, e.Terms
	f.dnat = nat.Reused
	r := v.prog.Rule(e.Terms.Rule)
	f.ruling.Enter(r, k)
	if r != nil {
		f.prop.Rule = r.ID
	}
}

// locallyTaken reports whether a packet to one of the gateway's addresses is for a
// service of its own, or let in by a rule.
func (v *view) locallyTaken(f *first) bool {
	t := &f.key.Tuple
	if v.host != nil && v.host.Owns(t.Proto, t.Dst, t.DstPort) {
		return true
	}
	k, d := f.key, *f.ruling
	k.Out, k.OutArea, d.Purpose = HostPort, rules.AreaHost, rules.Ask
	return v.prog.Filter(&k, &d) == rules.Accept && d.FilterRule != nil
}

// bind finds a port for a new flow, claims its tuples, and sends its first packet.
func (w *Worker) bind(b *binding) {
	b.status, b.why = b.f.prop.Status, PortsExhausted
	if !w.bindAny(b) {
		w.tellRefused(b)
		w.refuse(b.p, conntrack.Ref{}, b.why, b.f.role)
	}
}

// binding is the search for a port of one flow.
type binding struct {
	p      *packet.Packet
	f      *first
	seg    conntrack.Segment
	status conntrack.Status // of the proposal, whatever the candidate
	why    Reason           // for what nothing was found
	over   bool             // nothing else can be found
	crowd  *ports.Crowd     // that the candidate is in, nil if in none
}

// bindAny tries all that the flow may have. It reports whether the packet is dealt
// with.
func (w *Worker) bindAny(b *binding) bool {
	f := b.f
	if f.use.Inbound() {
		return w.bindInbound(b)
	}
	if w.bindPromised(b) || b.over {
		return !b.over
	}
	if w.e.mayBeMapped(f) && (w.bindMapped(b) || b.over) {
		return !b.over
	}
	if f.terms.BlockSize != 0 {
		return w.bindBlocks(b)
	}
	if w.bindSearch(b, &f.search, everyPort) || b.over {
		return !b.over
	}
	return w.e.mayBeKept(f) && w.bindKept(b)
}

// bindInbound takes the leases of a flow that a mapping lets in.
func (w *Worker) bindInbound(b *binding) bool {
	f := b.f
	b.why = MappingEnded
	for cand, why, ok := f.search.Next(); ok; cand, why, ok = f.search.Next() {
		cand.Zone = f.admitted.Inside.Zone
		if f.prop.Reply, ok = cand.Inverse(); !ok {
			return false
		}
		flow := ports.Of(&f.prop.Original, &f.prop.Reply, f.use)
		switch w.e.leases.Enter(&flow, &f.admitted, ports.Tick(w.tick)) {
		case ports.Granted:
		case ports.QuotaReached:
			b.why = PortQuota
			return false
		default:
			return false
		}
		if w.bindTo(b, &cand, why, f.use, &flow) {
			return true
		}
	}
	b.why = PortsExhausted
	return false
}

// bindPromised tries the port from which the remote host has been told that the inside
// endpoint is to be reached.
func (w *Worker) bindPromised(b *binding) bool {
	if !w.e.leases.Promises() {
		return false
	}
	ext, ok := w.e.promisedAt(b.f)
	return ok && w.tryAt(b, ext)
}

// mayBeMapped reports whether the inside endpoint of f may have a port already
// that counts. Without moved ports none does under mapping linux.
func (e *Engine) mayBeMapped(f *first) bool {
	if f.terms.Mapping == nat.Linux {
		return f.hint && e.leases.Hinted()
	}
	return f.fits.Source != nil && leasable(f.prop.Original.Proto)
}

// bindMapped tries the port that the inside endpoint is mapped to already.
func (w *Worker) bindMapped(b *binding) bool {
	f := b.f
	flow := f.flow()
	for range remapTries {
		ext, ok := w.e.leases.Mapping(&flow, f.use, f.fits)
		if !ok {
			return false
		}
		if f.terms.Mapping == nat.Linux {
			return w.tryAt(b, ext)
		}
		if w.tryAt(b, ext) || b.over {
			return true
		}
	}
	b.why, b.over = MappingClash, true
	return false
}

// flow returns the ends of f as far as they are known before it has a source.
func (f *first) flow() ports.Flow {
	reply, _ := f.key.Tuple.Inverse()
	flow := ports.Of(&f.prop.Original, &reply, f.use)
	flow.External.Zone = f.ruling.ZoneOf(tuple.Reply)
	return flow
}

// among says which of the ports of a space a search looks at.
type among uint8

const (
	everyPort among = iota // that is not taken
	newBlocks              // in blocks that nobody has
	keptPorts              // that are kept for somebody, or free
)

// bindSearch tries the candidates of a search.
func (w *Worker) bindSearch(b *binding, search *nat.Search, which among) bool {
	var (
		cand  tuple.Tuple
		last  tuple.Addr
		crowd *ports.Crowd
		tries int
	)
	for {
		if at := search.Addr(); at != last {
			crowd, last, tries = w.e.avoid(b.f, search, which), at, 0
		}
		why, ok := search.NextTo(&cand)
		if !ok {
			return false
		}
		if cand.Src != last {
			crowd, last, tries = w.e.avoid(b.f, search, which), cand.Src, 0
		}
		if w.try(b, &cand, why, crowd) || b.over {
			return !b.over
		}
		if tries++; tries == crowdTries && crowd == nil && which == everyPort && !b.f.use.Exclusive() {
			crowd = w.gather(b, search)
		}
		if which == keptPorts && tries == keptTries {
			return false
		}
	}
}

// avoid tells a search which ports of its address are not to be had, and returns
// the crowd that its flow is in.
func (e *Engine) avoid(f *first, search *nat.Search, which among) *ports.Crowd {
	set := e.leases
	if f.use == ports.NoUse && !set.Crowded() {
		return nil
	}
	t := search.At(search.Addr(), f.prop.Original.SrcPort)
	if which == newBlocks {
		search.Avoid(set.BlocksOf(ports.Endpoint{Addr: t.Src, Zone: f.ruling.ZoneOf(tuple.Reply)}), nil, nil)
		return nil
	}
	var sp *ports.Space
	if f.use != ports.NoUse {
		sp = set.Space(t.Proto, &ports.Endpoint{Addr: t.Src, Zone: f.ruling.ZoneOf(tuple.Reply)})
	}
	switch {
	case f.use.Exclusive() && which == keptPorts:
		search.Avoid(sp.Live(), nil, nil)
	case f.use.Exclusive():
		search.Avoid(sp.Taken(), nil, nil)
	default:
		t.Zone = f.ruling.ZoneOf(tuple.Reply)
		reply, _ := t.Inverse()
		crowd := set.Crowd(&reply)
		flow := ports.Of(&f.prop.Original, &reply, f.use)
		search.Avoid(crowd.Ports(), sp.Alone(), set.Pinned(&flow, f.use))
		return crowd
	}
	return nil
}

// gather has what a search for a shared port finds taken remembered from now on: it
// is taking long.
func (w *Worker) gather(b *binding, search *nat.Search) *ports.Crowd {
	f, set, now := b.f, w.e.leases, ports.Tick(w.tick)
	t := search.At(search.Addr(), f.prop.Original.SrcPort)
	t.Zone = f.ruling.ZoneOf(tuple.Reply)
	reply, ok := t.Inverse()
	if !ok {
		return nil
	}
	crowd := set.Gather(&reply, now)
	var sp *ports.Space
	if f.use != ports.NoUse {
		sp = set.Space(t.Proto, &ports.Endpoint{Addr: t.Src, Zone: t.Zone})
	}
	flow := ports.Of(&f.prop.Original, &reply, f.use)
	search.Avoid(crowd.Ports(), sp.Alone(), set.GatherPinned(&flow, f.use, now))
	return crowd
}

// bindBlocks looks in the blocks that the client has, then takes a new one.
func (w *Worker) bindBlocks(b *binding) bool {
	f := b.f
	flow := f.flow()
	n := w.e.leases.Blocks(&flow, &f.terms, f.fits, &w.blocks)
	for i := range n {
		search := f.fits.Source.SearchIn(f.key.Tuple, w.blocks[i].Addr, w.blocks[i].Ports, w.rnd.Uint64())
		if w.bindSearch(b, &search, everyPort) || b.over {
			return !b.over
		}
	}
	if n >= int(f.terms.MaxBlocks) {
		b.why = PortBlocks
		return false
	}
	return w.bindSearch(b, &f.search, newBlocks)
}

// mayBeKept reports whether a port may be kept for the client of f.
func (e *Engine) mayBeKept(f *first) bool {
	return f.terms.Hold != 0 && f.use.Exclusive() && e.leases.Kept() != 0
}

// bindKept tries ports that are kept for who had them last: that may be the client.
func (w *Worker) bindKept(b *binding) bool {
	f := b.f
	search := f.fits.Source.Search(f.key.Tuple, f.fits.Egress, w.rnd.Uint64())
	return w.bindSearch(b, &search, keptPorts)
}

// tryAt is try for a port that the flow has, or was promised.
func (w *Worker) tryAt(b *binding, ext ports.Endpoint) bool {
	cand := b.f.search.At(ext.Addr, ext.Port)
	return w.try(b, &cand, nat.Reused, nil)
}

// try takes what the flow needs to leave as cand, which it may change, and claims it. It
// reports whether the packet is dealt with; else b says why not, and whether others can
// help.
func (w *Worker) try(b *binding, cand *tuple.Tuple, why nat.Choice, crowd *ports.Crowd) bool {
	f, prop := b.f, &b.f.prop
	if zone := f.ruling.ZoneOf(tuple.Reply); cand.Zone != zone {
		cand.Zone = zone
	}
	if !prop.Reply.Answer(cand) {
		b.why, b.over = InvalidNew, true
		return false
	}
	if crowd.Has(&prop.Reply) {
		return false
	}
	mapped := false
	for range remapTries {
		use, free := w.e.useAt(f, &prop.Reply, why)
		switch {
		case !free:
			return false
		case use == ports.NoUse:
			return w.claimIn(b, cand, why, use, nil, crowd)
		}
		flow := ports.Of(&prop.Original, &prop.Reply, use)
		out, at := w.e.leases.Take(&flow, use, &f.terms, f.fits, ports.Tick(w.tick))
		switch out {
		case ports.Granted:
			done := w.claimIn(b, cand, why, use, &flow, crowd)
			if !done && mapped {
				b.why, b.over = MappingClash, true
			}
			return done
		case ports.Elsewhere: // another packet of the socket was faster
			mapped = true
			cand.Src, cand.SrcPort, why = at.Addr, at.Port, nat.Reused
			prop.Reply.Answer(cand)
		case ports.Busy:
			return false
		default:
			b.why, b.over = ofOutcome[out], true
			return false
		}
	}
	return false
}

// useAt returns what f holds when it leaves as who gets reply. It reports false if the
// port is promised to another socket.
func (e *Engine) useAt(f *first, reply *tuple.Tuple, why nat.Choice) (ports.Use, bool) {
	use := f.use
	if f.hint && (why != nat.Preserved || f.fits.Source.Several()) {
		use = use.WithHint()
	}
	if !e.leases.Promises() {
		return use, true
	}
	flow := ports.Of(&f.prop.Original, reply, use)
	return e.leases.Keeping(&flow, use, &f.terms)
}

// claimIn is bindTo for a flow in a crowd, which learns what is taken.
func (w *Worker) claimIn(b *binding, cand *tuple.Tuple, why nat.Choice, use ports.Use, flow *ports.Flow, crowd *ports.Crowd) bool {
	b.crowd = crowd
	done := w.bindTo(b, cand, why, use, flow)
	if !done && crowd != nil && !b.over {
		crowd.Add(&b.f.prop.Reply, ports.Tick(w.tick))
		if !w.e.table.Taken(&b.f.prop.Reply) {
			w.e.leases.Ended(&b.f.prop.Reply)
		}
	}
	return done
}

// bindTo claims cand for a flow whose leases are taken. It gives them back if the
// tuple is taken in the table.
func (w *Worker) bindTo(b *binding, cand *tuple.Tuple, why nat.Choice, use ports.Use, flow *ports.Flow) bool {
	prop := &b.f.prop
	prop.Status, prop.Choice, prop.Holds = b.status, uint8(why), uint8(use)
	if cand.Src != prop.Original.Src || cand.SrcPort != prop.Original.SrcPort {
		prop.Status |= conntrack.SrcNAT
	}
	ended := w.claim(b)
	if (ended == claimedNot || ended == claimedByOther) && use != ports.NoUse {
		w.e.leases.Abandon(flow, use, ports.Tick(w.tick))
	}
	return ended != claimedByOther && ended != claimedPromised
}

// ofOutcome maps refused leases to a Reason.
var ofOutcome = [...]Reason{
	ports.Busy:          PortsExhausted,
	ports.Elsewhere:     MappingClash,
	ports.QuotaReached:  PortQuota,
	ports.BlocksReached: PortBlocks,
	ports.Full:          LeasesFull,
}

// flowEnded gives back what a flow that has ended held. Any goroutine.
func (e *Engine) flowEnded(entry *conntrack.Entry, now conntrack.Tick) {
	use := ports.Use(entry.Holds())
	if use == ports.NoUse && !e.leases.Crowded() {
		return
	}
	original, reply := entry.Tuple(tuple.Original), entry.Tuple(tuple.Reply)
	if use != ports.NoUse {
		flow := ports.Of(&original, &reply, use)
		if entry.Status()&conntrack.Confirmed != 0 {
			e.leases.Release(&flow, use, ports.Tick(now))
		} else {
			e.leases.Abandon(&flow, use, ports.Tick(now)) // nobody has seen the port
		}
	}
	e.leases.Ended(&original)
	e.leases.Ended(&reply)
}
