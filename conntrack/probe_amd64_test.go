//go:build !race

package conntrack

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

// TestProbeFindsWhatIsThere: each value by its tag, wherever it lies in its bucket and
// whatever lies beside it, and nothing where there is none.
func TestProbeFindsWhatIsThere(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	mem, err := newMemory(37 * int(unsafe.Sizeof(bucket{})))
	if err != nil {
		t.Fatal(err)
	}
	x := index{mem: mem, buckets: unsafe.Slice((*bucket)(unsafe.Pointer(unsafe.SliceData(mem))), 37)}
	defer freeMemory(mem)
	var entries [1]Entry // a prefetch takes any address
	found, missed := 0, 0
	for range 20_000 {
		n := 1 + r.IntN(lookupGroup)
		var hash, home [lookupGroup]uint64
		var ids [lookupGroup]uint32
		for i := range n {
			hash[i] = r.Uint64()
			if r.IntN(3) == 0 {
				hash[i] &^= laneMask
			}
			b := &x.buckets[x.firstBucket(hash[i])]
			clear(b.tags[:])
			b.addOverflow(r.IntN(3) * 0x7fff)
			for at := range places {
				if r.IntN(2) == 0 {
					b.set(at, tagOf(r.Uint64()), r.Uint32()|1)
				}
			}
			if r.IntN(2) == 0 {
				b.set(r.IntN(places), tagOf(hash[i]), r.Uint32()|1)
			}
		}
		seek(&home[0], &hash[0], n, &x.buckets[0], len(x.buckets))
		probe(&ids[0], &home[0], &hash[0], n, &x.buckets[0], &entries[0])
		for i, h := range hash[:n] {
			if home[i] != x.firstBucket(h) {
				t.Fatalf("hash %#x has its home in %d, want %d", h, home[i], x.firstBucket(h))
			}
			want := uint32(0)
			b := &x.buckets[home[i]]
			for at := places - 1; at >= 0; at-- {
				if b.tag(at) == tagOf(h) {
					want = b.ids[at]
				}
			}
			if ids[i] != want {
				t.Fatalf("hash %#x in %#x has the candidate %#x, want %#x", h, *b, ids[i], want)
			}
			if want != 0 {
				found++
			} else {
				missed++
			}
		}
	}
	if found < 10_000 || missed < 10_000 {
		t.Errorf("%d were there and %d were not", found, missed)
	}
}

// TestLookupOnOlderProcessors takes the way that this processor need not.
func TestLookupOnOlderProcessors(t *testing.T) {
	defer func(had bool) { hasProbe = had }(hasProbe)
	hasProbe = false
	t.Run("model", TestModel)
	t.Run("two workers", TestConcurrentWorkers)
}
