//go:build !amd64 && !arm64

package prefetch

// Lines does nothing: this processor has no prefetch we know of.
func Lines([]uintptr) {}
