package packet

import "example.com/culvert/conntrack/tuple"

// TranslateError rewrites an ICMP error: its own addresses become those of outer
// (type, code and ports of outer are ignored) and the embedded packet's tuple
// becomes embedded. The embedded checksums are changed with it as far as they are
// present, then the ICMP checksum. p.Flags must have ICMPError; ports are
// translated only with EmbeddedNAT.
func TranslateError(p *Packet, outer, embedded *tuple.Tuple) {
	delta := writeEmbedded(p, embedded)

	var pseudo uint16
	own := p.Tuple
	own.Src, own.Dst = outer.Src, outer.Dst
	if d := DeltaOf(&p.Tuple, &own); d.Addrs != 0 {
		writeAddrs(p, &own, d.Addrs)
		if p.Tuple.Proto == tuple.ICMPv6 {
			pseudo = d.Addrs
		}
	}
	if sum := fold(delta + uint64(pseudo)); sum != 0 {
		addTransport(p, p.Mem[p.L4+2:p.End], sum, pseudo)
	}
}

// writeEmbedded gives the packet inside p the tuple to and returns the unfolded
// change of a sum over all bytes that it changed.
func writeEmbedded(p *Packet, to *tuple.Tuple) (delta uint64) {
	t := &p.Embedded
	d := DeltaOf(t, to)
	if d.Addrs != 0 {
		ip := p.Mem[p.EmbL3:p.EmbL4]
		putAddrs(ip, t.Family, to)
		t.Src, t.Dst = to.Src, to.Dst
		delta += uint64(d.Addrs)
		if t.Family == tuple.IPv4 {
			delta += changeSum(ip[10:], d.Addrs)
		}
	}
	if p.Flags&EmbeddedNAT == 0 {
		return delta
	}
	b := p.Mem[p.EmbL4:p.EmbEnd]
	sum := d.Addrs
	if t.Proto == tuple.ICMP {
		sum = 0 // no pseudo-header
	}
	if d.Ports != 0 {
		switch {
		case tuple.HasPorts(t.Proto):
			be.PutUint16(b, to.SrcPort)
			be.PutUint16(b[2:], to.DstPort)
			t.SrcPort, t.DstPort = to.SrcPort, to.DstPort
		case tuple.IsICMP(t.Proto):
			be.PutUint16(b[4:], to.SrcPort)
			t.SrcPort = to.SrcPort
		case t.Proto == tuple.GRE && isPPTP(b):
			delta += wordDelta(be.Uint16(b[greCallIDAt:]), to.DstPort)
			be.PutUint16(b[greCallIDAt:], to.DstPort)
			t.SrcPort, t.DstPort = to.SrcPort, to.DstPort
			return delta
		default:
			return delta
		}
		delta += uint64(d.Ports)
		sum = fold(uint64(sum) + uint64(d.Ports))
	}
	at := sumOffset(t.Proto)
	if sum == 0 || at == noSum || t.Proto == tuple.SCTP || at+2 > len(b) {
		return delta // SCTP: the CRC32c covers bytes that are not here
	}
	if t.Proto == tuple.UDP || t.Proto == tuple.UDPLite {
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
