package packet

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// seeds are packets of every protocol, and such as once would have gone wrong.
func seeds(f *testing.F) {
	r := rand.New(rand.NewPCG(30, 30))
	for _, proto := range protocols {
		for range 4 {
			ip := randomIP(r, proto)
			f.Add(ip, uint8(0), uint8(0), uint16(0), uint16(0))
			f.Add(errorAbout(r, ip, 48), uint8(0), uint8(0), uint16(0), uint16(0))
			p := frame(ip, setSums(ip, sumPartial))
			f.Add(ip, p.Offload.Flags, uint8(GSONone), p.Offload.CsumStart, p.Offload.CsumOffset)
		}
	}
	for _, proto := range []uint8{tuple.TCP, tuple.UDP} {
		ip := randomIPOf(r, proto, true)
		p := frame(ip, setSums(ip, sumPartial))
		f.Add(ip, NeedsCsum, map[uint8]uint8{tuple.TCP: GSOTCPv4, tuple.UDP: GSOUDPL4}[proto], p.Offload.CsumStart, p.Offload.CsumOffset)
	}
	f.Add([]byte{0x45}, uint8(0), uint8(0), uint16(0), uint16(0))                                // shorter than any header
	f.Add(append([]byte{0x60}, make([]byte, 39)...), NeedsCsum, uint8(0), uint16(0), ^uint16(0)) // checksum far outside
}

// fuzzed puts arbitrary bytes into port memory.
func fuzzed(b []byte, flags, gso uint8, start, offset uint16) *Packet {
	p := frame(b, sumComplete)
	p.Offload = Offload{Flags: flags, GSOType: gso, GSOSize: 40, CsumStart: start, CsumOffset: offset}
	return p
}

// within reports whether the offsets of a parsed packet are in order and inside
// the n bytes of its frame.
func within(p *Packet, n int) bool {
	if p.Off > p.L3 || p.L3 >= p.L4 || p.L4 > p.Payload || p.Payload > p.End || p.End > p.Off+n {
		return false
	}
	return p.Flags&ICMPError == 0 || p.L4 < p.EmbL3 && p.EmbL3 < p.EmbL4 && p.EmbL4 <= p.EmbEnd && p.EmbEnd <= p.End
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, flags, gso uint8, start, offset uint16) {
		p := fuzzed(b, flags, gso, start, offset)
		fault := Parse(p)
		if outside(p, len(b)) {
			t.Fatalf("Parse (%v) wrote outside the frame", fault)
		}
		if fault != OK {
			return
		}
		if !within(p, len(b)) {
			t.Fatalf("offsets out of order: %+v", p)
		}
		if gso == GSONone && flags == 0 {
			if err := slowCheck(p.IP(), sumComplete); err != nil && !isZeroUDP(p) {
				t.Fatalf("Parse accepted: %v", err)
			}
		}
		var o TCPOpts
		TCPOptions(p, &o)
	})
}

func isZeroUDP(p *Packet) bool {
	return p.Tuple.Proto == tuple.UDP && p.Flags&FragmentLater == 0 && be.Uint16(p.Mem[p.L4+6:]) == 0
}

func FuzzTranslate(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, flags, gso uint8, start, offset uint16) {
		p := fuzzed(b, flags, gso, start, offset)
		if Parse(p) != OK {
			return
		}
		partial := p.Flags&PartialChecksum != 0
		r := rand.New(rand.NewPCG(uint64(len(b)), uint64(start)))
		outer := randomTuple(r, p.Tuple)
		if p.Flags&ICMPError != 0 {
			inner := randomTuple(r, p.Embedded)
			TranslateError(p, &outer, &inner)
		} else {
			Translate(p, &outer)
		}
		DecrementTTL(p)
		ClampMSS(p, 1200)
		if outside(p, len(b)) {
			t.Fatal("a rewrite wrote outside the frame")
		}
		zero := isZeroUDP(p)
		if !partial && flags == 0 && gso == GSONone && !zero {
			if err := slowCheck(p.IP(), sumComplete); err != nil {
				t.Fatalf("after translation: %v", err)
			}
		}
		answer(t, p)
		divide(t, p)
		if outside(p, len(b)) {
			t.Fatal("an answer or a division wrote outside the frame")
		}
	})
}

// answer builds everything that p may be answered with.
func answer(t *testing.T, p *Packet) {
	buf := make([]byte, AnswerLen)
	var a Packet
	for _, build := range []func(){
		func() { TimeExceeded(&a, p, buf, gatewayOf(p)) },
		func() { TooBig(&a, p, buf, gatewayOf(p), 1280) },
		func() { DestUnreachable(&a, p, buf, gatewayOf(p), RejectRoute) },
	} {
		build()
		if err := slowCheck(a.IP(), sumComplete); err != nil {
			t.Fatalf("answer: %v", err)
		}
	}
	if p.Tuple.Proto == tuple.TCP && Reset(&a, p, buf) {
		if err := slowCheck(a.IP(), sumComplete); err != nil {
			t.Fatalf("reset: %v", err)
		}
	}
}

// divide segments p, or fragments it and puts it together again.
func divide(t *testing.T, p *Packet) {
	var part Packet
	switch {
	case p.Offload.GSOType != GSONone:
		s := MakeSegmenter(p)
		for buf := make([]byte, s.BufferLen()); s.Next(&part, buf); {
			if part.WireLen() > p.WireLen() {
				t.Fatalf("segment of %d bytes, WireLen said %d", part.WireLen(), p.WireLen())
			}
		}
	case Fragmentable(p):
		trusted := p.Offload.Flags&(DataValid|NeedsCsum) != 0 // nobody has looked at its checksum
		f := MakeFragmenter(p, 68)
		want := slices.Clone(p.Mem[p.L4:p.End])
		var parts []*Packet
		for f.Next(&part, make([]byte, f.BufferLen())) {
			if part.WireLen() > 68 {
				t.Fatalf("fragment of %d bytes for mtu 68", part.WireLen())
			}
			one := part
			parts = append(parts, &one)
		}
		if len(parts) < 2 || p.Flags.Fragment() {
			return
		}
		slices.Reverse(parts)
		fault := Join(&part, slices.Values(parts))
		if fault != OK && (!trusted || fault != BadChecksum) {
			t.Fatalf("Join = %v", fault)
		}
		if !bytes.Equal(part.Mem[part.L4:part.End], want) || part.FragMax > 68 {
			t.Fatalf("joined %d bytes, want %d; longest %d", part.End-part.L4, len(want), part.FragMax)
		}
	default:
		CompleteChecksum(p)
	}
}
