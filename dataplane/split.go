package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/route"
)

// arena returns n bytes that stay as they are until the next flush. Frames the
// gateway makes itself are built there, since senders only borrow them.
func (w *Worker) arena(n int) []byte {
	w.reserve(n)
	b := w.out[w.used : w.used+n : w.used+n]
	w.used += n
	return b
}

// reserve makes sure that the next n bytes of the arena come without a flush, so
// that a segment outlives its being fragmented.
func (w *Worker) reserve(n int) {
	if len(w.out)-w.used < n {
		w.flush()
	}
}

// putFragments splits an IPv4 packet that is longer than its egress's MTU and may
// be fragmented, or a packet that came in fragments.
func (w *Worker) putFragments(s port.Sender, p *packet.Packet, eg *portEntry) Reason {
	if p.WireLen() > eg.mtu && !packet.Fragmentable(p) {
		return TooBigForEgress
	}
	q := &w.pieces[1]
	f := packet.MakeFragmenter(p, eg.mtu)
	for f.Next(q, w.arena(f.BufferLen())) {
		if why := ofStatus[w.send(s, q)]; why != None {
			return why
		}
	}
	return None
}

// putSegments does in software what the egress cannot: split a GSO frame,
// complete a checksum.
func (w *Worker) putSegments(s port.Sender, p *packet.Packet, eg *portEntry) Reason {
	if p.Offload.GSOType == packet.GSONone {
		packet.CompleteChecksum(p)
		return ofStatus[w.send(s, p)]
	}
	q := &w.pieces[0]
	g := packet.MakeSegmenter(p)
	for w.reserve(arenaSize / 2); g.Next(q, w.arena(g.BufferLen())); w.reserve(arenaSize / 2) {
		if q.End-q.L3 > eg.mtu {
			if why := w.putFragments(s, q, eg); why != None {
				return why
			}
			continue
		}
		if why := ofStatus[w.send(s, q)]; why != None {
			return why
		}
	}
	return None
}

// forwardPlain forwards a packet that has no entry, untranslated.
func (w *Worker) forwardPlain(p *packet.Packet, hop *route.NextHop, r role) {
	hint := w.e.neigh.HostHint()
	if hop.Port != HostPort {
		var why Reason
		if hint, why = w.neighbour(p, hop, p.Tuple.Dst); why != None {
			w.refuse(p, conntrack.Ref{}, why, r)
			return
		}
	}
	out, mac, ok := w.e.neigh.Get(hint)
	if !ok {
		w.wait(p, conntrack.Ref{}, hint, r)
		return
	}
	eg := w.v.portOf(out)
	if eg == nil {
		w.drop(EgressDown)
		return
	}
	if r == roleWire && out != HostPort && p.TTL <= 1 {
		w.refuse(p, conntrack.Ref{}, TTLExceeded, r)
		return
	}
	if !w.fits(p, eg, conntrack.Ref{}, r) {
		return
	}
	if r == roleWire && out != HostPort {
		packet.DecrementTTL(p)
	}
	w.transmit(p, eg, mac, conntrack.Ref{}, r)
}

// segmentOf tells the tracker what it needs of p.
func segmentOf(p *packet.Packet, s *conntrack.Segment) {
	s.Bytes = uint32(p.End - p.L3)
	if p.Flags&packet.FragmentLater != 0 {
		return
	}
	switch p.Tuple.Proto {
	case tuple.TCP:
	case tuple.SCTP:
		chunksOf(p, &s.SCTP)
		return
	case tuple.DCCP:
		s.DCCPType = p.Mem[p.L4+8] >> 1 & 0xf // RFC 4340 section 5.1
		return
	default:
		return
	}
	h := p.Mem[p.L4:p.Payload]
	s.Seq, s.Ack = be32(h[4:]), be32(h[8:])
	s.Window = uint16(h[14])<<8 | uint16(h[15])
	s.Flags = p.TCPFlags
	s.Payload = uint32(p.End - p.Payload)
	if len(h) > 20 {
		optionsOf(p, s)
	}
}

// chunksOf tells the tracker about an SCTP packet; of a broken one nothing.
func chunksOf(p *packet.Packet, s *conntrack.SCTPChunks) {
	s.Tag = packet.SCTPTag(p)
	whole := packet.SCTPChunks(p, func(c packet.SCTPChunk) bool {
		s.InitTag |= c.InitTag
		return s.Add(c.Type, c.Flags)
	})
	if !whole {
		*s = conntrack.SCTPChunks{}
	}
}

// timestampOnly is how the options of nearly every segment after the SYN look:
// two no-operations, then RFC 7323's timestamp of 10 bytes.
const timestampOnly = 0x0101080a

// optionsOf adds the TCP options that window tracking needs.
func optionsOf(p *packet.Packet, s *conntrack.Segment) {
	if o := p.Mem[p.L4+20 : p.Payload]; len(o) == 12 && be32(o) == timestampOnly {
		return
	}
	var o packet.TCPOpts
	packet.TCPOptions(p, &o)
	if o.WScaleAt != 0 {
		s.Options |= conntrack.OptWindowScale
		s.WindowScale = o.WScale
	}
	if o.SACKPermitted {
		s.Options |= conntrack.OptSACKPermit
	}
	for i, b := range o.SACK[:o.NumSACK] {
		if i == 0 || int32(b.Right-s.SACK) > 0 {
			s.SACK = b.Right
		}
		s.Options |= conntrack.OptSACK
	}
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
