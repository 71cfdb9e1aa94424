// Package prefetch asks the processor for cache lines ahead of their use, so
// that the misses of a batch overlap instead of following each other.
package prefetch
