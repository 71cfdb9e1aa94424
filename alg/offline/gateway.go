// Package offline stands in for an engine where a helper runs without one: in tests,
// and over captures. It has no table: of announcements it only keeps a text.
package offline

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Gateway grants announcements as an engine does whose ports are all free.
type Gateway struct {
	Spec   alg.Spec                          // of the helper
	Taken  []uint16                          // external ports that are not free
	Freed  int                               // after so many announcements, those are free again
	Refuse error                             // what every announcement gets; nil: what an engine says
	Mapped map[netip.AddrPort]netip.AddrPort // what SeenAs knows
	Net    netip.Prefix                      // whose broadcast address the flow goes to

	Announced []string      // and withdrawn, in order
	Refused   []string      // with the reason
	Kept      time.Duration // the longest time that the flow was kept for

	granted int // groups
}

var _ alg.Gateway = (*Gateway)(nil)

// announcement is how an expectation is written: class, protocol, from where to
// which address it comes, and where it goes from there.
//
//	data tcp 198.51.100.7:* > 203.0.113.1:40001 = 10.0.0.5:40001
func (g *Gateway) announcement(c *alg.Context, x *alg.Expectation, to netip.AddrPort) string {
	from := x.From
	if !from.Addr().IsValid() {
		addr := c.PeerSelf().Addr()
		if x.Way == alg.Outbound {
			addr = c.Self().Addr()
		}
		from = netip.AddrPortFrom(addr, x.From.Port())
	}
	port := "*"
	if from.Port() != 0 {
		port = fmt.Sprint(from.Port())
	}
	addr := from.Addr().String()
	if x.FromBits != 0 {
		addr += fmt.Sprintf("/%d", x.FromBits)
	}
	text := fmt.Sprintf("%s %s %s:%s > %v", g.Spec.Classes[x.Class].Name, tuple.ProtoName(x.Proto), addr, port, to)
	if real := c.Real(x.To); real != to {
		text += fmt.Sprintf(" = %v", real)
	}
	if x.Permanent {
		text += " permanent"
	}
	if x.Timeout != 0 {
		text += fmt.Sprintf(" for %v", x.Timeout)
	}
	if x.Child != "" {
		text += " helper " + x.Child
	}
	return text
}

// Announce implements alg.Gateway.
func (g *Gateway) Announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	err := g.Refuse
	if err == nil {
		err = c.Permit(&g.Spec, group)
	}
	if err != nil {
		class := "?"
		if int(group[0].Class) < len(g.Spec.Classes) {
			class = g.Spec.Classes[group[0].Class].Name
		}
		g.Refused = append(g.Refused, fmt.Sprintf("%s %v: %v", class, group[0].To, err))
		return netip.AddrPort{}, err
	}
	to, step := group[0].To, uint16(1)
	if group[0].Way == alg.Inbound && c.Self().Addr() != c.SelfSeen().Addr() {
		to = netip.AddrPortFrom(c.SelfSeen().Addr(), to.Port())
		if len(group) > 1 {
			step = 2
		}
		if group[0].Seen != 0 {
			to = netip.AddrPortFrom(to.Addr(), group[0].Seen)
		}
		taken := g.Taken
		if g.Freed > 0 && g.granted >= g.Freed {
			taken = nil
		}
		for slices.ContainsFunc(group, func(x alg.Expectation) bool {
			return slices.Contains(taken, to.Port()+x.To.Port()-group[0].To.Port())
		}) {
			to = netip.AddrPortFrom(to.Addr(), to.Port()+step)
		}
	}
	g.granted++
	for i := range group {
		x := &group[i]
		at := netip.AddrPortFrom(to.Addr(), to.Port()+x.To.Port()-group[0].To.Port())
		g.Announced = append(g.Announced, g.announcement(c, x, at))
	}
	return to, nil
}

// Withdraw implements alg.Gateway.
func (g *Gateway) Withdraw(_ *alg.Context, class uint8, to netip.AddrPort) int {
	text := "withdraw " + g.Spec.Classes[class].Name
	if to.IsValid() {
		text += " " + to.String()
	}
	g.Announced = append(g.Announced, text)
	return 1
}

// Subnet implements alg.Gateway.
func (g *Gateway) Subnet(*alg.Context) netip.Prefix { return g.Net }

// SeenAs implements alg.Gateway.
func (g *Gateway) SeenAs(_ *alg.Context, _ uint8, ep netip.AddrPort) (netip.AddrPort, bool) {
	seen, ok := g.Mapped[ep]
	return seen, ok
}

// Keep implements alg.Gateway.
func (g *Gateway) Keep(_ *alg.Context, d time.Duration) { g.Kept = max(g.Kept, d) }
