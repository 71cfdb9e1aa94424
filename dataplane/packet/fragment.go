package packet

import "example.com/culvert/conntrack/tuple"

// Bits of the IPv4 word of flags and offset (RFC 791 section 3.1).
const (
	dontFragment  = 0x4000
	moreFragments = 0x2000
)

const fragmentLen = 8 // of the IPv6 fragment header

// Fragmenter splits an IPv4 packet that is larger than an MTU and may be
// fragmented (no DontFragment) as RFC 791 section 3.2 describes. A packet that
// is a fragment already is cut into smaller ones. The identification stays the
// sender's (RFC 6864 section 4.2). Use it as Segmenter is used.
//
// A packet of either family that was put together (FragMax) is split again, with
// what the sender chose: identification, DontFragment, and fragments no longer
// than those that came. An IPv6 one carries its fragment header (RFC 8200 section
// 4.5).
type Fragmenter struct {
	p     *Packet
	mtu   int
	start int      // position in p.Mem of the first byte to divide
	at    int      // position in p.Mem of the next one
	later [60]byte // IPv4 header of fragments after the first: only copied options
	size  int      // length of that header
}

// MakeFragmenter starts the fragmentation of p for packets of at most mtu bytes, but
// as many as hold 8 bytes of data: 68 with the longest IPv4 header. It completes a
// partial checksum first. p must not be a GSO frame and must stay as it is until
// the last Next.
func MakeFragmenter(p *Packet, mtu int) Fragmenter {
	CompleteChecksum(p)
	f := Fragmenter{p: p, mtu: mtu, start: p.L4}
	if p.FragMax != 0 {
		f.mtu = min(mtu, p.FragMax)
	}
	if p.Tuple.Family == tuple.IPv4 {
		ip := p.Mem[p.L3:p.L4]
		f.size = copy(f.later[:], ip[:ipv4MinLen])
		f.size += copyOptions(f.later[ipv4MinLen:], ip[ipv4MinLen:])
		f.later[0] = 4<<4 | uint8(f.size/4)
	} else {
		f.start = p.FragAt
	}
	f.at = f.start
	f.mtu = max(f.mtu, f.start-p.L3+8)
	return f
}

// copyOptions copies those of the options o that belong into every fragment and
// returns their length, padded to a multiple of 4.
func copyOptions(dst, o []byte) int {
	const copied = 0x80 // RFC 791 section 3.1
	n := 0
	for len(o) > 0 && o[0] != optEnd {
		size := 1
		if o[0] != optNop {
			if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
				break
			}
			size = int(o[1])
		}
		if o[0]&copied != 0 {
			n += copy(dst[n:], o[:size])
		}
		o = o[size:]
	}
	for ; n%4 != 0; n++ {
		dst[n] = optEnd
	}
	return n
}

// BufferLen returns how large the buffer for Next must be, in bytes.
func (f *Fragmenter) BufferLen() int { return Headroom + f.p.L3 - f.p.Off + f.mtu }

// Next builds the next fragment in buf and describes it in dst. It reports false
// when there are no more.
func (f *Fragmenter) Next(dst *Packet, buf []byte) bool {
	p := f.p
	if f.at >= p.End {
		return false
	}
	header := p.Mem[p.L3:f.start]
	if f.at > f.start && p.Tuple.Family == tuple.IPv4 {
		header = f.later[:f.size]
	}
	end := min(f.at+(f.mtu-len(header))&^7, p.End)
	more := end < p.End || p.Flags&(FragmentFirst|FragmentMore) != 0

	*dst = *p
	dst.rebase(buf)
	n := copy(buf[dst.Off:], p.Mem[p.Off:p.L3])
	dst.FragAt = dst.L3 + copy(buf[dst.Off+n:], header)
	dst.End = dst.FragAt + copy(buf[dst.FragAt:], p.Mem[f.at:end])
	dst.L3Len = dst.End - dst.L3
	dst.FragOff, dst.FragMax = p.FragOff+uint16(f.at-f.start), 0
	dst.L4 = dst.FragAt
	if f.at == f.start {
		dst.L4 += p.L4 - f.start
	}
	dst.describeFragment(p, more)
	if p.Tuple.Family == tuple.IPv4 && len(header) == ipv4MinLen {
		dst.Flags &^= HasOptions
	}
	dst.writeFragment(buf[dst.L3:dst.FragAt], more)
	f.at = end
	return true
}

// writeFragment writes into p's headers ip, up to the fragment's data, what
// differs between fragments.
func (p *Packet) writeFragment(ip []byte, more bool) {
	if p.Tuple.Family == tuple.IPv6 {
		field := p.FragOff
		if more {
			field |= 1
		}
		be.PutUint16(ip[len(ip)-fragmentLen+2:], field)
	} else {
		field := p.FragOff / 8
		if more {
			field |= moreFragments
		}
		if p.Flags&DontFragment != 0 {
			field |= dontFragment
		}
		be.PutUint16(ip[6:], field)
	}
	putLength(ip, p.Tuple.Family, p.L3Len)
}

// describeFragment sets what Parse would of a fragment cut from whole.
func (p *Packet) describeFragment(whole *Packet, more bool) {
	p.Flags &^= FragmentFirst | FragmentLater | FragmentMore
	if p.FragOff == 0 {
		if more {
			p.Flags |= FragmentFirst
			if p.Tuple.Proto == tuple.SCTP {
				p.Flags |= Untranslatable
			}
		}
		p.Payload = p.L4 + whole.Payload - whole.L4
		return
	}
	p.Flags = p.Flags&^(ICMPError|EmbeddedNAT|EmbeddedBadSum) | FragmentLater | Untranslatable
	if more {
		p.Flags |= FragmentMore
	}
	p.Payload = p.L4
	p.TCPFlags = 0
	p.Tuple.SrcPort, p.Tuple.DstPort = 0, 0
}

// Fragmentable reports whether a router may fragment p: IPv4 without DF.
func Fragmentable(p *Packet) bool {
	return p.Tuple.Family == tuple.IPv4 && p.Flags&DontFragment == 0 && p.Segments() == 1
}
