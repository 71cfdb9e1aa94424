package dataplane

import (
	"net/netip"

	"example.com/culvert/alg"
	"example.com/culvert/alg/report"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/rules"
)

// tracing is who watches an engine. Immutable.
type tracing struct {
	gen  uint32
	all  []*Trace
	snap int // bytes of a frame that one of them wants
}

// tracer notes what a worker does with a packet, for all Traces. It sees where the
// packet came from and what is sent from outside of the walk: the worker takes packets
// one by one, and its senders are wrapped. Only what happens seldom (drops, first
// packets, waiting) has a line in the walk that calls it.
type tracer struct {
	w    *Worker
	on   *tracing
	base *view // that v is made of
	v    *view // with senders that tell

	busy    bool // a packet is in hand
	walk    traceWalk
	sent    []traceSent
	data    []byte // frames: as it came, then what was sent
	applied []*rules.Rule
}

// traceHeaders is how much of every frame is kept: all that a line about it shows.
const traceHeaders = 128

// watch begins to note for another set of Traces; with none the worker is as before.
func (w *Worker) watch(on *tracing) {
	w.tracing = on
	defer w.watched.Store(on.gen)
	if len(on.all) == 0 {
		w.trace, w.applied = nil, nil
		return
	}
	t := w.trace
	if t == nil {
		t = &tracer{w: w, sent: make([]traceSent, 0, walkSends), data: make([]byte, 0, 4*maxFrame), applied: make([]*rules.Rule, 0, 4*walkRules)}
		w.trace, w.applied = t, &t.applied
	}
	t.on = on
}

// viewed returns v with senders that tell what is sent.
func (t *tracer) viewed(v *view) *view {
	if t.base == v {
		return t.v
	}
	t.base = v
	copied := *v
	t.v = &copied
	t.v.sinks = make([]sinks, len(v.sinks))
	if t.w.index < len(v.sinks) {
		own := &v.sinks[t.w.index]
		t.v.sinks[t.w.index] = sinks{wire: t.wrap(own.wire, sinkWire), box: t.wrap(own.box, sinkBox)}
	}
	return t.v
}

func (t *tracer) wrap(senders []port.Sender, sink traceSink) []port.Sender {
	wrapped := make([]port.Sender, len(senders))
	for id, s := range senders {
		switch {
		case s == nil:
		case id == int(HostPort):
			wrapped[id] = &tracedSender{s, t, uint16(id), sinkHost}
		default:
			wrapped[id] = &tracedSender{s, t, uint16(id), sink}
		}
	}
	return wrapped
}

// tracedSender is a sender of a worker that tells what it sends.
type tracedSender struct {
	port.Sender
	t    *tracer
	id   uint16
	sink traceSink
}

// Send implements port.Sender.
func (s *tracedSender) Send(p *packet.Packet) port.Status {
	return s.t.send(s, p)
}

// batch is Worker.batch, packet by packet.
func (t *tracer) batch(src source, n int) {
	w := t.w
	w.came(n)
	for i := range w.pkts[:n] {
		p := &w.pkts[i]
		p.In = src.id
		t.begin(p, traceArrived, src.role)
		w.walk(src, w.pkts[i:i+1])
		t.end()
	}
}

// begin takes a packet in hand.
func (t *tracer) begin(p *packet.Packet, kind traceKind, r role) {
	t.reset(kind, r)
	t.look(p)
	t.w.refs[0] = conntrack.Ref{}
	t.busy = true
}

func (t *tracer) reset(kind traceKind, r role) {
	t.walk = traceWalk{kind: kind, at: t.w.now, view: t.base, worker: t.w.index, role: r}
	t.sent, t.data, t.applied = t.sent[:0], t.data[:0], t.applied[:0]
}

// look keeps p as it came.
func (t *tracer) look(p *packet.Packet) {
	t.walk.in, t.walk.packet = p.In, *p
	t.walk.offload = p.Offload
	t.walk.length, t.walk.before = p.End-p.Off, t.keep(p)
	q := &t.walk.packet
	t.walk.fault = packet.Parse(q)
	t.walk.reached = t.walk.fault == packet.OK || t.walk.fault == packet.LandPacket
	start := q.Off
	q.Mem = nil
	for _, at := range [...]*int{&q.Off, &q.End, &q.L3, &q.L4, &q.Payload, &q.EmbL3, &q.EmbL4, &q.EmbEnd} {
		*at -= start
	}
}

// quotes reports whether the packet in hand is an ICMP error about a packet of a flow.
func (t *tracer) quotes() bool {
	return t.walk.reached && t.walk.packet.Flags&packet.ICMPError != 0
}

// keep copies a frame, as much of it as somebody wants, and returns how much.
func (t *tracer) keep(p *packet.Packet) int {
	n := min(p.End-p.Off, max(t.on.snap, traceHeaders), cap(t.data)-len(t.data))
	t.data = append(t.data, p.Mem[p.Off:p.Off+n]...)
	return n
}

// flow says which flow the packet in hand belongs to.
func (t *tracer) flow(ref conntrack.Ref) {
	f, e := &t.walk.flow, t.w.e.table.Entry(ref.Slot)
	if f.began {
		return // that is the one
	}
	f.found, f.dir = true, ref.Dir
	f.id, f.rule, f.choice = t.w.ct.ID(ref.Slot), e.Rule(), e.Choice()
	f.tuple = [tuple.NumDirections]tuple.Tuple{e.Tuple(tuple.Original), e.Tuple(tuple.Reply)}
	if e.Status()&conntrack.Helper != 0 {
		f.helper = t.w.ct.HelperOf(ref)
	}
}

// found says which flow the packet in hand belongs to, if to any, when that is not the
// one of the lookup.
func (t *tracer) found(ref conntrack.Ref) { t.w.refs[0] = ref }

// tagged says that the packet in hand is that of a VLAN sub-interface.
func (t *tracer) tagged(id uint16) { t.walk.in = id }

// next has done with the packet in hand, and takes a fragment that waited for it.
func (t *tracer) next(p *packet.Packet, r role) {
	t.end()
	t.begin(p, traceResumed, r)
}

// began says that the packet in hand has made an entry.
func (t *tracer) began(ref conntrack.Ref) {
	t.walk.flow.began = false // it may have met one that was at its end
	t.flow(ref)
	t.walk.flow.began = true
}

// held says that the packet in hand waits, or is kept for others.
func (t *tracer) held() { t.walk.fate = Kept }

// delivered says that the own stack got the packet in hand by its link.
func (t *tracer) delivered() { t.walk.fate = Delivered }

// joined says that the packet in hand has become the datagram of which n more
// fragments had come.
func (t *tracer) joined(n uint64) { t.walk.joined = n }

// orphaned says that n fragments that waited for the packet in hand were refused with it.
func (t *tracer) orphaned(n uint64) { t.walk.orphans = n }

// drop says why the packet in hand, or a piece of it, goes no further.
func (t *tracer) drop(why Reason) {
	if t.walk.drops < walkReasons {
		t.walk.why[t.walk.drops] = why
	}
	t.walk.drops++
}

// gaveUp says that p, which waited, gave way to the packet in hand.
func (t *tracer) gaveUp(p *packet.Packet, r role, why Reason) {
	walk, sent, data := t.walk, len(t.sent), t.data
	t.walk = traceWalk{kind: traceResumed, at: t.w.now, view: t.base, worker: t.w.index, role: r}
	kept := t.sent
	t.sent = t.sent[sent:]
	t.data = t.data[len(t.data):]
	t.look(p)
	t.drop(why)
	t.walk.fate = Dropped
	t.tell(&t.walk, t.sent, t.data)
	t.walk, t.sent, t.data, t.busy = walk, kept, data, true
}

// refused says that a port refused n frames that it had taken.
func (w *Worker) refused(s port.Sender, why Reason, n uint64) {
	if ts, ok := s.(*tracedSender); ok && w.trace != nil {
		walk := traceWalk{kind: traceRefused, at: w.now, view: w.trace.base, worker: w.index, in: ts.id, n: n, drops: 1, fate: Dropped}
		walk.why[0] = why
		w.trace.tell(&walk, nil, nil)
	}
}

// send sends a frame and notes it.
func (t *tracer) send(s *tracedSender, p *packet.Packet) port.Status {
	alone := !t.busy
	if alone {
		t.reset(traceMade, roleWire)
		t.w.refs[0] = conntrack.Ref{}
	}
	if len(t.sent) == cap(t.sent) {
		t.walk.unsent++
	} else {
		at := len(t.data)
		kept := t.keep(p)
		t.sent = append(t.sent, traceSent{
			out: s.id, sink: s.sink, answer: p == &t.w.scratch, link: p.Link, vlan: p.VLAN, tagged: p.HasVLAN, offload: p.Offload,
			segments: p.Segments(), tuple: p.Tuple, at: at, kept: kept, length: p.End - p.Off,
		})
	}
	st := s.Sender.Send(p)
	switch {
	case st == port.Sent && alone:
		t.end()
	case st == port.Sent:
	case t.walk.unsent > 0:
		t.walk.unsent--
	default:
		last := len(t.sent) - 1
		t.data, t.sent = t.data[:t.sent[last].at], t.sent[:last]
	}
	return st
}

// end has done with the packet in hand.
func (t *tracer) end() {
	t.busy = false
	if ref := t.w.refs[0]; ref.Found() { // what the lookup found
		t.flow(ref)
	}
	w := &t.walk
	w.nrules = copy(w.rules[:], t.applied)
	w.fate = t.fate()
	t.tell(w, t.sent, t.data)
}

// fate says what became of the packet in hand.
func (t *tracer) fate() Fate {
	if t.walk.kind == traceMade {
		return Forwarded
	}
	for i := range t.sent {
		switch s := &t.sent[i]; {
		case s.answer:
		case s.sink == sinkWire:
			return Forwarded
		default:
			return Delivered
		}
	}
	switch {
	case t.walk.drops == 0 && t.walk.unsent > 0:
		return Forwarded
	case t.walk.drops == 0:
		return t.walk.fate
	case t.walk.why[0] == RuleRejected:
		return Rejected
	}
	return Dropped
}

// tell gives a walk to whoever wants it.
func (t *tracer) tell(walk *traceWalk, sent []traceSent, data []byte) {
	for _, s := range t.on.all {
		if walk.kind == traceRefused && !s.filter.wantsRefused(walk) || walk.kind != traceRefused && !s.filter.wants(t) {
			continue
		}
		s.add(t.w.index, walk, sent, data)
	}
}

// helperKept bounds the bytes of a message that a Trace shows.
const helperKept = 4096

// work returns what the helper of the flow in hand does. Unlike the rest of the walk it
// is allocated, as what helpers do is.
func (t *tracer) work() *report.Work {
	if t.walk.told == nil {
		t.walk.told = new(report.Work)
	}
	return t.walk.told
}

// Inspected implements stream.Observer.
func (t *tracer) Inspected(view []byte, e *alg.Edit, taken bool) {
	if len(e.Replace) == 0 || !taken || e.Replace[len(e.Replace)-1].To > helperKept {
		return
	}
	work := t.work()
	work.Changes = append(work.Changes, report.Changes(view[:min(len(view), helperKept)], e.Replace)...)
}

// observe has the session of f show what its parser does while a packet is in hand.
func (t *tracer) observe(f *helped) { f.s.Observer = t }

// announced says what the helper of f has asked for.
func (t *tracer) announced(f *helped, c *alg.Context, group []alg.Expectation, seen netip.AddrPort, err error) {
	spec, work := &t.w.e.helpers.set.Get(f.number).Spec, t.work()
	if err != nil {
		work.Refused = append(work.Refused, report.Refusal(spec, group, err))
		return
	}
	for i := range group {
		at := netip.AddrPortFrom(seen.Addr(), seen.Port()+group[i].To.Port()-group[0].To.Port())
		work.Expected = append(work.Expected, report.Announcement(spec, c, &group[i], at))
	}
}

// observed tells what happened to the helper of f.
func (t *tracer) observed(f *helped) {
	f.s.Observer = nil
	if happened := report.Happened(&f.events, &f.s.Events); len(happened) > 0 {
		work := t.work()
		work.Happened = append(work.Happened, happened...)
	}
}
