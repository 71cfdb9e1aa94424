package nat

import (
	"math"

	"example.com/culvert/conntrack/tuple"
)

// Backend is one of several hosts that share the flows of a destination rule.
type Backend struct {
	Addr   tuple.Addr
	Port   uint16 // 0: the packet's own
	Weight uint16 // 1 or more: its share among all
}

// BalanceBy says what decides which backend a flow gets.
type BalanceBy uint8

const (
	ByClient   BalanceBy = iota // the client's address: all its flows go to one backend
	ByFlow                      // a hash of the flow's addresses and ports
	RoundRobin                  // one after the other
)

// Balance spreads flows over backends by their weights. It is immutable.
//
// By client and by flow it hashes by rendezvous: each backend draws a number from
// the client and its own address, and the highest wins. So a backend that is
// taken out leaves the clients of all others where they are, and one that is put
// in takes an equal part from each.
type Balance struct {
	Backends []Backend
	By       BalanceBy
}

// pick returns the backend for a flow. turn is how many flows have been balanced
// before.
func (b *Balance) pick(t *tuple.Tuple, turn uint64) *Backend {
	if b.By == RoundRobin {
		return b.next(turn)
	}
	h := clientHash(t, Persistent)
	if b.By == ByFlow {
		h = mix(clientHash(t, 0) ^ uint64(t.SrcPort)<<32 ^ uint64(t.DstPort)<<16 ^ uint64(t.Proto))
	}
	best, least := 0, math.Inf(1)
	for i := range b.Backends {
		if c := b.Backends[i].cost(h); c < least {
			best, least = i, c
		}
	}
	return &b.Backends[best]
}

// cost draws a number from an exponential distribution whose rate is the weight:
// the chance to be the lowest of all is the weight's share.
func (e *Backend) cost(h uint64) float64 {
	hi, lo := halves(&e.Addr)
	u := mix(mix(mix(h^hi)^lo) ^ uint64(e.Port))
	return -math.Log((float64(u>>11)+0.5)/(1<<53)) / float64(e.Weight)
}

// next gives each backend as many turns as its weight, then begins again.
func (b *Balance) next(turn uint64) *Backend {
	total := uint64(0)
	for i := range b.Backends {
		total += uint64(b.Backends[i].Weight)
	}
	turn %= total
	for i := range b.Backends {
		w := uint64(b.Backends[i].Weight)
		if turn < w {
			return &b.Backends[i]
		}
		turn -= w
	}
	return &b.Backends[0]
}
