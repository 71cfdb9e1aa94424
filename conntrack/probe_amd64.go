//go:build !race

package conntrack

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// hasProbe says whether the processor has what probe takes: AVX2.
var hasProbe = cpu.X86.HasAVX2

// seek puts the home buckets of n hashes, not 0, of count buckets into home, and asks for
// their lines. See index.firstBucket.
//
//go:noescape
func seek(home, hash *uint64, n int, buckets *bucket, count int)

// probe puts the candidates for n hashes, not 0, in their home buckets into ids, and asks
// for all lines of their entries. See bucket.candidate. It reads a bucket as a whole; each
// word of it is read in one go, as words are that do not cross a line.
//
//go:noescape
func probe(ids *uint32, home, hash *uint64, n int, buckets *bucket, entries *Entry)

// What probe knows of the layout.
var (
	_ [24]byte = [unsafe.Offsetof(bucket{}.ids)]byte{}
	_ [10]byte = [places]byte{}
	_ [3]byte  = [linesOfEntry]byte{}
)
