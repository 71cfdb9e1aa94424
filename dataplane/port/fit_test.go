package port

import (
	"testing"

	"example.com/culvert/dataplane/packet"
)

func TestFitLooksAtSegmentsNotAtFrames(t *testing.T) {
	const mtu = 1500
	for _, tt := range []struct {
		name string
		link packet.Link
		len  int // of the frame, bytes
		o    packet.Offload
		want Status
	}{
		{"IPv6 TCP with timestamps in 1428-byte segments", packet.LinkEthernet, 64000,
			packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv6, GSOSize: 1428, CsumStart: 54}, Sent},
		{"one byte more", packet.LinkEthernet, 64000,
			packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv6, GSOSize: 1429, CsumStart: 54}, TooBig},
		{"the same on an IP link", packet.LinkIP, 64000,
			packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv6, GSOSize: 1428, CsumStart: 40}, Sent},
		{"the ECN bit changes nothing", packet.LinkIP, 64000,
			packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv6 | packet.GSOECN, GSOSize: 1429, CsumStart: 40}, TooBig},
		{"UDP in 1472-byte segments", packet.LinkIP, 64000,
			packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOUDPL4, GSOSize: 1472, CsumStart: 20}, Sent},
		{"UDP in 1473-byte segments", packet.LinkIP, 64000,
			packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOUDPL4, GSOSize: 1473, CsumStart: 20}, TooBig},
		{"complete checksum: the hint counts", packet.LinkIP, 64000,
			packet.Offload{GSOType: packet.GSOTCPv4, GSOSize: 1448, HdrLen: 52}, Sent},
		{"transport header outside of the frame", packet.LinkIP, 60,
			packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: 1448, HdrLen: 52, CsumStart: 60000}, Sent},
		{"GSO type without a size is a plain frame", packet.LinkIP, 1501,
			packet.Offload{GSOType: packet.GSOTCPv4}, TooBig},
	} {
		mem := make([]byte, packet.Headroom+tt.len)
		p := packet.Packet{Mem: mem, Off: packet.Headroom, End: len(mem), Offload: tt.o}
		if at := p.Off + int(tt.o.CsumStart) + 12; at < len(mem) {
			mem[at] = 8 << 4 // a TCP header with 12 bytes of options
		}
		if got := Fit(&p, tt.link, mtu, WithGSO); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
