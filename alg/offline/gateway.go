// Package offline stands in for an engine where a helper runs without one: in tests,
// and over captures. It has no table: of announcements it only keeps a text.
package offline

import (
	"net/netip"
	"slices"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/report"
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

// Announce implements alg.Gateway.
func (g *Gateway) Announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	err := g.Refuse
	if err == nil {
		err = c.Permit(&g.Spec, group)
	}
	if err != nil {
		g.Refused = append(g.Refused, report.Refusal(&g.Spec, group, err))
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
		g.Announced = append(g.Announced, report.Announcement(&g.Spec, c, x, at))
	}
	return to, nil
}

// Withdraw implements alg.Gateway.
func (g *Gateway) Withdraw(_ *alg.Context, class uint8, to netip.AddrPort) int {
	g.Announced = append(g.Announced, report.Withdrawal(&g.Spec, class, to))
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
