package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack/tuple"
)

var (
	gateway4 = tuple.AddrFrom4([4]byte{203, 0, 113, 1})
	gateway6 = tuple.Addr(net.ParseIP("2001:db8:2::1"))
)

func gatewayOf(p *Packet) tuple.Addr {
	if p.Tuple.Family == tuple.IPv4 {
		return gateway4
	}
	return gateway6
}

func TestErrorsQuoteThePacketAndAreSound(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 20))
	buf := make([]byte, AnswerLen)
	kinds := []struct {
		name   string
		make   func(dst, p *Packet)
		v4, v6 uint16 // type and code
		mtu    uint32
	}{
		{"time exceeded", func(d, p *Packet) { TimeExceeded(d, p, buf, gatewayOf(p)) }, 0x0b00, 0x0300, 0},
		{"too big", func(d, p *Packet) { TooBig(d, p, buf, gatewayOf(p), 1400) }, 0x0304, 0x0200, 1400},
		{"no route", func(d, p *Packet) { DestUnreachable(d, p, buf, gatewayOf(p), NoRoute) }, 0x0300, 0x0100, 0},
		{"host", func(d, p *Packet) { DestUnreachable(d, p, buf, gatewayOf(p), HostUnreachable) }, 0x0301, 0x0103, 0},
		{"port", func(d, p *Packet) { DestUnreachable(d, p, buf, gatewayOf(p), PortUnreachable) }, 0x0303, 0x0104, 0},
		{"prohibited", func(d, p *Packet) { DestUnreachable(d, p, buf, gatewayOf(p), AdminProhibited) }, 0x030d, 0x0101, 0},
	}
	for _, k := range kinds {
		for i := range 200 {
			ip := randomIP(r, protocols[i%len(protocols)])
			if i%4 == 0 { // larger than any error may be
				ip = build(t, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload(3000))
			}
			p := frame(ip, sumComplete)
			mustParse(t, p)
			var e Packet
			k.make(&e, p)
			again := e
			mustParse(t, &again)
			if err := slowCheck(e.IP(), sumComplete); err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
			want, limit := k.v4, 576
			if p.Tuple.Family == tuple.IPv6 {
				want, limit = k.v6, 1280
			}
			if e.Tuple.DstPort != want || e.Tuple.Src != gatewayOf(p) || e.Tuple.Dst != p.Tuple.Src {
				t.Fatalf("%s: about %v it is %v", k.name, p.Tuple, e.Tuple)
			}
			if got := binary.BigEndian.Uint32(e.Mem[e.L4+4:]); got != k.mtu {
				t.Fatalf("%s: second word %d, want %d", k.name, got, k.mtu)
			}
			quoted := e.Mem[e.EmbL3:e.End]
			if !bytes.HasPrefix(ip, quoted) || len(quoted) < min(len(ip), limit-48) || e.L3Len > limit {
				t.Fatalf("%s: %d bytes quote %d of %d", k.name, e.L3Len, len(quoted), len(ip))
			}
			if e.Embedded != p.Tuple {
				t.Fatalf("%s: embeds %v, want %v", k.name, e.Embedded, p.Tuple)
			}
		}
	}
}

func TestResetAnswersAsAClosedPort(t *testing.T) {
	tests := []struct {
		name     string
		mod      func(*layers.TCP)
		payload  int
		answered bool
		seq, ack uint32
		flags    uint8
	}{
		{"syn", func(l *layers.TCP) { l.SYN, l.ACK = true, false }, 0, true, 0, 1001, RST | ACK},
		{"syn with data", func(l *layers.TCP) { l.SYN, l.ACK = true, false }, 10, true, 0, 1011, RST | ACK},
		{"fin without ack", func(l *layers.TCP) { l.FIN, l.ACK = true, false }, 3, true, 0, 1004, RST | ACK},
		{"ack", nil, 5, true, 2000, 0, RST},
		{"rst is not answered", func(l *layers.TCP) { l.RST = true }, 0, false, 0, 0, 0},
	}
	for _, tt := range tests {
		for _, parts := range [][]gopacket.SerializableLayer{{ip4(layers.IPProtocolTCP)}, {ip6(layers.IPProtocolTCP)}} {
			p := frame(build(t, append(parts, tcp(tt.mod), payload(tt.payload))...), sumComplete)
			mustParse(t, p)
			var a Packet
			buf := make([]byte, AnswerLen)
			if got := Reset(&a, p, buf); got != tt.answered {
				t.Fatalf("%s: Reset = %v, want %v", tt.name, got, tt.answered)
			}
			if !tt.answered {
				continue
			}
			if err := slowCheck(a.IP(), sumComplete); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if want, _ := p.Tuple.Inverse(); a.Tuple != want {
				t.Errorf("%s: %v, want %v", tt.name, a.Tuple, want)
			}
			h := a.Mem[a.L4:]
			seq, ack := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
			if seq != tt.seq || ack != tt.ack || h[13] != tt.flags {
				t.Errorf("%s: seq %d ack %d flags %#x, want %d, %d, %#x", tt.name, seq, ack, h[13], tt.seq, tt.ack, tt.flags)
			}
		}
	}
}

func TestMayAnswerKeepsQuietWhereItMust(t *testing.T) {
	udp := &layers.UDP{SrcPort: 7, DstPort: 8}
	from4 := func(src, dst net.IP) []byte {
		ip := ip4(layers.IPProtocolUDP)
		ip.SrcIP, ip.DstIP = src, dst
		return build(t, ether4, ip, udp, payload(8))
	}
	from6 := func(src, dst string) []byte {
		ip := ip6(layers.IPProtocolUDP)
		ip.SrcIP, ip.DstIP = net.ParseIP(src), net.ParseIP(dst)
		return build(t, ether6, ip, udp, payload(8))
	}
	host, peer := net.IP{10, 0, 0, 5}, net.IP{198, 51, 100, 7}
	broadcast := from4(host, peer)
	copy(broadcast, bytes.Repeat([]byte{0xff}, 6))
	later := from4(host, peer)
	later[21] = 1
	fix4(later)
	tests := []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"a plain packet", from4(host, peer), true},
		{"a plain IPv6 packet", from6("2001:db8::5", "2001:db8::7"), true},
		{"link-layer broadcast", broadcast, false},
		{"a later fragment", later, false},
		{"from the unspecified address", from4(net.IP{0, 0, 0, 0}, peer), false},
		{"from a loopback address", from4(net.IP{127, 0, 0, 1}, peer), false},
		{"from a multicast address", from4(net.IP{224, 0, 0, 1}, peer), false},
		{"from the reserved class", from4(net.IP{240, 0, 0, 1}, peer), false},
		{"to a multicast address", from4(host, net.IP{224, 0, 0, 251}), false},
		{"to everybody", from4(host, net.IP{255, 255, 255, 255}), false},
		{"from the unspecified IPv6 address", from6("::", "2001:db8::7"), false},
		{"from a multicast IPv6 address", from6("ff02::1", "2001:db8::7"), false},
		{"to a multicast IPv6 address", from6("2001:db8::5", "ff02::fb"), false},
		{"an ICMP error", build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0301}, gopacket.Payload(from4(host, peer)[14:])), false},
		{"an ICMP redirect", build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0501}, gopacket.Payload(from4(host, peer)[14:])), false},
		{"an ICMPv6 redirect", build(t, ether6, ip6(layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: 0x8900}, payload(36)), false},
		{"an echo", build(t, ether4, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: 0x0800}), true},
	}
	for _, tt := range tests {
		p := etherFrameOf(tt.frame)
		mustParse(t, p)
		if got := MayAnswer(p); got != tt.want {
			t.Errorf("%s: MayAnswer = %v, want %v", tt.name, got, tt.want)
		}
	}
}
