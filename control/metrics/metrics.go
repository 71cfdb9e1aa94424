// Package metrics exports a gateway's counters to Prometheus.
//
// The collector reads snapshots when it is scraped and keeps nothing. Labels are
// closed sets: reasons, interfaces of the gateway, rules. Never addresses.
package metrics

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/culvert/control/api"
)

// Source is where the numbers come from. Its methods are safe for concurrent use.
type Source interface {
	Status() api.Status
	Rules() []api.Rule
	Counters() []api.Counter
	LostFlows() uint64
}

// Collector implements prometheus.Collector. It is safe for concurrent use.
type Collector struct {
	from Source
}

// NewCollector returns a collector over from.
func NewCollector(from Source) *Collector { return &Collector{from: from} }

var (
	info       = describe("culvert_build_info", "Always 1; the version is the label.", "version")
	ready      = describe("culvert_ready", "1 when every configured interface is served.")
	generation = describe("culvert_config_generation", "Generation of the state in force; grows with each reload and each change of the kernel that was followed.")
	flows      = describe("culvert_flows", "Tracked flows.")
	flowLimit  = describe("culvert_flows_limit", "Most flows that can be tracked; raise conntrack.max when culvert_flows nears it.")
	flowsLost  = describe("culvert_flows_ended_by_lost_address_total", "Flows ended because the gateway lost the address they were translated to.")
	forwarded  = describe("culvert_forwarded_packets_total", "Packets sent out of an interface.")
	dropped    = describe("culvert_dropped_packets_total", "Packets that did not leave, by reason; culvert counters says what to do about each.", "reason")
	ruleHits   = describe("culvert_rule_hits_total", "Packets that a rule matched.", "list", "rule")
	received   = describe("culvert_interface_received_packets_total", "Frames taken from an interface.", "interface")
	receivedB  = describe("culvert_interface_received_bytes_total", "Bytes taken from an interface.", "interface")
	sent       = describe("culvert_interface_transmitted_packets_total", "Frames sent out of an interface.", "interface")
	sentB      = describe("culvert_interface_transmitted_bytes_total", "Bytes sent out of an interface.", "interface")
	ringDrops  = describe("culvert_interface_receive_ring_dropped_total", "Frames the kernel dropped because the gateway was too slow to take them.", "interface")
	truncated  = describe("culvert_interface_receive_truncated_total", "Frames longer than the receive ring could hold.", "interface")
	refused    = describe("culvert_interface_transmit_refused_total", "Frames the kernel refused to send.", "interface")

	all = []*prometheus.Desc{info, ready, generation, flows, flowLimit, flowsLost, forwarded, dropped, ruleHits,
		received, receivedB, sent, sentB, ringDrops, truncated, refused}
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe sends what Collect may send.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range all {
		to <- d
	}
}

// Collect sends the present numbers.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	st := c.from.Status()
	gauge(info, 1, st.Version)
	gauge(ready, oneIf(st.Ready))
	gauge(generation, float64(st.Generation))
	gauge(flows, float64(st.Flows))
	gauge(flowLimit, float64(st.FlowLimit))
	count(flowsLost, c.from.LostFlows())
	count(forwarded, st.Forwarded)
	for _, d := range c.from.Counters() {
		count(dropped, d.Count, d.Reason)
	}
	for _, r := range c.from.Rules() {
		count(ruleHits, r.Hits, r.List, ruleName(r))
	}
	for _, i := range st.Interfaces {
		if i.State == api.StateAbsent {
			continue
		}
		name := i.Name
		if i.Netns != "" {
			name = i.Netns + "/" + i.Name
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

// ruleName is the rule's own name, or the id it keeps across reloads.
func ruleName(r api.Rule) string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("%08x", r.ID)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
