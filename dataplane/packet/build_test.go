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

// gso returns a GSO frame of n payload bytes as the kernel hands it over.
func gso(t testing.TB, proto layers.IPProtocol, v4 bool, n, size int) *Packet {
	parts := []gopacket.SerializableLayer{ether4, ip4(proto)}
	if !v4 {
		parts = []gopacket.SerializableLayer{ether6, ip6(proto)}
	} else {
		parts[1].(*layers.IPv4).Id = 65534 // wraps
	}
	o := Offload{Flags: NeedsCsum, GSOSize: uint16(size)}
	if proto == layers.IPProtocolTCP {
		parts = append(parts, tcp(func(l *layers.TCP) {
			l.Seq = 0xfffffff0
			l.PSH, l.FIN, l.CWR = true, true, true
			l.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}
		}))
		o.CsumOffset, o.GSOType = 16, GSOTCPv6
		if v4 {
			o.GSOType = GSOTCPv4
		}
	} else {
		parts = append(parts, &layers.UDP{SrcPort: 53000, DstPort: 443})
		o.CsumOffset, o.GSOType = 6, GSOUDPL4
	}
	b := build(t, append(parts, payload(n))...)
	o.CsumStart = uint16(14 + slowParse(b[14:]).header)
	setSums(b[14:], sumPartial)
	p := etherFrameOf(b)
	p.Offload = o
	mustParse(t, p)
	return p
}

func TestSegmentsAreWhatTheSenderWouldHaveSent(t *testing.T) {
	for _, proto := range []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolUDP} {
		for _, v4 := range []bool{true, false} {
			for _, n := range []int{1, 1448, 1449, 5 * 1448, 60000} {
				p := gso(t, proto, v4, n, 1448)
				before := append([]byte(nil), p.Frame()...)
				s := MakeSegmenter(p)
				buf := make([]byte, s.BufferLen())
				var seg Packet
				var got []byte
				count := 0
				for ; s.Next(&seg, buf); count++ {
					if err := slowCheck(seg.IP(), sumComplete); err != nil {
						t.Fatalf("segment %d: %v", count, err)
					}
					again := seg
					mustParse(t, &again)
					if again.Tuple != p.Tuple || again.Payload != seg.Payload || again.L3Len != seg.L3Len || again.Offload != (Offload{}) {
						t.Fatalf("segment %d is %+v, parses as %+v", count, seg, again)
					}
					checkSegment(t, p, &seg, count, len(got))
					got = append(got, seg.Mem[seg.Payload:seg.End]...)
				}
				if want := p.Segments(); count != want {
					t.Errorf("%d segments, want %d", count, want)
				}
				if !bytes.Equal(got, p.Mem[p.Payload:p.End]) {
					t.Errorf("payload of the segments differs from the frame's")
				}
				if !bytes.Equal(p.Frame(), before) {
					t.Errorf("segmentation changed the frame")
				}
			}
		}
	}
}

// checkSegment checks segment i of p, which begins at byte at of the payload.
func checkSegment(t *testing.T, p, seg *Packet, i, at int) {
	t.Helper()
	if n := seg.End - seg.Payload; n > int(p.Offload.GSOSize) {
		t.Errorf("segment %d has %d bytes, want at most %d", i, n, p.Offload.GSOSize)
	}
	if seg.WireLen() > p.WireLen() {
		t.Errorf("segment %d is %d bytes long, WireLen said %d", i, seg.WireLen(), p.WireLen())
	}
	if p.Tuple.Family == tuple.IPv4 {
		if got, want := binary.BigEndian.Uint16(seg.IP()[4:]), uint16(65534+i); got != want {
			t.Errorf("segment %d has id %d, want %d", i, got, want)
		}
	}
	h := seg.Mem[seg.L4:seg.Payload]
	if p.Tuple.Proto != tuple.TCP {
		if got, want := int(binary.BigEndian.Uint16(h[4:])), seg.End-seg.L4; got != want {
			t.Errorf("segment %d has UDP length %d, want %d", i, got, want)
		}
		return
	}
	if got, want := binary.BigEndian.Uint32(h[4:]), uint32(0xfffffff0)+uint32(at); got != want {
		t.Errorf("segment %d has sequence number %d, want %d", i, got, want)
	}
	last := at+seg.End-seg.Payload == p.End-p.Payload
	if got := h[13]&(FIN|PSH) == FIN|PSH; got != last || h[13]&ACK == 0 {
		t.Errorf("segment %d has flags %#x (last: %v)", i, h[13], last)
	}
	if got := h[13]&cwr != 0; got != (i == 0) {
		t.Errorf("segment %d has flags %#x: CWR belongs to the first alone", i, h[13])
	}
}

func TestErrorAboutGSOFrameQuotesItsFirstSegment(t *testing.T) {
	buf := make([]byte, AnswerLen)
	for _, proto := range []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolUDP} {
		for _, v4 := range []bool{true, false} {
			p := gso(t, proto, v4, 5000, 400)
			var e, seg Packet
			TooBig(&e, p, buf, gatewayOf(p), 300)
			s := MakeSegmenter(p)
			s.Next(&seg, make([]byte, s.BufferLen()))
			want := seg.IP()
			if proto == layers.IPProtocolTCP { // FIN and PSH are the last segment's
				want[seg.L4-seg.L3+13] |= FIN | PSH
				slowFill(want)
			}
			if got := e.Mem[e.EmbL3:e.End]; !bytes.HasPrefix(want, got) || len(got) < 400 {
				t.Errorf("%v: quoted\n     % x\nwant % x", proto, got, want)
			}
		}
	}
}

func TestFragmentsOfAPacketMakeThePacket(t *testing.T) {
	for _, n := range []int{600, 1473, 4000, 60000} {
		for _, mtu := range []int{68, 576, 1500} {
			ip := ip4(layers.IPProtocolUDP)
			ip.Id = 77
			ip.Options = []layers.IPv4Option{ // record route stays in the first, the other is copied
				{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}},
				{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}},
			}
			b := build(t, ip, &layers.UDP{SrcPort: 1, DstPort: 2}, payload(n))
			p := frame(b, setSums(b, sumPartial))
			mustParse(t, p)
			f := MakeFragmenter(p, mtu)
			whole := append([]byte(nil), p.IP()...)
			if err := slowCheck(whole, sumComplete); err != nil {
				t.Fatalf("partial checksum was not completed: %v", err)
			}
			if p.WireLen() <= mtu {
				continue
			}
			got := reassemble(t, &f, p, mtu)
			if want := whole[p.L4-p.L3:]; !bytes.Equal(got, want) {
				t.Errorf("%d bytes over mtu %d: payload of fragments differs", n, mtu)
			}
		}
	}
}

// reassemble runs f over p and returns the IP payload of the fragments.
func reassemble(t *testing.T, f *Fragmenter, p *Packet, mtu int) (got []byte) {
	t.Helper()
	buf := make([]byte, f.BufferLen())
	var frag Packet
	more := true
	for f.Next(&frag, buf) {
		again := frag
		mustParse(t, &again)
		if again.Flags != frag.Flags || again.Tuple != frag.Tuple || again.L4 != frag.L4 || again.FragOff != frag.FragOff || again.FragAt != frag.FragAt || again.Payload != frag.Payload {
			t.Fatalf("fragment is described as %+v, parses as %+v", frag, again)
		}
		if frag.WireLen() > mtu {
			t.Fatalf("fragment of %d bytes over mtu %d", frag.WireLen(), mtu)
		}
		if int(frag.FragOff) != int(p.FragOff)+len(got) || frag.FragID != p.FragID {
			t.Fatalf("fragment at %d of %d, want %d of %d", frag.FragOff, frag.FragID, len(got), p.FragID)
		}
		wantHeader := 32
		if len(got) > 0 {
			wantHeader = 24
		}
		if frag.L4-frag.L3 != wantHeader {
			t.Fatalf("IP header of %d bytes at offset %d, want %d", frag.L4-frag.L3, frag.FragOff, wantHeader)
		}
		got = append(got, frag.Mem[frag.L4:frag.End]...)
		more = frag.Flags&(FragmentFirst|FragmentMore) != 0
	}
	if more {
		t.Error("last fragment says that there are more")
	}
	return got
}

func TestFragmentOfAFragmentKeepsOffsetAndMore(t *testing.T) {
	b := build(t, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload(992))
	binary.BigEndian.PutUint16(b[6:], 0x2000|800/8)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^slowSum(b[:20]))
	p := frame(b, sumComplete)
	mustParse(t, p)
	f := MakeFragmenter(p, 576)
	buf := make([]byte, f.BufferLen())
	var frag Packet
	at := 800
	for f.Next(&frag, buf) {
		if int(frag.FragOff) != at || frag.Flags&FragmentMore == 0 {
			t.Errorf("fragment at %d with flags %b, want at %d with more to come", frag.FragOff, frag.Flags, at)
		}
		at += frag.End - frag.L4
	}
	if at != 1800 {
		t.Errorf("fragments end at %d, want 1800", at)
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
	copy(broadcast, broadcastMAC[:])
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

func TestTCPOptionsAreRead(t *testing.T) {
	opt := func(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
		return layers.TCPOption{OptionType: kind, OptionLength: uint8(len(data) + 2), OptionData: data}
	}
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
	p := frame(build(t, ip4(layers.IPProtocolTCP), tcp(func(l *layers.TCP) {
		l.Options = []layers.TCPOption{opt(2, 5, 180), nop, opt(3, 7), opt(4), opt(8, 0, 0, 0, 1, 0, 0, 0, 2), opt(5, 0, 0, 0, 3, 0, 0, 0, 4)}
	})), sumComplete)
	mustParse(t, p)
	var o TCPOpts
	TCPOptions(p, &o)
	if o.MSS != 1460 || o.WScaleAt == 0 || o.WScale != 7 || !o.SACKPermitted || o.TSVal != 1 || o.TSEcr != 2 {
		t.Errorf("options = %+v", o)
	}
	if o.NumSACK != 1 || o.SACK[0] != (SACKBlock{3, 4}) || binary.BigEndian.Uint32(p.Mem[o.SACKAt:]) != 3 {
		t.Errorf("SACK = %d blocks %v at %d", o.NumSACK, o.SACK, o.SACKAt)
	}
}

func TestClampMSSLowersOnlyWhatIsTooLarge(t *testing.T) {
	mss := layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
	syn := func(o ...layers.TCPOption) func(*layers.TCP) {
		return func(l *layers.TCP) { l.SYN, l.Options = true, o }
	}
	tests := []struct {
		name  string
		mod   func(*layers.TCP)
		limit uint16
		want  bool
		left  uint16
	}{
		{"too large", syn(mss), 1400, true, 1400},
		{"too large, at an odd place", syn(nop, mss), 1401, true, 1401},
		{"small enough", syn(mss), 1460, false, 1460},
		{"no option", syn(), 1400, false, 0},
		{"not a SYN", func(l *layers.TCP) { l.Options = []layers.TCPOption{mss} }, 1400, false, 1460},
	}
	for _, tt := range tests {
		for _, how := range []sums{sumComplete, sumPartial} {
			b := build(t, ip6(layers.IPProtocolTCP), tcp(tt.mod), payload(5))
			p := frame(b, setSums(b, how))
			mustParse(t, p)
			if got := ClampMSS(p, tt.limit); got != tt.want {
				t.Errorf("%s: ClampMSS = %v, want %v", tt.name, got, tt.want)
			}
			if err := slowCheck(p.IP(), how); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			var o TCPOpts
			if TCPOptions(p, &o); o.MSS != tt.left {
				t.Errorf("%s: MSS = %d, want %d", tt.name, o.MSS, tt.left)
			}
		}
	}
}

func TestAnnouncementsSayWhoHasTheAddress(t *testing.T) {
	mac := [6]byte{2, 0, 0, 0, 0, 9}
	buf := make([]byte, AnswerLen)
	var p Packet
	decode := func() gopacket.Packet {
		d := gopacket.NewPacket(p.Frame(), layers.LayerTypeEthernet, gopacket.Default)
		if d.ErrorLayer() != nil {
			t.Fatalf("frame % x: %v", p.Frame(), d.ErrorLayer().Error())
		}
		return d
	}
	for _, tt := range []struct {
		name   string
		make   func(*Packet, []byte, [6]byte, tuple.Addr)
		sender net.IP
	}{{"announcement", Announce, net.IP{203, 0, 113, 1}}, {"probe", Probe, net.IP{0, 0, 0, 0}}} {
		tt.make(&p, buf, mac, gateway4)
		a, ok := decode().Layer(layers.LayerTypeARP).(*layers.ARP)
		if !ok || a.Operation != layers.ARPRequest || !bytes.Equal(a.SourceHwAddress, mac[:]) ||
			!bytes.Equal(a.SourceProtAddress, tt.sender) || !bytes.Equal(a.DstProtAddress, []byte{203, 0, 113, 1}) {
			t.Errorf("ARP %s is %+v", tt.name, a)
		}
		if p.EtherType != EtherARP || [6]byte(p.Frame()) != broadcastMAC {
			t.Errorf("ARP %s goes to % x", tt.name, p.Frame()[:6])
		}
	}

	Announce(&p, buf, mac, gateway6)
	d := decode()
	na, ok := d.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !ok || !na.Override() || !na.Router() || na.Solicited() || !na.TargetAddress.Equal(net.IP(gateway6[:])) ||
		len(na.Options) != 1 || !bytes.Equal(na.Options[0].Data, mac[:]) {
		t.Errorf("neighbour advertisement is %+v", na)
	}
	if p.TTL != 255 || p.Tuple.Dst != allNodes {
		t.Errorf("neighbour advertisement: hop limit %d, %v", p.TTL, p.Tuple)
	}
	if err := slowCheck(p.IP(), sumComplete); err != nil {
		t.Error(err)
	}

	Probe(&p, buf, mac, gateway6)
	ns, ok := decode().Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
	if !ok || !ns.TargetAddress.Equal(net.IP(gateway6[:])) || len(ns.Options) != 0 {
		t.Errorf("neighbour solicitation is %+v", ns)
	}
	if p.TTL != 255 || p.Tuple.Src != unspecified6 || p.Tuple.Dst.String() != "ff02::1:ff00:1" {
		t.Errorf("neighbour solicitation: hop limit %d, %v", p.TTL, p.Tuple)
	}
	if err := slowCheck(p.IP(), sumComplete); err != nil {
		t.Error(err)
	}
}

func TestGRECallIDIsReadAndTranslated(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 21))
	ip := randomIPOf(r, tuple.GRE, true)
	p := frame(ip, sumComplete)
	mustParse(t, p)
	id, ok := GRECallID(p)
	if !ok || id != binary.BigEndian.Uint16(p.Mem[p.L4+6:]) {
		t.Fatalf("GRECallID = %d, %v", id, ok)
	}
	p.Tuple.DstPort = id
	to := p.Tuple
	to.DstPort = 4242
	Translate(p, &to)
	if got, _ := GRECallID(p); got != 4242 || p.Tuple != to {
		t.Errorf("call id = %d, tuple %v, want 4242", got, p.Tuple)
	}
	p.Mem[p.L4+1] = 0 // version 0
	if _, ok := GRECallID(p); ok {
		t.Error("plain GRE has a call id")
	}
}

func TestCopyToDescribesTheCopy(t *testing.T) {
	r := rand.New(rand.NewPCG(22, 22))
	ip := errorAbout(r, randomIP(r, tuple.TCP), 100)
	p := frame(ip, sumComplete)
	mustParse(t, p)
	SetLink(p, LinkEthernet, [6]byte{}, [6]byte{})
	var q Packet
	p.CopyTo(&q, make([]byte, Headroom+len(p.Frame())))
	if !bytes.Equal(q.Frame(), p.Frame()) || !bytes.Equal(q.Mem[q.EmbL4:q.EmbEnd], p.Mem[p.EmbL4:p.EmbEnd]) {
		t.Error("copy differs")
	}
	SetLink(&q, LinkIP, [6]byte{}, [6]byte{})
	if !bytes.Equal(q.Frame(), ip) {
		t.Error("copy without link header differs")
	}
}
