package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// perPacketFilter marks an entry whose filter verdict, in one direction at least,
// held for one packet only: the rules looked at a field that differs from packet
// to packet.
const perPacketFilter = conntrack.UserStatus

// atKernel marks a flow of the gateway itself whose end is in the kernel of its
// namespace. Only toHost and who begins such flows look at it.
const atKernel = conntrack.UserStatus2

// claimTries bounds how often a new flow may meet an entry that is just ending.
const claimTries = 8

// admit takes the first packet of a flow through the rules and makes its entry:
// expectation, destination NAT, route, filter, source NAT (decide.go), bind (lease.go). In
// that order, each once.
func (w *Worker) admit(p *packet.Packet, r role) {
	b := &w.binding
	*b = binding{p: p, f: &w.first}
	segmentOf(p, &b.seg)
	if v := w.ct.Admissible(&p.Tuple, &b.seg); v.Invalid() {
		w.invalid(p, conntrack.Ref{}, ofVerdict[v], r)
		return
	}
	if w.dhcpToBox(p, r) {
		return
	}
	if why := w.v.reversePath(p, r); why != None {
		w.drop(why)
		return
	}
	f := b.f
	*f = first{in: p.In, role: r, ruling: &w.decision, rnd: w.rnd}
	w.v.fillKey(&f.key, p, r, rules.New)
	var x conntrack.Announced
	if w.ct.Expected(&f.key.Tuple, &x) {
		f.expect(&x, w.e.table.HelperName(x.Helper))
		if f.key.Tuple.Proto == tuple.GRE {
			f.policy = w.e.calls.policy
		}
		if x.Flags&conntrack.ExpectPermanent == 0 {
			defer w.e.release(&x.Expectation, ports.Tick(w.tick)) // the flow has taken it, or there is none
		}
	}
	if why := w.v.decide(f); why != None {
		w.turnAway(p, f.verdict, why, r)
		return
	}
	w.attach(f)
	w.bind(b)
}

// expect makes f a flow that was announced. It is translated as its master is,
// whatever rules would say of its packets; the filter sees it as related.
func (f *first) expect(x *conntrack.Announced, announcer string) {
	x.Inherit(&f.prop)
	f.key.State, f.key.Mark = rules.Related, f.prop.Mark
	f.key.Helper = announcer
	f.heir = announced(nat.Inherit(&f.key.Tuple, &x.Master.Original, &x.Reply), x)
	f.keep(&x.Expectation)
}

// filter asks the rules whether p may pass and disposes of it when it may not.
func (w *Worker) filter(p *packet.Packet, k *rules.Key, d *rules.Decision, r role) bool {
	verdict := w.v.prog.Filter(k, d)
	if verdict == rules.Accept {
		return true
	}
	w.turnAway(p, verdict, refusal(verdict, k, d), r)
	return false
}

// turnAway drops a packet without a flow and tells its sender as the verdict says.
func (w *Worker) turnAway(p *packet.Packet, verdict rules.Verdict, why Reason, r role) {
	switch {
	case why != RuleRejected:
		w.answer(p, conntrack.Ref{}, why, r)
	case verdict == rules.RejectReset:
		w.reset(p, r)
	default:
		w.unreachable(p, ofReject[verdict], r)
	}
	w.drop(why)
}

// ofReject says which ICMP error a verdict of the rules is, where no RST is sent.
var ofReject = [...]packet.Unreachable{
	rules.RejectReset:      packet.AdminProhibited,
	rules.RejectProhibited: packet.AdminProhibited,
	rules.RejectNoRoute:    packet.NoRoute,
	rules.RejectHost:       packet.HostUnreachable,
	rules.RejectPort:       packet.PortUnreachable,
}

// claiming is how an attempt to claim a candidate ended.
type claiming uint8

const (
	claimedOurs     claiming = iota // the entry is that of the packet in hand
	claimedNot                      // the packet joined the entry of another one of its flow, or was refused
	claimedByOther                  // the reply tuple is taken
	claimedPromised                 // it was ours, but is promised to another socket
)

// claim makes the entry that a binding proposes and sends its packet through it.
// When another packet of the flow was faster, it joins the entry of that one.
func (w *Worker) claim(b *binding) claiming {
	p, prop, r := b.p, &b.f.prop, b.f.role
	for range claimTries {
		var decided *route.NextHop
		ref, claim := w.ct.Claim(prop, w.tick)
		ended := claimedNot
		switch claim {
		case conntrack.Claimed:
			if w.promised(prop) { // meanwhile; see promise.go
				w.ct.Abort(ref)
				return claimedPromised
			}
			w.claimed, ended = ref.Slot, claimedOurs
			if !b.f.onLink {
				decided = b.f.hop
			}
			if w.trace != nil {
				w.trace.began(ref)
			}
			b.f.ruling.Begun(rules.Flow{Slot: ref.Slot, Gen: w.e.table.Entry(ref.Slot).Gen()})
			b.crowd.Add(&prop.Reply, ports.Tick(w.tick))
			w.remember(p, b.f, w.e.table.Entry(ref.Slot))
			w.answered(prop)
		case conntrack.OriginalTaken:
		case conntrack.ReplyTaken:
			return claimedByOther
		default:
			w.refuse(p, conntrack.Ref{}, ofClaim[claim], r)
			return claimedNot
		}
		v := w.ct.Track(ref, &b.seg, w.tick)
		switch {
		case v == conntrack.Restart:
			continue // the other entry was at its end: now its tuple is free
		case v.Invalid():
			w.undo(ref)
			w.invalid(p, ref, ofVerdict[v], r)
		default:
			w.forwardBy(p, w.e.table.Entry(ref.Slot), ref, r, decided)
		}
		w.claimed = 0
		return ended
	}
	w.drop(CommitRace)
	return claimedNot
}

// consider starts the decision about the packet in hand.
func (w *Worker) consider() *rules.Decision {
	w.decision = rules.Decision{Page: w.page, Applied: w.applied}
	return &w.decision
}

// reconsider goes on with what the pre list said of the packet in hand, if there
// is one.
func (w *Worker) reconsider() *rules.Decision {
	if w.v.prog.Len(rules.Pre) == 0 {
		return w.consider()
	}
	return &w.decision
}

// pre runs the pre list for a packet before its lookup counts: it may say
// notrack, or give it a zone of its own. It reports true when it has dealt with
// the packet.
func (w *Worker) pre(p *packet.Packet, ref *conntrack.Ref, r role) bool {
	d := w.consider()
	k := w.v.key(p, r, rules.New)
	if ref.Found() {
		k.Mark = w.e.table.Entry(ref.Slot).Mark()
	}
	w.v.prog.Pre(&k, d)
	switch {
	case d.Tracking == rules.NoTrack:
		w.untracked(p, r)
		return true
	case d.Zone != 0:
		*ref = w.findZoned(p, d)
		if w.trace != nil {
			w.trace.found(*ref)
		}
	}
	w.remark(*ref, d)
	return false
}

// findZoned looks up the flow of a packet that a pre rule gave a zone: as one of
// the original direction first, as one of the reply direction if their zones
// differ and there is no such flow. Without any, p is in the zone of the first.
func (w *Worker) findZoned(p *packet.Packet, d *rules.Decision) conntrack.Ref {
	zone := d.ZoneOf(tuple.Original)
	ref := w.findIn(p, zone)
	if other := d.ZoneOf(tuple.Reply); !ref.Found() && other != zone {
		if ref = w.findIn(p, other); !ref.Found() {
			p.Tuple.Zone = zone
			w.e.calls.name(p)
		}
	}
	return ref
}

func (w *Worker) findIn(p *packet.Packet, zone uint16) conntrack.Ref {
	p.Tuple.Zone = zone
	w.e.calls.name(p)
	if p.Flags&packet.ICMPError != 0 {
		return w.findError(p)
	}
	return w.ct.Find(&p.Tuple)
}

// remark gives the flow of a later packet the mark that rules have set.
func (w *Worker) remark(ref conntrack.Ref, d *rules.Decision) {
	if d.FlowMarkMask != 0 && ref.Found() {
		w.ct.ChangeMark(ref, d.FlowMark, d.FlowMarkMask, w.tick)
	}
}

// untracked forwards a packet without an entry: filter and route only.
func (w *Worker) untracked(p *packet.Packet, r role) {
	if why := w.v.reversePath(p, r); why != None {
		w.drop(why)
		return
	}
	k := w.v.key(p, r, rules.Untracked)
	hop, _, why := w.v.route(&k, w.decision.ApplyMark(0), unknown)
	if why != None {
		w.refuse(p, conntrack.Ref{}, why, r)
		return
	}
	if !w.filter(p, &k, &w.decision, r) {
		return
	}
	w.forwardPlain(p, hop, r)
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
// packet may go on.
func (w *Worker) refilter(p *packet.Packet, e *conntrack.Entry, ref conntrack.Ref, r role) bool {
	d := w.reconsider()
	k := w.v.key(p, r, ruleState(e.Status(), ref.Dir))
	k.Mark, k.Dir, k.Flow, k.Helper = e.Mark(), ref.Dir, ref.Slot, w.e.table.MasterHelper(e)
	other := e.Tuple(ref.Dir.Other())
	to, _ := other.Inverse()
	if why := w.showWay(&k, d, &to, route.Hint(e.Hint(ref.Dir)), r); why != None {
		w.refuse(p, ref, why, r)
		return false
	}
	if !w.filter(p, &k, d, r) {
		return false
	}
	w.remark(ref, d)
	if d.Scope == rules.PerPacket {
		e.SetStatus(perPacketFilter)
	}
	return true
}

// showWay shows the rules where a later packet of a flow goes, which will have tuple
// to. A valid next hop is where forward sends it, so there is nothing to look up:
// that is half of what it costs to meet the filter (BenchmarkPerPacketRules).
func (w *Worker) showWay(k *rules.Key, d *rules.Decision, to *tuple.Tuple, hint route.Hint, r role) Reason {
	if out, _, ok := w.e.neigh.Get(hint); ok && r == roleWire {
		k.Tuple.Dst, k.Tuple.DstPort = to.Dst, to.DstPort
		k.Local = rules.Forward
		if out == HostPort {
			k.Local = rules.ToLocal
		}
		_, why := w.v.leave(k, out)
		return why
	}
	var was last
	_, _, why := w.v.routeAgain(k, d, to, w.e.lastWay(hint, &was))
	return why
}
