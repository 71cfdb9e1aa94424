package rules

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sort"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// SetKind says what a Set holds.
type SetKind uint8

const (
	SetAddrs SetKind = iota
	SetPorts
	SetInterfaces
	numSetKinds
)

var setKindNames = [...]string{SetAddrs: "addresses", SetPorts: "ports", SetInterfaces: "interfaces"}

var _ [numSetKinds]string = setKindNames

// String returns the name of k as configuration files spell it.
func (k SetKind) String() string { return setKindNames[k] }

// Set is a list of values with a name, for any number of rules. What it holds is
// no part of the rules' identity: a rule stays the same when its sets change.
type Set struct {
	Name  string
	Kind  SetKind
	Addrs *AddrSet        // of SetAddrs
	Ports []nat.PortRange // of SetPorts
	Names []string        // of SetInterfaces; a trailing * matches any rest
}

// Len returns how many elements s has; what overlapped counts once.
func (s *Set) Len() int {
	if s.Kind == SetAddrs {
		return s.Addrs.Len()
	}
	return len(s.Ports) + len(s.Names)
}

// AddrSet is an immutable set of addresses: sorted, disjoint ranges, 8 bytes for
// one of IPv4 and 32 for one of IPv6.
//
// A search among many IPv4 ranges starts from an index by the upper 16 bits of
// the address: with a million of them that is one miss of the cache and a few
// steps, where a plain binary search takes twenty.
type AddrSet struct {
	v4    []range4
	v6    []range6
	first []uint32 // by the upper 16 bits: the first of v4 that ends there or later; nil: v4 is short
}

type range4 struct{ first, last uint32 }

type range6 struct{ first, last [2]uint64 }

// indexed is from how many IPv4 ranges on the index pays its 256 KiB.
const indexed = 4096

// NewAddrSet returns the union of ranges.
func NewAddrSet(ranges []nat.AddrRange) *AddrSet {
	s := &AddrSet{}
	for i := range ranges {
		r := &ranges[i]
		if r.First.Is4() {
			s.v4 = append(s.v4, range4{low32(&r.First), low32(&r.Last)})
			continue
		}
		var r6 range6
		r6.first[0], r6.first[1] = halves(&r.First)
		r6.last[0], r6.last[1] = halves(&r.Last)
		s.v6 = append(s.v6, r6)
	}
	slices.SortFunc(s.v4, func(a, b range4) int { return cmp.Compare(a.first, b.first) })
	slices.SortFunc(s.v6, func(a, b range6) int { return compare128(a.first, b.first) })
	s.v4 = slices.Clip(merged(s.v4, func(a *range4, b range4) bool {
		if a.last != ^uint32(0) && b.first > a.last+1 {
			return false
		}
		a.last = max(a.last, b.last)
		return true
	}))
	s.v6 = slices.Clip(merged(s.v6, func(a *range6, b range6) bool {
		if compare128(b.first, after128(a.last)) > 0 && a.last != [2]uint64{^uint64(0), ^uint64(0)} {
			return false
		}
		if compare128(b.last, a.last) > 0 {
			a.last = b.last
		}
		return true
	}))
	s.index()
	return s
}

// merged joins neighbours of a sorted list where join can.
func merged[R any](sorted []R, join func(a *R, b R) bool) []R {
	n := 0
	for _, r := range sorted {
		if n > 0 && join(&sorted[n-1], r) {
			continue
		}
		sorted[n] = r
		n++
	}
	return sorted[:n]
}

func (s *AddrSet) index() {
	if len(s.v4) < indexed {
		return
	}
	s.first = make([]uint32, 1<<16+1)
	at := 0
	for upper := range uint32(1 << 16) {
		for at < len(s.v4) && s.v4[at].last < upper<<16 {
			at++
		}
		s.first[upper] = uint32(at)
	}
	s.first[1<<16] = uint32(len(s.v4))
}

// Len returns how many ranges s has.
func (s *AddrSet) Len() int { return len(s.v4) + len(s.v6) }

// Ranges calls f for each range, in order, IPv4 first, until it returns false.
func (s *AddrSet) Ranges(f func(nat.AddrRange) bool) {
	for _, r := range s.v4 {
		var first, last [4]byte
		binary.BigEndian.PutUint32(first[:], r.first)
		binary.BigEndian.PutUint32(last[:], r.last)
		if !f(nat.AddrRange{First: tuple.AddrFrom4(first), Last: tuple.AddrFrom4(last)}) {
			return
		}
	}
	for _, r := range s.v6 {
		if !f(nat.AddrRange{First: joined(r.first), Last: joined(r.last)}) {
			return
		}
	}
}

// Has reports whether a is in s.
func (s *AddrSet) Has(a *tuple.Addr) bool {
	if a.Is4() {
		return s.has4(low32(a))
	}
	var v [2]uint64
	v[0], v[1] = halves(a)
	i := sort.Search(len(s.v6), func(i int) bool { return compare128(s.v6[i].last, v) >= 0 })
	return i < len(s.v6) && compare128(s.v6[i].first, v) <= 0
}

func (s *AddrSet) has4(v uint32) bool {
	low, high := 0, len(s.v4)
	if s.first != nil {
		low, high = int(s.first[v>>16]), min(int(s.first[v>>16+1])+1, len(s.v4))
	}
	for low < high {
		if mid := int(uint(low+high) >> 1); s.v4[mid].last < v {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(s.v4) && s.v4[low].first <= v && v <= s.v4[low].last
}

func low32(a *tuple.Addr) uint32 { return binary.BigEndian.Uint32(a[12:]) }

func joined(v [2]uint64) (a tuple.Addr) {
	binary.BigEndian.PutUint64(a[:8], v[0])
	binary.BigEndian.PutUint64(a[8:], v[1])
	return a
}

func compare128(a, b [2]uint64) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
}

// after128 returns v+1, which wraps.
func after128(v [2]uint64) [2]uint64 {
	v[1]++
	if v[1] == 0 {
		v[0]++
	}
	return v
}
