package dataplane

import (
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

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
		did.out = stream.Out{Send: [2]stream.Piece{{Seq: did.out.Seq}}, Num: 1}
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

	told   uint32 // if out.Tell: up to where the sender may be told that its bytes have come,
	as     uint32 // in a segment with this number
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
		if !w.open(f, p, way.ref) || len(body) == 0 {
			did.out = stream.Out{Fate: stream.AsItIs, Seq: seq} // edits come behind it
			return
		}
		did.syn = 1
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
		did.told, did.as, did.window = f.s.Told(d), f.awaits[d], f.window[d.Other()]
		if !renumbered(p) {
			did.as = packet.Ack(p)
		}
		if f.sack[d] {
			did.late = len(f.s.Late(d, packet.Seq(p), did.runs[:0]))
		}
	}
}

// open says that p, a SYN, opens its direction, and reports whether it does: one that the
// tracker did not take is late, or the other host has yet to say what it thinks of it.
func (w *Worker) open(f *helped, p *packet.Packet, ref conntrack.Ref) bool {
	first := packet.Seq(p) + 1
	side := w.ct.TCPSides(ref)[ref.Dir]
	if side.End != first+uint32(len(packet.Body(p))) {
		return false
	}
	f.s.Open(ref.Dir, first)
	if p.TCPFlags&packet.ACK != 0 {
		f.s.Answered(ref.Dir, packet.Ack(p))
	}
	f.sack[ref.Dir] = side.SACK
	return true
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
	packet.Acknowledge(&w.scratch, p, w.arena(packet.AnswerLen), did.as, did.told, did.window, late[:did.late])
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
	rest := did.out.Pieces()
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
			w.another(way)
		}
		w.depart(q, way)
	}
}

// another counts a packet beyond the first of those that one has become: one came, the
// others are made here.
func (w *Worker) another(way *egress) {
	if way.eg.id == HostPort {
		w.tally.delivered--
	} else {
		w.tally.forwarded--
	}
	count(&w.counter.originated, 1)
}

// helpDatagram takes a UDP packet through the helper of its flow.
func (w *Worker) helpDatagram(f *helped, p *packet.Packet, way *egress) bool {
	if p.Segments() > 1 {
		q := &w.edited
		g := packet.MakeSegmenter(p)
		for n := 0; g.Next(q, w.editBuffer(g.BufferLen())); n++ {
			if n > 0 {
				w.another(way)
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
