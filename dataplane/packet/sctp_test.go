package packet

import (
	"encoding/binary"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// sctpPacket is an SCTP packet, without an IP header, with these chunks.
func sctpPacket(flags Flags, chunks ...[]byte) *Packet {
	b := make([]byte, sctpMinLen)
	binary.BigEndian.PutUint32(b[4:], 0xabcd)
	for _, c := range chunks {
		b = append(b, c...)
	}
	return &Packet{Mem: b, End: len(b), Flags: flags, Tuple: tuple.Tuple{Proto: tuple.SCTP}}
}

// sctpChunk makes a chunk that says it has size bytes and has body.
func sctpChunk(kind, flags uint8, size int, body ...byte) []byte {
	return append([]byte{kind, flags, byte(size >> 8), byte(size)}, body...)
}

func TestSCTPChunks(t *testing.T) {
	init := sctpChunk(1, 0, 20, append([]byte{0, 0, 0, 7}, make([]byte, 12)...)...)
	tests := []struct {
		name string
		p    *Packet
		want []SCTPChunk
		ok   bool
	}{
		{"no chunk at all", sctpPacket(0), nil, true},
		{"an INIT tells its tag", sctpPacket(0, init), []SCTPChunk{{Type: 1, InitTag: 7}}, true},
		{"a chunk is padded to four bytes", sctpPacket(0, sctpChunk(10, 0, 5, 1, 0, 0, 0), sctpChunk(0, 3, 4)),
			[]SCTPChunk{{Type: 10}, {Flags: 3}}, true},
		{"the last padding may be missing", sctpPacket(0, sctpChunk(10, 0, 5, 1)), []SCTPChunk{{Type: 10}}, true},
		{"a length of zero ends the walk", sctpPacket(0, sctpChunk(4, 0, 0)), nil, false},
		{"a chunk longer than the packet is its last", sctpPacket(0, sctpChunk(4, 0, 100), sctpChunk(0, 0, 4)), []SCTPChunk{{Type: 4}}, true},
		{"a first fragment may cut a chunk", sctpPacket(FragmentFirst, sctpChunk(4, 0, 100)), []SCTPChunk{{Type: 4}}, true},
		{"a later fragment has none", sctpPacket(FragmentLater, sctpChunk(4, 0, 4)), nil, false},
		{"a short INIT", sctpPacket(0, sctpChunk(1, 0, 8, 0, 0, 0, 7)), nil, false},
		{"half a chunk header", sctpPacket(0, sctpChunk(0, 0, 4), []byte{1, 2}), []SCTPChunk{{}}, false},
	}
	for _, tt := range tests {
		var got []SCTPChunk
		ok := SCTPChunks(tt.p, func(c SCTPChunk) bool {
			got = append(got, c)
			return true
		})
		if !slices.Equal(got, tt.want) || ok != tt.ok {
			t.Errorf("%s: %v %v, want %v %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
	if tag := SCTPTag(sctpPacket(0)); tag != 0xabcd {
		t.Errorf("tag %#x, want 0xabcd", tag)
	}
	many := make([][]byte, sctpMaxChunks+1)
	for i := range many {
		many[i] = sctpChunk(0, 0, 4)
	}
	if SCTPChunks(sctpPacket(0, many...), func(SCTPChunk) bool { return true }) {
		t.Error("the walk has no bound")
	}
}

func FuzzSCTPChunks(f *testing.F) {
	f.Add(sctpChunk(1, 0, 20, 0, 0, 0, 7), uint16(0))
	f.Add(sctpChunk(6, 1, 4), uint16(FragmentFirst))
	f.Fuzz(func(t *testing.T, chunks []byte, flags uint16) {
		n := 0
		SCTPChunks(sctpPacket(Flags(flags), chunks), func(SCTPChunk) bool {
			n++
			return true
		})
		if n > sctpMaxChunks || n > len(chunks)/sctpChunkLen {
			t.Errorf("%d chunks in %d bytes", n, len(chunks))
		}
	})
}
