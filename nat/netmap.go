package nat

import (
	"encoding/binary"

	"example.com/culvert/conntrack/tuple"
)

// Fit says how a translation fills the addresses that it may use.
type Fit uint8

const (
	Choose   Fit = iota // one of them, by hash
	KeepBits            // netmap: the bits behind the prefix stay as they are
	Neutral             // the same, and no transport checksum changes (NPTv6, RFC 6296)
)

// netmap returns a with the prefix to in place of its own, and whether there is
// such an address. from is a's prefix, of the same length; only Neutral needs it.
func (f Fit) netmap(a tuple.Addr, from, to *AddrRange) (tuple.Addr, bool) {
	n := a
	for i := range n {
		host := to.First[i] ^ to.Last[i]
		n[i] = to.First[i]&^host | a[i]&host
	}
	if f != Neutral {
		return n, true
	}
	at := adjustAt(&a, to)
	if at < 0 {
		return n, false
	}
	word := binary.BigEndian.Uint16(n[at:])
	if word == 0xffff {
		return n, false // RFC 6296 section 3.4: no subnet has this number
	}
	word = onesAdd(word, onesAdd(prefixSum(from), ^prefixSum(to)))
	if word == 0xffff {
		word = 0 // RFC 6296 section 3.2: the other form of zero
	}
	binary.BigEndian.PutUint16(n[at:], word)
	return n, true
}

// adjustAt returns the position of the word that keeps a's sum the same under a
// new prefix: the subnet number if the prefix has at most 48 bits, else the
// first word of the interface identifier that is not all ones (RFC 6296 sections
// 3.4 and 3.5). It returns -1 when there is none.
func adjustAt(a *tuple.Addr, prefix *AddrRange) int {
	const subnet, identifier = 6, 8
	if prefix.First[subnet]|prefix.First[subnet+1] == 0 && prefix.Last[subnet]&prefix.Last[subnet+1] == 0xff {
		return subnet
	}
	for at := identifier; at < len(a); at += 2 {
		if a[at]&a[at+1] != 0xff {
			return at
		}
	}
	return -1
}

// prefixSum returns the folded sum of the words of a prefix of at most 64 bits.
func prefixSum(r *AddrRange) uint16 {
	s := uint16(0)
	for i := 0; i < 8; i += 2 {
		s = onesAdd(s, binary.BigEndian.Uint16(r.First[i:]))
	}
	return s
}

// onesAdd adds in one's complement.
func onesAdd(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s) + uint16(s>>16)
}
