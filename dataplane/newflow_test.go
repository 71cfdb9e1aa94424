package dataplane

import (
	"testing"

	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// BenchmarkNewFlows is the whole walk of first packets in memory. One op is one
// flow; they end by commands that are not measured.
func BenchmarkNewFlows(b *testing.B) {
	for _, bb := range []struct {
		name  string
		rules func(*rules.Spec)
	}{
		{"linux", nil},
		{"endpoint-independent", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Snat][0].Src.Mapping, s.Lists[rules.Snat][0].Src.Filtering = nat.EndpointIndependent, nat.AddressDependent
		}},
		{"address-and-port-dependent", func(s *rules.Spec) {
			masquerade(s)
			s.Lists[rules.Snat][0].Src.Mapping, s.Lists[rules.Snat][0].Src.Filtering = nat.AddressAndPortDependent, nat.AddressAndPortDependent
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			const flows = 1 << 15
			e, lan, _ := bulkLabWith(b, 2*flows, bb.rules)
			w, n, now := e.Worker(0), uint32(0), int64(1e12)
			lan.load(batchOf(udp("10.0.0.5:1", "198.51.100.7:53", body("payload"))), func(frames [][]byte) {
				for _, f := range frames {
					retarget(f, n)
					n++
				}
			})
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += Batch {
				if n >= flows {
					b.StopTimer()
					e.Table().Flush()
					w.Step(now)
					w.Step(now)
					n = 0
					b.StartTimer()
				}
				now += 20000
				w.Step(now)
			}
			b.StopTimer()
			if s := e.Stats(); s.Drops() != 0 {
				b.Fatalf("dropped %v", s.Dropped)
			}
		})
	}
}
