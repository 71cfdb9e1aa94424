//go:build !amd64 || race

package conntrack

// hasProbe says that there is no other way to find candidates than in Go. The race
// detector would not see it.
const hasProbe = false

func seek(home, hash *uint64, n int, buckets *bucket, count int) {}

func probe(ids *uint32, home, hash *uint64, n int, buckets *bucket, entries *Entry) {}
