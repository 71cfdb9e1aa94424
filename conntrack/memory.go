//go:build !race

package conntrack

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// newMemory returns size zero bytes outside of the Go heap, page aligned.
// Pages that are never touched cost nothing.
func newMemory(size int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("conntrack: map %d bytes: %w", size, err)
	}
	if size >= 2*hugePage {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // an optimisation; kernels may be built without
	}
	return mem, nil
}

// populate makes the kernel provide memory for mem, a part of what newMemory
// returned, before anybody touches it.
func populate(mem []byte) {
	if len(mem) == 0 {
		return
	}
	page := uintptr(unix.Getpagesize())
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(mem))) & (page - 1)
	whole := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(mem)), -int(begin))), len(mem)+int(begin))
	_ = unix.Madvise(whole, unix.MADV_POPULATE_WRITE) // an optimisation
}

// freeMemory gives back what newMemory returned.
func freeMemory(mem []byte) error { return unix.Munmap(mem) }
