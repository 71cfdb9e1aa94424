package packet

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// noticeTuples are flows of every kind, in both families.
func noticeTuples() (all []tuple.Tuple) {
	for _, proto := range []uint8{tuple.TCP, tuple.UDP, tuple.UDPLite, tuple.SCTP, tuple.DCCP, tuple.GRE, tuple.ICMP, tuple.ICMPv6, 99} {
		t := tuple.Tuple{Src: addr4(10, 0, 0, 5), Dst: addr4(198, 51, 100, 7), SrcPort: 40000, DstPort: 80, Proto: proto, Family: tuple.IPv4}
		if proto == tuple.ICMPv6 {
			t.DstPort = 128 << 8
		} else {
			if proto == tuple.ICMP {
				t.DstPort = 8 << 8
			}
			all = append(all, t)
		}
		if proto != tuple.ICMP {
			t.Src, t.Dst, t.Family = tuple.Addr{0x20, 1, 0xd, 0xb8, 15: 5}, tuple.Addr{0x20, 1, 0xd, 0xb8, 15: 7}, tuple.IPv6
			all = append(all, t)
		}
	}
	return all
}

func addr4(a, b, c, d byte) tuple.Addr { return tuple.AddrFrom4([4]byte{a, b, c, d}) }

func TestNoticesAreSound(t *testing.T) {
	buf, quoted := make([]byte, AnswerLen), make([]byte, AnswerLen)
	for _, tt := range noticeTuples() {
		var p, q Packet
		switch tt.Proto {
		case tuple.TCP:
			MakeSegment(&p, buf, &tt, Segment{Seq: 1000, Ack: 2000, Flags: RST | ACK})
			if b := p.Mem[p.L4:]; be.Uint32(b[4:]) != 1000 || be.Uint32(b[8:]) != 2000 || p.TCPFlags != RST|ACK || p.Payload != p.End {
				t.Errorf("%v: segment %x", tt, p.IP())
			}
		case tuple.SCTP:
			MakeAbort(&p, buf, &tt, 77)
			kind := uint8(0)
			SCTPChunks(&p, func(c SCTPChunk) bool { kind = c.Type; return true })
			if SCTPTag(&p) != 77 || kind != sctpAbort {
				t.Errorf("%v: abort %x", tt, p.IP())
			}
		}
		if p.End != 0 {
			again := p
			mustParse(t, &again)
			if err := slowCheck(p.IP(), sumComplete); err != nil || p.Tuple != tt {
				t.Errorf("%v: tuple %v, %v", tt, p.Tuple, err)
			}
		}
		if !MakeQuoted(&q, quoted, &tt) {
			t.Errorf("%v: nothing to quote", tt)
			continue
		}
		var e Packet
		DestUnreachable(&e, &q, buf, gatewayOf(&q), PortUnreachable)
		again := e
		mustParse(t, &again)
		if err := slowCheck(e.IP(), sumComplete); err != nil || again.Flags&ICMPError == 0 {
			t.Errorf("%v: error %x: %v", tt, e.IP(), err)
		}
		if inv := again.Embedded; inv.Src != tt.Src || inv.Dst != tt.Dst || tuple.HasPorts(tt.Proto) && inv != tt {
			t.Errorf("%v: the error quotes %v", tt, inv)
		}
		if tt.Proto != tuple.TCP && tt.Proto != tuple.DCCP && tt.Proto != tuple.SCTP && tt.Proto != tuple.GRE { // whose headers are longer
			if err := slowCheck(q.IP(), sumComplete); err != nil {
				t.Errorf("%v: what is quoted is no packet: %v", tt, err)
			}
		}
	}
}

func TestErrorsAreNotAboutErrors(t *testing.T) {
	unreachable := tuple.Tuple{Src: addr4(10, 0, 0, 5), Dst: addr4(10, 0, 0, 6), DstPort: 3 << 8, Proto: tuple.ICMP, Family: tuple.IPv4}
	var q Packet
	if MakeQuoted(&q, make([]byte, AnswerLen), &unreachable) {
		t.Error("an ICMP error is quoted")
	}
}
