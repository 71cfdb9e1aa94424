package packet

import (
	"math"

	"example.com/culvert/conntrack/tuple"
)

const (
	tcpMinLen  = 20
	udpLen     = 8
	dccpMinLen = 12
	sctpMinLen = 12
	icmpLen    = 8
	greMinLen  = 4
)

// noSum is the checksum offset of protocols that have none NAT knows of.
const noSum = math.MaxUint8

// sumOffset returns where the checksum of proto lies in its header, noSum if
// there is none. (SCTP's CRC32c is at 8.)
func sumOffset(proto uint8) int {
	switch proto {
	case tuple.TCP:
		return 16
	case tuple.UDP, tuple.UDPLite, tuple.DCCP:
		return 6
	case tuple.ICMP, tuple.ICMPv6:
		return 2
	case tuple.SCTP:
		return 8
	}
	return noSum
}

// parseTransport reads what follows the IP headers.
func parseTransport(p *Packet) Fault {
	p.Payload = p.L4
	p.TCPFlags = 0
	if p.Flags&FragmentLater != 0 {
		p.Flags |= Untranslatable
		if p.Tuple.Proto == tuple.TCP && p.FragOff < tcpMinLen {
			return TinyFragment
		}
		if p.Offload.Flags&NeedsCsum|p.Offload.GSOType != 0 {
			return BadOffload
		}
		return OK
	}
	b := p.Mem[p.L4:p.End]
	f := OK
	switch p.Tuple.Proto {
	case tuple.TCP:
		f = parseTCP(p, b)
	case tuple.UDP:
		f = parseUDP(p, b)
	case tuple.UDPLite:
		f = parseUDPLite(p, b)
	case tuple.ICMP:
		f = BadTransportLen
		if p.Tuple.Family == tuple.IPv4 {
			f = parseICMP(p, b, icmpErrors, icmpQueries)
		}
	case tuple.ICMPv6:
		f = BadTransportLen
		if p.Tuple.Family == tuple.IPv6 {
			f = parseICMP(p, b, icmpv6Errors, icmpv6Queries)
		}
	case tuple.SCTP:
		f = parseSCTP(p, b)
	case tuple.DCCP:
		f = parseDCCP(p, b)
	case tuple.GRE:
		p.Flags |= Untranslatable
		if len(b) < greMinLen {
			f = BadTransportLen
		}
	default:
		p.Flags |= Untranslatable
	}
	if f == BadTransportLen && p.Flags&FragmentFirst != 0 {
		return TinyFragment
	}
	if f != OK {
		return f
	}
	if p.Offload.Flags&NeedsCsum|p.Offload.GSOType != 0 {
		if f := checkOffload(p); f != OK {
			return f
		}
	}
	if p.Flags&FragmentFirst != 0 || p.Offload.Flags&(NeedsCsum|DataValid) != 0 {
		return finishSCTP(p)
	}
	return verify(p, b)
}

func (p *Packet) setPorts(b []byte) {
	t := &p.Tuple
	t.SetRest(be.Uint16(b), be.Uint16(b[2:]), t.Proto, t.Family, t.Zone)
}

func parseTCP(p *Packet, b []byte) Fault {
	if len(b) < tcpMinLen {
		return BadTransportLen
	}
	size := int(b[12]>>4) * 4
	if size < tcpMinLen || size > len(b) {
		return BadTransportLen
	}
	p.setPorts(b)
	p.TCPFlags = b[13]
	p.Payload = p.L4 + size
	return OK
}

func parseUDP(p *Packet, b []byte) Fault {
	if len(b) < udpLen {
		return BadTransportLen
	}
	size := int(be.Uint16(b[4:]))
	if size < udpLen || size > len(b) && p.Flags&FragmentFirst == 0 {
		return BadTransportLen
	}
	p.setPorts(b)
	p.Payload = p.L4 + udpLen
	return OK
}

func parseUDPLite(p *Packet, b []byte) Fault {
	if len(b) < udpLen {
		return BadTransportLen
	}
	if cover := int(be.Uint16(b[4:])); cover != 0 && cover < udpLen || cover > len(b) && p.Flags&FragmentFirst == 0 {
		return BadTransportLen // RFC 3828 section 3.1
	}
	p.setPorts(b)
	p.Payload = p.L4 + udpLen
	return OK
}

func parseSCTP(p *Packet, b []byte) Fault {
	if len(b) < sctpMinLen {
		return BadTransportLen
	}
	p.setPorts(b)
	if p.Flags&FragmentFirst != 0 {
		p.Flags |= Untranslatable // the CRC32c covers bytes of other fragments
	}
	return OK
}

func parseDCCP(p *Packet, b []byte) Fault {
	if len(b) < dccpMinLen {
		return BadTransportLen
	}
	if size := int(b[4]) * 4; size < dccpMinLen || size > len(b) {
		return BadTransportLen
	}
	p.setPorts(b)
	return OK
}

// icmpTypes is a set of ICMP types.
type icmpTypes [256]bool

var (
	icmpErrors  = &icmpTypes{3: true, 4: true, 5: true, 11: true, 12: true}
	icmpQueries = &icmpTypes{0: true, 8: true, 13: true, 14: true, 15: true, 16: true, 17: true, 18: true}

	// icmpv6Errors: types 1 to 127 (RFC 4443 section 2.1).
	icmpv6Errors = func() *icmpTypes {
		var t icmpTypes
		for i := 1; i < 128; i++ {
			t[i] = true
		}
		return &t
	}()
	icmpv6Queries = &icmpTypes{128: true, 129: true}
)

func parseICMP(p *Packet, b []byte, errors, queries *icmpTypes) Fault {
	if len(b) < icmpLen {
		return BadTransportLen
	}
	p.Tuple.DstPort = be.Uint16(b)
	switch {
	case errors[b[0]]:
		p.Flags |= ICMPError
		return parseEmbedded(p)
	case queries[b[0]]:
		p.Tuple.SrcPort = be.Uint16(b[4:])
	}
	return OK
}

// hasQueryID reports whether the ICMP message that t names has an identifier.
func hasQueryID(t *tuple.Tuple) bool {
	if t.Proto == tuple.ICMP {
		return icmpQueries[t.DstPort>>8]
	}
	return icmpv6Queries[t.DstPort>>8]
}

// surplus reports whether a whole UDP packet has bytes behind its datagram.
func (p *Packet) surplus() bool {
	return p.Tuple.Proto == tuple.UDP && !p.Flags.Fragment() && int(be.Uint16(p.Mem[p.L4+4:])) != p.End-p.L4
}

// checkOffload holds the virtio header against the packet.
func checkOffload(p *Packet) Fault {
	o := &p.Offload
	if o.Flags&NeedsCsum != 0 {
		start := p.Off + int(o.CsumStart)
		if start < p.L4 || start+int(o.CsumOffset)+2 > p.End {
			return BadOffload
		}
		if start == p.L4 {
			switch sumOffset(p.Tuple.Proto) {
			case int(o.CsumOffset):
				p.Flags |= PartialChecksum
				if o.GSOType == GSONone && p.surplus() {
					return BadOffload // a device sums to the end of the frame, the receiver does not
				}
			case noSum:
			default:
				return BadOffload
			}
		} else if tuple.HasPorts(p.Tuple.Proto) && p.Tuple.Proto != tuple.UDP || tuple.IsICMP(p.Tuple.Proto) || start < p.Payload {
			return BadOffload // nothing that has a checksum of its own is carried in these
		}
	}
	if o.GSOType == GSONone {
		return OK
	}
	kind, proto, family := o.GSOType&^GSOECN, p.Tuple.Proto, p.Tuple.Family
	switch start := p.Off + int(o.CsumStart); {
	case p.Flags.Fragment():
		return BadOffload
	case o.Flags&NeedsCsum != 0 && start != p.L4 && o.GSOSize != 0 && (kind == GSOTCPv4 || kind == GSOTCPv6 || kind == GSOUDPL4):
		return parseTunnel(p, start, kind)
	case kind == GSOTCPv4 && proto == tuple.TCP && family == tuple.IPv4:
	case kind == GSOTCPv6 && proto == tuple.TCP && family == tuple.IPv6:
	case kind == GSOUDPL4 && proto == tuple.UDP:
	default:
		return UnsupportedGSO
	}
	if o.GSOSize == 0 || o.Flags&NeedsCsum != 0 && p.Flags&PartialChecksum == 0 {
		return BadOffload
	}
	return OK
}
