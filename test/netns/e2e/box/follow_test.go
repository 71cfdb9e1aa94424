//go:build netns

package box

import (
	"crypto/rand"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"example.com/culvert/test/netns"
)

// ifname finds an interface of a host.
func ifname(t *testing.T, h *netns.Host, name string) netlink.Link {
	t.Helper()
	l, err := h.Netlink().LinkByName(name)
	must(t, err)
	return l
}

// both configurations of the kernel path.
var withAndWithoutHost = []struct{ name, config string }{
	{"without host", boxConfig},
	{"with host", boxConfig + withKernel},
}

// defaultRoutes gives the gateway's kernel its routes back, which it loses with
// the interface.
func defaultRoutes(t *testing.T, gw *netns.Gateway) {
	t.Helper()
	exec(t, gw.Host, "ip", "address", "replace", "2001:db8::1/64", "dev", "wan0", "nodad")
	exec(t, gw.Host, "ip", "route", "replace", "default", "via", "203.0.113.9")
	exec(t, gw.Host, "ip", "-6", "route", "replace", "default", "via", "2001:db8::9")
}

// logged waits until the gateway has said something about an interface. The kernel
// says nothing: it is in force when the call that changes it returns.
func logged(t *testing.T, gw *netns.Gateway, what string) {
	t.Helper()
	if gw.Kind() == netns.Kernel {
		return
	}
	must(t, gw.Process().WaitOutput(t.Context(), what))
}

func TestInterfaceThatGoesDownAndUpIsFollowed(t *testing.T) {
	for _, tt := range withAndWithoutHost {
		t.Run(tt.name, func(t *testing.T) {
			lab := netns.ForTest(t, boxTopology(tt.config))
			gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
			echo(t, server, "[::]:7")
			c := dial(t, client, "", "203.0.113.9:7")
			alive(t, c)
			must(t, gw.Netlink().LinkSetDown(ifname(t, gw.Host, "wan0")))
			logged(t, gw, `"interface changed" interface=wan0 state=down`)
			if _, err := client.Dial(t.Context(), "tcp", "203.0.113.9:7"); !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("connecting by an interface that is down: %v, want %v", err, syscall.ENETUNREACH)
			}
			must(t, gw.Netlink().LinkSetUp(ifname(t, gw.Host, "wan0")))
			logged(t, gw, `"interface changed" interface=wan0 state=up`)
			defaultRoutes(t, gw)
			alive(t, dial(t, client, "", "203.0.113.9:7"))
			alive(t, dial(t, client, "", "[2001:db8::9]:7"))
			alive(t, c) // the IPv4 address has stayed

			// The carrier goes and comes when the other end does.
			must(t, server.Netlink().LinkSetDown(ifname(t, server, "eth0")))
			must(t, server.Netlink().LinkSetUp(ifname(t, server, "eth0")))
			exec(t, server, "ip", "address", "replace", "2001:db8::9/64", "dev", "eth0", "nodad")
			alive(t, c)
			alive(t, dial(t, client, "", "[2001:db8::9]:7"))
		})
	}
}

func TestInterfaceThatIsMadeAnewIsTakenAgain(t *testing.T) {
	for _, tt := range withAndWithoutHost {
		t.Run(tt.name, func(t *testing.T) {
			lab := netns.ForTest(t, boxTopology(tt.config))
			gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
			echo(t, server, "[::]:7")
			alive(t, dial(t, client, "", "203.0.113.9:7"))
			must(t, gw.Netlink().LinkDel(ifname(t, gw.Host, "wan0")))
			logged(t, gw, `"interface changed" interface=wan0 state=absent`)
			eventually(t, "the flows of the lost address have ended", func() bool { return len(flowsOf(t, lab, "203.0.113.1")) == 0 })
			if n := len(taps(t, gw.Host)); strings.Contains(tt.config, withKernel) && n != 1 {
				t.Errorf("%d TAPs are left, want that of lan0", n)
			}

			exec(t, gw.Host, "ip", "link", "add", "wan0", "type", "veth", "peer", "name", "eth0", "netns", server.Namespace())
			for _, end := range []struct {
				h    *netns.Host
				name string
				a4   string
				a6   string
			}{{gw.Host, "wan0", "203.0.113.1/24", "2001:db8::1/64"}, {server, "eth0", "203.0.113.9/24", "2001:db8::9/64"}} {
				exec(t, end.h, "ip", "link", "set", end.name, "up")
				exec(t, end.h, "ip", "address", "add", end.a4, "dev", end.name)
				exec(t, end.h, "ip", "address", "add", end.a6, "dev", end.name, "nodad")
			}
			defaultRoutes(t, gw)
			logged(t, gw, `"interface changed" interface=wan0 state=up`)
			eventually(t, "the gateway has its router again", func() bool {
				out := ctl(t, lab, "status")
				return strings.Contains(out, "203.0.113.9,2001:db8::9")
			})
			alive(t, dial(t, client, "", "203.0.113.9:7"))
			alive(t, dial(t, client, "", "[2001:db8::9]:7"))
			unheard(t, server, "203.0.113.1:2222")
			if n := programs(t, gw.Host, "wan0"); n != 2 {
				t.Errorf("the new wan0 has %d programs, want 2", n)
			}
		})
	}
}

func TestMTUIsFollowed(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig+withKernel), func(t *testing.T, lab *netns.Lab) {
		gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
		echo(t, server, "[::]:7")
		echo(t, gw.Host, "[::]:8")
		setMTU := func(mtu int) {
			t.Helper()
			for _, end := range []struct {
				h    *netns.Host
				name string
			}{{client, "eth0"}, {gw.Host, "lan0"}, {gw.Host, "wan0"}, {server, "eth0"}} {
				must(t, end.h.Netlink().LinkSetMTU(ifname(t, end.h, end.name), mtu))
			}
		}
		const some = 1 << 20
		transfers := func() {
			t.Helper()
			for _, to := range []string{"203.0.113.9:7", "[2001:db8::9]:7", "10.0.0.1:8", "[fd00:a::1]:8"} {
				bulk(t, dial(t, client, "", to), some)
			}
			bulk(t, dial(t, gw.Host, "", "203.0.113.9:7"), some)
		}
		whole := func(size string) error {
			_, err := client.Exec(t.Context(), "ping", "-c", "1", "-W", "5", "-M", "do", "-s", size, "203.0.113.9")
			return err
		}
		transfers()
		setMTU(9000)
		logged(t, gw, "interface=lan0 mtu=9000")
		logged(t, gw, "interface=wan0 mtu=9000")
		transfers()
		must(t, whole("8000"))
		exec(t, client, "ping", "-c", "1", "-W", "5", "-M", "do", "-s", "8000", "10.0.0.1")

		must(t, server.Netlink().LinkSetMTU(ifname(t, server, "eth0"), 1400)) // or its frames are lost on the link
		must(t, gw.Netlink().LinkSetMTU(ifname(t, gw.Host, "wan0"), 1400))
		logged(t, gw, "interface=wan0 mtu=1400")
		if err := whole("8000"); err == nil {
			t.Error("8000 bytes that must not be fragmented pass an MTU of 1400")
		}
		if out := exec(t, client, "ip", "route", "get", "203.0.113.9"); !strings.Contains(out, "mtu 1400") {
			t.Errorf("the client was not told the MTU: %s", out)
		}
		transfers()
	})
}

// changeMAC gives an interface another address; the host announces it or does not.
func changeMAC(t *testing.T, h *netns.Host, name string) {
	t.Helper()
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	must(t, h.Netlink().LinkSetHardwareAddr(ifname(t, h, name), mac))
}

func TestNeighbourWithAnotherMACIsFollowed(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig), func(t *testing.T, lab *netns.Lab) {
		client, server := lab.Host("client"), lab.Host("server")
		must(t, server.Sysctl("net.ipv4.conf.eth0.arp_notify", "1")) // failover pairs announce themselves
		must(t, server.Sysctl("net.ipv6.conf.eth0.ndisc_notify", "1"))
		echo(t, server, "[::]:7")
		echo(t, client, "[::]:7")
		four, six := dial(t, client, "", "203.0.113.9:7"), dial(t, client, "", "[2001:db8::9]:7")
		alive(t, four)
		alive(t, six)
		changeMAC(t, server, "eth0")
		alive(t, four)
		alive(t, six)
		// The client announces nothing, but asks for its gateway before it sends.
		changeMAC(t, client, "eth0")
		alive(t, four)
		alive(t, six)
	})
}

func TestNeighbourThatWasAwayIsFound(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig), func(t *testing.T, lab *netns.Lab) {
		client, server := lab.Host("client"), lab.Host("server")
		echo(t, server, "[::]:7")
		for _, tt := range []struct{ name, prefix, to string }{
			{"IPv4", "203.0.113.77/24", "203.0.113.77:7"}, {"IPv6", "2001:db8::77/64", "[2001:db8::77]:7"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				_, err := client.Dial(t.Context(), "tcp", tt.to)
				if !errors.Is(err, syscall.EHOSTUNREACH) {
					t.Errorf("connecting to a host that is away: %v, want %v", err, syscall.EHOSTUNREACH)
				}
				exec(t, server, "ip", "address", "add", tt.prefix, "dev", "eth0")
				if strings.Contains(tt.prefix, "::") {
					exec(t, server, "ip", "address", "replace", tt.prefix, "dev", "eth0", "nodad")
				}
				alive(t, dial(t, client, "", tt.to))
			})
		}
	})
}
