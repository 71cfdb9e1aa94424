package packet

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack/tuple"
)

var (
	ether4 = &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	ether6 = &layers.Ethernet{SrcMAC: ether4.SrcMAC, DstMAC: ether4.DstMAC, EthernetType: layers.EthernetTypeIPv6}
)

func ip4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, TOS: 0x10, Protocol: proto, SrcIP: net.IP{10, 0, 0, 5}, DstIP: net.IP{198, 51, 100, 7}}
}

func ip6(proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 63, TrafficClass: 0x20, NextHeader: proto,
		SrcIP: net.ParseIP("2001:db8::5"), DstIP: net.ParseIP("2001:db8:1::7")}
}

// build serializes layers into an Ethernet frame with all lengths and checksums.
func build(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, l := range parts {
		if n, ok := l.(gopacket.NetworkLayer); ok && network == nil {
			network = n
		}
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(network); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// etherFrameOf puts a frame into port memory.
func etherFrameOf(b []byte) *Packet {
	p := frame(b, sumComplete)
	p.Link = LinkEthernet
	return p
}

func payload(n int) gopacket.Payload {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func tcp(mod func(*layers.TCP)) *layers.TCP {
	l := &layers.TCP{SrcPort: 40000, DstPort: 443, Seq: 1000, Ack: 2000, Window: 512, ACK: true}
	if mod != nil {
		mod(l)
	}
	return l
}

func TestParseReadsEveryProtocol(t *testing.T) {
	v4 := tuple.Tuple{Src: tuple.AddrFrom4([4]byte{10, 0, 0, 5}), Dst: tuple.AddrFrom4([4]byte{198, 51, 100, 7}), Family: tuple.IPv4}
	v6 := tuple.Tuple{Src: tuple.Addr(net.ParseIP("2001:db8::5")), Dst: tuple.Addr(net.ParseIP("2001:db8:1::7")), Family: tuple.IPv6}
	with := func(t tuple.Tuple, proto uint8, src, dst uint16) tuple.Tuple {
		t.Proto, t.SrcPort, t.DstPort = proto, src, dst
		return t
	}
	tests := []struct {
		name    string
		parts   []gopacket.SerializableLayer
		want    tuple.Tuple
		flags   Flags
		l4      int // from the start of the frame
		payload int
	}{
		{"tcp over IPv4", []gopacket.SerializableLayer{ether4, ip4(layers.IPProtocolTCP), tcp(nil), payload(11)},
			with(v4, tuple.TCP, 40000, 443), 0, 34, 54},
		{"tcp with options over IPv6", []gopacket.SerializableLayer{ether6, ip6(layers.IPProtocolTCP), tcp(func(l *layers.TCP) {
			l.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
		}), payload(11)}, with(v6, tuple.TCP, 40000, 443), DontFragment, 54, 78},
		{"udp over IPv4", []gopacket.SerializableLayer{ether4, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 53000, DstPort: 53}, payload(30)},
			with(v4, tuple.UDP, 53000, 53), 0, 34, 42},
		{"udp over IPv6", []gopacket.SerializableLayer{ether6, ip6(layers.IPProtocolUDP), &layers.UDP{SrcPort: 53000, DstPort: 53}, payload(31)},
			with(v6, tuple.UDP, 53000, 53), DontFragment, 54, 62},
		{"sctp", []gopacket.SerializableLayer{ether4, ip4(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 9000, DstPort: 9001, VerificationTag: 77}, payload(32)},
			with(v4, tuple.SCTP, 9000, 9001), 0, 34, 34},
		{"echo request", []gopacket.SerializableLayer{ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0800, Id: 4711, Seq: 3}, payload(56)},
			with(v4, tuple.ICMP, 4711, 0x0800), 0, 34, 34},
		{"ICMPv6 echo reply", []gopacket.SerializableLayer{ether6, ip6(layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: 0x8100}, &layers.ICMPv6Echo{Identifier: 4711, SeqNumber: 3}, payload(56)},
			with(v6, tuple.ICMPv6, 4711, 0x8100), DontFragment, 54, 54},
		{"router solicitation has no identifier", []gopacket.SerializableLayer{ether6, ip6(layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: 0x8500}, payload(4)},
			with(v6, tuple.ICMPv6, 0, 0x8500), DontFragment, 54, 54},
		{"esp goes by addresses", []gopacket.SerializableLayer{ether4, ip4(layers.IPProtocolESP), payload(32)},
			with(v4, 50, 0, 0), Untranslatable, 34, 34},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := build(t, tt.parts...)
			padded := append(append([]byte(nil), b...), make([]byte, 7)...)
			p := etherFrameOf(padded)
			mustParse(t, p)
			if p.Tuple != tt.want {
				t.Errorf("tuple = %+v, want %+v", p.Tuple, tt.want)
			}
			if p.Flags != tt.flags {
				t.Errorf("flags = %b, want %b", p.Flags, tt.flags)
			}
			if got := p.End - p.Off; got != len(b) {
				t.Errorf("frame = %d bytes after trimming, want %d", got, len(b))
			}
			if l4, pl := p.L4-p.Off, p.Payload-p.Off; l4 != tt.l4 || pl != tt.payload {
				t.Errorf("transport at %d, payload at %d, want %d and %d", l4, pl, tt.l4, tt.payload)
			}
			if p.L3Len != len(b)-14 {
				t.Errorf("L3Len = %d, want %d", p.L3Len, len(b)-14)
			}
			ttl, tos := uint8(64), uint8(0x10)
			if p.Tuple.Family == tuple.IPv6 {
				ttl, tos = 63, 0x20
			}
			if p.TTL != ttl || p.TOS != tos {
				t.Errorf("TTL %d TOS %#x, want %d and %#x", p.TTL, p.TOS, ttl, tos)
			}
		})
	}
}

// fix4 writes the header checksum of the IPv4 packet in Ethernet frame b again.
func fix4(b []byte) {
	ihl := int(b[14]&15) * 4
	b[24], b[25] = 0, 0
	binary.BigEndian.PutUint16(b[24:], ^slowSum(b[14:14+ihl]))
}

func TestParseRefusesWhatCannotBe(t *testing.T) {
	tcp4 := build(t, ether4, ip4(layers.IPProtocolTCP), tcp(nil), payload(20))
	udp4 := build(t, ether4, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload(20))
	udp6 := build(t, ether6, ip6(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload(20))
	sctp4 := build(t, ether4, ip4(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 1, DstPort: 2}, payload(20))
	echo4 := build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0800}, payload(20))
	withOptions := func(options ...byte) []byte {
		ip := ip4(layers.IPProtocolUDP)
		b := build(t, ether4, ip, &layers.UDP{SrcPort: 1, DstPort: 2}, payload(20))
		out := append([]byte(nil), b[:34]...)
		out = append(append(out, options...), b[34:]...)
		out[14] = 0x40 | uint8(5+len(options)/4)
		binary.BigEndian.PutUint16(out[16:], uint16(len(out)-14))
		fix4(out)
		return out
	}
	// extended puts extension headers between the IPv6 header and UDP.
	extended := func(next byte, ext ...byte) []byte {
		out := append([]byte(nil), udp6[:54]...)
		out = append(append(out, ext...), udp6[54:]...)
		out[20] = next
		binary.BigEndian.PutUint16(out[18:], uint16(len(out)-54))
		return out
	}
	dest := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	tests := []struct {
		name string
		base []byte
		mod  func(b []byte) []byte
		want Fault
	}{
		{"arp is not IP", tcp4, func(b []byte) []byte { b[12], b[13] = 8, 6; return b }, NotIP},
		{"an 802.3 length is not IP", tcp4, func(b []byte) []byte { b[12], b[13] = 0, 46; return b }, NotIP},
		{"half an Ethernet header", tcp4, func(b []byte) []byte { return b[:13] }, TooShort},
		{"half an IPv4 header", tcp4, func(b []byte) []byte { return b[:14+19] }, TooShort},
		{"half an IPv6 header", udp6, func(b []byte) []byte { return b[:14+39] }, TooShort},
		{"version 6 in an IPv4 frame", tcp4, func(b []byte) []byte { b[14] = 0x65; return b }, BadVersion},
		{"version 4 in an IPv6 frame", udp6, func(b []byte) []byte { b[14] = 0x45; return b }, BadVersion},
		{"header length of 16", tcp4, func(b []byte) []byte { b[14] = 0x44; return b }, BadHeaderLen},
		{"header longer than the packet", tcp4[:14+40], func(b []byte) []byte { b[14] = 0x4f; return b }, BadHeaderLen},
		{"total length beyond the frame", tcp4, func(b []byte) []byte { b[16] = 9; return b }, BadTotalLen},
		{"total length zero", tcp4, func(b []byte) []byte { b[16], b[17] = 0, 0; return b }, BadTotalLen},
		{"IPv6 length beyond the frame", udp6, func(b []byte) []byte { b[18] = 9; return b }, BadTotalLen},
		{"one bit of the IPv4 header flipped", tcp4, func(b []byte) []byte { b[22] ^= 1; return b }, BadIPChecksum},
		{"one bit of the TCP payload flipped", tcp4, func(b []byte) []byte { b[60] ^= 1; return b }, BadChecksum},
		{"one bit of the UDP payload flipped", udp4, func(b []byte) []byte { b[50] ^= 1; return b }, BadChecksum},
		{"one bit of an echo flipped", echo4, func(b []byte) []byte { b[50] ^= 1; return b }, BadChecksum},
		{"one bit of SCTP flipped", sctp4, func(b []byte) []byte { b[50] ^= 1; return b }, BadChecksum},
		{"UDP over IPv4 without checksum is fine", udp4, func(b []byte) []byte { b[40], b[41] = 0, 0; return b }, OK},
		{"UDP over IPv6 without checksum is fine", udp6, func(b []byte) []byte { b[60], b[61] = 0, 0; return b }, OK},
		{"UDP length of 7", udp4, func(b []byte) []byte { b[38], b[39] = 0, 7; return b }, BadTransportLen},
		{"UDP length beyond the packet", udp4, func(b []byte) []byte { b[38], b[39] = 0, 29; return b }, BadTransportLen},
		{"TCP data offset of 16", tcp4, func(b []byte) []byte { b[46] = 0x40; return b }, BadTransportLen},
		{"TCP data offset beyond the packet", tcp4, func(b []byte) []byte { b[46] = 0xf0; return b }, BadTransportLen},
		{"ICMPv6 over IPv4", echo4, func(b []byte) []byte { b[23] = 58; fix4(b); return b }, BadTransportLen},
		{"source equals destination", tcp4, func(b []byte) []byte {
			b[17] = 40
			copy(b[30:34], b[26:30])
			b[12+34] = 0x50
			b[23] = 50
			fix4(b)
			return b
		}, LandPacket},
		{"loose source route", withOptions(131, 7, 4, 1, 2, 3, 4, 0), nil, SourceRouted},
		{"strict source route", withOptions(1, 137, 7, 4, 1, 2, 3, 4), nil, SourceRouted},
		{"router alert is stepped over", withOptions(148, 4, 0, 0), nil, OK},
		{"option that runs past the header", withOptions(7, 9, 4, 0), nil, BadOptions},
		{"option of length one", withOptions(7, 1, 4, 0), nil, BadOptions},
		{"nothing is read after the end of options", withOptions(0, 131, 7, 4), nil, OK},
		{"destination options are stepped over", extended(60, dest(17)...), nil, OK},
		{"authentication header is stepped over", extended(51, 17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), nil, OK},
		{"type 0 routing header with segments left", extended(43, 17, 0, 0, 1, 0, 0, 0, 0), nil, SourceRouted},
		{"routing header that is used up", extended(43, 17, 0, 0, 0, 0, 0, 0, 0), nil, OK},
		{"hop-by-hop after another header", extended(60, append(dest(0), dest(17)...)...), nil, BadOptions},
		{"extension header that runs past the packet", extended(60, 17, 255, 1, 4, 0, 0, 0, 0), nil, BadOptions},
		{"a long chain of extension headers", extended(60, func() (e []byte) {
			for range 8 {
				e = append(e, dest(60)...)
			}
			return append(e, dest(17)...)
		}()...), nil, TooManyExtensions},
		{"first fragment of odd length", udp4, func(b []byte) []byte {
			b[17], b[20] = 20+27, 0x20
			fix4(b)
			return b
		}, BadFragment},
		{"fragment past 65535 bytes", udp4, func(b []byte) []byte { b[20], b[21] = 0x1f, 0xfe; fix4(b); return b }, BadFragment},
		{"first fragment with half a TCP header", tcp4, func(b []byte) []byte {
			b[17], b[20] = 20+16, 0x20
			fix4(b)
			return b
		}, TinyFragment},
		{"TCP fragment at byte 8", tcp4, func(b []byte) []byte { b[21] = 1; fix4(b); return b }, TinyFragment},
		{"ICMP error with a broken embedded packet", build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0301}, payload(20)), nil, BadEmbedded},
		{"ICMP error without an embedded packet", build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0301}), nil, BadEmbedded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := append([]byte(nil), tt.base...)
			if tt.mod != nil {
				b = tt.mod(b)
			}
			p := etherFrameOf(b)
			if got := Parse(p); got != tt.want {
				t.Errorf("Parse = %v, want %v", got, tt.want)
			}
			if outside(p, len(b)) {
				t.Error("Parse wrote outside the frame")
			}
		})
	}
}

func TestParseHoldsTheVirtioHeaderAgainstThePacket(t *testing.T) {
	tcp4 := build(t, ether4, ip4(layers.IPProtocolTCP), tcp(nil), payload(3000))
	udp4 := build(t, ether4, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 4789}, payload(3000))
	tests := []struct {
		name    string
		frame   []byte
		offload Offload
		want    Fault
		flags   Flags
	}{
		{"TSO frame", tcp4, Offload{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}, OK, PartialChecksum},
		{"TSO frame with ECN", tcp4, Offload{Flags: NeedsCsum, GSOType: GSOTCPv4 | GSOECN, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}, OK, PartialChecksum},
		{"USO frame", udp4, Offload{Flags: NeedsCsum, GSOType: GSOUDPL4, GSOSize: 1000, CsumStart: 34, CsumOffset: 6}, OK, PartialChecksum},
		{"IPv6 TSO on IPv4", tcp4, Offload{Flags: NeedsCsum, GSOType: GSOTCPv6, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}, UnsupportedGSO, 0},
		{"TSO inside a UDP tunnel", udp4, Offload{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, CsumStart: 84, CsumOffset: 16}, UnsupportedGSO, 0},
		{"UFO", udp4, Offload{Flags: NeedsCsum, GSOType: GSOUDP, GSOSize: 1448, CsumStart: 34, CsumOffset: 6}, UnsupportedGSO, 0},
		{"TSO of size zero", tcp4, Offload{Flags: NeedsCsum, GSOType: GSOTCPv4, CsumStart: 34, CsumOffset: 16}, BadOffload, 0},
		{"partial checksum of a tunnelled packet", udp4, Offload{Flags: NeedsCsum, CsumStart: 84, CsumOffset: 16}, OK, 0},
		{"checksum start in the IP header", tcp4, Offload{Flags: NeedsCsum, CsumStart: 20, CsumOffset: 16}, BadOffload, 0},
		{"checksum beyond the packet", tcp4, Offload{Flags: NeedsCsum, CsumStart: 3053, CsumOffset: 16}, BadOffload, 0},
		{"checksum at the place of another protocol's", tcp4, Offload{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 6}, BadOffload, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := etherFrameOf(tt.frame)
			p.Offload = tt.offload
			if got := Parse(p); got != tt.want {
				t.Fatalf("Parse = %v, want %v", got, tt.want)
			}
			if tt.want == OK && p.Flags != tt.flags {
				t.Errorf("flags = %b, want %b", p.Flags, tt.flags)
			}
		})
	}
	t.Run("a checksum that the device has seen is not looked at", func(t *testing.T) {
		b := append([]byte(nil), tcp4...)
		b[60] ^= 1
		p := etherFrameOf(b)
		p.Offload.Flags = DataValid
		mustParse(t, p)
	})
}

func TestParseFindsFragments(t *testing.T) {
	udp4 := build(t, ether4, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 7, DstPort: 8}, payload(40))
	fragment := func(field uint16) *Packet {
		b := append([]byte(nil), udp4...)
		binary.BigEndian.PutUint16(b[18:], 999)
		binary.BigEndian.PutUint16(b[20:], field)
		fix4(b)
		p := etherFrameOf(b)
		mustParse(t, p)
		return p
	}
	tests := []struct {
		name  string
		field uint16
		flags Flags
		off   uint16
		ports bool
	}{
		{"first", 0x2000, FragmentFirst, 0, true},
		{"middle", 0x2010, FragmentLater | FragmentMore | Untranslatable, 128, false},
		{"last", 0x0010, FragmentLater | Untranslatable, 128, false},
		{"whole", 0x4000, DontFragment, 0, true},
	}
	for _, tt := range tests {
		p := fragment(tt.field)
		if p.Flags != tt.flags || p.FragOff != tt.off || p.FragID != 999 {
			t.Errorf("%s: flags %b offset %d id %d, want %b, %d and 999", tt.name, p.Flags, p.FragOff, p.FragID, tt.flags, tt.off)
		}
		if ports := p.Tuple.SrcPort == 7 && p.Tuple.DstPort == 8; ports != tt.ports {
			t.Errorf("%s: ports %d, %d", tt.name, p.Tuple.SrcPort, p.Tuple.DstPort)
		}
	}
}

func TestAtomicIPv6FragmentIsAWholePacket(t *testing.T) {
	udp6 := build(t, ether6, ip6(layers.IPProtocolUDP), &layers.UDP{SrcPort: 7, DstPort: 8}, payload(40))
	b := append([]byte(nil), udp6[:54]...)
	b = append(append(b, 17, 0, 0, 0, 0, 0, 0, 9), udp6[54:]...)
	b[20] = 44
	binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
	p := etherFrameOf(b)
	mustParse(t, p)
	if p.Flags.Fragment() || p.Tuple.SrcPort != 7 {
		t.Errorf("flags %b source port %d, want no fragment and 7", p.Flags, p.Tuple.SrcPort)
	}
}

func TestFragmentDataBeginsBehindTheFragmentHeader(t *testing.T) {
	udp6 := build(t, ether6, ip6(layers.IPProtocolUDP), &layers.UDP{SrcPort: 7, DstPort: 8}, payload(40))
	b := append([]byte(nil), udp6[:54]...)
	b = append(b, 60, 0, 0, 1, 0, 0, 0, 9) // fragment header: first, more to come
	b = append(b, 17, 0, 1, 4, 0, 0, 0, 0) // destination options
	b = append(b, udp6[54:]...)
	b[20] = 44
	binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
	p := etherFrameOf(b)
	mustParse(t, p)
	if at, l4 := p.FragAt-p.Off, p.L4-p.Off; at != 62 || l4 != 70 {
		t.Errorf("fragment data at %d and transport at %d, want 62 and 70", at, l4)
	}
	if p.Flags&FragmentFirst == 0 || p.Tuple.SrcPort != 7 || p.FragID != 9 {
		t.Errorf("flags %b source port %d id %d", p.Flags, p.Tuple.SrcPort, p.FragID)
	}
}

func TestEmbeddedPacketIsReadAsFarAsItGoes(t *testing.T) {
	udp4 := build(t, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 7, DstPort: 8}, payload(40))
	echo4 := build(t, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0800, Id: 4711}, payload(40))
	unreach4 := build(t, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0301}, gopacket.Payload(udp4))
	esp4 := build(t, ip4(layers.IPProtocolESP), payload(40))
	tests := []struct {
		name     string
		embedded []byte
		names    bool // the embedded packet names a flow
		src, dst uint16
	}{
		{"eight bytes of UDP", udp4[:28], true, 7, 8},
		{"ports and nothing more", udp4[:24], true, 7, 8},
		{"half the ports", udp4[:22], false, 0, 0},
		{"no transport at all", udp4[:20], false, 0, 0},
		{"echo", echo4[:28], true, 4711, 0x0800},
		{"echo without identifier", echo4[:24], false, 0, 0},
		{"error about an error", unreach4, false, 0, 0},
		{"protocol without ports", esp4[:28], true, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := etherFrameOf(build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0b00}, gopacket.Payload(tt.embedded)))
			mustParse(t, p)
			if got := p.Flags&EmbeddedNAT != 0; got != tt.names || p.Flags&ICMPError == 0 {
				t.Errorf("flags = %b", p.Flags)
			}
			if p.Embedded.SrcPort != tt.src || p.Embedded.DstPort != tt.dst {
				t.Errorf("embedded ports %d, %d, want %d, %d", p.Embedded.SrcPort, p.Embedded.DstPort, tt.src, tt.dst)
			}
		})
	}
}

// Of an authentication header that the quote cuts short, what follows is known.
func TestQuoteMayEndInsideOfAnExtensionHeader(t *testing.T) {
	for _, tt := range []struct {
		name  string
		next  uint8
		bytes int
		want  Fault
		names bool
	}{
		{"protocol without ports", 50, 8, OK, true},
		{"protocol whose ports are missing", 17, 8, OK, false},
		{"another extension header", 60, 8, BadEmbedded, false},
		{"the first two bytes", 50, 2, OK, true},
		{"the first byte", 50, 1, BadEmbedded, false},
	} {
		ip := build(t, ip6(layers.IPProtocol(51)), gopacket.Payload([]byte{tt.next, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})) // 24 bytes by its length
		quote := append(make([]byte, 4), ip[:40+tt.bytes]...)
		p := etherFrameOf(build(t, ether6, ip6(layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: 0x0100}, gopacket.Payload(quote)))
		if got := Parse(p); got != tt.want || p.Flags&EmbeddedNAT != 0 != tt.names {
			t.Errorf("%s: %v, names a flow: %t; want %v, %t", tt.name, got, p.Flags&EmbeddedNAT != 0, tt.want, tt.names)
		}
		if tt.want == OK && p.Embedded.Proto != tt.next {
			t.Errorf("%s: protocol %d, want %d", tt.name, p.Embedded.Proto, tt.next)
		}
	}
}

func TestWrongEmbeddedHeaderChecksumIsFlagged(t *testing.T) {
	udp4 := build(t, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 7, DstPort: 8}, payload(4))
	udp4[8]--
	p := etherFrameOf(build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0b00}, gopacket.Payload(udp4)))
	mustParse(t, p)
	if p.Flags&EmbeddedBadSum == 0 {
		t.Error("EmbeddedBadSum is not set")
	}
}

func TestLinkLayerDestinationIsFlagged(t *testing.T) {
	b := build(t, ether4, ip4(layers.IPProtocolTCP), tcp(nil))
	p := etherFrameOf(b)
	p.LinkKind = KindOther
	mustParse(t, p)
	if p.Flags&LinkOther == 0 {
		t.Error("frame for another host is not flagged")
	}
	copy(b, bytes.Repeat([]byte{0xff}, 6))
	p = etherFrameOf(b)
	mustParse(t, p)
	if p.Flags&LinkBroadcast == 0 {
		t.Error("broadcast frame is not flagged")
	}
}
