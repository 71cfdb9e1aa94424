//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/test/netns"
)

// knock sends what a scanner would to an address: a SYN, a datagram and an echo
// request. It does not wait for anything.
func knock(t *testing.T, host *netns.Host, f *family, from, to netip.Addr) {
	t.Helper()
	d := bindUDP(t, host, at(from, 0))
	for _, port := range []uint16{22, 53, 9999} {
		_, err := d.WriteToUDPAddrPort([]byte("knock"), at(to, port))
		must(t, err)
		sendRaw(t, host, to, syn(t, at(from, 50000), at(to, port)))
	}
	openPing(t, host, f, from).send(t, to, 99, 1)
}

// syn builds a TCP segment that opens a connection.
func syn(t *testing.T, from, to netip.AddrPort) []byte {
	t.Helper()
	tcp := &layers.TCP{SrcPort: layers.TCPPort(from.Port()), DstPort: layers.TCPPort(to.Port()), SYN: true, Seq: 1, Window: 1000}
	ip := network(from.Addr(), to.Addr())
	must(t, tcp.SetNetworkLayerForChecksum(ip))
	switch ip := ip.(type) {
	case *layers.IPv4:
		ip.Version, ip.IHL, ip.TTL, ip.Protocol = 4, 5, hopLimit, layers.IPProtocolTCP
	case *layers.IPv6:
		ip.Version, ip.HopLimit, ip.NextHeader = 6, hopLimit, layers.IPProtocolTCP
	}
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(t, gopacket.SerializeLayers(b, options, ip.(gopacket.SerializableLayer), tcp))
	return b.Bytes()
}

// isTraffic tells packets from the link's own: neighbour discovery and such.
func isTraffic(g netns.Frame) bool {
	switch {
	case g.NetworkLayer() == nil:
		return false
	case g.Layer(layers.LayerTypeICMPv6) != nil:
		kind := g.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6).TypeCode.Type()
		return kind < layers.ICMPv6TypeMLDv1MulticastListenerQueryMessage || kind == 0
	}
	ip, ok := g.NetworkLayer().(*layers.IPv6)
	return !ok || ip.NextHeader != layers.IPProtocolIPv6HopByHop // multicast reports
}

// nothingCame expects that the capture holds no packet to its host but the
// answers of marker's.
func nothingCame(t *testing.T, c *netns.Capture, marker uint16) {
	t.Helper()
	nothingBut(t, c, marker, func(netns.Frame) bool { return false })
}

// nothingButRefusals is nothingCame for an inside host: it may be told that the
// gateway does not let its packets through. The kernel says nothing.
func nothingButRefusals(t *testing.T, c *netns.Capture, marker uint16) {
	t.Helper()
	nothingBut(t, c, marker, isRefusal)
}

func nothingBut(t *testing.T, c *netns.Capture, marker uint16, also func(netns.Frame) bool) {
	t.Helper()
	must(t, c.Close())
	for _, g := range c.Frames() {
		if udp := g.UDP(); !g.Outgoing && isTraffic(g) && !also(g) && (udp == nil || uint16(udp.DstPort) != marker && uint16(udp.SrcPort) != marker) {
			t.Errorf("this came through:\n%v", g.Packet)
		}
	}
}

// isRefusal reports whether a packet says "administratively prohibited".
func isRefusal(g netns.Frame) bool {
	if e, ok := g.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		return e.TypeCode == layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeCommAdminProhibited)
	}
	e, ok := g.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	return ok && e.TypeCode == layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodeAdminProhibited)
}

const markerPort = 7777

// mark makes an exchange between inside and outside, twice: what was sent before
// by either has been through the gateway then.
func (h *house) mark(t *testing.T) {
	t.Helper()
	for _, f := range families {
		d := bindUDP(t, h.first, at(f.first, 0))
		v := bindUDP(t, h.visitor, at(f.visitor, 0))
		for range 2 {
			d.ask(t, at(f.server, markerPort), "mark")
			v.ask(t, at(f.server, markerPort), "mark")
		}
	}
}

func TestOutsideReachesNothing(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		for _, f := range families {
			serveUDP(t, h.server, at(f.server, markerPort))
			serveTCP(t, h.first, at(f.first, 22), greet)
		}
		h.mark(t) // neighbours are known from now on
		outside := capture(t, h.server, "eth0")
		inside := capture(t, h.first, "eth0")
		guest := capture(t, h.visitor, "eth0")
		for _, f := range families {
			for _, to := range []netip.Addr{f.outside, f.inside, f.guest, f.first, f.visitor, near(f.first, 200)} {
				knock(t, h.server, f, f.server, to)
			}
		}
		h.mark(t)
		nothingCame(t, outside, markerPort)
		nothingCame(t, inside, markerPort)
		nothingCame(t, guest, markerPort)
	})
}

func TestInsideAndGuestsAreApart(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		for _, f := range families {
			serveUDP(t, h.server, at(f.server, markerPort))
			serveTCP(t, h.first, at(f.first, 22), greet)
			serveTCP(t, h.visitor, at(f.visitor, 22), greet)
		}
		h.mark(t)
		inside := capture(t, h.first, "eth0")
		guest := capture(t, h.visitor, "eth0")
		for _, f := range families {
			knock(t, h.first, f, f.first, f.visitor)
			knock(t, h.visitor, f, f.visitor, f.first)
			knock(t, h.visitor, f, f.visitor, f.guest) // nor is there anything of the gateway's for guests
			knock(t, h.visitor, f, f.visitor, f.inside)
		}
		h.mark(t)
		nothingButRefusals(t, inside, markerPort)
		nothingButRefusals(t, guest, markerPort)
	})
}

func TestInsideReachesTheGateway(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			p := openPing(t, h.first, f, f.first)
			p.ping(t, f.inside, 5, 1)
			p.ping(t, f.outside, 5, 2)
			c, err := h.first.DialFrom(t.Context(), &net.TCPAddr{IP: f.first.AsSlice()}, "tcp", at(f.inside, 2222).String())
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a closed port of the gateway: %v, want connection refused", err)
			}
			line := "icmp 1 29 src=%v dst=%v type=8 code=0 id=5 src=%v dst=%v type=0 code=0 id=5 mark=0 use=1"
			if !f.is4() {
				line = "icmpv6 58 29 src=%v dst=%v type=128 code=0 id=5 src=%v dst=%v type=129 code=0 id=5 mark=0 use=1"
			}
			h.wantFlow(t, fmt.Sprintf(line, f.first, f.inside, f.inside, f.first))
		})
	})
}

// TestReversePath sends to a forwarded port from outside, with sources that are
// not the sender's own.
func TestReversePath(t *testing.T) {
	for _, tt := range []struct {
		mode                string
		nft                 string
		ofInside, ofNowhere bool // whether such packets pass
	}{
		{"strict", `iifname "wan0" fib saddr . iif oif missing drop`, false, false},
		{"loose", `iifname "wan0" fib saddr oif missing drop`, true, false},
		{"off", ``, true, true},
	} {
		t.Run("rpf="+tt.mode, func(t *testing.T) {
			s := setup{
				config: forwarding.config, prerouting: forwarding.prerouting,
				wan: `rpf = "` + tt.mode + `"`, raw: tt.nft, outside: onlyTheServer,
			}
			eachGateway(t, s, func(t *testing.T, h *house) {
				eachFamily(t, func(t *testing.T, f *family) {
					inside := capture(t, h.first, "eth0")
					serveUDP(t, h.first, at(f.first, openPort+toInside))
					target := at(f.outside, openPort)
					spoofed := map[netip.Addr]bool{f.second: tt.ofInside, f.nowhere(): tt.ofNowhere}
					for src := range spoofed {
						from := at(src, 12345)
						sendRaw(t, h.server, target.Addr(), fragment{data: udpDatagram(t, from, target, []byte("spoofed"))}.packet(src, target.Addr(), 1))
					}
					bindUDP(t, h.server, at(f.server, 0)).ask(t, target, "honest")
					must(t, inside.Close())
					for src, want := range spoofed {
						n := inside.Count(func(g netns.Frame) bool {
							return !g.Outgoing && g.UDP() != nil && g.UDP().SrcPort == 12345 && sourceOf(g) == src
						})
						if (n > 0) != want {
							t.Errorf("a packet from %v: passed is %v, want %v", src, n > 0, want)
						}
					}
				})
			})
		})
	}
}

// nowhere is an address that no route leads to.
func (f *family) nowhere() netip.Addr {
	if f.is4() {
		return netip.MustParseAddr("192.0.2.99")
	}
	return netip.MustParseAddr("2001:db8:ffff::99")
}

func sourceOf(g netns.Frame) netip.Addr {
	a, _ := netip.AddrFromSlice(g.NetworkLayer().NetworkFlow().Src().Raw())
	return a
}
