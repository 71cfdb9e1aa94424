package packet

import "example.com/culvert/conntrack/tuple"

// Enhanced GRE of PPTP (RFC 2637 section 4.1).
const (
	grePPTPLen  = 8
	grePPP      = 0x880b
	greKeyFlag  = 0x2000
	greVersion  = 7
	greCallIDAt = 6
)

// isPPTP reports whether b is a PPTP data packet, whose key has the call id that
// the receiver chose.
func isPPTP(b []byte) bool {
	return len(b) >= grePPTPLen && be.Uint16(b)&(greKeyFlag|greVersion) == greKeyFlag|1 && be.Uint16(b[2:]) == grePPP
}

// PPTPCall returns the call id in a parsed packet of PPTP, of the one in an ICMP error
// if p is that. It reports false if p is no such packet.
func PPTPCall(p *Packet) (id uint16, ok bool) {
	b := p.Mem[p.L4:p.End]
	switch {
	case p.Flags&ICMPError != 0 && p.Embedded.Proto == tuple.GRE:
		b = p.Mem[p.EmbL4:p.EmbEnd]
	case p.Tuple.Proto != tuple.GRE || p.Flags&FragmentLater != 0:
		return 0, false
	}
	if !isPPTP(b) {
		return 0, false
	}
	return be.Uint16(b[greCallIDAt:]), true
}

// writeCallID changes the call id of a PPTP data packet; other GRE has none.
func writeCallID(p *Packet, b []byte, id uint16) {
	if isPPTP(b) {
		be.PutUint16(b[greCallIDAt:], id)
		p.Tuple.DstPort = id
	}
}
