package packet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

// Reset builds the RST that answers TCP segment p as a closed port would (RFC
// 9293 section 3.10.7.1), a LinkIP packet in buf (at least AnswerLen bytes). It
// reports false if p is a RST itself or a later fragment: they get no answer.
func Reset(dst, p *Packet, buf []byte) bool {
	if p.TCPFlags&RST != 0 || p.Flags&FragmentLater != 0 {
		return false
	}
	in := p.Mem[p.L4:p.End]
	header := ipv4MinLen
	if p.Tuple.Family == tuple.IPv6 {
		header = ipv6Len
	}
	ip := buf[Headroom : Headroom+header+tcpMinLen]
	sum := putHeader(ip, p.Tuple.Family, p.Tuple.Proto, p.Tuple.Dst, p.Tuple.Src)
	h := ip[header:]
	clear(h)
	be.PutUint16(h, p.Tuple.DstPort)
	be.PutUint16(h[2:], p.Tuple.SrcPort)
	h[12] = tcpMinLen / 4 << 4
	if p.TCPFlags&ACK != 0 {
		copy(h[4:8], in[8:12])
		h[13] = RST
	} else {
		be.PutUint32(h[8:], be.Uint32(in[4:])+segmentLen(p))
		h[13] = RST | ACK
	}
	be.PutUint16(h[16:], ^checksum.Checksum(h, sum))
	dst.own(p, buf, len(ip))
	return true
}

// segmentLen returns how many sequence numbers TCP segment p takes.
func segmentLen(p *Packet) uint32 {
	n := uint32(p.End - p.Payload)
	if p.TCPFlags&SYN != 0 {
		n++
	}
	if p.TCPFlags&FIN != 0 {
		n++
	}
	return n
}
