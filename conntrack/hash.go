package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
)

// hashKey is the secret that keeps strangers from choosing the bucket of their
// flows.
type hashKey struct{ k0, k1 uint64 }

// newHashKey takes the key from b, or from the system if b is all zero.
func newHashKey(b [16]byte) hashKey {
	if b == ([16]byte{}) {
		rand.Read(b[:]) // never fails (crypto/rand)
	}
	return hashKey{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// tuple is SipHash-1-3 over the five words of t. The length block of the
// standard form is left out: the input always has the same length.
func (k hashKey) tuple(t *tuple.Tuple) uint64 {
	w := words(t)
	return k.words(w[0], w[1], w[2], w[3], w[4])
}

// words views a tuple as five words. Every byte of a tuple counts: it has no
// padding.
func words(t *tuple.Tuple) *[5]uint64 { return (*[5]uint64)(unsafe.Pointer(t)) }

var _ [40]byte = [unsafe.Sizeof(tuple.Tuple{})]byte{}

// same is *a == *b without the call that the compiler makes for 40 bytes.
func same(a, b *tuple.Tuple) bool {
	x, y := words(a), words(b)
	return (x[0]^y[0])|(x[1]^y[1])|(x[2]^y[2])|(x[3]^y[3])|(x[4]^y[4]) == 0
}

func (k hashKey) words(a, b, c, d, e uint64) uint64 {
	v0 := k.k0 ^ 0x736f6d6570736575
	v1 := k.k1 ^ 0x646f72616e646f6d
	v2 := k.k0 ^ 0x6c7967656e657261
	v3 := k.k1 ^ 0x7465646279746573

	v3 ^= a
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= a
	v3 ^= b
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= b
	v3 ^= c
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= c
	v3 ^= d
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= d
	v3 ^= e
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= e

	v2 ^= 0xff
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}

// id is the number printed for an entry: it does not tell which slot it is or
// how often the slot was used.
func (k hashKey) id(slot, gen uint32) uint32 {
	return uint32(k.words(uint64(slot)<<32|uint64(gen), 0, 0, 0, 1))
}
