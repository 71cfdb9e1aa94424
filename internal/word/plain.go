//go:build amd64 && !race

package word

// Store32 writes *p with release order.
func Store32(p *uint32, v uint32) { *p = v }

// Store64 writes *p with release order.
func Store64(p *uint64, v uint64) { *p = v }

// Add64 adds n to *p, which no one else writes at the same time.
func Add64(p *uint64, n uint64) { *p += n }
