package packet

import "example.com/culvert/conntrack/tuple"

// TranslateError rewrites an ICMP error: its own addresses become those of outer
// (type, code and ports of outer are ignored) and the embedded packet's tuple
// becomes embedded. The embedded checksums are changed with it as far as they are
// present, then the ICMP checksum. p.Flags must have ICMPError; ports are
// translated only with EmbeddedNAT.
func TranslateError(p *Packet, outer, embedded *tuple.Tuple) {
	inner := MakeRewrite(&p.Embedded, embedded)
	delta := inner.writeEmbedded(p)

	own := *outer
	own.SrcPort, own.DstPort = p.Tuple.SrcPort, p.Tuple.DstPort
	r := MakeRewrite(&p.Tuple, &own)
	if r.addrs != 0 {
		r.writeAddrs(p)
	}
	var pseudo uint16
	if p.Tuple.Proto == tuple.ICMPv6 {
		pseudo = r.addrs
	}
	if sum := fold(delta + uint64(pseudo)); sum != 0 {
		addTransport(p, p.Mem[p.L4+2:p.End], sum, pseudo)
	}
}

// writeEmbedded translates the packet inside p and returns the unfolded change
// of a sum over all bytes that it changed.
func (r *Rewrite) writeEmbedded(p *Packet) (delta uint64) {
	t := &p.Embedded
	if r.addrs != 0 {
		ip := p.Mem[p.EmbL3:p.EmbL4]
		putAddrs(ip, &r.to)
		t.Src, t.Dst = r.to.Src, r.to.Dst
		delta += uint64(r.addrs)
		if t.Family == tuple.IPv4 {
			delta += changeSum(ip[10:], r.addrs)
		}
	}
	if p.Flags&EmbeddedNAT == 0 {
		return delta
	}
	b := p.Mem[p.EmbL4:p.EmbEnd]
	sum := r.addrs
	if t.Proto == tuple.ICMP {
		sum = 0 // no pseudo-header
	}
	if r.ports != 0 {
		switch {
		case tuple.HasPorts(t.Proto):
			be.PutUint16(b, r.to.SrcPort)
			be.PutUint16(b[2:], r.to.DstPort)
			t.SrcPort, t.DstPort = r.to.SrcPort, r.to.DstPort
		case tuple.IsICMP(t.Proto):
			be.PutUint16(b[4:], r.to.SrcPort)
			t.SrcPort = r.to.SrcPort
		default:
			return delta
		}
		delta += uint64(r.ports)
		sum = fold(uint64(sum) + uint64(r.ports))
	}
	at := sumOffset(t.Proto)
	if sum == 0 || t.Proto == tuple.SCTP || at+2 > len(b) {
		return delta // SCTP: the CRC32c covers bytes that are not here
	}
	if isUDP := t.Proto == tuple.UDP || t.Proto == tuple.UDPLite; isUDP {
		old := be.Uint16(b[at:])
		addUDPSum(b[at:], sum)
		return delta + wordDelta(old, be.Uint16(b[at:]))
	}
	return delta + changeSum(b[at:], sum)
}

// changeSum is addSum that also tells by how much the checksum field itself
// changes a sum around it.
func changeSum(b []byte, delta uint16) uint64 {
	old := be.Uint16(b)
	addSum(b, delta)
	return wordDelta(old, be.Uint16(b))
}
