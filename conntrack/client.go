package conntrack

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// client is who began flows: a source address, for IPv6 its /64, since a host
// has that many to itself. A record is one cache line.
//
// addr and zone change only under the lock of the record's set, while it has no flows;
// the counters are atomic. A record whose flows have all ended is taken by
// the next client that needs one, so nothing has to be cleaned up.
//
// What is counted is what few packets change, so that a first packet, which is neither
// assured nor answered, adds to two words only.
type client struct {
	addr     [2]uint64 // in words
	held     uint64    // flows in the index, and above clientAssured those of them that are assured
	begun    uint64    // flows begun in a second, and above clientSecond which one, counted from tick 0
	zone     uint32
	answered uint32 // flows that do not wait for an answer: see Status.waits
	before   uint32 // flows begun in the second before
	_        [20]byte
}

const (
	clientAssured = 32 // bits of flows
	clientSecond  = 32 // bits of flows begun
)

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

// nearClients are the numbers of clients that a worker has met lately, so that he need
// not search for them under a lock.
type nearClients [64]struct {
	addr [2]uint64
	zone uint32
	n    uint32
}

// at returns where a client is kept.
func (c *nearClients) at(addr *[2]uint64) int {
	return int((addr[0] ^ addr[1]) * 0x9e3779b97f4a7c15 >> 58)
}

// enter counts a new flow, which is neither answered nor assured unless status says
// so, for the source of its original tuple, and returns the number of the client.
func (c *clients) enter(near *nearClients, key *hashKey, k *tuple.Tuple, status Status, now Tick) uint32 {
	host := clientAddr(k.Src)
	addr, zone := *(*[2]uint64)(unsafe.Pointer(&host)), uint32(k.Zone)
	known := &near[near.at(&addr)]
	n := known.n
	if known.addr != addr || known.zone != zone || !c.recs[n].join(&addr, zone) {
		n = c.find(key, &addr, zone)
		known.addr, known.zone, known.n = addr, zone, n
	}
	r := &c.recs[n]
	if status&Assured != 0 {
		atomic.AddUint64(&r.held, 1<<clientAssured)
	}
	if !status.waits(k.Proto) {
		atomic.AddUint32(&r.answered, 1)
	}
	r.countNew(uint32(now) / secondTicks)
	return n
}

// join counts one more flow for a client that has some, if the record is still his. It
// reports false if it is not, or if there are no flows: then anybody may take it.
func (r *client) join(addr *[2]uint64, zone uint32) bool {
	for {
		held := atomic.LoadUint64(&r.held)
		if uint32(held) == 0 || !r.is(addr, zone) {
			return false
		}
		if atomic.CompareAndSwapUint64(&r.held, held, held+1) {
			break
		}
	}
	if r.is(addr, zone) { // and stays so: it has a flow
		return true
	}
	atomic.AddUint64(&r.held, ^uint64(0))
	return false
}

// is reports whether r is the record of a client at the moment.
func (r *client) is(addr *[2]uint64, zone uint32) bool {
	return word.Load64(&r.addr[0]) == addr[0] && word.Load64(&r.addr[1]) == addr[1] && word.Load32(&r.zone) == zone
}

// find searches for the record of a client, or takes one, and counts one more flow there.
func (c *clients) find(key *hashKey, addr *[2]uint64, zone uint32) uint32 {
	set := key.words(addr[0], addr[1], uint64(zone), 0, 2) >> c.shift
	lock := &c.locks[set%clientLocks]
	lock.Lock()
	defer lock.Unlock()
	n := c.recordLocked(uint32(set)*clientWays, addr, zone)
	atomic.AddUint64(&c.recs[n].held, 1)
	return n
}

// recordLocked returns the record of a client in the set that begins at first.
func (c *clients) recordLocked(first uint32, addr *[2]uint64, zone uint32) uint32 {
	free := uint32(sharedClient)
	for n := max(first, 1); n < first+clientWays; n++ {
		r := &c.recs[n]
		if r.is(addr, zone) {
			return n
		}
		if free == sharedClient && r.flows() == 0 {
			free = n
		}
	}
	if free != sharedClient {
		r := &c.recs[free]
		word.Store64(&r.addr[0], addr[0])
		word.Store64(&r.addr[1], addr[1])
		word.Store32(&r.zone, zone)
		atomic.StoreUint64(&r.begun, 0)
		atomic.StoreUint32(&r.before, 0)
	}
	return free
}

// countNew counts one more flow begun in a second.
func (r *client) countNew(second uint32) {
	for {
		begun := atomic.LoadUint64(&r.begun)
		last := uint32(begun >> clientSecond)
		if last == second || last == second+1 { // elsewhere the next one has begun
			atomic.AddUint64(&r.begun, 1) // of the next second, if that has just begun
			return
		}
		if atomic.CompareAndSwapUint64(&r.begun, begun, uint64(second)<<clientSecond|1) {
			before := uint32(0)
			if last+1 == second {
				before = uint32(begun)
			}
			atomic.StoreUint32(&r.before, before)
			return
		}
	}
}

// rate returns how many flows a client began in a second, the one that runs or
// the one before it.
func (r *client) rate(second uint32) uint32 {
	begun := atomic.LoadUint64(&r.begun)
	switch uint32(begun >> clientSecond) {
	case second:
		return max(uint32(begun), atomic.LoadUint32(&r.before))
	case second - 1:
		return uint32(begun)
	}
	return 0
}

// flows returns how many flows the client has in the index.
func (r *client) flows() uint32 { return uint32(atomic.LoadUint64(&r.held)) }

// half returns how many of them are not assured.
func (r *client) half() uint32 {
	held := atomic.LoadUint64(&r.held)
	return uint32(held) - uint32(held>>clientAssured)
}

// waits returns how many of them wait for an answer.
func (r *client) waits() uint32 {
	answered := max(int32(atomic.LoadUint32(&r.answered)), 0) // below, if one ends before it is counted
	flows := r.flows()
	return flows - min(uint32(answered), flows) // above, if one has ended between the two looks
}

// leave takes a flow of a protocol that ended, with its last status, off its client.
func (c *clients) leave(n uint32, proto uint8, status Status) {
	r := &c.recs[n]
	if !status.waits(proto) {
		atomic.AddUint32(&r.answered, ^uint32(0))
	}
	one := uint64(1)
	if status&Assured != 0 {
		one |= 1 << clientAssured
	}
	atomic.AddUint64(&r.held, -one)
}

// settle says that a flow of a protocol that had a status has more bits of it.
func (c *clients) settle(n uint32, proto uint8, old, more Status) {
	r := &c.recs[n]
	if old&Assured == 0 && more&Assured != 0 {
		atomic.AddUint64(&r.held, 1<<clientAssured)
	}
	if old.waits(proto) && !(old | more).waits(proto) {
		atomic.AddUint32(&r.answered, 1)
	}
}
