package packet

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

// writeCallID changes the call id of a PPTP data packet; other GRE has none.
func writeCallID(p *Packet, b []byte, id uint16) {
	if isPPTP(b) {
		be.PutUint16(b[greCallIDAt:], id)
		p.Tuple.DstPort = id
	}
}
