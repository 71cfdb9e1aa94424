package packet

// SetLink makes the frame of a parsed packet ready for a port of the given kind:
// it moves p.Off to where the frame begins now (before p.L3 lie at least
// Headroom bytes or the link header it came with), writes the Ethernet header, and
// keeps the offsets of p.Offload right. dst and src are used for LinkEthernet only.
func SetLink(p *Packet, kind Link, dst, src [6]byte) {
	off := p.L3
	if kind == LinkEthernet {
		off -= etherLen
		h := p.Mem[off : off+etherLen]
		copy(h, dst[:])
		copy(h[6:], src[:])
		be.PutUint16(h[12:], p.EtherType)
	}
	grown := p.Off - off
	p.Off, p.Link = off, kind
	if p.Offload.Flags&NeedsCsum != 0 {
		p.Offload.CsumStart = uint16(int(p.Offload.CsumStart) + grown)
	}
	if p.Offload.HdrLen != 0 {
		p.Offload.HdrLen = uint16(int(p.Offload.HdrLen) + grown)
	}
}
