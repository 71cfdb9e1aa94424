package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func mustParse(t testing.TB, p *Packet) {
	t.Helper()
	if f := Parse(p); f != OK {
		t.Fatalf("Parse = %v, want ok; packet % x", f, p.Frame())
	}
}

func TestTranslateKeepsChecksumsRight(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 20000 {
		ip := randomIP(r, protocols[i%len(protocols)])
		how := setSums(ip, sums(r.IntN(int(numSums))))
		p := frame(ip, how)
		mustParse(t, p)
		from, to := p.Tuple, randomTuple(r, p.Tuple)
		Translate(p, &to)
		if p.Tuple != to {
			t.Fatalf("tuple after Translate = %v, want %v", p.Tuple, to)
		}
		if err := slowCheck(p.IP(), how); err != nil {
			t.Fatalf("%v to %v (sums %d): %v", from, to, how, err)
		}
		again := *p
		mustParse(t, &again)
		if again.Tuple != to {
			t.Fatalf("%v translated to %v parses as %v", from, to, again.Tuple)
		}
		Translate(p, &from)
		if !bytes.Equal(p.IP(), ip) {
			t.Fatalf("there and back:\n got % x\nwant % x", p.IP(), ip)
		}
		if outside(p, len(ip)) {
			t.Fatalf("%v to %v wrote outside the frame", from, to)
		}
	}
}

func TestTranslateToItselfChangesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for i := range 500 {
		ip := randomIP(r, protocols[i%len(protocols)])
		p := frame(ip, sumComplete)
		mustParse(t, p)
		to := p.Tuple
		Translate(p, &to)
		if !bytes.Equal(p.IP(), ip) {
			t.Fatalf("%v: bytes changed", to)
		}
	}
}

func TestUDPChecksumThatComesOutZeroIsWrittenAsOnes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	ip := randomIPOf(r, tuple.UDP, true)
	for port := range 1 << 16 {
		p := frame(ip, sumComplete)
		mustParse(t, p)
		to := p.Tuple
		to.SrcPort = uint16(port)
		Translate(p, &to)
		if got := binary.BigEndian.Uint16(p.Mem[p.L4+6:]); got == 0 {
			t.Fatalf("source port %d: checksum 0, want 0xffff", port)
		}
	}
}

// split cuts ip into two fragments by hand; the first carries at least the
// transport header.
func split(ip []byte) (first, later []byte) {
	s := slowParse(ip)
	cut := s.header + len(s.transport)/2&^7
	if s.v4 {
		first = append([]byte(nil), ip[:cut]...)
		later = append(append([]byte(nil), ip[:s.header]...), ip[cut:]...)
		binary.BigEndian.PutUint16(first[6:], 0x2000)
		binary.BigEndian.PutUint16(later[6:], uint16((cut-s.header)/8))
		for _, f := range [][]byte{first, later} {
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			binary.BigEndian.PutUint16(f[10:], 0)
			binary.BigEndian.PutUint16(f[10:], ^slowSum(f[:s.header]))
		}
		return first, later
	}
	if s.header != 40 {
		panic("extension headers")
	}
	with := func(data []byte, field uint16) []byte {
		f := append([]byte(nil), ip[:40]...)
		f[6] = 44
		f = append(f, s.proto, 0, byte(field>>8), byte(field), 1, 2, 3, 4)
		f = append(f, data...)
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		return f
	}
	return with(ip[40:cut], 1), with(ip[cut:], uint16(cut-40))
}

func TestFragmentsTranslateAsTheWholeWould(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for i := range 4000 {
		proto := []uint8{tuple.UDP, tuple.UDPLite, tuple.TCP}[i%3]
		v4 := i%2 == 0
		ip := randomIPOf(r, proto, v4)
		if s := slowParse(ip); len(s.transport) < 140 || s.header > 40 {
			continue
		}
		how := sumComplete
		if i%5 == 0 {
			how = setSums(ip, sumZero)
		}
		a, b := split(ip)
		whole, first, later := frame(ip, how), frame(a, how), frame(b, how)
		mustParse(t, whole)
		mustParse(t, first)
		mustParse(t, later)
		to := randomTuple(r, whole.Tuple)
		Translate(whole, &to)
		Translate(first, &to)
		Translate(later, &to)
		got := append(append([]byte(nil), first.Mem[first.L4:first.End]...), later.Mem[later.L4:later.End]...)
		if want := whole.Mem[whole.L4:whole.End]; !bytes.Equal(got, want) {
			t.Fatalf("payload of fragments:\n got % x\nwant % x", got, want)
		}
		for _, f := range []*Packet{first, later} {
			if err := slowCheck(f.IP(), how); err != nil {
				t.Fatal(err)
			}
			if f.Tuple.Src != to.Src || f.Tuple.Dst != to.Dst {
				t.Fatalf("fragment has %v, want %v", f.Tuple, to)
			}
		}
	}
}

func TestPortsOfFragmentedSCTPStay(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	ip := randomIPOf(r, tuple.SCTP, true)
	for len(ip) < 100 {
		ip = randomIPOf(r, tuple.SCTP, true)
	}
	a, _ := split(ip)
	p := frame(a, sumComplete)
	mustParse(t, p)
	if p.Flags&Untranslatable == 0 {
		t.Error("first fragment of SCTP lacks Untranslatable")
	}
	want := append([]byte(nil), p.Mem[p.L4:p.End]...)
	to := p.Tuple
	to.SrcPort++
	to.Src[15]++
	Translate(p, &to)
	if !bytes.Equal(p.Mem[p.L4:p.End], want) {
		t.Error("transport of a first SCTP fragment changed, its CRC32c cannot follow")
	}
}

func TestDecrementTTLKeepsTheHeaderChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for i := range 2000 {
		ip := randomIP(r, protocols[i%len(protocols)])
		p := frame(ip, sumComplete)
		mustParse(t, p)
		before := p.TTL
		DecrementTTL(p)
		if err := slowCheck(p.IP(), sumComplete); err != nil {
			t.Fatal(err)
		}
		if want := max(before, 1) - 1; p.TTL != want {
			t.Fatalf("TTL %d became %d, want %d", before, p.TTL, want)
		}
		at := 7
		if p.Tuple.Family == tuple.IPv4 {
			at = 8
		}
		if p.IP()[at] != p.TTL {
			t.Fatalf("TTL in the header = %d, want %d", p.IP()[at], p.TTL)
		}
	}
}

// errorAbout wraps ip into an ICMP error that quotes n bytes of it.
func errorAbout(r *rand.Rand, ip []byte, n int) []byte {
	quoted := ip[:min(n, len(ip))]
	if ip[0]>>4 == 4 {
		out := randomBytes(r, 20)
		out[0], out[6], out[7], out[9] = 0x45, 0, 0, 1
		out = append(out, 3, 4, 0, 0, 0, 0, 5, 0)
		out = append(out, quoted...)
		binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
		slowFill(out)
		return out
	}
	out := randomBytes(r, 40)
	out[0], out[6] = 0x60, 58
	out = append(out, 2, 0, 0, 0, 0, 0, 5, 0)
	out = append(out, quoted...)
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	slowFill(out)
	return out
}

func TestTranslateErrorKeepsAllChecksumsRight(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 20000 {
		inner := randomIP(r, protocols[i%len(protocols)])
		how := sumComplete
		if i%3 == 0 {
			how = setSums(inner, sumZero)
		}
		s := slowParse(inner)
		n := len(inner)
		if i%2 == 0 {
			n = min(n, s.header+r.IntN(60))
		}
		ip := errorAbout(r, inner, n)
		p := frame(ip, sumComplete)
		mustParse(t, p)
		if p.Flags&ICMPError == 0 {
			t.Fatal("ICMP error not recognised")
		}
		outer, embedded := p.Tuple, p.Embedded
		toOuter, toEmbedded := randomTuple(r, outer), randomTuple(r, embedded)
		if p.Flags&EmbeddedNAT == 0 {
			toEmbedded.SrcPort, toEmbedded.DstPort = embedded.SrcPort, embedded.DstPort
		}
		TranslateError(p, &toOuter, &toEmbedded)
		if err := slowCheck(p.IP(), sumComplete); err != nil {
			t.Fatalf("outer: %v", err)
		}
		quoted := p.Mem[p.EmbL3:p.End]
		if n == len(inner) && s.proto != tuple.SCTP {
			if err := slowCheck(quoted, how); err != nil {
				t.Fatalf("embedded %v to %v: %v", embedded, toEmbedded, err)
			}
		}
		again := *p
		mustParse(t, &again)
		if again.Embedded != toEmbedded || again.Flags&EmbeddedBadSum != 0 {
			t.Fatalf("embedded parses as %v flags %b, want %v", again.Embedded, again.Flags, toEmbedded)
		}
		if again.Tuple.Src != toOuter.Src || again.Tuple.Dst != toOuter.Dst {
			t.Fatalf("outer parses as %v, want addresses of %v", again.Tuple, toOuter)
		}
		TranslateError(p, &outer, &embedded)
		if !bytes.Equal(p.IP(), ip) {
			t.Fatalf("there and back (%v):\n got % x\nwant % x", embedded, p.IP(), ip)
		}
		if outside(p, len(ip)) {
			t.Fatal("wrote outside the frame")
		}
	}
}

func TestCompleteChecksumFinishesWhatTheSenderLeft(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for i := range 3000 {
		ip := randomIP(r, []uint8{tuple.TCP, tuple.UDP, tuple.ICMPv6}[i%3])
		want := append([]byte(nil), ip...)
		p := frame(ip, setSums(ip, sumPartial))
		mustParse(t, p)
		segments := MakeSegmenter(p)
		var single Packet
		if !segments.Next(&single, make([]byte, segments.BufferLen())) || !bytes.Equal(single.IP(), want) {
			t.Fatalf("only segment:\n got % x\nwant % x", single.IP(), want)
		}
		if segments.Next(&single, nil) {
			t.Fatal("a second segment of a packet without GSO")
		}
		CompleteChecksum(p)
		if !bytes.Equal(p.IP(), want) {
			t.Fatalf("completed:\n got % x\nwant % x", p.IP(), want)
		}
		if p.Offload != (Offload{}) || p.Flags&PartialChecksum != 0 {
			t.Fatalf("offload %+v flags %b after completion", p.Offload, p.Flags)
		}
	}
}

func TestChecksumInsideATunnelIsCompleted(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 13))
	inner := randomIPOf(r, tuple.TCP, true)
	want := append([]byte(nil), inner...)
	setSums(inner, sumPartial)
	outer := randomIPOf(r, 4, true)
	header := slowParse(outer).header
	ip := append(append([]byte(nil), outer[:header]...), inner...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	slowFill(ip)
	p := frame(ip, sumComplete)
	p.Offload = Offload{Flags: NeedsCsum, CsumStart: uint16(header + slowParse(inner).header), CsumOffset: 16}
	mustParse(t, p)
	to := randomTuple(r, p.Tuple)
	Translate(p, &to)
	CompleteChecksum(p)
	if got := p.Mem[p.L4:p.End]; !bytes.Equal(got, want) {
		t.Fatalf("tunnelled packet:\n got % x\nwant % x", got, want)
	}
	if err := slowCheck(p.IP(), sumComplete); err != nil {
		t.Fatal(err)
	}
}

func TestUnfinishedCRC32cIsFinishedByParse(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	ip := randomIPOf(r, tuple.SCTP, false)
	want := append([]byte(nil), ip...)
	s := slowParse(ip)
	binary.LittleEndian.PutUint32(s.transport[8:], 0)
	p := frame(ip, sumComplete)
	p.Offload = Offload{Flags: NeedsCsum, CsumStart: uint16(s.header), CsumOffset: 8}
	mustParse(t, p)
	if !bytes.Equal(p.IP(), want) || p.Offload != (Offload{}) {
		t.Fatalf("offload %+v, packet\n got % x\nwant % x", p.Offload, p.IP(), want)
	}
}

func TestSetLinkMovesTheFrame(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 10))
	dst, src := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	for i := range 200 {
		ip := randomIP(r, tuple.TCP)
		how := setSums(ip, sums(i%2))
		p := frame(ip, how)
		mustParse(t, p)
		SetLink(p, LinkEthernet, dst, src)
		f := p.Frame()
		if len(f) != len(ip)+14 || [6]byte(f) != dst || [6]byte(f[6:]) != src || binary.BigEndian.Uint16(f[12:]) != p.EtherType {
			t.Fatalf("Ethernet frame % x", f[:14])
		}
		mustParse(t, p)
		SetLink(p, LinkEthernet, src, dst)
		if [6]byte(p.Frame()) != src {
			t.Fatal("second SetLink kept the old address")
		}
		mustParse(t, p)
		SetLink(p, LinkIP, dst, src)
		if !bytes.Equal(p.Frame(), ip) {
			t.Fatal("IP frame differs after two changes of link")
		}
		mustParse(t, p)
	}
}

func TestNothingOnTheDataPathAllocates(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	for _, proto := range protocols {
		ip := randomIP(r, proto)
		p := frame(ip, sumComplete)
		mustParse(t, p)
		from, to := p.Tuple, randomTuple(r, p.Tuple)
		n := testing.AllocsPerRun(100, func() {
			Parse(p)
			Translate(p, &to)
			Translate(p, &from)
			SetLink(p, LinkEthernet, [6]byte{}, [6]byte{})
			SetLink(p, LinkIP, [6]byte{}, [6]byte{})
			ClampMSS(p, 1400)
		})
		if n != 0 {
			t.Errorf("protocol %d: %v allocations a packet, want 0", proto, n)
		}
	}
}

// TestErrorsQuoteWhatHasNoChecksumAsItWas: of a packet of a protocol without a checksum,
// however much of it is quoted, the addresses alone are translated.
func TestErrorsQuoteWhatHasNoChecksumAsItWas(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 13))
	for _, v4 := range []bool{true, false} {
		for _, proto := range []uint8{tuple.GRE, 50, 246} {
			inner := randomIPOf(r, proto, v4)
			inner = append(inner, randomBytes(r, 600)...)
			if v4 {
				binary.BigEndian.PutUint16(inner[2:], uint16(len(inner)))
			} else {
				binary.BigEndian.PutUint16(inner[4:], uint16(len(inner)-40))
			}
			slowFill(inner)
			p := frame(errorAbout(r, inner, len(inner)), sumComplete)
			mustParse(t, p)
			outer, to := p.Tuple, p.Embedded
			for to.Src == p.Embedded.Src || to.Dst == p.Embedded.Dst {
				to = randomTuple(r, p.Embedded)
			}
			payload := slices.Clone(p.Mem[p.EmbL4:p.End])
			TranslateError(p, &outer, &to)
			if !bytes.Equal(p.Mem[p.EmbL4:p.End], payload) {
				t.Errorf("protocol %d, IPv4 %v: what is quoted behind the header has changed", proto, v4)
			}
			if err := slowCheck(p.IP(), sumComplete); err != nil {
				t.Errorf("protocol %d, IPv4 %v: %v", proto, v4, err)
			}
		}
	}
}

func BenchmarkParseTranslate(b *testing.B) {
	r := rand.New(rand.NewPCG(12, 12))
	for _, bb := range []struct {
		name string
		v4   bool
	}{{"IPv4", true}, {"IPv6", false}} {
		b.Run(bb.name, func(b *testing.B) {
			ip := randomIPOf(r, tuple.UDP, bb.v4)
			for slowParse(ip).header > 40 || bb.v4 && slowParse(ip).header > 20 {
				ip = randomIPOf(r, tuple.UDP, bb.v4)
			}
			p := frame(ip, sumComplete)
			p.Offload.Flags = DataValid
			mustParse(b, p)
			tuples := [2]tuple.Tuple{randomTuple(r, p.Tuple), p.Tuple}
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				if Parse(p) != OK {
					b.Fatal("bad packet")
				}
				Translate(p, &tuples[i&1])
			}
		})
	}
}
