package nat

import (
	"cmp"
	"slices"

	"example.com/culvert/conntrack/tuple"
)

// Destination says how to translate the destination of a flow. It is immutable
// and safe for concurrent use.
type Destination struct {
	Addrs    []AddrRange // the pool; empty: keep the address (or Redirect, Balance, Map)
	Ports    PortRange   // zero: keep the port
	Base     uint16      // with Shift: first port of the range that the rule matches
	Flags    Flags       // Random, Persistent, Shift
	Redirect Target
	Fit      Fit       // of Addrs; other than Choose, they are one prefix
	From     AddrRange // the prefix that the rule matches, for Neutral
	Balance  *Balance  // the backends that take the place of Addrs and Ports

	Map *Map[Destination] // what to do instead, by the packet's destination; see For
}

// Target says whose address a Destination means.
type Target uint8

const (
	ToPool  Target = iota // Addrs, or the packet's own if there are none
	ToLocal               // the gateway itself: redirect
)

// For returns what d means for a flow with tuple t: itself, or what its map has
// for t's destination. It returns nil when the map has nothing.
func (d *Destination) For(t *tuple.Tuple) *Destination {
	if d.Map == nil {
		return d
	}
	return d.Map.Lookup(&t.Dst, t.DstPort)
}

// Targets returns all addresses that flows may be translated to.
func (d *Destination) Targets() []AddrRange {
	all := slices.Clone(d.Addrs)
	if d.Balance != nil {
		for _, b := range d.Balance.Backends {
			all = append(all, AddrRange{b.Addr, b.Addr})
		}
	}
	if d.Map != nil {
		for i := range d.Map.entries {
			all = append(all, d.Map.entries[i].To.Targets()...)
		}
	}
	return all
}

// Apply returns t with its new destination, and why it has that port: None when
// there is no such destination, which only prefix translation (Neutral) knows.
// local is the address that a redirect goes to, of t's family: the primary address
// of the interface that the packet came in by. turn is how many flows met d before.
// Protocols without ports keep their port fields; so do ICMP queries. d must have
// no Map: see For.
func (d *Destination) Apply(t tuple.Tuple, local tuple.Addr, rnd, turn uint64) (tuple.Tuple, Choice) {
	if d.Balance != nil {
		return d.balance(t, turn)
	}
	old := t.DstPort
	why := AddressOnly
	if tuple.HasPorts(t.Proto) {
		t.DstPort, why = d.port(old, rnd)
	}
	switch {
	case d.Redirect == ToLocal:
		t.Dst = local
	case d.Fit != Choose:
		var ok bool
		if t.Dst, ok = d.Fit.netmap(t.Dst, &d.From, &d.Addrs[0]); !ok {
			return t, None
		}
	case len(d.Addrs) > 0:
		t.Dst = poolAt(d.Addrs, pick(clientHash(&t, d.Flags), poolSize(d.Addrs)))
	}
	return t, why
}

// Allows reports whether d may have given this destination to a flow that came with
// tuple t; see Apply.
func (d *Destination) Allows(t *tuple.Tuple, a tuple.Addr, port uint16, local tuple.Addr) bool {
	if d.Balance != nil {
		return slices.ContainsFunc(d.Balance.Backends, func(b Backend) bool {
			return a == b.Addr && (!tuple.HasPorts(t.Proto) || port == cmp.Or(b.Port, t.DstPort))
		})
	}
	return d.allowsPort(t, port) && d.allowsAddr(t, a, local)
}

func (d *Destination) allowsPort(t *tuple.Tuple, port uint16) bool {
	switch {
	case !tuple.HasPorts(t.Proto):
		return true
	case d.Flags&(Random|FullyRandom) != 0 && !d.Ports.IsZero():
		return d.Ports.Contains(port)
	}
	want, _ := d.port(t.DstPort, 0)
	return port == want
}

func (d *Destination) allowsAddr(t *tuple.Tuple, a, local tuple.Addr) bool {
	switch {
	case d.Redirect == ToLocal:
		return a == local
	case d.Fit != Choose:
		want, ok := d.Fit.netmap(t.Dst, &d.From, &d.Addrs[0])
		return ok && a == want
	case len(d.Addrs) > 0:
		return poolHas(d.Addrs, a)
	}
	return a == t.Dst
}

func (d *Destination) balance(t tuple.Tuple, turn uint64) (tuple.Tuple, Choice) {
	b := d.Balance.pick(&t, turn)
	t.Dst = b.Addr
	switch {
	case !tuple.HasPorts(t.Proto):
		return t, AddressOnly
	case b.Port == 0:
		return t, Preserved
	}
	t.DstPort = b.Port
	return t, Fixed
}

func (d *Destination) port(old uint16, rnd uint64) (uint16, Choice) {
	switch r := d.Ports; {
	case r.IsZero():
		return old, Preserved
	case d.Flags&Shift != 0:
		return r.First + (old - d.Base), Shifted
	case r.First == r.Last:
		return r.First, Fixed
	case d.Flags&(Random|FullyRandom) != 0:
		return r.First + uint16(pick(mix(rnd), uint64(r.Size()))), RandomPort
	case r.Contains(old):
		return old, Preserved
	default:
		return r.First, Fixed
	}
}
