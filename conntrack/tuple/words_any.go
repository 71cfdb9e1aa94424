//go:build !(amd64 || arm64 || riscv64 || loong64 || ppc64le)

package tuple

import "encoding/binary"

// Set makes t a copy of from.
func (t *Tuple) Set(from *Tuple) { *t = *from }

// SetAddrs takes both addresses from another tuple.
func (t *Tuple) SetAddrs(from *Tuple) { t.Src, t.Dst = from.Src, from.Dst }

// SetRest sets all but the addresses.
func (t *Tuple) SetRest(srcPort, dstPort uint16, proto, family uint8, zone uint16) {
	t.SrcPort, t.DstPort, t.Proto, t.Family, t.Zone = srcPort, dstPort, proto, family, zone
}

// Set4 makes t that of a packet over IPv4, in zone 0. Addresses are numbers.
func (t *Tuple) Set4(src, dst uint32, srcPort, dstPort uint16, proto uint8) {
	var a, b [4]byte
	binary.BigEndian.PutUint32(a[:], src)
	binary.BigEndian.PutUint32(b[:], dst)
	*t = Tuple{AddrFrom4(a), AddrFrom4(b), srcPort, dstPort, proto, IPv4, 0}
}

// turn makes t what from is with source and destination exchanged. t is not from.
func (t *Tuple) turn(from *Tuple) {
	*t = Tuple{from.Dst, from.Src, from.DstPort, from.SrcPort, from.Proto, from.Family, from.Zone}
}
