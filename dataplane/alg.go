package dataplane

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"example.com/culvert/alg"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// helpers are the flows that have a helper, or had one and keep its edits. They are
// few: a lock for each flow, and one for each shard of the map.
type helpers struct {
	set    *alg.Set
	memory atomic.Int64 // bytes kept for all flows
	shards [helperShards]struct {
		mu    sync.Mutex
		flows map[uint32]*helped // by slot
	}
	seed     maphash.Seed // of budgets
	budgets  [helperShards]budget
	events   [stream.NumEvents]atomic.Uint64
	tallies  []*helperTally // by name
	starving atomic.Uint64  // flows that got no helper, for want of memory
	log      chan Announcement
	pace     pace
	unlogged atomic.Uint64 // announcements that found no place in log, or had too many before them
	shut     sync.Once     // of log
}

const (
	helperShards = 64
	helpedSize   = 1 << 10 // bytes of a flow with a small parser
)

// helped is one flow with its helper.
type helped struct {
	gen    uint32 // of the entry's slot
	number uint32 // of the helper; guarded by mu
	who    netip.Addr
	purse  *account // of who

	mu      sync.Mutex // guards what follows
	s       *stream.Session
	memory  int64
	events  [stream.NumEvents]uint32
	seq     [tuple.NumDirections]conntrack.Correction // as the entry has it
	window  [tuple.NumDirections]uint16               // last seen from each side
	sack    [tuple.NumDirections]bool                 // whether each side understands selective acknowledgements
	spent   int                                       // announcements in this second
	charged int64                                     // the second, of the boot clock
}

func (h *helpers) init(c *Config) {
	h.set, h.seed = c.Helpers, maphash.MakeSeed()
	if h.set != nil {
		names := h.set.Names()
		h.tallies = make([]*helperTally, len(names))
		for i := range names {
			h.tallies[i] = &helperTally{name: names[i]}
		}
	}
	h.log = make(chan Announcement, announcementsKept)
	for i := range h.shards {
		h.shards[i].flows = make(map[uint32]*helped)
	}
}

// find returns the flow of an entry, nil if it is not there.
func (h *helpers) find(slot, gen uint32) *helped {
	sh := &h.shards[slot%helperShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f := sh.flows[slot]; f != nil && f.gen == gen {
		return f
	}
	return nil
}

// add returns the flow of an entry, which f becomes if there is none.
func (h *helpers) add(slot uint32, f *helped) *helped {
	sh := &h.shards[slot%helperShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if old := sh.flows[slot]; old != nil {
		if old.gen == f.gen {
			return old
		}
		h.release(old)
	}
	sh.flows[slot] = f
	return f
}

// release gives back what a flow has, which has ended.
func (h *helpers) release(f *helped) {
	f.mu.Lock()
	h.book(f.purse, -f.memory, 0)
	f.memory = 0
	f.mu.Unlock()
	h.end(f.who)
}

// expire forgets the flows that have ended.
func (h *helpers) expire(t *conntrack.Table) {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		for slot, f := range sh.flows {
			if e := t.Entry(slot); e.Gen() != f.gen || e.Status()&conntrack.Dying != 0 {
				h.release(f)
				delete(sh.flows, slot)
			}
		}
		sh.mu.Unlock()
	}
}

// follow has every flow have the helper that the table says.
func (h *helpers) follow(t *conntrack.Table) {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		for slot, f := range sh.flows {
			if t.Entry(slot).Gen() == f.gen {
				h.change(f, t.HelperAt(slot))
			}
		}
		sh.mu.Unlock()
	}
}

// change gives the session of a flow the helper with a number: with other options, if it
// is the same one. Another one does not begin in the middle.
func (h *helpers) change(f *helped, number uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.number == number {
		return
	}
	if at := h.set.Get(number); at != nil && at.Spec.Name == h.set.Name(f.number) {
		f.s.Allow(at.Options)
	} else {
		f.s.Dismiss()
	}
	h.settleLocked(f, 1<<62)
	f.number = number
}

// settleLocked counts what happened in a call of the session, and what it keeps, of
// limit bytes for all flows.
func (h *helpers) settleLocked(f *helped, limit int64) {
	if m := int64(f.s.Memory()) + helpedSize; m != f.memory {
		if !h.book(f.purse, m-f.memory, limit) && m > f.memory {
			f.s.Starve()
		}
		f.memory = m
	}
	for ev, n := range f.s.Events {
		if n != f.events[ev] {
			h.events[ev].Add(uint64(n - f.events[ev]))
			if stream.Event(ev) == stream.Unread {
				h.tally(f.number).unread.Add(uint64(n - f.events[ev]))
			}
			f.events[ev] = n
		}
	}
}

// addHelpers gives numbers to the helpers of rules. A number stays for as long as the
// engine lives, so flows keep their helper when rules change.
func (v *view) addHelpers(set *alg.Set) error {
	v.helpers = make([]uint32, len(v.prog.Rules()))
	for _, r := range v.prog.Rules() {
		name, o := r.Helper()
		if name == "" {
			continue
		}
		if set == nil {
			return fmt.Errorf("%s rule %d: helper %q: this engine has no helpers", r.List, r.Pos, name)
		}
		n, err := set.Number(name, o)
		if err != nil {
			return fmt.Errorf("%s rule %d: %w", r.List, r.Pos, err)
		}
		v.helpers[r.Index], v.helps = n, true
		v.asks = v.asks || set.Get(n).Spec.Broadcasts
	}
	return nil
}

// attach gives a new flow its helper: that of its expectation, or else of the rules. A
// helper that cannot read the flow's protocol stays away from it.
func (w *Worker) attach(f *first) {
	h := &w.e.helpers
	if h.set == nil {
		return
	}
	if f.prop.Helper == 0 {
		f.prop.Helper = w.e.helperBy(w.v, f)
	}
	if at := h.set.Get(f.prop.Helper); at != nil && !slices.Contains(at.Spec.Protos, f.prop.Original.Proto) {
		f.prop.Helper = 0
	}
}

// helperBy returns the number of the helper that the rules of v give a new flow.
func (e *Engine) helperBy(v *view, f *first) uint32 {
	switch {
	case f.ruling.HelperRule != nil:
		return v.helpers[f.ruling.HelperRule.Index]
	case e.cfg.Helper != nil:
		return e.cfg.Helper(f.prop.Original)
	}
	return 0
}

// hasHelper is the set of status bits of flows that step 9 is for.
const hasHelper = conntrack.Helper | conntrack.SeqAdjust

// helpedFlow returns the flow of a packet with its helper, made if payload comes for
// the first time. It is nil for flows without, and for those that have none yet.
func (w *Worker) helpedFlow(p *packet.Packet, e *conntrack.Entry, ref conntrack.Ref) *helped {
	h := &w.e.helpers
	if f := h.find(ref.Slot, e.Gen()); f != nil {
		return f
	}
	number := w.ct.HelperOf(ref)
	if h.set == nil || number == 0 || len(packet.Body(p)) == 0 {
		return nil
	}
	at := h.set.Get(number)
	if at == nil {
		return nil
	}
	flow := alg.Flow{Tuple: [tuple.NumDirections]tuple.Tuple{e.Tuple(tuple.Original), e.Tuple(tuple.Reply)}}
	f := &helped{gen: e.Gen(), number: number, who: clientOf(&flow), memory: helpedSize}
	f.purse = h.open(f.who)
	if !h.book(f.purse, f.memory, w.v.bounds.Memory) {
		h.release(f)
		h.starving.Add(1)
		return nil
	}
	f.s = stream.New(at, flow, w.v.bounds.Stream)
	if flow.Stream() {
		for d, side := range w.ct.TCPSides(ref) {
			dir := tuple.Direction(d)
			f.seq[d] = w.ct.Correction(ref, dir)
			switch {
			case f.seq[d] != (conntrack.Correction{}): // this is not its first session
				f.s.Begin(dir, side.End, stream.InMiddle)
				f.s.Resume(dir, f.seq[d].After)
			case side.Known:
				f.s.Begin(dir, side.End, stream.FromStart)
			}
			f.window[d], f.sack[d] = side.Window, side.SACK
		}
	}
	old := h.add(ref.Slot, f)
	if old != f {
		h.release(f)
	}
	if now := w.ct.HelperOf(ref); now != number { // a reload was faster
		h.change(old, now)
	}
	return old
}

// renumber makes the acknowledgements of a segment mean what its receiver sent, before
// it is tracked. It returns the number that stood there.
func (f *helped) renumber(p *packet.Packet, d tuple.Direction) uint32 {
	ack := packet.Ack(p)
	if p.TCPFlags&packet.ACK == 0 {
		return ack
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var o packet.TCPOpts
	packet.TCPOptions(p, &o)
	for i, b := range o.SACK[:o.NumSACK] {
		b.Left, b.Right = f.s.Selected(d, b.Left, b.Right)
		packet.SetSACK(p, &o, i, b)
	}
	packet.SetAck(p, f.s.Ack(d, ack))
	return ack
}

// renumberPlain is renumber for a flow that has no helper any more, but what an earlier
// one did to its numbers.
func (w *Worker) renumberPlain(p *packet.Packet, ref conntrack.Ref) {
	c := w.ct.Correction(ref, ref.Dir.Other())
	if p.TCPFlags&packet.ACK == 0 || c == (conntrack.Correction{}) {
		return
	}
	var o packet.TCPOpts
	packet.TCPOptions(p, &o)
	for i, b := range o.SACK[:o.NumSACK] {
		packet.SetSACK(p, &o, i, packet.SACKBlock{Left: c.ToSender(b.Left), Right: c.ToSender(b.Right)})
	}
	packet.SetAck(p, c.ToSender(packet.Ack(p)))
}

// acknowledged says that the tracker took a segment whose acknowledgement was ack.
func (f *helped) acknowledged(p *packet.Packet, d tuple.Direction, ack uint32) {
	if p.TCPFlags&packet.ACK == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.window[d] = packet.Window(p)
	if f.s.Acked(d, ack) {
		packet.SetAck(p, f.s.Told(d.Other()))
	}
}

// renumberError makes the segment that an ICMP error is about the one that its sender
// knows: he may ignore what names other numbers (RFC 5927 section 4).
func (w *Worker) renumberError(p *packet.Packet, e *conntrack.Entry, ref conntrack.Ref) {
	seq, ok := packet.EmbeddedSeq(p)
	f := w.e.helpers.find(ref.Slot, e.Gen())
	if !ok || f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	seq, _ = f.s.Selected(ref.Dir, seq, seq)
	packet.SetEmbeddedSeq(p, seq)
}

// forReceiver returns what a sequence number of the sender of direction ref.Dir is for
// the receiver.
func (w *Worker) forReceiver(e *conntrack.Entry, ref conntrack.Ref, seq uint32) uint32 {
	if e.Status()&conntrack.SeqAdjust == 0 {
		return seq
	}
	if f := w.e.helpers.find(ref.Slot, e.Gen()); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.s.Seq(ref.Dir, seq)
	}
	c := w.ct.Correction(ref, ref.Dir)
	return c.ToReceiver(seq)
}

// help is step 9 of the walk: the helper of the flow reads the payload of p, and what
// goes on is what it makes of it. It reports true when it has dealt with p. What is to be
// sent is sent without the flow's lock: that may take a flush.
func (w *Worker) help(p *packet.Packet, e *conntrack.Entry, way *egress) bool {
	if p.Flags.Fragment() {
		return false
	}
	f := w.helpedFlow(p, e, way.ref)
	if f == nil {
		if p.Tuple.Proto == tuple.TCP {
			packet.SetSeq(p, w.forReceiver(e, way.ref, packet.Seq(p)))
		}
		return false
	}
	switch p.Tuple.Proto {
	case tuple.TCP:
		return w.helpSegment(f, p, way)
	case tuple.UDP:
		return w.helpDatagram(f, p, way)
	}
	return false
}

// helpSegment takes a TCP segment through the helper of its flow.
func (w *Worker) helpSegment(f *helped, p *packet.Packet, way *egress) bool {
	var did segmentDone
	w.inspectSegment(f, p, way, &did)
	if did.out.Tell {
		w.acknowledge(p, &did, way.role)
	}
	switch did.out.Fate {
	case stream.AsItIs:
		packet.SetSeq(p, did.out.Seq-did.syn)
		return false
	case stream.Crowded:
		w.undo(way.ref)
		w.drop(HelperCrowded)
	case stream.Empty:
		did.out = stream.Out{Send: [2]stream.Piece{{Seq: did.out.Seq}}}
		w.sendPieces(p, way, &did)
	case stream.Rewritten:
		w.sendPieces(p, way, &did)
	}
	return true
}

// segmentDone is what a helper has made of a segment.
type segmentDone struct {
	out    stream.Out // in w.text
	syn    uint32     // numbers that a SYN takes
	urgent uint32     // number behind the urgent data, for the receiver

	told   uint32 // if out.Tell: up to where the sender may be told that its bytes have come
	window uint16
	runs   [3][2]uint32 // and what has come behind a hole
	late   int          // of runs
}

// inspectSegment has the session of f read segment p.
func (w *Worker) inspectSegment(f *helped, p *packet.Packet, way *egress, did *segmentDone) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.herald = herald{w: w, f: f, ref: way.ref}
	if w.trace != nil {
		w.trace.observe(f)
	}
	d, seq, body, last := way.ref.Dir, packet.Seq(p), packet.Body(p), stream.More
	if p.TCPFlags&packet.SYN != 0 {
		did.syn = 1
		f.s.Begin(d, seq+did.syn, stream.FromStart)
	}
	switch {
	case p.TCPFlags&packet.RST != 0:
		body = nil
	case p.TCPFlags&packet.FIN != 0:
		last = stream.Fin
	}
	f.s.Swap(w.lendText())
	did.out = f.s.Segment(d, seq+did.syn, body, last, &w.herald)
	w.text = f.s.Swap(nil)
	if w.trace != nil {
		w.trace.observed(f)
	}
	w.e.helpers.settleLocked(f, w.v.bounds.Memory)
	if pos, before, after := f.s.Shift(d); f.seq[d] != (conntrack.Correction{Pos: pos, Before: before, After: after}) {
		f.seq[d] = conntrack.Correction{Pos: pos, Before: before, After: after}
		w.ct.SetCorrection(way.ref, d, f.seq[d]) // a flow with helper has room for it
	}
	if p.TCPFlags&packet.URG != 0 {
		did.urgent = f.s.Seq(d, packet.Seq(p)+uint32(packet.Urgent(p)))
	}
	if did.out.Tell {
		did.told, did.window = f.s.Told(d), f.window[d.Other()]
		if f.sack[d] {
			did.late = len(f.s.Late(d, packet.Seq(p), did.runs[:0]))
		}
	}
}

// acknowledge tells the sender of p, in the name of the receiver, what we answer for.
func (w *Worker) acknowledge(p *packet.Packet, did *segmentDone, r role) {
	in := w.v.portOf(p.In)
	if in == nil {
		return
	}
	var late [len(did.runs)]packet.SACKBlock
	for i, run := range did.runs[:did.late] {
		late[i] = packet.SACKBlock{Left: run[0], Right: run[1]}
	}
	packet.Acknowledge(&w.scratch, p, w.arena(packet.AnswerLen), did.told, did.window, late[:did.late])
	w.sendBack(p, in, r)
}

// leastMSS is what every host takes (RFC 9293 section 3.7.1).
var leastMSS = [2]int{536, 1220} // IPv4, IPv6

// sendPieces sends what a helper has made of segment p in its place: as one packet if
// it fits where p did, else as a GSO frame.
func (w *Worker) sendPieces(p *packet.Packet, way *egress, did *segmentDone) {
	mss := max(len(packet.Body(p)), leastMSS[0])
	if p.Tuple.Family == tuple.IPv6 {
		mss = max(mss, leastMSS[1])
	}
	if p.Segments() > 1 {
		mss = int(p.Offload.GSOSize)
	}
	mss = min(mss, way.eg.mtu-(p.Payload-p.L3))
	most := packet.MaxBody(p)
	rest := did.out.Send[:1]
	if len(did.out.Send[1].Data) > 0 {
		rest = did.out.Send[:]
	}
	for sent := 0; len(rest) > 0; sent++ {
		body, seq := rest[0].Data, rest[0].Seq
		if len(body) > most {
			body = body[:most]
		}
		rest[0].Data, rest[0].Seq = rest[0].Data[len(body):], seq+uint32(len(body))
		if len(rest[0].Data) == 0 {
			rest = rest[1:]
		}
		q := &w.edited
		packet.WithBody(q, p, w.editBuffer(packet.BodyBuffer(p, len(body))), body, mss)
		packet.SetSeq(q, seq)
		gone := uint8(0)
		if len(rest) > 0 || !did.out.Fin {
			gone = packet.FIN
		}
		if p.TCPFlags&packet.URG != 0 {
			if n := did.urgent - seq; n <= 0xffff {
				packet.SetUrgent(q, uint16(n))
			}
		}
		packet.ClearTCPFlags(q, gone)
		if sent > 0 {
			w.tally.forwarded-- // one packet came: the others are made here
			count(&w.counter.originated, 1)
		}
		w.depart(q, way)
	}
}

// helpDatagram takes a UDP packet through the helper of its flow.
func (w *Worker) helpDatagram(f *helped, p *packet.Packet, way *egress) bool {
	if p.Segments() > 1 {
		q := &w.edited
		g := packet.MakeSegmenter(p)
		for n := 0; g.Next(q, w.editBuffer(g.BufferLen())); n++ {
			if n > 0 {
				w.tally.forwarded--
				count(&w.counter.originated, 1)
			}
			one := *q
			if !w.helpDatagram(f, &one, way) {
				w.depart(&one, way)
			}
		}
		return true
	}
	body, changed := w.inspectDatagram(f, p, way)
	if !changed {
		return false
	}
	if len(body) > packet.MaxBody(p) {
		w.undo(way.ref)
		w.drop(HelperCrowded)
		return true
	}
	q := &w.edited
	packet.WithBody(q, p, w.editBuffer(packet.BodyBuffer(p, len(body))), body, packet.MaxBody(p))
	if q.WireLen() > way.eg.mtu && !packet.Fragmentable(q) {
		// Its sender sends less at a time, or in fragments, which are joined here.
		w.tooBig(p, way.eg.mtu-(len(body)-len(packet.Body(p))), way.role)
		w.undo(way.ref)
		w.drop(TooBigForEgress)
		return true
	}
	w.depart(q, way)
	return true
}

// inspectDatagram has the session of f read datagram p. It returns what goes in the place
// of its payload, in w.text, and whether that differs.
func (w *Worker) inspectDatagram(f *helped, p *packet.Packet, way *egress) (body []byte, changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.herald = herald{w: w, f: f, ref: way.ref}
	if w.trace != nil {
		w.trace.observe(f)
	}
	f.s.Swap(w.lendText())
	body, changed = f.s.Datagram(way.ref.Dir, packet.Body(p), &w.herald)
	w.text = f.s.Swap(nil)
	if w.trace != nil {
		w.trace.observed(f)
	}
	w.e.helpers.settleLocked(f, w.v.bounds.Memory)
	return body, changed
}

// textKept is how much memory for what sessions return a worker keeps: a packet that has
// grown. More is seldom needed, behind a hole that was filled.
const textKept = 2 * maxFrame

// lendText returns w's memory for what a session returns.
func (w *Worker) lendText() []byte {
	if cap(w.text) > textKept {
		return nil
	}
	return w.text
}

// editBuffer returns n bytes for a packet that takes the place of another one. They
// stay as they are until the next flush, and while less than a packet more is taken. It
// may flush: no lock may be held.
func (w *Worker) editBuffer(n int) []byte {
	if w.edits == nil {
		w.edits = make([]byte, 4*(packet.Headroom+maxFrame))
	}
	if len(w.edits)-w.editsUsed < n {
		w.flush()
		w.editsUsed = 0
	}
	b := w.edits[w.editsUsed : w.editsUsed+n : w.editsUsed+n]
	w.editsUsed += n
	return b
}
