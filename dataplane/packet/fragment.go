package packet

import "example.com/culvert/conntrack/tuple"

// Fragmenter splits an IPv4 packet that is larger than an MTU and may be
// fragmented (no DontFragment) as RFC 791 section 3.2 describes. A packet that
// is a fragment already is cut into smaller ones. The identification stays the
// sender's (RFC 6864 section 4.2). Use it as Segmenter is used.
type Fragmenter struct {
	p     *Packet
	mtu   int
	at    int      // position in p.Mem of the next byte of IP payload
	later [60]byte // IP header of fragments after the first: only copied options
	size  int      // length of that header
}

// MakeFragmenter starts the fragmentation of p for packets of at most mtu bytes, not
// less than 68. It completes a partial checksum first. p must not be a GSO frame
// and must stay as it is until the last Next.
func MakeFragmenter(p *Packet, mtu int) Fragmenter {
	CompleteChecksum(p)
	f := Fragmenter{p: p, mtu: max(mtu, 68), at: p.L4}
	ip := p.Mem[p.L3:p.L4]
	f.size = copy(f.later[:], ip[:ipv4MinLen])
	f.size += copyOptions(f.later[ipv4MinLen:], ip[ipv4MinLen:])
	f.later[0] = 4<<4 | uint8(f.size/4)
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
	header := f.later[:f.size]
	if f.at == p.L4 {
		header = p.Mem[p.L3:p.L4]
	}
	end := min(f.at+(f.mtu-len(header))&^7, p.End)
	more := end < p.End || p.Flags&(FragmentFirst|FragmentMore) != 0

	*dst = *p
	dst.rebase(buf)
	n := copy(buf[dst.Off:], p.Mem[p.Off:p.L3])
	dst.L4 = dst.L3 + copy(buf[dst.Off+n:], header)
	dst.End = dst.L4 + copy(buf[dst.L4:], p.Mem[f.at:end])
	dst.L3Len = dst.End - dst.L3
	dst.FragOff, dst.FragAt = p.FragOff+uint16(f.at-p.L4), dst.L4
	dst.describeFragment(p, more)

	ip := buf[dst.L3:dst.L4]
	field := dst.FragOff / 8
	if more {
		field |= 0x2000
	}
	be.PutUint16(ip[2:], uint16(dst.L3Len))
	be.PutUint16(ip[6:], field)
	be.PutUint16(ip[10:], 0)
	be.PutUint16(ip[10:], ^sumWords(ip))
	f.at = end
	return true
}

// describeFragment sets what Parse would of a fragment cut from whole.
func (p *Packet) describeFragment(whole *Packet, more bool) {
	p.Flags &^= FragmentFirst | FragmentLater | FragmentMore
	if p.FragOff == 0 {
		if more {
			p.Flags |= FragmentFirst
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
