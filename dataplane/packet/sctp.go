package packet

import "example.com/culvert/conntrack/tuple"

// SCTP chunks (RFC 9260 section 3.2).
const (
	sctpChunkLen  = 4   // type, flags, length
	sctpInit      = 1   // INIT; INIT ACK is one more
	sctpInitLen   = 20  // an INIT without parameters
	sctpMaxChunks = 256 // looked at in one packet: a full super-packet of small DATA chunks
)

// SCTPChunk is one chunk of a packet.
type SCTPChunk struct {
	Type, Flags uint8
	InitTag     uint32 // initiate tag, of an INIT or INIT ACK
}

// SCTPTag returns the verification tag of an SCTP packet that is no later fragment.
func SCTPTag(p *Packet) uint32 { return be.Uint32(p.Mem[p.L4+4:]) }

// SCTPChunks calls f for each chunk of an SCTP packet until f returns false. It
// reports whether it came to the end: not when a chunk is shorter than its
// header, or there are too many. The last chunk may claim more than there is, as
// it does in a first fragment: that is for the receiver to judge, and netfilter
// leaves it to him, too.
func SCTPChunks(p *Packet, f func(SCTPChunk) bool) bool {
	if p.Tuple.Proto != tuple.SCTP || p.Flags&FragmentLater != 0 {
		return false
	}
	b := p.Mem[p.L4+sctpMinLen : p.End]
	for range sctpMaxChunks {
		if len(b) == 0 {
			return true
		}
		if len(b) < sctpChunkLen {
			return p.Flags&FragmentFirst != 0
		}
		size := int(be.Uint16(b[2:]))
		c := SCTPChunk{Type: b[0], Flags: b[1]}
		if size < sctpChunkLen {
			return false
		}
		if c.Type == sctpInit || c.Type == sctpInit+1 {
			if size < sctpInitLen || len(b) < 2*sctpChunkLen {
				return false
			}
			c.InitTag = be.Uint32(b[4:])
		}
		if !f(c) {
			return false
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false
}
