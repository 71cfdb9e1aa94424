// Package metrics exports a gateway's counters to Prometheus.
//
// The collector reads snapshots when it is scraped and keeps nothing but the last count
// of the flows by state. Labels are closed sets: reasons, states, interfaces, rules,
// helpers, workers. The only addresses are external ones of the gateway itself, at most
// addressesShown with their protocols; the others are together under "other".
//
// # Names of node_exporter
//
// The basics of connection tracking are also under the names that Prometheus'
// node_exporter gives those of the kernel, node_nf_conntrack_*, with its types: what
// is drawn or alerted from them works for a Culvert gateway as it is. They come with
// the labels of Culvert's own scrape, so a machine that runs both keeps them apart by
// job. Everything else is in culvert_*, and says more (node.go).
//
// # Files
//
// configs/grafana-dashboard.json and configs/prometheus-alerts.yml are held against
// this package by tests: each metric and label that they name is exported.
package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/journal"
	"example.com/culvert/dataplane"
)

// Source is where the numbers come from. Its methods are safe for concurrent use.
type Source interface {
	Status() api.Status
	Rules() []api.Rule
	RuleCounters() []api.RuleCounter
	RuleLinesLost() uint64 // that were beyond their rate or found no place
	Counters() []api.Counter
	Tracking() Tracking
	PortRequests() PortRequests
	Exports() []api.Export
	LogSuppressed() uint64 // lines of the own log
	LogLost() uint64       // lines of it that nobody has read in time
	ControlRefused() (connections, unauthorized uint64)
	Census() conntrack.Census
	Workers() []dataplane.WorkerStats
	Steering() dataplane.Steering
	Queues() []dataplane.QueueLoad
	Journal() journal.Stats
	Upgrades() (done, rolledBack uint64, pause time.Duration)
}

// PortRequests are the requests of hosts for ports.
type PortRequests struct {
	Mappings int
	Results  map[string]uint64 // what became of them; nil: nobody may ask
}

// AlarmPercents are the fills of the connection table that raise an alarm, in
// percent of its limit.
var AlarmPercents = [...]int{80, 90, 95}

// Tracking are the counters of the connection table.
type Tracking struct {
	Stats        conntrack.Stats
	Expect       conntrack.ExpectStats
	Expectations int
	Ended        [conntrack.NumCauses]uint64 // with notice, by cause
	Alarms       [len(AlarmPercents)]uint64  // by position in AlarmPercents
	EventsLost   map[string]uint64           // by type; found no room in a worker's ring
	Helpers      dataplane.HelperStats
	Unanswered   uint64 // ICMP errors and resets beyond icmp_rate
	BlocksLost   uint64 // blocks of ports that were not logged
}

// Collector implements prometheus.Collector. It is safe for concurrent use.
type Collector struct {
	from Source

	mu      sync.Mutex // guards census and counted
	census  conntrack.Census
	counted time.Time // when census was taken
}

// NewCollector returns a collector over from.
func NewCollector(from Source) *Collector { return &Collector{from: from} }

// censusAge is how old a count of the flows by state may be: whoever scrapes more
// often does not make the gateway count more often.
const censusAge = time.Second

// latestCensus returns a count of the flows by state.
func (c *Collector) latestCensus() conntrack.Census {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.counted) >= censusAge {
		c.census, c.counted = c.from.Census(), now
	}
	return c.census
}

var (
	info       = describe("culvert_build_info", "Always 1; the version is the label.", "version")
	ready      = describe("culvert_ready", "1 when every configured interface is served.")
	generation = describe("culvert_config_generation", "Generation of the state in force; grows with each reload and each change of the kernel that was followed.")
	upgrades   = describe("culvert_upgrades_total", "Upgrades by outcome: done, that have led to this process, and rolled-back in it; the log says why.", "outcome")
	upgradeGap = describe("culvert_upgrade_pause_seconds", "For how long packets waited in the kernel during the last upgrade; absent before the first one.")
	recalled   = describe("culvert_recalled", "What of the flows that the process before this one left in conntrack.state is there again, by kind: flows, expectations, ports; and what is not: expired, taken by others, full, torn. Without conntrack.state nothing.", "result")
	flows      = describe("culvert_flows", "Tracked flows.")
	flowStates = describe("culvert_flow_states", "Confirmed flows by protocol and state; protocols without states are UNREPLIED, REPLIED or ASSURED. Counted at most once a second.", "protocol", "state")
	flowLimit  = describe("culvert_flows_limit", "Most flows that can be tracked; raise conntrack.max when culvert_flows nears it.")
	begun      = describe("culvert_flows_begun_total", "Flows whose first packet left.")
	ended      = describe("culvert_flows_ended_total", "Flows that ended, by cause: expired in time, deleted by command, early-drop to make room for others, replaced by a new connection on the same ports; and with notice to their inside hosts address-lost, uplink-down, interface-gone and rules-changed. Raise conntrack.max when early-drop grows.", "cause")
	refusedNew = describe("culvert_flows_refused_total", "Flows that found no room, by cause: table-full, client-share or chain-full; culvert counters says what to do about each.", "cause")
	clashes    = describe("culvert_flow_clashes_total", "New flows that found their addresses and ports taken, by kind: same-flow, two first packets raced and both went on; other-flow, another port was tried.", "kind")
	alarms     = describe("culvert_flows_alarms_total", "How often the table filled up to a percentage of its limit; the log names the largest holders.", "percent")
	expects    = describe("culvert_expectations", "Flows that were announced and have not begun.")
	expectEv   = describe("culvert_expectation_events_total", "Expectations created, met by a flow, and ended, met or not.", "event")
	eventsLost = describe("culvert_events_lost_total", "Events of flows that found no room in the ring of a worker, by type: whoever reads events is told exactly how many he missed. If it grows, events come faster than they can be put in order; subscribe to fewer types.", "event")
	helped     = describe("culvert_helper_flows", "Flows that a helper reads or has changed.")
	helpedMem  = describe("culvert_helper_memory_bytes", "Memory that helpers keep for flows.")
	helperEv   = describe("culvert_helper_events_total", "What helpers did: edited a payload, left their flow, found an edit too late or a message too long (overflow); and panicked, broken, starved: flows that lost their helper by a defect or for want of memory. The last three should stay zero.", "event")
	unread     = describe("culvert_helper_unread_total", "Messages that a helper could not read and passed as they were. If it grows, something else talks on the port that a rule gives the helper to.", "helper")
	announces  = describe("culvert_helper_announcements_total", "Flows that payloads announced, by event: granted, or refused, because they may not (an attack, or a rule or [helpers] must allow it); culvert counters --helpers says whose was refused last.", "event", "helper")
	unlogged   = describe("culvert_helper_announcements_unlogged_total", "Announcements that were not logged, because there were too many in a second; raise log_per_second in [helpers] to see more.")
	unanswered = describe("culvert_answers_suppressed_total", "ICMP errors and resets that the gateway did not send; raise icmp_rate in [gateway], or find out who asks for so many.")
	blocksLost = describe("culvert_port_blocks_unlogged_total", "Blocks of ports that were given or returned and not logged, because the log is too slow.")
	forwarded  = describe("culvert_forwarded_packets_total", "Packets sent out of an interface.")
	dropped    = describe("culvert_dropped_packets_total", "Packets that did not leave, by reason; culvert counters says what to do about each.", "reason")
	ruleHits   = describe("culvert_rule_hits_total", "Packets that a rule matched.", "list", "rule")
	uplinkUp   = describe("culvert_uplink_up", "1 while the check of an interface finds its router to work.", "interface")
	uplinkMove = describe("culvert_uplink_changes_total", "How often the check of an interface changed its mind; if that is often, raise down_after and up_after or choose another target.", "interface")
	ruleBytes  = describe("culvert_rule_hit_bytes_total", "Bytes of the packets that a rule matched.", "list", "rule")
	counted    = describe("culvert_rule_counted_packets_total", "Packets on a counter that rules name.", "counter")
	countedB   = describe("culvert_rule_counted_bytes_total", "Bytes of packets on a counter that rules name.", "counter")
	linesLost  = describe("culvert_rule_log_lost_total", "Lines of rules with a log that were beyond their rate or found no place; raise log_rate to see more.")
	received   = describe("culvert_interface_received_packets_total", "Frames taken from an interface.", "interface")
	receivedB  = describe("culvert_interface_received_bytes_total", "Bytes taken from an interface.", "interface")
	sent       = describe("culvert_interface_transmitted_packets_total", "Frames sent out of an interface.", "interface")
	sentB      = describe("culvert_interface_transmitted_bytes_total", "Bytes sent out of an interface.", "interface")
	ringDrops  = describe("culvert_interface_receive_ring_dropped_total", "Frames the kernel dropped because the gateway was too slow to take them.", "interface")
	truncated  = describe("culvert_interface_receive_truncated_total", "Frames longer than the receive ring could hold.", "interface")
	refused    = describe("culvert_interface_transmit_refused_total", "Frames the kernel refused to send.", "interface")

	portsUsed = describe("culvert_nat_ports_used", "Ports of an external address that flows use or that are kept for who had them; sampled every ten seconds.", "address", "zone", "protocol")
	portsFree = describe("culvert_nat_ports_free", "Ports of an external address that are left; widen ports or add an address when it nears 0.", "address", "zone", "protocol")

	portsFull = describe("culvert_nat_ports_exhaustion_seconds", "When the ports of an external address will be used up if use grows as in the last minutes; absent while it does not grow, or for more than a day.", "address", "zone", "protocol")

	requestedNow = describe("culvert_nat_ports_requested", "External ports that hosts have at their request ([pcp]).")
	requests     = describe("culvert_nat_port_requests_total", "Requests of hosts for external ports, by result; for quota raise max_per_client in [pcp] or the quota of the rule.", "result")
)

// all are the metrics that Collect may send.
var all []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(name, help, labels, nil)
	all = append(all, d)
	return d
}

// Describe sends what Collect may send.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range all {
		to <- d
	}
}

// gauger and counter send a number.
type (
	gauger  func(d *prometheus.Desc, v float64, labels ...string)
	counter func(d *prometheus.Desc, v uint64, labels ...string)
)

// Collect sends the present numbers.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, printable(labels)...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), printable(labels)...)
	}
	st := c.from.Status()
	gauge(info, 1, st.Version)
	gauge(ready, oneIf(st.Ready))
	gauge(generation, float64(st.Generation))
	done, rolledBack, pause := c.from.Upgrades()
	count(upgrades, done, "done")
	count(upgrades, rolledBack, "rolled-back")
	if done > 0 {
		gauge(upgradeGap, pause.Seconds())
	}
	if r := st.Recalled; r != nil {
		for result, n := range map[string]int{"flows": r.Flows, "expectations": r.Expectations, "ports": r.Ports,
			"expired": r.Expired, "taken": r.Taken, "full": r.Full, "torn": r.Torn} {
			gauge(recalled, float64(n), result)
		}
	}
	gauge(flows, float64(st.Flows))
	gauge(flowLimit, float64(st.FlowLimit))
	t := c.from.Tracking()
	t.collect(gauge, count)
	count(unanswered, t.Unanswered)
	count(blocksLost, t.BlocksLost)
	collectNode(&st, &t.Stats, gauge)
	census := c.latestCensus()
	census.Each(func(proto, state string, n int) { gauge(flowStates, float64(n), proto, state) })
	events := c.from.Journal()
	collectJournal(&events, gauge, count)
	collectWorkers(c.from.Workers(), c.from.Queues(), gauge, count, to)
	collectSteering(c.from.Steering(), gauge, count)
	for _, p := range foldPorts(st.Ports) {
		zone := strconv.Itoa(int(p.Zone))
		gauge(portsUsed, float64(p.Used+p.Kept), p.Address, zone, p.Protocol)
		gauge(portsFree, float64(max(p.Total-p.Used-p.Kept, 0)), p.Address, zone, p.Protocol)
		if p.FullIn > 0 {
			gauge(portsFull, p.FullIn, p.Address, zone, p.Protocol)
		}
	}
	if r := c.from.PortRequests(); r.Results != nil {
		gauge(requestedNow, float64(r.Mappings))
		for result, n := range r.Results {
			count(requests, n, result)
		}
	}
	count(forwarded, st.Forwarded)
	for _, d := range c.from.Counters() {
		count(dropped, d.Count, d.Reason)
	}
	for _, r := range c.from.Rules() {
		count(ruleHits, r.Hits, r.List, ruleName(r))
		count(ruleBytes, r.Bytes, r.List, ruleName(r))
	}
	for _, r := range c.from.RuleCounters() {
		count(counted, r.Packets, r.Name)
		count(countedB, r.Bytes, r.Name)
	}
	collectExports(c.from.Exports(), gauge, count)
	count(heldBack, c.from.LogSuppressed())
	count(logLost, c.from.LogLost())
	connections, unauthorized := c.from.ControlRefused()
	count(apiRefused, connections)
	count(apiUnknown, unauthorized)
	count(linesLost, c.from.RuleLinesLost())
	for _, i := range st.Interfaces {
		if i.State == api.StateAbsent {
			continue
		}
		name := i.Name
		if i.Netns != "" {
			name = i.Netns + "/" + i.Name
		}
		if i.Uplink != nil {
			gauge(uplinkUp, oneIf(i.Uplink.State == api.StateUp), name)
			count(uplinkMove, i.Uplink.Changes, name)
		}
		count(received, i.Counters.RxPackets, name)
		count(receivedB, i.Counters.RxBytes, name)
		count(sent, i.Counters.TxPackets, name)
		count(sentB, i.Counters.TxBytes, name)
		count(ringDrops, i.Counters.RxRingDropped, name)
		count(truncated, i.Counters.RxTruncated, name)
		count(refused, i.Counters.TxRefused, name)
	}
}

func (t *Tracking) collect(gauge gauger, count counter) {
	s := &t.Stats
	count(begun, s.Insert)
	count(ended, s.Expired, "expired")
	count(ended, s.Deleted, "deleted")
	count(ended, s.EarlyDrop, "early-drop")
	count(ended, s.Restart, "replaced")
	for why := conntrack.Unspecified + 1; int(why) < conntrack.NumCauses; why++ {
		count(ended, t.Ended[why], why.String())
	}
	count(refusedNew, s.TableFull, "table-full")
	count(refusedNew, s.ClientFull, "client-share")
	count(refusedNew, s.ChainTooLong, "chain-full")
	count(clashes, s.ClashResolve, "same-flow")
	count(clashes, s.InsertFailed-min(s.ClashResolve, s.InsertFailed), "other-flow")
	for i, percent := range AlarmPercents {
		count(alarms, t.Alarms[i], strconv.Itoa(percent))
	}
	gauge(expects, float64(t.Expectations))
	count(expectEv, t.Expect.Create, "created")
	count(expectEv, t.Expect.New, "met")
	count(expectEv, t.Expect.Delete, "ended")
	for event, n := range t.EventsLost {
		count(eventsLost, n, event)
	}
	h := &t.Helpers
	gauge(helped, float64(h.Flows))
	gauge(helpedMem, float64(h.Memory))
	count(helperEv, h.Edited, "edited")
	count(helperEv, h.Left, "left")
	count(helperEv, h.Late, "late")
	count(helperEv, h.Overflows, "overflow")
	count(helperEv, h.Panicked, "panicked")
	count(helperEv, h.Broken, "broken")
	count(helperEv, h.Starved, "starved")
	for i := range h.Each {
		c := &h.Each[i]
		count(unread, c.Unread, c.Name)
		count(announces, c.Announced, "granted", c.Name)
		count(announces, c.Refused, "refused", c.Name)
	}
	count(unlogged, h.Unlogged)
}

// addressesShown is how many external addresses, by protocol, have metrics of their own.
const addressesShown = 256

// otherAddresses is the label of the rest of them.
const otherAddresses = "other"

// foldPorts puts all but the fullest addresses together, by protocol.
func foldPorts(all []api.PortUse) []api.PortUse {
	if len(all) <= addressesShown {
		return all
	}
	shown := slices.Clone(all[:addressesShown])
	rest := map[string]*api.PortUse{}
	for _, p := range all[addressesShown:] {
		r := rest[p.Protocol]
		if r == nil {
			r = &api.PortUse{Address: otherAddresses, Protocol: p.Protocol}
			rest[p.Protocol] = r
		}
		r.Used, r.Kept, r.Total = r.Used+p.Used, r.Kept+p.Kept, r.Total+p.Total
	}
	for _, protocol := range slices.Sorted(maps.Keys(rest)) {
		shown = append(shown, *rest[protocol])
	}
	return shown
}

// ruleName is the rule's own name, or the id it keeps across reloads.
func ruleName(r api.Rule) string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("%08x", r.ID)
}

// printable writes labels that are no UTF-8 with escapes, in place: the kernel takes
// names of interfaces of almost any bytes, Prometheus does not.
func printable(labels []string) []string {
	for i, l := range labels {
		if !utf8.ValidString(l) {
			quoted := strconv.QuoteToASCII(l)
			labels[i] = quoted[1 : len(quoted)-1]
		}
	}
	return labels
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
