// Package keeptest has memory that outlives a table of a test, without files, and finds
// whoever writes where he has not asked for room.
package keeptest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"
	"unsafe"
)

// Memory implements keep.Memory.
type Memory struct {
	Full func(name string) error // why there is no more room in an array; nil: there is

	mu     sync.Mutex
	arrays map[string][]byte
	room   map[string][]span
}

type span struct{ from, to int }

// Array implements keep.Memory.
func (m *Memory) Array(name string, size int) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.arrays == nil {
		m.arrays, m.room = make(map[string][]byte), make(map[string][]span)
	}
	if m.arrays[name] != nil {
		return nil, fmt.Errorf("a second array %s", name)
	}
	m.arrays[name] = Aligned(size)
	return m.arrays[name], nil
}

// Aligned makes zero bytes that may be viewed as any type.
func Aligned(size int) []byte {
	words := make([]uint64, size/8+1)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), size)
}

// Reserve implements keep.Memory.
func (m *Memory) Reserve(part []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(part) == 0 {
		return nil
	}
	for name, a := range m.arrays {
		first, at := uintptr(unsafe.Pointer(unsafe.SliceData(a))), uintptr(unsafe.Pointer(unsafe.SliceData(part)))
		if at < first || at-first >= uintptr(len(a)) {
			continue
		}
		if m.Full != nil {
			if err := m.Full(name); err != nil {
				return err
			}
		}
		from := int(at - first)
		m.room[name] = append(m.room[name], span{from, from + len(part)})
		return nil
	}
	return fmt.Errorf("%d bytes of no array", len(part))
}

// Trespasses names the arrays that have something where nobody asked for room. Nobody
// may write meanwhile.
func (m *Memory) Trespasses() (all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, a := range m.arrays {
		at := 0
		for _, s := range append(m.inOrder(name), span{len(a), len(a)}) {
			if s.from > at && !blank(a[at:s.from]) {
				all = append(all, fmt.Sprintf("%s between %d and %d of %d", name, at, s.from, len(a)))
			}
			at = max(at, s.to)
		}
	}
	return all
}

func (m *Memory) inOrder(name string) []span {
	return slices.SortedFunc(slices.Values(m.room[name]), func(a, b span) int { return cmp.Compare(a.from, b.from) })
}

var zeros [1 << 16]byte

func blank(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Left is what a process would leave that is killed at this moment.
type Left map[string][]byte

// Left copies the arrays. Nobody may write meanwhile.
func (m *Memory) Left() Left {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := make(Left)
	for name, a := range m.arrays {
		room := m.inOrder(name)
		size := 0
		if len(room) > 0 {
			size = room[len(room)-1].to // the rest is empty
		}
		left[name] = Aligned(size)
		for _, s := range room {
			copy(left[name][s.from:s.to], a[s.from:s.to])
		}
	}
	return left
}

// Array returns an array by name.
func (l Left) Array(name string) ([]byte, error) {
	if l[name] == nil {
		return nil, fmt.Errorf("no array %s", name)
	}
	return l[name], nil
}

// Cut forgets what an array has behind its first size bytes, which nobody may read any more.
func (l Left) Cut(name string, size int) error {
	for i := size; i < len(l[name]); i++ {
		l[name][i] = 0xa5
	}
	return nil
}
