package conntrack

import (
	"time"

	"example.com/culvert/conntrack/tuple"
)

// Flow is a copy of everything about an entry that can be printed. It has no
// tie to the table.
type Flow struct {
	Tuple   [tuple.NumDirections]tuple.Tuple
	Packets [tuple.NumDirections]uint64
	Bytes   [tuple.NumDirections]uint64 // of IP packets

	Status     Status
	State      State         // TCP, SCTP and DCCP only
	Timeout    time.Duration // until it expires if no packet comes, never negative
	ID         uint32        // keyed hash of slot and generation
	Mark       uint32
	Rule       uint32                      // rule that admitted the flow, by its id
	Generation uint32                      // of the rules that admitted it
	Choice     uint8                       // why nat chose this port; nat.Reason
	Hint       [tuple.NumDirections]uint32 // the engine's
	Holds      uint8                       // what it holds elsewhere; opaque
	Labels     [2]uint64
	Seq        [tuple.NumDirections]Correction // with SeqAdjust
	Tags       [tuple.NumDirections]uint32     // of SCTP: the verification tag of packets in a direction
	Helper     string                          // name of the helper, "" if none
	Attached   uint32                          // its number, as in Proposal.Helper

	Master tuple.Tuple // original tuple of the flow that announced it; zero: none

	User Status // the engine's own bits; see UserStatus

	Start, Stop time.Time // zero unless Config.Timestamp; Stop only in EventDestroy
}

// EventType says what happened to a flow.
type EventType uint8

const (
	EventNew EventType = iota
	EventUpdate
	EventDestroy
	numEventTypes
)

var eventTypeNames = [...]string{EventNew: "NEW", EventUpdate: "UPDATE", EventDestroy: "DESTROY"}

var _ [numEventTypes]string = eventTypeNames

func (t EventType) String() string { return eventTypeNames[t] }

// EventMask is a set of kinds of events.
type EventMask uint8

// Masks for Subscribe and Listen.
const (
	NewEvents     EventMask = 1 << FlowNew
	UpdateEvents  EventMask = 1 << FlowUpdate
	DestroyEvents EventMask = 1 << FlowDestroy
	AllEvents               = NewEvents | UpdateEvents | DestroyEvents // of flows
	ExpectEvents  EventMask = 1<<ExpectNew | 1<<ExpectDestroy
	EveryEvent              = AllEvents | ExpectEvents
)

// Change says what an EventUpdate is about.
type Change uint8

const (
	ChangedReply   Change = 1 << iota // SeenReply was set
	ChangedState                      // the protocol state is another one
	ChangedAssured                    // Assured was set
	ChangedMark                       // the mark was set
	ChangedTimeout                    // the timeout was set by a user
	ChangedLabels                     // labels were set or cleared
	ChangedStatus                     // status bits were set by a user
	ChangedHelper                     // the helper is another one, or gone
)

// Event reports a change of one flow.
type Event struct {
	Type   EventType
	Change Change // of an EventUpdate
	Cause  Cause  // of an EventDestroy

	Commanded bool // somebody asked for it: no packet and no timer did it

	Seq  uint64 // 1, 2, 3, ... over all events of the table that were told or lost
	Time time.Time
	Flow Flow
}
