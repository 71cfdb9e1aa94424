package nat

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"example.com/culvert/conntrack/tuple"
)

// AddrRange is an inclusive range of addresses of one family.
type AddrRange struct {
	First, Last tuple.Addr
}

// Contains reports whether a lies in r.
func (r *AddrRange) Contains(a tuple.Addr) bool {
	return compare(&r.First, &a) <= 0 && compare(&a, &r.Last) <= 0
}

// Size returns the number of addresses in r, at most 1<<32.
func (r *AddrRange) Size() uint64 {
	hi, lo := halves(&r.Last)
	fhi, flo := halves(&r.First)
	lo, borrow := bits.Sub64(lo, flo, 0)
	hi, _ = bits.Sub64(hi, fhi, borrow)
	if hi != 0 || lo >= 1<<32 {
		return 1 << 32
	}
	return lo + 1
}

// at returns the address n after the first.
func (r *AddrRange) at(n uint64) tuple.Addr {
	hi, lo := halves(&r.First)
	lo, carry := bits.Add64(lo, n, 0)
	var a tuple.Addr
	binary.BigEndian.PutUint64(a[:8], hi+carry)
	binary.BigEndian.PutUint64(a[8:], lo)
	return a
}

func (r AddrRange) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// PortRange is an inclusive range of ports or ICMP identifiers. The zero value
// means that the rule names none.
type PortRange struct {
	First, Last uint16
}

// IsZero reports whether r names no ports.
func (r PortRange) IsZero() bool { return r == PortRange{} }

// Contains reports whether port lies in r.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Size returns how many ports r has, 1 to 65536.
func (r PortRange) Size() int { return int(r.Last) - int(r.First) + 1 }

func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Flags modify a translation.
type Flags uint8

const (
	Random      Flags = 1 << iota // do not try to keep the port
	FullyRandom                   // the same: netfilter no longer tells them apart
	Persistent                    // choose from a pool by the client alone, not by its destination
	Shift                         // Destination: new port = Ports.First + (old port - Base)
	RFC                           // Source: classes and parity of profile rfc
	Paired                        // Source: as Persistent, because the profile says so (RFC 4787 REQ-2)
	Arbitrary                     // Source: choose from a pool at random
)

// Choice says why a translation came out as it did. Users see its name.
type Choice uint8

const (
	None        Choice = iota // not translated
	Preserved                 // the port is the packet's own
	Class                     // moved within its class
	Parity                    // moved within its class, and even stayed even (or odd odd)
	RandomPort                // any port that the rule allows
	Reused                    // the mapping that this source already has
	Fixed                     // the one port that the rule names
	Shifted                   // by the distance between two ranges
	AddressOnly               // the protocol has no ports
	Commanded                 // a command has inserted the flow
	numChoices
)

var choiceNames = [...]string{
	None: "none", Preserved: "preserved", Class: "class", Parity: "parity", RandomPort: "random",
	Reused: "reused", Fixed: "fixed", Shifted: "shifted", AddressOnly: "address-only",
	Commanded: "commanded",
}

var _ [numChoices]string = choiceNames

// String returns the name of c as the flow list and explain print it.
func (c Choice) String() string {
	if c >= numChoices {
		return fmt.Sprintf("choice(%d)", uint8(c))
	}
	return choiceNames[c]
}

func halves(a *tuple.Addr) (hi, lo uint64) {
	return binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
}

func compare(a, b *tuple.Addr) int {
	ahi, alo := halves(a)
	bhi, blo := halves(b)
	switch {
	case ahi < bhi || ahi == bhi && alo < blo:
		return -1
	case ahi == bhi && alo == blo:
		return 0
	}
	return 1
}

// mix is the finaliser of splitmix64: every bit of x moves every bit of the result.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// clientHash is what an address is chosen from a pool by.
func clientHash(t *tuple.Tuple, f Flags) uint64 {
	hi, lo := halves(&t.Src)
	h := mix(mix(hi+0x9e3779b97f4a7c15)^lo) + uint64(t.Zone)
	if f&(Persistent|Paired) == 0 {
		hi, lo = halves(&t.Dst)
		h = mix(mix(h^hi) ^ lo)
	}
	return mix(h)
}

// poolSize returns how many addresses ranges have, at most 1<<40.
func poolSize(ranges []AddrRange) uint64 {
	n := uint64(0)
	for i := range ranges {
		n = min(n+ranges[i].Size(), 1<<40)
	}
	return n
}

// poolHas reports whether a is in a pool.
func poolHas(ranges []AddrRange, a tuple.Addr) bool {
	return slices.ContainsFunc(ranges, func(r AddrRange) bool { return r.Contains(a) })
}

// poolAt returns address n of ranges, 0 <= n < poolSize(ranges).
func poolAt(ranges []AddrRange, n uint64) tuple.Addr {
	for i := range ranges {
		size := ranges[i].Size()
		if n < size {
			return ranges[i].at(n)
		}
		n -= size
	}
	return ranges[0].First
}

// pick maps 64 random bits to 0 <= result < n.
func pick(rnd, n uint64) uint64 {
	hi, _ := bits.Mul64(rnd, n)
	return hi
}
