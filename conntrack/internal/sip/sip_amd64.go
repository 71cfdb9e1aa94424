package sip

import "golang.org/x/sys/cpu"

var (
	hasAVX2   = cpu.X86.HasAVX2
	hasAVX512 = cpu.X86.HasAVX512F
)

// sumSome is SumAll for as many keys as fit side by side, eight or four at a
// time; it returns how many that are.
func (k Key) sumSome(sums []uint64, keys [][5]uint64) int {
	n := 0
	if hasAVX512 && len(sums) >= 8 {
		n = len(sums) &^ 7
		sum8(&sums[0], &keys[0], n, &k)
	}
	if more := (len(sums) - n) &^ 3; hasAVX2 && more > 0 {
		sum4(&sums[n], &keys[n], more, &k)
		n += more
	}
	return n
}

// sum8 hashes n keys, a multiple of eight and not 0, with AVX-512.
//
//go:noescape
func sum8(sums *uint64, keys *[5]uint64, n int, k *Key)

// sum4 hashes n keys, a multiple of four and not 0, with AVX2.
//
//go:noescape
func sum4(sums *uint64, keys *[5]uint64, n int, k *Key)
