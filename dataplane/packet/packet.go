package packet

import "example.com/culvert/conntrack/tuple"

// Headroom is what every port leaves writable in front of Off: room for a
// link-layer header, a VLAN tag and the 12-byte virtio header, so that a frame
// can leave by a port of another kind without being copied.
const Headroom = 32

// Link says what a frame starts with.
type Link uint8

const (
	LinkEthernet Link = iota // 14-byte Ethernet header, VLAN tags already stripped into VLAN
	LinkIP                   // IPv4 or IPv6 header at once (TUN)
)

// Offload is the virtio_net_hdr of a frame: work that the sender left undone.
// The zero value is a complete packet with complete checksums.
type Offload struct {
	Flags      uint8  // NeedsCsum, DataValid
	GSOType    uint8  // GSONone, GSOTCPv4, GSOUDP, GSOTCPv6, GSOUDPL4, with ECN bit
	HdrLen     uint16 // hint: length of all headers
	GSOSize    uint16 // payload bytes of one segment
	CsumStart  uint16 // from the start of the frame (link-layer header included)
	CsumOffset uint16 // from CsumStart
}

// Values of Offload (linux/virtio_net.h).
const (
	NeedsCsum uint8 = 1
	DataValid uint8 = 2

	GSONone  uint8 = 0
	GSOTCPv4 uint8 = 1
	GSOUDP   uint8 = 3 // UFO: fragments, not segments
	GSOTCPv6 uint8 = 4
	GSOUDPL4 uint8 = 5 // USO
	GSOECN   uint8 = 0x80
)

// Flags is what Parse found out about a packet.
type Flags uint16

const (
	FragmentFirst   Flags = 1 << iota // offset 0, more to come: has a transport header
	FragmentLater                     // offset > 0: no transport header, no ports
	ICMPError                         // carries an embedded packet; Embedded and its offsets are set
	LinkBroadcast                     // link-layer destination is broadcast or multicast
	LinkOther                         // link-layer destination is another host (PACKET_OTHERHOST)
	HasOptions                        // IPv4 options or IPv6 extension headers present
	EmbeddedNAT                       // Embedded names a flow: its ports or query id are there, or its protocol has none
	DontFragment                      // IPv4 DF; always set for IPv6
	Untranslatable                    // transport header absent or of unknown protocol: addresses only
	FragmentMore                      // with FragmentLater: not the last fragment
	PartialChecksum                   // the transport checksum field holds the sum of the pseudo-header only (NeedsCsum)
	EmbeddedBadSum                    // the embedded IPv4 header fails its checksum
	TunnelGSO                         // GSO frame of packets inside a tunnel: only Segmenter can send it
)

// Fragment reports whether the packet is a fragment of any position.
func (f Flags) Fragment() bool { return f&(FragmentFirst|FragmentLater) != 0 }

// TCP flag bits as they stand in the header.
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Packet is one frame in the memory of the port that received it, and what
// Parse learned of it. Workers keep an array of them and reuse it for every
// batch; nothing in it is allocated.
//
// All offsets are positions in Mem.
type Packet struct {
	Mem      []byte  // memory of the port: at least Headroom bytes lie before Off
	Off, End int     // the frame is Mem[Off:End]
	Offload  Offload // as received; kept right by every rewrite
	VLAN     uint16  // 802.1Q TCI when HasVLAN
	HasVLAN  bool
	Link     Link
	In       uint16 // index of the port that received it
	LinkKind uint8  // sll_pkttype: PACKET_HOST 0, BROADCAST 1, MULTICAST 2, OTHERHOST 3

	// Set by Parse.
	EtherType uint16
	Flags     Flags
	L3        int         // start of the IP header
	L4        int         // start of the transport header
	Payload   int         // start of the transport payload (TCP, UDP), of the inner one with TunnelGSO; L4 otherwise
	L3Len     int         // IP total length in bytes as the header says it (real length for GSO)
	Tuple     tuple.Tuple // zone 0; ports 0 for later fragments
	TTL       uint8       // or hop limit
	TOS       uint8       // or traffic class
	TCPFlags  uint8
	FragAt    int    // start of the fragment's data, where IPv6 extension headers may still come before L4; 0: no fragment header
	FragOff   uint16 // offset in bytes of that data in the datagram
	FragID    uint32
	FragMax   int // set after Parse, if p was put together: its longest fragment, bytes of IP packet; 0: came as it is

	// For ICMPError, and but for Embedded for TunnelGSO.
	EmbL3, EmbL4 int         // embedded IP and transport headers
	EmbEnd       int         // end of the embedded packet that is present
	Embedded     tuple.Tuple // of the embedded packet as it stands
}

// Frame returns the bytes of the frame.
func (p *Packet) Frame() []byte { return p.Mem[p.Off:p.End] }

// IP returns the bytes from the IP header to the end of the frame.
func (p *Packet) IP() []byte { return p.Mem[p.L3:p.End] }

// WireLen returns the length in bytes of the largest IP packet that p is on the
// wire: what to hold against an MTU. What came in fragments leaves in fragments.
func (p *Packet) WireLen() int {
	if p.FragMax != 0 || p.Offload.GSOType != GSONone {
		return p.longestWire()
	}
	return p.End - p.L3
}

// longestWire is WireLen of a packet that is more than one on the wire, maybe.
//
//go:noinline
func (p *Packet) longestWire() int {
	if p.FragMax != 0 {
		return min(p.FragMax, p.End-p.L3)
	}
	if p.Segments() > 1 {
		return p.Payload - p.L3 + int(p.Offload.GSOSize)
	}
	return p.End - p.L3
}

// Segments returns how many wire packets p stands for: 1, or more for a GSO frame.
func (p *Packet) Segments() int {
	if p.Offload.GSOType&^GSOECN == GSONone || p.Offload.GSOSize == 0 {
		return 1
	}
	n := p.End - p.Payload
	return max(1, (n+int(p.Offload.GSOSize)-1)/int(p.Offload.GSOSize))
}

// CopyTo copies p and its frame into dst, whose memory becomes buf: at least
// Headroom plus the length of the frame.
func (p *Packet) CopyTo(dst *Packet, buf []byte) {
	frame := p.Frame()
	*dst = *p
	dst.rebase(buf)
	copy(dst.Frame(), frame)
}

// rebase makes p describe a frame of the same layout at buf[Headroom:].
func (p *Packet) rebase(buf []byte) {
	shift := Headroom - p.Off
	p.Mem = buf
	for _, at := range [...]*int{&p.Off, &p.End, &p.L3, &p.L4, &p.Payload, &p.FragAt, &p.EmbL3, &p.EmbL4, &p.EmbEnd} {
		*at += shift
	}
}
