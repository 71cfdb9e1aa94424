package frag

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// datagram4 returns a parsed UDP datagram with n bytes of payload and no checksum.
func datagram4(t *testing.T, n int, id uint16) *packet.Packet {
	mem := make([]byte, packet.Headroom+28+n)
	ip := mem[packet.Headroom:]
	ip[0], ip[8], ip[9] = 0x45, 64, tuple.UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[4:], id)
	copy(ip[12:], []byte{10, 0, 0, 5, 198, 51, 100, 7})
	binary.BigEndian.PutUint16(ip[20:], 4000)
	binary.BigEndian.PutUint16(ip[22:], 53)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+n))
	sum := 0
	for i := 0; i < 20; i += 2 {
		sum += int(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	p := &packet.Packet{Mem: mem, Off: packet.Headroom, End: len(mem), Link: packet.LinkIP}
	if f := packet.Parse(p); f != packet.OK {
		t.Fatalf("Parse = %v", f)
	}
	return p
}

func TestShuffledFragmentsAllPassTranslated(t *testing.T) {
	table := newTable(t, Config{})
	r := rand.New(rand.NewPCG(1, 1))
	for id := range uint16(50) {
		whole := datagram4(t, 8000, id)
		to := whole.Tuple
		to.Src, to.SrcPort = tuple.AddrFrom4([4]byte{203, 0, 113, 1}), 50000
		var fragments []*packet.Packet
		for f := packet.MakeFragmenter(whole, 1500); ; {
			var p packet.Packet
			if !f.Next(&p, make([]byte, f.BufferLen())) {
				break
			}
			if fault := packet.Parse(&p); fault != packet.OK {
				t.Fatalf("Parse = %v", fault)
			}
			fragments = append(fragments, &p)
		}
		r.Shuffle(len(fragments), func(i, j int) { fragments[i], fragments[j] = fragments[j], fragments[i] })

		got, want := map[uint16]string{}, map[uint16]string{}
		send := func(p *packet.Packet) {
			packet.Translate(p, &to)
			if p.Tuple.Src != to.Src {
				t.Fatalf("fragment at %d leaves from %v", p.FragOff, p.Tuple.Src)
			}
			got[p.FragOff] = string(p.Frame())
		}
		for _, p := range fragments {
			copied := *p
			copied.Mem = slices.Clone(p.Mem)
			packet.Translate(&copied, &to)
			want[p.FragOff] = string(copied.Frame())
			switch v := table.Track(p, 1, 0); v.Action {
			case First:
				k := KeyOf(p, 1)
				send(p)
				list := table.Learn(k, 9)
				for h := list; h != nil; h = h.Next {
					send(&h.Packet)
				}
				table.Free(list)
			case Follow:
				send(p)
			}
		}
		if len(got) != len(fragments) {
			t.Fatalf("datagram %d: %d of %d fragments left", id, len(got), len(fragments))
		}
		for off, b := range want {
			if got[off] != b {
				t.Errorf("datagram %d: fragment at %d differs", id, off)
			}
		}
	}
	if got := table.Usage(); got != (Usage{}) {
		t.Errorf("left: %+v, want nothing", got)
	}
}
