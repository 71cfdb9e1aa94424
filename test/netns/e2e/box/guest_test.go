//go:build netns

package box

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

// A guest may ask for an address and for names, because a rule says so, and for
// nothing else of the box.
func TestGuestsGetWhatARuleGrantsThem(t *testing.T) {
	topology := unaddressed(boxTopology(strings.Replace(boxConfig, `area = "lan"`, `area = "guest"`, 1)+withKernel+`
		[[filter]]
		in_area = "guest"
		out_area = "host"
		proto = "udp"
		dport = [53, 67]
		action = "accept"
	`), "client")
	topology = withRuleset(topology, ruleset{lan: `udp dport { 53, 67 } accept`})
	eachGateway(t, topology, func(t *testing.T, lab *netns.Lab) {
		guest := lab.Host("client")
		serveHTTP(t, lab.Host("server"), ":80")
		echo(t, lab.Host("gateway"), "[::]:2222")
		dnsmasq(t, lab, lab.Host("gateway"), "lan0", "10.0.0.100", "10.0.0.110", "10.0.0.1")
		lease(t, lab, guest, "eth0", "udhcpc")
		leased(t, guest, "eth0", "10.0.0.1")
		if got := exec(t, guest, "dig", "+short", "+time=5", "@10.0.0.1", "box.example.org"); got != "10.0.0.1" {
			t.Errorf("box.example.org is %q, want 10.0.0.1", got)
		}
		seenAs(t, guest, "http://203.0.113.9/", "203.0.113.1")
		unheard(t, guest, "10.0.0.1:2222")
	})
}

// The provider announces a prefix and itself as the router.
func TestOutsideAddressComesByRouterAdvertisement(t *testing.T) {
	eachGateway(t, unaddressed(boxTopology(boxConfig+withKernel), "gateway"), func(t *testing.T, lab *netns.Lab) {
		gw, client, provider := lab.Gateway(), lab.Host("client"), lab.Host("server")
		for _, kv := range [][2]string{{"accept_ra", "2"}, {"autoconf", "1"}, {"router_solicitations", "3"}} {
			must(t, gw.Sysctl("net.ipv6.conf.wan0."+kv[0], kv[1]))
		}
		must(t, provider.Sysctl("net.ipv6.conf.all.forwarding", "1")) // or it announces itself as no router
		serveHTTP(t, provider, "[::]:80")
		echo(t, provider, "[::]:7")
		p, err := provider.Start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--port=0",
			"--user=root", "--log-facility=-", "--pid-file", "--interface=eth0", "--enable-ra", "--ra-param=eth0,4,600",
			"--dhcp-range=2001:db8::,ra-only,64")
		must(t, err)
		must(t, p.WaitOutput(t.Context(), "router advertisement"))
		var own string
		eventually(t, "the box has an address of the prefix and a router", func() bool {
			out := interfaces(t, lab)
			for word := range strings.FieldsFuncSeq(out, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' }) {
				if a, err := netip.ParsePrefix(word); err == nil && a != a.Masked() && netip.MustParsePrefix("2001:db8::/64").Contains(a.Addr()) {
					own = a.Addr().String()
				}
			}
			return own != "" && strings.Contains(out, linkLocalOf(t, provider, "eth0"))
		})
		seenAs(t, client, "http://[2001:db8::9]/", own)
		alive(t, dial(t, gw.Host, "", "[2001:db8::9]:7"))
		exec(t, provider, "ip", "address", "add", "2001:db8:ff::9/128", "dev", "lo") // beyond the link
		eventually(t, "the route beyond the link is in force", func() bool {
			_, err := fetch(t.Context(), client, "http://[2001:db8:ff::9]/")
			return err == nil
		})
		seenAs(t, client, "http://[2001:db8:ff::9]/", own)
	})
}

// Datagrams that do not fit a frame, to and from daemons of the box.
func TestLargeDatagramsOfTheBox(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig+withKernel), func(t *testing.T, lab *netns.Lab) {
		client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
		for _, tt := range []struct {
			name     string
			from, at *netns.Host
			to       string
		}{
			{"inside to box, IPv4", client, box, "10.0.0.1:9000"},
			{"inside to box, IPv6", client, box, "[fd00:a::1]:9000"},
			{"box to outside, IPv4", box, server, "203.0.113.9:9000"},
			{"box to outside, IPv6", box, server, "[2001:db8::9]:9000"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				pc, err := tt.at.ListenPacket("udp", tt.to)
				must(t, err)
				defer pc.Close()
				go func() {
					buf := make([]byte, 1<<16)
					n, from, err := pc.ReadFrom(buf)
					if err == nil {
						_, _ = pc.WriteTo(buf[:n], from)
					}
				}()
				c, err := tt.from.Dial(t.Context(), "udp", tt.to)
				must(t, err)
				defer c.Close()
				must(t, c.SetDeadline(time.Now().Add(patience)))
				text := strings.Repeat(fmt.Sprintf("%-32s", tt.name), 8000/32)
				_, err = c.Write([]byte(text))
				must(t, err)
				got := make([]byte, 1<<16)
				n, err := c.Read(got)
				if err != nil || string(got[:n]) != text {
					t.Errorf("%d bytes came back, %v; want the %d that were sent", n, err, len(text))
				}
			})
		}
	})
}
