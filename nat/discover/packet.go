package discover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// protocol is what hosts speak with each other.
type protocol uint8

const (
	udp protocol = iota
	tcp
	icmp // of either family
)

func (p protocol) String() string { return [...]string{"udp", "tcp", "icmp"}[p] }

// message is an ICMP message, the same for both families.
type message uint8

const (
	noMessage       message = iota
	echoRequest             // the source port is its identifier
	echoReply               // the destination port is its identifier
	hostUnreachable         // no route to the host, a soft error
	portUnreachable         // nobody listens
	tooBig                  // fragmentation needed and DF set
	timeExceeded            // in transit
	prohibited              // communication administratively prohibited
	otherMessage
	numMessages
)

// wire is type and code of a message.
type wire struct{ typ, code uint8 }

// messages4 is RFC 792, messages6 RFC 4443.
var (
	messages4 = [numMessages]wire{echoRequest: {8, 0}, echoReply: {0, 0}, hostUnreachable: {3, 1}, portUnreachable: {3, 3},
		tooBig: {3, 4}, timeExceeded: {11, 0}, prohibited: {3, 13}}
	messages6 = [numMessages]wire{echoRequest: {128, 0}, echoReply: {129, 0}, hostUnreachable: {1, 3}, portUnreachable: {1, 4},
		tooBig: {2, 0}, timeExceeded: {3, 0}, prohibited: {1, 1}}
)

func messagesOf(a netip.Addr) *[numMessages]wire {
	if a.Is4() {
		return &messages4
	}
	return &messages6
}

// datagram is a packet as a host makes or sees it.
type datagram struct {
	proto    protocol
	src, dst netip.AddrPort
	flags    header.TCPFlags // of TCP
	seq, ack uint32          // of TCP
	message  message         // of ICMP
	mtu      int             // of tooBig
	about    *datagram       // of ICMP errors: the packet that is embedded
	data     []byte
	ttl      uint8 // 0: 64
	dontFrag bool  // IPv4: DF
}

func (d *datagram) transport() tcpip.TransportProtocolNumber {
	switch {
	case d.proto == udp:
		return header.UDPProtocolNumber
	case d.proto == tcp:
		return header.TCPProtocolNumber
	case d.src.Addr().Is4():
		return header.ICMPv4ProtocolNumber
	}
	return header.ICMPv6ProtocolNumber
}

// bytes returns d as an IP packet.
func (d *datagram) bytes() []byte { return d.packet(d.body(), whole) }

// fragments returns d as IP packets with pieces of at most size bytes, in order.
func (d *datagram) fragments(id uint32, size int) [][]byte {
	body := d.body()
	var out [][]byte
	for off := 0; off < len(body); off += size {
		end := min(off+size, len(body))
		out = append(out, d.packet(body[off:end], piece{id: id, offset: off, more: end < len(body), split: true}))
	}
	return out
}

// piece is the place of a packet in its datagram.
type piece struct {
	id     uint32
	offset int
	more   bool
	split  bool // it is not the whole datagram
}

var whole piece

// packet puts an IP header in front of a part of d's body.
func (d *datagram) packet(body []byte, at piece) []byte {
	ttl := d.ttl
	if ttl == 0 {
		ttl = 64
	}
	src, dst := address(d.src.Addr()), address(d.dst.Addr())
	if d.src.Addr().Is6() {
		next, length := d.transport(), len(body)
		b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+header.IPv6FragmentHeaderSize+len(body))
		if at.split {
			b = binary.BigEndian.AppendUint16(append(b, uint8(next), 0), uint16(at.offset)|bit(at.more, 1))
			b = binary.BigEndian.AppendUint32(b, at.id)
			next, length = header.IPv6FragmentHeader, length+header.IPv6FragmentHeaderSize
		}
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(length), TransportProtocol: next, HopLimit: ttl, SrcAddr: src, DstAddr: dst})
		return append(b, body...)
	}
	b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b) + len(body)), ID: uint16(at.id), TTL: ttl, Protocol: uint8(d.transport()), SrcAddr: src, DstAddr: dst,
		FragmentOffset: uint16(at.offset),
		Flags:          uint8(bit(at.more, header.IPv4FlagMoreFragments) | bit(d.dontFrag && !at.split, header.IPv4FlagDontFragment)),
	})
	h.SetChecksum(^h.CalculateChecksum())
	return append(b, body...)
}

func bit(set bool, value uint16) uint16 {
	if set {
		return value
	}
	return 0
}

// body returns everything behind the IP header.
func (d *datagram) body() []byte {
	var b []byte
	switch d.proto {
	case udp:
		b = make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(d.data))
		header.UDP(b).Encode(&header.UDPFields{SrcPort: d.src.Port(), DstPort: d.dst.Port(), Length: uint16(len(b) + len(d.data))})
		b = append(b, d.data...)
	case tcp:
		b = make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(d.data))
		header.TCP(b).Encode(&header.TCPFields{SrcPort: d.src.Port(), DstPort: d.dst.Port(), SeqNum: d.seq, AckNum: d.ack,
			DataOffset: header.TCPMinimumSize, Flags: d.flags, WindowSize: 65535})
		b = append(b, d.data...)
	case icmp:
		b = d.icmpBody()
	}
	binary.BigEndian.PutUint16(b[checksumOffset[d.proto]:], ^d.sum(b))
	return b
}

func (d *datagram) icmpBody() []byte {
	w := messagesOf(d.src.Addr())[d.message]
	b := make([]byte, header.ICMPv4MinimumSize)
	b[0], b[1] = w.typ, w.code
	switch d.message {
	case echoRequest:
		binary.BigEndian.PutUint16(b[4:], d.src.Port())
	case echoReply:
		binary.BigEndian.PutUint16(b[4:], d.dst.Port())
	default:
		binary.BigEndian.PutUint16(b[6:], uint16(d.mtu)) // the low half of the MTU field of both families
		return append(b, d.about.bytes()...)
	}
	return append(b, d.data...)
}

// checksumOffset is where in the body of a packet its checksum is.
var checksumOffset = [...]int{udp: 6, tcp: header.TCPChecksumOffset, icmp: 2}

// sum is 0xffff over a body with the right checksum.
func (d *datagram) sum(body []byte) uint16 {
	if d.transport() == header.ICMPv4ProtocolNumber {
		return checksum.Checksum(body, 0)
	}
	pseudo := header.PseudoHeaderChecksum(d.transport(), address(d.src.Addr()), address(d.dst.Addr()), uint16(len(body)))
	return checksum.Checksum(body, pseudo)
}

func address(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

// extent says how much of a packet must be there and right.
type extent uint8

const (
	complete extent = iota
	embedded        // in an ICMP error: cut off, and with the checksum of another place
)

// errForeign: not a packet that hosts here understand. Hosts ignore it.
var errForeign = errors.New("not a packet of these tests")

// ipHeader reads the IP header: ends, protocol, place in the datagram.
func ipHeader(b []byte, ext extent) (d datagram, proto tcpip.TransportProtocolNumber, body []byte, at piece, err error) {
	switch header.IPVersion(b) {
	case header.IPv4Version:
		h := header.IPv4(b)
		if len(b) < header.IPv4MinimumSize || int(h.HeaderLength()) > len(b) || h.HeaderLength() < header.IPv4MinimumSize {
			return d, 0, nil, at, errForeign
		}
		if ext == complete && int(h.TotalLength()) != len(b) {
			return d, 0, nil, at, fmt.Errorf("IPv4 length %d of %d bytes", h.TotalLength(), len(b))
		}
		if !h.IsChecksumValid() {
			return d, 0, nil, at, fmt.Errorf("wrong checksum of an IPv4 header from %s to %s", h.SourceAddress(), h.DestinationAddress())
		}
		at = piece{id: uint32(h.ID()), offset: int(h.FragmentOffset()), more: h.More(), split: h.More() || h.FragmentOffset() != 0}
		d.ttl, d.dontFrag = h.TTL(), h.Flags()&header.IPv4FlagDontFragment != 0
		d.src, d.dst = host(h.SourceAddress()), host(h.DestinationAddress())
		return d, h.TransportProtocol(), b[h.HeaderLength():], at, nil
	case header.IPv6Version:
		h := header.IPv6(b)
		if len(b) < header.IPv6MinimumSize {
			return d, 0, nil, at, errForeign
		}
		if ext == complete && int(h.PayloadLength())+header.IPv6MinimumSize != len(b) {
			return d, 0, nil, at, fmt.Errorf("IPv6 length %d of %d bytes", h.PayloadLength(), len(b))
		}
		proto, body = h.TransportProtocol(), b[header.IPv6MinimumSize:]
		if proto == header.IPv6FragmentHeader && len(body) >= header.IPv6FragmentHeaderSize {
			place := binary.BigEndian.Uint16(body[2:])
			at = piece{id: binary.BigEndian.Uint32(body[4:]), offset: int(place &^ 7), more: place&1 != 0, split: true}
			proto, body = tcpip.TransportProtocolNumber(body[0]), body[header.IPv6FragmentHeaderSize:]
		}
		d.ttl = h.HopLimit()
		d.src, d.dst = host(h.SourceAddress()), host(h.DestinationAddress())
		return d, proto, body, at, nil
	}
	return d, 0, nil, at, errForeign
}

func host(a tcpip.Address) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, 0)
}

// read reads what stands behind the IP header of d.
func (d *datagram) read(proto tcpip.TransportProtocolNumber, b []byte, ext extent) error {
	const least = 8 // bytes of the transport header that every embedded packet has (RFC 792)
	if len(b) < least {
		return errForeign
	}
	switch proto {
	case header.UDPProtocolNumber:
		d.proto = udp
	case header.TCPProtocolNumber:
		d.proto = tcp
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		d.proto = icmp
	default:
		return errForeign
	}
	if ext == complete && d.sum(b) != 0xffff {
		return fmt.Errorf("wrong checksum of a %v packet from %v to %v", d.proto, d.src.Addr(), d.dst.Addr())
	}
	if d.proto == icmp {
		return d.readICMP(b)
	}
	d.src = netip.AddrPortFrom(d.src.Addr(), binary.BigEndian.Uint16(b))
	d.dst = netip.AddrPortFrom(d.dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	if d.proto == udp {
		d.data = b[header.UDPMinimumSize:]
		return nil
	}
	d.seq = binary.BigEndian.Uint32(b[4:])
	if h := header.TCP(b); len(b) >= header.TCPMinimumSize && int(h.DataOffset()) <= len(b) {
		d.flags, d.ack, d.data = h.Flags(), h.AckNumber(), h.Payload()
	}
	return nil
}

func (d *datagram) readICMP(b []byte) error {
	d.message = otherMessage
	for m, w := range messagesOf(d.src.Addr()) {
		if m := message(m); m != noMessage && m != otherMessage && w == (wire{b[0], b[1]}) {
			d.message = m
		}
	}
	id := binary.BigEndian.Uint16(b[4:])
	switch d.message {
	case otherMessage:
		return errForeign
	case echoRequest:
		d.src, d.data = netip.AddrPortFrom(d.src.Addr(), id), b[8:]
	case echoReply:
		d.dst, d.data = netip.AddrPortFrom(d.dst.Addr(), id), b[8:]
	default:
		d.mtu = int(binary.BigEndian.Uint16(b[6:]))
		about, proto, body, _, err := ipHeader(b[8:], embedded)
		if err == nil {
			err = about.read(proto, body, embedded)
		}
		if err != nil {
			return fmt.Errorf("packet embedded in an ICMP error: %w", err)
		}
		d.about = &about
	}
	return nil
}
