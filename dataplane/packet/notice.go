package packet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

// The packets here are made from what is known of a flow, not in answer to a
// packet. Like the answers, they are LinkIP packets in buf (at least AnswerLen
// bytes), to be made frames by SetLink.

// Segment is what a TCP segment without payload says.
type Segment struct {
	Seq, Ack uint32
	Flags    uint8
}

// MakeSegment builds a TCP segment with tuple t.
func MakeSegment(dst *Packet, buf []byte, t *tuple.Tuple, s Segment) {
	ip, h, sum := begin(buf, t, tcpMinLen)
	be.PutUint16(h, t.SrcPort)
	be.PutUint16(h[2:], t.DstPort)
	be.PutUint32(h[4:], s.Seq)
	be.PutUint32(h[8:], s.Ack)
	h[12] = tcpMinLen / 4 << 4
	h[13] = s.Flags
	be.PutUint16(h[16:], ^checksum.Checksum(h, sum))
	dst.own(&Packet{}, buf, len(ip))
}

// sctpAbort is the type of an ABORT chunk (RFC 9260 section 3.3.7).
const sctpAbort = 6

// MakeAbort builds an SCTP packet with tuple t whose ABORT chunk ends the
// association of its receiver, whose verification tag is tag.
func MakeAbort(dst *Packet, buf []byte, t *tuple.Tuple, tag uint32) {
	const length = sctpMinLen + 4
	ip, h, _ := begin(buf, t, length)
	be.PutUint16(h, t.SrcPort)
	be.PutUint16(h[2:], t.DstPort)
	be.PutUint32(h[4:], tag)
	h[sctpMinLen], h[sctpMinLen+3] = sctpAbort, 4
	putLittleEndian32(h[8:], sctpSum(h))
	dst.own(&Packet{}, buf, len(ip))
}

// MakeQuoted describes in dst a packet that the sender of tuple t could have sent:
// its headers without payload, for an ICMP error to quote. It reports false for
// what no error may be about.
func MakeQuoted(dst *Packet, buf []byte, t *tuple.Tuple) bool {
	const length = 8 // as much as the oldest hosts quote (RFC 792)
	if tuple.IsICMP(t.Proto) && !hasQueryID(t) {
		return false
	}
	ip, h, sum := begin(buf, t, length)
	switch {
	case t.Proto == tuple.UDP, t.Proto == tuple.UDPLite:
		be.PutUint16(h, t.SrcPort)
		be.PutUint16(h[2:], t.DstPort)
		be.PutUint16(h[4:], length) // in UDP-Lite: the sum covers all of it
		be.PutUint16(h[6:], ^checksum.Checksum(h, sum))
	case tuple.IsICMP(t.Proto):
		be.PutUint16(h, t.DstPort)
		be.PutUint16(h[4:], t.SrcPort)
		if t.Family == tuple.IPv4 {
			sum = 0
		}
		be.PutUint16(h[2:], ^checksum.Checksum(h, sum))
	case tuple.HasPorts(t.Proto):
		be.PutUint16(h, t.SrcPort)
		be.PutUint16(h[2:], t.DstPort)
	}
	*dst = Packet{Mem: buf, Off: Headroom, End: Headroom + len(ip), Link: LinkIP, L3: Headroom, Tuple: *t}
	dst.L4 = dst.End - length
	dst.Payload = dst.L4
	return true
}

// begin writes the IP header of a packet with n bytes behind it, which are clear,
// and returns the packet, these bytes, and the sum of the pseudo-header.
func begin(buf []byte, t *tuple.Tuple, n int) (ip, rest []byte, sum uint16) {
	header := ipv4MinLen
	if t.Family == tuple.IPv6 {
		header = ipv6Len
	}
	ip = buf[Headroom : Headroom+header+n]
	clear(ip)
	sum = putHeader(ip, t.Family, t.Proto, t.Src, t.Dst)
	return ip, ip[header:], sum
}
