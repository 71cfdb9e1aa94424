// Package word accesses the 32- and 64-bit words that lock-free readers share
// with writers.
//
// A Go atomic load costs nothing on amd64, but an atomic store is an XCHG, and
// three of those a packet would eat the budget of the data path. So loads are
// always sync/atomic; stores and single-writer additions are plain moves where
// the processor already orders them (amd64: total store order, aligned words
// are never torn), and sync/atomic everywhere else and under the race detector.
//
// What Store promises is release order: a reader that sees the stored value
// sees everything written before it. It does not order the store before later
// loads; where that matters (epochs, timeouts against their deadlines) the code
// uses sync/atomic itself and says why.
package word

import "sync/atomic"

// Load32 reads *p with acquire order.
func Load32(p *uint32) uint32 { return atomic.LoadUint32(p) }

// Load64 reads *p with acquire order.
func Load64(p *uint64) uint64 { return atomic.LoadUint64(p) }
