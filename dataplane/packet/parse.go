package packet

import (
	"encoding/binary"

	"example.com/culvert/conntrack/tuple"
)

// EtherTypes that Parse knows.
const (
	EtherIPv4 uint16 = 0x0800
	EtherARP  uint16 = 0x0806
	EtherIPv6 uint16 = 0x86dd
)

const (
	etherLen      = 14
	ipv4MinLen    = 20
	ipv6Len       = 40
	maxExtensions = 8     // bound on IPv6 extension headers looked at in one packet
	maxIPPayload  = 65535 // largest datagram a fragment may reach
)

// Values of LinkKind (linux/if_packet.h).
const (
	KindHost      uint8 = 0
	KindBroadcast uint8 = 1
	KindMulticast uint8 = 2
	KindOther     uint8 = 3
)

var be = binary.BigEndian

// Parse reads the frame p.Mem[p.Off:p.End] and fills every field of p that is
// marked as set by Parse. It trims link-layer padding (p.End) and checks lengths
// strictly; checksums are checked unless p.Offload says that the sender has left
// them to us or the receiving device has done so. An SCTP CRC32c left to us is
// computed here, because no virtio header can ask the egress for it.
//
// On a Fault other than OK the fields parsed so far are set and the others hold
// anything; LandPacket comes with all of them set. Parse never allocates and never touches bytes outside the frame.
func Parse(p *Packet) Fault {
	p.Flags, p.FragMax = 0, 0
	switch p.LinkKind {
	case KindBroadcast, KindMulticast:
		p.Flags = LinkBroadcast
	case KindOther:
		p.Flags = LinkOther
	}
	p.L3, p.L4, p.Payload = p.Off, p.Off, p.Off
	b := p.Mem[p.Off:p.End]
	if p.Link == LinkEthernet {
		if len(b) < etherLen {
			p.EtherType = 0
			return TooShort
		}
		if b[0]&1 != 0 {
			p.Flags |= LinkBroadcast
		}
		p.EtherType = be.Uint16(b[12:])
		p.L3 += etherLen
		switch p.EtherType {
		case EtherIPv4:
			return checkLand(p, parseIPv4(p))
		case EtherIPv6:
			return checkLand(p, parseIPv6(p))
		}
		return NotIP
	}
	p.EtherType = 0
	if len(b) < ipv4MinLen {
		return TooShort
	}
	switch b[0] >> 4 {
	case 4:
		p.EtherType = EtherIPv4
		return checkLand(p, parseIPv4(p))
	case 6:
		p.EtherType = EtherIPv6
		return checkLand(p, parseIPv6(p))
	}
	return BadVersion
}

// checkLand looks at the addresses of a packet that is sound otherwise.
func checkLand(p *Packet, f Fault) Fault {
	if f == OK && p.Tuple.Src == p.Tuple.Dst {
		return LandPacket
	}
	return f
}

func parseIPv4(p *Packet) Fault {
	b := p.Mem[p.L3:p.End]
	if len(b) < ipv4MinLen {
		return TooShort
	}
	if b[0]>>4 != 4 {
		return BadVersion
	}
	ihl := int(b[0]&15) * 4
	if ihl < ipv4MinLen || ihl > len(b) {
		return BadHeaderLen
	}
	total := int(be.Uint16(b[2:]))
	if total == 0 && p.Offload.GSOType != GSONone {
		total = len(b) // beyond 64 KB: the field cannot say it
	}
	if total < ihl || total > len(b) {
		return BadTotalLen
	}
	if !soundHeader(b[:ihl]) {
		return BadIPChecksum
	}
	p.End = p.L3 + total
	p.L3Len = total
	p.L4 = p.L3 + ihl
	p.TOS, p.TTL = b[1], b[8]
	t := &p.Tuple
	mapAddr(&t.Src, b[12:16])
	mapAddr(&t.Dst, b[16:20])
	t.SetRest(0, 0, b[9], tuple.IPv4, 0)
	if ihl > ipv4MinLen {
		p.Flags |= HasOptions
		if f := checkOptions(b[ipv4MinLen:ihl]); f != OK {
			return f
		}
	}
	frag := be.Uint16(b[6:])
	p.FragOff, p.FragAt, p.FragID = 0, 0, uint32(be.Uint16(b[4:]))
	if frag&0x4000 != 0 {
		p.Flags |= DontFragment
	}
	if frag&0x3fff != 0 {
		if f := parseFragment(p, frag<<3, frag&0x2000 != 0); f != OK {
			return f
		}
	}
	return parseTransport(p)
}

// mapAddr sets a to the IPv4 address b. It stores whole words: whoever compares a
// next would wait for single bytes to reach the cache.
func mapAddr(a *tuple.Addr, b []byte) {
	be.PutUint64(a[:8], 0)
	be.PutUint64(a[8:], 0xffff<<32|uint64(be.Uint32(b)))
}

// Option types of RFC 791.
const (
	optEnd         = 0
	optNop         = 1
	optLooseRoute  = 131
	optStrictRoute = 137
)

// checkOptions walks the IPv4 options o.
func checkOptions(o []byte) Fault {
	for len(o) > 0 {
		switch o[0] {
		case optEnd:
			return OK
		case optNop:
			o = o[1:]
			continue
		case optLooseRoute, optStrictRoute:
			return SourceRouted
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return BadOptions
		}
		o = o[o[1]:]
	}
	return OK
}

// IPv6 extension headers (RFC 8200 section 4, RFC 4302).
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAuth     = 51
	extNone     = 59
	extDestOpts = 60
)

func parseIPv6(p *Packet) Fault {
	b := p.Mem[p.L3:p.End]
	if len(b) < ipv6Len {
		return TooShort
	}
	if b[0]>>4 != 6 {
		return BadVersion
	}
	total := ipv6Len + int(be.Uint16(b[4:]))
	if total == ipv6Len && p.Offload.GSOType != GSONone {
		total = len(b) // jumbogram made by GRO
	}
	if total > len(b) {
		return BadTotalLen
	}
	b = b[:total]
	p.End = p.L3 + total
	p.L3Len = total
	p.TOS, p.TTL = b[0]<<4|b[1]>>4, b[7]
	p.Flags |= DontFragment
	p.FragOff, p.FragAt, p.FragID = 0, 0, 0
	t := &p.Tuple
	t.Src, t.Dst = tuple.Addr(b[8:24]), tuple.Addr(b[24:40])
	t.SetRest(0, 0, b[6], tuple.IPv6, 0)
	next, off := b[6], ipv6Len
	if isExtension(next) {
		p.Flags |= HasOptions
		var f Fault
		if next, off, f = skipExtensions(p, b, next); f != OK {
			return f
		}
	}
	t.Proto = next
	p.L4 = p.L3 + off
	return parseTransport(p)
}

func isExtension(next uint8) bool {
	switch next {
	case extHopByHop, extRouting, extFragment, extAuth, extDestOpts:
		return true
	}
	return false
}

// extensionLen returns the length in bytes of extension header h of type next.
func extensionLen(next uint8, h []byte) int {
	switch next {
	case extFragment:
		return 8
	case extAuth:
		return int(h[1])*4 + 8
	}
	return int(h[1])*8 + 8
}

// skipExtensions walks the extension headers of the IPv6 packet b and returns
// the protocol and offset of what follows. For a fragment other than the first
// it stops behind the fragment header.
func skipExtensions(p *Packet, b []byte, next uint8) (proto uint8, off int, f Fault) {
	off = ipv6Len
	for n := 0; isExtension(next); n++ {
		if n == maxExtensions {
			return next, off, TooManyExtensions
		}
		h := b[off:]
		if len(h) < 8 || next == extHopByHop && n != 0 {
			return next, off, BadOptions
		}
		size := extensionLen(next, h)
		if size > len(h) {
			return next, off, BadOptions
		}
		this := next
		next = h[0]
		off += size
		switch this {
		case extRouting:
			if h[3] != 0 {
				return next, off, SourceRouted
			}
		case extFragment:
			field := be.Uint16(h[2:])
			p.FragID = be.Uint32(h[4:])
			if field&^6 == 0 {
				p.FragAt = p.L3 + off
				continue // atomic fragment: a whole packet (RFC 6946)
			}
			if p.Flags.Fragment() {
				return next, off, BadFragment
			}
			p.L4 = p.L3 + off
			if f := parseFragment(p, field&^7, field&1 != 0); f != OK {
				return next, off, f
			}
			if p.Flags&FragmentLater != 0 {
				return next, off, OK
			}
		}
	}
	return next, off, OK
}

// parseFragment takes a fragment at byte offset off whose data begins at p.L4.
func parseFragment(p *Packet, off uint16, more bool) Fault {
	size := p.End - p.L4
	if size == 0 || more && size&7 != 0 || int(off)+size > maxIPPayload {
		return BadFragment
	}
	p.FragOff, p.FragAt = off, p.L4
	if off == 0 {
		p.Flags |= FragmentFirst
		return OK
	}
	p.Flags |= FragmentLater
	if more {
		p.Flags |= FragmentMore
	}
	return OK
}
