package ports

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// A packet that joins a mapping and does not leave takes nothing of what the
// flows before it have earned.
func TestAbandonedFlowDoesNotEndTheHoldDown(t *testing.T) {
	s := newSet(t, 64)
	fits := Fits{Source: newWorld(1).source}
	terms := Terms{Mapping: nat.EndpointIndependent, Filtering: nat.EndpointIndependent, Hold: 10 * time.Second, BlockSize: 64, MaxBlocks: 1}
	use := terms.Outbound(Mixed)
	one := Flow{Proto: tuple.UDP, Inside: at("10.0.0.1:1000"), External: at("203.0.113.1:1000"), Remote: at("198.51.100.1:80")}
	two, other := one, one
	two.Remote = at("198.51.100.2:80")
	other.Inside = at("10.0.0.2:1000")
	for _, f := range []*Flow{&one, &two} {
		if out, _ := s.Take(f, use, &terms, fits, 100); out != Granted {
			t.Fatalf("the mapping is not granted: %v", out)
		}
	}
	s.Release(&one, use, 200)
	s.Abandon(&two, use, 201)
	if out, _ := s.Take(&other, use, &terms, fits, 202); out != Busy {
		t.Errorf("another client gets the port at once: %v", out)
	}
	s.Sweep(2000)
	if out, _ := s.Take(&other, use, &terms, fits, 2000); out != Granted {
		t.Errorf("another client does not get the port after the hold-down: %v", out)
	}
	s.Abandon(&other, use, 2000)
	if n := s.Len(); n != 0 {
		t.Errorf("%d leases of no flow", n)
	}
}

// What is refused leaves nothing behind, neither a port nor its block.
func TestAbandonedFlowKeepsNothing(t *testing.T) {
	s := newSet(t, 64)
	terms := Terms{Mapping: nat.AddressDependent, Filtering: nat.AddressDependent, Hold: 10 * time.Second, BlockSize: 64, MaxBlocks: 1, Quota: 5}
	f := Flow{Proto: tuple.UDP, Inside: at("10.0.0.1:1000"), External: at("203.0.113.1:1000"), Remote: at("198.51.100.1:80")}
	if out, _ := s.Take(&f, terms.Outbound(Mixed), &terms, Fits{Source: newWorld(1).source}, 100); out != Granted {
		t.Fatalf("not granted: %v", out)
	}
	s.Abandon(&f, terms.Outbound(Mixed), 101)
	if n := s.Len(); n != 0 {
		t.Errorf("%d leases of no flow", n)
	}
}

// Blocks of two sizes on one address, of two rules or after a reload, have no port
// in common: who reads their log knows whose a port was.
func TestBlocksOfTwoSizesDoNotOverlap(t *testing.T) {
	for _, sizes := range [][2]uint16{{64, 128}, {128, 64}, {32, 32768}} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			s := newSet(t, 64)
			fits := Fits{Source: newWorld(1).source}
			terms := Terms{Mapping: nat.EndpointIndependent, Filtering: nat.EndpointIndependent, MaxBlocks: 1}
			use := terms.Outbound(Mixed)
			one := Flow{Proto: tuple.UDP, Inside: at("10.0.0.1:1000"), External: at("203.0.113.1:1024"), Remote: at("198.51.100.1:80")}
			two := Flow{Proto: tuple.TCP, Inside: at("10.0.0.2:1000"), External: at("203.0.113.1:1025"), Remote: at("198.51.100.1:80")}
			terms.BlockSize = sizes[0]
			if out, _ := s.Take(&one, use, &terms, fits, 100); out != Granted {
				t.Fatalf("the first block is not granted: %v", out)
			}
			terms.BlockSize = sizes[1]
			if out, _ := s.Take(&two, use, &terms, fits, 100); out != Busy {
				t.Errorf("a block over another client's: %v", out)
			}
			s.Release(&one, use, 200)
			if out, _ := s.Take(&two, use, &terms, fits, 200); out != Granted {
				t.Errorf("the block is not free when its owner has left: %v", out)
			}
			s.Release(&two, use, 300)
			if n := s.BlocksOf(Endpoint{Addr: addr("203.0.113.1")}).Len(); n != 0 || s.Len() != 0 {
				t.Errorf("%d ports in blocks, %d leases, of no flow", n, s.Len())
			}
		})
	}
}

// TestCountsHoldUnderRaces has goroutines begin flows of the same sockets at the
// brim of their quotas and blocks. Who joins a port that its maker may have to give
// up would hold one that is not counted.
func TestCountsHoldUnderRaces(t *testing.T) {
	s := newSet(t, 4096)
	fits := Fits{Source: newWorld(1).source}
	for round := range 50 {
		var all [4][]modelFlow
		var wg sync.WaitGroup
		for g := range all {
			wg.Go(func() {
				w := newWorld(uint64(round*len(all) + g))
				mine := &all[g]
				for i := range 400 {
					if w.rnd.IntN(3) > 0 && len(*mine) < 12 {
						f := modelFlow{w.flow(), useOut + Use(w.rnd.IntN(9))}
						terms := termsOf(f.use, 0)
						terms.Quota, terms.BlockSize, terms.MaxBlocks = 2, 2, 1
						if out, _ := s.Take(&f.Flow, f.use, &terms, fits, Tick(i)); out == Granted {
							*mine = append(*mine, f)
						}
					} else if n := len(*mine); n > 0 {
						f := (*mine)[n-1]
						*mine = (*mine)[:n-1]
						s.Release(&f.Flow, f.use, Tick(i))
					}
				}
			})
		}
		wg.Wait()
		for _, err := range s.CheckFlows(func(yield func(*Flow, Use)) {
			for _, mine := range all {
				for _, f := range mine {
					yield(&f.Flow, f.use)
				}
			}
		}) {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, mine := range all {
			for _, f := range mine {
				s.Release(&f.Flow, f.use, 0)
			}
		}
		if n := s.Len(); n != 0 {
			t.Fatalf("round %d: %d leases of no flow", round, n)
		}
	}
}
