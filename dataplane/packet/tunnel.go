package packet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

// A tunnel's super-packet is a GSO frame whose segments are packets inside a
// tunnel: a kernel with VXLAN, Geneve or GRE on a device with default offloads
// sends them. Its virtio header reads as if it were the inner packet's alone. A
// kernel that got it back would take the outer one for what is to be cut, so it
// never leaves whole: TunnelGSO is for Segmenter.
//
// Where the inner transport header lies, the virtio header says (CsumStart). The
// inner IP header is what fits before it: version, protocol and length must agree
// with what follows, of whatever kind the tunnel is. Between the two IP headers
// only the length and checksum of UDP and the checksum of GRE depend on the
// contents; a tunnel inside a tunnel is not for us.

// IP protocols that are tunnels.
const (
	protoIPIP = 4
	proto6in4 = 41
)

// GRE header (RFC 2784, RFC 2890).
const (
	greChecksumFlag = 0x8000
	greSequenceFlag = 0x1000
	greSumAt        = 4
)

// tunnelGap bounds what lies between the outer transport header and the inner IP
// header: a Geneve header with all its options (RFC 8926 section 3.4), Ethernet,
// two VLAN tags.
const tunnelGap = 8 + 252 + etherLen + 8

// parseTunnel takes p, whose partial checksum starts at position start, for a
// tunnel's super-packet of the given kind.
func parseTunnel(p *Packet, start int, kind uint8) Fault {
	b := p.Mem[p.L4:p.End]
	from := p.L4
	switch p.Tuple.Proto {
	case tuple.UDP:
		from += udpLen
	case tuple.GRE:
		if be.Uint16(b)&greSequenceFlag != 0 {
			return UnsupportedGSO // each segment would need a number of its own
		}
		from += greMinLen
	case protoIPIP, proto6in4:
	default:
		return UnsupportedGSO
	}
	proto, size := tuple.TCP, tcpMinLen
	if kind == GSOUDPL4 {
		proto, size = tuple.UDP, udpLen
	}
	if int(p.Offload.CsumOffset) != sumOffset(proto) || start+size > p.End {
		return BadOffload
	}
	if proto == tuple.TCP {
		if size = int(p.Mem[start+12]>>4) * 4; size < tcpMinLen || start+size > p.End {
			return BadOffload
		}
	}
	at := -1
	if kind != GSOTCPv6 {
		at = innerIPv4(p, from, start, proto)
	}
	if at < 0 && kind != GSOTCPv4 {
		at = innerIPv6(p, from, start, proto)
	}
	if at < 0 || at-from > tunnelGap {
		return UnsupportedGSO
	}
	p.Flags |= TunnelGSO
	p.EmbL3, p.EmbL4, p.EmbEnd = at, start, p.End
	p.Payload = start + size
	return OK
}

// innerIPv4 returns where the IPv4 header ends that is followed by a transport
// header at start; -1: nowhere after from.
func innerIPv4(p *Packet, from, start int, proto uint8) int {
	for size := ipv4MinLen; size <= 60; size += 4 {
		at := start - size
		if at < from {
			return -1
		}
		ip := p.Mem[at:start]
		if ip[0] == 4<<4|byte(size/4) && ip[9] == proto && int(be.Uint16(ip[2:])) == p.End-at &&
			be.Uint16(ip[6:])&0x3fff == 0 && sumWords(ip) == 0xffff {
			return at
		}
	}
	return -1
}

// innerIPv6 does the same for an IPv6 header without extensions.
func innerIPv6(p *Packet, from, start int, proto uint8) int {
	at := start - ipv6Len
	if at < from {
		return -1
	}
	ip := p.Mem[at:start]
	if ip[0]>>4 == 6 && ip[6] == proto && int(be.Uint16(ip[4:])) == p.End-start {
		return at
	}
	return -1
}

// sealTunnel finishes a segment of a tunnel's super-packet that lies in b, an IP
// packet: the inner packet as seal would, then the headers around it. p has the
// offsets, index is the segment's number.
func sealTunnel(p *Packet, b []byte, index int) {
	inner := b[p.EmbL3-p.L3:]
	in := Packet{L4: p.EmbL4 - p.EmbL3}
	in.Tuple.Family, in.Tuple.Proto = tuple.IPv6, tuple.TCP
	if inner[0]>>4 == 4 {
		in.Tuple.Family = tuple.IPv4
		be.PutUint16(inner[4:], be.Uint16(inner[4:])+uint16(index))
	}
	if int(p.Offload.CsumOffset) == sumOffset(tuple.UDP) {
		in.Tuple.Proto = tuple.UDP
	}
	headers := p.Payload - p.EmbL3
	seal(&in, inner[:headers], inner[headers:])

	outer := b[:p.L4-p.L3]
	h := b[p.L4-p.L3:]
	putLength(outer, p.Tuple.Family, len(b))
	switch p.Tuple.Proto {
	case tuple.UDP:
		be.PutUint16(h[4:], uint16(len(h)))
		if be.Uint16(h[6:]) != 0 {
			be.PutUint16(h[6:], 0)
			addrs := sumWords(addrsOf(outer, p.Tuple.Family))
			sum := ^checksum.Checksum(h, fold(uint64(addrs)+uint64(tuple.UDP)+uint64(len(h))))
			if sum == 0 {
				sum = 0xffff // RFC 768
			}
			be.PutUint16(h[6:], sum)
		}
	case tuple.GRE:
		if be.Uint16(h)&greChecksumFlag != 0 {
			be.PutUint16(h[greSumAt:], 0)
			be.PutUint16(h[greSumAt:], ^checksum.Checksum(h, 0))
		}
	}
}
