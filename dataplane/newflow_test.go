package dataplane

import (
	"fmt"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// BenchmarkNewFlows is the whole walk of first packets in memory: rules, port choice,
// claim, confirmation. One op is one flow; they end by commands that are not measured.
// Heard is with somebody who wants to know of events, rules with a list of which no rule
// but the last takes the packets.
func BenchmarkNewFlows(b *testing.B) {
	for _, bb := range []struct {
		name  string
		rules func(*rules.Spec)
		heard bool
	}{
		{"linux", nil, false},
		{"linux/heard", nil, true},
		{"endpoint-independent", translate(nat.EndpointIndependent, nat.AddressDependent, nil), false},
		{"address-and-port-dependent", translate(nat.AddressAndPortDependent, nat.AddressAndPortDependent, nil), false},
		{"rules=10", filterOf(manyRules(10)...), false},
		{"rules=1k", filterOf(manyRules(1000)...), false},
		{"rules=10k", filterOf(manyRules(10_000)...), false},
	} {
		b.Run(bb.name, func(b *testing.B) {
			const flows = 1 << 15
			e, lan, _ := bulkLabWith(b, 2*flows, bb.rules)
			if bb.heard {
				told := 0
				defer e.Table().Listen(conntrack.EveryEvent, func(*conntrack.Record) { told++ })()
			}
			w, n, now := e.Worker(0), uint32(0), int64(1e12)
			lan.load(batchOf(udp("10.0.0.5:1", "198.51.100.7:53", body("payload"))), func(frames [][]byte) {
				for _, f := range frames {
					retarget(f, n)
					n++
				}
			})
			watch := newStopwatch(b)
			for done := 0; done < b.N; done += Batch {
				if n >= flows {
					watch.stop()
					e.Table().Flush()
					w.Step(now)
					w.Step(now)
					n = 0
					watch.start()
				}
				now += 20000
				w.Step(now)
			}
			watch.stop()
			watch.report(batches(b) * Batch)
			if s := e.Stats(); s.Drops() != 0 {
				b.Fatalf("dropped %v", s.Dropped)
			}
		})
	}
}

// manyRules returns n rules, addresses and ports of which no packet of benchmarks has, and
// one that accepts.
func manyRules(n int) []rules.RuleSpec {
	list := make([]rules.RuleSpec, n, n+1)
	for i := range list {
		host := addr(fmt.Sprintf("192.0.%d.%d", i>>8, i&255))
		list[i] = rules.RuleSpec{Then: rules.ActDrop, If: rules.Conditions{
			Dst:     oneOf(nat.AddrRange{First: host, Last: host}),
			DstPort: oneOf(nat.PortRange{First: uint16(1024 + i), Last: uint16(1024 + i)}),
		}}
	}
	return append(list, rules.RuleSpec{Then: rules.ActAccept})
}
