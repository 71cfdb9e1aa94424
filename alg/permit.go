package alg

import (
	"net/netip"

	"example.com/culvert/conntrack/tuple"
)

// firstHighPort is the first port that is not privileged.
const firstHighPort = 1024

// Permit says whether the payload in hand may announce group: ErrForeign, ErrPort, or
// nil. Nobody may speak for others, and nobody opens a well-known port (RFC 2577
// section 3), unless the rule allows it.
func (c *Context) Permit(sp *Spec, group []Expectation) error {
	for i := range group {
		x := &group[i]
		if int(x.Class) >= len(sp.Classes) || x.To.Addr() != group[0].To.Addr() || x.Way != group[0].Way {
			return ErrForeign
		}
		if err := c.permit(x, sp.Classes[x.Class].Peers); err != nil {
			return err
		}
	}
	return nil
}

func (c *Context) permit(x *Expectation, peers Peers) error {
	o := &c.Options
	here, there := c.Self().Addr(), c.Peer().Addr() // the ends that the flow goes to and comes from
	if x.Way == Outbound {
		here, there = there, here
	}
	to, from := x.To.Addr(), x.From.Addr()
	switch {
	case !to.IsValid() || to.Is4() != here.Is4() || !ofHost(to):
		return ErrForeign
	case to != here && !(x.Way == Inbound && to == c.SelfSeen().Addr()) && !o.Foreign:
		return ErrForeign
	case x.To.Port() == 0, x.To.Port() < firstHighPort && !o.LowPorts && tuple.HasPorts(x.Proto) && !answersTo(c, x):
		return ErrPort
	case !from.IsValid() || from == there && x.FromBits == 0:
		return nil
	case from.Is4() != here.Is4():
		return ErrForeign
	case peers == Anyone, o.Foreign || o.AnyMedia || o.AnySignalling:
		return nil
	case x.FromBits > 0 && netip.PrefixFrom(from, x.FromBits).Contains(here):
		return nil // anybody on its own link
	}
	return ErrForeign
}

// ofHost reports whether a can be the address of a host that others reach.
func ofHost(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && a != limitedBroadcast
}

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// answersTo reports whether x is what the hosts of a link answer to the socket that has
// asked them all: it is open already, and to nobody else.
func answersTo(c *Context, x *Expectation) bool {
	return x.FromBits > 0 && x.To == c.Self() && c.Peer().Port() == x.From.Port()
}

// Real returns where a socket that the payload's sender names really is: a host may
// name its external address as its own.
func (c *Context) Real(ep netip.AddrPort) netip.AddrPort {
	if ep.Addr() == c.SelfSeen().Addr() {
		return netip.AddrPortFrom(c.Self().Addr(), ep.Port())
	}
	return ep
}
