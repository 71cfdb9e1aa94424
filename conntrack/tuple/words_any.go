//go:build !(amd64 || arm64 || riscv64 || loong64 || ppc64le)

package tuple

import (
	"encoding/binary"
	"math/bits"
)

// Set makes t a copy of from.
func (t *Tuple) Set(from *Tuple) { *t = *from }

// SetAddrs takes both addresses from another tuple.
func (t *Tuple) SetAddrs(from *Tuple) { t.Src, t.Dst = from.Src, from.Dst }

// SetRest sets all but the addresses.
func (t *Tuple) SetRest(srcPort, dstPort uint16, proto, family uint8, zone uint16) {
	t.SrcPort, t.DstPort, t.Proto, t.Family, t.Zone = srcPort, dstPort, proto, family, zone
}

// SetWire4 makes t that of a packet over IPv4, in zone 0. Addresses, and both ports, are
// as they lie in a header, read with the first byte lowest.
func (t *Tuple) SetWire4(src, dst, ports uint32, proto uint8) {
	var a, b [4]byte
	binary.LittleEndian.PutUint32(a[:], src)
	binary.LittleEndian.PutUint32(b[:], dst)
	*t = Tuple{AddrFrom4(a), AddrFrom4(b), bits.ReverseBytes16(uint16(ports)), bits.ReverseBytes16(uint16(ports >> 16)), proto, IPv4, 0}
}

// BecomeAnswer gives t the addresses and ports of the answer to packets with another
// tuple, and returns the ports as SetWire4 takes them.
func (t *Tuple) BecomeAnswer(of *Tuple) (ports uint32) {
	src, dst := of.Dst, of.Src
	t.Src, t.Dst, t.SrcPort, t.DstPort = src, dst, of.DstPort, of.SrcPort
	return uint32(bits.ReverseBytes16(t.SrcPort)) | uint32(bits.ReverseBytes16(t.DstPort))<<16
}

// turn makes t what from is with source and destination exchanged. t is not from.
func (t *Tuple) turn(from *Tuple) {
	*t = Tuple{from.Dst, from.Src, from.DstPort, from.SrcPort, from.Proto, from.Family, from.Zone}
}
