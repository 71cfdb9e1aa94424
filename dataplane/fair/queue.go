package fair

import "math/bits"

// Owner names who holds places. It must be a hash that its bearer cannot choose,
// for it is the index of a hash table.
type Owner uint64

// Handle names a place that is held. The zero Handle is none.
type Handle uint32

// place is a held place, in the list of its owner, or a free one, in q.free.
type place struct {
	value      uint32
	owner      uint32
	prev, next uint32
}

// holder is an owner with at least one place, in the list of those with as many.
type holder struct {
	owner         Owner
	count         uint32
	oldest, young uint32 // its places
	prev, next    uint32 // of level[count]; next of a free record: another one
	chain         uint32 // next in the hash table
}

// level lists the owners of one count, the one that came to it first in front.
type level struct{ first, last uint32 }

// Queue is a bounded set of places. Indexes count from 1: 0 is none. It is not
// safe for concurrent use.
type Queue struct {
	places  []place
	holders []holder
	levels  []level  // by count
	buckets []uint32 // of holders, by the low bits of their owner
	free    uint32   // place
	spare   uint32   // holder
	length  int
	top     int // the highest count
}

// New returns a queue of capacity places (1 or more), all free.
func New(capacity int) *Queue {
	q := &Queue{
		places:  make([]place, capacity+1),
		holders: make([]holder, capacity+1),
		levels:  make([]level, capacity+1),
		buckets: make([]uint32, 1<<bits.Len(uint(capacity))),
	}
	for i := capacity; i > 0; i-- {
		q.places[i].next, q.free = q.free, uint32(i)
		q.holders[i].next, q.spare = q.spare, uint32(i)
	}
	return q
}

// Len returns how many places are held.
func (q *Queue) Len() int { return q.length }

// Full reports whether no place is free.
func (q *Queue) Full() bool { return q.free == 0 }

// Count returns how many places o holds.
func (q *Queue) Count(o Owner) int {
	if i := *q.find(o); i != 0 {
		return int(q.holders[i].count)
	}
	return 0
}

// Heaviest returns an owner with the most places, and how many. Among several it
// is the one that has had so many for the longest time. It returns 0 places when
// the queue is empty.
func (q *Queue) Heaviest() (Owner, int) {
	if q.top == 0 {
		return 0, 0
	}
	return q.holders[q.levels[q.top].first].owner, q.top
}

// Oldest returns the place that o has held for the longest time, 0 if it has none.
func (q *Queue) Oldest(o Owner) Handle {
	if i := *q.find(o); i != 0 {
		return Handle(q.holders[i].oldest)
	}
	return 0
}

// Value returns what Add was given for a held place.
func (q *Queue) Value(h Handle) uint32 { return q.places[h].value }

// Owner returns who holds a place.
func (q *Queue) Owner(h Handle) Owner { return q.holders[q.places[h].owner].owner }

// Add gives o a place with a value of the caller's. The queue must not be Full.
func (q *Queue) Add(o Owner, value uint32) Handle {
	at := q.find(o)
	i := *at
	if i == 0 {
		i = q.spare
		h := &q.holders[i]
		q.spare = h.next
		*h = holder{owner: o}
		*at = i
	} else {
		q.unlist(i)
	}
	h := &q.holders[i]
	n := q.free
	p := &q.places[n]
	q.free = p.next
	*p = place{value: value, owner: i, prev: h.young}
	if h.young != 0 {
		q.places[h.young].next = n
	} else {
		h.oldest = n
	}
	h.young = n
	h.count++
	q.list(i)
	q.top = max(q.top, int(h.count))
	q.length++
	return Handle(n)
}

// Remove frees a held place.
func (q *Queue) Remove(n Handle) {
	p := &q.places[n]
	i := p.owner
	h := &q.holders[i]
	if p.prev != 0 {
		q.places[p.prev].next = p.next
	} else {
		h.oldest = p.next
	}
	if p.next != 0 {
		q.places[p.next].prev = p.prev
	} else {
		h.young = p.prev
	}
	*p = place{next: q.free}
	q.free = uint32(n)
	q.length--

	q.unlist(i)
	h.count--
	if h.count > 0 {
		q.list(i)
	} else {
		*q.find(h.owner) = h.chain
		*h = holder{next: q.spare}
		q.spare = i
	}
	if q.levels[q.top].first == 0 {
		q.top-- // where the holder has gone, or nobody is left
	}
}

// find returns where the index of o's holder is, or would be, stored.
func (q *Queue) find(o Owner) *uint32 {
	at := &q.buckets[uint64(o)&uint64(len(q.buckets)-1)]
	for *at != 0 && q.holders[*at].owner != o {
		at = &q.holders[*at].chain
	}
	return at
}

// list puts a holder at the end of the list of its count.
func (q *Queue) list(i uint32) {
	h := &q.holders[i]
	l := &q.levels[h.count]
	h.prev, h.next = l.last, 0
	if l.last != 0 {
		q.holders[l.last].next = i
	} else {
		l.first = i
	}
	l.last = i
}

// unlist takes a holder out of the list of its count.
func (q *Queue) unlist(i uint32) {
	h := &q.holders[i]
	l := &q.levels[h.count]
	if h.prev != 0 {
		q.holders[h.prev].next = h.next
	} else {
		l.first = h.next
	}
	if h.next != 0 {
		q.holders[h.next].prev = h.prev
	} else {
		l.last = h.prev
	}
}
