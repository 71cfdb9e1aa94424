package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestSnapshotHasLoopback(t *testing.T) {
	w, err := Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if lo, ok := s.Interfaces["lo"]; !ok || lo.Index == 0 || lo.MTU == 0 || lo.Link != Other {
		t.Errorf("loopback is %+v, want an index and an MTU, and no Ethernet", lo)
	}
	again, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if !s.Equal(again) {
		t.Errorf("two snapshots of an unchanged namespace differ:\n%+v\n%+v", s, again)
	}
}

func TestMatch(t *testing.T) {
	s := Snapshot{Interfaces: map[string]Interface{"veth2": {}, "veth10": {}, "eth0": {}, "lo": {Link: Other}, "vetun": {Link: Other}}}
	for _, tt := range []struct {
		claim, pattern string
		want           []string
	}{
		{"a plain name fits itself", "eth0", []string{"eth0"}},
		{"a pattern fits many, sorted", "veth*", []string{"veth10", "veth2"}},
		{"nothing fits a name that is absent", "wan0", nil},
		{"a pattern takes Ethernet only", "*", []string{"eth0", "veth10", "veth2"}},
		{"not even by a letter", "l*", nil},
		{"a plain name fits anything", "lo", []string{"lo"}},
		{"a plain name is no prefix", "veth", nil},
	} {
		if got := s.Match(tt.pattern); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q fits %v, want %v", tt.claim, tt.pattern, got, tt.want)
		}
	}
}

func TestRouteFrom(t *testing.T) {
	ipnet := func(s string) *netlink.Route {
		n, err := netlink.ParseIPNet(s)
		if err != nil {
			t.Fatal(err)
		}
		return &netlink.Route{Dst: n, LinkIndex: 2, Type: unix.RTN_UNICAST}
	}
	with := func(r *netlink.Route, change func(*netlink.Route)) netlink.Route {
		change(r)
		return *r
	}
	hop := netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct {
		claim string
		in    netlink.Route
		want  Route
		ok    bool
	}{
		{"an on-link prefix has no next hop", *ipnet("10.0.0.0/24"), Route{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Index: 2}, true},
		{"a default route without a destination is 0.0.0.0/0",
			netlink.Route{Family: unix.AF_INET, LinkIndex: 3, Type: unix.RTN_UNICAST, Gw: hop.AsSlice(), Priority: 100},
			Route{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: hop, Index: 3, Metric: 100}, true},
		{"of several next hops the first live one counts",
			with(ipnet("10.0.0.0/8"), func(r *netlink.Route) {
				r.LinkIndex = 0
				r.MultiPath = []*netlink.NexthopInfo{
					{LinkIndex: 4, Flags: unix.RTNH_F_DEAD},
					{LinkIndex: 5, Gw: hop.AsSlice()},
				}
			}),
			Route{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Via: hop, Index: 5}, true},
		{"a blackhole is not ours", with(ipnet("10.0.0.0/8"), func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE }), Route{}, false},
		{"a host-scope route is not ours", with(ipnet("10.0.0.1/32"), func(r *netlink.Route) { r.Scope = unix.RT_SCOPE_HOST }), Route{}, false},
		{"link-local prefixes are not routed", *ipnet("fe80::/64"), Route{}, false},
		{"multicast prefixes are not routed", *ipnet("ff00::/8"), Route{}, false},
	} {
		got, ok := routeFrom(tt.in)
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %+v, %v; want %+v, %v", tt.claim, got, ok, tt.want, tt.ok)
		}
	}
}
