//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// forwarding leads ports of the outside to the first host, with a change of port,
// and one port of anybody to the gateway itself.
var forwarding = setup{
	config: `
[host]
enabled = true

[[dnat]]
in_area = "wan"
family = "ipv4"
dst = "gateway"
proto = ["tcp", "udp"]
dport = "8080-8089"
action = "dnat"
to = "10.1.0.11"
ports = "9080-9089"

[[dnat]]
in_area = "wan"
family = "ipv6"
dst = "gateway"
proto = ["tcp", "udp"]
dport = "8080-8089"
action = "dnat"
to = "fd00:1::11"
ports = "9080-9089"

[[dnat]]
in_area = "lan"
proto = ["tcp", "udp"]
dport = 7
action = "redirect"
ports = 7007
`,
	prerouting: `
		iifname "wan0" ip daddr 203.0.113.1 meta l4proto { tcp, udp } dnat ip to 10.1.0.11 : th dport map { 8080 : 9080, 8081 : 9081, 8082 : 9082 }
		iifname "wan0" ip6 daddr 2001:db8:a::1 meta l4proto { tcp, udp } dnat ip6 to fd00:1::11 : th dport map { 8080 : 9080, 8081 : 9081, 8082 : 9082 }
		iifname "lan0" meta l4proto { tcp, udp } th dport 7 redirect to :7007`,
}

// Ports of forwarding.
const (
	openPort    = 8080 // something listens behind it
	closedPort  = 8081 // nothing does
	tracedPort  = 8082 // nothing does
	toInside    = 1000 // the distance to the ports inside
	askedPort   = 7
	servicePort = 7007
)

func TestForwardedPorts(t *testing.T) {
	eachGateway(t, forwarding, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			outside, inside := at(f.outside, openPort), at(f.first, openPort+toInside)
			t.Run("tcp", func(t *testing.T) {
				serveTCP(t, h.first, inside, greet)
				c := talk(t, h.server, at(f.server, 30001), outside)
				if c.seen != at(f.server, 30001) {
					t.Errorf("the inside sees %v, want the server", c.seen)
				}
				h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=30001 dport=8080 src=%v dst=%v sport=9080 dport=30001 [ASSURED] mark=0 use=1",
					f.server, f.outside, f.first, f.server))
			})
			t.Run("udp", func(t *testing.T) {
				serveUDP(t, h.first, inside)
				d := bindUDP(t, h.server, at(f.server, 30002))
				if seen := d.ask(t, outside, "knock"); seen != at(f.server, 30002) {
					t.Errorf("the inside sees %v, want the server", seen)
				}
				h.wantFlow(t, fmt.Sprintf("udp 17 29 src=%v dst=%v sport=30002 dport=8080 src=%v dst=%v sport=9080 dport=30002 mark=0 use=1",
					f.server, f.outside, f.first, f.server))
			})
			t.Run("nobody listens behind it", func(t *testing.T) {
				refused(t, h.server, f.server, at(f.outside, closedPort))
				if n := h.flowCount(t, func(g netns.Flow) bool { return g.Proto == "tcp" && g.Orig.Dst == at(f.outside, closedPort) }); n > 0 {
					t.Errorf("%d refused connections have a flow, want none", n)
				}
			})
		})
	})
}

func TestRedirect(t *testing.T) {
	eachGateway(t, forwarding, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			asked := at(f.server, askedPort)
			serveTCP(t, h.Host("gateway"), at(f.inside, servicePort), greet)
			serveUDP(t, h.Host("gateway"), at(f.inside, servicePort))
			if c := talk(t, h.first, at(f.first, 30003), asked); c.seen != at(f.first, 30003) {
				t.Errorf("the gateway's service sees %v, want the client", c.seen)
			}
			h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=30003 dport=7 src=%v dst=%v sport=7007 dport=30003 [ASSURED] mark=0 use=1",
				f.first, f.server, f.inside, f.first))
			if seen := bindUDP(t, h.first, at(f.first, 30004)).ask(t, asked, "to whom?"); seen != at(f.first, 30004) {
				t.Errorf("the gateway's service sees %v, want the client", seen)
			}
			h.wantFlow(t, fmt.Sprintf("udp 17 29 src=%v dst=%v sport=30004 dport=7 src=%v dst=%v sport=7007 dport=30004 mark=0 use=1",
				f.first, f.server, f.inside, f.first))
		})
	})
}

// TestBulkToTheBoxItself moves data to and from a service of the kernel in the
// gateway's namespace, asked for by another address.
func TestBulkToTheBoxItself(t *testing.T) {
	eachGateway(t, forwarding, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			serveTCP(t, h.Host("gateway"), at(f.inside, servicePort), bulkService)
			c := dial(t, h.first, at(f.first, 0), at(f.server, askedPort))
			must(t, transfer(c, upload, 32<<20, patience))
			must(t, transfer(c, download, 32<<20, patience))
		})
	})
}

// TestTheBoxGoesOut has the kernel in the gateway's namespace be a client of the
// server, of the first host, and be told of errors.
func TestTheBoxGoesOut(t *testing.T) {
	eachGateway(t, forwarding, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			box := h.Host("gateway")
			for _, end := range []struct {
				host *netns.Host
				on   netip.Addr
				from netip.Addr
			}{{h.server, f.server, f.outside}, {h.first, f.first, f.inside}} {
				service := at(end.on, 7009)
				serveTCP(t, end.host, service, bulkService)
				serveUDP(t, end.host, service)
				c := dial(t, box, at(end.from, 0), service)
				must(t, transfer(c, upload, 8<<20, patience))
				must(t, transfer(c, download, 8<<20, patience))
				if seen := bindUDP(t, box, at(end.from, 30009)).ask(t, service, "hello from the box"); seen != at(end.from, 30009) {
					t.Errorf("%v sees %v, want %v", end.on, seen, at(end.from, 30009))
				}
				refused(t, box, end.from, at(end.on, 9999))
				openPing(t, box, f, end.from).ping(t, end.on, 11, 1)
			}
			h.wantFlow(t, fmt.Sprintf("udp 17 29 src=%v dst=%v sport=30009 dport=7009 src=%v dst=%v sport=7009 dport=30009 mark=0 use=1",
				f.outside, f.server, f.server, f.outside))
		})
	})
}

// refused expects that a connection is refused in both senses: by a RST, and by
// an ICMP error for a datagram, which the kernel takes for the socket's only when
// the packet inside is what the socket has sent.
func refused(t *testing.T, host *netns.Host, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	c, err := host.DialFrom(t.Context(), &net.TCPAddr{IP: from.AsSlice()}, "tcp", to.String())
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling %v: %v, want connection refused", to, err)
	}
	d := connectUDP(t, host, at(from, 0), to)
	_, err = d.Write([]byte("anybody?"))
	must(t, err)
	if err := d.readError(t); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a datagram to %v: %v, want connection refused", to, err)
	}
}

// unreachable expects that the sender is told that a host is not there.
func unreachable(t *testing.T, host *netns.Host, from netip.Addr, to netip.AddrPort, want syscall.Errno) {
	t.Helper()
	d := connectUDP(t, host, at(from, 0), to)
	d.hearEverything(t)
	_, err := d.Write([]byte("anybody?"))
	must(t, err)
	c, err := host.DialFrom(t.Context(), &net.TCPAddr{IP: from.AsSlice()}, "tcp", to.String())
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("dialling %v: %v, want %v", to, err, want)
	}
	if err := d.readError(t); !errors.Is(err, want) {
		t.Errorf("a datagram to %v: %v, want %v", to, err, want)
	}
}

// TestErrorsComeBackThroughTheTranslation has somebody behind the gateway, the
// router, and the gateway itself say that something cannot be reached.
func TestErrorsComeBackThroughTheTranslation(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		for _, f := range families {
			dead := netip.PrefixFrom(f.deadHost(), f.deadHost().BitLen())
			must(t, h.router.Netlink().RouteReplace(&netlink.Route{Type: unix.RTN_UNREACHABLE, Dst: ipNet(dead)}))
		}
		eachFamily(t, func(t *testing.T, f *family) {
			t.Parallel() // neighbours are given up after seconds
			refused(t, h.first, f.first, at(f.server, 9999))
			noRoute := syscall.EHOSTUNREACH
			if !f.is4() {
				noRoute = syscall.ENETUNREACH
			}
			quoted := sendInVain(t, h, f)
			unreachable(t, h.first, f.first, at(f.deadHost(), 9999), noRoute)
			unreachable(t, h.first, f.first, at(f.deadNeighbour(), 9999), syscall.EHOSTUNREACH)
			quoted()
		})
	})
}

// sendInVain sends datagrams that the server, the router and the gateway will
// complain about. The returned function expects that each complaint quotes the
// datagram as it was sent.
func sendInVain(t *testing.T, h *house, f *family) (quoted func()) {
	d := bindUDP(t, h.second, at(f.second, 0))
	self := f.inside
	if h.gw.Kind() == netns.Kernel {
		self = f.outside // it answers the packet it had translated
	}
	complaints := []struct {
		from netip.Addr
		to   netip.AddrPort
		ears pinger // one for each: they come in any order
	}{
		{from: f.server, to: at(f.server, 9999)},
		{from: f.up, to: at(f.deadHost(), 9999)},
		{from: self, to: at(f.deadNeighbour(), 9999)},
	}
	for i := range complaints {
		c := &complaints[i]
		c.ears = openPing(t, h.second, f, f.second)
		_, err := d.WriteToUDPAddrPort([]byte("anybody?"), c.to)
		must(t, err)
	}
	return func() {
		for _, c := range complaints {
			if m := c.ears.wait(t, c.from, about(at(f.second, d.port()), c.to)); m.quoted.damaged {
				t.Errorf("%v quotes an IP header with a wrong checksum", c.from)
			}
		}
	}
}

// deadHost is an address that the router cannot reach.
func (f *family) deadHost() netip.Addr { return near(f.server, 66) }

// deadNeighbour is an address on the gateway's outside link that nobody has.
func (f *family) deadNeighbour() netip.Addr { return near(f.up, 77) }

// near replaces the last byte of an address.
func near(a netip.Addr, last byte) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] = last
	a, _ = netip.AddrFromSlice(b)
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
