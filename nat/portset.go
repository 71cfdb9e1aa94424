package nat

import (
	"math/bits"
	"sync/atomic"
)

// PortSet is a set of ports (or ICMP identifiers) from which one that is not in
// it is found at once, however full it is: beside a bit for each port it keeps a
// bit for each 32 ports of one parity that are all in. It is safe for concurrent
// use without a lock. The zero PortSet is empty. It must not be copied.
type PortSet struct {
	words [wordsOfPorts]atomic.Uint64
	full  [2][wordsOfPorts / 64]atomic.Uint64 // by parity: words whose ports of it are all in
	n     atomic.Int32
}

const (
	wordsOfPorts = 65536 / 64
	evenPorts    = 0x5555555555555555
)

// parityMask are the bits of a word whose ports are even, or odd.
var parityMask = [2]uint64{evenPorts, ^uint64(evenPorts)}

// Len returns how many ports are in s.
func (s *PortSet) Len() int { return int(s.n.Load()) }

// Has reports whether port is in s.
func (s *PortSet) Has(port uint16) bool {
	return s.words[port/64].Load()&(1<<(port%64)) != 0
}

// Add puts port into s and reports whether it was not in.
func (s *PortSet) Add(port uint16) bool {
	at, bit, mask := port/64, uint64(1)<<(port%64), parityMask[port%2]
	old := s.words[at].Or(bit)
	if old&bit != 0 {
		return false
	}
	s.n.Add(1)
	if (old|bit)&mask == mask {
		summary, mark := &s.full[port%2][at/64], uint64(1)<<(at%64)
		summary.Or(mark)
		if s.words[at].Load()&mask != mask { // one was removed just now, maybe before the mark was there
			summary.And(^mark)
		}
	}
	return true
}

// Remove takes port out of s and reports whether it was in.
func (s *PortSet) Remove(port uint16) bool {
	at, bit := port/64, uint64(1)<<(port%64)
	if s.words[at].And(^bit)&bit == 0 {
		return false
	}
	s.n.Add(-1)
	s.full[port%2][at/64].And(^(uint64(1) << (at % 64)))
	return true
}

// avoided is what a search passes over: ports that are in any of the sets, nil
// ones being empty.
type avoided [3]*PortSet

// outside returns the lowest port from first to last, counted in steps of 1 or 2,
// that is in none of the sets.
func (a *avoided) outside(first, last uint16, step uint8) (port uint16, ok bool) {
	wanted := ^uint64(0)
	if step == 2 {
		wanted = parityMask[first%2]
	}
	at, end := int(first/64), int(last/64)
	mask := wanted & (^uint64(0) << (first % 64))
	for at <= end {
		if free := ^(a[0].word(at) | a[1].word(at) | a[2].word(at)) & mask; free != 0 {
			port = uint16(at*64 + bits.TrailingZeros64(free))
			return port, port <= last
		}
		mask = wanted
		at = a.notFull(at+1, end, first%2, step)
	}
	return 0, false
}

// notFull returns the first word from at to end that may have room, end+1 if
// none does.
func (a *avoided) notFull(at, end int, parity uint16, step uint8) int {
	for at <= end {
		full := a[0].fullWords(at/64, parity, step) | a[1].fullWords(at/64, parity, step) | a[2].fullWords(at/64, parity, step)
		room := ^full & (^uint64(0) << (at % 64))
		if room != 0 {
			return at&^63 + bits.TrailingZeros64(room)
		}
		at = at&^63 + 64
	}
	return end + 1
}

func (s *PortSet) word(at int) uint64 {
	if s == nil {
		return 0
	}
	return s.words[at].Load()
}

func (s *PortSet) fullWords(at int, parity uint16, step uint8) uint64 {
	switch {
	case s == nil:
		return 0
	case step == 2:
		return s.full[parity][at].Load()
	}
	return s.full[0][at].Load() & s.full[1][at].Load()
}
