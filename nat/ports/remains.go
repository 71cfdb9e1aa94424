package ports

import (
	"fmt"
	"iter"
	"reflect"
	"sync/atomic"
	"unsafe"

	"example.com/culvert/internal/keep"
)

// Names of the arrays that a set has in the memory that New was given.
const (
	leasesName = "leases"
	untilName  = "kept"
)

// Layout returns a digest of how a set is kept: another program reads it only if its own
// is the same.
func Layout() string { return keep.Layout(reflect.TypeFor[lease]()) }

// keptArray is array for what a successor reads, which is in s.memory if there is one.
func keptArray[T any](s *Set, name string, n int) ([]T, error) {
	if s.memory == nil {
		return array[T](s, n)
	}
	var zero T
	mem, err := s.memory.Array(name, n*int(unsafe.Sizeof(zero)))
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), n), nil
}

// reserveSlots is how many slots of a shard get room at a time.
const reserveSlots = 1 << 10

// reserve provides room for a fresh slot of a locked shard, and reports whether there is
// any: what flows with a mapping of their own need is much, and most have none.
func (s *Set) reserve(c chain, slot uint32) bool {
	if s.memory == nil || slot < c.sh.room {
		return true
	}
	from, to := c.base+c.sh.room, c.base+min(c.sh.room+reserveSlots, s.perShard)
	if s.memory.Reserve(bytesOf(s.leases[from:to])) != nil || s.memory.Reserve(bytesOf(s.until[from:to])) != nil {
		return false
	}
	c.sh.room = to - c.base
	return true
}

// bytesOf views an array without pointers as bytes.
func bytesOf[T any](a []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(a))), len(a)*int(unsafe.Sizeof(a[0])))
}

// Remains returns the leases that a set kept whose process was killed, from the memory
// that it left, under the names that the set gave. Nobody writes there any more. The
// layout must be that of this program (Layout).
func Remains(array func(name string) ([]byte, error)) (iter.Seq[*Saved], error) {
	leases, err := array(leasesName)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", leasesName, err)
	}
	until, err := array(untilName)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", untilName, err)
	}
	const size, word = int(unsafe.Sizeof(lease{})), 4
	n := len(until) / word
	if len(until)%word != 0 || len(leases) != n*size {
		return nil, fmt.Errorf("%w: %d bytes of leases, %d of times", ErrTorn, len(leases), len(until))
	}
	if n == 0 {
		return func(func(*Saved) bool) {}, nil
	}
	times := unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(until))), n)
	all := unsafe.Slice((*lease)(unsafe.Pointer(unsafe.SliceData(leases))), n)
	return func(yield func(*Saved) bool) {
		for i := range times {
			if at := atomic.LoadUint32(&times[i]); at != 0 {
				l := &all[i]
				if !yield(&Saved{l.key, l.value, Tick(at), l.rule, l.terms}) {
					return
				}
			}
		}
	}, nil
}
