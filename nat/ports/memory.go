//go:build !race

package ports

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// newMemory returns size zero bytes outside of the Go heap, page aligned. Pages
// that are never touched cost nothing.
func newMemory(size int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("ports: map %d bytes: %w", size, err)
	}
	return mem, nil
}

// freeMemory gives back what newMemory returned.
func freeMemory(mem []byte) error { return unix.Munmap(mem) }
