package conntrack

import (
	"fmt"
	"math/bits"
	"sync"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

const (
	maxProbe      = 32  // buckets a search looks at; the chain bound
	perShard      = 256 // flows per lock, up to maxShards locks
	maxShards     = 1024
	bucketPercent = 64 // of the places are used by a full table
)

// shard is one lock and the run of buckets it guards. Lock order: shards by
// ascending index.
type shard struct {
	mu sync.Mutex // guards inserts and deletes, not lookups
	n  int        // values in the shard; with mu
	_  [48]byte   // a line of its own
}

var _ [64]byte = [unsafe.Sizeof(shard{})]byte{}

// index finds slots by tuple. A value never moves once it is placed, and a
// slot is not used again while anybody may still look at it, so a reader needs
// neither a lock nor a sequence count: what it finds is checked against the
// tuple in the record, and what it does not find was not there all along.
type index struct {
	key       hashKey
	shardBits uint
	perShard  uint64 // buckets
	probe     uint64 // buckets a search looks at, at most
	shards    []shard
	buckets   []bucket
	mem       []byte
}

// newIndex makes an index for max flows, two values each.
func newIndex(key hashKey, max int) (index, error) {
	locks := min(max/perShard, maxShards)
	x := index{key: key}
	if locks > 1 {
		x.shardBits = uint(bits.Len(uint(locks)) - 1)
	}
	shards := 1 << x.shardBits
	need := 2*max/(places*bucketPercent*shards/100) + 1
	x.perShard = uint64(need + 3) // small shards vary more
	x.probe = min(x.perShard, maxProbe)
	x.shards = make([]shard, shards)

	count := shards * int(x.perShard)
	mem, err := newMemory(count * int(unsafe.Sizeof(bucket{})))
	if err != nil {
		return index{}, err
	}
	x.mem = mem
	x.buckets = unsafe.Slice((*bucket)(unsafe.Pointer(unsafe.SliceData(mem))), count)
	return x, nil
}

// shardOf returns the shard of a hash: its upper bits.
func (x *index) shardOf(h uint64) int { return int(h >> (64 - x.shardBits)) } // a shift by 64 gives 0

// homeOf returns the first bucket to look at, counted in the shard.
func (x *index) homeOf(h uint64) uint64 {
	hi, _ := bits.Mul64(h<<x.shardBits, x.perShard)
	return hi
}

// bucketAt returns the i-th bucket of the search for h.
func (x *index) bucketAt(h, i uint64) *bucket {
	b := x.homeOf(h) + i
	if b >= x.perShard {
		b -= x.perShard
	}
	return &x.buckets[uint64(x.shardOf(h))*x.perShard+b]
}

// firstBucket returns the number of the bucket that a search for h begins with: homeOf in
// shardOf. With both in one multiplication the bits of the shard are whole shards of it.
func (x *index) firstBucket(h uint64) uint64 {
	hi, _ := bits.Mul64(h, uint64(len(x.buckets)))
	return hi
}

// Home returns where in the index the search for a tuple begins. Places next to it
// are what flows with the same home share: a new one of them is refused with
// ChainFull when none is left. For tests and measurements: nobody else can know it.
func (t *Table) Home(k *tuple.Tuple) int { return int(t.index.firstBucket(t.index.key.tuple(k))) }

// tagOf returns the tag of a hash, from its lower bits: never 0.
func tagOf(h uint64) uint64 { return max(h&laneMask, 1) }

// lock takes the locks of two hashes in order.
func (x *index) lock(h1, h2 uint64) {
	a, b := x.shardOf(h1), x.shardOf(h2)
	x.shards[min(a, b)].mu.Lock()
	if a != b {
		x.shards[max(a, b)].mu.Lock()
	}
}

// unlock releases what lock took.
func (x *index) unlock(h1, h2 uint64) {
	a, b := x.shardOf(h1), x.shardOf(h2)
	x.shards[a].mu.Unlock()
	if a != b {
		x.shards[b].mu.Unlock()
	}
}

// find returns the value of tuple k with hash h, or 0. It may run without the
// lock while the caller's epoch keeps slots from being reused.
func (x *index) find(entries []Entry, k *tuple.Tuple, h uint64) uint32 {
	tag := tagOf(h)
	for i := range x.probe {
		b := x.bucketAt(h, i)
		for w := range b.tags {
			m := equal(word.Load64(&b.tags[w]), tag)
			if w == overflowWord {
				m &= lastTags
			}
			for ; m != 0; m &= m - 1 {
				id := word.Load32(&b.ids[w*perWord+bits.TrailingZeros64(m)/laneBits])
				if same(&entries[id>>1].half[id&1].tuple, k) {
					return id
				}
			}
		}
		if b.overflow() == 0 {
			return 0
		}
	}
	return 0
}

// insertLocked places id under hash h and reports whether there was room.
func (x *index) insertLocked(h uint64, id uint32) bool {
	for i := range x.probe {
		b := x.bucketAt(h, i)
		at := b.free()
		if at < 0 {
			continue
		}
		for j := range i { // before the value is visible: whoever sees it may look for it
			x.bucketAt(h, j).addOverflow(1)
		}
		b.set(at, tagOf(h), id)
		x.shards[x.shardOf(h)].n++
		return true
	}
	return false
}

// removeLocked takes id, which was inserted under hash h, out again.
func (x *index) removeLocked(h uint64, id uint32) {
	for i := range x.probe {
		b := x.bucketAt(h, i)
		at := b.place(id)
		if at < 0 {
			continue
		}
		b.clear(at)
		for j := range i {
			x.bucketAt(h, j).addOverflow(-1)
		}
		x.shards[x.shardOf(h)].n--
		return
	}
	panic(fmt.Sprintf("conntrack: index lost value %#x", id))
}
