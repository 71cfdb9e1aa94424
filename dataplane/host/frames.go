package host

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// maxLinkFrame is the longest frame that the builders below append.
const maxLinkFrame = header.EthernetMinimumSize + header.IPv6MinimumSize + 32

// hopLimit is that of all neighbour discovery: a higher one cannot exist, so
// such a packet was never forwarded (RFC 4861 section 7.1.1).
const hopLimit = 255

// isNDP reports whether t is a message of neighbour discovery.
func isNDP(t header.ICMPv6Type) bool {
	return t >= header.ICMPv6RouterSolicit && t <= header.ICMPv6RedirectMsg
}

var broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func appendEthernet(b []byte, dst, src [6]byte, proto tcpip.NetworkProtocolNumber) []byte {
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	return append(b, byte(proto>>8), byte(proto))
}

// appendARPRequest appends a frame that asks who has target. With target equal to sender it is
// an announcement (RFC 5227 section 3); the zero sender makes it a probe.
func appendARPRequest(b []byte, dst, mac [6]byte, sender, target netip.Addr) []byte {
	b = appendEthernet(b, dst, mac, header.ARPProtocolNumber)
	at := len(b)
	b = append(b, make([]byte, header.ARPSize)...)
	a := header.ARP(b[at:])
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPRequest)
	copy(a.HardwareAddressSender(), mac[:])
	if sender.IsValid() {
		copy(a.ProtocolAddressSender(), sender.AsSlice())
	}
	copy(a.ProtocolAddressTarget(), target.AsSlice())
	return b
}

// appendSolicit appends a neighbour solicitation for target. A unicast one goes to
// mac dst; the zero dst sends it to the solicited-node group.
func appendSolicit(b []byte, dst, mac [6]byte, sender, target netip.Addr) []byte {
	to := target
	if dst == broadcastMAC {
		to = solicitedNode(target)
		dst = multicastMAC(to)
	}
	b = appendEthernet(b, dst, mac, header.IPv6ProtocolNumber)
	b, body := appendNDP(b, header.ICMPv6NeighborSolicit, sender, to)
	ns := header.NDPNeighborSolicit(body.MessageBody())
	ns.SetTargetAddress(tcpip.AddrFrom16(target.As16()))
	ns.Options().Serialize(header.NDPOptionsSerializer{header.NDPSourceLinkLayerAddressOption(mac[:])})
	sumICMPv6(body, sender, to)
	return b
}

// appendAdvertise appends an unsolicited advertisement of target to all nodes
// (RFC 4861 section 7.2.6).
func appendAdvertise(b []byte, mac [6]byte, target netip.Addr) []byte {
	to := netip.IPv6LinkLocalAllNodes()
	b = appendEthernet(b, multicastMAC(to), mac, header.IPv6ProtocolNumber)
	b, body := appendNDP(b, header.ICMPv6NeighborAdvert, target, to)
	na := header.NDPNeighborAdvert(body.MessageBody())
	na.SetTargetAddress(tcpip.AddrFrom16(target.As16()))
	na.SetRouterFlag(true)
	na.SetOverrideFlag(true)
	na.Options().Serialize(header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(mac[:])})
	sumICMPv6(body, target, to)
	return b
}

// appendNDP appends an IPv6 header and an ICMPv6 message with room for a target and
// one link-layer address.
func appendNDP(b []byte, t header.ICMPv6Type, src, dst netip.Addr) ([]byte, header.ICMPv6) {
	const size = header.ICMPv6NeighborSolicitMinimumSize + 8
	at := len(b)
	b = append(b, make([]byte, header.IPv6MinimumSize+size)...)
	header.IPv6(b[at:]).Encode(&header.IPv6Fields{
		PayloadLength:     size,
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          hopLimit,
		SrcAddr:           tcpip.AddrFrom16(src.As16()),
		DstAddr:           tcpip.AddrFrom16(dst.As16()),
	})
	body := header.ICMPv6(b[at+header.IPv6MinimumSize:])
	body.SetType(t)
	return b, body
}

func sumICMPv6(m header.ICMPv6, src, dst netip.Addr) {
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: m,
		Src:    tcpip.AddrFrom16(src.As16()),
		Dst:    tcpip.AddrFrom16(dst.As16()),
	}))
}

// solicitedNode returns the multicast group in which the owner of a listens (RFC 4291 section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// multicastMAC returns the Ethernet address of an IPv6 group (RFC 2464 section 7).
func multicastMAC(group netip.Addr) [6]byte {
	b := group.As16()
	return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// linkLocal returns the address that mac gives (RFC 4291 appendix A).
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// isQuestion reports whether netstack has to see a frame: whole and valid ARP,
// neighbour solicitations to answer, advertisements that it may have asked for. Nothing else gets
// to it from a link.
func isQuestion(frame []byte) bool {
	if len(frame) < header.EthernetMinimumSize {
		return false
	}
	body := frame[header.EthernetMinimumSize:]
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		return len(body) >= header.ARPSize && header.ARP(body).IsValid()
	case header.IPv6ProtocolNumber:
		m := ndpMessage(header.IPv6(body))
		return m != nil && (m.Type() == header.ICMPv6NeighborSolicit || m.Type() == header.ICMPv6NeighborAdvert)
	}
	return false
}

// markRouter sets the router flag of a neighbour advertisement in frame, without
// which hosts strike the gateway from their default routers (RFC 4861 section 7.2.5). netstack
// itself sets it only where it forwards, which it must not.
func markRouter(frame []byte) {
	ip := header.IPv6(frame[header.EthernetMinimumSize:])
	if header.Ethernet(frame).Type() != header.IPv6ProtocolNumber {
		return
	}
	m := ndpMessage(ip)
	if m == nil || m.Type() != header.ICMPv6NeighborAdvert || len(m) < header.ICMPv6NeighborAdvertMinimumSize {
		return
	}
	header.NDPNeighborAdvert(m.MessageBody()).SetRouterFlag(true)
	m.SetChecksum(0)
	sumICMPv6(m, netip.AddrFrom16(ip.SourceAddress().As16()), netip.AddrFrom16(ip.DestinationAddress().As16()))
}

// claim is what a frame says about who has an address.
type claim struct {
	addr    netip.Addr
	mac     [6]byte
	kind    claimKind
	hasMAC  bool
	keepOld bool // advertisement without the override flag: must not replace another MAC
}

type claimKind uint8

const (
	claimNone    claimKind = iota
	claimAnswer            // solicited: proves that addr is reachable
	claimRequest           // asks for an address, and names its own on the way
	claimNotice            // unsolicited announcement
)

// parseClaim reads what frame, which begins with an Ethernet header, says about its
// sender. Malformed frames claim nothing.
func parseClaim(frame []byte, own [6]byte) (c claim) {
	if len(frame) < header.EthernetMinimumSize {
		return c
	}
	eth := header.Ethernet(frame)
	toUs := eth.DestinationAddress() == tcpip.LinkAddress(own[:])
	body := frame[header.EthernetMinimumSize:]
	switch eth.Type() {
	case header.ARPProtocolNumber:
		c = parseARP(header.ARP(body), toUs)
	case header.IPv6ProtocolNumber:
		c = parseNDP(header.IPv6(body))
	}
	if c.hasMAC && (c.mac[0]&1 != 0 || c.mac == [6]byte{}) { // no station's address
		return claim{}
	}
	if a := c.addr; !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return claim{}
	}
	return c
}

func parseARP(a header.ARP, toUs bool) (c claim) {
	if len(a) < header.ARPSize || !a.IsValid() {
		return c
	}
	c.addr, _ = netip.AddrFromSlice(a.ProtocolAddressSender())
	c.mac, c.hasMAC = [6]byte(a.HardwareAddressSender()), true
	switch {
	case a.Op() == header.ARPReply && toUs:
		c.kind = claimAnswer
	case a.Op() == header.ARPReply || [4]byte(a.ProtocolAddressTarget()) == [4]byte(a.ProtocolAddressSender()):
		c.kind = claimNotice
	default:
		c.kind = claimRequest
	}
	return c
}

// ndpMessage returns the message of neighbour discovery in an IPv6 packet, nil if
// there is none that is valid (RFC 4861 sections 6.1 and 7.1). Extension headers are not
// looked behind: nobody sends neighbour discovery with them.
func ndpMessage(ip header.IPv6) header.ICMPv6 {
	const smallest = header.IPv6MinimumSize + header.ICMPv6MinimumSize
	if len(ip) < smallest || ip.TransportProtocol() != header.ICMPv6ProtocolNumber || ip.HopLimit() != hopLimit {
		return nil
	}
	end := header.IPv6MinimumSize + int(ip.PayloadLength())
	if end < smallest || end > len(ip) {
		return nil
	}
	m := header.ICMPv6(ip[header.IPv6MinimumSize:end])
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(m)))
	if !isNDP(m.Type()) || m.Code() != 0 || checksum.Checksum(m, sum) != 0xffff {
		return nil
	}
	return m
}

func parseNDP(ip header.IPv6) (c claim) {
	m := ndpMessage(ip)
	if m == nil {
		return c
	}
	src := netip.AddrFrom16(ip.SourceAddress().As16())
	switch m.Type() {
	case header.ICMPv6NeighborSolicit:
		if len(m) >= header.ICMPv6NeighborSolicitMinimumSize {
			c = claim{addr: src, kind: claimRequest}
			c.takeMAC(header.NDPNeighborSolicit(m.MessageBody()).Options(), optSource)
		}
	case header.ICMPv6NeighborAdvert:
		if len(m) >= header.ICMPv6NeighborAdvertMinimumSize {
			na := header.NDPNeighborAdvert(m.MessageBody())
			c = claim{addr: netip.AddrFrom16(na.TargetAddress().As16()), kind: claimNotice, keepOld: !na.OverrideFlag()}
			if na.SolicitedFlag() && !header.IsV6MulticastAddress(ip.DestinationAddress()) {
				c.kind = claimAnswer
			}
			c.takeMAC(na.Options(), optTarget)
		}
	case header.ICMPv6RouterAdvert:
		if len(m) >= header.ICMPv6HeaderSize+header.NDPRAMinimumSize {
			c = claim{addr: src, kind: claimNotice}
			c.takeMAC(header.NDPRouterAdvert(m.MessageBody()).Options(), optSource)
		}
	}
	return c
}

// Options of neighbour discovery that carry a link-layer address (RFC 4861 section 4.6.1).
const (
	optSource = 1
	optTarget = 2
)

// takeMAC looks for the link-layer address in options of the given type.
func (c *claim) takeMAC(opts header.NDPOptions, want byte) {
	for len(opts) >= 8 && opts[1] != 0 && len(opts) >= 8*int(opts[1]) {
		if opts[0] == want && opts[1] == 1 {
			c.mac, c.hasMAC = [6]byte(opts[2:8]), true
			return
		}
		opts = opts[8*int(opts[1]):]
	}
}
