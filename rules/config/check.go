package config

import (
	"net/netip"
	"slices"

	"example.com/culvert/rules"
)

// maxAreas leaves the areas of a configuration one word of bits.
const maxAreas = 64

func (d *decoder) decodeAreas(c *Config) {
	seen := map[string]Pos{}
	d.each("area", func(n *node) {
		if !need(d, n, "[[area]]", areaKeys, "name") {
			return
		}
		a := rules.Area{}
		name, _ := n.table["name"].value.(string) // table reports what is wrong with it
		id, exists := c.Rules.AreaID(name)
		if exists {
			a = c.Rules.Areas[id]
		}
		if table(d, n, "[[area]]", areaKeys, &a); a.Name == "" {
			return
		}
		at := n.table["name"].at
		switch first, again := seen[a.Name]; {
		case again:
			d.errorf(at, "area %q is declared twice, first in line %d: merge the two", a.Name, first.Line)
		case exists && id == rules.AreaHost && a != c.Rules.Areas[id]:
			d.errorf(at, "area \"host\" is the gateway itself and always inside with its own services: delete this table")
		case exists:
			c.Rules.Areas[id] = a
		case len(c.Rules.Areas) == maxAreas:
			d.errorf(at, "there are more than %d areas: put interfaces that rules treat alike into one", maxAreas)
		default:
			c.Rules.Areas = append(c.Rules.Areas, a)
		}
		seen[a.Name] = at
	})
}

func (d *decoder) decodeInterfaces(c *Config) {
	var nodes []*node
	d.each("interface", func(n *node) {
		if !need(d, n, "[[interface]]", interfaceKeys, "name", "area") {
			return
		}
		i := Interface{Source: d.location(n.key)}
		before := len(d.errs)
		table(d, n, "[[interface]]", interfaceKeys, &i)
		if len(d.errs) > before {
			return // its parts are wrong: no use to relate them
		}
		d.checkInterface(c, n, &i)
		c.Interfaces = append(c.Interfaces, i)
		nodes = append(nodes, n)
	})
	if d.root.table["interface"] == nil {
		d.errorf(Pos{1, 1}, "there is no [[interface]]: the gateway needs at least one, such as name = \"eth1\" with area = \"lan\"")
	}
	for i := range c.Interfaces {
		d.checkAgainst(c, i, nodes)
	}
	for i := range c.Interfaces {
		d.checkParent(c, i, nodes[i])
	}
}

// checkInterface checks what concerns one interface.
func (d *decoder) checkInterface(c *Config, n *node, i *Interface) {
	if _, ok := c.Rules.AreaID(i.Area); !ok {
		d.errorf(n.table["area"].at, "area: unknown area %q; %s, or declare it with [[area]]", i.Area, trimQuestion(suggest(i.Area, areaNames(c))))
	} else if i.Area == "host" {
		d.errorf(n.table["area"].at, "area: \"host\" is the gateway itself: put the interface into lan, wan, guest or an area of your own")
	}
	if i.Driver == TUN {
		d.checkTUN(n, i)
	} else {
		for _, name := range [...]string{"offload", "peer_addresses", "peer_routes"} {
			if k := n.table[name]; k != nil {
				d.errorf(k.key, "%s is for driver = \"tun\" only: delete it or set the driver", name)
			}
		}
	}
	if k := n.table["slots"]; k != nil && (i.Driver == TUN || i.Parent != "") {
		d.errorf(k.key, "slots is for Ethernet interfaces only: a TUN device and a VLAN sub-interface have no ring of their own: delete it")
	}
	if (n.table["parent"] == nil) != (n.table["vlan"] == nil) {
		d.errorf(n.key, "interface %q has one of parent and vlan: give both for a VLAN sub-interface, else none", i.Name)
	}
	if i.Pattern() {
		for _, name := range [...]string{"parent", "next_hop"} {
			if k := n.table[name]; k != nil {
				d.errorf(k.key, "%s does not go with the pattern %q: name one interface", name, i.Name)
			}
		}
		if i.AddressFrom == Static {
			d.errorf(n.table["addresses"].at, "addresses: a pattern cannot give several interfaces one address: use addresses = \"kernel\", or name one interface")
		}
	}
	for a := range i.Addresses {
		for b := range a {
			if i.Addresses[a].Addr() == i.Addresses[b].Addr() {
				d.errorf(n.table["addresses"].item(a), "addresses: %s is listed twice: delete one", i.Addresses[a].Addr())
			}
		}
	}
	d.checkNextHops(n, i)
	d.checkUplink(n, i)
}

func (d *decoder) checkTUN(n *node, i *Interface) {
	if n.table["addresses"] == nil || i.AddressFrom == FromKernel {
		d.errorf(n.key, "interface %q is a TUN device, which has no addresses before the gateway makes it: add addresses = [\"10.0.0.1/24\"]", i.Name)
	}
	if k := n.table["parent"]; k != nil {
		d.errorf(k.key, "parent: TUN devices carry no VLAN tags: delete parent and vlan")
	}
	if i.Pattern() {
		d.errorf(n.table["name"].at, "name: the gateway makes TUN devices one by one: name each without *")
	}
	for j, p := range i.PeerAddresses {
		for _, own := range i.Addresses {
			if p.Addr() == own.Addr() {
				d.errorf(n.table["peer_addresses"].item(j), "peer_addresses: %s is the gateway's own address on this device: give the peer another one", p.Addr())
			}
		}
	}
}

// checkNextHops wants at most one router of each family, and static ones on link.
func (d *decoder) checkNextHops(n *node, i *Interface) {
	k := n.table["next_hop"]
	for j, hop := range i.NextHops {
		for _, other := range i.NextHops[:j] {
			if other.Is4() == hop.Is4() {
				d.errorf(k.item(j), "next_hop: %s and %s are of one address family: give one of each", other, hop)
			}
		}
		for _, own := range i.Addresses {
			if own.Addr() == hop {
				d.errorf(k.item(j), "next_hop: %s is the gateway's own address: give the router's", hop)
			}
		}
		if i.AddressFrom == Static && i.Driver != TUN && !hop.IsLinkLocalUnicast() && !onLink(i, hop) {
			d.errorf(k.item(j), "next_hop: %s is in no network of this interface: correct it, or the prefix lengths in addresses", hop)
		}
	}
}

func onLink(i *Interface, a netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// checkAgainst compares interface i with those before it.
func (d *decoder) checkAgainst(c *Config, i int, nodes []*node) {
	a, n := &c.Interfaces[i], nodes[i]
	for j := range i {
		b := &c.Interfaces[j]
		line := nodes[j].key.Line
		switch {
		case a.Name == b.Name && a.Netns == b.Netns:
			d.errorf(n.table["name"].at, "name: interface %q is declared twice, first in line %d: merge the two", a.Name, line)
			continue
		case a.Name == b.Name:
			d.errorf(n.table["name"].at, "name: two interfaces are called %q, the other in line %d: rules could not tell them apart; rename one", a.Name, line)
			continue
		case a.Pattern() && b.Pattern() && (rules.MatchName(a.Name, stem(b)) || rules.MatchName(b.Name, stem(a))):
			d.errorf(n.table["name"].at, "name: the pattern %q overlaps %q in line %d: make each interface match one of them", a.Name, b.Name, line)
		case a.Parent != "" && a.Parent == b.Parent && a.VLAN == b.VLAN:
			d.errorf(n.table["vlan"].at, "vlan: tag %d of %s belongs to %q in line %d already: choose another", a.VLAN, a.Parent, b.Name, line)
		}
		for k, p := range a.Addresses {
			at := n.table["addresses"].item(k)
			for _, q := range b.Addresses {
				switch {
				case p.Addr() == q.Addr():
					d.errorf(at, "addresses: %s is an address of %q in line %d already: give each interface its own", p.Addr(), b.Name, line)
				case p.Masked() == q.Masked() && !p.Addr().IsLinkLocalUnicast():
					d.errorf(at, "addresses: %s is the network of %q in line %d already: hosts of one network must be behind one interface", p.Masked(), b.Name, line)
				}
			}
		}
	}
}

// stem is the fixed part of a pattern.
func stem(i *Interface) string { return i.Name[:len(i.Name)-1] }

func (d *decoder) checkParent(c *Config, i int, n *node) {
	child := &c.Interfaces[i]
	if child.Parent == "" || n.table["vlan"] == nil {
		return
	}
	at := n.table["parent"].at
	for j := range c.Interfaces {
		parent := &c.Interfaces[j]
		if parent.Name != child.Parent {
			continue
		}
		switch {
		case parent.Parent != "":
			d.errorf(at, "parent: %q is a VLAN sub-interface itself: name the interface that carries the tags", child.Parent)
		case parent.Driver == TUN:
			d.errorf(at, "parent: %q is a TUN device, which carries no tags: name an Ethernet interface", child.Parent)
		case n.table["netns"] != nil && parent.Netns != child.Netns:
			d.errorf(n.table["netns"].at, "netns: the parent %q is in another namespace: delete this key", child.Parent)
		default:
			child.Netns = parent.Netns
		}
		return
	}
	d.errorf(at, "parent: %q is not declared: add an [[interface]] with that name", child.Parent)
}

func (d *decoder) decodeRoutes(c *Config) {
	var seen []Pos
	d.each("route", func(n *node) {
		if !need(d, n, "[[route]]", routeKeys, "to") {
			return
		}
		r := Route{Source: d.location(n.key)}
		before := len(d.errs)
		table(d, n, "[[route]]", routeKeys, &r)
		if len(d.errs) > before {
			return
		}
		again := slices.IndexFunc(c.Routes, func(o Route) bool { return r.same(&o) })
		switch {
		case again >= 0:
			d.errorf(n.table["to"].at, "to: the route to %s in line %d is for the same packets and goes the same way: keep one", r.To, seen[again].Line)
		case !r.Via.IsValid() && !r.ByNextHop && r.Interface == "":
			d.errorf(n.key, "route to %s has neither via nor interface: give the next router, or the interface that the hosts are behind", r.To)
		case r.Via.IsValid() && r.Via.Is4() != r.To.Addr().Is4():
			d.errorf(n.table["via"].at, "via: %s is of another address family than %s: give a router of the same", r.Via, r.To)
		case r.Interface != "":
			d.checkRouteInterface(c, n, &r)
		case r.Via.IsValid() && !slices.ContainsFunc(c.Interfaces, func(i Interface) bool { return i.AddressFrom == FromKernel || onLink(&i, r.Via) }):
			d.errorf(n.table["via"].at, "via: %s is in no network of an interface: correct it, or name the interface", r.Via)
		}
		d.checkRoute(c, n, &r)
		seen = append(seen, n.table["to"].at)
		c.Routes = append(c.Routes, r)
	})
}

func (d *decoder) checkRouteInterface(c *Config, n *node, r *Route) {
	if !knownInterface(c, r.Interface) {
		d.errorf(n.table["interface"].at, "interface: %q is not declared; %s", r.Interface, suggest(r.Interface, interfaceNames(c)))
	}
}

// knownInterface reports whether name, perhaps a pattern, can be an interface of c.
func knownInterface(c *Config, name string) bool {
	return slices.ContainsFunc(c.Interfaces, func(i Interface) bool {
		return i.Name == name || rules.MatchName(i.Name, name) || rules.MatchName(name, i.Name)
	})
}

func interfaceNames(c *Config) []string {
	names := make([]string, len(c.Interfaces))
	for i := range names {
		names[i] = c.Interfaces[i].Name
	}
	return names
}

func areaNames(c *Config) []string {
	names := make([]string, len(c.Rules.Areas))
	for i := range names {
		names[i] = c.Rules.Areas[i].Name
	}
	return names
}

// trimQuestion lets a suggestion stand inside a sentence.
func trimQuestion(s string) string {
	if n := len(s); n > 0 && s[n-1] == '?' {
		return s[:n-1]
	}
	return s
}
