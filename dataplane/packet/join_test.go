package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack/tuple"
)

// withFragmentHeader puts a fragment header with this id behind the header of an
// IPv6 packet and its hop-by-hop options.
func withFragmentHeader(ip []byte, id uint32) []byte {
	next, at := 6, 40
	if ip[6] == 0 {
		next, at = 40, 48+8*int(ip[41])
	}
	h := append([]byte{ip[next], 0, 0, 0}, binary.BigEndian.AppendUint32(nil, id)...)
	ip = slices.Insert(slices.Clone(ip), at, h...)
	ip[next] = 44
	binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	return ip
}

// fragmented parses ip as a packet that came in fragments of at most size bytes and
// splits it into fragments that are parsed, too.
func fragmented(t testing.TB, ip []byte, size int) (whole *Packet, pieces []*Packet) {
	t.Helper()
	whole = frame(ip, sumComplete)
	mustParse(t, whole)
	whole.FragMax = size
	return whole, piecesOf(t, whole, 65535)
}

func piecesOf(t testing.TB, whole *Packet, mtu int) (pieces []*Packet) {
	t.Helper()
	for f := MakeFragmenter(whole, mtu); ; {
		var p Packet
		if !f.Next(&p, make([]byte, f.BufferLen())) {
			return pieces
		}
		said := p
		mustParse(t, &p)
		if said.Flags != p.Flags || said.L4 != p.L4 || said.FragAt != p.FragAt && p.Flags.Fragment() || said.FragOff != p.FragOff || said.L3Len != p.L3Len {
			t.Fatalf("piece at %d is described with flags %b, L4 %d, data %d, length %d, parses with %b, %d, %d, %d",
				p.FragOff, said.Flags, said.L4, said.FragAt, said.L3Len, p.Flags, p.L4, p.FragAt, p.L3Len)
		}
		pieces = append(pieces, &p)
	}
}

// long returns a random packet of proto, checksummed, with more payload.
func long(r *rand.Rand, proto uint8, n int) []byte {
	ip := append(randomIP(r, proto), randomBytes(r, n)...)
	if ip[0]>>4 == 4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
	}
	if proto == tuple.UDP {
		h := slowParse(ip).header
		binary.BigEndian.PutUint16(ip[h+4:], uint16(len(ip)-h))
	}
	slowFill(ip)
	return ip
}

func TestJoinUndoesFragmentation(t *testing.T) {
	r := rand.New(rand.NewPCG(30, 30))
	for i := range 2000 {
		ip := long(r, []uint8{tuple.SCTP, tuple.UDP, tuple.TCP}[i%3], 200+r.IntN(6000))
		if ip[0]>>4 == 6 {
			ip = withFragmentHeader(ip, r.Uint32())
		}
		size := 160 + 8*r.IntN(180)
		whole, pieces := fragmented(t, ip, size)
		if len(ip) > size && len(pieces) < 2 {
			t.Fatalf("%d bytes make %d pieces of %d", len(ip), len(pieces), size)
		}
		longest := 0
		for _, p := range pieces {
			longest = max(longest, p.WireLen())
		}
		if longest > size {
			t.Fatalf("a piece of %d bytes, none was longer than %d", longest, size)
		}
		if len(pieces) == 1 {
			continue
		}
		shuffled := slices.Clone(pieces)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		var joined Packet
		if f := Join(&joined, slices.Values(shuffled)); f != OK {
			t.Fatalf("Join = %v", f)
		}
		if !bytes.Equal(joined.Frame(), whole.Frame()) {
			t.Fatalf("joined\n% x\nwant\n% x", joined.Frame(), whole.Frame())
		}
		if joined.Tuple != whole.Tuple || joined.Flags != whole.Flags || joined.FragMax != longest || joined.WireLen() != longest || joined.Off != Headroom {
			t.Fatalf("joined %v with flags %b, longest %d, at %d; want %v, %b, %d", joined.Tuple, joined.Flags, joined.FragMax, joined.Off, whole.Tuple, whole.Flags, longest)
		}
		again := piecesOf(t, &joined, 65535)
		if !slices.EqualFunc(again, pieces, func(a, b *Packet) bool { return bytes.Equal(a.Frame(), b.Frame()) }) {
			t.Fatal("split again it is not what came")
		}
	}
}

func TestJoinedPacketKeepsToTheEgressToo(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 31))
	ip := long(r, tuple.SCTP, 3000)
	for ip[0]>>4 != 4 {
		ip = long(r, tuple.SCTP, 3000)
	}
	whole, _ := fragmented(t, ip, 1500)
	for _, p := range piecesOf(t, whole, 600) {
		if p.WireLen() > 600 {
			t.Errorf("a piece of %d bytes, want at most 600", p.WireLen())
		}
	}
}

func TestJoinTakesDFFromTheLongest(t *testing.T) {
	b := build(t, ip4(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 1, DstPort: 2}, payload(1000))
	tests := []struct {
		name string
		df   []bool // of the fragments: the longest come first
		want bool
	}{
		{"all of them", []bool{true, true, true}, true},
		{"none", []bool{false, false, false}, false},
		{"only a longest one", []bool{false, true, false}, true},
		{"only a shorter one", []bool{false, false, true}, false},
	}
	for _, tt := range tests {
		_, pieces := fragmented(t, b, 420)
		for i, p := range pieces {
			p.Flags &^= DontFragment
			if tt.df[i] {
				p.Flags |= DontFragment
			}
		}
		var p Packet
		if f := Join(&p, slices.Values(pieces)); f != OK {
			t.Fatalf("%s: Join = %v", tt.name, f)
		}
		if got := p.Flags&DontFragment != 0; got != tt.want || p.IP()[6]&0x40 != 0 != tt.want {
			t.Errorf("%s: DF %v, want %v", tt.name, got, tt.want)
		}
		for _, q := range piecesOf(t, &p, 65535) {
			if got := q.Flags&DontFragment != 0; got != tt.want {
				t.Errorf("%s: piece at %d has DF %v, want %v", tt.name, q.FragOff, got, tt.want)
			}
		}
	}
}

func TestJoinKeepsCongestionMarks(t *testing.T) {
	v4 := build(t, ip4(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 1, DstPort: 2}, payload(1000))
	v6 := withFragmentHeader(build(t, ip6(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 1, DstPort: 2}, payload(1000)), 9)
	tests := []struct {
		name string
		ecn  []uint8
		want uint8
		fail Fault
	}{
		{"all capable", []uint8{2, 2, 2}, 2, OK},
		{"one marked", []uint8{2, 2, 3}, 3, OK},
		{"marked and not capable", []uint8{3, 0, 3}, 0, BadFragment},
		{"not capable", []uint8{0, 0, 0}, 0, OK},
	}
	for _, tt := range tests {
		for _, ip := range [][]byte{v4, v6} {
			_, pieces := fragmented(t, ip, 428)
			for i, p := range pieces {
				p.TOS = p.TOS&^3 | tt.ecn[i]
			}
			var p Packet
			if f := Join(&p, slices.Values(pieces)); f != tt.fail {
				t.Errorf("%s: Join = %v, want %v", tt.name, f, tt.fail)
			}
			if tt.fail == OK && (p.TOS&3 != tt.want || p.TOS&^3 != pieces[0].TOS&^3) {
				t.Errorf("%s: TOS %#x, want marks %d", tt.name, p.TOS, tt.want)
			}
		}
	}
}

func TestJoinRefusesWhatNoPacketCanBe(t *testing.T) {
	ip := build(t, ip4(layers.IPProtocolSCTP), &layers.SCTP{SrcPort: 1, DstPort: 2}, payload(600))
	_, pieces := fragmented(t, ip, 320)
	last := *pieces[1]
	last.FragOff = 65535 - 304
	pieces[1] = &last
	var filler []*Packet
	for at := 296; at < int(last.FragOff); at += 296 {
		q := *pieces[0]
		q.Flags = q.Flags&^FragmentFirst | FragmentLater | FragmentMore
		q.FragOff = uint16(at)
		filler = append(filler, &q)
	}
	var p Packet
	if f := Join(&p, slices.Values(append(pieces, filler...))); f != BadTotalLen {
		t.Errorf("65 KB of data: Join = %v, want %v", f, BadTotalLen)
	}
	_, pieces = fragmented(t, ip, 320)
	pieces[1].Mem[pieces[1].End-1] ^= 1
	pieces[0].Offload.Flags = DataValid // a device knows nothing about the whole
	if f := Join(&p, slices.Values(pieces)); f != BadChecksum {
		t.Errorf("a damaged byte: Join = %v, want %v", f, BadChecksum)
	}
}
