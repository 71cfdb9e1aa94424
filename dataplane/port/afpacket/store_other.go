//go:build !amd64

package afpacket

import "sync/atomic"

// storeRelease stores v to *p after everything stored or loaded before.
func storeRelease(p *uint32, v uint32) { atomic.StoreUint32(p, v) }
