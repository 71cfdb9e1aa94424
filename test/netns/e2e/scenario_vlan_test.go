//go:build netns

package e2e

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// Tags of the trunk. This machine's kernel may have no VLAN devices, so a station
// behind a tag is made of crafted frames.
const (
	declaredTag   = 10
	undeclaredTag = 11
)

var stationMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x10}

// trunk declares one tag of the inside interface.
var trunk = setup{config: `
[[interface]]
name = "lan0.10"
parent = "lan0"
vlan = 10
area = "lan"
addresses = ["10.10.0.1/24", "fd00:10::1/64"]
`}

// TestTaggedFrames has a station behind a declared tag of the inside interface
// talk to the server, and one behind an undeclared tag be counted.
func TestTaggedFrames(t *testing.T) {
	onlyCulvert(t, trunk, func(t *testing.T, h *house) {
		serveUDP(t, h.server, at(ipv4.server, 7010))
		wire := capture(t, h.first, "eth0")
		st := &station{t: t, host: h.first, wire: wire, self: netip.MustParseAddr("10.10.0.5"), gateway: netip.MustParseAddr("10.10.0.1")}

		st.sendARP(layers.ARPRequest, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, declaredTag)
		reply := st.waitFor(declaredTag, func(g netns.Frame) bool {
			arp, ok := g.Layer(layers.LayerTypeARP).(*layers.ARP)
			return ok && arp.Operation == layers.ARPReply && netip.AddrFrom4([4]byte(arp.SourceProtAddress)) == st.gateway
		})
		gateway := reply.LinkLayer().(*layers.Ethernet).SrcMAC

		st.sendUDP(gateway, declaredTag, at(ipv4.server, 7010))
		// The gateway knows the station by what it asked, or asks now.
		st.answerARP(gateway)
		answer := st.waitFor(declaredTag, func(g netns.Frame) bool { return g.UDP() != nil && g.UDP().SrcPort == 7010 })
		if got := string(answer.UDP().Payload); !strings.HasPrefix(got, ipv4.outside.String()+":") {
			t.Errorf("the server sees %q, want %v", got, ipv4.outside)
		}

		st.sendUDP(gateway, undeclaredTag, at(ipv4.server, 7011))
		until(t, "the undeclared tag is counted", func() bool {
			out, err := h.gw.Ctl(t.Context(), "counters")
			must(t, err)
			return strings.Contains(out, " unknown-vlan ")
		})
		if n := wire.Count(func(g netns.Frame) bool { return !g.Outgoing && tagOf(g) == undeclaredTag }); n > 0 {
			t.Errorf("%d frames answer an undeclared tag", n)
		}
	})
}

// station is a host behind a tag.
type station struct {
	t             *testing.T
	host          *netns.Host // whose interface it uses
	wire          *netns.Capture
	self, gateway netip.Addr
}

func tagOf(g netns.Frame) uint16 {
	if tag, ok := g.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); ok {
		return tag.VLANIdentifier
	}
	return 0
}

// waitFor waits for a frame with a tag that the gateway has sent.
func (s *station) waitFor(tag uint16, match func(netns.Frame) bool) netns.Frame {
	s.t.Helper()
	g, err := s.wire.Wait(s.t.Context(), func(g netns.Frame) bool { return !g.Outgoing && tagOf(g) == tag && match(g) })
	must(s.t, err)
	return g
}

func (s *station) arp(operation uint16, to net.HardwareAddr) *layers.ARP {
	return &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: operation, SourceHwAddress: stationMAC, SourceProtAddress: s.self.AsSlice(),
		DstHwAddress: to, DstProtAddress: s.gateway.AsSlice(),
	}
}

func (s *station) sendARP(operation uint16, to net.HardwareAddr, tag uint16) {
	s.t.Helper()
	s.send(to, tag, layers.EthernetTypeARP, s.arp(operation, to))
}

// answerARP tells the gateway, whether it has asked or not, who the station is.
func (s *station) answerARP(gateway net.HardwareAddr) {
	s.t.Helper()
	s.waitFor(declaredTag, func(g netns.Frame) bool {
		arp, ok := g.Layer(layers.LayerTypeARP).(*layers.ARP)
		return ok && (arp.Operation == layers.ARPRequest && netip.AddrFrom4([4]byte(arp.DstProtAddress)) == s.self || arp.Operation == layers.ARPReply)
	})
	s.sendARP(layers.ARPReply, gateway, declaredTag)
}

func (s *station) sendUDP(gateway net.HardwareAddr, tag uint16, to netip.AddrPort) {
	s.t.Helper()
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: hopLimit, Protocol: layers.IPProtocolUDP, SrcIP: s.self.AsSlice(), DstIP: to.Addr().AsSlice()}
	udp := &layers.UDP{SrcPort: 40010, DstPort: layers.UDPPort(to.Port())}
	must(s.t, udp.SetNetworkLayerForChecksum(ip))
	s.send(gateway, tag, layers.EthernetTypeIPv4, ip, udp, gopacket.Payload("tagged"))
}

func (s *station) send(to net.HardwareAddr, tag uint16, kind layers.EthernetType, rest ...gopacket.SerializableLayer) {
	s.t.Helper()
	b := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: stationMAC, DstMAC: to, EthernetType: layers.EthernetTypeDot1Q},
		&layers.Dot1Q{VLANIdentifier: tag, Type: kind},
	}, rest...)
	must(s.t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	link, err := s.host.Netlink().LinkByName("eth0")
	must(s.t, err)
	must(s.t, s.host.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, b.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index})
	}))
}
