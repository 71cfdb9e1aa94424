package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
)

// source is a gateway with one of everything.
type source struct{}

func (source) Status() api.Status {
	return api.Status{Version: "v1", Ready: true, Generation: 2, Flows: 3, FlowLimit: 100, Forwarded: 7,
		Interfaces: []api.Interface{
			{Name: "eth0", Netns: "blue", State: api.StateUp, Uplink: &api.Uplink{State: api.StateUp, Changes: 8}, Counters: api.Traffic{RxPackets: 9}},
			{Name: "eth1", State: api.StateAbsent},
		}}
}
func (source) RuleCounters() []api.RuleCounter {
	return []api.RuleCounter{{Name: "web", Packets: 6, Bytes: 600}}
}

func (source) RuleLinesLost() uint64 { return 7 }

func (source) PortRequests() PortRequests {
	return PortRequests{Mappings: 29, Results: map[string]uint64{"success": 30}}
}

func (source) Rules() []api.Rule {
	return []api.Rule{{List: "snat", Name: "home", Hits: 4, Bytes: 240}, {List: "dnat", ID: 0xbeef, Hits: 5}}
}
func (source) Counters() []api.Counter { return []api.Counter{{Reason: "no-route", Count: 6}} }
func (source) Tracking() Tracking {
	return Tracking{
		Stats:        conntrack.Stats{Insert: 10, Expired: 11, EarlyDrop: 12, ClientFull: 13, InsertFailed: 20, ClashResolve: 14},
		Expect:       conntrack.ExpectStats{Create: 16, New: 17, Delete: 18},
		Expectations: 19,
		Helpers: dataplane.HelperStats{Flows: 23, Memory: 24, Edited: 25, Panicked: 26, Unlogged: 32,
			Each: []dataplane.HelperCount{{Name: "sip", Unread: 29, Announced: 27, Refused: 28}}},
		Alarms: [...]uint64{3, 2, 1},
		Ended:  [...]uint64{conntrack.AddressLost: 21, conntrack.RulesChanged: 22},
	}
}

func gather(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry() // holds Collect against Describe
	registry.MustRegister(NewCollector(source{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

func TestNamesFollowTheConventions(t *testing.T) {
	labels := map[string]bool{"version": true, "reason": true, "list": true, "rule": true, "interface": true,
		"cause": true, "kind": true, "percent": true, "event": true, "counter": true, "helper": true, "result": true}
	for name, f := range gather(t) {
		counter := f.GetType() == dto.MetricType_COUNTER
		if counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %v: counters, and only they, end in _total", name, f.GetType())
		}
		if !strings.HasPrefix(name, "culvert_") || f.GetHelp() == "" {
			t.Errorf("%s: want the prefix culvert_ and a help text", name)
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !labels[l.GetName()] {
					t.Errorf("%s has label %s, which is in no closed set", name, l.GetName())
				}
			}
		}
	}
}

func TestValues(t *testing.T) {
	all := gather(t)
	for _, tt := range []struct {
		name, label string
		want        float64
	}{
		{"culvert_ready", "", 1},
		{"culvert_flows", "", 3},
		{"culvert_flows_begun_total", "", 10},
		{"culvert_flows_ended_total", "expired", 11},
		{"culvert_flows_ended_total", "early-drop", 12},
		{"culvert_flows_ended_total", "address-lost", 21},
		{"culvert_flows_ended_total", "rules-changed", 22},
		{"culvert_flows_refused_total", "client-share", 13},
		{"culvert_flow_clashes_total", "same-flow", 14},
		{"culvert_flow_clashes_total", "other-flow", 6},
		{"culvert_flows_alarms_total", "80", 3},
		{"culvert_flows_alarms_total", "95", 1},
		{"culvert_expectations", "", 19},
		{"culvert_expectation_events_total", "created", 16},
		{"culvert_expectation_events_total", "met", 17},
		{"culvert_expectation_events_total", "ended", 18},
		{"culvert_helper_flows", "", 23},
		{"culvert_helper_memory_bytes", "", 24},
		{"culvert_helper_events_total", "edited", 25},
		{"culvert_helper_events_total", "panicked", 26},
		{"culvert_helper_unread_total", "sip", 29},
		{"culvert_helper_announcements_total", "granted", 27},
		{"culvert_helper_announcements_total", "refused", 28},
		{"culvert_forwarded_packets_total", "", 7},
		{"culvert_dropped_packets_total", "no-route", 6},
		{"culvert_rule_hits_total", "home", 4},
		{"culvert_rule_hit_bytes_total", "home", 240},
		{"culvert_rule_counter_packets_total", "web", 6},
		{"culvert_rule_counter_bytes_total", "web", 600},
		{"culvert_rule_log_lost_total", "", 7},
		{"culvert_rule_hits_total", "0000beef", 5},
		{"culvert_interface_received_packets_total", "blue/eth0", 9},
		{"culvert_uplink_up", "blue/eth0", 1},
		{"culvert_uplink_changes_total", "blue/eth0", 8},
	} {
		if got, ok := value(all[tt.name], tt.label); !ok || got != tt.want {
			t.Errorf("%s{%s} = %v, %v; want %v", tt.name, tt.label, got, ok, tt.want)
		}
	}
	if _, ok := value(all["culvert_interface_received_packets_total"], "eth1"); ok {
		t.Error("an absent interface is exported")
	}
}

// value returns the metric of f that has label among its label values.
func value(f *dto.MetricFamily, label string) (float64, bool) {
	for _, m := range f.GetMetric() {
		found := label == ""
		for _, l := range m.GetLabel() {
			found = found || l.GetValue() == label
		}
		if found {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue(), true
		}
	}
	return 0, false
}
