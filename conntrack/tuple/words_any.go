//go:build !(amd64 || arm64 || riscv64 || loong64 || ppc64le)

package tuple

// Set makes t a copy of from.
func (t *Tuple) Set(from *Tuple) { *t = *from }

// SetAddrs takes both addresses from another tuple.
func (t *Tuple) SetAddrs(from *Tuple) { t.Src, t.Dst = from.Src, from.Dst }

// SetRest sets all but the addresses.
func (t *Tuple) SetRest(srcPort, dstPort uint16, proto, family uint8, zone uint16) {
	t.SrcPort, t.DstPort, t.Proto, t.Family, t.Zone = srcPort, dstPort, proto, family, zone
}

// turn makes t what from is with source and destination exchanged. t is not from.
func (t *Tuple) turn(from *Tuple) {
	*t = Tuple{from.Dst, from.Src, from.DstPort, from.SrcPort, from.Proto, from.Family, from.Zone}
}
