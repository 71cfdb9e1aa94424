package dataplane

import (
	"encoding/binary"
	"hash/crc32"

	"example.com/culvert/conntrack/tuple"
)

// tape is what a fuzzer decides: each question takes a byte of it, and all answers are 0,
// the tame one, when it is at its end.
type tape []byte

func (t *tape) byte() (b uint8) {
	if len(*t) > 0 {
		b, *t = (*t)[0], (*t)[1:]
	}
	return b
}

// n returns a number below k, which is at most 256.
func (t *tape) n(k int) int { return int(t.byte()) % k }

// word returns any number, little ones as often as large ones.
func (t *tape) word() uint32 {
	switch t.n(3) {
	case 0:
		return uint32(t.n(4))
	case 1:
		return uint32(t.byte())<<8 | uint32(t.byte())
	}
	return uint32(t.byte())<<24 | uint32(t.byte())<<16 | uint32(t.byte())
}

// rarely is true for one answer in k.
func (t *tape) rarely(k int) bool { return t.n(k) == k-1 }

func pick[T any](t *tape, of ...T) T { return of[t.n(len(of))] }

// layout is where the parts of an IP packet are, as a receiver reads it.
type layout struct {
	v6       bool
	proto    uint8 // of the transport header; that of the extension header where reading ended
	l4, end  int
	fragment bool
	src, dst []byte
}

// layoutOf reads an IP packet. It reports false for what no receiver would look into.
func layoutOf(ip []byte) (y layout, ok bool) {
	if len(ip) < 20 {
		return y, false
	}
	if ip[0]>>4 == 4 {
		y.l4, y.end, y.proto = int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:])), ip[9]
		y.src, y.dst = ip[12:16], ip[16:20]
		y.fragment = binary.BigEndian.Uint16(ip[6:])&0x3fff != 0
		return y, y.l4 >= 20 && y.l4 <= y.end && y.end <= len(ip)
	}
	if ip[0]>>4 != 6 || len(ip) < 40 {
		return y, false
	}
	y.v6, y.l4, y.end, y.proto = true, 40, 40+int(binary.BigEndian.Uint16(ip[4:])), ip[6]
	y.src, y.dst = ip[8:24], ip[24:40]
	for y.l4+8 <= y.end && y.end <= len(ip) {
		next, n := ip[y.l4], 8+8*int(ip[y.l4+1])
		switch y.proto {
		case 0, 43, 60:
		case 44:
			n = 8
			if binary.BigEndian.Uint16(ip[y.l4+2:])&^6 != 0 {
				y.fragment = true
				y.l4, y.proto = y.l4+8, next
				return y, y.l4 <= y.end
			}
		case 51:
			n = 8 + 4*int(ip[y.l4+1])
		default:
			return y, true
		}
		y.l4, y.proto = y.l4+n, next
	}
	return y, y.l4 <= y.end && y.end <= len(ip)
}

// checked returns where in b, a transport header with all that follows, the checksum is,
// how many of the bytes it covers, and whether there is one.
func checked(proto uint8, b []byte) (at, cover int, ok bool) {
	at, cover = map[uint8]int{tuple.TCP: 16, tuple.UDP: 6, tuple.UDPLite: 6, tuple.ICMP: 2, tuple.ICMPv6: 2, tuple.DCCP: 6}[proto], len(b)
	if at == 0 || at+2 > len(b) {
		return 0, 0, false
	}
	switch proto {
	case tuple.UDP:
		cover = min(cover, int(binary.BigEndian.Uint16(b[4:])))
	case tuple.UDPLite:
		if n := int(binary.BigEndian.Uint16(b[4:])); n != 0 {
			cover = n
		}
	case tuple.DCCP:
		if n := int(b[5] & 15); n != 0 {
			cover = int(b[4])*4 + (n-1)*4
		}
	}
	return at, cover, cover >= at+2 && cover <= len(b)
}

// pseudo is the sum of what the checksum of n bytes covers beside them.
func (y *layout) pseudo(n int) uint32 {
	if y.proto == tuple.ICMP {
		return 0
	}
	head := uint32(y.proto) + uint32(n)>>16 + uint32(n)&0xffff
	return uint32(sum(uint32(sum(head, y.src)), y.dst))
}

// covered returns the length that the pseudo header of b has.
func covered(proto uint8, b []byte) int {
	if proto == tuple.UDP {
		return int(binary.BigEndian.Uint16(b[4:]))
	}
	return len(b)
}

// seal sets the lengths and checksums of an IP packet right, as far as it is one.
func seal(ip []byte) []byte {
	if len(ip) < 20 {
		return ip
	}
	if ip[0]>>4 == 4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		if h := headerLen(ip); h >= 20 && h <= len(ip) {
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip[:h]))
		}
	} else if len(ip) >= 40 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	}
	y, ok := layoutOf(ip)
	if !ok || y.fragment {
		return ip
	}
	b := ip[y.l4:y.end]
	if y.proto == tuple.UDP && len(b) >= 8 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	}
	if y.proto == tuple.SCTP && len(b) >= 12 {
		copy(b[8:], make([]byte, 4))
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		return ip
	}
	at, cover, ok := checked(y.proto, b)
	if !ok {
		return ip
	}
	b[at], b[at+1] = 0, 0
	s := ^sum(y.pseudo(covered(y.proto, b)), b[:cover])
	if s == 0 && (y.proto == tuple.UDP || y.proto == tuple.UDPLite) {
		s = 0xffff // RFC 768: none is zero
	}
	binary.BigEndian.PutUint16(b[at:], s)
	return ip
}

// rightSums reports whether an IP packet that is all there has right checksums. With
// partial, that of the transport is of the pseudo header alone.
func rightSums(ip []byte, partial bool) bool {
	if ip[0]>>4 == 4 && sum(0, ip[:headerLen(ip)]) != 0xffff {
		return false
	}
	y, ok := layoutOf(ip)
	if !ok || y.fragment {
		return ok
	}
	b := ip[y.l4:y.end]
	if y.proto == tuple.SCTP {
		if len(b) < 12 {
			return false
		}
		zeroed := append(append(append([]byte(nil), b[:8]...), 0, 0, 0, 0), b[12:]...)
		return binary.LittleEndian.Uint32(b[8:]) == crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli))
	}
	at, cover, ok := checked(y.proto, b)
	if !ok {
		return true // a protocol without, or less than a header
	}
	pseudo := y.pseudo(covered(y.proto, b))
	switch field := binary.BigEndian.Uint16(b[at:]); {
	case partial:
		return uint32(field) == pseudo
	case field == 0 && y.proto == tuple.UDP:
		return true
	}
	return sum(pseudo, b[:cover]) == 0xffff
}

// packetOf is an IP packet around a transport header and what follows.
func packetOf(src, dst tuple.Addr, proto, hops uint8, id uint16, rest []byte) []byte {
	if src.Is4() && dst.Is4() {
		ip := []byte{0x45, 0, 0, 0, byte(id >> 8), byte(id), 0, 0, hops, proto, 0, 0}
		ip = append(append(append(ip, src[12:]...), dst[12:]...), rest...)
		return seal(ip)
	}
	ip := []byte{0x60, 0, 0, 0, 0, 0, proto, hops}
	ip = append(append(append(ip, src[:]...), dst[:]...), rest...)
	return seal(ip)
}

func ports16(a, b uint16) []byte {
	return []byte{byte(a >> 8), byte(a), byte(b >> 8), byte(b)}
}

// transport builds a header of a protocol, with checksums still to be set.
func (t *tape) transport(proto uint8, from, to uint16, seq, ack uint32, payload []byte) []byte {
	h := ports16(from, to)
	switch proto {
	case tuple.TCP:
		h = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(h, seq), ack)
		f := t.tcpFlags(ack)
		h = append(h, 0x50, f, 0xff, 0xff, 0, 0, 0, 0)
		if f&2 != 0 && t.rarely(2) {
			h = append(h, 2, 4, 5, 0xb4, 1, 3, 3, t.byte()&15, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0)
			h[12] = 0xa0
		}
	case tuple.UDP, tuple.UDPLite:
		h = append(h, 0, 0, 0, 0)
	case tuple.SCTP:
		h = append(h, 0, 0, 0, byte(seq), 0, 0, 0, 0)
		kind := pick[uint8](t, 1, 2, 10, 11, 0, 3, 6, 7, 8, 14, 4, 5, t.byte())
		h = append(h, kind, t.byte()&1, 0, 20, 0, 0, 0, byte(ack), 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9)
	case tuple.DCCP:
		kind := pick[uint8](t, 0, 1, 2, 3, 5, 6, 7, t.byte()&15)
		h = append(h, 7, 0, 0, 0, kind<<1|1, 0, 0, 0, 0, 0, byte(seq>>8), byte(seq), 0, 0, 0, 0, 0, 0, byte(ack>>8), byte(ack), 0, 0, 0, 0)
	case tuple.ICMP, tuple.ICMPv6:
		h = []byte{pick[uint8](t, 8, 0, 13, 14, 17, 30, t.byte()), 0, 0, 0, byte(from >> 8), byte(from), 0, byte(seq)}
		if proto == tuple.ICMPv6 {
			h[0] = pick[uint8](t, 128, 129, 135, 130, 139, t.byte())
		}
	case tuple.GRE:
		h = []byte{pick[uint8](t, 0x20, 0x30, 0), pick[uint8](t, 1, 0), 0x88, 0x0b, 0, 0, byte(from >> 8), byte(from), 0, 0, 0, byte(seq)}
	default:
		h = append(h, 0, 0, 0, byte(seq))
	}
	return append(h, payload...)
}

// tcpFlags are those that fit a segment with that acknowledgement, and now and then any.
func (t *tape) tcpFlags(ack uint32) uint8 {
	if ack == 0 {
		return pick[uint8](t, 2, 2, 2, 0x10, 4, 0x12, t.byte())
	}
	return pick[uint8](t, 0x10, 0x18, 0x12, 0x11, 4, 0x14, 0x18, 2, t.byte())
}

// Ports that helpers are for in a labOfAny, and others.
var anyPorts = []uint16{53, 443, 21, 5060, 6667, 69, 162, 1723, 161, 137, 8443, 40000, 1024, 0, 5000}

// payload is what helpers read, or any bytes.
func (t *tape) payload() []byte {
	lines := []string{
		"220 ready\r\n", "USER ftp\r\n", "PORT 10,0,0,5,156,65\r\n", "EPRT |2|2001:db8:1::5|6000|\r\n", "PASV\r\n", "EPSV\r\n",
		"227 Entering Passive Mode (198,51,100,7,20,20)\r\n", "229 Entering Extended Passive Mode (|||5000|)\r\n",
		"NICK a\r\nPRIVMSG b :\x01DCC SEND f 167772165 5000 10\x01\r\n", "\x00\x01file\x00octet\x00", "\x00\x02file\x00octet\x00",
		invite("10.0.0.5", 1, 8000), "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.1:5060;branch=z9hG4bK1\r\nFrom: <sip:a@example.org>;tag=1\r\n" +
			"To: <sip:b@example.org>;tag=2\r\nCall-ID: 1@10.0.0.5\r\nCSeq: 1 INVITE\r\nContact: <sip:b@198.51.100.7>\r\nContent-Length: 0\r\n\r\n",
		"0\x2c\x02\x01\x00\x04\x06public\xa4\x1f\x06\x06\x2b\x06\x01\x04\x01\x02\x40\x04\x0a\x00\x00\x05\x02\x01\x06\x02\x01\x01C\x01\x0a0\x00",
	}
	switch t.n(6) {
	case 0:
		return nil
	case 1, 2:
		return []byte(lines[t.n(len(lines))])
	case 3:
		return pattern(pick(t, 1, 8, 100, 1000, 1252, 1272, 1280, 1432, 1452, 1472, 1500, 2800))
	case 4: // PPTP (RFC 2637 section 2)
		kind, n := 1+t.n(15), pick(t, 156, 168, 32, 16, 148, 24)
		b := make([]byte, n)
		copy(b, []byte{0, byte(n), 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, byte(kind), 0, 0, 0, byte(t.n(3)), 0, byte(t.n(3)), 1, 1})
		return b
	}
	b := make([]byte, t.n(64))
	for i := range b {
		b[i] = t.byte()
	}
	return b
}

// extend puts extension headers (RFC 8200 section 4) or options (RFC 791 section 3.1)
// into a packet.
func (t *tape) extend(ip []byte) []byte {
	if ip[0]>>4 == 4 {
		o := pick(t, []byte{1, 1, 1, 0}, []byte{148, 4, 0, 0}, []byte{7, 7, 4, 0, 0, 0, 0, 0}, []byte{131, 7, 4, 198, 51, 100, 8, 0},
			[]byte{68, 8, 5, 0, 0, 0, 0, 0}, []byte{t.byte(), t.byte(), t.byte(), t.byte()}, []byte{137, 3, 4, 0})
		ip = append(append(append([]byte(nil), ip[:20]...), o...), ip[20:]...)
		ip[0] = 0x40 | byte(5+len(o)/4)
		return seal(ip)
	}
	at, kind := 40, 6
	for range 1 + t.n(3) {
		next := ip[kind]
		proto := pick[uint8](t, 60, 0, 60, 43, 44, 51, 60, 135)
		h := []byte{next, 0, 1, 4, 0, 0, 0, 0}
		switch proto {
		case 43:
			h = []byte{next, 0, pick[uint8](t, 4, 0, 2), t.byte() & 1, 0, 0, 0, 0}
		case 44:
			h = []byte{next, 0, 0, 0, 0, 0, 0, t.byte()}
		case 51:
			h = []byte{next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1}
		}
		ip[kind] = proto
		ip = append(append(append([]byte(nil), ip[:at]...), h...), ip[at:]...)
		kind, at = at, at+len(h)
	}
	return seal(ip)
}

// damage changes bytes, mostly of headers, and sets checksums right for every second one,
// so that it is not only they that tell.
func (t *tape) damage(ip []byte) []byte {
	ip = append([]byte(nil), ip...)
	for range 1 + t.n(4) {
		at := t.n(min(len(ip), 64))
		if t.rarely(8) {
			at = int(t.word()) % len(ip)
		}
		switch t.n(3) {
		case 0:
			ip[at] ^= 1 << t.n(8)
		case 1:
			ip[at] = t.byte()
		default:
			ip[at] = pick[byte](t, 0, 0xff, 0x7f, 0x80, 1)
		}
	}
	if t.rarely(4) {
		ip = ip[:1+int(t.word())%len(ip)]
	}
	if t.n(2) == 0 {
		return seal(ip)
	}
	return ip
}
