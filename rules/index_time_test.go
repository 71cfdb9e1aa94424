//go:build !race

package rules

import (
	"runtime"
	"testing"
	"time"
)

// 10,000 rules decide a first packet in about the time of 10. The quickest of many
// short runs is what the code takes; the machine may be busy with something else.
func TestTenThousandRulesTakeTheTimeOfTen(t *testing.T) {
	quickest := func(n int) time.Duration {
		p := manyOf(t, n, mixedConditions)
		keys := packetsOf(p, n, mixedConditions)
		best := time.Hour
		for range 200 {
			start := time.Now()
			firstPackets(p, keys, 1024)
			best = min(best, time.Since(start))
		}
		return best / 1024
	}
	few, many := quickest(10), quickest(10000)
	t.Logf("a first packet takes %v with 10 rules, %v with 10,000", few, many)
	if many > 3*few {
		t.Errorf("a first packet takes %v with 10 rules and %v with 10,000, want at most three times as long", few, many)
	}
}

func TestCompilingTenThousandRulesIsQuick(t *testing.T) {
	for name, conditions := range hardLists {
		list := make([]RuleSpec, 10000)
		for i := range list {
			list[i] = RuleSpec{If: conditions(i), Then: ActDrop}
		}
		spec := &Spec{Areas: testAreas()}
		spec.Lists[Filter] = list
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		p, err := Compile(spec, &Binding{testPorts}, 1)
		took := time.Since(start)
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		t.Logf("%-18s %v, %d KB", name, took, (after.HeapAlloc-before.HeapAlloc)>>10)
		if took > 2*time.Second {
			t.Errorf("%s: compiling 10,000 rules takes %v", name, took)
		}
		runtime.KeepAlive(p)
	}
}
