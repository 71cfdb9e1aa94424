//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
)

// prefixes gives the inside of IPv6 other prefixes outside, and leaves no checksum
// different: fd00:1::/64 is 2001:db8:a:77::/64 there.
var prefixes = setup{
	snat: `
[[snat]]
src = "fd00:1::/64"
out_area = "wan"
action = "nptv6"
to = "2001:db8:a:77::/64"
`,
	config: `
[[dnat]]
in_area = "wan"
dst = "2001:db8:a:77::/64"
action = "nptv6"
to = "fd00:1::/64"
`,
}

// TestPrefixTranslation has the server reach an inside host by its other address and
// the other way round, over TCP, UDP and ICMP (RFC 6296). The kernel has this in
// ip6tables alone, without state.
func TestPrefixTranslation(t *testing.T) {
	onlyCulvert(t, prefixes, func(t *testing.T, h *house) {
		f := &ipv6
		// fd00 + 1 - (2001 + db8 + a + 77) = cec7 in one's complement.
		other := netip.MustParseAddr("2001:db8:a:77:cec7::11")
		_, err := h.router.Exec(t.Context(), "ip", "-6", "route", "add", "2001:db8:a:77::/64", "via", f.outside.String())
		must(t, err)
		service := at(f.server, 7061)
		serveTCP(t, h.server, service, bulkService)
		serveUDP(t, h.server, service)
		if seen := bindUDP(t, h.first, at(f.first, samePort)).ask(t, service, "who am I?"); seen != at(other, samePort) {
			t.Errorf("the server sees %v, want %v", seen, at(other, samePort))
		}
		c := dial(t, h.first, at(f.first, 0), service)
		must(t, transfer(c, upload, 4<<20, patience))
		must(t, transfer(c, download, 4<<20, patience))
		openPing(t, h.first, f, f.first).ping(t, f.server, 5, 1)

		inside := at(f.first, 7062)
		serveTCP(t, h.first, inside, greet)
		if c := talk(t, h.server, at(f.server, samePort), at(other, 7062)); c.seen != at(f.server, samePort) {
			t.Errorf("the inside sees %v, want the server", c.seen)
		}
		h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=%d dport=7062 src=%v dst=%v sport=7062 dport=%d [ASSURED] mark=0 use=1",
			f.server, other, samePort, f.first, f.server, samePort))
		openPing(t, h.server, f, f.server).ping(t, other, 6, 1)
		refused(t, h.server, f.server, at(other, 7063))
	})
}
