package api

import (
	"fmt"
	"time"
)

// Status is the health of a gateway.
type Status struct {
	Name       string      `json:"name"`
	Version    string      `json:"version"`
	PID        int         `json:"pid"`
	Started    time.Time   `json:"started"`
	Ready      bool        `json:"ready"`
	Waiting    []string    `json:"waiting"`  // what keeps it from being ready
	Troubles   []string    `json:"troubles"` // what to look at and what to do; see FindTroubles
	Config     string      `json:"config"`   // file, empty when there is none
	Generation uint32      `json:"generation"`
	Rules      int         `json:"rules"`
	Flows      int         `json:"flows"`
	FlowLimit  int         `json:"flow_limit"`
	Holders    []Holder    `json:"holders,omitempty"`         // the clients with most flows, while the table is nearly full
	Ports      []PortUse   `json:"ports,omitempty"`           // of external addresses, the fullest first
	Refusals   []Refusal   `json:"refusals,omitempty"`        // the last flows that got no port, for each reason, address and protocol
	Requested  int         `json:"requested_ports,omitempty"` // that hosts have at their request; /v1/ports/requested lists them
	Forwarded  uint64      `json:"forwarded_packets"`
	Dropped    uint64      `json:"dropped_packets"`
	Load       *Load       `json:"load,omitempty"` // of the last minute; absent in the first moment
	Interfaces []Interface `json:"interfaces"`
	Changes    *Changes    `json:"changes,omitempty"`         // of the last reload, if any flow differed
	Recalled   *Recalled   `json:"recalled,omitempty"`        // at the start; absent without conntrack.state
	Helpers    []Helper    `json:"helpers,omitempty"`         // that could not read a message or were refused an announcement
	Still      []int       `json:"still_workers,omitempty"`   // that have begun no batch for a second or longer
	Failing    []string    `json:"failing_exports,omitempty"` // flow logs, collectors and files of events that take nothing at the moment
}

// Load is what a gateway did in the last minute, or since it started.
type Load struct {
	Seconds  float64   `json:"seconds"` // the time it is about
	Packets  float64   `json:"forwarded_packets_per_second"`
	Bytes    float64   `json:"bytes_per_second"` // of IP packets forwarded or delivered
	Begun    float64   `json:"begun_flows_per_second"`
	Ended    float64   `json:"ended_flows_per_second"`
	RingLost uint64    `json:"receive_ring_dropped"` // frames that found no worker in time
	Busy     []float64 `json:"busy"`                 // of each worker, the share of a processor that packets took
	Working  int       `json:"working"`              // workers that get packets now
	Drops    []Counter `json:"drops"`                // in this time, by reason, most first
}

// PortMapping is an external port that a host has at its request.
type PortMapping struct {
	Protocol string    `json:"protocol"`
	Inside   string    `json:"inside"`
	External string    `json:"external"`
	Until    time.Time `json:"until"`
}

// PortUse is how full the ports of one external address are for one protocol.
type PortUse struct {
	Address  string  `json:"address"`
	Zone     uint16  `json:"zone,omitempty"`
	Protocol string  `json:"protocol"`
	Used     int     `json:"used"`
	Kept     int     `json:"kept,omitempty"`            // for clients that had them
	Total    int     `json:"total"`                     // that rules may give away
	FullIn   float64 `json:"full_in_seconds,omitempty"` // at the rate of the last minutes; absent: not soon
}

// Percent returns how full the ports are.
func (p PortUse) Percent() int { return (p.Used + p.Kept) * 100 / max(p.Total, 1) }

// String returns "203.0.113.1 tcp 81 % used, at the present rate full in 14 min".
func (p PortUse) String() string {
	s := fmt.Sprintf("%s %s %d %% used", p.Address, p.Protocol, p.Percent())
	if p.Zone != 0 {
		s = fmt.Sprintf("%s zone %d %s %d %% used", p.Address, p.Zone, p.Protocol, p.Percent())
	}
	switch in := time.Duration(p.FullIn * float64(time.Second)); {
	case in >= time.Hour:
		s += fmt.Sprintf(", at the present rate full in %.1f h", in.Hours())
	case in > 0:
		s += fmt.Sprintf(", at the present rate full in %.0f min", max(in.Minutes(), 1))
	}
	return s
}

// Refusal is a flow that got no port.
type Refusal struct {
	At          time.Time `json:"at"`
	Reason      string    `json:"reason"`
	Advice      string    `json:"advice"`
	Client      string    `json:"client"`
	Address     string    `json:"address"` // external
	Zone        uint16    `json:"zone,omitempty"`
	Protocol    string    `json:"protocol"`
	Destination string    `json:"destination"`
	Packets     uint64    `json:"packets"` // refused so, roughly, since it was told last
}

// Holder is a client and how many flows it has.
type Holder struct {
	Client   string `json:"client"` // address, for IPv6 the /64
	Zone     uint16 `json:"zone,omitempty"`
	Flows    int    `json:"flows"`
	HalfOpen int    `json:"half_open"` // of these, without a lasting answer
}

// String returns "10.0.0.5 (700 flows, 600 half-open)".
func (h Holder) String() string {
	zone := ""
	if h.Zone != 0 {
		zone = fmt.Sprintf(" in zone %d", h.Zone)
	}
	return fmt.Sprintf("%s%s (%d flows, %d half-open)", h.Client, zone, h.Flows, h.HalfOpen)
}

// Interface is one interface that the gateway serves or waits for.
type Interface struct {
	Name      string   `json:"name"`
	Area      string   `json:"area"`
	Driver    string   `json:"driver"`
	Netns     string   `json:"netns,omitempty"`
	State     string   `json:"state"` // up, down, absent
	Port      int      `json:"port"`  // index in the data path, -1 while absent
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
	Addresses []string `json:"addresses"`
	NextHops  []string `json:"next_hops"`
	Uplink    *Uplink  `json:"uplink,omitempty"` // with a check
	Counters  Traffic  `json:"counters"`
}

// Uplink is what the check of an interface has found.
type Uplink struct {
	State   string    `json:"state"` // up, down
	Since   time.Time `json:"since"`
	Changes uint64    `json:"changes"`           // how often it went down or up
	Trouble string    `json:"trouble,omitempty"` // of the last round without an answer
}

// States of an Interface.
const (
	StateUp     = "up"
	StateDown   = "down"
	StateAbsent = "absent"
)

// Traffic counts what went over an interface since the gateway took it.
type Traffic struct {
	RxPackets      uint64 `json:"rx_packets"`
	RxBytes        uint64 `json:"rx_bytes"`
	TxPackets      uint64 `json:"tx_packets"`
	TxBytes        uint64 `json:"tx_bytes"`
	RxRingDropped  uint64 `json:"rx_ring_dropped"` // the receive ring had no slot
	RxTruncated    uint64 `json:"rx_truncated"`
	TxRefused      uint64 `json:"tx_refused"`        // the kernel refused the frame
	KernelDropped  uint64 `json:"kernel_dropped"`    // frames the kernel wanted to send and was kept from
	KernelReinject uint64 `json:"kernel_reinjected"` // frames given to the kernel, with [host]
}

// Config is a configuration as it was read. Its file may have changed since.
type Config struct {
	File string `json:"file"` // empty when there is none
	Text string `json:"text"`
}

// Rule is one rule in its normal form.
type Rule struct {
	ID       uint32 `json:"id"`
	List     string `json:"list"` // pre, dnat, filter, snat
	Index    int    `json:"index"`
	Name     string `json:"name,omitempty"`
	Text     string `json:"text"`
	Position string `json:"position,omitempty"` // file:line
	Counter  string `json:"counter,omitempty"`  // that the rule counts on
	Hits     uint64 `json:"hits"`               // first packets of flows, and packets of flagged flows
	Bytes    uint64 `json:"bytes"`              // of the IP packets among hits
}

// RuleCounter is a counter that rules name.
type RuleCounter struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Counter is the number of packets that ended for one reason.
type Counter struct {
	Reason string `json:"reason"`
	Step   string `json:"step"` // place on the packet walk
	Count  uint64 `json:"count"`
	Advice string `json:"advice"`
}

// Helper is what one helper did.
type Helper struct {
	Name      string               `json:"name"`
	Unread    uint64               `json:"unread"`    // messages that it could not read and passed as they were
	Announced uint64               `json:"announced"` // times that payloads announced flows that may come
	Refused   uint64               `json:"refused"`   // times that they announced what may not
	Last      *RefusedAnnouncement `json:"last_refused,omitempty"`
}

// RefusedAnnouncement is what a payload announced in vain.
type RefusedAnnouncement struct {
	At     time.Time `json:"at"`
	Client string    `json:"client"` // who began the flow: an address, for IPv6 a /64
	Reason string    `json:"reason"`
}

// String returns "10.0.0.5 2s ago: too many announcements", "-" if there was none.
func (r *RefusedAnnouncement) String() string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%s %v ago: %s", r.Client, time.Since(r.At).Round(time.Second), r.Reason)
}

// InterfaceSpec asks for an interface at run time. Empty fields have the same
// defaults as in the configuration file.
type InterfaceSpec struct {
	Name      string   `json:"name"`
	Area      string   `json:"area"`
	Driver    string   `json:"driver,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // empty: the kernel's
	NextHops  []string `json:"next_hops,omitempty"`
}

// ReloadRequest asks for a reload. An empty Config means the file the gateway
// was started with.
type ReloadRequest struct {
	Config string `json:"config,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"` // nothing changes: only say what would
	Flows  int    `json:"flows,omitempty"`   // most flows in Changes.Sample
}

// ReloadResult says what is in force after a reload, or would be.
type ReloadResult struct {
	Generation uint32  `json:"generation"`
	Rules      int     `json:"rules"`
	Interfaces int     `json:"interfaces"`
	Changes    Changes `json:"changes"`
}

// Log is what the process logs.
type Log struct {
	Format     string     `json:"format"` // text or json
	Levels     []LogLevel `json:"levels"`
	Suppressed uint64     `json:"suppressed"` // lines held back because their message came too often
}

// LogLevel is the least level that is logged of a component.
type LogLevel struct {
	Component string `json:"component"`
	Level     string `json:"level"` // debug, info, warn or error
}

// LogChange sets levels until the next reload.
type LogChange struct {
	Level      string   `json:"level"`                // debug, info, warn or error
	Components []string `json:"components,omitempty"` // all if there are none
}

// Kinds of an Export.
const (
	ExportFlowLog = "flowlog"
	ExportIPFIX   = "ipfix"
)

// Export is a place that is told what becomes of flows.
type Export struct {
	Kind    string `json:"kind"` // flowlog or ipfix
	To      string `json:"to"`
	Working bool   `json:"working"` // what was sent last was taken
	Written uint64 `json:"written"` // lines or events
	Lost    uint64 `json:"lost"`    // events that never will be
	Queued  int    `json:"queued"`  // events that wait, of ipfix
}

// Count is the answer of /v1/flows/count.
type Count struct {
	Flows int `json:"flows"`
}

// CheckResult is the answer of /v1/check: what is wrong with the table of flows.
type CheckResult struct {
	Flows   int      `json:"flows"`
	Defects []string `json:"defects"` // empty: none
}

// Liveness is the answer of /v1/live.
type Liveness struct {
	Live  bool     `json:"live"`
	Stuck []string `json:"stuck"` // what does not go on
}
