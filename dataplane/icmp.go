package dataplane

import (
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules"
)

// icmpRedirect is the type of an IPv4 redirect (RFC 792).
const icmpRedirect = 5

// findError looks up the flow that an ICMP error is about: the one whose packet,
// as it looked on this side of the gateway, is embedded. The error travels in the
// direction of that packet's answers.
func (w *Worker) findError(p *packet.Packet) conntrack.Ref {
	inv, ok := p.Embedded.Inverse()
	if !ok || p.Flags&packet.EmbeddedNAT == 0 {
		return conntrack.Ref{}
	}
	inv.Zone = p.Tuple.Zone
	return w.ct.Find(&inv)
}

// icmpError forwards an ICMP error that belongs to a flow, with the embedded
// packet translated back. It neither creates nor refreshes an entry (RFC 5508
// REQ-6).
func (w *Worker) icmpError(p *packet.Packet, ref conntrack.Ref, r role) {
	if !ref.Found() || p.Flags&packet.EmbeddedNAT == 0 {
		w.invalid(p, conntrack.Ref{}, ICMPNoFlow, r)
		return
	}
	e := w.e.table.Entry(ref.Slot)
	from := e.Tuple(ref.Dir)
	embedded := e.Tuple(ref.Dir.Other())
	to, _ := embedded.Inverse()
	if p.Tuple.Dst != from.Dst {
		w.invalid(p, conntrack.Ref{}, ICMPNoFlow, r) // not sent to the flow's own address: the embedded packet is made up
		return
	}
	if p.Tuple.Proto == tuple.ICMP && p.Tuple.DstPort>>8 == icmpRedirect && to != from {
		w.drop(Redirect)
		return
	}
	var was last
	w.e.lastWay(route.Hint(e.Hint(ref.Dir)), &was)
	if !w.errorAllowed(p, &to, ref, &was, r) {
		return
	}
	hop, why := w.wayOn(p, &to, e, &was, r, nil)
	var hint route.Hint
	if why == None {
		hint, why = w.neighbour(p, hop, to.Dst)
	}
	if why != None {
		w.drop(why)
		return
	}
	out, mac, ok := w.e.neigh.Get(hint)
	if !ok {
		w.wait(p, conntrack.Ref{}, hint, r)
		return
	}
	eg := w.v.portOf(out)
	switch {
	case eg == nil:
		w.drop(EgressDown)
		return
	case r == roleWire && out != HostPort && p.TTL <= 1:
		w.drop(TTLExceeded)
		return
	case r == roleWire && out != HostPort:
		packet.DecrementTTL(p)
	}
	if e.Status()&hasHelper != 0 {
		w.renumberError(p, e, ref)
	}
	outer := p.Tuple
	outer.Dst = to.Dst
	if to.Src != from.Src {
		outer.Src = to.Src // as the kernel: routers behind a translated source are not shown
	}
	if outer != p.Tuple || embedded != p.Embedded {
		packet.TranslateError(p, &outer, &embedded)
	}
	w.transmit(p, eg, mac, conntrack.Ref{}, r)
}

// errorAllowed runs the filter for an ICMP error, with state RELATED.
func (w *Worker) errorAllowed(p *packet.Packet, to *tuple.Tuple, ref conntrack.Ref, was *last, r role) bool {
	if w.v.prog.Len(rules.Filter) == 0 {
		return true
	}
	e, d := w.e.table.Entry(ref.Slot), w.reconsider()
	k := w.v.key(p, r, rules.Related)
	k.Mark, k.Dir, k.Flow, k.Helper = e.Mark(), ref.Dir, ref.Slot, w.e.table.MasterHelper(e)
	k.Tuple.Src, k.Tuple.Dst = p.Tuple.Src, to.Dst
	if _, _, why := w.v.route(&k, d.ApplyMark(k.Mark), was); why != None {
		w.drop(why)
		return false
	}
	return w.filter(p, &k, d, r)
}

// answer tells the sender of p why it was dropped, if that Reason is one to
// tell, the area may know (outside learns only of flows that exist), and the rate
// allows. What a rule says is told by unreachable and reset.
func (w *Worker) answer(p *packet.Packet, ref conntrack.Ref, why Reason, r role) {
	in := w.v.portOf(p.In)
	if in == nil || why != TTLExceeded && in.outside && !ref.Found() {
		return
	}
	var code packet.Unreachable
	switch why {
	case TTLExceeded:
	case NoRoute:
		code = packet.NoRoute
	case PolicyDenied:
		code = packet.AdminProhibited // RFC 5508 REQ-8
	case NeighbourFailed, NoMapping, FlowEnded, TableFull, ChainFull, ClientFull,
		PortsExhausted, PortQuota, PortBlocks, MappingClash, LeasesFull:
		code = packet.HostUnreachable
	default:
		return
	}
	if why != TTLExceeded {
		w.unreachable(p, code, r)
		return
	}
	if src, ok := w.mayAnswer(p, in); ok {
		packet.TimeExceeded(&w.scratch, p, w.arena(packet.AnswerLen), src)
		w.sendBack(p, in, r)
	}
}

// unreachable tells the sender of p that its destination cannot be reached.
func (w *Worker) unreachable(p *packet.Packet, code packet.Unreachable, r role) {
	in := w.v.portOf(p.In)
	if in == nil {
		return
	}
	if src, ok := w.mayAnswer(p, in); ok {
		packet.DestUnreachable(&w.scratch, p, w.arena(packet.AnswerLen), src, code)
		w.sendBack(p, in, r)
	}
}

// tooBig tells the sender of p the MTU it must keep to.
func (w *Worker) tooBig(p *packet.Packet, mtu int, r role) {
	in := w.v.portOf(p.In)
	if in == nil {
		return
	}
	src, ok := w.mayAnswer(p, in)
	if !ok {
		return
	}
	packet.TooBig(&w.scratch, p, w.arena(packet.AnswerLen), src, mtu)
	w.sendBack(p, in, r)
}

// reset answers a TCP segment with a RST, as its destination would.
func (w *Worker) reset(p *packet.Packet, r role) {
	in := w.v.portOf(p.In)
	if in == nil || !w.e.icmp.allow(w.now) {
		return
	}
	if packet.Reset(&w.scratch, p, w.arena(packet.AnswerLen)) {
		w.sendBack(p, in, r)
	}
}

// mayAnswer returns the address to send an error about p from, and whether one
// may be sent.
func (w *Worker) mayAnswer(p *packet.Packet, in *portEntry) (tuple.Addr, bool) {
	src, ok := in.primary(p.Tuple.Family)
	if in.id == HostPort {
		src, ok = p.Tuple.Dst, true // the own stack has to hear it from somebody
	}
	if !ok || !packet.MayAnswer(p) {
		return src, false
	}
	return src, w.e.icmp.allow(w.now)
}

// sendBack sends w.scratch, an answer to p, where p came from: to the
// link-layer address it came from, so that no neighbour needs to be found.
func (w *Worker) sendBack(p *packet.Packet, in *portEntry, r role) {
	q := &w.scratch
	s := w.v.sinks[w.index].wire[in.id]
	mac := in.mac
	switch r {
	case roleHost:
		s = w.v.sinks[w.index].wire[HostPort]
	case roleBox:
		s = w.v.sinks[w.index].box[in.id]
	default:
		q.HasVLAN, q.VLAN = in.vlan != 0, in.vlan
	}
	if p.Link == packet.LinkEthernet {
		mac = [6]byte(p.Mem[p.Off+6 : p.Off+12])
	}
	packet.SetLink(q, p.Link, mac, in.mac)
	if s != nil && w.send(s, q) == port.Sent { // else the answer is lost; p has its own Reason
		count(&w.counter.originated, 1)
	}
}

// rateLimit bounds own ICMP errors and resets of all workers together. It is not
// on the path of packets that are forwarded.
//
// It is a token bucket of one second's worth kept as one number, the time at
// which the bucket will be full again: a token costs interval of it.
type rateLimit struct {
	interval int64        // ns between two answers in the long run; 0: no limit
	full     atomic.Int64 // ns
	denied   atomic.Uint64
}

const rateBurst = int64(time.Second)

func (l *rateLimit) init(perSecond int) {
	if perSecond > 0 {
		l.interval = rateBurst / int64(perSecond)
	}
}

// allow takes a token at time now (ns), if there is one.
func (l *rateLimit) allow(now int64) bool {
	if l.interval == 0 {
		return true
	}
	for {
		full := l.full.Load()
		next := max(full, now) + l.interval
		if full-now > 2*rateBurst {
			next = now + l.interval // the clock was set back
		}
		if next-now > rateBurst {
			l.denied.Add(1)
			return false
		}
		if l.full.CompareAndSwap(full, next) {
			return true
		}
	}
}
