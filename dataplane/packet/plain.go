package packet

import (
	"encoding/binary"
	"math/bits"

	"example.com/culvert/conntrack/tuple"
)

// Most packets are plain: a whole TCP or UDP packet from host to host, over IPv4
// without options, in an Ethernet frame for us that is no GSO frame. What is here does
// for them in one go what the other functions do step by step, with the same result.

// le is for words of headers: the first byte lowest, as most processors have them. Sums
// are the same in any order.
var le = binary.LittleEndian

const (
	plainMin  = etherLen + ipv4MinLen + udpLen
	plainIPv4 = 0x450008 // EtherType, version and header length
	plainMask = 0xffffff
	wireDF    = 0x40
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
	// From EtherType to identification; from there to half of the source; from there to
	// the first port; ports and what follows.
	w0, w1, w2, w3 := le.Uint64(h[12:]), le.Uint64(h[20:]), le.Uint64(h[28:]), le.Uint64(h[34:])
	total := int(bits.ReverseBytes16(uint16(w0 >> 32)))
	if w0&plainMask != plainIPv4 || h[0]&1 != 0 || w1&0xffff&^wireDF != 0 || total > len(b)-etherLen {
		return false
	}
	sum, c := bits.Add64(w0>>16+w2&(1<<48-1), w1, 0) // in any order of bytes (RFC 1071 section 2)
	if fold(sum+c) != 0xffff {                       // sum is small where c is not 0
		return false
	}
	src, dst := uint32(w1>>48|w2<<16), uint32(w2>>16)
	if src == dst || badUnicast(src) || badUnicast(dst) {
		return false
	}
	l4 := p.Off + etherLen + ipv4MinLen
	size, header, tcpFlags := total-ipv4MinLen, udpLen, uint8(0)
	proto := uint8(w1 >> 24)
	switch proto {
	case tuple.UDP:
		if n := int(bits.ReverseBytes16(uint16(w3 >> 32))); n < udpLen || n > size {
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
	p.Flags = Flags(w1>>6&1) * DontFragment
	p.EtherType = EtherIPv4
	p.L3, p.L4, p.Payload, p.L3Len = p.Off+etherLen, l4, l4+header, total
	p.End = p.L3 + total
	p.TOS, p.TTL, p.TCPFlags = uint8(w0>>24), uint8(w1>>16), tcpFlags
	p.FragAt, p.FragOff, p.FragID, p.FragMax = 0, 0, uint32(bits.ReverseBytes16(uint16(w0>>48))), 0
	p.Tuple.SetWire4(src, dst, uint32(w3), proto)
	switch {
	case p.Offload.Flags&NeedsCsum != 0:
		return checkOffload(p) == OK
	case p.Offload.Flags&DataValid != 0:
		return true
	}
	return verify(p, p.Mem[l4:p.End]) == OK
}

// badUnicast reports whether a, as it lies in a header, is no address of a host on a
// link: unspecified, loopback, multicast or reserved.
func badUnicast(a uint32) bool {
	first := uint8(a)
	return first-1 >= 0xdf || first == 127 // 0, or from 224 on
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
	addrs, toAddrs := le.Uint64(ip[12:]), uint64(le.Uint32(of.Src[12:]))<<32|uint64(le.Uint32(of.Dst[12:]))
	change, c := bits.Add64(^addrs, toAddrs, 0) // of sums, see wordDelta
	change += c
	le.PutUint64(ip[12:], toAddrs)
	life := le.Uint32(ip[8:]) // TTL, protocol, checksum
	sum, c := bits.Add64(change, uint64(^life>>16)+0xfffe, 0)
	le.PutUint32(ip[8:], (life-1)&0xffff|uint32(^fold(sum+c))<<16)
	p.TTL--

	transport := (*[udpLen]byte)(h[etherLen+ipv4MinLen:])
	t := &p.Tuple
	ports, toPorts := le.Uint32(transport[:]), t.BecomeAnswer(of)
	le.PutUint32(transport[:], toPorts)
	if p.Flags&PartialChecksum != 0 { // of the addresses alone
		if addrs != toAddrs {
			addPartial(b[etherLen+ipv4MinLen+sumOffset(t.Proto):], bits.ReverseBytes16(fold(change)))
		}
		return
	}
	if addrs == toAddrs && ports == toPorts {
		return
	}
	change, c = bits.Add64(change, uint64(^ports)+uint64(toPorts), 0)
	delta := bits.ReverseBytes16(fold(change + c))
	if t.Proto == tuple.UDP {
		addUDPSum(transport[6:], delta)
		return
	}
	addSum(b[etherLen+ipv4MinLen+16:], delta)
}
