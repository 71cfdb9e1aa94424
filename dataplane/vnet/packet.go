package vnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ICMP types that scripts name.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// build makes the IP packet that d describes. What it leaves open is: TTL 64,
// window 65535, everything else 0.
func (d *desc) build() ([]byte, error) {
	var proto tcpip.TransportProtocolNumber
	var body []byte
	var err error
	six := d.src.Addr().Is6()
	if d.dst.Addr().Is6() != six {
		return nil, fmt.Errorf("%v and %v are of different families", d.src, d.dst)
	}
	switch d.proto {
	case "tcp":
		proto = header.TCPProtocolNumber
		body, err = d.buildTCP()
	case "udp":
		proto = header.UDPProtocolNumber
		body, err = d.buildUDP()
	case "icmp":
		proto = header.ICMPv4ProtocolNumber
		if six {
			proto = header.ICMPv6ProtocolNumber
		}
		body, err = d.buildICMP(six)
	default:
		var n int
		if n, err = strconv.Atoi(d.proto); err != nil || n < 0 || n > 255 {
			return nil, fmt.Errorf("unknown protocol %q", d.proto)
		}
		proto = tcpip.TransportProtocolNumber(n)
		body, err = d.payload()
	}
	if err != nil {
		return nil, err
	}
	ttl, err := d.number("ttl", 64)
	if err != nil {
		return nil, err
	}
	return d.buildIP(proto, uint8(ttl), body), nil
}

func (d *desc) buildIP(proto tcpip.TransportProtocolNumber, ttl uint8, body []byte) []byte {
	src, dst := toNetstack(d.src.Addr()), toNetstack(d.dst.Addr())
	setChecksum(proto, src, dst, body)
	if d.src.Addr().Is6() {
		b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(body))
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(body)), TransportProtocol: proto, HopLimit: ttl, SrcAddr: src, DstAddr: dst})
		return append(b, body...)
	}
	b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + len(body)), TTL: ttl, Protocol: uint8(proto), SrcAddr: src, DstAddr: dst, Flags: header.IPv4FlagDontFragment})
	h.SetChecksum(^h.CalculateChecksum())
	return append(b, body...)
}

var tcpFlags = map[rune]header.TCPFlags{
	'F': header.TCPFlagFin, 'S': header.TCPFlagSyn, 'R': header.TCPFlagRst,
	'P': header.TCPFlagPsh, 'A': header.TCPFlagAck, '.': header.TCPFlagAck, 'U': header.TCPFlagUrg,
}

func (d *desc) buildTCP() ([]byte, error) {
	payload, err := d.payload()
	if err != nil {
		return nil, err
	}
	var n [4]int
	for i, attr := range []struct {
		name string
		def  int
	}{{"seq", 0}, {"ack", 0}, {"win", 65535}, {"mss", 0}} {
		if n[i], err = d.number(attr.name, attr.def); err != nil {
			return nil, err
		}
	}
	var options []byte
	if n[3] > 0 {
		options = binary.BigEndian.AppendUint16([]byte{header.TCPOptionMSS, header.TCPOptionMSSLength}, uint16(n[3]))
	}
	f := header.TCPFields{SrcPort: d.src.Port(), DstPort: d.dst.Port(), SeqNum: uint32(n[0]), AckNum: uint32(n[1]), WindowSize: uint16(n[2]),
		DataOffset: uint8(header.TCPMinimumSize + len(options))}
	for _, c := range d.attrs["flags"] {
		f.Flags |= tcpFlags[c]
	}
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&f)
	return append(append(b, options...), payload...), nil
}

func (d *desc) buildUDP() ([]byte, error) {
	payload, err := d.payload()
	if err != nil {
		return nil, err
	}
	b := make([]byte, header.UDPMinimumSize)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: d.src.Port(), DstPort: d.dst.Port(), Length: uint16(len(b) + len(payload))})
	return append(b, payload...), nil
}

// buildICMP makes a message of either family; the layout is the same (RFC 792, RFC 4443).
func (d *desc) buildICMP(six bool) ([]byte, error) {
	b := make([]byte, header.ICMPv4MinimumSize)
	id, err := d.number("id", 0)
	if err != nil {
		return nil, err
	}
	seq, err := d.number("seq", 0)
	if err != nil {
		return nil, err
	}
	mtu, err := d.number("mtu", 0)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint16(b[4:], uint16(id))
	binary.BigEndian.PutUint16(b[6:], uint16(seq+mtu)) // the low half of the word is a sequence number or an MTU
	request, reply := byte(echoRequest4), byte(echoReply4)
	if six {
		request, reply = echoRequest6, echoReply6
	}
	kind := d.attrs["kind"]
	switch kind {
	case "echo":
		b[0] = request
	case "reply":
		b[0] = reply
	default:
		if _, err := fmt.Sscanf(kind, "error %d/%d", &b[0], &b[1]); err != nil {
			return nil, fmt.Errorf("icmp message %q: want echo, reply or error TYPE/CODE", kind)
		}
		if d.inner == nil {
			return nil, fmt.Errorf("icmp error without { embedded packet }")
		}
		inner, err := d.inner.build()
		return append(b, inner...), err
	}
	payload, err := d.payload()
	return append(b, payload...), err
}

// checksumAt returns the offset of the checksum in a transport header, -1 if proto has none.
func checksumAt(proto tcpip.TransportProtocolNumber) int {
	switch proto {
	case header.TCPProtocolNumber:
		return header.TCPChecksumOffset
	case header.UDPProtocolNumber:
		return 6
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		return 2
	}
	return -1
}

// sum returns the checksum over body, which is 0xffff if the one in it is right.
func sum(proto tcpip.TransportProtocolNumber, src, dst tcpip.Address, body []byte) uint16 {
	if proto == header.ICMPv4ProtocolNumber {
		return checksum.Checksum(body, 0)
	}
	return checksum.Checksum(body, header.PseudoHeaderChecksum(proto, src, dst, uint16(len(body))))
}

func setChecksum(proto tcpip.TransportProtocolNumber, src, dst tcpip.Address, body []byte) {
	if at := checksumAt(proto); at >= 0 {
		binary.BigEndian.PutUint16(body[at:], ^sum(proto, src, dst, body))
	}
}

// describe puts an IP packet in words. The error says what is wrong with it: lengths and
// checksums are verified, except inside ICMP errors.
func describe(ip []byte) (*desc, error) { return describeAs(ip, whole) }

// part says whether a packet is all there.
type part uint8

const (
	whole    part = iota
	embedded      // in an ICMP error: may be cut off, has checksums of another time
)

func describeAs(ip []byte, p part) (*desc, error) {
	d := &desc{attrs: make(map[string]string)}
	var proto tcpip.TransportProtocolNumber
	var body []byte
	switch {
	case len(ip) >= header.IPv4MinimumSize && header.IPVersion(ip) == header.IPv4Version:
		h := header.IPv4(ip)
		if p == whole && (int(h.TotalLength()) != len(ip) || !h.IsChecksumValid()) {
			return nil, fmt.Errorf("bad IPv4 header %x of %d bytes", ip[:header.IPv4MinimumSize], len(ip))
		}
		proto, body = h.TransportProtocol(), ip[h.HeaderLength():]
		d.attrs["ttl"] = strconv.Itoa(int(h.TTL()))
	case len(ip) >= header.IPv6MinimumSize && header.IPVersion(ip) == header.IPv6Version:
		h := header.IPv6(ip)
		if p == whole && int(h.PayloadLength())+header.IPv6MinimumSize != len(ip) {
			return nil, fmt.Errorf("bad IPv6 header %x of %d bytes", ip[:header.IPv6MinimumSize], len(ip))
		}
		proto, body = h.TransportProtocol(), ip[header.IPv6MinimumSize:]
		d.attrs["ttl"] = strconv.Itoa(int(h.HopLimit()))
	default:
		return nil, fmt.Errorf("no IP packet: %x", ip)
	}
	src, dst := Addresses(ip)
	d.src, d.dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if p == whole && checksumAt(proto) >= 0 && sum(proto, toNetstack(src), toNetstack(dst), body) != 0xffff {
		return nil, fmt.Errorf("bad checksum in protocol %d from %v to %v", proto, src, dst)
	}
	return d, d.describeBody(proto, body)
}

func (d *desc) describeBody(proto tcpip.TransportProtocolNumber, b []byte) error {
	d.proto = strconv.Itoa(int(proto))
	if len(b) < 8 {
		return nil
	}
	switch proto {
	case header.TCPProtocolNumber, header.UDPProtocolNumber:
		d.proto = "udp"
		d.src = netip.AddrPortFrom(d.src.Addr(), binary.BigEndian.Uint16(b))
		d.dst = netip.AddrPortFrom(d.dst.Addr(), binary.BigEndian.Uint16(b[2:]))
		data := b[8:]
		if proto == header.TCPProtocolNumber {
			d.proto = "tcp"
			d.attrs["seq"] = strconv.FormatUint(uint64(binary.BigEndian.Uint32(b[4:])), 10)
			if h := header.TCP(b); len(b) >= header.TCPMinimumSize && int(h.DataOffset()) <= len(b) {
				d.describeTCP(h)
				data = h.Payload()
			} else {
				data = nil
			}
		}
		d.describeData(data)
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		d.proto = "icmp"
		return d.describeICMP(b)
	}
	return nil
}

func (d *desc) describeTCP(h header.TCP) {
	var flags strings.Builder
	for _, c := range "FSRPAU" {
		if h.Flags()&tcpFlags[c] != 0 {
			flags.WriteRune(c)
		}
	}
	d.attrs["flags"] = flags.String()
	d.attrs["ack"] = strconv.FormatUint(uint64(h.AckNumber()), 10)
	d.attrs["win"] = strconv.Itoa(int(h.WindowSize()))
	if o := h.Options(); h.Flags()&header.TCPFlagSyn != 0 && len(o) >= 4 && o[0] == header.TCPOptionMSS {
		d.attrs["mss"] = strconv.Itoa(int(binary.BigEndian.Uint16(o[2:])))
	}
}

func (d *desc) describeData(data []byte) {
	d.attrs["len"] = strconv.Itoa(len(data))
	if len(data) > 0 && len(data) <= 200 {
		d.attrs["data"] = strconv.Quote(string(data))
	}
}

func (d *desc) describeICMP(b []byte) error {
	number := func(at int) string { return strconv.Itoa(int(binary.BigEndian.Uint16(b[at:]))) }
	six := d.src.Addr().Is6()
	switch {
	case !six && b[0] == echoRequest4, six && b[0] == echoRequest6:
		d.attrs["kind"] = "echo"
	case !six && b[0] == echoReply4, six && b[0] == echoReply6:
		d.attrs["kind"] = "reply"
	default:
		d.attrs["kind"] = fmt.Sprintf("error %d/%d", b[0], b[1])
		d.attrs["mtu"] = number(6)
		var err error
		d.inner, err = describeAs(b[8:], embedded)
		return err
	}
	d.attrs["id"], d.attrs["seq"] = number(4), number(6)
	d.describeData(b[8:])
	return nil
}
