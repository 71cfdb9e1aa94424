//go:build netns

package afpacket

import (
	"testing"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// BenchmarkForward is a raw forwarder between two veth pairs, overloaded by our own sender, with 60-byte
// UDP frames: nanoseconds for each frame sent, and the share that arrived.
func BenchmarkForward(b *testing.B) {
	for _, q := range []Qdisc{BypassQdisc, UseQdisc} {
		b.Run(map[Qdisc]string{BypassQdisc: "bypass", UseQdisc: "qdisc"}[q], func(b *testing.B) {
			n := newNetwork(b, 1)
			n.forward(b, Config{Qdisc: q, Slots: 4096})
			sink := open(b, n.s0, Config{Slots: 4096}).Queue(0)
			gen, err := open(b, n.c0, Config{}).NewSender()
			if err != nil {
				b.Fatal(err)
			}
			defer gen.(port.Closer).Close()
			var out [64]packet.Packet
			for i := range out {
				f := frame(n.g0.MAC(b), 60)
				copy(f[12:], []byte{0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 1, 2, 10, 77, 2, 2, 0, byte(i), 0, 9, 0, 26, 0, 0})
				out[i] = packet.Packet{Mem: f, End: len(f)}
			}
			var in [64]packet.Packet
			arrived := 0
			drain := func() int {
				k := sink.Recv(in[:])
				sink.Release()
				arrived += k
				return k
			}
			b.ReportAllocs()
			b.ResetTimer()
			for sent := 0; sent < b.N; sent += len(out) {
				for i := range out {
					gen.Send(&out[i])
				}
				gen.Flush()
				drain()
			}
			b.StopTimer()
			for drain() > 0 {
			}
			b.ReportMetric(float64(arrived)/b.Elapsed().Seconds()/1000, "kpps")
			b.ReportMetric(float64(arrived)/float64(b.N), "arrived/sent")
		})
	}
}
