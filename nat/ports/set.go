package ports

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/keep"
)

// Tick is a time in units of 10 ms on a clock that wraps around.
type Tick uint32

// TicksPerSecond is how many ticks a second has.
const TicksPerSecond = 100

// reached reports whether it is t or later now.
func (now Tick) reached(t Tick) bool { return int32(now-t) >= 0 }

// Endpoint is one end of a flow: an address with a port, or with an ICMP
// identifier. The zero Endpoint is nobody.
type Endpoint struct {
	Addr       tuple.Addr
	Port, Zone uint16
}

func (e Endpoint) String() string {
	s := e.Addr.String()
	if e.Addr.Is4() {
		s += fmt.Sprintf(":%d", e.Port)
	} else {
		s = fmt.Sprintf("[%s]:%d", s, e.Port)
	}
	if e.Zone != 0 {
		s += fmt.Sprintf(" zone %d", e.Zone)
	}
	return s
}

// kind says what a lease is about; see the package comment.
type kind uint8

const (
	kindOwner   kind = iota + 1 // external endpoint -> inside endpoint, nobody: several share it
	kindPin                     // external endpoint, remote address -> inside endpoint
	kindTie                     // external endpoint, remote endpoint -> inside endpoint
	kindPair                    // inside endpoint, external endpoint -> remote address or endpoint
	kindMap                     // inside endpoint -> external endpoint
	kindMapAddr                 // inside endpoint, remote address -> external endpoint
	kindHint                    // inside endpoint -> external endpoint
	kindClient                  // inside address -> nobody
	kindBlock                   // external address, block -> inside address
	kindBlocks                  // inside address -> external address, block
	kindTold                    // external endpoint, remote address -> inside endpoint
	numKinds
)

// rests reports whether leases of a kind can be kept for who had them.
func (k kind) rests() bool {
	return k == kindOwner || k == kindPin || k == kindTie || k == kindBlock
}

// key names a lease. It has no padding: it is hashed and compared as it lies in memory,
// at an address that words can have.
type key struct {
	_               [0]uint64
	addr, other     tuple.Addr
	port, otherPort uint16
	zone            uint16
	proto           uint8
	kind            kind
}

// lease is what the holder of a key has. refs is how many flows hold it; 0: none
// does, and it is kept for the client of value until Set.until.
type lease struct {
	key   key
	value Endpoint
	refs  uint32
	next  uint32 // lease in the same chain, or in the free list
	kept  Tick   // until when it is kept if nothing comes of who holds it now; 0: it is not
	rule  uint32
	terms terms
}

var (
	_ [40]byte = [unsafe.Sizeof(key{})]byte{}
	_ [80]byte = [unsafe.Sizeof(lease{})]byte{}
)

// Set is a bounded set of leases. Its methods may be called by any goroutine.
//
// Each shard has a range of slots and of chains of its own, under its lock.
// until is an array beside the slots so that whoever looks for leases whose time
// is over reads four bytes for each.
type Set struct {
	seed     maphash.Seed
	shards   []shard
	perShard uint32
	heads    []uint32    // by chain: slot of the first lease
	leases   []lease     // by slot; slot 0 of each shard is not used
	until    []uint32    // by slot: 0 unless the lease is kept
	mem      [][]byte    // of the set's own
	memory   keep.Memory // of leases and until; nil: the set's own

	kept     atomic.Int64 // leases that nobody has, kept for a while
	hints    atomic.Int64 // leases of kindHint
	told     atomic.Int64 // leases of kindTold
	explicit atomic.Int64 // mappings that were asked for
	passed   atomic.Uint64
	spaces   spaces
	crowds   crowds
	events   events
	notices  notices
	refused  atomic.Uint64 // for want of room
}

type shard struct {
	mu   sync.Mutex
	free uint32        // given back
	high atomic.Uint32 // slots of the shard that were ever used
	room uint32        // slots with memory in Set.memory
	n    int
	_    [32]byte
}

const maxShards = 64

// leasesPerFlow is how many leases a flow may have at most, what its client has
// beside them not counted.
const leasesPerFlow = 4

// ErrTooMany is returned for more flows than a Set can serve.
var ErrTooMany = errors.New("too many flows for port leases")

// New makes a set for as many flows. It reserves address space; memory is used
// as leases come. If the process is killed, kept has what a successor needs to know
// (Remains); it must live longer than the set. Nil: that ends with the process.
func New(flows int, kept keep.Memory) (*Set, error) {
	want := max(flows, 64) * leasesPerFlow
	if want > 1<<29 {
		return nil, ErrTooMany
	}
	n := min(1<<bits.Len(uint(want/256)), maxShards)
	per := uint32(want/n + want/n/4 + 64)
	s := &Set{seed: maphash.MakeSeed(), shards: make([]shard, n), perShard: per, memory: kept}
	s.spaces.init()
	s.events.init()
	s.notices.to = make(chan Notice, noticeRoom)
	var err error
	if s.leases, err = keptArray[lease](s, leasesName, n*int(per)); err == nil {
		if s.heads, err = array[uint32](s, n*int(per)); err == nil {
			s.until, err = keptArray[uint32](s, untilName, n*int(per))
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// array makes n zero elements that live as long as s. T has no pointers.
func array[T any](s *Set, n int) ([]T, error) {
	var zero T
	mem, err := newMemory(n * int(unsafe.Sizeof(zero)))
	if err != nil {
		return nil, err
	}
	s.mem = append(s.mem, mem)
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), n), nil
}

// Close frees the memory. No other method may be running or follow.
func (s *Set) Close() error {
	var errs []error
	for _, mem := range s.mem {
		errs = append(errs, freeMemory(mem))
	}
	if s.heads != nil {
		close(s.events.to)
		close(s.notices.to)
	}
	s.mem, s.heads = nil, nil
	return errors.Join(errs...)
}

// Len returns how many leases there are, those that are kept included.
func (s *Set) Len() int {
	n := 0
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n += sh.n
		sh.mu.Unlock()
	}
	return n
}

// chain is where the leases of a key are.
type chain struct {
	sh   *shard
	base uint32  // slot 0 of the shard
	head *uint32 // slot of the first, counted from base
}

// same is *k == *o without the call that the compiler makes for 40 bytes.
func (k *key) same(o *key) bool {
	a, b := (*[5]uint64)(unsafe.Pointer(k)), (*[5]uint64)(unsafe.Pointer(o))
	return (a[0]^b[0])|(a[1]^b[1])|(a[2]^b[2])|(a[3]^b[3])|(a[4]^b[4]) == 0
}

// begin makes k the key of a lease of an endpoint for a protocol.
func (k *key) begin(e *Endpoint, proto uint8, of kind) {
	k.addr, k.port, k.zone = e.Addr, e.Port, e.Zone
	k.other, k.otherPort = tuple.Addr{}, 0
	k.proto, k.kind = proto, of
}

// hash returns the hash of a key.
func (s *Set) hash(k *key) uint64 {
	return maphash.Bytes(s.seed, (*[unsafe.Sizeof(key{})]byte)(unsafe.Pointer(k))[:])
}

// head returns the head of the chain, of the shard that begins at base, that keys with
// hash h are in.
func (s *Set) head(base uint32, h uint64) *uint32 {
	return &s.heads[base+uint32(uint64(uint32(h))*uint64(s.perShard)>>32)]
}

// open locks the shard of k.
func (s *Set) open(k *key) chain {
	h := s.hash(k)
	i := uint32(h>>32) & uint32(len(s.shards)-1)
	base := i * s.perShard
	c := chain{&s.shards[i], base, s.head(base, h)}
	c.sh.mu.Lock()
	return c
}

// find returns the lease of k after slot at, 0 for the first, and its slot; nil:
// there is none (any more).
func (s *Set) find(c chain, k *key, at uint32) (*lease, uint32) {
	next := *c.head
	if at != 0 {
		next = s.leases[c.base+at].next
	}
	for next != 0 {
		l := &s.leases[c.base+next]
		if l.key.same(k) {
			return l, next
		}
		next = l.next
	}
	return nil, 0
}

// make adds a lease that one flow holds. Nil: there is no room.
func (s *Set) make(c chain, k *key, v *Endpoint, rule uint32, t terms) *lease {
	sh := c.sh
	slot := sh.free
	switch {
	case slot != 0:
		sh.free = s.leases[c.base+slot].next
	case sh.high.Load()+1 < s.perShard && s.reserve(c, sh.high.Load()+1):
		slot = sh.high.Add(1)
	default:
		if slot = s.evict(c); slot == 0 {
			s.refused.Add(1)
			return nil
		}
	}
	l := &s.leases[c.base+slot]
	l.key, l.value = *k, *v // field by field: all at once it would be put together elsewhere and copied
	l.refs, l.next, l.kept, l.rule, l.terms = 1, *c.head, 0, rule, t
	*c.head = slot
	sh.n++
	return l
}

// evict makes room in a full shard at the cost of a lease that nobody has: its
// time is cut short. It returns the slot, 0 if all are in use.
func (s *Set) evict(c chain) uint32 {
	if s.kept.Load() == 0 {
		return 0
	}
	for slot := uint32(1); slot <= c.sh.high.Load(); slot++ {
		if s.until[c.base+slot] != 0 {
			s.drop(c.sh, c.base, slot)
			slot = c.sh.free
			c.sh.free = s.leases[c.base+slot].next
			return slot
		}
	}
	return 0
}

// drop removes the lease in a slot of a locked shard and frees the slot.
func (s *Set) drop(sh *shard, base, slot uint32) {
	l := &s.leases[base+slot]
	kept := s.until[base+slot] != 0
	if kept {
		atomic.StoreUint32(&s.until[base+slot], 0)
		s.kept.Add(-1)
	}
	s.left(l, kept)
	at := s.head(base, s.hash(&l.key))
	for *at != slot {
		at = &s.leases[base+*at].next
	}
	*at = l.next
	*l = lease{next: sh.free}
	sh.free = slot
	sh.n--
}

// taking is how an attempt to take a lease ended.
type taking uint8

const (
	joined taking = iota // it is there already, with the same value
	made                 // nobody had it
	taken                // somebody else has it, or it is kept for somebody else
	noRoom
)

// take takes the lease of k with value v.
func (s *Set) take(k *key, v *Endpoint, rule uint32, t terms, now Tick) taking {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	l, slot := s.find(c, k, 0)
	switch {
	case l == nil:
		if k.kind == kindBlock && !s.claimBlock(k) {
			return taken
		}
		if l = s.make(c, k, v, rule, t); l == nil {
			if k.kind == kindBlock {
				s.unclaimBlock(k)
			}
			return noRoom
		}
		s.entered(l)
		return made
	case l.refs == 0: // kept for the client that had it
		if !now.reached(Tick(s.until[c.base+slot])) && client(l.value.Addr) != client(v.Addr) {
			return taken
		}
		l.kept = Tick(s.until[c.base+slot])
		atomic.StoreUint32(&s.until[c.base+slot], 0)
		s.kept.Add(-1)
		l.value, l.refs, l.rule, l.terms = *v, 1, rule, t
		s.entered(l)
		return made
	case l.value != *v || !l.held():
		return taken
	}
	l.refs++
	return joined
}

// counted says that the port which the lease of k stands for has been counted: from
// now on others may join.
func (s *Set) counted(k *key) {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	l, _ := s.find(c, k, 0)
	l.terms &^= termsFresh
}

// held reports whether flows hold a lease that is sure to stay.
func (l *lease) held() bool { return l.refs != 0 && l.terms&termsFresh == 0 }

// peek returns the value of the lease of k that flows hold, and its terms.
func (s *Set) peek(k *key) (v Endpoint, rule uint32, t terms, ok bool) {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	if l, _ := s.find(c, k, 0); l != nil && l.held() {
		return l.value, l.rule, l.terms, true
	}
	return v, 0, 0, false
}

// resting says what becomes of a lease when its last holder lets it go.
type resting uint8

const (
	forget resting = iota // it ends, or is kept as before: nothing came of it
	rest                  // it is kept for the same client as long as its terms say
)

// release gives up one hold on the lease of k with value v and reports whether
// it was the last one, and the terms.
func (s *Set) release(k *key, v *Endpoint, how resting, now Tick) (last bool, t terms) {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	l, slot := s.find(c, k, 0)
	for l != nil && (l.value != *v || l.refs == 0) {
		l, slot = s.find(c, k, slot)
	}
	if l == nil {
		return false, 0
	}
	t = l.terms
	until := max(now+t.hold(), 1)
	if how == forget {
		until = l.kept
	} else if t.hold() == 0 || !k.kind.rests() {
		until = 0
	}
	if k.kind == kindClient {
		s.notices.shrunk(l, l.refs-1)
	}
	if l.refs--; l.refs > 0 {
		l.kept = until // nothing may come of the others
		return false, t
	}
	if until == 0 || now.reached(until) {
		s.drop(c.sh, c.base, slot)
		return true, t
	}
	s.rested(l)
	s.kept.Add(1)
	atomic.StoreUint32(&s.until[c.base+slot], uint32(until))
	return true, t
}

// Sweep ends, within bounds, the leases that were kept long enough. Workers call
// it with every batch; a pass over all of them takes about a second.
func (s *Set) Sweep(now Tick) {
	if s.kept.Load() == 0 {
		return
	}
	s.sweep(now)
}

// sweepSlots is how many slots one call of Sweep looks at, four bytes each.
const sweepSlots = 4096

func (s *Set) sweep(now Tick) {
	chunks := (uint64(s.perShard) + sweepSlots - 1) / sweepSlots * uint64(len(s.shards))
	// The upper half of passed is the tick at which somebody swept last: once a
	// tick is enough, a hundredth of all chunks then.
	last := s.passed.Load()
	if uint32(last>>32) == uint32(now) || !s.passed.CompareAndSwap(last, uint64(now)<<32|uint64(uint32(last))) {
		return
	}
	at := uint64(uint32(last)) % chunks
	todo := min(chunks/TicksPerSecond+1, chunks)
	for range todo {
		s.sweepChunk(at, now)
		at = (at + 1) % chunks
	}
	s.passed.CompareAndSwap(uint64(now)<<32|uint64(uint32(last)), uint64(now)<<32|at)
}

func (s *Set) sweepChunk(chunk uint64, now Tick) {
	n := uint64(len(s.shards))
	sh, first := &s.shards[chunk%n], uint32(chunk/n)*sweepSlots
	base := uint32(chunk%n) * s.perShard
	locked := false
	for slot := max(first, 1); slot < min(first+sweepSlots, sh.high.Load()+1); slot++ {
		if until := atomic.LoadUint32(&s.until[base+slot]); until == 0 || !now.reached(Tick(until)) {
			continue
		}
		if !locked {
			sh.mu.Lock()
			locked = true
		}
		if until := s.until[base+slot]; until != 0 && now.reached(Tick(until)) {
			s.drop(sh, base, slot)
		}
	}
	if locked {
		sh.mu.Unlock()
	}
}

// client returns what of an address makes a client: all of an IPv4 address, the
// /64 of an IPv6 one.
func client(a tuple.Addr) tuple.Addr {
	if !a.Is4() {
		clear(a[8:])
	}
	return a
}

// Ticks converts a duration.
func Ticks(d time.Duration) Tick { return Tick(d / (time.Second / TicksPerSecond)) }
