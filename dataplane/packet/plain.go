package packet

import (
	"encoding/binary"
	"math/bits"

	"example.com/culvert/conntrack/tuple"
)

// Most packets are plain: a whole TCP or UDP packet from host to host, over IPv4
// without options, in an Ethernet frame for us that is no GSO frame. What is here does
// for them in one go what the other functions do step by step, with the same result.

const (
	plainMin  = etherLen + ipv4MinLen + udpLen
	plainIPv4 = uint32(EtherIPv4)<<8 | 0x45 // EtherType, version and header length
)

// ParsePlain is Parse for plain packets without a fault, whose addresses both are
// unicast ones (badUnicast). Of any other packet it reports false, and the fields that
// are set by Parse hold anything: Parse has to tell what it is.
func ParsePlain(p *Packet) bool {
	if p.Link != LinkEthernet || p.LinkKind != KindHost || p.Offload.GSOType != GSONone {
		return false
	}
	b := p.Mem[p.Off:p.End]
	if len(b) < plainMin {
		return false
	}
	h := (*[plainMin]byte)(b)
	ip := (*[ipv4MinLen]byte)(h[etherLen:])
	total, frag, proto := int(be.Uint16(ip[2:])), be.Uint16(ip[6:]), ip[9]
	if be.Uint32(h[12:])>>8 != plainIPv4 || h[0]&1 != 0 || frag&^0x4000 != 0 || total > len(b)-etherLen || !soundPlain(ip) {
		return false
	}
	src, dst := be.Uint32(ip[12:]), be.Uint32(ip[16:])
	if src == dst || badUnicast(src) || badUnicast(dst) {
		return false
	}
	l4 := p.Off + etherLen + ipv4MinLen
	size, header, tcpFlags := total-ipv4MinLen, udpLen, uint8(0)
	switch proto {
	case tuple.UDP:
		if n := int(be.Uint16(h[38:])); n < udpLen || n > size {
			return false
		}
	case tuple.TCP:
		if size < tcpMinLen || len(b) < etherLen+ipv4MinLen+tcpMinLen {
			return false
		}
		header, tcpFlags = int(b[46]>>4)*4, b[47]
		if header < tcpMinLen || header > size {
			return false
		}
	default:
		return false
	}
	p.Flags = Flags(frag>>14) * DontFragment
	p.EtherType = EtherIPv4
	p.L3, p.L4, p.Payload, p.L3Len = p.Off+etherLen, l4, l4+header, total
	p.End = p.L3 + total
	p.TOS, p.TTL, p.TCPFlags = ip[1], ip[8], tcpFlags
	p.FragAt, p.FragOff, p.FragID, p.FragMax = 0, 0, uint32(be.Uint16(ip[4:])), 0
	ports := be.Uint32(h[etherLen+ipv4MinLen:])
	p.Tuple.Set4(src, dst, uint16(ports>>16), uint16(ports), proto)
	switch {
	case p.Offload.Flags&NeedsCsum != 0:
		return checkOffload(p) == OK
	case p.Offload.Flags&DataValid != 0:
		return true
	}
	return verify(p, p.Mem[l4:p.End]) == OK
}

// soundPlain is soundHeader of a header without options.
func soundPlain(ip *[ipv4MinLen]byte) bool {
	ne := binary.NativeEndian
	s, c := bits.Add64(ne.Uint64(ip[:]), ne.Uint64(ip[8:]), 0)
	s, c = bits.Add64(s, uint64(ne.Uint32(ip[16:])), c)
	return fold(s+c) == 0xffff // s is small where c is not 0
}

// badUnicast reports whether a is no address of a host on a link: unspecified,
// loopback, multicast or reserved.
func badUnicast(a uint32) bool {
	a >>= 24
	return a == 0 || a == 127 || a >= 0xe0
}

// ForwardPlain is DecrementTTL, Translate and SetLink, to Ethernet, of a plain packet
// whose TTL is above 1: it becomes the answer to tuple of. The link-layer addresses are
// numbers of 48 bits.
func ForwardPlain(p *Packet, of *tuple.Tuple, dst, src uint64) {
	b := p.Mem[p.Off:p.End]
	h := (*[plainMin]byte)(b)
	be.PutUint64(h[0:], dst<<16|src>>32)
	be.PutUint32(h[8:], uint32(src))
	be.PutUint16(h[12:], EtherIPv4)

	ip := (*[ipv4MinLen]byte)(h[etherLen:])
	addrs, toAddrs := be.Uint64(ip[12:]), uint64(be.Uint32(of.Dst[12:]))<<32|uint64(be.Uint32(of.Src[12:]))
	change, c := bits.Add64(^addrs, toAddrs, 0) // of sums, see wordDelta
	change += c
	be.PutUint64(ip[12:], toAddrs)
	life := be.Uint32(ip[8:]) // TTL, protocol, checksum
	sum, c := bits.Add64(change, uint64(^uint16(life))+0xfeff, 0)
	be.PutUint32(ip[8:], (life-1<<24)&^0xffff|uint32(^fold(sum+c)))
	p.TTL--

	transport := (*[udpLen]byte)(h[etherLen+ipv4MinLen:])
	ports, toPorts := be.Uint32(transport[:]), uint32(of.DstPort)<<16|uint32(of.SrcPort)
	be.PutUint32(transport[:], toPorts)
	t := &p.Tuple
	t.Src, t.Dst = of.Dst, of.Src
	t.SetRest(of.DstPort, of.SrcPort, t.Proto, t.Family, t.Zone)
	if p.Flags&PartialChecksum != 0 { // of the addresses alone
		if addrs != toAddrs {
			addPartial(b[etherLen+ipv4MinLen+sumOffset(t.Proto):], fold(change))
		}
		return
	}
	if addrs == toAddrs && ports == toPorts {
		return
	}
	change, c = bits.Add64(change, uint64(^ports)+uint64(toPorts), 0)
	delta := fold(change + c)
	if t.Proto == tuple.UDP {
		addUDPSum(transport[6:], delta)
		return
	}
	addSum(b[etherLen+ipv4MinLen+16:], delta)
}
