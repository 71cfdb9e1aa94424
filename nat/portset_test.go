package nat

import (
	"math/rand/v2"
	"sync"
	"testing"
)

// TestPortSetAgreesWithAMap does random things to a set and to a map, and
// compares what is free.
func TestPortSetAgreesWithAMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, fill := range []int{0, 1, 100, 32768, 64000, 65500, 65535, 65536} {
		var s PortSet
		twin := map[uint16]bool{}
		for len(twin) < fill {
			p := uint16(rnd.Uint32())
			if s.Add(p) == twin[p] {
				t.Fatalf("Add(%d) with it %v", p, twin[p])
			}
			twin[p] = true
		}
		for range 2000 {
			p := uint16(rnd.Uint32())
			switch rnd.IntN(3) {
			case 0:
				if s.Add(p) == twin[p] {
					t.Fatalf("Add(%d) with it %v", p, twin[p])
				}
				twin[p] = true
			case 1:
				if s.Remove(p) != twin[p] {
					t.Fatalf("Remove(%d) with it %v", p, twin[p])
				}
				delete(twin, p)
			case 2:
				first, last, step := uint16(rnd.Uint32()), uint16(rnd.Uint32()), uint8(1+rnd.IntN(2))
				if first > last {
					first, last = last, first
				}
				want, found := uint16(0), false
				for q := int(first); q <= int(last) && !found; q += int(step) {
					want, found = uint16(q), !twin[uint16(q)]
				}
				got, ok := (&avoided{&s}).outside(first, last, step)
				if ok != found || ok && got != want {
					t.Fatalf("free in %d-%d by %d: %d %v, want %d %v", first, last, step, got, ok, want, found)
				}
			}
			if s.Len() != len(twin) {
				t.Fatalf("%d ports, want %d", s.Len(), len(twin))
			}
		}
	}
}

// TestPortSetSummaryHoldsUnderRaces fills and empties one word from several
// goroutines: what is free at the end is found.
func TestPortSetSummaryHoldsUnderRaces(t *testing.T) {
	var s PortSet
	for p := range 65536 {
		s.Add(uint16(p))
	}
	for range 200 {
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 64 {
					p := uint16(6400 + (i*7+g*16)%64)
					s.Remove(p)
					s.Add(p)
				}
			})
		}
		wg.Wait()
		if p, ok := (&avoided{nil, &s}).outside(0, 65535, 1); ok {
			t.Fatalf("%d is free of a full set", p)
		}
		s.Remove(6421)
		if p, ok := (&avoided{nil, &s}).outside(0, 65535, 1); !ok || p != 6421 {
			t.Fatalf("found %d %v, want 6421", p, ok)
		}
		s.Add(6421)
	}
}

// BenchmarkPortSetLastFree finds the only port that is left.
func BenchmarkPortSetLastFree(b *testing.B) {
	var s PortSet
	for p := range 65536 {
		s.Add(uint16(p))
	}
	s.Remove(40001)
	b.ResetTimer()
	for i := range b.N {
		if _, ok := (&avoided{&s}).outside(uint16(i%40000), 65535, 1); !ok {
			b.Fatal("not found")
		}
	}
}
