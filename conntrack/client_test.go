package conntrack

import (
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
)

// TestRecordsOfClientsChangeHandsWithoutALoss has workers count flows of many more clients
// than there are records, each of which is somebody's as long as he has a flow.
func TestRecordsOfClientsChangeHandsWithoutALoss(t *testing.T) {
	const workers, hosts, rounds = 4, 150, 20_000
	table := newTable(t, Config{Max: 100})
	c, key := &table.clients, &table.index.key
	var done sync.WaitGroup
	for i := range workers {
		done.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			var near nearClients
			type flow struct {
				n    uint32
				host byte
			}
			var held []flow
			for range rounds {
				if len(held) > 0 && (len(held) == 8 || rnd.IntN(2) == 0) {
					f := held[0]
					held = held[1:]
					if host := clientFlow(f.host, 1).Original.Src; f.n != sharedClient && !c.recs[f.n].is((*[2]uint64)(unsafe.Pointer(&host)), 0) {
						t.Errorf("record %d was taken from %v, who has a flow", f.n, host)
						return
					}
					c.leave(f.n, tuple.UDP, 0)
					continue
				}
				host := byte(rnd.IntN(hosts))
				k := clientFlow(host, 1).Original
				held = append(held, flow{c.enter(&near, key, &k, 0, start), host})
			}
			for _, f := range held {
				c.leave(f.n, tuple.UDP, 0)
			}
		})
	}
	done.Wait()
	for i := range c.recs {
		if r := &c.recs[i]; r.held != 0 || r.answered != 0 {
			t.Errorf("record %d: %#x flows, %d answered, after all have ended", i, r.held, r.answered)
		}
	}
}

// TestRateOfAClientIsThatOfASecond: flows begun in this second or the one before.
func TestRateOfAClientIsThatOfASecond(t *testing.T) {
	var r client
	for second, n := range []int{5, 3, 0, 0, 2} {
		for range n {
			r.countNew(uint32(second))
		}
		if got, want := r.rate(uint32(second)), []uint32{5, 5, 3, 0, 2}[second]; got != want {
			t.Errorf("second %d: %d, want %d", second, got, want)
		}
	}
}

// TestRateOutlivesWorkersOnBothSidesOfASecond: a batch that began before a second counts
// after one that began in it.
func TestRateOutlivesWorkersOnBothSidesOfASecond(t *testing.T) {
	var r client
	for range 1000 {
		r.countNew(10)
	}
	r.countNew(11)
	r.countNew(10)
	r.countNew(11)
	if got := r.rate(11); got < 1000 {
		t.Errorf("rate %d, want at least 1000", got)
	}
}
