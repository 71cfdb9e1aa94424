//go:build netns

package box

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"example.com/culvert/test/netns"
)

// pools is a configuration with addresses that no interface has: one dnat rule and
// one snat pool for each family.
func pools(service4, service6, pool4, pool6 string) string {
	return strings.Replace(boxConfig, masquerade, "", 1) + fmt.Sprintf(`
		[[dnat]]
		in_area = "wan"
		dst = %q
		proto = "tcp"
		dport = 80
		action = "dnat"
		to = "10.0.0.5:80"
		[[dnat]]
		in_area = "wan"
		dst = %q
		proto = "tcp"
		dport = 80
		action = "dnat"
		to = "[fd00:a::5]:80"
		[[snat]]
		out_area = "wan"
		family = "ipv4"
		action = "snat"
		to = %q
		[[snat]]
		out_area = "wan"
		family = "ipv6"
		action = "snat"
		to = %q
	`, service4, service6, pool4, pool6)
}

// announced waits until a capture has an announcement of an address.
func announced(t *testing.T, c *netns.Capture, address string) {
	t.Helper()
	a := netip.MustParseAddr(address)
	_, err := c.Wait(t.Context(), func(f netns.Frame) bool { return arpAbout(f, a) || advertises(f, a) })
	if err != nil {
		t.Errorf("%s is not announced: %v", address, err)
	}
}

// found asks for the link-layer address of a neighbour and reports whether there
// was an answer.
func found(t *testing.T, h *netns.Host, address string) bool {
	t.Helper()
	exec(t, h, "ip", "neighbour", "flush", "to", address)
	if pc, err := h.Dial(t.Context(), "udp", netip.AddrPortFrom(netip.MustParseAddr(address), 9).String()); err == nil {
		_, _ = pc.Write([]byte("?"))
		pc.Close()
	}
	answered := false
	eventually(t, "the question for "+address+" is settled", func() bool {
		all, err := h.Netlink().NeighList(ifname(t, h, "eth0").Attrs().Index, netlink.FAMILY_ALL)
		must(t, err)
		for _, n := range all {
			if n.IP.String() == address && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0 {
				answered = true
				return true
			}
			if n.IP.String() == address && n.State&netlink.NUD_FAILED != 0 {
				return true
			}
		}
		return false
	})
	return answered
}

func TestPoolAddressesAreAnsweredAndAnnounced(t *testing.T) {
	lab := netns.ForTest(t, boxTopology(pools("203.0.113.50", "2001:db8::50", "203.0.113.60-203.0.113.61", "2001:db8::60")))
	gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
	must(t, gw.Stop())
	for _, family := range []string{"ipv4", "ipv6"} { // a question without an answer is over soon
		must(t, server.Sysctl("net."+family+".neigh.eth0.mcast_solicit", "1"))
		must(t, server.Sysctl("net."+family+".neigh.eth0.retrans_time_ms", "500"))
	}
	serveHTTP(t, client, "[::]:80")
	serveHTTP(t, server, "[::]:80")
	seen := capture(t, server, "eth0")
	must(t, gw.Start(t.Context()))
	start := []string{"203.0.113.50", "203.0.113.60", "203.0.113.61", "2001:db8::50", "2001:db8::60"}
	for _, a := range append(start, "203.0.113.1", "2001:db8::1") {
		announced(t, seen, a)
	}
	for _, a := range start {
		if !found(t, server, a) {
			t.Errorf("%s is not answered for", a)
		}
	}
	if found(t, server, "203.0.113.62") {
		t.Error("203.0.113.62, which is in no pool, is answered for")
	}
	seenAs(t, server, "http://203.0.113.50/", "203.0.113.9")
	seenAs(t, server, "http://[2001:db8::50]/", "2001:db8::9")

	later := capture(t, server, "eth0")
	reloaded(t, lab, pools("203.0.113.51", "2001:db8::51", "203.0.113.61-203.0.113.62", "2001:db8::60"))
	for _, a := range []string{"203.0.113.51", "203.0.113.62", "2001:db8::51"} {
		announced(t, later, a)
		if !found(t, server, a) {
			t.Errorf("%s, which came with a reload, is not answered for", a)
		}
	}
	for _, a := range []string{"203.0.113.50", "203.0.113.60", "2001:db8::50"} {
		if found(t, server, a) {
			t.Errorf("%s, which went with a reload, is still answered for", a)
		}
	}
	if !found(t, server, "203.0.113.61") {
		t.Error("203.0.113.61, which stayed, is not answered for any more")
	}
	seenAs(t, server, "http://203.0.113.51/", "203.0.113.9")
	seenAs(t, server, "http://[2001:db8::51]/", "2001:db8::9")
}
