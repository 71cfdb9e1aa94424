//go:build amd64 || arm64 || riscv64 || loong64 || ppc64le

package tuple

import (
	"math/bits"
	"unsafe"
)

// The functions here move a tuple in whole words. The compiler's own copy of 40 bytes
// takes 16 at a time, two of which overlap: a processor cannot forward what was just
// stored in other pieces, and the next to read waits for the cache.

func (t *Tuple) words() *[5]uint64 { return (*[5]uint64)(unsafe.Pointer(t)) }

var _ [40]byte = [unsafe.Sizeof(Tuple{})]byte{}

// Set makes t a copy of from.
func (t *Tuple) Set(from *Tuple) {
	w, f := t.words(), from.words()
	a, b, c, d, e := f[0], f[1], f[2], f[3], f[4]
	w[0], w[1], w[2], w[3], w[4] = a, b, c, d, e
}

// SetAddrs takes both addresses from another tuple.
func (t *Tuple) SetAddrs(from *Tuple) {
	w, f := t.words(), from.words()
	a, b, c, d := f[0], f[1], f[2], f[3]
	w[0], w[1], w[2], w[3] = a, b, c, d
}

// SetRest sets all but the addresses.
func (t *Tuple) SetRest(srcPort, dstPort uint16, proto, family uint8, zone uint16) {
	t.words()[4] = uint64(srcPort) | uint64(dstPort)<<16 | uint64(proto)<<32 | uint64(family)<<40 | uint64(zone)<<48
}

// SetWire4 makes t that of a packet over IPv4, in zone 0. Addresses, and both ports, are
// as they lie in a header, read with the first byte lowest.
func (t *Tuple) SetWire4(src, dst, ports uint32, proto uint8) {
	w := t.words()
	w[0], w[1] = 0, uint64(src)<<32|0xffff<<16
	w[2], w[3] = 0, uint64(dst)<<32|0xffff<<16
	w[4] = uint64(bits.RotateLeft32(bits.ReverseBytes32(ports), 16)) | uint64(proto)<<32 | uint64(IPv4)<<40
}

// BecomeAnswer gives t the addresses and ports of the answer to packets with another
// tuple, and returns the ports as SetWire4 takes them.
func (t *Tuple) BecomeAnswer(of *Tuple) (ports uint32) {
	w, f := t.words(), of.words()
	a, b, c, d, e := f[0], f[1], f[2], f[3], uint32(f[4])
	w[0], w[1], w[2], w[3] = c, d, a, b
	w[4] = w[4]&^0xffffffff | uint64(bits.RotateLeft32(e, 16))
	return bits.ReverseBytes32(e)
}

// turn makes t what from is with source and destination exchanged. t is not from.
func (t *Tuple) turn(from *Tuple) {
	w, f := t.words(), from.words()
	w[0], w[1], w[2], w[3] = f[2], f[3], f[0], f[1]
	w[4] = f[4]&^0xffffffff | f[4]>>16&0xffff | f[4]&0xffff<<16
}
