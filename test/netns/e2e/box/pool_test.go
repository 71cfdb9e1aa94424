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

// pools are addresses that no interface has: those of one dnat rule and one snat
// pool for each family.
type pools struct{ service4, service6, pool4, pool6 string }

// config is what Culvert runs with.
func (p pools) config() string {
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
	`, p.service4, p.service6, p.pool4, p.pool6)
}

// ruleset is what the kernel runs with; see holds.
func (p pools) ruleset() ruleset {
	return ruleset{
		prerouting: `
		iifname "wan0" ip daddr ` + p.service4 + ` tcp dport 80 dnat ip to 10.0.0.5:80
		iifname "wan0" ip6 daddr ` + p.service6 + ` tcp dport 80 dnat ip6 to [fd00:a::5]:80`,
		postrouting: `
		oifname "wan0" snat ip to ` + p.pool4 + `
		oifname "wan0" snat ip6 to ` + p.pool6,
	}
}

// holds makes a kernel gateway answer for addresses, and no longer for others: it
// is told on the interface. Culvert knows from its rules.
func holds(t *testing.T, gw *netns.Gateway, addresses, no []string) {
	t.Helper()
	if gw.Kind() == netns.Culvert {
		return
	}
	for verb, all := range map[string][]string{"add": addresses, "del": no} {
		for _, a := range all {
			p := netip.MustParseAddr(a)
			args := []string{"ip", "address", verb, netip.PrefixFrom(p, p.BitLen()).String(), "dev", "wan0"}
			if p.Is6() && verb == "add" {
				args = append(args, "nodad")
			}
			exec(t, gw.Host, args...)
		}
	}
}

// announced waits until a capture has an announcement of an address. The kernel
// makes none of an address that is added.
func announced(t *testing.T, gw *netns.Gateway, c *netns.Capture, address string) {
	t.Helper()
	if gw.Kind() == netns.Kernel {
		return
	}
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
	first := pools{"203.0.113.50", "2001:db8::50", "203.0.113.60-203.0.113.61", "2001:db8::60"}
	second := pools{"203.0.113.51", "2001:db8::51", "203.0.113.61-203.0.113.62", "2001:db8::60"}
	eachGateway(t, withRuleset(boxTopology(first.config()), first.ruleset()), func(t *testing.T, lab *netns.Lab) {
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
		holds(t, gw, start, nil)
		for _, a := range append(start, "203.0.113.1", "2001:db8::1") {
			announced(t, gw, seen, a)
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
		seenAs(t, client, "http://[2001:db8::9]/", "2001:db8::60")

		later := capture(t, server, "eth0")
		text := second.config()
		if gw.Kind() == netns.Kernel {
			text = second.ruleset().text()
		}
		reloaded(t, lab, text)
		came, went := []string{"203.0.113.51", "203.0.113.62", "2001:db8::51"}, []string{"203.0.113.50", "203.0.113.60", "2001:db8::50"}
		holds(t, gw, came, went)
		for _, a := range came {
			announced(t, gw, later, a)
			if !found(t, server, a) {
				t.Errorf("%s, which came with a reload, is not answered for", a)
			}
		}
		for _, a := range went {
			if found(t, server, a) {
				t.Errorf("%s, which went with a reload, is still answered for", a)
			}
		}
		if !found(t, server, "203.0.113.61") {
			t.Error("203.0.113.61, which stayed, is not answered for any more")
		}
		seenAs(t, server, "http://203.0.113.51/", "203.0.113.9")
		seenAs(t, server, "http://[2001:db8::51]/", "2001:db8::9")
	})
}

// Addresses of netmap, of maps and of sources that come with a destination are the
// gateway's like those of pools; what they lead to, and the router, are not.
func TestAddressesOfMapsAreAnsweredAndAnnounced(t *testing.T) {
	config := strings.Replace(boxConfig, masquerade, "", 1) + `
		[[dnat]]
		in_area = "wan"
		dst = "203.0.113.80/30"
		action = "netmap"
		to = "10.0.0.4/30"
		[[dnat]]
		in_area = "wan"
		dst = "2001:db8::80/126"
		action = "netmap"
		to = "fd00:a::4/126"
		source = "fd00:a::99"
		[[dnat]]
		in_area = "wan"
		action = "dnat"
		map = { "203.0.113.90" = "10.0.0.5", "203.0.113.91" = "203.0.113.92" }
		[[snat]]
		out_area = "wan"
		action = "snat"
		map = { "10.0.0.5" = "203.0.113.93" }
	`
	lab := netns.ForTest(t, boxTopology(config))
	gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
	must(t, gw.Stop())
	for _, family := range []string{"ipv4", "ipv6"} {
		must(t, server.Sysctl("net."+family+".neigh.eth0.mcast_solicit", "1"))
		must(t, server.Sysctl("net."+family+".neigh.eth0.retrans_time_ms", "500"))
	}
	serveHTTP(t, client, "[::]:80")
	serveHTTP(t, server, "[::]:80")
	outside, inside := capture(t, server, "eth0"), capture(t, client, "eth0")
	must(t, gw.Start(t.Context()))
	ours := []string{"203.0.113.80", "203.0.113.83", "203.0.113.90", "203.0.113.91", "203.0.113.93", "2001:db8::80", "2001:db8::83"}
	for _, a := range ours {
		announced(t, gw, outside, a)
		if !found(t, server, a) {
			t.Errorf("%s is not answered for", a)
		}
	}
	announced(t, gw, inside, "fd00:a::99")
	for _, a := range []string{"203.0.113.84", "203.0.113.92", "2001:db8::84"} {
		if found(t, server, a) {
			t.Errorf("%s, which no rule has, is answered for", a)
		}
	}
	seenAs(t, server, "http://203.0.113.81/", "203.0.113.9")
	seenAs(t, server, "http://[2001:db8::81]/", "fd00:a::99")
	seenAs(t, server, "http://203.0.113.90/", "203.0.113.9")
	seenAs(t, client, "http://203.0.113.9/", "203.0.113.93")
}
