package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack/tuple"
)

// segmentWithSACK is a TCP segment with two blocks, which begin at an odd offset when
// shift is odd.
func segmentWithSACK(t *testing.T, shift int, how sums) *Packet {
	t.Helper()
	opts := []layers.TCPOption{}
	for range shift {
		opts = append(opts, layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1})
	}
	data := make([]byte, 16)
	for i := range 4 {
		binary.BigEndian.PutUint32(data[4*i:], uint32(1000*(i+1)))
	}
	opts = append(opts, layers.TCPOption{OptionType: layers.TCPOptionKindSACK, OptionLength: 18, OptionData: data})
	ip := build(t, ip4(layers.IPProtocolTCP), tcp(func(l *layers.TCP) { l.Options, l.ACK = opts, true }), payload(33))
	p := frame(ip, setSums(ip, how))
	mustParse(t, p)
	return p
}

func TestNumbersChangeWithTheirChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	for _, how := range []sums{sumComplete, sumPartial} {
		for shift := range 4 {
			p := segmentWithSACK(t, shift, how)
			for range 200 {
				seq, ack := r.Uint32(), r.Uint32()
				SetSeq(p, seq)
				SetAck(p, ack)
				var o TCPOpts
				TCPOptions(p, &o)
				if o.NumSACK != 2 {
					t.Fatalf("%d blocks, want 2", o.NumSACK)
				}
				want := SACKBlock{r.Uint32(), r.Uint32()}
				SetSACK(p, &o, 1, want)
				SetUrgent(p, uint16(r.Uint32()))
				TCPOptions(p, &o)
				if Seq(p) != seq || Ack(p) != ack || o.SACK[1] != want {
					t.Fatalf("numbers are %d, %d, %v, want %d, %d, %v", Seq(p), Ack(p), o.SACK[1], seq, ack, want)
				}
				if err := slowCheck(p.IP(), how); err != nil {
					t.Fatalf("options shifted by %d: %v", shift, err)
				}
			}
			ClearTCPFlags(p, PSH|ACK)
			if err := slowCheck(p.IP(), how); err != nil || p.TCPFlags&(PSH|ACK) != 0 {
				t.Fatalf("flags %b: %v", p.TCPFlags, err)
			}
		}
	}
}

func TestOtherPayloadBehindTheSameHeaders(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 9))
	for i := range 4000 {
		proto := []uint8{tuple.TCP, tuple.UDP}[i%2]
		ip := randomIPOf(r, proto, i%4 < 2)
		how := setSums(ip, sums(r.IntN(int(numSums))))
		p := frame(ip, how)
		mustParse(t, p)
		head := bytes.Clone(p.Mem[p.L4:p.Payload])
		body := randomBytes(r, r.IntN(2000))
		q := new(Packet)
		WithBody(q, p, make([]byte, BodyBuffer(p, len(body))), body, MaxBody(p))
		want := sumComplete
		if how == sumZero {
			want = sumZero
		}
		if err := slowCheck(q.IP(), want); err != nil {
			t.Fatalf("protocol %d, sums %d: %v", proto, how, err)
		}
		again := *q
		mustParse(t, &again)
		if again.Tuple != p.Tuple || !bytes.Equal(Body(&again), body) {
			t.Fatalf("it parses as %v with %d bytes, want %v with %d", again.Tuple, len(Body(&again)), p.Tuple, len(body))
		}
		if proto == tuple.TCP && !bytes.Equal(head[:16], again.Mem[again.L4:again.L4+16]) {
			t.Fatal("the TCP header differs")
		}
		if q.L3Len != q.End-q.L3 || outside(p, len(ip)) {
			t.Fatalf("length is %d, want %d", q.L3Len, q.End-q.L3)
		}
	}
}

func TestLongPayloadBecomesSegments(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		p := gso(t, layers.IPProtocolTCP, v4, 3000, 1000)
		body := bytes.Repeat([]byte("culvert "), 9000)
		body = body[:MaxBody(p)-3]
		q := new(Packet)
		WithBody(q, p, make([]byte, BodyBuffer(p, len(body))), body, 1400)
		if want := (len(body) + 1399) / 1400; q.Segments() != want {
			t.Fatalf("%d segments, want %d", q.Segments(), want)
		}
		if err := slowCheck(q.IP(), sumPartial); err != nil {
			t.Fatal(err)
		}
		mustParse(t, q)
		seg, got, seq := new(Packet), []byte{}, Seq(q)
		for s := MakeSegmenter(q); s.Next(seg, make([]byte, s.BufferLen())); {
			if err := slowCheck(seg.IP(), sumComplete); err != nil {
				t.Fatal(err)
			}
			if Seq(seg) != seq+uint32(len(got)) {
				t.Fatalf("segment at %d, want %d", Seq(seg), seq+uint32(len(got)))
			}
			got = append(got, Body(seg)...)
		}
		if !bytes.Equal(got, body) {
			t.Errorf("the segments have other bytes")
		}
	}
}

func TestAcknowledgementInTheReceiversName(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		p := gso(t, layers.IPProtocolTCP, v4, 100, 1000) // it has a timestamp
		late := []SACKBlock{{5000, 6000}, {7000, 8000}, {9000, 9500}}
		q := new(Packet)
		Acknowledge(q, p, make([]byte, AnswerLen), 815, 4711, 77, late)
		if err := slowCheck(q.IP(), sumComplete); err != nil {
			t.Fatal(err)
		}
		if back, _ := p.Tuple.Inverse(); q.Tuple != back {
			t.Errorf("it is %v, want %v", q.Tuple, back)
		}
		var o, asked TCPOpts
		TCPOptions(q, &o)
		TCPOptions(p, &asked)
		if Seq(q) != 815 || Ack(q) != 4711 || Window(q) != 77 || q.TCPFlags != ACK || q.End != q.Payload {
			t.Errorf("seq %d ack %d window %d flags %b, %d bytes", Seq(q), Ack(q), Window(q), q.TCPFlags, q.End-q.Payload)
		}
		if o.TSVal != asked.TSEcr || o.TSEcr != asked.TSVal || o.TimestampAt == 0 {
			t.Errorf("timestamp %d %d, want %d %d", o.TSVal, o.TSEcr, asked.TSEcr, asked.TSVal)
		}
		if o.NumSACK != 3 || [3]SACKBlock(o.SACK[:3]) != [3]SACKBlock(late) {
			t.Errorf("blocks %v, want %v", o.SACK[:o.NumSACK], late)
		}
	}
}

func TestNumberInsideOfAnErrorChangesWithAllChecksums(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	for i := range 4000 {
		inner := randomIPOf(r, tuple.TCP, i%2 == 0)
		n := len(inner)
		if i%3 == 0 {
			n = min(n, slowParse(inner).header+8+r.IntN(20))
		}
		p := frame(errorAbout(r, inner, n), sumComplete)
		mustParse(t, p)
		if _, ok := EmbeddedSeq(p); !ok {
			t.Fatal("there is no sequence number")
		}
		SetEmbeddedSeq(p, uint32(i))
		if err := slowCheck(p.IP(), sumComplete); err != nil {
			t.Fatal(err)
		}
		if n == len(inner) {
			if err := slowCheck(p.Mem[p.EmbL3:p.End], sumComplete); err != nil {
				t.Fatalf("embedded: %v", err)
			}
		}
		mustParse(t, p)
		if seq, _ := EmbeddedSeq(p); seq != uint32(i) {
			t.Fatalf("it is %d, want %d", seq, i)
		}
	}
}
