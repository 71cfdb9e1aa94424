package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"example.com/culvert/alg/registry"
	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/journal"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/host"
	"example.com/culvert/dataplane/port"
)

// source is a gateway with one of everything.
type source struct{}

func (source) Status() api.Status {
	return api.Status{Version: "v1", Ready: true, Generation: 2, Flows: 3, FlowLimit: 100, Forwarded: 7,
		Recalled: &api.Recalled{RestoreResult: api.RestoreResult{Flows: 61, Torn: 62}},
		Ports:    []api.PortUse{{Address: "203.0.113.1", Zone: 5, Protocol: "tcp", Used: 60, Kept: 2, Total: 100, FullIn: 39}},
		Interfaces: []api.Interface{
			{Name: "eth0", Netns: "blue", State: api.StateUp, Uplink: &api.Uplink{State: api.StateUp, Changes: 8}, Counters: api.Traffic{RxPackets: 9}},
			{Name: "eth1", State: api.StateAbsent},
		}}
}
func (source) RuleCounters() []api.RuleCounter {
	return []api.RuleCounter{{Name: "web", Packets: 6, Bytes: 600}}
}

func (source) Exports() []api.Export {
	return []api.Export{
		{Kind: api.ExportFlowLog, Working: true, Written: 53, Lost: 54}, {Kind: api.ExportFlowLog, Written: 2, Lost: 1},
		{Kind: api.ExportIPFIX, Working: true, Written: 56, Lost: 57},
	}
}

func (source) LogSuppressed() uint64                              { return 58 }
func (source) LogLost() uint64                                    { return 37 }
func (source) ControlRefused() (connections, unauthorized uint64) { return 59, 60 }

func (source) RuleLinesLost() uint64 { return 7 }

func (source) PortRequests() PortRequests {
	return PortRequests{Mappings: 29, Results: map[string]uint64{"success": 30}}
}

func (source) Upgrades() (done, rolledBack uint64, pause time.Duration) {
	return 1, 2, time.Millisecond
}
func (source) Census() (c conntrack.Census) { return c }

func (source) Workers() []dataplane.WorkerStats {
	h := dataplane.Histogram{Bounds: []float64{1, 64}, Counts: []uint64{41, 42}, Count: 43, Sum: 44}
	return []dataplane.WorkerStats{
		{Received: 31, Stats: port.Stats{RxBytes: 32, RxRingDrops: 33}, Forwarded: 34, Bytes: 35, Busy: 1500 * time.Millisecond, Stalls: 36, BatchSize: h, BatchTime: h},
		{Received: 36},
	}
}

func (source) Steering() dataplane.Steering {
	return dataplane.Steering{Working: 2, Changes: 68, Failed: 69}
}

func (source) Journal() journal.Stats {
	return journal.Stats{Recording: true, Readers: 61, Events: conntrack.Counts{62}, Memory: 63, Disk: 64, Missed: 65, Unwritten: 66, Corrupt: 67}
}
func (source) Queues() []dataplane.QueueLoad {
	return []dataplane.QueueLoad{{Name: dataplane.QueueNeighbour, Length: 37, Room: 38}}
}

func (source) Rules() []api.Rule {
	return []api.Rule{{List: "snat", Name: "home", Hits: 4, Bytes: 240}, {List: "dnat", ID: 0xbeef, Hits: 5}}
}
func (source) Counters() []api.Counter { return []api.Counter{{Reason: "no-route", Count: 6}} }
func (source) Tracking() Tracking {
	return Tracking{
		Stats:        conntrack.Stats{Found: 46, Drop: 47, Insert: 10, Expired: 11, EarlyDrop: 12, ClientFull: 13, InsertFailed: 20, ClashResolve: 14},
		Expect:       conntrack.ExpectStats{Create: 16, New: 17, Delete: 18},
		Expectations: 19,
		Helpers: dataplane.HelperStats{Flows: 23, Memory: 24, Edited: 25, Panicked: 26, Unlogged: 32,
			Each: []dataplane.HelperCount{{Name: "sip", Unread: 29, Announced: 27, Refused: 28}}},
		Alarms:     [...]uint64{3, 2, 1},
		EventsLost: map[string]uint64{"DESTROY": 45},
		Ended:      [...]uint64{conntrack.AddressLost: 21, conntrack.RulesChanged: 22},
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
	for name, f := range gather(t) {
		if f.GetHelp() == "" {
			t.Errorf("%s: want a help text", name)
		}
		if strings.HasPrefix(name, "node_nf_conntrack_") {
			if f.GetType() != dto.MetricType_GAUGE {
				t.Errorf("%s is a %v: node_exporter has gauges alone of this prefix", name, f.GetType())
			}
			continue
		}
		if counter := f.GetType() == dto.MetricType_COUNTER; counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %v: counters, and only they, end in _total", name, f.GetType())
		}
		if !strings.HasPrefix(name, "culvert_") {
			t.Errorf("%s: want the prefix culvert_", name)
		}
	}
}

// closedSets has the values of each label, by metric where it differs: what is fixed,
// and what the configuration of source names.
func closedSets() map[string][]string {
	sets := map[string][]string{
		"version":   {source{}.Status().Version},
		"interface": {"blue/eth0"},
		"list":      {"pre", "dnat", "filter", "snat"},
		"rule":      {"home", "0000beef"},
		"counter":   {"web"},
		"helper":    registry.New().Names(),
		"address":   {"203.0.113.1", otherAddresses},
		"zone":      {"5"},
		"result":    {"success"},
		"outcome":   {"done", "rolled-back"},
		"worker":    {"0", "1"},
		"queue": {string(dataplane.QueueNeighbour), string(dataplane.QueueEnding), string(dataplane.QueueRefusal),
			string(dataplane.QueueAnnouncement), string(dataplane.QueuePortBlock), string(dataplane.QueueNotice), string(dataplane.QueueFragment), "event",
			string(host.RingLink), string(host.RingQuestion), string(host.RingIn), string(host.RingOut)},
		"protocol":                                 {"tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "gre", "udplite", conntrack.OtherProto},
		"culvert_recalled result":                  {"flows", "expectations", "ports", "expired", "taken", "full", "torn"},
		"culvert_flows_ended_total cause":          {"expired", "deleted", "early-drop", "replaced"},
		"culvert_flows_refused_total cause":        {"table-full", "client-share", "chain-full"},
		"culvert_exported_records_total kind":      exportKinds[:],
		"culvert_export_lost_total kind":           exportKinds[:],
		"culvert_exports_failing kind":             exportKinds[:],
		"culvert_flow_clashes_total kind":          {"same-flow", "other-flow"},
		"culvert_expectation_events_total event":   {"created", "met", "ended"},
		"culvert_helper_events_total event":        {"edited", "left", "late", "overflow", "panicked", "broken", "starved"},
		"culvert_helper_announcements_total event": {"granted", "refused"},
	}
	sets["place"] = places[:]
	for k := range conntrack.NumKinds {
		sets["culvert_journal_events_total kind"] = append(sets["culvert_journal_events_total kind"], k.String())
	}
	for _, r := range dataplane.Reasons() {
		sets["reason"] = append(sets["reason"], r.String())
	}
	for why := conntrack.Unspecified + 1; int(why) < conntrack.NumCauses; why++ {
		sets["culvert_flows_ended_total cause"] = append(sets["culvert_flows_ended_total cause"], why.String())
	}
	for _, percent := range AlarmPercents {
		sets["percent"] = append(sets["percent"], strconv.Itoa(percent))
	}
	for _, typ := range conntrack.EventTypes() {
		sets["culvert_events_lost_total event"] = append(sets["culvert_events_lost_total event"], typ.String())
	}
	(&conntrack.Census{}).Each(func(_, state string, _ int) { sets["state"] = append(sets["state"], state) })
	return sets
}

func TestLabelsAreClosedSets(t *testing.T) {
	sets := closedSets()
	used := map[string]bool{}
	for name, f := range gather(t) {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				key := name + " " + l.GetName()
				if sets[key] == nil {
					key = l.GetName()
				}
				used[key] = true
				if !slices.Contains(sets[key], l.GetValue()) {
					t.Errorf("%s{%s=%q}: want one of %q", name, l.GetName(), l.GetValue(), sets[key])
				}
			}
		}
	}
	for key := range sets {
		if !used[key] {
			t.Errorf("no metric has a label %s", key)
		}
	}
}

// oddNames is a gateway whose pattern took interfaces with names that the kernel takes
// and that are no UTF-8.
type oddNames struct{ source }

func (oddNames) Status() api.Status {
	return api.Status{Interfaces: []api.Interface{
		{Name: "veth\xff", State: api.StateUp, Counters: api.Traffic{RxPackets: 1}},
		{Name: "veth\xfe", State: api.StateUp, Counters: api.Traffic{RxPackets: 2}},
		{Name: "weiß", State: api.StateUp, Counters: api.Traffic{RxPackets: 3}},
	}}
}

// The client library panics when a label is no UTF-8, and then there are no metrics at all.
func TestNamesOfInterfacesNeedNotBeUTF8(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(oddNames{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "culvert_interface_received_packets_total" {
			for _, m := range f.GetMetric() {
				got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if want := map[string]float64{`veth\xff`: 1, `veth\xfe`: 2, "weiß": 3}; !maps.Equal(got, want) {
		t.Errorf("frames by interface: %v, want %v", got, want)
	}
}

func TestManyAddressesAreCountedTogether(t *testing.T) {
	var all []api.PortUse
	for i := range addressesShown + 10 {
		all = append(all, api.PortUse{Address: fmt.Sprintf("203.0.113.%d", i/2), Protocol: []string{"tcp", "udp"}[i%2], Used: 3, Kept: 1, Total: 10})
	}
	got := foldPorts(all)
	if len(got) != addressesShown+2 || !slices.Equal(got[:addressesShown], all[:addressesShown]) {
		t.Fatalf("%d of %d addresses are told, want the first %d as they are, and one more of each protocol", len(got), len(all), addressesShown)
	}
	for i, protocol := range []string{"tcp", "udp"} {
		if want := (api.PortUse{Address: otherAddresses, Protocol: protocol, Used: 15, Kept: 5, Total: 50}); got[addressesShown+i] != want {
			t.Errorf("the rest of %s: %+v, want %+v", protocol, got[addressesShown+i], want)
		}
	}
	if got := foldPorts(all[:addressesShown]); len(got) != addressesShown {
		t.Errorf("of %d addresses %d are told", addressesShown, len(got))
	}
}

// slow counts how often the flows are counted.
type slow struct {
	source
	censuses *int
}

func (s slow) Census() conntrack.Census { *s.censuses++; return conntrack.Census{} }

func TestFrequentScrapesDoNotCountTheFlowsEachTime(t *testing.T) {
	n := 0
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(slow{censuses: &n}))
	began := time.Now()
	for range 10 {
		if _, err := registry.Gather(); err != nil {
			t.Fatal(err)
		}
	}
	if most := 1 + int(time.Since(began)/censusAge); n < 1 || n > most {
		t.Errorf("10 scrapes counted the flows %d times, want %d at most", n, most)
	}
}

func TestValues(t *testing.T) {
	all := gather(t)
	for _, tt := range []struct {
		name, label string
		want        float64
	}{
		{"culvert_ready", "", 1},
		{"culvert_exported_records_total", "flowlog", 55},
		{"culvert_export_lost_total", "ipfix", 57},
		{"culvert_exports_failing", "flowlog", 1},
		{"culvert_exports_failing", "ipfix", 0},
		{"culvert_log_suppressed_total", "", 58},
		{"culvert_log_lost_total", "", 37},
		{"culvert_control_refused_connections_total", "", 59},
		{"culvert_control_unauthorized_requests_total", "", 60},
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
		{"culvert_flow_states", "HEARTBEAT_SENT", 0},
		{"culvert_events_lost_total", "DESTROY", 45},
		{"culvert_worker_received_packets_total", "0", 31},
		{"culvert_worker_received_bytes_total", "0", 32},
		{"culvert_worker_receive_ring_dropped_total", "0", 33},
		{"culvert_worker_stalls_total", "0", 36},
		{"culvert_worker_forwarded_packets_total", "0", 34},
		{"culvert_worker_forwarded_bytes_total", "0", 35},
		{"culvert_worker_received_packets_total", "1", 36},
		{"culvert_worker_busy_seconds_total", "0", 1.5},
		{"culvert_workers_working", "", 2},
		{"culvert_steering_changes_total", "", 68},
		{"culvert_steering_failed_total", "", 69},
		{"culvert_journal_readers", "", 61},
		{"culvert_journal_events_total", "new", 62},
		{"culvert_journal_bytes", "memory", 63},
		{"culvert_journal_bytes", "disk", 64},
		{"culvert_journal_missed_total", "", 65},
		{"culvert_journal_unwritten_total", "", 66},
		{"culvert_journal_unreadable_bytes_total", "", 67},
		{"culvert_queue_length", "neighbour", 37},
		{"culvert_queue_limit", "neighbour", 38},
		{"culvert_nat_ports_used", "203.0.113.1", 62},
		{"culvert_nat_ports_free", "203.0.113.1", 38},
		{"culvert_nat_ports_exhaustion_seconds", "203.0.113.1", 39},
		{"node_nf_conntrack_entries", "", 3},
		{"node_nf_conntrack_entries_limit", "", 100},
		{"node_nf_conntrack_stat_found", "", 46},
		{"node_nf_conntrack_stat_drop", "", 47},
		{"node_nf_conntrack_stat_early_drop", "", 12},
		{"node_nf_conntrack_stat_insert", "", 10},
		{"node_nf_conntrack_stat_insert_failed", "", 20},
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
		{"culvert_rule_counted_packets_total", "web", 6},
		{"culvert_rule_counted_bytes_total", "web", 600},
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
	for _, name := range []string{"culvert_worker_batch_packets", "culvert_worker_batch_seconds"} {
		h := all[name].GetMetric()[0].GetHistogram()
		if b := h.GetBucket(); h.GetSampleCount() != 43 || h.GetSampleSum() != 44 || len(b) != 2 || b[1].GetUpperBound() != 64 || b[1].GetCumulativeCount() != 42 {
			t.Errorf("%s: %v", name, h)
		}
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
