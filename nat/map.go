package nat

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"example.com/culvert/conntrack/tuple"
)

// AnyAddr is a key of a Map that does not look at the address, AnyPort one that
// does not look at the port.
var (
	AnyAddr = AddrRange{Last: tuple.Addr{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	}}
	AnyPort = PortRange{0, 65535}
)

// Entry is what a Map has for some addresses and ports.
type Entry[T any] struct {
	Addrs AddrRange
	Ports PortRange
	To    T
}

// Map finds a translation by address and port: of the source, or of the
// destination. It is immutable.
type Map[T any] struct {
	entries []Entry[T] // by address, then port
}

// NewMap makes a map of entries. The address ranges of two entries must be equal
// or have nothing in common; under equal ones the ports must have nothing in
// common.
func NewMap[T any](entries []Entry[T]) (*Map[T], error) {
	m := &Map[T]{slices.Clone(entries)}
	slices.SortStableFunc(m.entries, func(a, b Entry[T]) int {
		return cmp.Or(compare(&a.Addrs.First, &b.Addrs.First), compare(&a.Addrs.Last, &b.Addrs.Last), cmp.Compare(a.Ports.First, b.Ports.First))
	})
	for i := range m.entries[:max(len(m.entries)-1, 0)] {
		a, b := &m.entries[i], &m.entries[i+1]
		switch {
		case a.Addrs != b.Addrs && a.Addrs.Contains(b.Addrs.First):
			return nil, fmt.Errorf("%v and %v overlap", a.Addrs, b.Addrs)
		case a.Addrs == b.Addrs && a.Ports.Contains(b.Ports.First):
			return nil, fmt.Errorf("ports %v and %v of one address overlap", a.Ports, b.Ports)
		}
	}
	return m, nil
}

// Entries returns all entries by address and port. The caller must not change
// the slice.
func (m *Map[T]) Entries() []Entry[T] { return m.entries }

// Lookup returns what the map has for an address and a port, nil if nothing.
func (m *Map[T]) Lookup(a *tuple.Addr, port uint16) *T {
	above := sort.Search(len(m.entries), func(i int) bool { return compare(&m.entries[i].Addrs.First, a) > 0 })
	if above == 0 || !m.entries[above-1].Addrs.Contains(*a) {
		return nil
	}
	first := &m.entries[above-1].Addrs.First
	group := sort.Search(above, func(i int) bool { return compare(&m.entries[i].Addrs.First, first) >= 0 })
	beyond := group + sort.Search(above-group, func(i int) bool { return m.entries[group+i].Ports.First > port })
	if beyond == group || !m.entries[beyond-1].Ports.Contains(port) {
		return nil
	}
	return &m.entries[beyond-1].To
}
