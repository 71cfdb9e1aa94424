package virtio

import (
	"testing"

	"example.com/culvert/dataplane/packet"
)

func TestHeaderSurvivesThePassage(t *testing.T) {
	tcp := packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv6 | packet.GSOECN, HdrLen: 86, GSOSize: 1428, CsumStart: 54, CsumOffset: 16}
	tagged := tcp
	tagged.HdrLen, tagged.CsumStart = 90, 58
	for _, tt := range []struct {
		name     string
		in, want packet.Offload
		shift, n int
	}{
		{"unchanged without a tag", tcp, tcp, 0, 60000},
		{"a tag moves the transport header", tcp, tagged, 4, 60004},
		{"a verified checksum is not announced", packet.Offload{Flags: packet.DataValid}, packet.Offload{}, 4, 100},
		{"the hint never exceeds the frame", packet.Offload{HdrLen: 86}, packet.Offload{HdrLen: 60}, 0, 60},
		{"no hint stays none", packet.Offload{}, packet.Offload{}, 4, 60},
	} {
		var b [Len]byte
		Put(b[:], &tt.in, tt.shift, HdrLen(&tt.in, tt.shift, tt.n))
		if got := Get(b[:]); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
