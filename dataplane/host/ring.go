package host

import (
	"sync/atomic"

	"example.com/culvert/dataplane/packet"
)

// Implementation limits.
const (
	slotSize = 2048     // bytes; a frame of up to 2016 bytes takes one slot
	maxSlots = 64       // of one record
	minRing  = maxSlots // smallest ring that takes every record
	maxBytes = maxSlots*slotSize - packet.Headroom
)

// kind says what a record is.
type kind uint8

const (
	kindPad     kind = iota // filler up to the end of the memory, no content
	kindLink                // Ethernet frame of port id
	kindResolve             // 16 bytes: the address to resolve on port id
	kindLocal               // IP packet
)

// ring is a bounded queue of byte records from many producers to one consumer.
//
// Memory is cut into slots; a record takes as many neighbouring slots as it
// needs and never wraps, so the consumer can use it in place, with
// packet.Headroom writable bytes in front of it. Producers claim slots by moving head,
// fill them and publish the first one by its seq. Records become visible in the
// order of the claims. Nobody blocks: a full ring refuses and counts.
type ring struct {
	slots []slot
	mem   []byte
	mask  uint64

	_    [64]byte
	head atomic.Uint64 // next position to claim
	_    [56]byte
	tail atomic.Uint64 // first position not free yet
	_    [56]byte
	next uint64 // first position not read yet; the consumer's own

	full atomic.Uint64 // records refused
}

// slot heads a record. Its fields but seq belong to whoever holds the record:
// the producer from the claim until seq is stored, then the consumer until
// release.
type slot struct {
	seq    atomic.Uint64 // position + 1 of the record published here
	count  uint32        // slots of the record
	length uint32        // bytes of content
	id     uint16
	kind   kind
	off    packet.Offload
}

// newRing returns a ring of at least n slots.
func newRing(n int) *ring {
	size := minRing
	for size < n {
		size *= 2
	}
	return &ring{slots: make([]slot, size), mem: make([]byte, size*slotSize), mask: uint64(size - 1)}
}

// claim reserves a record for length bytes and returns its position and memory. It
// leaves keep slots free.
// The caller fills both and calls publish, without waiting for anything in
// between: later records stay invisible until then.
func (r *ring) claim(length, keep int) (pos uint64, content []byte, ok bool) {
	if length > maxBytes {
		r.full.Add(1)
		return 0, nil, false
	}
	size := uint64(len(r.slots))
	n := uint64(packet.Headroom+length+slotSize-1) / slotSize
	for {
		h := r.head.Load()
		pad := uint64(0)
		if at := h & r.mask; at+n > size {
			pad = size - at
		}
		if h+pad+n-r.tail.Load()+uint64(keep) > size {
			r.full.Add(1)
			return 0, nil, false
		}
		if !r.head.CompareAndSwap(h, h+pad+n) {
			continue
		}
		if pad > 0 {
			s := &r.slots[h&r.mask]
			s.kind, s.count = kindPad, uint32(pad)
			s.seq.Store(h + 1)
		}
		pos = h + pad
		s := &r.slots[pos&r.mask]
		s.count, s.length = uint32(n), uint32(length)
		return pos, r.content(pos, length), true
	}
}

// content returns the bytes of the record at pos.
func (r *ring) content(pos uint64, length int) []byte {
	at := int(pos&r.mask)*slotSize + packet.Headroom
	return r.mem[at : at+length]
}

// publish makes the claimed record at pos visible.
func (r *ring) publish(pos uint64, k kind, id uint16, off packet.Offload) {
	s := &r.slots[pos&r.mask]
	s.kind, s.id, s.off = k, id, off
	s.seq.Store(pos + 1)
}

// put copies content in as one record and reports whether there was room.
func (r *ring) put(k kind, id uint16, content []byte, off packet.Offload) bool {
	return r.putBelow(0, k, id, content, off)
}

// putBelow is put that leaves keep slots free.
func (r *ring) putBelow(keep int, k kind, id uint16, content []byte, off packet.Offload) bool {
	pos, b, ok := r.claim(len(content), keep)
	if !ok {
		return false
	}
	copy(b, content)
	r.publish(pos, k, id, off)
	return true
}

// read returns the next record, nil if there is none. It stays valid until
// release. Only the consumer may call it.
func (r *ring) read() (s *slot, pos uint64) {
	for {
		s = &r.slots[r.next&r.mask]
		if s.seq.Load() != r.next+1 {
			return nil, 0
		}
		pos = r.next
		r.next += uint64(s.count)
		if s.kind != kindPad {
			return s, pos
		}
	}
}

// empty reports whether read would find nothing. Only the consumer may call it.
func (r *ring) empty() bool {
	return r.slots[r.next&r.mask].seq.Load() != r.next+1
}

// waiting reports whether there are records that were not released. Anyone may call it.
func (r *ring) waiting() bool { return r.head.Load() != r.tail.Load() }

// fill returns how many slots are taken. Anyone may call it.
func (r *ring) fill() int {
	tail := r.tail.Load() // before head, which is ahead of it
	return min(int(r.head.Load()-tail), len(r.slots))
}

// release frees every record that read has returned.
func (r *ring) release() { r.tail.Store(r.next) }
