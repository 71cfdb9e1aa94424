package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// ethernetFrame puts the packet of frame behind a link-layer header.
func ethernetFrame(ip []byte, how sums) *Packet {
	link := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 5}, 0x08, 0x00)
	if len(ip) > 0 && ip[0]>>4 == 6 {
		link[12], link[13] = 0x86, 0xdd
	}
	p := frame(append(link, ip...), sumComplete)
	p.Link = LinkEthernet
	if how == sumPartial {
		p.Offload = frame(ip, how).Offload
		p.Offload.CsumStart += etherLen
	}
	return p
}

// copyOf returns p in memory of its own.
func copyOf(p *Packet) *Packet {
	c := *p
	c.Mem = bytes.Clone(p.Mem)
	return &c
}

// sameAsPlain holds ParsePlain and ForwardPlain against what they stand for, and
// reports whether the packet is plain.
func sameAsPlain(t *testing.T, p *Packet, to tuple.Tuple) bool {
	t.Helper()
	slow, fast := copyOf(p), copyOf(p)
	fault, plain := Parse(slow), ParsePlain(fast)
	if !plain {
		if again := Parse(fast); again != fault {
			t.Fatalf("Parse says %v after ParsePlain, and %v without", again, fault)
		}
		fault = OK
	}
	if fault != OK {
		t.Fatalf("ParsePlain takes a packet of which Parse says %v", fault)
	}
	equal := func(step string) {
		t.Helper()
		if !bytes.Equal(fast.Mem, slow.Mem) {
			t.Fatalf("%s: plain\n% x, else\n% x", step, fast.Mem, slow.Mem)
		}
		a, b := *fast, *slow
		a.Mem, b.Mem, a.Embedded, b.Embedded = nil, nil, tuple.Tuple{}, tuple.Tuple{}
		a.EmbL3, a.EmbL4, a.EmbEnd, b.EmbL3, b.EmbL4, b.EmbEnd = 0, 0, 0, 0, 0, 0
		if p, q := fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b); p != q {
			t.Fatalf("%s: plain %s, else %s", step, p, q)
		}
	}
	if !plain {
		return false
	}
	equal("parsed")
	if slow.TTL <= 1 {
		return true
	}
	answer, _ := to.Inverse()
	answer.Zone = 7 // of a flow; the packet keeps its own
	dst, src := [6]byte{2, 9, 8, 7, 6, 5}, [6]byte{0xfe, 1, 2, 3, 4, 0xff}
	DecrementTTL(slow)
	Translate(slow, &to)
	SetLink(slow, LinkEthernet, dst, src)
	ForwardPlain(fast, &answer, number(dst), number(src))
	equal("forwarded")
	return true
}

func number(mac [6]byte) uint64 {
	return binary.BigEndian.Uint64(append([]byte{0, 0}, mac[:]...))
}

// TestPlainPacketsAreTreatedAsAllOthers: whatever is random in a packet, and whatever
// one byte of it is changed to.
func TestPlainPacketsAreTreatedAsAllOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	plain := map[string]int{}
	for n := range 40_000 {
		proto := protocols[r.IntN(len(protocols))]
		if n%2 == 0 {
			proto = []uint8{tuple.TCP, tuple.UDP}[r.IntN(2)]
		}
		ip := randomIP(r, proto)
		how := setSums(ip, sums(r.IntN(3)))
		p := ethernetFrame(ip, how)
		switch r.IntN(4) {
		case 0:
			p.Mem[p.Off+r.IntN(min(60, p.End-p.Off))] ^= 1 << r.IntN(8)
		case 1:
			p.Offload.Flags |= DataValid
			p.Mem[p.Off+r.IntN(min(60, p.End-p.Off))] ^= 1 << r.IntN(8)
		case 2:
			p.End += r.IntN(7) // padding
		}
		p.LinkKind = []uint8{KindHost, KindHost, KindHost, KindOther}[r.IntN(4)]
		q := copyOf(p)
		Parse(q)
		if sameAsPlain(t, p, randomTuple(r, q.Tuple)) {
			plain[tuple.ProtoName(proto)]++
		}
	}
	if plain["tcp"] < 500 || plain["udp"] < 500 {
		t.Errorf("only %v of the packets were plain", plain)
	}
}

func FuzzPlain(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, flags, gso uint8, start, offset uint16) {
		p := ethernetFrame(b, sumComplete)
		p.Offload = Offload{Flags: flags, GSOType: gso, GSOSize: 40, CsumStart: start, CsumOffset: offset}
		q := copyOf(p)
		Parse(q)
		r := rand.New(rand.NewPCG(uint64(len(b)), uint64(start)))
		sameAsPlain(t, p, randomTuple(r, q.Tuple))
	})
}
