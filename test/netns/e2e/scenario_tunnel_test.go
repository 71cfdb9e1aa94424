//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

// TestLargeFramesInATunnel moves a lot through a VXLAN between the client and the
// server, whose kernels leave the cutting of what is inside to others: frames of
// up to 64 KB come to the gateway with headers that its egress cannot be told of.
func TestLargeFramesInATunnel(t *testing.T) {
	forward := setup{
		config: `
[[dnat]]
in_area = "wan"
proto = "udp"
dport = 4789
family = "ipv4"
action = "dnat"
to = "10.1.0.11"

[[dnat]]
in_area = "wan"
proto = "udp"
dport = 4789
family = "ipv6"
action = "dnat"
to = "fd00:1::11"
`,
		prerouting: `
		iifname "wan0" meta nfproto ipv4 udp dport 4789 dnat ip to 10.1.0.11
		iifname "wan0" meta nfproto ipv6 udp dport 4789 dnat ip6 to fd00:1::11
`,
	}
	eachGateway(t, forward, func(t *testing.T, h *house) {
		for i, f := range families {
			for _, sums := range []string{"noudpcsum", "udpcsum"} {
				if !f.is4() && sums == "noudpcsum" {
					sums = "udp6zerocsumtx"
				}
				t.Run(f.name+" "+sums, func(t *testing.T) {
					tunnel(t, h.first, 20+i, f.first, f.server, sums, "192.168.99.1/24", "fd00:99::1/64")
					tunnel(t, h.server, 20+i, f.server, f.outside, sums, "192.168.99.2/24", "fd00:99::2/64")
					defer func() {
						for _, host := range []*netns.Host{h.first, h.server} {
							_, err := host.Exec(t.Context(), "ip", "link", "del", "vx0")
							must(t, err)
						}
					}()
					for _, to := range []string{"192.168.99.2", "fd00:99::2"} {
						service := netip.AddrPortFrom(netip.MustParseAddr(to), uint16(7080+i))
						serveTCP(t, h.server, service, bulkService)
						c := dial(t, h.first, netip.AddrPort{}, service)
						for _, way := range []byte{upload, download} {
							start := time.Now()
							if err := transfer(c, way, tunnelSize, tunnelLimit); err != nil {
								t.Errorf("%s in %s: %v", to, f.name, err)
							}
							t.Logf("%s in %s %c: %d MB in %v", to, f.name, way, tunnelSize>>20, time.Since(start).Round(time.Millisecond))
						}
						c.Close()
					}
				})
			}
		}
	})
}

const (
	tunnelSize  = 32 << 20
	tunnelLimit = 20 * time.Second // a transfer that loses its large frames takes minutes
)

// tunnel makes vx0 on a host, with addresses inside.
func tunnel(t *testing.T, host *netns.Host, id int, local, remote netip.Addr, sums string, inside ...string) {
	t.Helper()
	args := []string{"ip", "link", "add", "vx0", "type", "vxlan", "id", fmt.Sprint(id), "dstport", "4789",
		"local", local.String(), "remote", remote.String(), "dev", "eth0", sums}
	if sums == "udp6zerocsumtx" {
		args = append(args, "udp6zerocsumrx")
	}
	_, err := host.Exec(t.Context(), args...)
	must(t, err)
	for _, a := range inside {
		_, err := host.Exec(t.Context(), "ip", "addr", "add", a, "dev", "vx0", "nodad")
		must(t, err)
	}
	_, err = host.Exec(t.Context(), "ip", "link", "set", "vx0", "up")
	must(t, err)
}
