// Package tuple holds the values that name a flow: addresses, ports, protocol
// and zone, seen from one direction.
//
// A Tuple is a plain comparable value of 40 bytes without pointers, so that it
// can live in the off-heap flow record, be hashed as five words and be compared
// with ==. Both address families share the form: an IPv4 address is kept as
// ::ffff:a.b.c.d, and Family says which it is.
//
// Port fields follow netfilter's tuples:
//
//	protocol                          SrcPort            DstPort
//	TCP, UDP, UDP-Lite, SCTP, DCCP    source port        destination port
//	ICMP, ICMPv6 queries              identifier         type<<8 | code
//	GRE version 1 (PPTP)              source call id     destination call id
//	everything else                   0                  0
package tuple

import (
	"fmt"
	"net/netip"
)

// Direction says which way a packet goes through its flow. It indexes arrays;
// there is no bool for it anywhere.
type Direction uint8

const (
	Original Direction = iota // as the flow's first packet
	Reply                     // as its answers
	NumDirections
)

// Other returns the opposite direction.
func (d Direction) Other() Direction { return d ^ 1 }

func (d Direction) String() string {
	switch d {
	case Original:
		return "original"
	case Reply:
		return "reply"
	}
	return fmt.Sprintf("direction(%d)", uint8(d))
}

// Address families, with the numbers of Linux's AF_INET and AF_INET6 (they are
// printed by the extended conntrack format).
const (
	IPv4 uint8 = 2
	IPv6 uint8 = 10
)

// IP protocol numbers with a meaning to the tracker.
const (
	ICMP    uint8 = 1
	TCP     uint8 = 6
	UDP     uint8 = 17
	DCCP    uint8 = 33
	GRE     uint8 = 47
	ICMPv6  uint8 = 58
	SCTP    uint8 = 132
	UDPLite uint8 = 136
)

// Addr is an IPv4 (as ::ffff:a.b.c.d) or IPv6 address.
type Addr [16]byte

// AddrFrom converts a netip address. Zones of scoped addresses are dropped. The
// zero netip.Addr gives the zero Addr.
func AddrFrom(a netip.Addr) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	return a.As16()
}

// AddrFrom4 maps the four bytes of an IPv4 address.
func AddrFrom4(b [4]byte) Addr {
	return Addr{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
}

// Is4 reports whether a is an IPv4 address in its mapped form.
func (a *Addr) Is4() bool {
	return a[10] == 0xff && a[11] == 0xff &&
		a[0]|a[1]|a[2]|a[3]|a[4]|a[5]|a[6]|a[7]|a[8]|a[9] == 0
}

// As4 returns the four bytes of an IPv4 address.
func (a *Addr) As4() [4]byte { return [4]byte(a[12:]) }

// Netip returns a in its family's own form.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

func (a Addr) String() string { return a.Netip().String() }

// Tuple names one direction of a flow. The zero Tuple names nothing.
type Tuple struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16 // host byte order; see the package comment
	Proto            uint8
	Family           uint8  // IPv4 or IPv6
	Zone             uint16 // conntrack zone of this direction
}

// icmpInverse gives the type of the answer to a query plus one; zero: no query.
var icmpInverse = [256]uint8{
	8: 0 + 1, 0: 8 + 1, // echo
	13: 14 + 1, 14: 13 + 1, // timestamp
	15: 16 + 1, 16: 15 + 1, // information
	17: 18 + 1, 18: 17 + 1, // address mask
}

// icmpv6Inverse is the same for ICMPv6: echo, and node information (RFC 4620).
var icmpv6Inverse = [256]uint8{128: 129 + 1, 129: 128 + 1, 139: 140 + 1, 140: 139 + 1}

// Inverse returns the tuple of a packet that answers one with tuple t, in the
// same zone. It reports false when there is no such packet: an ICMP message
// that is neither a query nor an answer.
func (t Tuple) Inverse() (r Tuple, ok bool) {
	ok = r.Answer(&t)
	return r, ok
}

// Answer makes t the Inverse of another tuple and reports whether there is one; if
// not, t is the zero Tuple.
func (t *Tuple) Answer(to *Tuple) bool {
	t.turn(to)
	if !IsICMP(to.Proto) {
		return true
	}
	table := &icmpInverse
	if to.Proto == ICMPv6 {
		table = &icmpv6Inverse
	}
	inv := table[to.DstPort>>8]
	if inv == 0 {
		*t = Tuple{}
		return false
	}
	t.SrcPort, t.DstPort = to.SrcPort, uint16(inv-1)<<8|to.DstPort&0xff
	return true
}

// HasPorts reports whether proto carries ports that NAT may choose.
func HasPorts(proto uint8) bool {
	switch proto {
	case TCP, UDP, UDPLite, SCTP, DCCP:
		return true
	}
	return false
}

// IsICMP reports whether proto is ICMP or ICMPv6.
func IsICMP(proto uint8) bool { return proto == ICMP || proto == ICMPv6 }

// PortBuckets is how many classes PortBucket has.
const PortBuckets = 64

// PortBucket returns the class of a port, or of the exclusive or of two. It is linear:
// the class of a^b is that of a, exclusive or that of b. Each 64 ports in a row have
// all classes once.
func PortBucket(x uint16) uint8 { return uint8((x ^ x>>6 ^ x>>12) & (PortBuckets - 1)) }

// String formats t for people: "tcp 10.0.0.5:40000 > 198.51.100.7:443", and GRE of a
// call with its ids: "gre 10.0.0.5:7 > 198.51.100.7:21".
func (t Tuple) String() string {
	zone := ""
	if t.Zone != 0 {
		zone = fmt.Sprintf(" zone %d", t.Zone)
	}
	switch {
	case HasPorts(t.Proto), t.Proto == GRE && t.SrcPort != 0 && t.DstPort != 0:
		return fmt.Sprintf("%s %v > %v%s", ProtoName(t.Proto),
			netip.AddrPortFrom(t.Src.Netip(), t.SrcPort), netip.AddrPortFrom(t.Dst.Netip(), t.DstPort), zone)
	case IsICMP(t.Proto):
		return fmt.Sprintf("%s %v > %v type %d code %d id %d%s", ProtoName(t.Proto), t.Src, t.Dst,
			t.DstPort>>8, t.DstPort&0xff, t.SrcPort, zone)
	}
	call := ""
	if t.Proto == GRE && t.DstPort != 0 { // a packet alone does not say its sender's id
		call = fmt.Sprintf(" call %d", t.DstPort)
	}
	return fmt.Sprintf("%s %v > %v%s%s", ProtoName(t.Proto), t.Src, t.Dst, call, zone)
}

// ProtoName returns the name conntrack(8) prints for proto, "unknown" if it has none.
func ProtoName(proto uint8) string {
	switch proto {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case DCCP:
		return "dccp"
	case GRE:
		return "gre"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	case UDPLite:
		return "udplite"
	}
	return "unknown"
}
