//go:build netns

package e2e

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/test/netns"
)

// ndHops is the hop limit of neighbour discovery (RFC 4861, section 7.1).
const ndHops = 255

// TestTaggedFramesOverIPv6 has a station behind a declared tag find the gateway
// by neighbour discovery, be found, and talk to the server.
func TestTaggedFramesOverIPv6(t *testing.T) {
	onlyCulvert(t, trunk, func(t *testing.T, h *house) {
		service := at(ipv6.server, 7010)
		serveUDP(t, h.server, service)
		wire := capture(t, h.first, "eth0")
		st := &station{t: t, host: h.first, wire: wire, self: netip.MustParseAddr("fd00:10::5"), gateway: netip.MustParseAddr("fd00:10::1")}

		st.solicit()
		gateway := st.waitFor(declaredTag, func(g netns.Frame) bool {
			na, ok := g.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
			return ok && na.TargetAddress.Equal(st.gateway.AsSlice()) && !g.NetworkLayer().(*layers.IPv6).DstIP.IsMulticast()
		}).LinkLayer().(*layers.Ethernet).SrcMAC

		ip := st.ipv6(service.Addr(), layers.IPProtocolUDP, hopLimit)
		udp := &layers.UDP{SrcPort: 40010, DstPort: layers.UDPPort(service.Port())}
		must(t, udp.SetNetworkLayerForChecksum(ip))
		st.send(gateway, declaredTag, layers.EthernetTypeIPv6, ip, udp, gopacket.Payload("tagged"))
		st.advertise(gateway)
		answer := st.waitFor(declaredTag, func(g netns.Frame) bool { return g.UDP() != nil && g.UDP().SrcPort == layers.UDPPort(service.Port()) })
		if got := string(answer.UDP().Payload); !strings.HasPrefix(got, "["+ipv6.outside.String()+"]:") {
			t.Errorf("the server sees %q, want %v", got, ipv6.outside)
		}
	})
}

func (s *station) ipv6(to netip.Addr, proto layers.IPProtocol, hops uint8) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: proto, SrcIP: s.self.AsSlice(), DstIP: to.AsSlice()}
}

// discover sends a message of neighbour discovery with the station's own address
// as its option.
func (s *station) discover(to net.HardwareAddr, dst netip.Addr, kind uint8, option layers.ICMPv6Opt, body func(layers.ICMPv6Options) gopacket.SerializableLayer) {
	s.t.Helper()
	ip := s.ipv6(dst, layers.IPProtocolICMPv6, ndHops)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	must(s.t, icmp.SetNetworkLayerForChecksum(ip))
	s.send(to, declaredTag, layers.EthernetTypeIPv6, ip, icmp, body(layers.ICMPv6Options{{Type: option, Data: stationMAC}}))
}

// solicit asks for the gateway.
func (s *station) solicit() {
	s.t.Helper()
	a := s.gateway.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16() // RFC 4291, section 2.7.1
	copy(group[13:], a[13:])
	to := net.HardwareAddr{0x33, 0x33, group[12], group[13], group[14], group[15]}
	s.discover(to, netip.AddrFrom16(group), layers.ICMPv6TypeNeighborSolicitation, layers.ICMPv6OptSourceAddress, func(o layers.ICMPv6Options) gopacket.SerializableLayer {
		return &layers.ICMPv6NeighborSolicitation{TargetAddress: s.gateway.AsSlice(), Options: o}
	})
}

// advertise tells the gateway, whether it asks or knows, who the station is.
func (s *station) advertise(gateway net.HardwareAddr) {
	s.t.Helper()
	const solicitedOverride = 0x60
	s.discover(gateway, s.gateway, layers.ICMPv6TypeNeighborAdvertisement, layers.ICMPv6OptTargetAddress, func(o layers.ICMPv6Options) gopacket.SerializableLayer {
		return &layers.ICMPv6NeighborAdvertisement{Flags: solicitedOverride, TargetAddress: s.self.AsSlice(), Options: o}
	})
}
