//go:build netns

package e2e

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

func TestTracerouteFromInside(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			p := openPing(t, h.first, f, f.first)
			hops := []netip.Addr{f.inside, f.up, f.server}
			for i, hop := range hops {
				d := bindUDP(t, h.first, at(f.first, 0))
				d.ttl(t, i+1)
				target := at(f.server, uint16(33434+i))
				_, err := d.WriteToUDPAddrPort([]byte("how far?"), target)
				must(t, err)
				p.wait(t, hop, about(at(f.first, d.port()), target))
			}
		})
	})
}

// TestTracerouteToAForwardedPort ends at the gateway's address: the host behind it
// answers in its name.
func TestTracerouteToAForwardedPort(t *testing.T) {
	eachGateway(t, forwarding, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			p := openPing(t, h.server, f, f.server)
			d := bindUDP(t, h.server, at(f.server, 0))
			target := at(f.outside, tracedPort)
			// The last hop first: without a flow, the kernel quotes the inside
			// address to the outside.
			for _, hop := range []struct {
				ttl  int
				from netip.Addr
			}{{3, f.outside}, {1, f.down}, {2, f.outside}} {
				d.ttl(t, hop.ttl)
				_, err := d.WriteToUDPAddrPort([]byte("how far?"), target)
				must(t, err)
				m := p.wait(t, hop.from, about(at(f.server, d.port()), target))
				if m.quoted.damaged {
					t.Errorf("hop %d quotes an IP header with a wrong checksum", hop.ttl)
				}
			}
		})
	})
}

// TestTracerouteShowsNoInsideAddress is the same for the first packet of a flow.
func TestTracerouteShowsNoInsideAddress(t *testing.T) {
	onlyCulvert(t, forwarding, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			p := openPing(t, h.server, f, f.server)
			d := bindUDP(t, h.server, at(f.server, 0))
			target := at(f.outside, tracedPort)
			d.ttl(t, 2)
			_, err := d.WriteToUDPAddrPort([]byte("how far?"), target)
			must(t, err)
			p.wait(t, f.outside, about(at(f.server, d.port()), target))
		})
	})
}

// TestEachHopCountsOne expects that the gateway takes one from the time to live.
func TestEachHopCountsOne(t *testing.T) {
	const hosts = 64 // what they send with
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			inside, outside := capture(t, h.first, "eth0"), capture(t, h.server, "eth0")
			service := at(f.server, 7003)
			serveUDP(t, h.server, service)
			bindUDP(t, h.first, at(f.first, 0)).ask(t, service, "hello")
			for _, c := range []*netns.Capture{inside, outside} {
				frame, err := c.Wait(t.Context(), func(g netns.Frame) bool {
					return !g.Outgoing && g.UDP() != nil && (g.UDP().SrcPort == 7003 || g.UDP().DstPort == 7003)
				})
				must(t, err)
				if got := ttlOf(frame); got != hosts-2 {
					t.Errorf("after two hops the time to live is %d, want %d", got, hosts-2)
				}
			}
		})
	})
}

func ttlOf(g netns.Frame) uint8 {
	switch ip := g.NetworkLayer().(type) {
	case *layers.IPv4:
		return ip.TTL
	case *layers.IPv6:
		return ip.HopLimit
	}
	return 0
}

// capture starts a capture that ends with the lab.
func capture(t *testing.T, host *netns.Host, ifname string) *netns.Capture {
	t.Helper()
	c, err := host.Capture(ifname)
	must(t, err)
	return c
}

// noClamp has TCP find out by itself how much the path takes.
const noClamp = `mss_clamp = "off"`

// narrowing gets narrower on the way out, widening on the way in.
var (
	narrowing = setup{transitMTU: 1440, serverMTU: 1300, wan: noClamp}
	widening  = setup{insideMTU: 1350, wan: noClamp, config: forwarding.config, prerouting: forwarding.prerouting}
)

// headers of a UDP datagram.
func headers(f *family) int {
	if f.is4() {
		return 28
	}
	return 48
}

// mtuDiscovery says what becomes of datagrams that are too long.
func (d datagrams) mtuDiscovery(t *testing.T, how int) {
	t.Helper()
	d.option(t, unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, how)
}

// tooBig sends a packet of length bytes that must not be fragmented and expects
// to be told an MTU by a hop.
func tooBig(t *testing.T, host *netns.Host, f *family, p pinger, from, to netip.AddrPort, length int, hop netip.Addr, mtu int) {
	t.Helper()
	d := bindUDP(t, host, from)
	d.mtuDiscovery(t, unix.IP_PMTUDISC_PROBE) // do not fragment, and believe in no limit
	_, err := d.WriteToUDPAddrPort(make([]byte, length-headers(f)), to)
	must(t, err)
	m := p.wait(t, hop, about(at(from.Addr(), d.port()), to))
	if m.mtu != mtu {
		t.Errorf("%v says the path takes %d bytes, want %d", hop, m.mtu, mtu)
	}
	if m.quoted.damaged {
		t.Errorf("%v quotes an IP header with a wrong checksum", hop)
	}
}

func TestPathMTUFromInside(t *testing.T) {
	eachGateway(t, narrowing, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service := at(f.server, 7004)
			serveTCP(t, h.server, service, bulkService)
			serveUDP(t, h.server, service)
			p := openPing(t, h.first, f, f.first)
			tooBig(t, h.first, f, p, at(f.first, 0), service, 1500, f.inside, 1440) // the gateway's own
			tooBig(t, h.first, f, p, at(f.first, 0), service, 1440, f.up, 1300)     // the router's, translated

			// The second host knows nothing yet.
			c := dial(t, h.second, at(f.second, 0), service)
			must(t, transfer(c, upload, 1<<20, patience))
			must(t, transfer(c, download, 1<<20, patience))
		})
	})
}

func TestPathMTUFromOutside(t *testing.T) {
	eachGateway(t, widening, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			inside, outside := at(f.first, openPort+toInside), at(f.outside, openPort)
			serveUDP(t, h.first, inside)
			from := at(f.server, 30005)
			bindUDP(t, h.server, from).ask(t, outside, "there is a flow now")
			p := openPing(t, h.server, f, f.server)
			tooBig(t, h.server, f, p, at(f.server, 30006), outside, 1400, f.outside, 1350)

			serveTCP(t, h.first, inside, bulkService)
			c := dial(t, h.server, at(f.server, 0), outside)
			must(t, transfer(c, upload, 1<<20, patience))
			must(t, transfer(c, download, 1<<20, patience))
		})
	})
}

// TestLargeFramesThroughANarrowWaist has both ends believe in 1500 bytes while
// the link in the middle takes 1400: frames of 64 KB that offloads have made must
// be refused with the right size, and what follows must fit.
func TestLargeFramesThroughANarrowWaist(t *testing.T) {
	eachGateway(t, setup{transitMTU: 1400, wan: noClamp}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service := at(f.server, 7008)
			serveTCP(t, h.server, service, bulkService)
			c := dial(t, h.first, at(f.first, 0), service)
			must(t, transfer(c, upload, 8<<20, patience))
			must(t, transfer(c, download, 8<<20, patience))
		})
	})
}

// TestConnectionsFitTheNarrowOutside has a link of 1492 bytes outside, as PPPoE has,
// and both ends believe in 1500. The size that a connection announces is lowered
// on the way out, and by Culvert on the way back, too: then nobody needs to be told
// that a packet was too long. The kernel needs a rule for the one direction.
func TestConnectionsFitTheNarrowOutside(t *testing.T) {
	eachGateway(t, setup{transitMTU: 1492, forward: "oifname wan0 tcp flags syn tcp option maxseg size set rt mtu"}, clamped)
	t.Run("mtu in the configuration", func(t *testing.T) {
		onlyCulvert(t, setup{wan: "mtu = 1492"}, clamped)
	})
}

func clamped(t *testing.T, h *house) {
	eachFamily(t, func(t *testing.T, f *family) {
		service := at(f.server, 7010)
		serveTCP(t, h.server, service, bulkService)
		outside, inside := capture(t, h.server, "eth0"), capture(t, h.first, "eth0")
		c := dial(t, h.first, at(f.first, 0), service)
		want := uint16(1492 - 40)
		if !f.is4() {
			want -= 20
		}
		announced(t, outside, service.Port(), firstSYN, want)
		if h.gw.Kind() == netns.Culvert {
			announced(t, inside, service.Port(), answeringSYN, want)
		}
		must(t, transfer(c, upload, 1<<20, patience))
		if h.gw.Kind() == netns.Culvert {
			must(t, transfer(c, download, 1<<20, patience))
			for _, g := range append(inside.Frames(), outside.Frames()...) {
				if size, ok := tellsMTU(g); ok && !g.Outgoing {
					t.Errorf("somebody is told that %d bytes fit", size)
				}
			}
		}
	})
}

// handshake is the direction of the first two segments of a connection.
type handshake uint8

const (
	firstSYN handshake = iota
	answeringSYN
)

// announced expects the first segment of a connection to or from a port to carry an
// MSS.
func announced(t *testing.T, c *netns.Capture, port uint16, which handshake, want uint16) {
	t.Helper()
	g, err := c.Wait(t.Context(), func(g netns.Frame) bool {
		h := g.TCP()
		return h != nil && !g.Outgoing && h.SYN && h.ACK == (which == answeringSYN) && (uint16(h.DstPort) == port || uint16(h.SrcPort) == port)
	})
	must(t, err)
	for _, o := range g.TCP().Options {
		if o.OptionType == layers.TCPOptionKindMSS {
			if got := binary.BigEndian.Uint16(o.OptionData); got != want {
				t.Errorf("the MSS that arrives is %d, want %d", got, want)
			}
			return
		}
	}
	t.Error("no MSS is announced")
}

// tellsMTU returns what an ICMP error says fits.
func tellsMTU(g netns.Frame) (uint32, bool) {
	if m, ok := g.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok && m.TypeCode == layers.CreateICMPv4TypeCode(3, 4) {
		return uint32(m.Seq), true
	}
	if m, ok := g.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok && m.TypeCode.Type() == layers.ICMPv6TypePacketTooBig && len(m.Payload) >= 4 {
		return binary.BigEndian.Uint32(m.Payload), true
	}
	return 0, false
}

// TestDatagramsThatMayBeFragmentedAre sends an IPv4 packet without DF into a
// narrower link. IPv6 has no such packets.
func TestDatagramsThatMayBeFragmentedAre(t *testing.T) {
	eachGateway(t, narrowing, func(t *testing.T, h *house) {
		f := &ipv4
		outside := capture(t, h.router, "up0")
		service := at(f.server, 7005)
		serveUDP(t, h.server, service)
		d := bindUDP(t, h.first, at(f.first, 0))
		d.mtuDiscovery(t, unix.IP_PMTUDISC_DONT)
		d.ask(t, service, text(1500-headers(f)))
		_, err := outside.Wait(t.Context(), func(g netns.Frame) bool {
			ip, ok := g.NetworkLayer().(*layers.IPv4)
			return ok && !g.Outgoing && ip.Flags&layers.IPv4MoreFragments != 0 && ip.Length <= 1440
		})
		must(t, err)
	})
}

// text is n bytes in which no part is like another.
func text(n int) string {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var b strings.Builder
	for b.Len() < n {
		b.WriteByte(byte('a' + r.IntN(26)))
	}
	return b.String()
}

func TestFragmentedDatagramsPassBothWays(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service := at(f.server, 7006)
			serveUDP(t, h.server, service)
			d := bindUDP(t, h.first, at(f.first, 30007))
			for _, size := range []int{1473, 8192, 65000} {
				if seen := d.ask(t, service, text(size)); seen != at(f.outside, 30007) {
					t.Errorf("the server sees %v, want %v", seen, at(f.outside, 30007))
				}
			}
		})
	})
}

func TestFragmentsMayComeInAnyOrder(t *testing.T) {
	orders := map[string][]int{
		"the last one first":                 {3, 2, 1, 0},
		"the first one last":                 {1, 2, 3, 0},
		"one before the first":               {1, 0, 2, 3},
		"the last one overtakes the middle":  {0, 3, 1, 2},
		"in order, the first fragment alone": {0, 1, 2, 3},
	}
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service := at(f.server, 7007)
			serveUDP(t, h.server, service)
			id := uint32(4711)
			for name, order := range orders {
				id++
				t.Run(name, func(t *testing.T) {
					d := bindUDP(t, h.first, at(f.first, 0))
					payload := text(4000)
					from := at(f.first, d.port())
					pieces := cut(udpDatagram(t, from, service, []byte(payload)), 1024)
					var packets [][]byte
					for _, i := range order {
						packets = append(packets, pieces[i].packet(from.Addr(), service.Addr(), id))
					}
					sendRaw(t, h.first, f.server, packets...)
					if seen := d.answer(t, service, payload); seen.Addr() != f.outside {
						t.Errorf("the server sees %v, want %v", seen, f.outside)
					}
				})
			}
		})
	})
}

func TestFragmentsAreCutWhole(t *testing.T) {
	whole := []byte(text(4008))
	var joined []byte
	for _, g := range cut(whole, 1024) {
		joined = slices.Concat(joined, g.data)
	}
	if !bytes.Equal(joined, whole) {
		t.Error("the fragments of a datagram are not the datagram")
	}
}
