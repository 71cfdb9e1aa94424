package kernel

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is what an interface carries.
type Link uint8

// Values of Link.
const (
	Ethernet Link = iota
	Other         // loopback, TUN, tunnels
)

// Interface is one network interface.
type Interface struct {
	Name      string
	Index     int
	Link      Link
	MAC       [6]byte        // zero for links without one
	MTU       int            // bytes of the largest IP packet
	Up        bool           // administratively up and with carrier
	Addresses []netip.Prefix // in the kernel's order, primary ones first, deprecated ones last
}

// Route is one unicast route of the main table.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr // next hop; the zero Addr means on-link
	Index  int        // interface
	Metric int        // lower wins
}

// Snapshot is the state of one namespace. It must not be changed.
type Snapshot struct {
	Interfaces map[string]Interface // by name
	Routes     []Route              // by prefix, then metric
}

// Match returns the names of the interfaces that pattern fits, sorted. A trailing
// * fits any rest on Ethernet interfaces, so that no * takes the loopback; without
// one a pattern fits itself only.
func (s Snapshot) Match(pattern string) []string {
	prefix, open := strings.CutSuffix(pattern, "*")
	var names []string
	for name, i := range s.Interfaces {
		if name == pattern || open && i.Link == Ethernet && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// RoutesOf returns the routes that leave by the interface with the given index.
func (s Snapshot) RoutesOf(index int) []Route {
	var routes []Route
	for _, r := range s.Routes {
		if r.Index == index {
			routes = append(routes, r)
		}
	}
	return routes
}

// Equal reports whether s and t say the same.
func (s Snapshot) Equal(t Snapshot) bool {
	return slices.Equal(s.Routes, t.Routes) && maps.EqualFunc(s.Interfaces, t.Interfaces, Interface.Equal)
}

// Equal reports whether i and j say the same.
func (i Interface) Equal(j Interface) bool {
	return i.Name == j.Name && i.Index == j.Index && i.Link == j.Link && i.MAC == j.MAC && i.MTU == j.MTU &&
		i.Up == j.Up && slices.Equal(i.Addresses, j.Addresses)
}

func interfaceFrom(link netlink.Link) Interface {
	a := link.Attrs()
	i := Interface{Name: a.Name, Index: a.Index, MTU: a.MTU}
	copy(i.MAC[:], a.HardwareAddr)
	if a.EncapType != "ether" || len(a.HardwareAddr) != len(i.MAC) {
		i.Link = Other
	}
	// Links without a carrier (TUN before it is opened, loopback) say "unknown"
	// and are up when they are set up; IFF_RUNNING covers both.
	i.Up = a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0
	return i
}

// prefixFrom keeps the host part of n.
func prefixFrom(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	addr = addr.Unmap()
	if bits == 0 || ones > addr.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, ones), true
}

// routeFrom returns r in our terms and false when it is not ours to follow.
func routeFrom(r netlink.Route) (Route, bool) {
	if r.Type != unix.RTN_UNICAST || r.Scope >= unix.RT_SCOPE_HOST {
		return Route{}, false
	}
	out := Route{Index: r.LinkIndex, Metric: r.Priority}
	gateway, via := r.Gw, r.Via
	if len(r.MultiPath) > 0 {
		hop := firstAlive(r.MultiPath)
		out.Index, gateway, via = hop.LinkIndex, hop.Gw, hop.Via
	}
	if out.Index == 0 {
		return Route{}, false
	}
	var ok bool
	if r.Dst == nil { // older kernels leave the attribute out for a default route
		out.Prefix = defaultPrefix(r.Family)
	} else if out.Prefix, ok = prefixFrom(r.Dst); !ok {
		return Route{}, false
	}
	if a := out.Prefix.Addr(); a.IsMulticast() || a.Is6() && a.IsLinkLocalUnicast() {
		return Route{}, false
	}
	out.Prefix = out.Prefix.Masked()
	if hop, ok := netip.AddrFromSlice(gateway); ok {
		out.Via = hop.Unmap()
	} else if v, isVia := via.(*netlink.Via); isVia { // an IPv4 route by an IPv6 next hop
		if hop, ok := netip.AddrFromSlice(v.Addr); ok {
			out.Via = hop
		}
	}
	if out.Via.IsValid() && out.Via.IsUnspecified() {
		out.Via = netip.Addr{}
	}
	return out, true
}

func firstAlive(hops []*netlink.NexthopInfo) *netlink.NexthopInfo {
	for _, h := range hops {
		if h.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) == 0 {
			return h
		}
	}
	return hops[0]
}

func defaultPrefix(family int) netip.Prefix {
	if family == unix.AF_INET6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func compareRoutes(a, b Route) int {
	return cmp.Or(
		a.Prefix.Addr().Compare(b.Prefix.Addr()),
		cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		cmp.Compare(a.Metric, b.Metric),
		cmp.Compare(a.Index, b.Index),
		a.Via.Compare(b.Via),
	)
}
