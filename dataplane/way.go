package dataplane

import (
	"hash/maphash"
	"maps"
	"slices"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules"
)

// With one way out, routes decide by the destination. With several, a flow has a
// way and keeps it: its hints name the next hop that each direction took last, also
// when they are no longer valid. A new flow goes, in this order,
//
//	out of the port whose address the gateway itself sends from,
//	by the route for its source, area or mark, or the one for all,
//	and of several equal ones by the one that its hash picks.
//
// Answers go back by the port that the question came in by. A flow whose external
// address belongs to an uplink cannot move to another one, where that address means
// nothing: it ends with notice.

// last is the next hop that a direction of a flow took last.
type last struct {
	neighbour tuple.Addr
	port      uint16
	known     bool
}

// lastWay makes l, which is new, what a hint remembers, whether it is valid or not.
func (e *Engine) lastWay(h route.Hint, l *last) *last {
	if h != 0 {
		l.port, l.neighbour, l.known = e.neigh.Where(h)
	}
	return l
}

// toItself is the way of what goes to the gateway itself.
var toItself = &route.NextHop{Port: HostPort}

// unknown is the last way of flows that had none.
var unknown = &last{}

// route finds where a packet with k's tuple and a mark goes, and shows the rules.
func (v *view) route(k *rules.Key, mark uint32, was *last) (*route.NextHop, *portEntry, Reason) {
	hop := toItself
	k.Local = rules.ToLocal
	if _, own := v.own(&k.Tuple.Dst); !own {
		k.Local = rules.Forward
		var ok bool
		if hop, ok = v.choose(&k.Tuple, k.InArea, mark, was); !ok {
			return hop, nil, NoRoute
		}
	}
	eg, why := v.leave(k, hop.Port)
	return hop, eg, why
}

// routeAgain is route for a packet of a flow that will have tuple to. As in
// netfilter's forward hook, rules see its destination translated and its source not
// yet.
func (v *view) routeAgain(k *rules.Key, d *rules.Decision, to *tuple.Tuple, was *last) (*route.NextHop, *portEntry, Reason) {
	k.Tuple.Dst, k.Tuple.DstPort = to.Dst, to.DstPort
	return v.route(k, d.ApplyMark(k.Mark), was)
}

// leave shows the rules by which port the packet leaves.
func (v *view) leave(k *rules.Key, port uint16) (*portEntry, Reason) {
	eg := v.portOf(port)
	if eg == nil {
		return nil, EgressDown
	}
	k.Out, k.OutArea = port, eg.area
	return eg, None
}

// choose finds the way of a packet whose tuple is t: as received, but with the
// destination translated.
func (v *view) choose(t *tuple.Tuple, area rules.AreaID, mark uint32, was *last) (*route.NextHop, bool) {
	if linkLocal(&t.Dst) {
		return toItself, false // no route leads there (RFC 4291 section 2.5.6)
	}
	q := route.Query{Dst: &t.Dst, Src: &t.Src, Area: route.AreaNumber(uint8(area)), Mark: mark}
	if !v.routes.Several() {
		return v.routes.Choose(&q)
	}
	if port, own := v.own(&t.Src); own {
		if hop, is := v.routes.Through(&t.Dst, port); is != route.None {
			return hop, true // also when it is down: this may be who finds out that it is up again
		}
	}
	if was.known {
		if hop, ok := v.routes.Stay(&t.Dst, was.port, &was.neighbour); ok {
			return hop, true
		}
	}
	q.Hash = maphash.Comparable(v.seed, *t)
	return v.routes.Choose(&q)
}

// routeTo looks up where packets to dst go, whoever sends them.
func (v *view) routeTo(dst *tuple.Addr) (*route.NextHop, bool) {
	if linkLocal(dst) {
		return toItself, false
	}
	return v.routes.Lookup(dst)
}

// portTo returns the port that packets to dst leave by, whoever sends them: nil if
// no route leads there.
func (v *view) portTo(dst *tuple.Addr) *portEntry {
	hop, ok := v.routeTo(dst)
	if !ok {
		return nil
	}
	return v.portOf(hop.Port)
}

// wayOn finds the next hop of a packet of a flow that will have tuple to, and checks
// that it may come from where it came. Both was done if the way is decided already.
func (w *Worker) wayOn(p *packet.Packet, to *tuple.Tuple, e *conntrack.Entry, was *last, r role, decided *route.NextHop) (*route.NextHop, Reason) {
	if decided != nil {
		return decided, None
	}
	if why := w.v.reversePath(p, r); why != None {
		return toItself, why
	}
	if _, own := w.v.own(&to.Dst); own {
		return toItself, None
	}
	t := p.Tuple
	t.Dst, t.DstPort = to.Dst, to.DstPort
	hop, ok := w.v.choose(&t, w.v.areaOf(p.In, r), e.Mark(), was)
	if !ok {
		return hop, NoRoute
	}
	return hop, None
}

// areaOf returns the area that a packet is taken to come from.
func (v *view) areaOf(in uint16, r role) rules.AreaID {
	if p := v.portOf(in); p != nil && r == roleWire {
		return p.area
	}
	return rules.AreaHost
}

// remember notes in a new entry by which ways its packets go: those of its first
// packet, which comes by hop, and answers back where it came in.
func (w *Worker) remember(p *packet.Packet, f *first, e *conntrack.Entry) {
	if !w.v.routes.Several() || f.onLink {
		return
	}
	if hint, why := w.neighbour(p, f.hop, f.key.Tuple.Dst); why == None {
		e.SetHint(tuple.Original, uint32(hint))
	}
	if f.role != roleWire {
		return
	}
	back, is := w.v.routes.Through(&p.Tuple.Src, p.In)
	if is == route.None || !back.Via {
		return
	}
	if hint, why := w.neighbour(p, back, p.Tuple.Src); why == None {
		e.SetHint(tuple.Reply, uint32(hint.Stale())) // an answer still has to meet the filter
	}
}

// doomed returns why a packet that is about to leave by hop with tuple to cannot: its
// external address is gone, or belongs to an uplink that the flow would have to leave.
func (v *view) doomed(p *packet.Packet, to *tuple.Tuple, hop *route.NextHop, was *last) conntrack.Cause {
	if to.Src == p.Tuple.Src {
		return conntrack.Unspecified
	}
	if _, gone := v.gone[to.Src]; gone {
		return conntrack.AddressLost
	}
	if eg := v.portOf(hop.Port); eg != nil && (eg.has4 && to.Src == eg.primary4 || eg.has6 && to.Src == eg.primary6) {
		return conntrack.Unspecified // as of nearly all flows: they leave with the address of the port
	}
	home, ok := v.home(&to.Src)
	if !ok || home == hop.Port {
		return conntrack.Unspecified
	}
	if _, is := v.routes.Through(&to.Dst, home); is == route.Down || was.known && was.port == home {
		return conntrack.UplinkDown
	}
	return conntrack.Unspecified
}

// home returns the port that an address belongs to: that has it, or on whose link it
// is.
func (v *view) home(a *tuple.Addr) (uint16, bool) {
	if port, own := v.own(a); own {
		return port, true
	}
	hop, ok := v.routes.Lookup(a)
	return hop.Port, ok && !hop.Via
}

// EndStranded ends with notice the flows whose external address belongs to an
// uplink that no longer leads to their other end, and returns how many.
func (e *Engine) EndStranded() int {
	v := e.view.Load()
	return e.End(func(f *conntrack.Flow) conntrack.Cause {
		for d := range f.Tuple {
			if v.stranded(f, tuple.Direction(d), e.neigh) {
				return conntrack.UplinkDown
			}
		}
		return conntrack.Unspecified
	})
}

// stranded is doomed for the packets in direction d of a flow that may be idle.
func (v *view) stranded(f *conntrack.Flow, d tuple.Direction, neigh *route.Neighbours) bool {
	other := &f.Tuple[d.Other()]
	src, dst := other.Dst, other.Src
	_, own := v.own(&src)
	if !own && src == f.Tuple[d].Src {
		return false // not translated: it may take any way
	}
	if _, own := v.own(&dst); own {
		return false
	}
	home, ok := v.home(&src)
	if !ok {
		return false
	}
	switch _, is := v.routes.Through(&dst, home); is {
	case route.Up:
		return false
	case route.Down:
		return true
	}
	if _, other := v.routes.Lookup(&dst); !other {
		return false // nothing to change to: the way may come back, as after a cable was pulled
	}
	port, _, known := neigh.Where(route.Hint(f.Hint[d]))
	return known && port == home
}

// leadsAs reports whether a next hop that a flow has cached under old is the one that
// it would get under v: whatever wayOn, doomed and mustFilter look at is the same.
func (v *view) leadsAs(old *view) bool {
	return v.prog.Follow() != rules.PerPacket && // else packets of live flows have to meet these rules
		slices.Equal(v.routes.Routes(), old.routes.Routes()) &&
		slices.EqualFunc(v.ports, old.ports, (*portEntry).leadsAs) &&
		maps.Equal(v.local, old.local) && maps.Equal(v.gone, old.gone)
}

// leadsAs reports whether packets come from a port and go to it as they do with q.
func (p *portEntry) leadsAs(q *portEntry) bool {
	if p == nil || q == nil {
		return p == q
	}
	return p.sameLink(q) && p.link == q.link && p.pointToPoint == q.pointToPoint && p.box == q.box &&
		p.area == q.area && p.rpf == q.rpf
}

// reversePath checks the source of a packet against the routes (RFC 3704). Strict
// means feasible: where several uplinks lead to the source, all may carry it.
func (v *view) reversePath(p *packet.Packet, r role) Reason {
	if r != roleWire {
		return None
	}
	in := v.portOf(p.In)
	if _, own := v.own(&p.Tuple.Src); own {
		return SpoofedSource // nobody else may use our addresses
	}
	if linkLocal(&p.Tuple.Src) { // no farther than here (RFC 4291 section 2.5.6)
		if _, own := v.own(&p.Tuple.Dst); !own {
			return SpoofedSource
		}
		return None
	}
	if in.rpf == RPFOff {
		return None
	}
	if in.rpf == RPFLoose {
		if _, ok := v.routes.Lookup(&p.Tuple.Src); ok {
			return None
		}
	}
	if !v.routes.Reaches(&p.Tuple.Src, p.In) {
		return SpoofedSource
	}
	return None
}
