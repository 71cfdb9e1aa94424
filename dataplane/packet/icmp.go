package packet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

// Unreachable is why a packet cannot be delivered, for both families.
type Unreachable uint8

const (
	NoRoute         Unreachable = iota // 3/0 or 1/0
	HostUnreachable                    // 3/1 or 1/3: no answer from the neighbour
	PortUnreachable                    // 3/3 or 1/4
	ProtoUnreach                       // 3/2; IPv6 has none, 1/4 comes nearest
	AdminProhibited                    // 3/13 or 1/1
	NetProhibited                      // 3/9 or 1/1
	HostProhibited                     // 3/10 or 1/1
	BadSource                          // 3/13 or 1/5: source address failed policy
	RejectRoute                        // 3/0 or 1/6
	numUnreachables
)

var unreachableCodes = [...]struct{ v4, v6 uint8 }{
	NoRoute:         {0, 0},
	HostUnreachable: {1, 3},
	PortUnreachable: {3, 4},
	ProtoUnreach:    {2, 4},
	AdminProhibited: {13, 1},
	NetProhibited:   {9, 1},
	HostProhibited:  {10, 1},
	BadSource:       {13, 5},
	RejectRoute:     {0, 6},
}

var _ [numUnreachables]struct{ v4, v6 uint8 } = unreachableCodes

const (
	maxError4 = 576  // RFC 1812 section 4.3.2.3
	maxError6 = 1280 // RFC 4443 section 2.4 (c)

	ownTTL           = 64
	ipFlagDF         = 0x4000
	internetControl4 = 0xc0 // TOS of ICMP errors: RFC 1812 section 4.3.2.5
)

// AnswerLen is the size in bytes of a buffer for any of the answers built here.
const AnswerLen = Headroom + maxError6

// MayAnswer reports whether an ICMP error about p may be sent: never about an
// ICMP error or redirect, a later fragment, a packet to many, or one whose source
// is not a single host (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)).
// Rate limits are the caller's.
func MayAnswer(p *Packet) bool {
	if p.Flags&(ICMPError|FragmentLater|LinkBroadcast) != 0 {
		return false
	}
	t := &p.Tuple
	if t.Family == tuple.IPv4 {
		first := t.Src[12]
		return first != 0 && first != 127 && first < 224 && t.Dst[12] < 224
	}
	const redirect = 137
	if t.Proto == tuple.ICMPv6 && t.DstPort>>8 == redirect {
		return false
	}
	return t.Src[0] != 0xff && t.Dst[0] != 0xff && t.Src != unspecified6 && t.Src != loopback6
}

var (
	unspecified6 tuple.Addr
	loopback6    = tuple.Addr{15: 1}
)

// TimeExceeded builds the answer to p, whose TTL ran out here, from address src.
//
// The answers are parsed LinkIP packets in buf (at least AnswerLen bytes) without
// anything but the port index taken from p; SetLink makes them frames. The quoted packet is p as
// it stands, so ask before translating it. A GSO frame is quoted as its first
// segment, and partial checksums are completed in the quotation.
func TimeExceeded(dst, p *Packet, buf []byte, src tuple.Addr) {
	if p.Tuple.Family == tuple.IPv4 {
		icmpError(dst, p, buf, src, 11, 0, 0)
	} else {
		icmpError(dst, p, buf, src, 3, 0, 0)
	}
}

// DestUnreachable builds the answer to p that says why it was not delivered.
func DestUnreachable(dst, p *Packet, buf []byte, src tuple.Addr, why Unreachable) {
	code := unreachableCodes[why]
	if p.Tuple.Family == tuple.IPv4 {
		icmpError(dst, p, buf, src, 3, code.v4, 0)
	} else {
		icmpError(dst, p, buf, src, 1, code.v6, 0)
	}
}

// TooBig builds the answer to p that exceeds mtu bytes on its way out:
// fragmentation needed (RFC 1191) or packet too big (RFC 4443 section 3.2).
func TooBig(dst, p *Packet, buf []byte, src tuple.Addr, mtu int) {
	if p.Tuple.Family == tuple.IPv4 {
		icmpError(dst, p, buf, src, 3, 4, uint32(min(mtu, 0xffff)))
	} else {
		icmpError(dst, p, buf, src, 2, 0, uint32(mtu))
	}
}

// icmpError builds an ICMP error from src to the sender of p. rest is the second
// word of the ICMP header.
func icmpError(dst, p *Packet, buf []byte, src tuple.Addr, typ, code uint8, rest uint32) {
	from, to := src, p.Tuple.Src
	proto, header, limit := tuple.ICMPv6, ipv6Len, maxError6
	if p.Tuple.Family == tuple.IPv4 {
		proto, header, limit = tuple.ICMP, ipv4MinLen, maxError4
	}
	ip := buf[Headroom : Headroom+limit]
	m := ip[header:]
	m[0], m[1], m[2], m[3] = typ, code, 0, 0
	be.PutUint32(m[4:], rest)
	m = m[:icmpLen+quote(m[icmpLen:], p)]
	ip = ip[:header+len(m)]
	sum := putHeader(ip, p.Tuple.Family, proto, from, to)
	if p.Tuple.Family == tuple.IPv4 {
		ip[1] = internetControl4
		be.PutUint16(ip[10:], 0)
		be.PutUint16(ip[10:], ^sumWords(ip[:header]))
		sum = 0
	}
	be.PutUint16(m[2:], ^checksum.Checksum(m, sum))
	dst.own(p, buf, len(ip))
}

// quote copies as much of p as fits into b and returns its length.
func quote(b []byte, p *Packet) int {
	ip := p.Mem[p.L3 : p.L3+p.WireLen()]
	n := copy(b, ip)
	header := p.Payload - p.L3
	isStream := p.Tuple.Proto == tuple.TCP || p.Tuple.Proto == tuple.UDP
	if p.Flags&PartialChecksum != 0 && isStream && header <= n {
		seal(p, b[:header], ip[header:])
	}
	return n
}

// putHeader writes the IP header of a packet of our own that fills ip, and returns
// the sum of its pseudo-header.
func putHeader(ip []byte, family, proto uint8, src, dst tuple.Addr) uint16 {
	t := tuple.Tuple{Src: src, Dst: dst, Family: family}
	if family == tuple.IPv4 {
		clear(ip[:ipv4MinLen])
		ip[0] = 4<<4 | ipv4MinLen/4
		be.PutUint16(ip[2:], uint16(len(ip)))
		be.PutUint16(ip[6:], ipFlagDF) // identification 0 is fine then: RFC 6864 section 4.1
		ip[8], ip[9] = ownTTL, proto
		putAddrs(ip, family, &t)
		be.PutUint16(ip[10:], ^sumWords(ip[:ipv4MinLen]))
		return fold(uint64(sumWords(ip[12:20])) + uint64(proto) + uint64(len(ip)-ipv4MinLen))
	}
	clear(ip[:8])
	ip[0] = 6 << 4
	be.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
	ip[6], ip[7] = proto, ownTTL
	putAddrs(ip, family, &t)
	return fold(uint64(sumWords(ip[8:40])) + uint64(proto) + uint64(len(ip)-ipv6Len))
}

// own describes in p an IP packet of n bytes that was built at buf[Headroom:] in
// answer to asked.
func (p *Packet) own(asked *Packet, buf []byte, n int) {
	*p = Packet{Mem: buf, Off: Headroom, End: Headroom + n, Link: LinkIP, In: asked.In}
	Parse(p) // cannot fail but by LandPacket, for an answer to ourselves
}
