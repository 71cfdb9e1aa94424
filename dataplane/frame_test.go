package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
)

// opt changes a packet before it is built.
type opt func(*packetSpec)

type packetSpec struct {
	ttl  uint8
	df   bool
	id   uint16
	flag uint8 // TCP
	seq  uint32
	ack  uint32
	mss  uint16
	raw  []byte // payload
}

func ttl(n uint8) opt         { return func(s *packetSpec) { s.ttl = n } }
func dontFragment() opt       { return func(s *packetSpec) { s.df = true } }
func body(text string) opt    { return func(s *packetSpec) { s.raw = []byte(text) } }
func length(n int) opt        { return func(s *packetSpec) { s.raw = pattern(n) } }
func flags(f uint8) opt       { return func(s *packetSpec) { s.flag = f } }
func seq(seq, ack uint32) opt { return func(s *packetSpec) { s.seq, s.ack = seq, ack } }
func mss(n uint16) opt        { return func(s *packetSpec) { s.mss = n } }
func ipID(n uint16) opt       { return func(s *packetSpec) { s.id = n } }

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func specOf(opts []opt) packetSpec {
	s := packetSpec{ttl: 64, id: 77, flag: packet.SYN}
	for _, o := range opts {
		o(&s)
	}
	return s
}

// serialize has gopacket build an IP packet with all lengths and checksums.
func serialize(src, dst netip.Addr, proto layers.IPProtocol, s *packetSpec, rest ...gopacket.SerializableLayer) []byte {
	var ip gopacket.SerializableLayer
	if src.Is4() {
		ip4 := &layers.IPv4{Version: 4, TTL: s.ttl, Id: s.id, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		if s.df {
			ip4.Flags = layers.IPv4DontFragment
		}
		ip = ip4
	} else {
		ip = &layers.IPv6{Version: 6, HopLimit: s.ttl, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	for _, l := range rest {
		if t, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := t.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)); err != nil {
				panic(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	all := append(append([]gopacket.SerializableLayer{ip}, rest...), gopacket.Payload(s.raw))
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func udp(src, dst string, opts ...opt) []byte {
	s, a, b := specOf(opts), netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return serialize(a.Addr(), b.Addr(), layers.IPProtocolUDP, &s,
		&layers.UDP{SrcPort: layers.UDPPort(a.Port()), DstPort: layers.UDPPort(b.Port())})
}

func tcp(src, dst string, opts ...opt) []byte {
	s, a, b := specOf(opts), netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	h := &layers.TCP{SrcPort: layers.TCPPort(a.Port()), DstPort: layers.TCPPort(b.Port()), Seq: s.seq, Ack: s.ack, Window: 65535}
	h.FIN, h.SYN, h.RST, h.PSH, h.ACK = s.flag&packet.FIN != 0, s.flag&packet.SYN != 0, s.flag&packet.RST != 0, s.flag&packet.PSH != 0, s.flag&packet.ACK != 0
	if s.mss != 0 {
		h.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, s.mss)}}
	}
	return serialize(a.Addr(), b.Addr(), layers.IPProtocolTCP, &s, h)
}

// ping builds an echo request, pong its answer.
func ping(src, dst string, id uint16, opts ...opt) []byte { return echo(src, dst, id, 8, 128, opts) }
func pong(src, dst string, id uint16, opts ...opt) []byte { return echo(src, dst, id, 0, 129, opts) }

func echo(src, dst string, id uint16, type4, type6 uint8, opts []opt) []byte {
	s, a, b := specOf(opts), netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if a.Is4() {
		return serialize(a, b, layers.IPProtocolICMPv4, &s, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(type4, 0), Id: id, Seq: 1})
	}
	s.raw = append([]byte{byte(id >> 8), byte(id), 0, 1}, s.raw...)
	return serialize(a, b, layers.IPProtocolICMPv6, &s, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(type6, 0)})
}

// icmpErrorAbout builds an ICMP error from src to dst that quotes an IP packet.
// rest is the second word of the header.
func icmpErrorAbout(src, dst string, typ, code uint8, rest uint32, quoted []byte) []byte {
	a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	s := packetSpec{ttl: 60}
	if a.Is4() {
		s.raw = quoted
		return serialize(a, b, layers.IPProtocolICMPv4, &s, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: uint16(rest >> 16), Seq: uint16(rest)})
	}
	s.raw = append(binary.BigEndian.AppendUint32(nil, rest), quoted...)
	return serialize(a, b, layers.IPProtocolICMPv6, &s, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)})
}

func ethernet(dst, src [6]byte, ip []byte) []byte {
	kind := []byte{8, 0}
	if ip[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	b := append(append(append([]byte(nil), dst[:]...), src[:]...), kind...)
	return append(b, ip...)
}

func sourceOf(ip []byte) tuple.Addr {
	if ip[0]>>4 == 4 {
		return tuple.AddrFrom4([4]byte(ip[12:16]))
	}
	return tuple.Addr(ip[8:24])
}

// ipOf returns the IP packet in a frame.
func ipOf(f mem.Frame, link packet.Link) []byte {
	if link == packet.LinkEthernet {
		return f.Data[14:]
	}
	return f.Data
}

// describe says what a frame is, as gopacket reads it, and what is wrong with it.
func describe(f mem.Frame, link packet.Link) string {
	var notes []string
	if f.HasVLAN {
		notes = append(notes, fmt.Sprintf("vlan %d", f.VLAN))
	}
	if f.Offload.GSOType != packet.GSONone {
		notes = append(notes, fmt.Sprintf("gso %d", f.Offload.GSOSize))
	}
	if f.Offload.Flags&packet.NeedsCsum != 0 {
		notes = append(notes, "partial")
		l2 := 0
		if link == packet.LinkEthernet {
			l2 = 14
		}
		if want := l2 + headerLen(ipOf(f, link)); int(f.Offload.CsumStart) != want {
			notes = append(notes, fmt.Sprintf("CSUM-START %d not %d", f.Offload.CsumStart, want))
		}
	}
	ip := ipOf(f, link)
	if link == packet.LinkEthernet {
		if want := map[uint8]uint16{4: 0x0800, 6: 0x86dd}[ip[0]>>4]; binary.BigEndian.Uint16(f.Data[12:]) != want {
			notes = append(notes, "BAD-ETHERTYPE")
		}
	}
	return strings.Join(append([]string{describeIP(ip, f.Offload.Flags&packet.NeedsCsum != 0)}, notes...), " ")
}

func headerLen(ip []byte) int {
	if ip[0]>>4 == 6 {
		return 40
	}
	return int(ip[0]&15) * 4
}

// describeIP describes an IP packet: protocol, addresses, what matters of its
// header, length of payload; for ICMP errors the packet that is quoted.
func describeIP(ip []byte, partial bool) string {
	first := layers.LayerTypeIPv4
	if ip[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(ip, first, gopacket.DecodeOptions{NoCopy: true})
	var src, dst string
	var hops uint8
	var out []string
	switch h := p.NetworkLayer().(type) {
	case *layers.IPv4:
		src, dst, hops = h.SrcIP.String(), h.DstIP.String(), h.TTL
		if int(h.Length) != len(ip) {
			out = append(out, fmt.Sprintf("BAD-LENGTH %d of %d", h.Length, len(ip)))
		}
		if h.FragOffset != 0 || h.Flags&layers.IPv4MoreFragments != 0 {
			more := ""
			if h.Flags&layers.IPv4MoreFragments != 0 {
				more = "+"
			}
			return fmt.Sprintf("fragment %s > %s ttl %d id %d %d..%d%s", src, dst, hops, h.Id, int(h.FragOffset)*8, int(h.FragOffset)*8+len(h.Payload), more) + badSums(ip, false)
		}
	case *layers.IPv6:
		src, dst, hops = h.SrcIP.String(), h.DstIP.String(), h.HopLimit
		if int(h.Length)+40 != len(ip) {
			out = append(out, fmt.Sprintf("BAD-LENGTH %d of %d", h.Length, len(ip)))
		}
	default:
		return fmt.Sprintf("no IP: %x", ip)
	}
	ports := func(a, b uint16) string {
		return fmt.Sprintf("%v > %v", netip.AddrPortFrom(netip.MustParseAddr(src), a), netip.AddrPortFrom(netip.MustParseAddr(dst), b))
	}
	var what string
	switch {
	case p.Layer(layers.LayerTypeUDP) != nil:
		u := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		what = fmt.Sprintf("udp %s ttl %d len %d", ports(uint16(u.SrcPort), uint16(u.DstPort)), hops, len(u.Payload))
	case p.Layer(layers.LayerTypeTCP) != nil:
		h := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		what = fmt.Sprintf("tcp %s %s seq %d ack %d ttl %d len %d", ports(uint16(h.SrcPort), uint16(h.DstPort)), tcpFlags(h), h.Seq, h.Ack, hops, len(h.Payload))
		for _, o := range h.Options {
			if o.OptionType == layers.TCPOptionKindMSS {
				what += fmt.Sprintf(" mss %d", binary.BigEndian.Uint16(o.OptionData))
			}
		}
	case p.Layer(layers.LayerTypeICMPv4) != nil, p.Layer(layers.LayerTypeICMPv6) != nil:
		what = describeICMP(ip[headerLen(ip):], ip[0]>>4 == 6, src, dst, hops)
	default:
		what = fmt.Sprintf("proto %s > %s ttl %d", src, dst, hops)
	}
	return strings.Join(append([]string{what}, out...), " ") + badSums(ip, partial)
}

func describeICMP(m []byte, v6 bool, src, dst string, hops uint8) string {
	name, typ := "icmp", m[0]
	isEcho, isReply := typ == 8, typ == 0
	if v6 {
		name = "icmpv6"
		isEcho, isReply = typ == 128, typ == 129
	}
	switch {
	case isEcho:
		return fmt.Sprintf("%s %s > %s echo id %d ttl %d", name, src, dst, binary.BigEndian.Uint16(m[4:]), hops)
	case isReply:
		return fmt.Sprintf("%s %s > %s reply id %d ttl %d", name, src, dst, binary.BigEndian.Uint16(m[4:]), hops)
	}
	rest := ""
	if n := binary.BigEndian.Uint32(m[4:]); n != 0 {
		rest = fmt.Sprintf(" mtu %d", n)
	}
	return fmt.Sprintf("%s %s > %s %d/%d%s [%s]", name, src, dst, typ, m[1], rest, describeIP(m[8:], false))
}

func tcpFlags(h *layers.TCP) string {
	s := ""
	for _, f := range []struct {
		on   bool
		name string
	}{{h.SYN, "S"}, {h.FIN, "F"}, {h.RST, "R"}, {h.PSH, "P"}, {h.ACK, "A"}} {
		if f.on {
			s += f.name
		}
	}
	return s
}

// badSums is the slow twin of the checksums: it sums everything again.
func badSums(ip []byte, partial bool) string {
	h := headerLen(ip)
	body := ip[h:]
	pseudo := uint32(0)
	proto := ip[6]
	if ip[0]>>4 == 4 {
		if sum(0, ip[:h]) != 0xffff {
			return " BAD-IP-SUM"
		}
		total := int(binary.BigEndian.Uint16(ip[2:]))
		if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 || total > len(ip) {
			return "" // a fragment, or a quotation that was cut
		}
		body = ip[h:total]
		proto = ip[9]
		pseudo = uint32(sum(uint32(proto)+uint32(len(body)), ip[12:20]))
	} else {
		if int(binary.BigEndian.Uint16(ip[4:])) > len(body) {
			return ""
		}
		pseudo = uint32(sum(uint32(proto)+uint32(len(body)), ip[8:40]))
	}
	at := map[uint8]int{6: 16, 17: 6, 1: 2, 58: 2}[proto]
	switch {
	case at == 0 || proto == 17 && body[6] == 0 && body[7] == 0:
		return ""
	case partial:
		if uint32(binary.BigEndian.Uint16(body[at:])) != pseudo {
			return " BAD-PARTIAL-SUM"
		}
		return ""
	case proto == 1:
		pseudo = 0
	}
	if sum(pseudo, body) != 0xffff {
		return " BAD-SUM"
	}
	return ""
}

func sum(s uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestDescribeFindsWhatIsWrong(t *testing.T) {
	good := udp("10.0.0.5:40000", "198.51.100.7:53", body("query"))
	if got, want := describeIP(good, false), "udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 64 len 5"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for at, want := range map[int]string{8: "BAD-IP-SUM", 28: "BAD-SUM"} {
		bad := append([]byte(nil), good...)
		bad[at] ^= 1
		if got := describeIP(bad, false); !strings.HasSuffix(got, want) {
			t.Errorf("byte %d damaged: %q, want %q", at, got, want)
		}
	}
}
