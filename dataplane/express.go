package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/route"
)

// Nearly all packets are plain ones (packet.ParsePlain) of flows that are
// established, known by both next hops, and of no further interest. express is the walk
// of these from the lookup on: the same checks in the same order as known, forward and
// transmit have, of which it does only the one outcome that nearly all have. Whatever
// else a packet may be, it leaves to them.

// express sends a plain packet of a known flow on its way, or reports false and has
// done nothing to packet and flow.
func (w *Worker) express(p *packet.Packet, ref conntrack.Ref) bool {
	e := w.e.table.Entry(ref.Slot)
	status := e.Status()
	if status&(conntrack.Confirmed|conntrack.Dying|hasHelper) != conntrack.Confirmed || p.TTL <= 1 || p.TCPFlags&packet.SYN != 0 {
		return false
	}
	if back, ok := w.e.neigh.Valid(route.Hint(e.Hint(ref.Dir.Other()))); ok && back != p.In {
		return false // see cameTheWayBack
	}
	out, mac, ok := w.e.neigh.Next(route.Hint(e.Hint(ref.Dir)))
	if !ok || out == HostPort || out != w.exit.id && !w.exitBy(out) {
		return false
	}
	x, length := &w.exit, p.End-p.L3
	if length > x.mtu || !w.trackPlain(p, ref) {
		return false
	}
	packet.ForwardPlain(p, e.Opposite(ref.Dir), mac, x.mac)
	p.HasVLAN, p.VLAN = x.vlan != 0, x.vlan
	if st := x.to.Send(p); st != port.Sent {
		if why := w.unsent(st, x.to, p, w.v.portOf(out)); why != None {
			w.drop(why)
			return true
		}
	}
	w.tally.forwarded++
	w.tally.bytes += uint64(length)
	return true
}

// exit is what express has to know of the port that the packet before left by: nearly
// always the next one does, too.
type exit struct {
	id   uint16 // HostPort: none since the last flush
	vlan uint16
	mtu  int
	mac  uint64
	to   port.Sender // is among those to flush
}

// exitBy makes a port, not HostPort, the exit, or reports false if it is none for express.
func (w *Worker) exitBy(id uint16) bool {
	eg, to := w.v.portOf(id), w.v.sinks[w.index].wire[id]
	if eg == nil || eg.link != packet.LinkEthernet || to == nil {
		return false
	}
	w.exit = exit{id: id, vlan: eg.vlan, mtu: eg.mtu, mac: eg.macNumber, to: to}
	w.toFlush(to)
	return true
}

// trackPlain takes a plain packet through the tracker of its flow, where that has
// nothing to say but to go on.
func (w *Worker) trackPlain(p *packet.Packet, ref conntrack.Ref) bool {
	length := uint32(p.End - p.L3)
	if p.Tuple.Proto == tuple.UDP {
		return w.ct.SteadyUDP(ref, length, w.tick)
	}
	var s conntrack.Segment
	return segmentOfPlain(p, &s) && w.ct.SteadyTCP(ref, &s, w.tick)
}

// segmentOfPlain is segmentOf for a plain segment of TCP. It reports false if there are
// options that matter.
func segmentOfPlain(p *packet.Packet, s *conntrack.Segment) bool {
	h := p.Mem[p.L4:p.Payload]
	if len(h) != 20 && (len(h) != 32 || be32(h[20:]) != timestampOnly) {
		return false
	}
	s.Bytes, s.Payload = uint32(p.End-p.L3), uint32(p.End-p.Payload)
	s.Seq, s.Ack = be32(h[4:]), be32(h[8:])
	s.Window, s.Flags = uint16(h[14])<<8|uint16(h[15]), p.TCPFlags
	return true
}
