//go:build race

package ports

import "unsafe"

// newMemory uses the Go heap under the race detector, which sees nothing else.
func newMemory(size int) ([]byte, error) {
	const page = 4096
	mem := make([]byte, size+page)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(mem))) & (page - 1)
	return mem[skip:][:size:size], nil
}

func freeMemory([]byte) error { return nil }
