package rules

import (
	"fmt"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
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
//	Pre     Tuple as received, In, InArea, Mark 0 or the flow's, State, TTL, TOS, Local; Out = NoPort
//	Dnat    the same; Zone of the tuple set
//	Filter  Tuple after destination NAT, Out and OutArea routed, Local of the new destination
//	Snat    as Filter
//
// Marks that rules set on the way need not be copied: the walks look at
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
}

// Verdict is the result of the filter. The zero value drops.
type Verdict uint8

const (
	Drop             Verdict = iota // silently, with a counter
	Accept                          // let it pass
	RejectReset                     // answer with a TCP RST
	RejectProhibited                // answer with ICMP 3/13 or ICMPv6 1/1, administratively prohibited
	numVerdicts
)

var verdictNames = [...]string{
	Drop: "drop", Accept: "accept", RejectReset: "reject tcp-reset", RejectProhibited: "reject admin-prohibited",
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
// value, with Hits set if rules shall be counted, is where a packet starts.
type Decision struct {
	Mark, MarkMask uint32 // packet mark becomes mark&^MarkMask | Mark
	Zone           uint16 // conntrack zone of the flow
	Tracking       Tracking
	Scope          Scope // of the filter verdict

	PreRule, DnatRule, FilterRule, SnatRule *Rule // the rule that ended each list; nil: none did

	TimeoutRule *Rule // the last rule that applied and has timeouts, whether it ended its list or not

	Hits Hits // counts every rule that matched; nil: nobody counts
}

// ApplyMark returns mark as the rules so far have changed it.
func (d *Decision) ApplyMark(mark uint32) uint32 { return mark&^d.MarkMask | d.Mark }

// Turn returns how many packets met the dnat rule before this one, as far as hits
// are counted: for balancing one after the other.
func (d *Decision) Turn() uint64 {
	if d.DnatRule == nil || d.Hits == nil {
		return 0
	}
	return d.Hits[d.DnatRule.Index].Load() - 1
}

// Hits counts the packets that matched each rule, by Rule.Index. One goroutine
// writes it (each worker has its own), any may read it.
type Hits []atomic.Uint64

// add counts one match. There is one writer, so no read-modify-write is needed.
func (h Hits) add(index uint32) {
	if h != nil {
		h[index].Store(h[index].Load() + 1)
	}
}
