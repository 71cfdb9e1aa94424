package packet

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"example.com/culvert/conntrack/tuple"
)

// The slow twin: checksums the way RFC 1071 describes them, byte by byte, and a
// generator of packets of every protocol. It shares no code with the package.

// slowSum returns the ones' complement sum of b.
func slowSum(parts ...[]byte) uint16 {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
		if len(p)%2 != 0 {
			all = append(all, 0)
		}
	}
	sum := 0
	for i := 0; i < len(all); i += 2 {
		sum += int(all[i])<<8 + int(all[i+1])
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// slowCRC is CRC32c bit by bit.
func slowCRC(b []byte) uint32 {
	crc := ^uint32(0)
	for _, x := range b {
		crc ^= uint32(x)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0x82f63b78
			} else {
				crc >>= 1
			}
		}
	}
	return ^crc
}

// slowPacket is where things lie in an IP packet, found the slow way.
type slowPacket struct {
	ip        []byte
	v4        bool
	header    int // length of IP headers
	proto     uint8
	transport []byte
	later     bool // fragment without transport header
	fragment  bool
}

func slowParse(ip []byte) slowPacket {
	s := slowPacket{ip: ip, v4: ip[0]>>4 == 4}
	if s.v4 {
		s.header = int(ip[0]&15) * 4
		s.proto = ip[9]
		field := binary.BigEndian.Uint16(ip[6:])
		s.later = field&0x1fff != 0
		s.fragment = field&0x3fff != 0
		s.transport = ip[s.header:]
		return s
	}
	s.header, s.proto = 40, ip[6]
	for !s.later {
		switch s.proto {
		case 0, 43, 60:
			s.proto, s.header = ip[s.header], s.header+8+8*int(ip[s.header+1])
		case 51:
			s.proto, s.header = ip[s.header], s.header+8+4*int(ip[s.header+1])
		case 44:
			field := binary.BigEndian.Uint16(ip[s.header+2:])
			s.later = field>>3 != 0
			s.fragment = field&^6 != 0
			s.proto, s.header = ip[s.header], s.header+8
		default:
			s.transport = ip[s.header:]
			return s
		}
	}
	s.transport = ip[s.header:]
	return s
}

func (s *slowPacket) addrs() []byte {
	if s.v4 {
		return s.ip[12:20]
	}
	return s.ip[8:40]
}

// pseudo returns the pseudo-header for a transport of n bytes.
func (s *slowPacket) pseudo(n int) []byte {
	b := append([]byte(nil), s.addrs()...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, 0, 0, 0, s.proto)
}

// covered returns the bytes under the transport checksum, with its pseudo-header
// and the checksum's place; at is -1 if there is none.
func (s *slowPacket) covered() (pseudo, b []byte, at int) {
	b = s.transport
	switch s.proto {
	case tuple.TCP:
		return s.pseudo(len(b)), b, 16
	case tuple.UDP:
		b = b[:min(len(b), int(binary.BigEndian.Uint16(b[4:])))]
		return s.pseudo(len(b)), b, 6
	case tuple.UDPLite:
		n := len(b)
		if c := int(binary.BigEndian.Uint16(b[4:])); c != 0 {
			b = b[:c]
		}
		return s.pseudo(n), b, 6
	case tuple.DCCP:
		n := len(b)
		if c := int(b[5] & 15); c != 0 {
			b = b[:min(n, int(b[4])*4+(c-1)*4)]
		}
		return s.pseudo(n), b, 6
	case tuple.ICMP:
		return nil, b, 2
	case tuple.ICMPv6:
		return s.pseudo(len(b)), b, 2
	}
	return nil, nil, -1
}

// fill writes all checksums of ip.
func slowFill(ip []byte) {
	s := slowParse(ip)
	if s.v4 {
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip[:s.header]))
	}
	if s.later {
		return
	}
	if s.proto == tuple.SCTP {
		binary.LittleEndian.PutUint32(s.transport[8:], 0)
		binary.LittleEndian.PutUint32(s.transport[8:], slowCRC(s.transport))
		return
	}
	pseudo, b, at := s.covered()
	if at < 0 {
		return
	}
	binary.BigEndian.PutUint16(b[at:], 0)
	sum := ^slowSum(pseudo, b)
	if sum == 0 && (s.proto == tuple.UDP || s.proto == tuple.UDPLite || s.proto == tuple.DCCP) {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}

// sums says how the transport checksum of a packet stands.
type sums uint8

const (
	sumComplete sums = iota
	sumPartial
	sumZero // UDP without checksum
	numSums
)

// slowCheck returns what is wrong with the checksums of ip.
func slowCheck(ip []byte, how sums) error {
	s := slowParse(ip)
	if s.v4 {
		if got := slowSum(ip[:s.header]); got != 0xffff {
			return fmt.Errorf("IPv4 header sums up to %#x", got)
		}
	}
	if s.fragment {
		return nil
	}
	if s.proto == tuple.SCTP {
		b := append([]byte(nil), s.transport...)
		binary.LittleEndian.PutUint32(b[8:], 0)
		if got, want := binary.LittleEndian.Uint32(s.transport[8:]), slowCRC(b); got != want {
			return fmt.Errorf("CRC32c is %#x, want %#x", got, want)
		}
		return nil
	}
	pseudo, b, at := s.covered()
	if at < 0 {
		return nil
	}
	field := binary.BigEndian.Uint16(b[at:])
	switch how {
	case sumPartial:
		if want := slowSum(pseudo); field != want {
			return fmt.Errorf("protocol %d: partial sum is %#x, want %#x", s.proto, field, want)
		}
	case sumZero:
		if field != 0 {
			return fmt.Errorf("absent UDP checksum became %#x", field)
		}
	default:
		if field == 0 && s.proto == tuple.UDP {
			return fmt.Errorf("UDP checksum is zero")
		}
		if got := slowSum(pseudo, b); got != 0xffff {
			return fmt.Errorf("protocol %d: covered bytes sum up to %#x", s.proto, got)
		}
	}
	return nil
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// protocols that the generator makes.
var protocols = []uint8{
	tuple.TCP, tuple.UDP, tuple.UDPLite, tuple.DCCP, tuple.SCTP, tuple.ICMP, tuple.ICMPv6, tuple.GRE, 50,
}

// randomTransport returns a transport header and payload without checksum.
func randomTransport(r *rand.Rand, proto uint8) []byte {
	payload := randomBytes(r, r.IntN(100))
	switch proto {
	case tuple.TCP:
		h := randomBytes(r, 20+4*r.IntN(11))
		h[12] = uint8(len(h)/4) << 4
		return append(h, payload...)
	case tuple.UDP:
		h := randomBytes(r, 8)
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
		return append(h, payload...)
	case tuple.UDPLite:
		h := randomBytes(r, 8)
		cover := 0
		if r.IntN(2) == 0 {
			cover = 8 + r.IntN(len(payload)+1)
		}
		binary.BigEndian.PutUint16(h[4:], uint16(cover))
		return append(h, payload...)
	case tuple.DCCP:
		h := randomBytes(r, 16)
		h[4] = 4
		h[5] = h[5]&0xf0 | uint8(r.IntN(4))
		return append(h, payload...)
	case tuple.SCTP:
		return append(randomBytes(r, 12), payload...)
	case tuple.ICMP:
		h := randomBytes(r, 8)
		h[0], h[1] = []byte{0, 8, 13, 17}[r.IntN(4)], 0
		return append(h, payload...)
	case tuple.ICMPv6:
		h := randomBytes(r, 8)
		h[0], h[1] = []byte{128, 129}[r.IntN(2)], 0
		return append(h, payload...)
	case tuple.GRE:
		h := randomBytes(r, 8)
		h[0], h[1], h[2], h[3] = 0x20, 0x01, 0x88, 0x0b
		return append(h, payload...)
	}
	return append(randomBytes(r, 8), payload...)
}

// randomIP returns a whole IP packet of protocol proto with right checksums.
func randomIP(r *rand.Rand, proto uint8) []byte {
	v4 := r.IntN(2) == 0
	switch proto {
	case tuple.ICMP:
		v4 = true
	case tuple.ICMPv6:
		v4 = false
	}
	return randomIPOf(r, proto, v4)
}

func randomIPOf(r *rand.Rand, proto uint8, v4 bool) []byte {
	transport := randomTransport(r, proto)
	var ip []byte
	if v4 {
		ip = randomBytes(r, 20)
		for range r.IntN(3) {
			ip = append(ip, 1, 1, 1, 1)
		}
		ip[0] = 0x40 | uint8(len(ip)/4)
		ip[6], ip[7] = ip[6]&0x40, 0
		ip[9] = proto
		ip = append(ip, transport...)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	} else {
		ip = randomBytes(r, 40)
		ip[0] = ip[0]&15 | 0x60
		ip[6] = proto
		if r.IntN(3) == 0 { // hop-by-hop, then destination options
			ip[6] = 0
			ip = append(ip, 60, 0, 1, 4, 0, 0, 0, 0)
			ip = append(ip, proto, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		}
		ip = append(ip, transport...)
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	}
	slowFill(ip)
	return ip
}

// setSums brings the transport checksum of ip into the state how, if its
// protocol knows it, and returns the state it has.
func setSums(ip []byte, how sums) sums {
	s := slowParse(ip)
	pseudo, b, at := s.covered()
	switch {
	case how == sumZero && s.proto == tuple.UDP:
		binary.BigEndian.PutUint16(b[at:], 0)
		return sumZero
	case how == sumPartial && (s.proto == tuple.TCP || s.proto == tuple.UDP || s.proto == tuple.ICMPv6):
		binary.BigEndian.PutUint16(b[at:], slowSum(pseudo))
		return sumPartial
	}
	return sumComplete
}

const canary = 0xa5

// frame puts ip into port memory as a LinkIP frame between canaries, with the
// virtio header that goes with the state of its checksum.
func frame(ip []byte, how sums) *Packet {
	mem := make([]byte, Headroom+len(ip)+64)
	for i := range mem {
		mem[i] = canary
	}
	copy(mem[Headroom:], ip)
	p := &Packet{Mem: mem, Off: Headroom, End: Headroom + len(ip), Link: LinkIP}
	if how == sumPartial {
		s := slowParse(ip)
		_, _, at := s.covered()
		p.Offload = Offload{Flags: NeedsCsum, CsumStart: uint16(s.header), CsumOffset: uint16(at)}
	}
	return p
}

// outside reports whether anything around the frame of p, as it was made by
// frame with n bytes, has been written to.
func outside(p *Packet, n int) bool {
	for i, b := range p.Mem {
		if (i < Headroom || i >= Headroom+n) && b != canary {
			return true
		}
	}
	return false
}

// randomTuple returns a tuple that a packet with tuple t may be translated to.
func randomTuple(r *rand.Rand, t tuple.Tuple) tuple.Tuple {
	for _, a := range []*tuple.Addr{&t.Src, &t.Dst} {
		if r.IntN(3) == 0 {
			continue
		}
		if t.Family == tuple.IPv4 {
			copy(a[12:], randomBytes(r, 4))
		} else {
			copy(a[:], randomBytes(r, 16))
		}
	}
	if tuple.HasPorts(t.Proto) && r.IntN(4) != 0 {
		t.SrcPort, t.DstPort = uint16(r.Uint32()), uint16(r.Uint32())
	}
	if tuple.IsICMP(t.Proto) {
		t.SrcPort = uint16(r.Uint32())
	}
	return t
}
