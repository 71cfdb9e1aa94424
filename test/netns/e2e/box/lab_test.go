//go:build netns

package box

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/gopacket/layers"

	"example.com/culvert/test/netns"
)

// The network of these tests:
//
//	client eth0 --- lan0 gateway wan0 --- eth0 server
//	10.0.0.5     10.0.0.1 203.0.113.1     203.0.113.9
//	fd00:a::5    fd00:a::1 2001:db8::1    2001:db8::9
//
// The kernel of the gateway has the addresses. IPv6 is translated as well, so
// that the server needs no route back.
const (
	boxConfig = `
		[gateway]
		workers = 2
		[[interface]]
		name = "lan0"
		area = "lan"
		[[interface]]
		name = "wan0"
		area = "wan"
	` + masquerade
	masquerade = `
		[[snat]]
		out_area = "wan"
		action = "masquerade"
	`
	withKernel = "[host]\nenabled = true\n" // to be added to boxConfig
)

// boxTopology is the network above with the gateway that config describes. Its
// kernel twin has a plain ruleset; see withRuleset.
func boxTopology(config string) netns.Topology {
	return netns.Topology{
		Prefix: "cvbox",
		Links: []netns.Link{
			{Ends: []netns.End{
				{Host: "client", If: "eth0", Addrs: []string{"10.0.0.5/24", "fd00:a::5/64"}, Via: []string{"10.0.0.1", "fd00:a::1"}},
				{Host: "gateway", If: "lan0", Addrs: []string{"10.0.0.1/24", "fd00:a::1/64"}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "wan0", Addrs: []string{"203.0.113.1/24", "2001:db8::1/64"}, Via: []string{"203.0.113.9", "2001:db8::9"}},
				{Host: "server", If: "eth0", Addrs: []string{"203.0.113.9/24", "2001:db8::9/64"}},
			}},
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Config: config, Ruleset: ruleset{}.text()},
	}
}

// writeFile puts a file into the lab's folder and returns its path.
func writeFile(t *testing.T, lab *netns.Lab, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(lab.Dir(), name)
	must(t, os.WriteFile(path, []byte(text), mode))
	return path
}

// capture starts a capture that the test looks at.
func capture(t *testing.T, h *netns.Host, ifname string) *netns.Capture {
	t.Helper()
	c, err := h.Capture(ifname)
	must(t, err)
	return c
}

// none fails the test if a finished capture has a frame that matches.
func none(t *testing.T, c *netns.Capture, what string, match func(netns.Frame) bool) {
	t.Helper()
	must(t, c.Close())
	for _, f := range c.Frames() {
		if match(f) {
			t.Errorf("%s: %v", what, f)
			return
		}
	}
}

// received reports whether a frame came from the other end of the link.
func received(f netns.Frame) bool { return !f.Outgoing }

// reset reports whether a frame is a TCP reset that came in.
func reset(f netns.Frame) bool { return received(f) && f.TCP() != nil && f.TCP().RST }

// source returns the IP source of a frame, the zero Addr if it has none.
func source(f netns.Frame) netip.Addr {
	var a netip.Addr
	if l := f.NetworkLayer(); l != nil {
		a, _ = netip.AddrFromSlice(l.NetworkFlow().Src().Raw())
	}
	return a
}

// arpAbout reports whether a frame is ARP sent by, or announcing, an address.
func arpAbout(f netns.Frame, a netip.Addr) bool {
	arp, ok := f.Layer(layers.LayerTypeARP).(*layers.ARP)
	return ok && received(f) && netip.AddrFrom4([4]byte(arp.SourceProtAddress)) == a
}

// advertises reports whether a frame is a neighbour advertisement for an address.
func advertises(f netns.Frame, a netip.Addr) bool {
	na, ok := f.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	return ok && received(f) && netip.AddrFrom16([16]byte(na.TargetAddress.To16())) == a
}

// ctl runs a culvert subcommand against the gateway.
func ctl(t *testing.T, lab *netns.Lab, args ...string) string {
	t.Helper()
	out, err := lab.Gateway().Ctl(t.Context(), args...)
	must(t, err)
	return out
}

// reloaded puts a configuration in force.
func reloaded(t *testing.T, lab *netns.Lab, config string) {
	t.Helper()
	must(t, lab.Gateway().Reload(t.Context(), config))
}

// addrPort returns the address of a TCP connection's end.
func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
