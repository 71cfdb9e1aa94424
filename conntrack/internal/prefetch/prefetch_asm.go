//go:build amd64 || arm64

package prefetch

// Lines starts loading the cache line at each address. Addresses need not be
// valid: a prefetch never faults.
//
//go:noescape
func Lines(addresses []uintptr)
