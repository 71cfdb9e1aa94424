//go:build netns

package diff

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
)

// side is a host of the network.
type side uint8

const (
	client side = iota
	server
	numSides
)

func (s side) String() string { return [...]string{"client", "server"}[s] }

func (s side) other() side { return 1 - s }

// ends are the addresses of a packet as somebody sees it.
type ends struct {
	src, dst     netip.Addr
	sport, dport uint16 // ICMP: both are the id
}

func (e *ends) is4() bool { return e.src.Is4() }

// message is what an IP packet carries. encode returns its bytes between two
// ends, with its checksum.
type message interface {
	proto(is4 bool) uint8
	encode(e *ends) []byte
	String() string
}

// sumFault says what is wrong with a checksum.
type sumFault uint8

const (
	goodSum sumFault = iota
	badSum
	noSum // zero
)

func (f sumFault) String() string { return [...]string{"", " bad-sum", " no-sum"}[f] }

// put stores the checksum of b, which has zero there, at offset at.
func (f sumFault) put(b []byte, at int, pseudo uint32) {
	if len(b) < at+2 || f == noSum {
		return
	}
	sum := fold(add(b, pseudo))
	if f == badSum {
		sum ^= 0x1001
	}
	binary.BigEndian.PutUint16(b[at:], sum)
}

// add sums b into an Internet checksum (RFC 1071).
func add(b []byte, sum uint32) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudo is the sum of the pseudo header.
func (e *ends) pseudo(proto uint8, length int) uint32 {
	return add(e.dst.AsSlice(), add(e.src.AsSlice(), uint32(proto)+uint32(length)))
}

// tcp is a segment.
type tcp struct {
	seq, ack uint32
	flags    uint8
	win      uint16
	length   int // of the payload
	scale    int // window scale option, negative: none
	sackOK   bool
	sack     [2]uint32 // a SACK block, unless both are zero
	offset   uint8     // data offset in words that replaces the right one, 0: none
	cut      int       // bytes taken off the end of header and payload
	sum      sumFault
}

const (
	fin uint8 = 1 << iota
	syn
	rst
	psh
	ack
	urg
)

func (t *tcp) proto(bool) uint8 { return 6 }

func (t *tcp) encode(e *ends) []byte {
	b := make([]byte, 20, 64+t.length)
	binary.BigEndian.PutUint16(b, e.sport)
	binary.BigEndian.PutUint16(b[2:], e.dport)
	binary.BigEndian.PutUint32(b[4:], t.seq)
	binary.BigEndian.PutUint32(b[8:], t.ack)
	b[13] = t.flags
	binary.BigEndian.PutUint16(b[14:], t.win)
	if t.scale >= 0 {
		b = append(b, 1, 3, 3, byte(t.scale))
	}
	if t.sackOK {
		b = append(b, 1, 1, 4, 2)
	}
	if t.sack != [2]uint32{} {
		b = append(b, 1, 1, 5, 10)
		b = binary.BigEndian.AppendUint32(b, t.sack[0])
		b = binary.BigEndian.AppendUint32(b, t.sack[1])
	}
	b[12] = byte(len(b)/4) << 4
	if t.offset != 0 {
		b[12] = t.offset << 4
	}
	b = append(b, make([]byte, t.length)...)
	b = b[:max(len(b)-t.cut, 4)]
	t.sum.put(b, 16, e.pseudo(6, len(b)))
	return b
}

func (t *tcp) String() string {
	var s strings.Builder
	s.WriteString("tcp ")
	for i, c := range "FSRP.U" {
		if t.flags&(1<<i) != 0 {
			s.WriteRune(c)
		}
	}
	fmt.Fprintf(&s, " seq %d len %d", t.seq, t.length)
	if t.flags&ack != 0 || t.ack != 0 {
		fmt.Fprintf(&s, " ack %d", t.ack)
	}
	fmt.Fprintf(&s, " win %d", t.win)
	if t.scale >= 0 {
		fmt.Fprintf(&s, " wscale %d", t.scale)
	}
	if t.sackOK {
		s.WriteString(" sackOK")
	}
	if t.sack != [2]uint32{} {
		fmt.Fprintf(&s, " sack %d-%d", t.sack[0], t.sack[1])
	}
	if t.offset != 0 {
		fmt.Fprintf(&s, " offset %d", t.offset)
	}
	if t.cut != 0 {
		fmt.Fprintf(&s, " cut %d", t.cut)
	}
	return s.String() + t.sum.String()
}

// udp is a datagram of UDP or UDP-Lite.
type udp struct {
	lite   bool
	length int // of the payload
	skew   int // what the length field, in UDP-Lite the coverage, says too much
	sum    sumFault
}

func (u *udp) proto(bool) uint8 {
	if u.lite {
		return 136
	}
	return 17
}

func (u *udp) encode(e *ends) []byte {
	b := make([]byte, 8+u.length)
	binary.BigEndian.PutUint16(b, e.sport)
	binary.BigEndian.PutUint16(b[2:], e.dport)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)+u.skew))
	sum := b
	if u.lite { // RFC 3828 section 3.1
		sum = b[:min(max(len(b)+u.skew, 8), len(b))]
	}
	u.sum.put(sum, 6, e.pseudo(u.proto(e.is4()), len(b)))
	return b
}

func (u *udp) String() string {
	name := "udp"
	if u.lite {
		name = "udplite"
	}
	s := fmt.Sprintf("%s len %d", name, u.length)
	if u.skew != 0 {
		s += fmt.Sprintf(" length-field %+d", u.skew)
	}
	return s + u.sum.String()
}

// icmp is a message that is no error.
type icmp struct {
	kind, code uint8
	other      uint16 // added to the id
	number     uint16
	length     int // of the data
	cut        int // bytes taken off the end
	sum        sumFault
}

func (m *icmp) proto(is4 bool) uint8 { return icmpProto(is4) }

func icmpProto(is4 bool) uint8 {
	if is4 {
		return 1
	}
	return 58
}

// icmpPseudo is what ICMPv6 sums besides the message (RFC 4443 section 2.3).
func icmpPseudo(e *ends, length int) uint32 {
	if e.is4() {
		return 0
	}
	return e.pseudo(58, length)
}

func (m *icmp) encode(e *ends) []byte {
	b := make([]byte, 8+m.length)
	b[0], b[1] = m.kind, m.code
	binary.BigEndian.PutUint16(b[4:], e.sport+m.other)
	binary.BigEndian.PutUint16(b[6:], m.number)
	b = b[:len(b)-m.cut]
	m.sum.put(b, 2, icmpPseudo(e, len(b)))
	return b
}

func (m *icmp) String() string {
	s := fmt.Sprintf("icmp type %d code %d id+%d seq %d len %d", m.kind, m.code, m.other, m.number, m.length)
	if m.cut != 0 {
		s += fmt.Sprintf(" cut %d", m.cut)
	}
	return s + m.sum.String()
}

// icmpError is about a packet that its sender may have got from the other side.
type icmpError struct {
	kind, code uint8
	about      message
	quote      int  // bytes of the packet after its IP header, at most
	wrongPort  bool // the quoted packet is of another flow
	sum        sumFault
}

func (m *icmpError) proto(is4 bool) uint8 { return icmpProto(is4) }

func (m *icmpError) encode(e *ends) []byte {
	of := ends{src: e.dst, dst: e.src, sport: e.dport, dport: e.sport}
	if m.wrongPort {
		of.sport += 1000
	}
	b := make([]byte, 8)
	b[0], b[1] = m.kind, m.code
	inner := packet(&of, m.about, sound)
	b = append(b, inner[:min(len(inner), ipLen(e.is4())+m.quote)]...)
	m.sum.put(b, 2, icmpPseudo(e, len(b)))
	return b
}

// quoted is how many bytes of the packet's payload are really there.
func (m *icmpError) quoted() int {
	e := ends{src: outside[ipv4], dst: outside[ipv4]}
	return min(m.quote, len(m.about.encode(&e)))
}

func (m *icmpError) String() string {
	s := fmt.Sprintf("icmp-error type %d code %d quoting %d bytes of (%v)", m.kind, m.code, m.quote, m.about)
	if m.wrongPort {
		s += " wrong-port"
	}
	return s + m.sum.String()
}

// chunk is an SCTP chunk type (RFC 9260 section 3.2).
type chunk uint8

const (
	chunkData chunk = iota
	chunkInit
	chunkInitAck
	chunkSack
	chunkHeartbeat
	chunkHeartbeatAck
	chunkAbort
	chunkShutdown
	chunkShutdownAck
	chunkError
	chunkCookieEcho
	chunkCookieAck
	_
	_
	chunkShutdownComplete
)

var chunkNames = map[chunk]string{
	chunkData: "DATA", chunkInit: "INIT", chunkInitAck: "INIT-ACK", chunkSack: "SACK", chunkHeartbeat: "HEARTBEAT",
	chunkHeartbeatAck: "HEARTBEAT-ACK", chunkAbort: "ABORT", chunkShutdown: "SHUTDOWN", chunkShutdownAck: "SHUTDOWN-ACK",
	chunkError: "ERROR", chunkCookieEcho: "COOKIE-ECHO", chunkCookieAck: "COOKIE-ACK", chunkShutdownComplete: "SHUTDOWN-COMPLETE",
}

func (c chunk) String() string { return chunkNames[c] }

// sctp is a packet of chunks.
type sctp struct {
	tag    uint32
	tagged uint32 // initiate tag of INIT and INIT ACK
	chunks []chunk
	flags  uint8 // of all chunks
	skew   int   // what the length field of the last chunk says too much
	sum    sumFault
}

func (p *sctp) proto(bool) uint8 { return 132 }

func (p *sctp) encode(e *ends) []byte {
	b := make([]byte, 12)
	binary.BigEndian.PutUint16(b, e.sport)
	binary.BigEndian.PutUint16(b[2:], e.dport)
	binary.BigEndian.PutUint32(b[4:], p.tag)
	for i, c := range p.chunks {
		body := make([]byte, 16)
		if c == chunkInit || c == chunkInitAck {
			binary.BigEndian.PutUint32(body, p.tagged)
		}
		length := 4 + len(body)
		if i == len(p.chunks)-1 {
			length += p.skew
		}
		b = append(b, byte(c), p.flags, byte(length>>8), byte(length))
		b = append(b, body...)
	}
	if p.sum != noSum {
		sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
		if p.sum == badSum {
			sum ^= 0x1001
		}
		binary.LittleEndian.PutUint32(b[8:], sum)
	}
	return b
}

func (p *sctp) String() string {
	s := fmt.Sprintf("sctp %v tag %#x", p.chunks, p.tag)
	if p.tagged != 0 {
		s += fmt.Sprintf(" init-tag %#x", p.tagged)
	}
	if p.flags != 0 {
		s += fmt.Sprintf(" flags %#x", p.flags)
	}
	if p.skew != 0 {
		s += fmt.Sprintf(" chunk-length %+d", p.skew)
	}
	return s + p.sum.String()
}

// opaque is a packet of a protocol without ports.
type opaque struct {
	number uint8
	data   []byte
}

func (o *opaque) proto(bool) uint8      { return o.number }
func (o *opaque) encode(e *ends) []byte { return o.data }
func (o *opaque) String() string        { return fmt.Sprintf("proto %d %x", o.number, o.data) }

// ipFault says what is wrong with an IP header.
type ipFault uint8

const (
	sound     ipFault = iota
	padded            // the frame goes on behind the packet; that is right
	badHeader         // IPv4: wrong sum; IPv6: wrong version
	tooLong           // the length field says more than there is
	tooShort          // the length field says less than the header
)

func (f ipFault) String() string {
	return [...]string{"", " padded", " bad-ip-header", " ip-too-long", " ip-too-short"}[f]
}

func ipLen(is4 bool) int {
	if is4 {
		return 20
	}
	return 40
}

const hopLimit = 64

// packet builds an IP packet.
func packet(e *ends, m message, f ipFault) []byte {
	data := m.encode(e)
	length := len(data)
	switch f {
	case padded:
		data = append(data, make([]byte, 13)...)
	case tooLong:
		length += 9
	}
	if e.is4() {
		return packet4(e, m, f, data, length)
	}
	b := make([]byte, 40, 40+len(data))
	b[0], b[6], b[7] = 0x60, m.proto(false), hopLimit
	switch f {
	case badHeader:
		b[0] = 0x50
	case tooShort:
		length = min(length, 3)
	}
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	copy(b[8:], e.src.AsSlice())
	copy(b[24:], e.dst.AsSlice())
	return append(b, data...)
}

func packet4(e *ends, m message, f ipFault, data []byte, length int) []byte {
	b := make([]byte, 20, 20+len(data))
	length += 20
	if f == tooShort {
		length = 19
	}
	b[0], b[6], b[8], b[9] = 0x45, 0x40, hopLimit, m.proto(true)
	binary.BigEndian.PutUint16(b[2:], uint16(length))
	copy(b[12:], e.src.AsSlice())
	copy(b[16:], e.dst.AsSlice())
	sum := fold(add(b, 0))
	if f == badHeader {
		sum ^= 0x0400
	}
	binary.BigEndian.PutUint16(b[10:], sum)
	return append(b, data...)
}
