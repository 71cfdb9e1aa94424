package packet

import "example.com/culvert/conntrack/tuple"

// Rewrite is a translation worked out once for many packets: what to write and
// by how much it changes the sums. The zero Rewrite changes nothing.
type Rewrite struct {
	to    tuple.Tuple
	addrs uint16 // change of sums over the addresses; 0: addresses stay
	ports uint16 // change of sums over ports or query id; 0: they stay
}

// MakeRewrite returns the translation of packets with tuple from into packets
// with tuple to. Both must be of one family and protocol; zones are ignored. Of
// ICMP only the query identifier is translated, never type and code.
func MakeRewrite(from, to *tuple.Tuple) Rewrite {
	r := Rewrite{to: *to}
	r.to.Family, r.to.Proto = from.Family, from.Proto
	if from.Src != to.Src || from.Dst != to.Dst {
		r.addrs = fold(addrDelta(&from.Src, &to.Src) + addrDelta(&from.Dst, &to.Dst))
	}
	if tuple.IsICMP(from.Proto) {
		r.to.DstPort = from.DstPort
	}
	if from.SrcPort != r.to.SrcPort || from.DstPort != r.to.DstPort {
		r.ports = fold(wordDelta(from.SrcPort, r.to.SrcPort) + wordDelta(from.DstPort, r.to.DstPort))
	}
	return r
}

// wordDelta returns the unfolded change of a sum when from becomes to. It is
// never zero, so that a zero delta can stand for no change.
func wordDelta(from, to uint16) uint64 { return uint64(^from) + uint64(to) + 0xffff }

// addrDelta returns the unfolded change of a sum when from becomes to.
func addrDelta(from, to *tuple.Addr) uint64 {
	s := uint64(0xffff) // never zero, as in wordDelta
	for i := 0; i < 16; i += 4 {
		s += uint64(^be.Uint32(from[i:])) + uint64(be.Uint32(to[i:]))
	}
	return s
}

// Translate rewrites a parsed packet so that its tuple becomes to, with all
// checksums changed incrementally (RFC 1624; SCTP's CRC32c is computed anew), and
// sets p.Tuple. Later fragments get the addresses only, first fragments
// everything but SCTP ports. Partial checksums stay partial.
func Translate(p *Packet, to *tuple.Tuple) {
	r := MakeRewrite(&p.Tuple, to)
	r.Apply(p)
}

// Apply translates p, whose tuple must be the one r was made from.
func (r *Rewrite) Apply(p *Packet) {
	if r.addrs != 0 {
		r.writeAddrs(p)
	}
	if p.Flags&FragmentLater == 0 && r.addrs|r.ports != 0 {
		r.writeTransport(p)
	}
}

func (r *Rewrite) writeAddrs(p *Packet) {
	ip := p.Mem[p.L3:p.L4]
	p.Tuple.Src, p.Tuple.Dst = r.to.Src, r.to.Dst
	putAddrs(ip, &r.to)
	if p.Tuple.Family == tuple.IPv4 {
		addSum(ip[10:], r.addrs)
	}
}

// putAddrs writes the addresses of t into the IP header ip of the same family.
func putAddrs(ip []byte, t *tuple.Tuple) {
	if t.Family == tuple.IPv4 {
		copy(ip[12:16], t.Src[12:])
		copy(ip[16:20], t.Dst[12:])
		return
	}
	copy(ip[8:24], t.Src[:])
	copy(ip[24:40], t.Dst[:])
}

func (r *Rewrite) writeTransport(p *Packet) {
	b := p.Mem[p.L4:p.End]
	both := fold(uint64(r.addrs) + uint64(r.ports))
	switch p.Tuple.Proto {
	case tuple.TCP:
		_ = b[17]
		r.writePorts(p, b)
		addTransport(p, b[16:], both, r.addrs)
	case tuple.UDP:
		_ = b[7]
		r.writePorts(p, b)
		if p.Flags&PartialChecksum != 0 {
			addTransport(p, b[6:], both, r.addrs)
		} else {
			addUDPSum(b[6:], both)
		}
	case tuple.UDPLite:
		r.writePorts(p, b)
		addUDPSum(b[6:], both)
	case tuple.DCCP:
		r.writePorts(p, b)
		addTransport(p, b[6:], both, r.addrs)
	case tuple.SCTP:
		if p.Flags&Untranslatable == 0 && r.ports != 0 {
			r.writePorts(p, b)
			fixSCTP(p)
		}
	case tuple.ICMP:
		if r.ports != 0 {
			r.writeID(p, b)
			addTransport(p, b[2:], r.ports, 0)
		}
	case tuple.ICMPv6:
		if r.ports != 0 {
			r.writeID(p, b)
		}
		addTransport(p, b[2:], both, r.addrs)
	case tuple.GRE:
		if r.ports != 0 {
			writeCallID(p, b, r.to.DstPort)
		}
	}
}

// addTransport changes the checksum field sum of p: by full if it is complete,
// by pseudo, the change of the pseudo-header alone, if it is partial.
func addTransport(p *Packet, sum []byte, full, pseudo uint16) {
	if p.Flags&PartialChecksum == 0 {
		addSum(sum, full)
	} else if pseudo != 0 {
		addPartial(sum, pseudo)
	}
}

func (r *Rewrite) writePorts(p *Packet, b []byte) {
	be.PutUint16(b, r.to.SrcPort)
	be.PutUint16(b[2:], r.to.DstPort)
	p.Tuple.SrcPort, p.Tuple.DstPort = r.to.SrcPort, r.to.DstPort
}

// writeID sets the identifier of an ICMP query; other messages have none.
func (r *Rewrite) writeID(p *Packet, b []byte) {
	be.PutUint16(b[4:], r.to.SrcPort)
	p.Tuple.SrcPort = r.to.SrcPort
}

// DecrementTTL lowers TTL or hop limit by one. The caller has seen that p.TTL is
// above 1; a TTL of 0 stays.
func DecrementTTL(p *Packet) {
	if p.TTL == 0 {
		return
	}
	p.TTL--
	ip := p.Mem[p.L3:p.L4]
	if p.Tuple.Family == tuple.IPv6 {
		ip[7] = p.TTL
		return
	}
	ip[8] = p.TTL
	addSum(ip[10:], 0xfeff) // the word of TTL and protocol sinks by 0x0100
}
