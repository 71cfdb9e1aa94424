package nat

import "example.com/culvert/conntrack/tuple"

// Destination says how to translate the destination of a flow. It is immutable
// and safe for concurrent use.
type Destination struct {
	Addrs    []AddrRange // the pool; empty: keep the address (or Redirect)
	Ports    PortRange   // zero: keep the port
	Base     uint16      // with Shift: first port of the range that the rule matches
	Flags    Flags       // Random, Persistent, Shift
	Redirect Target
}

// Target says whose address a Destination means.
type Target uint8

const (
	ToPool  Target = iota // Addrs, or the packet's own if there are none
	ToLocal               // the gateway itself: redirect
)

// Apply returns t with its new destination, and why it has that port. local is
// the address that a redirect goes to, of t's family: the primary address of the
// interface that the packet came in by. Protocols without ports keep their port
// fields; so do ICMP queries.
func (d *Destination) Apply(t tuple.Tuple, local tuple.Addr, rnd uint64) (tuple.Tuple, Choice) {
	old := t.DstPort
	why := AddressOnly
	if tuple.HasPorts(t.Proto) {
		t.DstPort, why = d.port(old, rnd)
	}
	switch {
	case d.Redirect == ToLocal:
		t.Dst = local
	case len(d.Addrs) > 0:
		t.Dst = poolAt(d.Addrs, pick(clientHash(&t, d.Flags), poolSize(d.Addrs)))
	}
	return t, why
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
