// Package sip is SipHash-1-3 (Aumasson and Bernstein) over keys of five words,
// one at a time or many at once. The block with the length, which the standard
// form ends with, is left out: all keys are equally long.
package sip

import "math/bits"

// Key is the secret that keeps strangers from choosing keys that collide.
type Key struct{ K0, K1 uint64 }

// What SipHash sets its state to, before the key.
const (
	init0 = 0x736f6d6570736575
	init1 = 0x646f72616e646f6d
	init2 = 0x6c7967656e657261
	init3 = 0x7465646279746573
)

// Sum returns the hash of five words.
func (k Key) Sum(w *[5]uint64) uint64 {
	v0, v1, v2, v3 := k.K0^init0, k.K1^init1, k.K0^init2, k.K1^init3

	v3 ^= w[0]
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= w[0]
	v3 ^= w[1]
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= w[1]
	v3 ^= w[2]
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= w[2]
	v3 ^= w[3]
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= w[3]
	v3 ^= w[4]
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0 ^= w[4]

	v2 ^= 0xff
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	v0, v1, v2, v3 = round(v0, v1, v2, v3)
	return v0 ^ v1 ^ v2 ^ v3
}

func round(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
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

// SumAll sets sums[i] to the hash of keys[i], which must be at least as many.
func (k Key) SumAll(sums []uint64, keys [][5]uint64) {
	keys = keys[:len(sums)]
	for i := k.sumSome(sums, keys); i < len(sums); i++ {
		sums[i] = k.Sum(&keys[i])
	}
}
