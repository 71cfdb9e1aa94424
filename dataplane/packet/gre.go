package packet

// Enhanced GRE of PPTP (RFC 2637 section 4.1).
const (
	grePPTPLen  = 8
	grePPP      = 0x880b
	greKeyFlag  = 0x2000
	greVersion  = 7
	greCallIDAt = 6
)

// GRECallID returns the call id in the key of a PPTP data packet: the one chosen
// by the receiver. Parse leaves the ports of GRE tuples at zero, because a
// packet names one of the two call ids only; who knows the other sets them.
func GRECallID(p *Packet) (id uint16, ok bool) {
	b := p.Mem[p.L4:p.End]
	if p.Flags&FragmentLater != 0 || !isPPTP(b) {
		return 0, false
	}
	return be.Uint16(b[greCallIDAt:]), true
}

func isPPTP(b []byte) bool {
	return len(b) >= grePPTPLen && be.Uint16(b)&(greKeyFlag|greVersion) == greKeyFlag|1 && be.Uint16(b[2:]) == grePPP
}

func writeCallID(p *Packet, b []byte, id uint16) {
	if isPPTP(b) {
		be.PutUint16(b[greCallIDAt:], id)
		p.Tuple.DstPort = id
	}
}
