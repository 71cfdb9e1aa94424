package packet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

// Segmenter splits a GSO frame into the packets it stands for, complete with
// checksums: what a network card does for TSO and USO, also inside a tunnel. Use:
//
//	for s := MakeSegmenter(p); s.Next(&seg, buf); {
//		send seg, which lives in buf, before the next call
//	}
type Segmenter struct {
	p     *Packet
	at    int // position in p.Mem of the next payload byte
	index int // of the next segment
}

// MakeSegmenter starts the segmentation of the parsed packet p, which must stay as
// it is meanwhile. One that fits into a single segment, of any protocol, is copied
// and its checksum completed.
func MakeSegmenter(p *Packet) Segmenter { return Segmenter{p: p, at: p.Payload} }

// BufferLen returns how large the buffer for Next must be, in bytes.
func (s *Segmenter) BufferLen() int {
	return Headroom + s.p.Payload - s.p.Off + s.size()
}

func (s *Segmenter) size() int {
	if s.p.Segments() > 1 {
		return int(s.p.Offload.GSOSize)
	}
	return s.p.End - s.p.Payload
}

// Next builds the next segment in buf and describes it in dst. It reports false
// when there are no more.
func (s *Segmenter) Next(dst *Packet, buf []byte) bool {
	p := s.p
	if s.at >= p.End && s.index > 0 {
		return false
	}
	if p.Segments() == 1 {
		p.CopyTo(dst, buf)
		CompleteChecksum(dst)
		dst.Offload = Offload{}
		s.at = p.End
		s.index++
		return true
	}
	end := min(s.at+s.size(), p.End)
	*dst = *p
	dst.rebase(buf)
	n := copy(buf[dst.Off:], p.Mem[p.Off:p.Payload])
	n += copy(buf[dst.Off+n:], p.Mem[s.at:end])
	dst.End = dst.Off + n
	dst.L3Len = dst.End - dst.L3
	dst.Offload = Offload{}
	dst.Flags &^= PartialChecksum

	ip := buf[dst.L3:dst.Payload]
	if dst.Tuple.Family == tuple.IPv4 {
		be.PutUint16(ip[4:], uint16(int(p.FragID)+s.index))
		dst.FragID = uint32(be.Uint16(ip[4:]))
	}
	switch {
	case p.Flags&TunnelGSO != 0:
		if p.Offload.CsumOffset == uint16(sumOffset(tuple.TCP)) {
			s.number(buf[dst.EmbL4:dst.Payload], end)
		}
		sealTunnel(p, buf[dst.L3:dst.End], s.index)
		dst.Flags &^= TunnelGSO
		if dst.Payload = dst.L4; dst.Tuple.Proto == tuple.UDP {
			dst.Payload += udpLen
		}
	default:
		if dst.Tuple.Proto == tuple.TCP {
			h := ip[dst.L4-dst.L3:]
			s.number(h, end)
			dst.TCPFlags = h[13]
		}
		seal(dst, ip, buf[dst.Payload:dst.End])
	}
	s.at = end
	s.index++
	return true
}

// number gives the TCP header h of a segment that ends at position end its
// sequence number and flags.
func (s *Segmenter) number(h []byte, end int) {
	p := s.p
	be.PutUint32(h[4:], be.Uint32(h[4:])+uint32(s.at-p.Payload))
	if end < p.End {
		h[13] &^= FIN | PSH
	}
	if s.index > 0 {
		h[13] &^= cwr // RFC 3168 section 6.1.2: once a window
	}
}

const cwr uint8 = 0x80

// seal finishes a TCP or UDP packet whose headers are ip and whose payload is
// payload: length fields, IPv4 header checksum, transport checksum. From p come
// protocol and header lengths.
func seal(p *Packet, ip, payload []byte) {
	h := ip[p.L4-p.L3:]
	size := len(h) + len(payload)
	t := &p.Tuple
	putLength(ip[:p.L4-p.L3], t.Family, len(ip)+len(payload))
	if t.Proto == tuple.UDP {
		be.PutUint16(h[4:], uint16(size))
	}
	at := sumOffset(t.Proto)
	be.PutUint16(h[at:], 0)
	// Headers are a multiple of 4 long, so their sum and the payload's add up.
	s := uint64(sumWords(addrsOf(ip, t.Family))) + uint64(t.Proto) + uint64(size) + uint64(sumWords(h))
	sum := ^checksum.Checksum(payload, fold(s))
	if sum == 0 && t.Proto == tuple.UDP {
		sum = 0xffff // RFC 768
	}
	be.PutUint16(h[at:], sum)
}

// putLength writes the length n of an IP packet into its headers ip, and the
// header checksum of IPv4.
func putLength(ip []byte, family uint8, n int) {
	if family == tuple.IPv6 {
		be.PutUint16(ip[4:], uint16(n-ipv6Len))
		return
	}
	be.PutUint16(ip[2:], uint16(n))
	be.PutUint16(ip[10:], 0)
	be.PutUint16(ip[10:], ^sumWords(ip))
}

// addrsOf returns both addresses of the IP header that ip begins with.
func addrsOf(ip []byte, family uint8) []byte {
	if family == tuple.IPv4 {
		return ip[12:20]
	}
	return ip[8:40]
}
