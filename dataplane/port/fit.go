package port

import "example.com/culvert/dataplane/packet"

// EthernetHeader is the length of an untagged Ethernet header in bytes.
const EthernetHeader = 14

// Fit reports whether p's frame may leave through a port of the given link
// kind and MTU (bytes of IP packet): Sent, TooBig or Unsupported. A GSO frame fits when
// each of its segments does. The kernel checks none of this for the frames
// of packet sockets: a super-packet whose gso_size exceeds the MTU passes
// AF_PACKET and veth unhindered.
//
// p need not be parsed; only Mem, Off, End and Offload are read.
func Fit(p *packet.Packet, link packet.Link, mtu int, gso GSO) Status {
	l2 := 0
	if link == packet.LinkEthernet {
		l2 = EthernetHeader
	}
	o := &p.Offload
	if gso == NoGSO && (o.GSOType != packet.GSONone || o.Flags&packet.NeedsCsum != 0) {
		return Unsupported
	}
	if o.GSOType == packet.GSONone || o.GSOSize == 0 {
		if p.End-p.Off > l2+mtu {
			return TooBig
		}
		return Sent
	}
	if segmentHeaders(p)-l2+int(o.GSOSize) > mtu {
		return TooBig
	}
	return Sent
}

// GSO says whether a port takes GSO frames and partial checksums.
type GSO bool

// Values of GSO.
const (
	NoGSO   GSO = false
	WithGSO GSO = true
)

// segmentHeaders returns the length of the headers that each segment of GSO
// frame p repeats, link-layer header included. csum_start is exact, hdr_len is
// only a hint (virtio 1.2, section 5.1.6.2).
func segmentHeaders(p *packet.Packet) int {
	o := &p.Offload
	if o.Flags&packet.NeedsCsum == 0 {
		return int(o.HdrLen)
	}
	th := int(o.CsumStart)
	switch o.GSOType &^ packet.GSOECN {
	case packet.GSOTCPv4, packet.GSOTCPv6:
		at := p.Off + th + 12 // data offset, RFC 9293 section 3.1
		if at >= p.End {
			return int(o.HdrLen)
		}
		return th + int(p.Mem[at]>>4)*4
	default:
		return th + 8
	}
}
