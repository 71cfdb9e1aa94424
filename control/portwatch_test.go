package control

import (
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
)

func TestPortsAreForecastFromTheLastMinutes(t *testing.T) {
	use := func(used int) []dataplane.PortUse {
		return []dataplane.PortUse{{Addr: tuple.AddrFrom(netip.MustParseAddr("203.0.113.1")), Proto: tuple.TCP, Used: used, Total: 64512}}
	}
	for _, tt := range []struct {
		claim string
		used  func(i int) int // in sample i, ten seconds after the one before it
		n     int
		want  string
	}{
		{"one sample says nothing", func(int) int { return 32256 }, 1, "203.0.113.1 tcp 50 % used"},
		{"steady use says nothing", func(int) int { return 32256 }, 40, "203.0.113.1 tcp 50 % used"},
		{"falling use says nothing", func(i int) int { return 50000 - i*10 }, 40, "203.0.113.1 tcp 76 % used"},
		{"ten a second fill 14,112 in 24 minutes", func(i int) int { return 46500 + i*100 }, 40, "203.0.113.1 tcp 78 % used, at the present rate full in 24 min"},
		{"only the last five minutes count", func(i int) int { return max(100*i, 100*100) }, 100, "203.0.113.1 tcp 15 % used"},
		{"a day ahead says nothing", func(i int) int { return i }, 40, "203.0.113.1 tcp 0 % used"},
		{"hours", func(i int) int { return 10 * i }, 40, "203.0.113.1 tcp 0 % used, at the present rate full in 17.8 h"},
		{"the last minute", func(i int) int { return 64000 + i*10 }, 40, "203.0.113.1 tcp 99 % used, at the present rate full in 2 min"},
	} {
		var w portWatch
		now := time.Now()
		for i := range tt.n {
			w.sample(now.Add(time.Duration(i)*portInterval), use(tt.used(i)))
		}
		if got, _ := w.report(); len(got) != 1 || got[0].String() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.claim, got, tt.want)
		}
	}
}

func TestLastRefusalsAreKeptByKind(t *testing.T) {
	var w portWatch
	for i := range 30 {
		w.refused(api.Refusal{Reason: []string{"ports-exhausted", "port-quota"}[i%2], Address: "203.0.113.1", Protocol: "tcp", Packets: uint64(i)})
	}
	_, got := w.report()
	if len(got) != 2 || got[0].Packets != 29 || got[1].Packets != 28 {
		t.Errorf("kept %+v, want the last of each reason", got)
	}
	for i := range 30 {
		w.refused(api.Refusal{Reason: "ports-exhausted", Address: "203.0.113.1", Protocol: "udp", Zone: uint16(i)})
	}
	if _, got := w.report(); len(got) != refusalsKept || got[0].Zone != 29 {
		t.Errorf("kept %d, want the last %d", len(got), refusalsKept)
	}
}
