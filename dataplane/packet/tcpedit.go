package packet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

// Seq returns the sequence number of TCP packet p.
func Seq(p *Packet) uint32 { return be.Uint32(p.Mem[p.L4+4:]) }

// Ack returns the acknowledgement number of TCP packet p.
func Ack(p *Packet) uint32 { return be.Uint32(p.Mem[p.L4+8:]) }

// Window returns the window of TCP packet p, unscaled.
func Window(p *Packet) uint16 { return be.Uint16(p.Mem[p.L4+14:]) }

// SetSeq changes the sequence number of TCP packet p and its checksum.
func SetSeq(p *Packet, seq uint32) { setNumber(p, p.L4+4, seq) }

// SetAck changes the acknowledgement number of TCP packet p and its checksum.
func SetAck(p *Packet, ack uint32) { setNumber(p, p.L4+8, ack) }

// SetSACK changes block i of o, the options of TCP packet p, and the checksum.
func SetSACK(p *Packet, o *TCPOpts, i int, b SACKBlock) {
	setNumber(p, o.SACKAt+8*i, b.Left)
	setNumber(p, o.SACKAt+8*i+4, b.Right)
	o.SACK[i] = b
}

// setNumber writes a number of 32 bits at position at of the TCP header and changes
// the checksum. A partial one does not cover it.
func setNumber(p *Packet, at int, v uint32) {
	b := p.Mem[at : at+4]
	old := be.Uint32(b)
	if old == v {
		return
	}
	be.PutUint32(b, v)
	delta := fold(uint64(^old) + uint64(v))
	if (at-p.L4)&1 != 0 {
		delta = delta<<8 | delta>>8 // it straddles words: RFC 1071 section 2(B)
	}
	addTransport(p, p.Mem[p.L4+16:p.End], delta, 0)
}

// Body returns the payload of a TCP or UDP packet, without bytes that follow a UDP
// datagram in its packet.
func Body(p *Packet) []byte {
	end := p.End
	if p.Tuple.Proto == tuple.UDP && p.Segments() == 1 {
		end = min(end, p.L4+int(be.Uint16(p.Mem[p.L4+4:])))
	}
	return p.Mem[p.Payload:max(end, p.Payload)]
}

// MaxBody returns how long a payload may be that WithBody puts behind the headers of p.
func MaxBody(p *Packet) int { return maxIPPayload - (p.Payload - p.L3) }

// BodyBuffer returns how large the buffer for WithBody must be, in bytes.
func BodyBuffer(p *Packet, n int) int { return Headroom + p.Payload - p.Off + n }

// WithBody makes dst the TCP or UDP packet p with another payload of at most MaxBody(p)
// bytes, in buf, of at least BodyBuffer. A TCP payload longer than mss makes a GSO
// frame. Lengths and checksums are made anew; a UDP packet without a checksum stays
// without. p must be no fragment, but may have been put together from some.
func WithBody(dst, p *Packet, buf, body []byte, mss int) {
	*dst = *p
	dst.rebase(buf)
	copy(buf[dst.Off:], p.Mem[p.Off:p.Payload])
	dst.End = dst.Payload + copy(buf[dst.Payload:], body)
	dst.L3Len = dst.End - dst.L3
	dst.Offload = Offload{}
	dst.Flags &^= PartialChecksum
	ip := buf[dst.L3:dst.Payload]
	h := ip[dst.L4-dst.L3:]
	bare := dst.Tuple.Proto == tuple.UDP && be.Uint16(h[6:]) == 0
	seal(dst, ip, buf[dst.Payload:dst.End])
	if bare {
		be.PutUint16(h[6:], 0)
	}
	if dst.Tuple.Proto == tuple.TCP && len(body) > mss {
		dst.offerSegments(h, mss)
	}
}

// offerSegments makes the TCP packet, with header h, a GSO frame of segments of mss
// bytes.
func (p *Packet) offerSegments(h []byte, mss int) {
	kind := GSOTCPv4
	if p.Tuple.Family == tuple.IPv6 {
		kind = GSOTCPv6
	}
	p.Offload = Offload{
		Flags: NeedsCsum, GSOType: kind, HdrLen: uint16(p.Payload - p.Off), GSOSize: uint16(mss),
		CsumStart: uint16(p.L4 - p.Off), CsumOffset: 16,
	}
	p.Flags |= PartialChecksum
	be.PutUint16(h[16:], pseudoSum(p, p.End-p.L4))
}

// ClearTCPFlags takes flags away from TCP packet p.
func ClearTCPFlags(p *Packet, flags uint8) {
	b := p.Mem[p.L4+12 : p.L4+14]
	old := be.Uint16(b)
	p.TCPFlags &^= flags
	b[1] &^= flags
	if now := be.Uint16(b); now != old {
		addTransport(p, p.Mem[p.L4+16:p.End], fold(wordDelta(old, now)), 0)
	}
}

// SetUrgent changes the urgent pointer of TCP packet p.
func SetUrgent(p *Packet, to uint16) {
	b := p.Mem[p.L4+18 : p.L4+20]
	if old := be.Uint16(b); old != to {
		be.PutUint16(b, to)
		addTransport(p, p.Mem[p.L4+16:p.End], fold(wordDelta(old, to)), 0)
	}
}

// Urgent returns the urgent pointer of TCP packet p, which means something with URG.
func Urgent(p *Packet) uint16 { return be.Uint16(p.Mem[p.L4+18:]) }

// timestampLen is the length of RFC 7323's option with two bytes of padding.
const timestampLen = 12

// Acknowledge builds a segment without data that tells the sender of TCP packet p, in
// the name of its receiver, that everything before ack has arrived: a LinkIP packet in
// buf (at least AnswerLen bytes), numbered seq, with at most three blocks of what has arrived behind
// a hole. It has a timestamp when p has (RFC 7323 section 3.2).
func Acknowledge(dst, p *Packet, buf []byte, seq, ack uint32, window uint16, late []SACKBlock) {
	header := ipv4MinLen
	if p.Tuple.Family == tuple.IPv6 {
		header = ipv6Len
	}
	var o TCPOpts
	TCPOptions(p, &o)
	size := tcpMinLen
	if o.TimestampAt != 0 {
		size += timestampLen
	}
	sackAt := size
	if len(late) > 0 {
		size += 4 + 8*len(late)
	}
	ip := buf[Headroom : Headroom+header+size]
	sum := putHeader(ip, p.Tuple.Family, p.Tuple.Proto, p.Tuple.Dst, p.Tuple.Src)
	h := ip[header:]
	clear(h)
	be.PutUint16(h, p.Tuple.DstPort)
	be.PutUint16(h[2:], p.Tuple.SrcPort)
	be.PutUint32(h[4:], seq)
	be.PutUint32(h[8:], ack)
	h[12] = uint8(size / 4 << 4)
	h[13] = ACK
	be.PutUint16(h[14:], window)
	if o.TimestampAt != 0 {
		be.PutUint32(h[20:], 0x0101080a)
		be.PutUint32(h[24:], o.TSEcr)
		be.PutUint32(h[28:], o.TSVal)
	}
	if o := h[sackAt:]; len(o) > 0 {
		o[0], o[1], o[2], o[3] = tcpOptNop, tcpOptNop, tcpOptSACK, byte(2+8*len(late))
		for i, b := range late {
			be.PutUint32(o[4+8*i:], b.Left)
			be.PutUint32(o[8+8*i:], b.Right)
		}
	}
	be.PutUint16(h[16:], ^checksum.Checksum(h, sum))
	dst.own(p, buf, len(ip))
}

// EmbeddedSeq returns the sequence number of the TCP segment that an ICMP error is about,
// if that is there.
func EmbeddedSeq(p *Packet) (seq uint32, ok bool) {
	if p.Flags&(ICMPError|EmbeddedNAT) != ICMPError|EmbeddedNAT || p.Embedded.Proto != tuple.TCP || p.EmbEnd < p.EmbL4+8 {
		return 0, false
	}
	return be.Uint32(p.Mem[p.EmbL4+4:]), true
}

// SetEmbeddedSeq changes it, and the checksums over it.
func SetEmbeddedSeq(p *Packet, seq uint32) {
	b := p.Mem[p.EmbL4:p.EmbEnd]
	delta := fold(uint64(^be.Uint32(b[4:])) + uint64(seq))
	be.PutUint32(b[4:], seq)
	sum := uint64(delta)
	if len(b) >= 18 {
		sum += changeSum(b[16:], delta)
	}
	addTransport(p, p.Mem[p.L4+2:p.End], fold(sum), 0)
}
