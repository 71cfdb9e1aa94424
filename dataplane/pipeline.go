package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/frag"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules"
)

// batch takes n received packets of src through the walk. With somebody watching it
// is tracer.batch.
func (w *Worker) batch(src source, n int) {
	w.came(n)
	w.walk(src, w.pkts[:n])
}

// came counts a batch of n packets.
func (w *Worker) came(n int) {
	count(&w.counter.received, uint64(n))
	w.counter.load.took(n)
}

// walk is that of packets of src: parse all, look all up, then finish each.
func (w *Worker) walk(src source, pkts []packet.Packet) {
	in := w.v.portOf(src.id)
	k, plain := 0, uint64(0) // of those that go on, bit by bit
	for i := range pkts {
		p := &pkts[i]
		p.In = src.id
		at := in
		if p.HasVLAN && src.role == roleWire {
			if at = w.untag(p, in); at == nil {
				w.drop(UnknownVLAN)
				continue
			}
		}
		if packet.ParsePlain(p) && !w.v.directed[p.Tuple.Dst[15]] {
			plain |= 1 << k
			w.keys[k].Set(&p.Tuple)
		} else if !w.receive(p, at, src.role) {
			continue
		} else if p.Flags&packet.ICMPError == 0 || !w.keys[k].Answer(&p.Embedded) {
			w.keys[k].Set(&p.Tuple)
		}
		w.live[k] = uint8(i)
		k++
	}
	w.ct.Lookup(w.keys[:k], w.refs[:k])
	if src.role != roleWire || !w.v.express {
		plain = 0
	}
	for j := range k {
		p := &pkts[w.live[j]]
		if plain>>j&1 != 0 && w.refs[j].Found() && w.express(p, w.refs[j]) {
			continue
		}
		if p.Flags&packet.FragmentFirst == 0 {
			w.finish(p, w.refs[j], src.role)
			continue
		}
		key, t := frag.KeyOf(p, p.In), p.Tuple
		w.finish(p, w.refs[j], src.role)
		t.Zone = p.Tuple.Zone // a pre rule may have given it one
		w.learn(key, &t, src.role)
	}
}

// untag finds the VLAN sub-interface a tagged frame belongs to, nil if its tag
// was not declared.
func (w *Worker) untag(p *packet.Packet, parent *portEntry) *portEntry {
	for _, c := range parent.children {
		if c.vlan == p.VLAN&0xfff {
			p.In, p.HasVLAN = c.id, false
			if w.trace != nil {
				w.trace.tagged(c.id)
			}
			return w.v.ports[c.id]
		}
	}
	if p.VLAN&0xfff == 0 { // priority tag: the frame is the parent's own
		p.HasVLAN = false
		return parent
	}
	return nil
}

// receive parses p and ends what is not a packet to be looked up: broken
// frames, ARP, neighbour discovery, multicast. It reports whether p goes on.
func (w *Worker) receive(p *packet.Packet, in *portEntry, r role) bool {
	if p.LinkKind == linkOtherHost && r == roleWire {
		w.drop(OtherHost)
		return false
	}
	fault := packet.Parse(p)
	if fault == packet.NotIP || fault == packet.OK && isLinkControl(p) {
		w.linkControl(p, in, r)
		return false
	}
	if fault != packet.OK {
		w.drop(ofFault[fault])
		return false
	}
	if (p.Flags&packet.LinkBroadcast != 0 || w.v.groupAddressed(&p.Tuple)) && !w.v.asksSubnet(p, r) {
		w.multicast(p, in, r)
		return false
	}
	if why := martian(&p.Tuple); why != None {
		w.drop(why)
		return false
	}
	w.e.calls.name(p)
	if p.Flags.Fragment() {
		return w.fragment(p, r)
	}
	return true
}

// Values of packet.Packet.LinkKind (linux/if_packet.h).
const linkOtherHost = 3

// finish is the walk of one packet from the answer of the lookup on.
func (w *Worker) finish(p *packet.Packet, ref conntrack.Ref, r role) {
	hasPre := w.v.prog.Len(rules.Pre) > 0
	if hasPre && w.pre(p, &ref, r) {
		return
	}
	if p.Flags&packet.ICMPError != 0 {
		w.icmpError(p, ref, r)
		return
	}
	for range 2 {
		if !ref.Found() {
			if !hasPre {
				w.consider()
			}
			w.admit(p, r)
			return
		}
		if w.known(p, ref, r) {
			return
		}
		ref = w.ct.Find(&p.Tuple) // the entry ended: a new connection on its tuple
	}
	w.drop(CommitRace)
}

// known handles a packet of a flow. It reports false when the flow turned out
// to be over and the packet starts another one.
func (w *Worker) known(p *packet.Packet, ref conntrack.Ref, r role) bool {
	e := w.e.table.Entry(ref.Slot)
	if e.Status()&conntrack.Dying != 0 {
		return false // ended since the lookup, by an earlier packet of the batch or by a user
	}
	if r == roleWire && !w.cameTheWayBack(p, e, ref.Dir) {
		w.drop(SpoofedSource)
		return true
	}
	var (
		seg  conntrack.Segment
		f    *helped
		came uint32 // its acknowledgement, before renumbering
	)
	moved := e.Status()&hasHelper != 0 && p.Tuple.Proto == tuple.TCP && !p.Flags.Fragment()
	if moved {
		came = packet.Ack(p)
		if f = w.helpedFlow(p, e, ref); f != nil {
			f.renumber(p, ref.Dir)
		} else if e.Status()&conntrack.SeqAdjust != 0 {
			w.renumberPlain(p, ref)
		}
	}
	segmentOf(p, &seg)
	switch v := w.ct.Track(ref, &seg, w.tick); {
	case v == conntrack.Restart:
		return false
	case v.Invalid():
		w.invalid(p, ref, ofVerdict[v], r)
		return true
	}
	if w.v.prog.Follow() == rules.PerPacket && w.mustFilter(e, ref) {
		ack := came
		if moved { // a RST that answers p has the number that its sender waits for
			ack = packet.Ack(p)
			packet.SetAck(p, came)
		}
		if !w.refilter(p, e, ref, r) {
			return true
		}
		if moved {
			packet.SetAck(p, ack)
		}
	}
	if f != nil {
		f.acknowledged(p, ref.Dir, came)
	}
	w.forward(p, e, ref, r)
	return true
}

// egress is how a packet leaves.
type egress struct {
	eg   *portEntry
	mac  [6]byte
	to   *tuple.Tuple // what it becomes
	ref  conntrack.Ref
	role role // of the side it came from
}

// forward sends a tracked packet on its way: next hop, time to live, size,
// translation, transmission. A packet whose next hop is not yet known waits.
func (w *Worker) forward(p *packet.Packet, e *conntrack.Entry, ref conntrack.Ref, r role) {
	w.forwardBy(p, e, ref, r, nil)
}

// forwardBy is forward for a packet for which the way was decided about just now, nil: it
// was not.
func (w *Worker) forwardBy(p *packet.Packet, e *conntrack.Entry, ref conntrack.Ref, r role, decided *route.NextHop) {
	var to tuple.Tuple
	e.Answer(ref.Dir, &to)
	hint := route.Hint(e.Hint(ref.Dir))
	out, mac, ok := w.e.neigh.Get(hint)
	if r == roleBox && w.onOwnLink(p, &to) {
		out, ok = p.In, true
	}
	if !ok {
		var was last
		w.e.lastWay(hint, &was)
		hop, why := w.wayOn(p, &to, e, &was, r, decided)
		if why == None {
			if cause := w.v.doomed(p, &to, hop, &was); cause != conntrack.Unspecified {
				w.overtaken(p, ref, cause, r)
				return
			}
			hint, why = w.neighbour(p, hop, to.Dst)
		}
		if why != None {
			w.refuse(p, ref, why, r)
			return
		}
		if out, mac, ok = w.e.neigh.Get(hint); !ok || w.pending.before(ref) {
			w.wait(p, ref, hint, r)
			return
		}
		e.SetHint(ref.Dir, uint32(hint))
	}
	eg := w.v.portOf(out)
	if eg == nil {
		w.refuse(p, ref, EgressDown, r)
		return
	}
	if r == roleWire && out != HostPort {
		if p.TTL <= 1 {
			w.refuse(p, ref, TTLExceeded, r)
			return
		}
	}
	if !w.fits(p, eg, ref, r) {
		return
	}
	var way egress // field by field: as a whole it would be copied from where it was put together
	way.eg, way.mac, way.to, way.ref, way.role = eg, mac, &to, ref, r
	if e.Status()&hasHelper != 0 && w.help(p, e, &way) {
		return
	}
	w.depart(p, &way)
}

// depart changes the headers of a packet that may go, and sends it.
func (w *Worker) depart(p *packet.Packet, way *egress) {
	if way.role == roleWire && way.eg.id != HostPort {
		packet.DecrementTTL(p)
	}
	packet.Translate(p, way.to)
	if p.TCPFlags&packet.SYN != 0 && p.Tuple.Proto == tuple.TCP {
		w.clamp(p, way.eg)
	}
	w.transmit(p, way.eg, way.mac, way.ref, way.role)
}

// onOwnLink reports whether a packet of the box's kernel leaves by the interface
// that the kernel sent it on. Then the kernel has resolved the neighbour itself,
// and knows clients that cannot answer yet (a DHCP offer). Link-local destinations
// are nowhere else.
func (w *Worker) onOwnLink(p *packet.Packet, to *tuple.Tuple) bool {
	if _, own := w.v.own(&to.Dst); own || p.Link != packet.LinkEthernet {
		return false
	}
	if linkLocal(&to.Dst) {
		return true
	}
	_, is := w.v.routes.Through(&to.Dst, p.In)
	return is == route.Up
}

// neighbour returns the hint for a next hop, asking on behalf of who sent p for its
// address if that is not known.
func (w *Worker) neighbour(p *packet.Packet, hop *route.NextHop, dst tuple.Addr) (route.Hint, Reason) {
	if hop.Port == HostPort {
		return w.e.neigh.HostHint(), None
	}
	eg := w.v.portOf(hop.Port)
	if eg == nil {
		return 0, EgressDown
	}
	addr := eg.neighbour(hop, dst)
	if hint, ok := w.hops.known(w.e.neigh, hop.Port, &addr); ok {
		return hint, None
	}
	hint, st, fresh := w.e.neigh.Find(hop.Port, addr, w.now)
	if st == route.Unknown {
		hint, st, fresh = w.e.neigh.Ask(hop.Port, addr, w.asker(p), w.now)
	}
	if st == route.Unknown {
		return 0, NeighboursFull
	}
	if fresh && w.e.host != nil {
		w.e.host.Resolve(hop.Port, addr.Netip())
	}
	w.hops.learn(hop.Port, &addr, hint)
	return hint, None
}

// cameTheWayBack checks the reverse path of a packet of a known flow: either it came
// in where the flow's other direction leaves, or its source may be behind this port
// all the same. A flow without an answer has no other direction to compare with; its
// first packet was checked.
func (w *Worker) cameTheWayBack(p *packet.Packet, e *conntrack.Entry, d tuple.Direction) bool {
	out, ok := w.e.neigh.Valid(route.Hint(e.Hint(d.Other())))
	return !ok || out == p.In || w.v.reversePath(p, roleWire) == None
}

// fits checks p against the egress MTU. It reports false when it has disposed
// of p: by fragmenting it, or by telling the sender.
func (w *Worker) fits(p *packet.Packet, eg *portEntry, ref conntrack.Ref, r role) bool {
	if p.WireLen() <= eg.mtu || eg.id == HostPort { // the stack takes what comes
		return true
	}
	if p.Flags&packet.DontFragment != 0 {
		w.tooBig(p, eg.mtu, r)
		w.undo(ref)
		w.drop(TooBigForEgress)
		return false
	}
	return true // transmit splits it
}

// clamp lowers the MSS option of a SYN to what both ports can carry, if one of them
// asks for that, and to what they say.
func (w *Worker) clamp(p *packet.Packet, eg *portEntry) {
	in := w.v.portOf(p.In)
	if in == nil || in.mss == 0 && eg.mss == 0 || in.id == HostPort || eg.id == HostPort {
		return
	}
	mss := min(in.mtu, eg.mtu) - 40
	if p.Tuple.Family == tuple.IPv6 {
		mss -= 20
	}
	for _, limit := range [...]int{in.mss, eg.mss} {
		if limit != 0 {
			mss = min(mss, limit)
		}
	}
	packet.ClampMSS(p, uint16(mss))
}

// transmit gives p the link-layer header of its egress and queues it. The
// entry's first packet confirms it.
func (w *Worker) transmit(p *packet.Packet, eg *portEntry, mac [6]byte, ref conntrack.Ref, r role) {
	length := uint64(p.End - p.L3)
	why := w.emit(p, eg, mac, ref, r)
	if why != None {
		w.undo(ref)
		w.drop(why)
		return
	}
	if ref.Found() && w.e.table.Entry(ref.Slot).Status()&conntrack.Confirmed == 0 {
		w.ct.Confirm(ref, w.tick)
	}
	if eg.id == HostPort {
		w.tally.delivered++
	} else {
		w.tally.forwarded++
	}
	w.tally.bytes += length
}

// emit puts p on its egress: to the gateway's own stack or kernel, or on a wire,
// split if it must be.
func (w *Worker) emit(p *packet.Packet, eg *portEntry, mac [6]byte, ref conntrack.Ref, r role) Reason {
	if eg.id == HostPort {
		return w.toHost(p, ref, r)
	}
	if r == roleBox && p.In == eg.id && p.Link == packet.LinkEthernet { // as onOwnLink
		return w.put(w.v.sinks[w.index].wire[eg.id], p, eg)
	}
	packet.SetLink(p, eg.link, mac, eg.mac)
	return w.put(w.v.sinks[w.index].wire[eg.id], p, eg)
}

// put queues a frame that is ready but for its VLAN tag, its size and what the
// port cannot leave to the kernel.
func (w *Worker) put(s port.Sender, p *packet.Packet, eg *portEntry) Reason {
	p.HasVLAN, p.VLAN = eg.vlan != 0, eg.vlan
	if s == nil {
		return EgressDown
	}
	switch long := p.WireLen() > eg.mtu; {
	case p.Flags&packet.TunnelGSO != 0:
		return w.putSegments(s, p, eg)
	case p.FragMax != 0, long && p.Offload.GSOType == packet.GSONone:
		return w.putFragments(s, p, eg)
	case long: // the port may take more than it is configured for
		return w.putSegments(s, p, eg)
	}
	if st := w.send(s, p); st != port.Sent {
		return w.unsent(st, s, p, eg)
	}
	return None
}

// unsent does what is left to do with a frame that its port did not take.
func (w *Worker) unsent(st port.Status, s port.Sender, p *packet.Packet, eg *portEntry) Reason {
	if st == port.Unsupported || st == port.TooBig {
		return w.putSegments(s, p, eg)
	}
	return ofStatus[st]
}

// undo gives up an entry whose first packet does not leave. Only the packet that
// claimed the entry may: another one of the flow may be about to confirm it.
func (w *Worker) undo(ref conntrack.Ref) {
	if ref.Found() && ref.Slot == w.claimed {
		w.ct.Abort(ref) // no effect if another one has confirmed it
		w.claimed = 0
	}
}

// refuse drops p for a reason its sender may be told.
func (w *Worker) refuse(p *packet.Packet, ref conntrack.Ref, why Reason, r role) {
	w.answer(p, ref, why, r)
	w.undo(ref)
	w.drop(why)
}

// groupAddressed reports whether a packet goes to a multicast or broadcast address.
func (v *view) groupAddressed(t *tuple.Tuple) bool {
	a := &t.Dst
	if t.Family == tuple.IPv4 {
		if a[12]&0xf0 == 0xe0 || a[12]&a[13]&a[14]&a[15] == 0xff {
			return true
		}
		if !v.directed[a[15]] {
			return false // as nearly all
		}
		_, directed := v.subnets[*a]
		return directed
	}
	return a[0] == 0xff
}

// linkLocal reports whether a is an IPv6 address of one link only (RFC 4291
// section 2.5.6).
func linkLocal(a *tuple.Addr) bool { return a[0] == 0xfe && a[1]&0xc0 == 0x80 }

// martian refuses addresses that must not be on a wire (RFC 1812 section 5.3.7,
// RFC 4291 section 2.5). That they are the same is a fault found by packet.Parse.
func martian(t *tuple.Tuple) Reason {
	if badUnicast(&t.Src, t.Family) || badUnicast(&t.Dst, t.Family) {
		return Martian
	}
	return None
}

// badUnicast reports whether a can not be the address of a host on a link:
// unspecified, loopback, multicast, reserved, or IPv4 inside IPv6. The mapped form of
// an IPv4 address in an IPv6 header would pass for the address itself: rules and
// routes for IPv4 would apply to what no rule for IPv4 translates.
func badUnicast(a *tuple.Addr, family uint8) bool {
	if family == tuple.IPv4 {
		return a[12] == 0 || a[12] == 127 || a[12] >= 0xe0
	}
	if a[0] == 0xff || a.Is4() {
		return true
	}
	for _, b := range a[:12] {
		if b != 0 {
			return false
		}
	}
	return true // ::, ::1, ::a.b.c.d
}

// ruleState returns the connection-tracking state, for rules, of a packet of a flow
// with a status.
func ruleState(s conntrack.Status, d tuple.Direction) rules.State {
	if d == tuple.Reply || s&conntrack.SeenReply != 0 {
		return rules.Established
	}
	if s&conntrack.Expected != 0 {
		return rules.Related
	}
	return rules.New
}
