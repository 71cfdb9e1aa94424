package packet

import (
	"iter"

	"example.com/culvert/conntrack/tuple"
)

// Join makes dst the packet that the fragments of list are, in memory of its own,
// parsed, with FragMax set. list must be all of one datagram, each byte once, in
// any order, as Parse and the port left them; dst must be none of them. Headers and
// all that is not in the packet come from the first fragment, the IPv6 fragment
// header stays, saying that there is but one. It is DontFragment if its longest
// fragment is: then the sender looks for the path's MTU.
//
// Faults of Join itself are BadTotalLen for a packet of more than 65535 bytes,
// headers included, and BadFragment for fragments that disagree on congestion:
// where some went unmarked because they could not be (RFC 3168 section 5.3). Join
// allocates the packet's memory.
func Join(dst *Packet, list iter.Seq[*Packet]) Fault {
	var first *Packet
	size, longest, longestDF, ecn := 0, 0, 0, uint8(0)
	for p := range list {
		if p.Flags&FragmentFirst != 0 {
			first = p
		}
		size += p.End - p.FragAt
		longest = max(longest, p.L3Len)
		if p.Flags&DontFragment != 0 {
			longestDF = max(longestDF, p.L3Len)
		}
		ecn |= 1 << (p.TOS & ecnMask)
	}
	head := first.FragAt - first.L3
	if head+size > maxIPPayload {
		return BadTotalLen
	}
	*dst = *first
	dst.rebase(make([]byte, Headroom+first.FragAt-first.Off+size))
	dst.End = len(dst.Mem)
	dst.Offload = Offload{}
	copy(dst.Mem[dst.Off:], first.Mem[first.Off:first.FragAt])
	for p := range list {
		copy(dst.Mem[dst.FragAt+int(p.FragOff):], p.Mem[p.FragAt:p.End])
	}
	if ecn&(1<<ecnCE) != 0 {
		if ecn&1 != 0 {
			return BadFragment
		}
		dst.TOS |= ecnCE
	}
	dst.Flags &^= DontFragment
	if longestDF == longest {
		dst.Flags |= DontFragment
	}
	dst.L3Len, dst.FragOff = head+size, 0
	ip := dst.Mem[dst.L3:dst.FragAt]
	putTOS(ip, dst.Tuple.Family, dst.TOS)
	dst.writeFragment(ip, false)
	f := Parse(dst)
	dst.FragMax = longest
	return f
}

// The congestion bits of a TOS (RFC 3168 section 5).
const (
	ecnMask = 3
	ecnCE   = 3
)

// putTOS writes the TOS or traffic class of IP header ip, whose checksum is not
// kept.
func putTOS(ip []byte, family, tos uint8) {
	if family == tuple.IPv4 {
		ip[1] = tos
		return
	}
	ip[0] = ip[0]&0xf0 | tos>>4
	ip[1] = ip[1]&0x0f | tos<<4
}
