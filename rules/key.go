package rules

import (
	"fmt"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Port indices with a meaning of their own.
const (
	HostPort uint16 = 0      // the gateway's own host, area "host"
	NoPort   uint16 = 0xffff // Key.Out before the packet is routed
	MaxPorts        = 1024   // indices that can be bound: 0 to MaxPorts-1
)

// State is the connection tracking state of a packet. As a set of states it is
// the bit 1<<State.
type State uint8

const (
	New         State = iota // first packet of a flow
	Established              // belongs to a flow that has been admitted
	Related                  // ICMP error about a flow, or first packet of an announced one
	Invalid                  // the tracker has no flow for it and would not start one
	Untracked                // a pre rule said notrack
	numStates
)

var stateNames = [...]string{
	New: "new", Established: "established", Related: "related", Invalid: "invalid", Untracked: "untracked",
}

var _ [numStates]string = stateNames

// String returns the name of s as rules spell it.
func (s State) String() string {
	if s >= numStates {
		return fmt.Sprintf("state(%d)", uint8(s))
	}
	return stateNames[s]
}

// Delivery says whether a packet is for the gateway itself.
type Delivery uint8

const (
	Forward Delivery = iota // for somebody else
	ToLocal                 // the destination is one of the gateway's own addresses
)

// Key is what rules look at. The caller fills it in as the packet goes along:
//
//	Pre     Tuple as received, In, InArea, Mark, State, TTL, TOS, Length, Local; Out = NoPort
//	Dnat    the same; Zone of the tuple, Direction and Helper set
//	Filter  Tuple after destination NAT, Out and OutArea routed, Local of the new destination
//	Snat    as Filter
//
// A packet has the mark of its flow when it comes, 0 before there is one. Marks that rules set on the way need not be copied: the walks look at
// Decision.Mark themselves. For ICMP, Tuple holds the type and code in DstPort.
type Key struct {
	Tuple   tuple.Tuple
	In, Out uint16 // port indices
	InArea  AreaID
	OutArea AreaID
	State   State
	Local   Delivery
	TTL     uint8 // or hop limit
	TOS     uint8 // or traffic class: DSCP in the upper six bits
	Mark    uint32
	Length  uint32 // of the IP packet in bytes, as it came: a super-packet counts whole
	Dir     tuple.Direction
	Flow    uint32 // slot of the flow that the packet belongs to, 0 for the first packet of one
	Helper  string // name of the helper that announced the flow, "" if none did
}

// Entry says how a packet from outside comes in that no rule is about.
type Entry uint8

const (
	ByRule    Entry = iota // it does not
	ByMapping              // a flow from inside has the port that it goes to, and that rule's filtering admits it
)

// Verdict is the result of the filter. The zero value drops.
type Verdict uint8

const (
	Drop             Verdict = iota // silently, with a counter
	Accept                          // let it pass
	RejectReset                     // answer with a TCP RST
	RejectProhibited                // answer with ICMP 3/13 or ICMPv6 1/1, administratively prohibited
	RejectNoRoute                   // answer with ICMP 3/0 or ICMPv6 1/0
	RejectHost                      // answer with ICMP 3/1 or ICMPv6 1/3
	RejectPort                      // answer with ICMP 3/3 or ICMPv6 1/4
	numVerdicts
)

var verdictNames = [...]string{
	Drop: "drop", Accept: "accept", RejectReset: "reject tcp-reset", RejectProhibited: "reject admin-prohibited",
	RejectNoRoute: "reject no-route", RejectHost: "reject host-unreachable", RejectPort: "reject port-unreachable",
}

var _ [numVerdicts]string = verdictNames

// String returns the name of v.
func (v Verdict) String() string {
	if v >= numVerdicts {
		return fmt.Sprintf("verdict(%d)", uint8(v))
	}
	return verdictNames[v]
}

// Tracking is what a pre rule says about connection tracking.
type Tracking uint8

const (
	Track   Tracking = iota
	NoTrack          // forward the packet without an entry; it is Untracked from here on
)

// Scope says for how long a filter verdict holds.
type Scope uint8

const (
	PerFlow   Scope = iota // for all later packets of this direction
	PerPacket              // only for this packet: later ones meet the filter again
)

// Decision collects what the rules say about a packet, list by list. The zero
// value, with Page set if rules shall count, is where a packet starts.
type Decision struct {
	Mark, MarkMask         uint32 // packet mark becomes mark&^MarkMask | Mark
	FlowMark, FlowMarkMask uint32 // the same for the mark of the flow
	Zone                   uint16 // conntrack zone of the flow
	ZoneSide               ZoneSide
	Tracking               Tracking
	Scope                  Scope // of the filter verdict

	PreRule, DnatRule, FilterRule, SnatRule *Rule // the rule that ended each list; nil: none did

	Entry Entry // what else than a rule lets the packet in

	// The last rule that applied and has timeouts or a helper, whether it ended its
	// list or not.
	TimeoutRule, HelperRule *Rule

	Page    *Page // where rules count, log and keep their limits; nil: nowhere
	Purpose Purpose

	counting counting

	Applied *[]*Rule // if not nil, every rule that applies is added
}

// Purpose says what a decision is for.
type Purpose uint8

const (
	Act Purpose = iota
	Ask         // nothing is counted, logged or taken from a limit, and no limit is reached
)

// ApplyMark returns the mark of a packet as the rules so far have changed it.
func (d *Decision) ApplyMark(mark uint32) uint32 { return mark&^d.MarkMask | d.Mark }

// Turn returns how many packets of the worker met the dnat rule before this one:
// for balancing one after the other.
func (d *Decision) Turn() uint64 {
	if d.DnatRule == nil || d.Page == nil || d.Page.hits == nil {
		return 0
	}
	return word.Load64(&d.Page.hits[d.DnatRule.Index].packets) - 1
}

// ApplyFlowMark returns the mark of a flow as the rules so far have changed it.
func (d *Decision) ApplyFlowMark(mark uint32) uint32 { return mark&^d.FlowMarkMask | d.FlowMark }

// ZoneOf returns the zone of a direction of the flow.
func (d *Decision) ZoneOf(dir tuple.Direction) uint16 {
	if d.ZoneSide == ZoneOriginal && dir == tuple.Reply || d.ZoneSide == ZoneReply && dir == tuple.Original {
		return 0
	}
	return d.Zone
}
