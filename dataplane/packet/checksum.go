package packet

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

// fold reduces a sum of 16- or 32-bit big-endian words to 16 bits with end-around
// carry (RFC 1071). The result is zero only if s is.
func fold(s uint64) uint16 {
	w := uint32((s + bits.RotateLeft64(s, 32)) >> 32) // the upper half gets the carry of the lower one
	return uint16((w + bits.RotateLeft32(w, 16)) >> 16)
}

// sumWords adds up b, whose length is a multiple of 4, as headers are.
func sumWords(b []byte) uint16 {
	var s uint64
	for ; len(b) >= 4; b = b[4:] {
		s += uint64(be.Uint32(b))
	}
	return fold(s)
}

// soundHeader reports whether the checksum of the IPv4 header b is right. A sum with
// end-around carry is the same in any order of bytes (RFC 1071 section 2).
func soundHeader(b []byte) bool {
	ne := binary.NativeEndian
	s, c := bits.Add64(ne.Uint64(b), ne.Uint64(b[8:]), 0)
	s, c = bits.Add64(s, uint64(ne.Uint32(b[16:])), c)
	for b = b[ipv4MinLen:]; len(b) >= 4; b = b[4:] {
		s, c = bits.Add64(s, uint64(ne.Uint32(b)), c)
	}
	return fold(s>>32+s&0xffffffff+c) == 0xffff
}

// addSum changes the checksum at b by delta, which is fold(^old + new) over the
// changed words: RFC 1624 equation 3.
func addSum(b []byte, delta uint16) {
	be.PutUint16(b, ^fold(uint64(^be.Uint16(b))+uint64(delta)))
}

// addPartial does the same to an uncomplemented sum.
func addPartial(b []byte, delta uint16) {
	be.PutUint16(b, fold(uint64(be.Uint16(b))+uint64(delta)))
}

// addUDPSum is addSum for UDP, where zero means that there is no checksum.
func addUDPSum(b []byte, delta uint16) {
	old := be.Uint16(b)
	if old == 0 {
		return
	}
	sum := ^fold(uint64(^old) + uint64(delta))
	if sum == 0 {
		sum = 0xffff // RFC 768
	}
	be.PutUint16(b, sum)
}

// pseudoSum returns the folded sum of the pseudo-header of the packet: addresses
// as they stand, protocol and length.
func pseudoSum(p *Packet, length int) uint16 {
	var s uint64
	ip := p.Mem[p.L3:p.L4]
	if p.Tuple.Family == tuple.IPv4 {
		s = uint64(be.Uint32(ip[12:])) + uint64(be.Uint32(ip[16:]))
	} else {
		for i := 8; i < 40; i += 4 {
			s += uint64(be.Uint32(ip[i:]))
		}
	}
	return fold(s + uint64(p.Tuple.Proto) + uint64(length))
}

// verify holds the transport checksum of a whole packet against its bytes b.
func verify(p *Packet, b []byte) Fault {
	size, cover := len(b), len(b)
	switch p.Tuple.Proto {
	case tuple.TCP, tuple.ICMPv6:
	case tuple.UDP:
		// No checksum at all is legal, for IPv6 too: RFC 6936 wants middleboxes
		// to forward both kinds.
		if be.Uint16(b[6:]) == 0 {
			return OK
		}
		size = int(be.Uint16(b[4:]))
		cover = size
	case tuple.UDPLite:
		if c := int(be.Uint16(b[4:])); c != 0 {
			cover = c
		}
		if be.Uint16(b[6:]) == 0 {
			return BadChecksum // RFC 3828 section 3.1
		}
	case tuple.DCCP:
		if c := int(b[5] & 15); c != 0 { // RFC 4340 section 9.2
			cover = min(cover, int(b[4])*4+(c-1)*4)
		}
	case tuple.ICMP:
		if checksum.Checksum(b, 0) != 0xffff {
			return BadChecksum
		}
		return OK
	case tuple.SCTP:
		if sctpSum(b) != littleEndian32(b[8:]) {
			return BadChecksum
		}
		return OK
	default:
		return OK
	}
	if checksum.Checksum(b[:cover], pseudoSum(p, size)) != 0xffff {
		return BadChecksum
	}
	return OK
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var zeroSum [4]byte

// sctpSum returns the CRC32c of SCTP packet b with its checksum field taken as
// zero (RFC 9260 section 6.8).
func sctpSum(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:8])
	c = crc32.Update(c, castagnoli, zeroSum[:])
	return crc32.Update(c, castagnoli, b[12:])
}

func littleEndian32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func putLittleEndian32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

// fixSCTP writes the CRC32c of the SCTP packet.
func fixSCTP(p *Packet) {
	b := p.Mem[p.L4:p.End]
	putLittleEndian32(b[8:], sctpSum(b))
}

// finishSCTP computes a CRC32c that the sender left to its device and takes the
// request away, since the virtio header cannot tell CRC32c from a checksum.
func finishSCTP(p *Packet) Fault {
	if p.Tuple.Proto == tuple.SCTP && p.Flags&PartialChecksum != 0 {
		fixSCTP(p)
		p.Flags &^= PartialChecksum
		p.Offload = Offload{}
	}
	return OK
}
