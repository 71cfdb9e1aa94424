package vnet

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// macOf returns the link-layer address that stands for a in every net.
func macOf(a netip.Addr) tcpip.LinkAddress {
	b := a.As16()
	return tcpip.LinkAddress([]byte{0x06, b[11], b[12], b[13], b[14], b[15]})
}

// Addresses returns source and destination of an IP packet; it must have a whole header.
func Addresses(ip []byte) (src, dst netip.Addr) {
	if header.IPVersion(ip) == header.IPv6Version {
		h := header.IPv6(ip)
		return netip.AddrFrom16(h.SourceAddress().As16()), netip.AddrFrom16(h.DestinationAddress().As16())
	}
	h := header.IPv4(ip)
	return netip.AddrFrom4(h.SourceAddress().As4()), netip.AddrFrom4(h.DestinationAddress().As4())
}

// ethernet puts a header in front of an IP packet.
func ethernet(dst [6]byte, src tcpip.LinkAddress, ip []byte) []byte {
	proto := header.IPv4ProtocolNumber
	if header.IPVersion(ip) == header.IPv6Version {
		proto = header.IPv6ProtocolNumber
	}
	return frame(tcpip.LinkAddress(dst[:]), src, proto, ip)
}

func frame(dst, src tcpip.LinkAddress, proto tcpip.NetworkProtocolNumber, body []byte) []byte {
	f := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(body))
	header.Ethernet(f).Encode(&header.EthernetFields{SrcAddr: src, DstAddr: dst, Type: proto})
	return append(f, body...)
}

// arpReply answers request a for the station mac.
func arpReply(a header.ARP, mac tcpip.LinkAddress) []byte {
	r := header.ARP(make([]byte, header.ARPSize))
	r.SetIPv4OverEthernet()
	r.SetOp(header.ARPReply)
	copy(r.HardwareAddressSender(), mac)
	copy(r.ProtocolAddressSender(), a.ProtocolAddressTarget())
	copy(r.HardwareAddressTarget(), a.HardwareAddressSender())
	copy(r.ProtocolAddressTarget(), a.ProtocolAddressSender())
	return frame(tcpip.LinkAddress(a.HardwareAddressSender()), mac, header.ARPProtocolNumber, r)
}

// ndpMessage returns the ICMPv6 message of an IPv6 packet that belongs to the link, nil for any other.
func ndpMessage(ip []byte) header.ICMPv6 {
	h := header.IPv6(ip)
	if len(ip) < header.IPv6MinimumSize+header.ICMPv6MinimumSize || h.TransportProtocol() != header.ICMPv6ProtocolNumber {
		return nil
	}
	m := header.ICMPv6(h.Payload())
	if m.Type() < header.ICMPv6RouterSolicit || m.Type() > header.ICMPv6RedirectMsg {
		return nil
	}
	return m
}

func isNDP(ip []byte) bool { return ndpMessage(ip) != nil }

// solicitation returns the neighbour solicitation in ip, nil if it is none.
func solicitation(ip []byte) header.NDPNeighborSolicit {
	m := ndpMessage(ip)
	if m == nil || m.Type() != header.ICMPv6NeighborSolicit || len(m) < header.ICMPv6NeighborSolicitMinimumSize {
		return nil
	}
	return header.NDPNeighborSolicit(m.MessageBody())
}

// advertisement answers solicitation ns, which came in ip, for the station mac.
func advertisement(ip header.IPv6, ns header.NDPNeighborSolicit, mac tcpip.LinkAddress) []byte {
	const size = header.ICMPv6NeighborAdvertMinimumSize + 8
	b := make([]byte, header.IPv6MinimumSize+size)
	src, dst := ns.TargetAddress(), ip.SourceAddress()
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: size, TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: header.NDPHopLimit, SrcAddr: src, DstAddr: dst,
	})
	m := header.ICMPv6(b[header.IPv6MinimumSize:])
	m.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(m.MessageBody())
	na.SetTargetAddress(src)
	na.SetSolicitedFlag(true)
	na.SetOverrideFlag(true)
	na.Options().Serialize(header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(mac)})
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: src, Dst: dst}))
	asker := header.NDPNeighborSolicit(ns).Options()
	to := tcpip.LinkAddress(asker[2:8])
	return frame(to, mac, header.IPv6ProtocolNumber, b)
}
