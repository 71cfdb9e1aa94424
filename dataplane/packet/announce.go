package packet

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"example.com/culvert/conntrack/tuple"
)

const (
	arpLen = 28
	ndLen  = 32 // NS or NA with one link-layer address option
	dadLen = 24 // NS without options
)

var (
	broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodesMAC  = [6]byte{0x33, 0x33, 0, 0, 0, 1}
	allNodes     = tuple.Addr{0: 0xff, 1: 0x02, 15: 1}
)

// Announce builds the frame that tells a link who has addr now: an ARP
// announcement (RFC 5227 section 2.3) or an unsolicited neighbour advertisement
// with the override flag (RFC 4861 section 7.2.6). buf has at least AnswerLen bytes.
func Announce(dst *Packet, buf []byte, mac [6]byte, addr tuple.Addr) {
	if addr.Is4() {
		arpRequest(dst, buf, mac, addr.As4(), addr.As4())
		return
	}
	const routerOverride = 0xa0000000
	m := ndFrame(dst, buf, mac, allNodesMAC, ndLen, addr, allNodes)
	ndMessage(m, 136, routerOverride, addr)
	m[24], m[25] = 2, 1 // target link-layer address, 8 bytes
	copy(m[26:], mac[:])
	sealND(dst)
}

// Probe builds the frame that asks whether somebody else has addr, before it is
// used: an ARP probe (RFC 5227 section 2.1.1) or the neighbour solicitation of
// duplicate address detection (RFC 4862 section 5.4.2). Neither changes anybody's
// cache. buf has at least AnswerLen bytes.
func Probe(dst *Packet, buf []byte, mac [6]byte, addr tuple.Addr) {
	if addr.Is4() {
		arpRequest(dst, buf, mac, [4]byte{}, addr.As4())
		return
	}
	group := tuple.Addr{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: addr[13], 14: addr[14], 15: addr[15]}
	groupMAC := [6]byte{0x33, 0x33, 0xff, addr[13], addr[14], addr[15]}
	m := ndFrame(dst, buf, mac, groupMAC, dadLen, unspecified6, group)
	ndMessage(m, 135, 0, addr)
	sealND(dst)
}

// arpRequest builds a broadcast ARP request (RFC 826).
func arpRequest(dst *Packet, buf []byte, mac [6]byte, sender, target [4]byte) {
	a := etherFrame(dst, buf, mac, broadcastMAC, EtherARP, arpLen)
	copy(a, []byte{0, 1, 0x08, 0, 6, 4, 0, 1})
	copy(a[8:], mac[:])
	copy(a[14:], sender[:])
	copy(a[24:], target[:])
}

// etherFrame starts a frame with size zeroed bytes after the Ethernet header,
// which it returns.
func etherFrame(dst *Packet, buf []byte, src, to [6]byte, etherType uint16, size int) []byte {
	*dst = Packet{Mem: buf, Off: Headroom, End: Headroom + etherLen + size, Link: LinkEthernet, EtherType: etherType}
	f := dst.Frame()
	clear(f)
	copy(f, to[:])
	copy(f[6:], src[:])
	be.PutUint16(f[12:], etherType)
	dst.L3 = dst.Off + etherLen
	dst.L4, dst.Payload = dst.L3, dst.L3
	return f[etherLen:]
}

// ndFrame starts a frame with a neighbour discovery message of size bytes, which
// it returns.
func ndFrame(dst *Packet, buf []byte, mac, to [6]byte, size int, src, group tuple.Addr) []byte {
	const hopLimit = 255 // RFC 4861 section 7.1
	ip := etherFrame(dst, buf, mac, to, EtherIPv6, ipv6Len+size)
	putHeader(ip, tuple.IPv6, tuple.ICMPv6, src, group)
	ip[7] = hopLimit
	return ip[ipv6Len:]
}

// ndMessage fills the fixed part of a solicitation or advertisement.
func ndMessage(m []byte, typ uint8, flags uint32, target tuple.Addr) {
	m[0] = typ
	be.PutUint32(m[4:], flags)
	copy(m[8:], target[:])
}

// sealND writes the checksum of the message in dst and parses it.
func sealND(dst *Packet) {
	ip := dst.Mem[dst.L3:dst.End]
	m := ip[ipv6Len:]
	sum := fold(uint64(sumWords(ip[8:40])) + uint64(tuple.ICMPv6) + uint64(len(m)))
	be.PutUint16(m[2:], ^checksum.Checksum(m, sum))
	Parse(dst)
}
