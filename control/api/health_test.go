package api

import (
	"slices"
	"testing"
	"time"
)

func TestStatusNamesTroubles(t *testing.T) {
	since := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		claim string
		st    Status
		want  []string
	}{
		{"none", Status{Flows: 79, FlowLimit: 100, Ports: []PortUse{{Used: 89, Total: 100, FullIn: 3600}},
			Interfaces: []Interface{{State: StateUp, Uplink: &Uplink{State: StateUp}}, {State: StateAbsent}},
			Load:       &Load{Busy: []float64{0.89}, Drops: []Counter{{Reason: "no-route", Count: 5}}}}, nil},
		{"what keeps it from being ready", Status{Waiting: []string{"interface eth9 is absent"}}, []string{"not ready: interface eth9 is absent"}},
		{"an interface that is down", Status{Interfaces: []Interface{{Name: "eth0", State: StateDown}}},
			[]string{"interface eth0 is down: set it up, or see to its cable"}},
		{"an uplink that is down", Status{Interfaces: []Interface{{Name: "dsl", State: StateUp, Uplink: &Uplink{State: StateDown, Since: since, Trouble: "no answer"}}}},
			[]string{"uplink dsl is down since 2026-05-01 12:00:00: no answer"}},
		{"a worker that hangs, or is not let run", Status{Still: []int{1}},
			[]string{"worker 1 stands still, and so do its packets: find out what keeps its thread from running (top -H shows it by this name), or restart the gateway"}},
		{"what is told to nobody", Status{Failing: []string{"flow log /var/log/flows"}},
			[]string{"flow log /var/log/flows takes nothing: see to its disk or server; what cannot wait is lost, and counted"}},
		{"a table that fills up", Status{Flows: 80, FlowLimit: 100},
			[]string{"the table of flows is 80 % full: raise conntrack.max, or find out what the largest holders do"}},
		{"ports that are nearly used up, or will be soon", Status{Ports: []PortUse{
			{Address: "203.0.113.1", Protocol: "tcp", Used: 90, Total: 100},
			{Address: "203.0.113.2", Protocol: "udp", Used: 10, Total: 100, FullIn: 600}}},
			[]string{"ports of 203.0.113.1 tcp 90 % used: widen ports or add an address",
				"ports of 203.0.113.2 udp 10 % used, at the present rate full in 10 min: widen ports or add an address"}},
		{"too much to do", Status{Load: &Load{Busy: []float64{0.1, 0.95}, RingLost: 7, Drops: []Counter{{Reason: "internal", Count: 2, Advice: "report it"}}}},
			[]string{"worker 1 is 95 % busy: give the gateway more workers, or a faster processor",
				"7 frames came faster than workers took them: more workers, or look for a flood in culvert top",
				"2 packets met a defect of the gateway: report it"}},
	} {
		if got := tt.st.FindTroubles(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.claim, got, tt.want)
		}
	}
}
