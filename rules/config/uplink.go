package config

import (
	"fmt"
	"net/netip"
	"time"

	"example.com/culvert/rules"
)

// Check says how the router behind an interface is known to work. The zero Check is
// none: it is taken to work.
type Check struct {
	Ping      []netip.Addr     // one of these answers an echo request
	TCP       []netip.AddrPort // or one of these takes a connection
	Neighbour bool             // or a next hop answers ARP or neighbour discovery
	Every     time.Duration    // from one round to the next; an answer may take as long
	DownAfter int              // rounds in a row without an answer
	UpAfter   int              // rounds in a row with one
}

// Enabled reports whether there is anything to check.
func (c *Check) Enabled() bool { return len(c.Ping)+len(c.TCP) > 0 || c.Neighbour }

// defaultCheck is what the keys of a check are when they are left out.
var defaultCheck = Check{Every: time.Second, DownAfter: 3, UpAfter: 2}

// checkKeys describe the key check of [[interface]].
var checkKeys = []key[Check]{
	{"ping", "address or list", "", `["198.51.100.1", "192.0.2.53"]`,
		"The round is good when one of these answers a ping.",
		func(d *decoder, n *node, v *Check) { list(d, n, &v.Ping, parseAddr) }},
	{"tcp", "address:port or list", "", `"198.51.100.1:443"`,
		"The round is good when one of these takes a TCP connection.",
		func(d *decoder, n *node, v *Check) { list(d, n, &v.TCP, parseAddrPort) }},
	{"neighbour", "boolean", "false", "true",
		"The round is good when a next hop of the interface answers ARP or neighbour discovery.",
		func(d *decoder, n *node, v *Check) { d.boolean(n, &v.Neighbour) }},
	{"every", "duration 100ms-1h", "1s", `"500ms"`,
		"Time from one round to the next; an answer must come before the next round.",
		func(d *decoder, n *node, v *Check) { d.interval(n, &v.Every) }},
	{"down_after", "integer 1-100", "3", "5",
		"Rounds in a row without an answer after which the uplink is down.",
		func(d *decoder, n *node, v *Check) { d.integer(n, &v.DownAfter, 1, 100) }},
	{"up_after", "integer 1-100", "2", "10",
		"Rounds in a row with an answer after which it is up again.",
		func(d *decoder, n *node, v *Check) { d.integer(n, &v.UpAfter, 1, 100) }},
}

// check reads how an uplink is checked.
func (d *decoder) check(n *node, v *Check) {
	c := defaultCheck
	before := len(d.errs)
	table(d, n, "check", checkKeys, &c)
	if len(d.errs) > before {
		return
	}
	kinds := 0
	for _, used := range [...]bool{len(c.Ping) > 0, len(c.TCP) > 0, c.Neighbour} {
		if used {
			kinds++
		}
	}
	if kinds != 1 {
		d.errorf(n.at, "has %d of ping, tcp and neighbour: give one of them, such as { ping = \"198.51.100.1\" }", kinds)
		return
	}
	*v = c
}

// interval reads a duration from 100ms to 1h.
func (d *decoder) interval(n *node, v *time.Duration) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	switch t, err := time.ParseDuration(s); {
	case err != nil:
		d.errorf(n.at, "%q is not a duration: write it like %s", s, exampleMark)
	case t < 100*time.Millisecond || t > time.Hour:
		d.errorf(n.at, "%s is out of range: give 100ms to 1h", s)
	default:
		*v = t
	}
}

// parseAddrPort accepts a port of a host.
func parseAddrPort(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return ap, fmt.Errorf("%q is not address:port", s)
	}
	_, err = parseAddr(ap.Addr().String())
	return ap, err
}

// parseVia accepts a router, or the word that stands for the interface's own.
func parseVia(s string) (netip.Addr, error) {
	if s == viaNextHop {
		return netip.Addr{}, nil
	}
	return parseAddr(s)
}

// viaNextHop as the via of a route stands for the default routers of its interface.
const viaNextHop = "next_hop"

// checkUplink checks the keys of an interface that are about the way out by it.
func (d *decoder) checkUplink(n *node, i *Interface) {
	k := n.table["check"]
	if k == nil {
		return
	}
	if i.AddressFrom == Static && len(i.NextHops) == 0 {
		d.errorf(k.key, "check is about the router behind the interface, and %q has none: add next_hop, or delete this key", i.Name)
	}
	if i.Pattern() {
		d.errorf(k.key, "check does not go with the pattern %q: name one interface", i.Name)
	}
	if i.Driver == TUN && i.Check.Neighbour {
		d.errorf(k.at, "check: a TUN device has no neighbours to ask: use ping or tcp")
	}
}

// checkRoute checks what concerns one route.
func (d *decoder) checkRoute(c *Config, n *node, r *Route) {
	if r.From.IsValid() && r.From.Addr().Is4() != r.To.Addr().Is4() {
		d.errorf(n.table["from"].at, "from: %s is of another address family than %s: give sources of the same", r.From, r.To)
	}
	if r.InArea != "" {
		if _, ok := c.Rules.AreaID(r.InArea); !ok {
			d.errorf(n.table["in_area"].at, "in_area: unknown area %q; %s", r.InArea, suggest(r.InArea, areaNames(c)))
		}
	}
	if !r.ByNextHop {
		return
	}
	if r.Interface == "" {
		d.errorf(n.table["via"].at, "via: \"next_hop\" is the router of an interface: name it with interface")
		return
	}
	for j := range c.Interfaces {
		i := &c.Interfaces[j]
		if i.Name == r.Interface && i.AddressFrom == Static && !i.hasHop(r.To.Addr()) {
			d.errorf(n.table["via"].at, "via: %q has no next_hop of the address family of %s: give it one, or name the router here", i.Name, r.To)
		}
	}
}

// hasHop reports whether the interface has a configured router of a's family.
func (i *Interface) hasHop(a netip.Addr) bool {
	for _, hop := range i.NextHops {
		if hop.Is4() == a.Is4() {
			return true
		}
	}
	return false
}

// same reports whether two routes are for the same packets and leave by the same
// way: one of them is of no use.
func (r *Route) same(o *Route) bool {
	return r.To == o.To && r.From == o.From && r.InArea == o.InArea && r.Mark == o.Mark &&
		r.Via == o.Via && r.ByNextHop == o.ByNextHop && r.Interface == o.Interface
}

// mark reads a mark with or without its mask.
func (d *decoder) mark(n *node, v *rules.MarkMatch) {
	s, ok := d.scalarText(n)
	if !ok {
		return
	}
	m, err := parseMark(s)
	if err != nil {
		d.errorf(n.at, "%v", err)
		return
	}
	*v = m
}
