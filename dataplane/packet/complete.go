package packet

import "gvisor.dev/gvisor/pkg/tcpip/checksum"

// CompleteChecksum turns a partial checksum, of the packet itself or of one
// tunnelled in it, into a complete one for an egress without checksum offload.
// p must not be a GSO frame (see Segmenter). A complete packet is left as it is.
func CompleteChecksum(p *Packet) {
	if p.Offload.Flags&NeedsCsum == 0 {
		return
	}
	start := p.Off + int(p.Offload.CsumStart)
	b := p.Mem[start:p.End]
	sum := ^checksum.Checksum(b, 0) // the field holds the pseudo-header's part
	if sum == 0 {
		sum = 0xffff // same number; for UDP zero means none (RFC 768)
	}
	be.PutUint16(b[p.Offload.CsumOffset:], sum)
	p.Offload = Offload{}
	p.Flags &^= PartialChecksum
}
