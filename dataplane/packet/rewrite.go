package packet

import "example.com/culvert/conntrack/tuple"

// Delta is by how much a translation changes the sums of a packet: worked out
// once, it serves all packets of a flow in one direction. The zero Delta is of a
// translation that changes nothing.
type Delta struct {
	Addrs uint16 // change of sums over the addresses; 0: addresses stay
	Ports uint16 // change of sums over ports or query id; 0: they stay
}

// DeltaOf returns the Delta of packets with tuple from that become packets with
// tuple to. Both must be of one family and protocol; zones are ignored. Of ICMP
// only the identifier of queries that have one is translated, never type and code.
func DeltaOf(from, to *tuple.Tuple) (d Delta) {
	if from.Src != to.Src || from.Dst != to.Dst {
		d.Addrs = fold(addrDelta(&from.Src, &to.Src) + addrDelta(&from.Dst, &to.Dst))
	}
	switch {
	case tuple.IsICMP(from.Proto):
		if from.SrcPort != to.SrcPort && hasQueryID(from) {
			d.Ports = fold(wordDelta(from.SrcPort, to.SrcPort))
		}
	case from.SrcPort != to.SrcPort || from.DstPort != to.DstPort:
		d.Ports = fold(wordDelta(from.SrcPort, to.SrcPort) + wordDelta(from.DstPort, to.DstPort))
	}
	return d
}

// wordDelta returns the unfolded change of a sum when from becomes to. It is
// never zero, so that a zero delta can stand for no change.
func wordDelta(from, to uint16) uint64 { return uint64(^from) + uint64(to) + 0xffff }

// addrDelta returns the unfolded change of a sum when from becomes to.
func addrDelta(from, to *tuple.Addr) uint64 {
	s := uint64(0xffff) // never zero, as in wordDelta
	for i := 0; i < 16; i += 8 {
		old, now := ^be.Uint64(from[i:]), be.Uint64(to[i:])
		s += old>>32 + old&0xffffffff + now>>32 + now&0xffffffff
	}
	return s
}

// Translate rewrites a parsed packet so that its tuple becomes to, with all
// checksums changed incrementally (RFC 1624; SCTP's CRC32c is computed anew), and
// sets p.Tuple. Later fragments get the addresses only, first fragments
// everything but SCTP ports. Partial checksums stay partial.
func Translate(p *Packet, to *tuple.Tuple) {
	t := &p.Tuple
	if t.Family == tuple.IPv4 && (t.Proto == tuple.UDP || t.Proto == tuple.TCP) && !p.Flags.Fragment() {
		translate4(p, to)
		return
	}
	DeltaOf(t, to).Apply(p, to)
}

// translate4 is Translate of what most packets are, TCP and UDP over IPv4 in one piece:
// both addresses in one store, both ports in another.
func translate4(p *Packet, to *tuple.Tuple) {
	t := &p.Tuple
	var change uint64 // of sums; 0: none
	if src, dst, toSrc, toDst := be.Uint32(t.Src[12:]), be.Uint32(t.Dst[12:]), be.Uint32(to.Src[12:]), be.Uint32(to.Dst[12:]); src != toSrc || dst != toDst {
		change = 0xffff + uint64(^src) + uint64(toSrc) + uint64(^dst) + uint64(toDst)
		ip := p.Mem[p.L3:p.L4]
		be.PutUint64(ip[12:], uint64(toSrc)<<32|uint64(toDst))
		be.PutUint16(ip[10:], ^fold(uint64(^be.Uint16(ip[10:]))+change))
		t.SetAddrs(to)
	}
	h := p.Mem[p.L4:p.End]
	sum := h[6:]
	if t.Proto == tuple.TCP {
		sum = h[16:]
	}
	if p.Flags&PartialChecksum != 0 && change != 0 { // of the addresses alone
		addPartial(sum, fold(change))
	}
	if t.SrcPort != to.SrcPort || t.DstPort != to.DstPort {
		ports, toPorts := uint32(t.SrcPort)<<16|uint32(t.DstPort), uint32(to.SrcPort)<<16|uint32(to.DstPort)
		change += 0xffff + uint64(^ports) + uint64(toPorts)
		be.PutUint32(h, toPorts)
		t.SetRest(to.SrcPort, to.DstPort, t.Proto, t.Family, t.Zone)
	}
	switch {
	case p.Flags&PartialChecksum != 0 || change == 0:
	case t.Proto == tuple.UDP:
		addUDPSum(sum, fold(change))
	default:
		addSum(sum, fold(change))
	}
}

// Apply is Translate with the Delta at hand: d must be DeltaOf(&p.Tuple, to).
func (d Delta) Apply(p *Packet, to *tuple.Tuple) {
	if d.Addrs != 0 {
		writeAddrs(p, to, d.Addrs)
	}
	if p.Flags&FragmentLater == 0 && d != (Delta{}) {
		d.writeTransport(p, to)
	}
}

func writeAddrs(p *Packet, to *tuple.Tuple, delta uint16) {
	ip := p.Mem[p.L3:p.L4]
	p.Tuple.SetAddrs(to)
	putAddrs(ip, p.Tuple.Family, to)
	if p.Tuple.Family == tuple.IPv4 {
		addSum(ip[10:], delta)
	}
}

// putAddrs writes the addresses of t into the IP header ip of the given family.
func putAddrs(ip []byte, family uint8, t *tuple.Tuple) {
	if family == tuple.IPv4 {
		copy(ip[12:16], t.Src[12:])
		copy(ip[16:20], t.Dst[12:])
		return
	}
	copy(ip[8:24], t.Src[:])
	copy(ip[24:40], t.Dst[:])
}

func (d Delta) writeTransport(p *Packet, to *tuple.Tuple) {
	b := p.Mem[p.L4:p.End]
	both := fold(uint64(d.Addrs) + uint64(d.Ports))
	switch p.Tuple.Proto {
	case tuple.TCP:
		_ = b[17]
		writePorts(p, b, to)
		addTransport(p, b[16:], both, d.Addrs)
	case tuple.UDP:
		_ = b[7]
		writePorts(p, b, to)
		if p.Flags&PartialChecksum != 0 {
			addTransport(p, b[6:], both, d.Addrs)
		} else {
			addUDPSum(b[6:], both)
		}
	case tuple.UDPLite:
		writePorts(p, b, to)
		addUDPSum(b[6:], both)
	case tuple.DCCP:
		writePorts(p, b, to)
		addTransport(p, b[6:], both, d.Addrs)
	case tuple.SCTP:
		if p.Flags&Untranslatable == 0 && d.Ports != 0 {
			writePorts(p, b, to)
			fixSCTP(p)
		}
	case tuple.ICMP:
		if d.Ports != 0 {
			writeID(p, b, to.SrcPort)
			addTransport(p, b[2:], d.Ports, 0)
		}
	case tuple.ICMPv6:
		if d.Ports != 0 {
			writeID(p, b, to.SrcPort)
		}
		addTransport(p, b[2:], both, d.Addrs)
	case tuple.GRE:
		if d.Ports != 0 {
			writeCallID(p, b, to.DstPort)
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

func writePorts(p *Packet, b []byte, to *tuple.Tuple) {
	be.PutUint16(b, to.SrcPort)
	be.PutUint16(b[2:], to.DstPort)
	t := &p.Tuple
	t.SetRest(to.SrcPort, to.DstPort, t.Proto, t.Family, t.Zone)
}

// writeID sets the identifier of an ICMP query; other messages have none.
func writeID(p *Packet, b []byte, id uint16) {
	be.PutUint16(b[4:], id)
	p.Tuple.SrcPort = id
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
