package sip

import (
	"math/rand/v2"
	"testing"
)

// TestSumAllIsSum compares hashes side by side with one at a time.
func TestSumAllIsSum(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	key := Key{random.Uint64(), random.Uint64()}
	for n := range 70 {
		keys := make([][5]uint64, n)
		for i := range keys {
			for j := range keys[i] {
				keys[i][j] = random.Uint64()
			}
		}
		sums := make([]uint64, n)
		key.SumAll(sums, keys)
		for i := range keys {
			if want := key.Sum(&keys[i]); sums[i] != want {
				t.Fatalf("hash %d of %d is %#x, want %#x", i, n, sums[i], want)
			}
		}
	}
}

// TestEveryBitCounts: each bit of a key or of the secret that is changed gives
// another hash.
func TestEveryBitCounts(t *testing.T) {
	w, key := [5]uint64{1, 2, 3, 4, 5}, Key{6, 7}
	seen := map[uint64]bool{key.Sum(&w): true}
	note := func(what string, i int, sum uint64) {
		if seen[sum] {
			t.Errorf("bit %d of the %s does not count", i, what)
		}
		seen[sum] = true
	}
	for i := range 5 * 64 {
		other := w
		other[i/64] ^= 1 << (i % 64)
		note("key", i, key.Sum(&other))
	}
	for i := range 64 {
		note("first half of the secret", i, Key{key.K0 ^ 1<<i, key.K1}.Sum(&w))
		note("second half of the secret", i, Key{key.K0, key.K1 ^ 1<<i}.Sum(&w))
	}
}

func BenchmarkSumAll(b *testing.B) {
	var keys [64][5]uint64
	var sums [64]uint64
	for n := 0; n < b.N; n += len(keys) {
		Key{1, 2}.SumAll(sums[:], keys[:])
	}
}

func BenchmarkSum(b *testing.B) {
	var keys [64][5]uint64
	var sums [64]uint64
	for n := range b.N {
		sums[n%64] = Key{1, 2}.Sum(&keys[n%64])
	}
}
