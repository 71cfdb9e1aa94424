package conntrack

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
)

// client is who began flows: a source address, for IPv6 its /64, since a host
// has that many to itself. A record is one cache line.
//
// addr and zone change only under the lock of the record's set, while flows is
// 0; the counters are atomic. A record whose flows have all ended is taken by
// the next client that needs one, so nothing has to be cleaned up.
type client struct {
	addr   tuple.Addr
	zone   uint32
	flows  uint32 // in the index
	half   uint32 // of these, not assured
	waits  uint32 // of these, that wait for an answer: see Status.waits
	second uint32 // of news, counted from tick 0
	news   uint32 // flows begun in that second
	before uint32 // flows begun in the second before it
	_      [20]byte
}

var _ [64]byte = [unsafe.Sizeof(client{})]byte{}

const (
	clientWays   = 8 // records a client may use: a set
	clientLocks  = 64
	minClients   = 64
	maxClients   = 1 << 16
	secondTicks  = 100
	sharedClient = 0 // for those whose set is full: they count as one
)

// clients finds the record of a client.
type clients struct {
	recs  []client // sets of clientWays; record 0 is sharedClient
	shift uint     // of the hash, to the number of a set
	locks [clientLocks]struct {
		sync.Mutex
		_ [56]byte
	}
}

// clientCount returns how many records a table for so many flows has: a power
// of two.
func clientCount(flows int) int {
	return min(minClients<<bits.Len(uint(flows/4/minClients)), maxClients)
}

// clientAddr returns what of an address makes a client.
func clientAddr(a tuple.Addr) tuple.Addr {
	if !a.Is4() {
		clear(a[8:])
	}
	return a
}

// enter counts a new flow, which is neither answered nor assured unless status says
// so, for the source of its original tuple, and returns the number of the client.
func (c *clients) enter(key *hashKey, k *tuple.Tuple, status Status, now Tick) uint32 {
	addr, zone := clientAddr(k.Src), uint32(k.Zone)
	w := (*[2]uint64)(unsafe.Pointer(&addr))
	set := key.words(w[0], w[1], uint64(zone), 0, 2) >> c.shift
	lock := &c.locks[set%clientLocks]
	lock.Lock()
	defer lock.Unlock()
	n := c.recordLocked(uint32(set)*clientWays, addr, zone)
	r := &c.recs[n]
	atomic.AddUint32(&r.flows, 1)
	if status&Assured == 0 {
		atomic.AddUint32(&r.half, 1)
	}
	if status.waits(k.Proto) {
		atomic.AddUint32(&r.waits, 1)
	}
	r.countNew(uint32(now) / secondTicks)
	return n
}

// recordLocked returns the record of a client in the set that begins at first.
func (c *clients) recordLocked(first uint32, addr tuple.Addr, zone uint32) uint32 {
	free := uint32(sharedClient)
	for n := max(first, 1); n < first+clientWays; n++ {
		r := &c.recs[n]
		if r.addr == addr && r.zone == zone {
			return n
		}
		if free == sharedClient && atomic.LoadUint32(&r.flows) == 0 {
			free = n
		}
	}
	if free != sharedClient {
		r := &c.recs[free]
		r.addr, r.zone = addr, zone
		atomic.StoreUint32(&r.second, 0)
		atomic.StoreUint32(&r.news, 0)
		atomic.StoreUint32(&r.before, 0)
	}
	return free
}

// countNew counts one more flow begun in a second.
func (r *client) countNew(second uint32) {
	if last := atomic.LoadUint32(&r.second); last != second {
		before := uint32(0)
		if last+1 == second {
			before = atomic.LoadUint32(&r.news)
		}
		atomic.StoreUint32(&r.before, before)
		atomic.StoreUint32(&r.second, second)
		atomic.StoreUint32(&r.news, 0)
	}
	atomic.AddUint32(&r.news, 1)
}

// rate returns how many flows a client began in a second, the one that runs or
// the one before it.
func (r *client) rate(second uint32) uint32 {
	switch news := atomic.LoadUint32(&r.news); atomic.LoadUint32(&r.second) {
	case second:
		return max(news, atomic.LoadUint32(&r.before))
	case second - 1:
		return news
	}
	return 0
}

// leave takes a flow of a protocol that ended, with its last status, off its client.
func (c *clients) leave(n uint32, proto uint8, status Status) {
	c.settle(n, proto, status, Assured)
	atomic.AddUint32(&c.recs[n].flows, ^uint32(0))
}

// settle says that a flow of a protocol that had a status has more bits of it.
func (c *clients) settle(n uint32, proto uint8, old, more Status) {
	r := &c.recs[n]
	if old&Assured == 0 && more&Assured != 0 {
		atomic.AddUint32(&r.half, ^uint32(0))
	}
	if old.waits(proto) && !(old | more).waits(proto) {
		atomic.AddUint32(&r.waits, ^uint32(0))
	}
}
