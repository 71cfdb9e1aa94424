package conntrack

import (
	"math/bits"
	"unsafe"

	"example.com/culvert/internal/word"
)

// bucket is one cache line of the index: ten places, each a 16-bit tag (part
// of the hash, 0 = free) and a value slot<<1 | direction. Tags are lanes of
// words so that one subtraction compares four of them. The eleventh lane
// counts the values that would live here but found the bucket full: a search
// goes on to the next bucket only when it is not 0.
//
// Written under the shard's lock, read without.
type bucket struct {
	tags [3]uint64
	ids  [places]uint32
}

const (
	places    = 10
	perWord   = 4  // lanes in a word
	laneBits  = 16 // width of a lane
	laneMask  = 1<<laneBits - 1
	lanesLow  = 0x0001000100010001
	lanesHigh = 0x8000800080008000

	overflowWord  = places / perWord
	overflowShift = places % perWord * laneBits
	lastTags      = lanesHigh & (1<<overflowShift - 1) // the tag lanes of the last word
)

var _ [64]byte = [unsafe.Sizeof(bucket{})]byte{}

// equal returns a mask with the top bit of each lane of w that may hold tag.
// Lanes above a true match can be false ones; the tuples decide.
func equal(w, tag uint64) uint64 {
	w ^= tag * lanesLow
	return (w - lanesLow) &^ w & lanesHigh
}

// candidate returns a value whose tag matches, or 0. There is no branch on where
// it is: nobody could predict it. The matches of word w go to bit w of their
// lane, so that the number of the lowest bit tells lane and word.
func (b *bucket) candidate(tag uint64) uint32 {
	m := equal(word.Load64(&b.tags[0]), tag)>>(laneBits-1) |
		equal(word.Load64(&b.tags[1]), tag)>>(laneBits-2) |
		equal(word.Load64(&b.tags[2]), tag)&lastTags>>(laneBits-3)
	at := uint(bits.TrailingZeros64(m))
	id := word.Load32(&b.line()[(bucketIDs+at/laneBits+at%laneBits*perWord)%(64/4)])
	if m == 0 {
		return 0
	}
	return id
}

// line views a bucket as the words of 32 bits of its cache line.
func (b *bucket) line() *[64 / 4]uint32 { return (*[64 / 4]uint32)(unsafe.Pointer(b)) }

// bucketIDs is where ids begin in line.
const bucketIDs = uint(unsafe.Offsetof(bucket{}.ids) / 4)

// overflow returns how many values passed this bucket because it was full.
func (b *bucket) overflow() uint16 {
	return uint16(word.Load64(&b.tags[overflowWord]) >> overflowShift)
}

// addOverflow changes the overflow count by delta, 1 or -1. Locked.
func (b *bucket) addOverflow(delta int) {
	w := b.tags[overflowWord]
	n := uint64(int(w>>overflowShift&laneMask) + delta)
	word.Store64(&b.tags[overflowWord], w&^(laneMask<<overflowShift)|n&laneMask<<overflowShift)
}

// tag returns the tag in place i, 0 if it is free.
func (b *bucket) tag(i int) uint64 {
	return word.Load64(&b.tags[i/perWord]) >> (i % perWord * laneBits) & laneMask
}

// set puts a value with its tag into place i. The value is stored first: a
// reader that meets the old value behind the new tag finds another tuple, or
// a flow that is gone. Locked.
func (b *bucket) set(i int, tag uint64, id uint32) {
	word.Store32(&b.ids[i], id)
	shift := i % perWord * laneBits
	w := &b.tags[i/perWord]
	word.Store64(w, *w&^(laneMask<<shift)|tag<<shift)
}

// clear frees place i. Locked.
func (b *bucket) clear(i int) {
	shift := i % perWord * laneBits
	w := &b.tags[i/perWord]
	word.Store64(w, *w&^(laneMask<<shift))
}

// free returns a free place, or -1. Locked.
func (b *bucket) free() int {
	for i := range places {
		if b.tag(i) == 0 {
			return i
		}
	}
	return -1
}

// place returns where id lives in b, or -1. Locked.
func (b *bucket) place(id uint32) int {
	for i := range places {
		if b.ids[i] == id && b.tag(i) != 0 {
			return i
		}
	}
	return -1
}
