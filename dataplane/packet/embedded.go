package packet

import "example.com/culvert/conntrack/tuple"

// parseEmbedded reads the packet inside an ICMP error. Its lengths are what the
// sender of the error claims about a packet that is cut short, so nothing is
// taken from them without looking.
//
// RFC 5508 REQ-3: options are stepped over, the transport checksum is not
// demanded; a wrong embedded header checksum is only flagged.
func parseEmbedded(p *Packet) Fault {
	p.EmbL3 = p.L4 + icmpLen
	p.EmbL4, p.EmbEnd = p.EmbL3, p.End
	b := p.Mem[p.EmbL3:p.End]
	if p.Tuple.Family == tuple.IPv4 {
		return parseEmbedded4(p, b)
	}
	return parseEmbedded6(p, b)
}

func parseEmbedded4(p *Packet, b []byte) Fault {
	if len(b) < ipv4MinLen || b[0]>>4 != 4 {
		return BadEmbedded
	}
	ihl := int(b[0]&15) * 4
	if ihl < ipv4MinLen || ihl > len(b) {
		return BadEmbedded
	}
	if sumWords(b[:ihl]) != 0xffff {
		p.Flags |= EmbeddedBadSum
	}
	if total := int(be.Uint16(b[2:])); total >= ihl && total < len(b) {
		p.EmbEnd = p.EmbL3 + total
	}
	p.EmbL4 = p.EmbL3 + ihl
	p.Embedded = tuple.Tuple{
		Src:    tuple.AddrFrom4([4]byte(b[12:16])),
		Dst:    tuple.AddrFrom4([4]byte(b[16:20])),
		Proto:  b[9],
		Family: tuple.IPv4,
	}
	if be.Uint16(b[6:])&0x1fff == 0 {
		parseEmbeddedTransport(p)
	}
	return OK
}

func parseEmbedded6(p *Packet, b []byte) Fault {
	if len(b) < ipv6Len || b[0]>>4 != 6 {
		return BadEmbedded
	}
	if total := ipv6Len + int(be.Uint16(b[4:])); total < len(b) {
		b = b[:total]
		p.EmbEnd = p.EmbL3 + total
	}
	next, off := b[6], ipv6Len
	first := true
	for n := 0; isExtension(next) && first; n++ {
		if n == maxExtensions {
			return BadEmbedded
		}
		h := b[off:]
		if len(h) < 2 || next == extFragment && len(h) < 4 {
			return BadEmbedded
		}
		size := min(extensionLen(next, h), len(h)) // where it is cut short, what follows is known all the same
		first = next != extFragment || be.Uint16(h[2:])&^7 == 0
		next = h[0]
		off += size
	}
	p.EmbL4 = p.EmbL3 + off
	p.Embedded = tuple.Tuple{Src: tuple.Addr(b[8:24]), Dst: tuple.Addr(b[24:40]), Proto: next, Family: tuple.IPv6}
	if first {
		parseEmbeddedTransport(p)
	}
	return OK
}

// parseEmbeddedTransport fills the ports of p.Embedded, if they are there.
func parseEmbeddedTransport(p *Packet) {
	b := p.Mem[p.EmbL4:p.EmbEnd]
	t := &p.Embedded
	queries := icmpQueries
	switch t.Proto {
	case tuple.TCP, tuple.UDP, tuple.UDPLite, tuple.SCTP, tuple.DCCP:
		if len(b) >= 4 {
			t.SrcPort, t.DstPort = be.Uint16(b), be.Uint16(b[2:])
			p.Flags |= EmbeddedNAT
		}
	case tuple.ICMPv6:
		queries = icmpv6Queries
		fallthrough
	case tuple.ICMP:
		if len(b) >= 6 && queries[b[0]] {
			t.SrcPort, t.DstPort = be.Uint16(b[4:]), be.Uint16(b)
			p.Flags |= EmbeddedNAT
		}
	default:
		p.Flags |= EmbeddedNAT // such a protocol has no ports to miss
	}
}
