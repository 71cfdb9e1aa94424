package afpacket

// storeRelease stores v to *p after everything stored or loaded before. On
// amd64 a plain store is that; an atomic one would be an XCHG for each slot.
func storeRelease(p *uint32, v uint32) { *p = v }
