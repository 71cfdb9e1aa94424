package conntrack

import (
	"crypto/rand"
	"encoding/binary"
	"unsafe"

	"example.com/culvert/conntrack/internal/sip"
	"example.com/culvert/conntrack/tuple"
)

// hashKey is the secret that keeps strangers from choosing the bucket of their
// flows.
type hashKey sip.Key

// newHashKey takes the key from b, or from the system if b is all zero.
func newHashKey(b [16]byte) hashKey {
	if b == ([16]byte{}) {
		rand.Read(b[:]) // never fails (crypto/rand)
	}
	return hashKey{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// bytes is newHashKey's inverse.
func (k hashKey) bytes() (b [16]byte) {
	binary.LittleEndian.PutUint64(b[:8], k.K0)
	binary.LittleEndian.PutUint64(b[8:], k.K1)
	return b
}

// tuple returns the hash of a tuple.
func (k hashKey) tuple(t *tuple.Tuple) uint64 { return sip.Key(k).Sum(words(t)) }

// tuples sets sums[i] to the hash of keys[i], for all of sums.
func (k hashKey) tuples(sums []uint64, keys []tuple.Tuple) {
	keys = keys[:len(sums)]
	sip.Key(k).SumAll(sums, unsafe.Slice((*[5]uint64)(unsafe.Pointer(unsafe.SliceData(keys))), len(keys)))
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

// words hashes five words that are no tuple.
func (k hashKey) words(a, b, c, d, e uint64) uint64 {
	return sip.Key(k).Sum(&[5]uint64{a, b, c, d, e})
}
