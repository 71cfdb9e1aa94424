package packet

import "example.com/culvert/conntrack/tuple"

// TCP option kinds (RFC 9293 section 3.1, RFC 7323, RFC 2018).
const (
	tcpOptEnd       = 0
	tcpOptNop       = 1
	tcpOptMSS       = 2
	tcpOptWScale    = 3
	tcpOptSACKPerm  = 4
	tcpOptSACK      = 5
	tcpOptTimestamp = 8
)

// SACKBlock is a range of sequence numbers [Left, Right).
type SACKBlock struct{ Left, Right uint32 }

// TCPOpts are the options of one TCP header. An option is present if its
// position in Mem is not zero.
type TCPOpts struct {
	MSSAt         int // position of the value
	MSS           uint16
	WScaleAt      int // position of the value
	WScale        uint8
	SACKPermitted bool
	TimestampAt   int // position of the two values
	TSVal, TSEcr  uint32
	SACKAt        int // position of the first block
	NumSACK       int // 0 to 4
	SACK          [4]SACKBlock
}

// TCPOptions parses the options of TCP packet p into o. It stops at the first
// option that is cut short; unknown options are passed over.
func TCPOptions(p *Packet, o *TCPOpts) {
	*o = TCPOpts{}
	if p.Tuple.Proto != tuple.TCP || p.Flags&FragmentLater != 0 {
		return
	}
	for at := p.L4 + tcpMinLen; at < p.Payload; {
		b := p.Mem[at:p.Payload]
		if b[0] == tcpOptEnd {
			return
		}
		if b[0] == tcpOptNop {
			at++
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return
		}
		size := int(b[1])
		o.take(b[:size], at+2)
		at += size
	}
}

// take reads one option b whose value lies at position at.
func (o *TCPOpts) take(b []byte, at int) {
	switch {
	case b[0] == tcpOptMSS && len(b) == 4:
		o.MSSAt, o.MSS = at, be.Uint16(b[2:])
	case b[0] == tcpOptWScale && len(b) == 3:
		o.WScaleAt, o.WScale = at, b[2]
	case b[0] == tcpOptSACKPerm && len(b) == 2:
		o.SACKPermitted = true
	case b[0] == tcpOptTimestamp && len(b) == 10:
		o.TimestampAt, o.TSVal, o.TSEcr = at, be.Uint32(b[2:]), be.Uint32(b[6:])
	case b[0] == tcpOptSACK && (len(b)-2)%8 == 0:
		o.SACKAt, o.NumSACK = at, min((len(b)-2)/8, len(o.SACK))
		for i := range o.NumSACK {
			o.SACK[i] = SACKBlock{be.Uint32(b[2+8*i:]), be.Uint32(b[6+8*i:])}
		}
	}
}

// ClampMSS lowers the MSS option of a SYN to limit and reports whether it did. A
// SYN without the option is left alone: its sender means 536, or 1220 over IPv6
// (RFC 9293 section 3.7.1).
func ClampMSS(p *Packet, limit uint16) bool {
	if p.TCPFlags&SYN == 0 {
		return false
	}
	var o TCPOpts
	TCPOptions(p, &o)
	if o.MSSAt == 0 || o.MSS <= limit {
		return false
	}
	be.PutUint16(p.Mem[o.MSSAt:], limit)
	delta := fold(wordDelta(o.MSS, limit))
	if (o.MSSAt-p.L4)&1 != 0 {
		delta = delta<<8 | delta>>8 // the value straddles two words: RFC 1071 section 2(B)
	}
	addTransport(p, p.Mem[p.L4+16:p.End], delta, 0)
	return true
}
