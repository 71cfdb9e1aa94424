package packet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack/tuple"
)

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

func TestBuildingPacketsDoesNotAllocate(t *testing.T) {
	big := gso(t, layers.IPProtocolTCP, true, 5000, 400)
	b := build(t, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}, payload(4000))
	long := frame(b, sumComplete)
	mustParse(t, long)
	buf := make([]byte, 8192)
	var q Packet
	tests := map[string]func(){
		"segments": func() {
			s := MakeSegmenter(big)
			for s.Next(&q, buf) {
			}
		},
		"fragments": func() {
			f := MakeFragmenter(long, 576)
			for f.Next(&q, buf) {
			}
		},
		"time exceeded": func() { TimeExceeded(&q, long, buf, gateway4) },
		"too big":       func() { TooBig(&q, big, buf, gateway4, 300) },
		"reset":         func() { Reset(&q, big, buf) },
	}
	for name, f := range tests {
		if n := testing.AllocsPerRun(20, f); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}
