package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// carrier is a way to put an IP packet into another one.
type carrier struct {
	name  string
	proto func(inner4 bool) uint8
	wrap  func(inner []byte) []byte // what stands before the inner IP header
	sum   func(outer *slowPacket, seg []byte) error
}

func udpCarrier(name string, sum uint16, rest ...byte) carrier {
	return carrier{name, func(bool) uint8 { return tuple.UDP }, func(inner []byte) []byte {
		h := []byte{0x30, 0x39, 0x12, 0xb5, 0, 0, byte(sum >> 8), byte(sum)}
		h = append(h, rest...)
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)+len(inner)))
		return h
	}, func(o *slowPacket, seg []byte) error {
		if got := int(binary.BigEndian.Uint16(o.transport[4:])); got != len(o.transport) {
			return fmt.Errorf("UDP length is %d, want %d", got, len(o.transport))
		}
		if sum == 0 {
			return slowCheck(seg, sumZero)
		}
		return slowCheck(seg, sumComplete)
	}}
}

func greCarrier(name string, header ...byte) carrier {
	return carrier{name, func(bool) uint8 { return tuple.GRE }, func([]byte) []byte { return header },
		func(o *slowPacket, _ []byte) error {
			if got := slowSum(o.transport); header[0]&0x80 != 0 && got != 0xffff {
				return fmt.Errorf("GRE sums up to %#x", got)
			}
			return nil
		}}
}

// ether returns an Ethernet header for a packet of either family; nothing looks
// at the type.
var ether = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}

func carriers() []carrier {
	vxlan := append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, ether...)
	geneve := append([]byte{2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 0x45, 0, 0, 0}, ether...)
	return []carrier{
		udpCarrier("vxlan", 0, vxlan...),
		udpCarrier("vxlan with checksum", 0x1234, vxlan...),
		udpCarrier("geneve with options", 0x1234, geneve...),
		udpCarrier("foo over udp", 0x1234),
		greCarrier("gre", 0, 0, 8, 0),
		greCarrier("gre with key", 0x20, 0, 8, 0, 0, 0, 0, 7),
		greCarrier("gretap with checksum", append([]byte{0x80, 0, 0x65, 0x58, 0x12, 0x34, 0, 0}, ether...)...),
		{"ip in ip", func(inner4 bool) uint8 {
			if inner4 {
				return protoIPIP
			}
			return proto6in4
		}, func([]byte) []byte { return nil }, func(*slowPacket, []byte) error { return nil }},
	}
}

// superTunnel builds what a kernel hands over: an inner packet of one piece with
// a partial checksum, whose virtio header is the inner one's.
func superTunnel(r *rand.Rand, c *carrier, outer4, inner4 bool, proto uint8, payload []byte) (ip []byte, at int) {
	transport := append(randomBytes(r, 20), payload...)
	transport[12], transport[13] = 5<<4, ACK|PSH|FIN|0x80
	if proto == tuple.UDP {
		transport = append(randomBytes(r, 8), payload...)
		binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
	}
	inner := ipAround(r, inner4, proto, transport)
	s := slowParse(inner)
	pseudo, b, at := s.covered()
	binary.BigEndian.PutUint16(b[at:], slowSum(pseudo))
	before := c.wrap(inner)
	ip = ipAround(r, outer4, c.proto(inner4), append(before, inner...))
	return ip, len(ip) - len(transport)
}

// ipAround puts a header without options before a transport packet.
func ipAround(r *rand.Rand, v4 bool, proto uint8, transport []byte) []byte {
	if v4 {
		ip := append(randomBytes(r, 20), transport...)
		ip[0], ip[6], ip[7], ip[9] = 0x45, 0, 0, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip[:20]))
		return ip
	}
	ip := append(randomBytes(r, 40), transport...)
	ip[0], ip[6] = 0x60, proto
	binary.BigEndian.PutUint16(ip[4:], uint16(len(transport)))
	return ip
}

func tunnelFrame(ip []byte, at int, inner4 bool, proto uint8, size int) *Packet {
	p := frame(ip, sumComplete)
	p.Offload = Offload{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: uint16(size), CsumStart: uint16(at), CsumOffset: 16}
	switch {
	case proto == tuple.UDP:
		p.Offload.GSOType, p.Offload.CsumOffset = GSOUDPL4, 6
	case !inner4:
		p.Offload.GSOType = GSOTCPv6
	}
	return p
}

// Every segment of a tunnel's super-packet is a sound packet with a sound packet
// inside, and together they carry what the super-packet did, after translation of
// the outer one, too.
func TestTunnelSuperPacketsAreCutInside(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, c := range carriers() {
		for i := range 8 {
			outer4, inner4, proto := i&1 == 0, i&2 == 0, tuple.TCP
			if i&4 != 0 {
				proto = tuple.UDP
			}
			name := fmt.Sprintf("%s, outer IPv4 %v, inner IPv4 %v, protocol %d", c.name, outer4, inner4, proto)
			size, payload := 500+r.IntN(500), randomBytes(r, 3000+r.IntN(3000))
			ip, at := superTunnel(r, &c, outer4, inner4, proto, payload)
			p := tunnelFrame(ip, at, inner4, proto, size)
			if f := Parse(p); f != OK {
				t.Errorf("%s: Parse = %v", name, f)
				continue
			}
			if p.Flags&TunnelGSO == 0 || p.Segments() != (len(payload)+size-1)/size || p.WireLen() != len(ip)-len(payload)+size {
				t.Errorf("%s: flags %b, %d segments of %d bytes", name, p.Flags, p.Segments(), p.WireLen())
			}
			to := randomTuple(r, p.Tuple)
			Translate(p, &to)
			var got []byte
			var seg Packet
			seq, id := binary.BigEndian.Uint32(ip[at+4:]), binary.BigEndian.Uint16(ip[p.EmbL3-p.L3+4:])
			s := MakeSegmenter(p)
			for n := 0; s.Next(&seg, make([]byte, s.BufferLen())); n++ {
				b := seg.IP()
				o := slowParse(b)
				in := b[p.EmbL3-p.L3:]
				if err := c.sum(&o, b); err != nil {
					t.Fatalf("%s: segment %d: %v", name, n, err)
				}
				if err := slowCheck(in, sumComplete); err != nil {
					t.Fatalf("%s: segment %d: inside: %v", name, n, err)
				}
				again := seg
				mustParse(t, &again)
				if again.Tuple != to || seg.Offload != (Offload{}) || seg.Flags&(TunnelGSO|PartialChecksum) != 0 {
					t.Fatalf("%s: segment %d is %v, %+v", name, n, again.Tuple, seg.Offload)
				}
				if outer4 && binary.BigEndian.Uint16(b[4:])-uint16(p.FragID) != uint16(n) {
					t.Fatalf("%s: segment %d has identification %d after %d", name, n, binary.BigEndian.Uint16(b[4:]), p.FragID)
				}
				inside := frame(in, sumComplete)
				mustParse(t, inside)
				if inner4 && inside.FragID != uint32(id+uint16(n)) {
					t.Fatalf("%s: segment %d has identification %d inside, want %d", name, n, inside.FragID, id+uint16(n))
				}
				if proto == tuple.TCP {
					h := in[inside.L4-inside.L3:]
					if want := seq + uint32(len(got)); binary.BigEndian.Uint32(h[4:]) != want {
						t.Fatalf("%s: segment %d has the wrong sequence number", name, n)
					}
					last := len(got)+len(inside.Mem[inside.Payload:inside.End]) == len(payload)
					if fin, first := h[13]&FIN != 0, h[13]&cwr != 0; fin != last || first != (n == 0) {
						t.Fatalf("%s: segment %d has flags %#x", name, n, h[13])
					}
				}
				got = append(got, inside.Mem[inside.Payload:inside.End]...)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("%s: the segments are not what was sent", name)
			}
		}
	}
}

func TestSuperPacketsThatCannotBeCut(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	all := carriers()
	vxlan, gre := &all[0], &all[4]
	build := func(c *carrier, proto uint8, edit func(ip []byte, at int, p *Packet)) Fault {
		ip, at := superTunnel(r, c, true, true, proto, randomBytes(r, 3000))
		p := tunnelFrame(ip, at, true, proto, 1000)
		edit(p.Frame(), at, p)
		return Parse(p)
	}
	for _, tt := range []struct {
		claim   string
		carrier *carrier
		edit    func(ip []byte, at int, p *Packet)
		want    Fault
	}{
		{"GRE with sequence numbers", gre, func(ip []byte, _ int, _ *Packet) { ip[20] |= 0x10 }, UnsupportedGSO},
		{"inner length that is not the frame's", vxlan, func(ip []byte, at int, _ *Packet) { ip[at-20+3]++ }, UnsupportedGSO},
		{"inner header that does not sum up", vxlan, func(ip []byte, at int, _ *Packet) { ip[at-1]++ }, UnsupportedGSO},
		{"inner fragment", vxlan, func(ip []byte, at int, _ *Packet) { ip[at-20+6] |= 0x20 }, UnsupportedGSO},
		{"kind of the other family", vxlan, func(_ []byte, _ int, p *Packet) { p.Offload.GSOType = GSOTCPv6 }, UnsupportedGSO},
		{"checksum at another place", vxlan, func(_ []byte, _ int, p *Packet) { p.Offload.CsumOffset = 6 }, BadOffload},
		{"no room for the inner header", vxlan, func(ip []byte, _ int, p *Packet) { p.Offload.CsumStart = uint16(len(ip) - 19) }, BadOffload},
		{"inner TCP header longer than the frame", vxlan, func(ip []byte, at int, p *Packet) {
			p.Offload.CsumStart = uint16(len(ip) - 20)
			ip[len(ip)-8] = 0xf0
		}, BadOffload},
		{"a protocol that carries no packets", vxlan, func(ip []byte, _ int, p *Packet) {
			ip[9] = 50
			binary.BigEndian.PutUint16(ip[10:], 0)
			binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip[:20]))
		}, UnsupportedGSO},
		{"SCTP, whose kind the virtio header does not have", vxlan, func(ip []byte, _ int, p *Packet) {
			ip[9] = tuple.SCTP
			binary.BigEndian.PutUint16(ip[10:], 0)
			binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip[:20]))
			p.Offload.Flags, p.Offload.CsumStart, p.Offload.CsumOffset = NeedsCsum, 20, 8
		}, UnsupportedGSO},
	} {
		if got := build(tt.carrier, tuple.TCP, tt.edit); got != tt.want {
			t.Errorf("%s: Parse = %v, want %v", tt.claim, got, tt.want)
		}
	}
}
