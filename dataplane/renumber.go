package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// renumbered reports whether what a segment acknowledges may have been edited: a SYN is
// the answer to another SYN, which is before all edits, or of another connection.
func renumbered(p *packet.Packet) bool { return p.TCPFlags&(packet.SYN|packet.ACK) == packet.ACK }

// renumber makes the acknowledgements of a segment mean what its receiver sent, before
// it is tracked.
func (f *helped) renumber(p *packet.Packet, d tuple.Direction) {
	if !renumbered(p) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var o packet.TCPOpts
	packet.TCPOptions(p, &o)
	for i, b := range o.SACK[:o.NumSACK] {
		b.Left, b.Right = f.s.Selected(d, b.Left, b.Right)
		packet.SetSACK(p, &o, i, b)
	}
	packet.SetAck(p, f.s.Ack(d, packet.Ack(p)))
}

// renumberPlain is renumber for a flow that has no helper any more, but what an earlier
// one did to its numbers.
func (w *Worker) renumberPlain(p *packet.Packet, ref conntrack.Ref) {
	c := w.ct.Correction(ref, ref.Dir.Other())
	if !renumbered(p) || c == (conntrack.Correction{}) {
		return
	}
	var o packet.TCPOpts
	packet.TCPOptions(p, &o)
	for i, b := range o.SACK[:o.NumSACK] {
		packet.SetSACK(p, &o, i, packet.SACKBlock{Left: c.ToSender(b.Left), Right: c.ToSender(b.Right)})
	}
	packet.SetAck(p, c.ToSender(packet.Ack(p)))
}

// acknowledged says that the tracker took a segment that came with acknowledgement ack.
func (f *helped) acknowledged(p *packet.Packet, d tuple.Direction, ack uint32) {
	if !renumbered(p) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.window[d], f.awaits[d] = packet.Window(p), ack
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
