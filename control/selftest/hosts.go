package selftest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.com/culvert/nat/discover"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// inMemory returns interfaces as they can be in memory, and what was invented for them.
func inMemory(c *config.Config) (plain []config.Interface, invented []string) {
	for i, itf := range c.Interfaces {
		itf.Name = strings.Replace(itf.Name, "*", "0", 1)
		itf.Driver, itf.Netns, itf.Parent, itf.VLAN = config.AFPacket, "", "", 0
		if itf.AddressFrom != config.Static && len(itf.Addresses) == 0 {
			itf.Addresses = inventedFor(i)
			if len(itf.NextHops) == 0 && sideOf(c, &itf) == discover.Outside {
				for _, p := range itf.Addresses {
					itf.NextHops = append(itf.NextHops, p.Addr().Next())
				}
			}
			invented = append(invented, fmt.Sprintf("%s %v", itf.Name, itf.Addresses))
		}
		itf.AddressFrom = config.Static
		plain = append(plain, itf)
	}
	return plain, invented
}

// inventedFor returns addresses for interface i: of the benchmarking range (RFC 2544), which no network has.
func inventedFor(i int) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i), 1}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x00, 0x02, 0, 0, 0, byte(i), 15: 1}), 64),
	}
}

// sideOf returns the side that an interface is on.
func sideOf(c *config.Config, i *config.Interface) discover.Side {
	if id, ok := c.Rules.AreaID(i.Area); ok && c.Rules.Areas[id].Side == rules.Outside {
		return discover.Outside
	}
	return discover.Inside
}

var sideNames = map[discover.Side]string{discover.Inside: "inside", discover.Outside: "outside"}

// choose returns the interface with a name, or the first of a side.
func choose(c *config.Config, name string, side discover.Side) (*config.Interface, error) {
	var names []string
	for i := range c.Interfaces {
		switch itf := &c.Interfaces[i]; {
		case itf.Name == name, name == "" && sideOf(c, itf) == side:
			return itf, nil
		default:
			names = append(names, itf.Name)
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%w: none of %s is in an area that is %s", ErrNoPair, strings.Join(names, ", "), sideNames[side])
	}
	return nil, fmt.Errorf("%w: there is no interface %q among %s", ErrNoPair, name, strings.Join(names, ", "))
}

// documentation are addresses for outside hosts behind a router: RFC 5737's, and
// those of RFC 2544 for who is in one of them.
var documentation = [...][]netip.Prefix{
	ipv4: {netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.19.1.0/24"), netip.MustParsePrefix("198.19.2.0/24")},
	ipv6: {netip.MustParsePrefix("2001:db8:a::/64"), netip.MustParsePrefix("2001:db8:b::/64"), netip.MustParsePrefix("2001:db8:c::/64")},
}

// hostsFor chooses addresses of a family for the hosts, nil when one of the interfaces has none.
func hostsFor(c *config.Config, in, out *config.Interface, f family) (*discover.Hosts, error) {
	inPrefix, ok1 := prefixOf(in, f)
	outPrefix, ok2 := prefixOf(out, f)
	if !ok1 || !ok2 {
		return nil, nil
	}
	var h discover.Hosts
	if h.Inside = free(c, inPrefix, discover.MinInside); len(h.Inside) < discover.MinInside {
		return nil, fmt.Errorf("%w: %s of interface %s", ErrRoom, inPrefix, in.Name)
	}
	if !slices.ContainsFunc(out.NextHops, f.has) {
		if h.Outside = free(c, outPrefix, discover.MinOutside); len(h.Outside) < discover.MinOutside {
			return nil, fmt.Errorf("%w: %s of interface %s, which has no next_hop", ErrRoom, outPrefix, out.Name)
		}
		return &h, nil
	}
	// Two hosts in each of two networks that the gateway is not in itself.
	for _, p := range documentation[f] {
		taken := slices.ContainsFunc(c.Interfaces, func(i config.Interface) bool { return slices.ContainsFunc(i.Addresses, p.Overlaps) })
		if !taken && len(h.Outside) < discover.MinOutside {
			h.Outside = append(h.Outside, free(c, p, 2)...)
		}
	}
	if len(h.Outside) < discover.MinOutside {
		return nil, fmt.Errorf("%w: the gateway's interfaces are in too many prefixes of documentation", ErrRoom)
	}
	h.Outside[1], h.Outside[2] = h.Outside[2], h.Outside[1] // the two servers are in different networks
	return &h, nil
}

func prefixOf(i *config.Interface, f family) (netip.Prefix, bool) {
	for _, p := range i.Addresses {
		if f.has(p.Addr()) && !p.Addr().IsLinkLocalUnicast() {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// free returns up to n addresses of a prefix that are nobody's in the configuration.
func free(c *config.Config, p netip.Prefix, n int) []netip.Addr {
	var list []netip.Addr
	for a := p.Masked().Addr().Next(); p.Contains(a) && p.Contains(a.Next()) && len(list) < n; a = a.Next() {
		taken := slices.ContainsFunc(c.Interfaces, func(i config.Interface) bool {
			return slices.Contains(i.NextHops, a) || slices.ContainsFunc(i.Addresses, func(own netip.Prefix) bool { return own.Addr() == a })
		})
		if !taken {
			list = append(list, a)
		}
	}
	return list
}
