package control

import (
	"slices"
	"testing"
	"time"

	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
)

func TestLoadIsThatOfTheLastMinute(t *testing.T) {
	var l loadWatch
	start := time.Unix(1_700_000_000, 0)
	at := func(second int) loadSample {
		n := uint64(second)
		s := loadSample{at: start.Add(time.Duration(second) * time.Second), begun: 2 * n, ended: n, ringLost: n,
			busy: []time.Duration{time.Duration(second) * time.Second / 4, 0}}
		s.stats.Forwarded, s.stats.Bytes = 10*n, 1000*n
		s.stats.Dropped[dataplane.NoRoute] = n
		s.stats.Dropped[dataplane.RuleDenied] = 3 * n
		s.stats.Dropped[dataplane.Martian] = 7 // long ago
		return s
	}
	if got := l.since(at(0)); got != nil {
		t.Errorf("before the first sample: %+v", got)
	}
	for second := 0; second <= 300; second += 5 {
		l.add(at(second))
		got := l.since(at(second + 2))
		want := float64(second + 2)
		if want > 60 { // the sample before is too old by two seconds
			want = 57
		}
		if got == nil || got.Seconds != want {
			t.Fatalf("after %d s: %+v, want the last %v s", second, got, want)
		}
		if got.Packets != 10 || got.Bytes != 1000 || got.Begun != 2 || got.Ended != 1 || got.RingLost != uint64(want) || !slices.Equal(got.Busy, []float64{0.25, 0}) {
			t.Errorf("after %d s: %+v", second, got)
		}
		drops := []api.Counter{
			{Reason: "rule-denied", Count: 3 * uint64(want), Step: dataplane.RuleDenied.Step(), Advice: dataplane.RuleDenied.Advice()},
			{Reason: "no-route", Count: uint64(want), Step: dataplane.NoRoute.Step(), Advice: dataplane.NoRoute.Advice()},
		}
		if !slices.Equal(got.Drops, drops) {
			t.Errorf("after %d s: drops %+v, want %+v", second, got.Drops, drops)
		}
	}
	if got := l.since(at(1000)); got != nil {
		t.Errorf("when all samples are old: %+v", got)
	}
}
