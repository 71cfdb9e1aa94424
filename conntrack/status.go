package conntrack

import (
	"slices"
	"strings"

	"example.com/culvert/conntrack/tuple"
)

// Status is the set of an entry's life-cycle bits. The lower 16 have the values
// of Linux's IPS_*, as conntrack(8) and snapshots show them; those from bit 20
// up are our own and never leave the program.
type Status uint32

// Kernel bits.
const (
	Expected     Status = 1 << iota // made from an expectation: has a master
	SeenReply                       // a packet came in the reply direction
	Assured                         // not a candidate for early drop
	Confirmed                       // the first packet has left
	SrcNAT                          // the original direction's source is translated
	DstNAT                          // the original direction's destination is translated
	SeqAdjust                       // a helper changed lengths: sequence numbers shift
	SrcNATDone                      // source translation was decided
	DstNATDone                      // destination translation was decided
	Dying                           // out of the index; DESTROY is under way
	FixedTimeout                    // packets don't refresh the timeout
	_                               // IPS_TEMPLATE: no flow of a table has it; see UserStatus2
	_                               // IPS_NAT_CLASH: no flow of a table has it; see holdsMore
	Helper                          // a helper was assigned
	Offload                         // forwarded by a flow offload
	HWOffload                       // forwarded by hardware; never set by us
)

// Bits of our own.
const (
	// linked: both tuples are in the index, or were until the entry ended.
	linked Status = 1 << 16
	// undelivered: the entry ended, and its DESTROY event is not noted yet: as a rule
	// because it waits for room.
	undelivered Status = 1 << 17

	// announces: the flow has or had expectations.
	announces Status = 1 << 18

	// confirming: somebody took it on himself to confirm the entry.
	confirming Status = 1 << 19

	// OwnTimeout: Proposal.Timeout replaces the protocol's timeouts.
	OwnTimeout Status = 1 << 20
	// UserStatus and UserStatus2 are bits without meaning to the table, for its user.
	UserStatus  Status = 1 << 21
	UserStatus2 Status = 1 << 11 // none of the upper ones is free

	// OwnPolicy: Proposal.Policy replaces the table's timeouts.
	OwnPolicy Status = 1 << 22

	choiceShift = 23 // bits 23..26: why nat chose this port (opaque here)
	choiceMask  = 15
	holdsShift  = 27 // bits 27..31: what the flow holds elsewhere (opaque here)
	holdsBits   = 5  // of it; the next one is holdsMore
	holdsMore   = Status(1 << 12)
	kernelBits  = Status(1<<16-1) &^ (UserStatus2 | holdsMore)
	userBits    = UserStatus | UserStatus2
)

var statusNames = [...]string{
	"EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT", "SEQ_ADJUST", "SRC_NAT_DONE",
	"DST_NAT_DONE", "DYING", "FIXED_TIMEOUT", "", "", "HELPER", "OFFLOAD", "HW_OFFLOAD",
}

// Has reports whether every bit of want is set.
func (s Status) Has(want Status) bool { return s&want == want }

// Kernel returns the bits that exist in Linux.
func (s Status) Kernel() Status { return s & kernelBits }

// waits reports whether nobody has answered a flow with status s yet, in a way that one
// who only says where he is cannot have made happen: where a protocol has states a flow
// waits until it is assured, as a SYN is answered whoever has sent it.
func (s Status) waits(proto uint8) bool {
	return s&Assured == 0 && (s&SeenReply == 0 || HasStates(proto))
}

// holding returns the bits for what a flow holds.
func holding(holds uint8) Status {
	return Status(holds)<<holdsShift | Status(holds>>holdsBits&1)*holdsMore
}

// holds returns what a flow with status s holds.
func (s Status) holds() uint8 {
	h := uint8(s >> holdsShift)
	if s&holdsMore != 0 {
		h |= 1 << holdsBits
	}
	return h
}

// String lists the kernel bits by the names conntrack(8) uses.
func (s Status) String() string {
	var set []string
	for i, name := range statusNames {
		if s.Kernel()&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, ",")
}

// ParseStatus returns the bit that String calls name.
func ParseStatus(name string) (Status, bool) {
	i := slices.Index(statusNames[:], name)
	return 1 << max(i, 0), name != "" && i >= 0
}

// State is the protocol state of an entry. Protocols without states stay in None.
type State uint8

// TCP states of the tracker (not of either host).
const (
	None State = iota
	SynSent
	SynRecv
	Established
	FinWait
	CloseWait
	LastAck
	TimeWait
	Closed
	SynSent2 // simultaneous open
	numTCPStates
)

// SCTP states of the tracker (RFC 9260 section 4, as a box between the hosts
// sees them).
const (
	SCTPClosed State = numTCPStates + iota
	SCTPCookieWait
	SCTPCookieEchoed
	SCTPEstablished
	SCTPShutdownSent
	SCTPShutdownRecd
	SCTPShutdownAckSent
	SCTPHeartbeatSent // a path that began with a heartbeat
	dccpBase

	sctpBase      = SCTPClosed
	numSCTPStates = dccpBase - sctpBase
)

// DCCP states of the tracker (RFC 4340 section 8).
const (
	DCCPRequested State = dccpBase + iota
	DCCPResponded
	DCCPPartOpen
	DCCPOpen
	DCCPCloseRequested
	DCCPClosing
	DCCPTimeWait
	numStates

	numDCCPStates = numStates - dccpBase
)

var stateNames = [...]string{
	None: "NONE", SynSent: "SYN_SENT", SynRecv: "SYN_RECV", Established: "ESTABLISHED", FinWait: "FIN_WAIT",
	CloseWait: "CLOSE_WAIT", LastAck: "LAST_ACK", TimeWait: "TIME_WAIT", Closed: "CLOSE", SynSent2: "SYN_SENT2",
	SCTPClosed: "CLOSED", SCTPCookieWait: "COOKIE_WAIT", SCTPCookieEchoed: "COOKIE_ECHOED",
	SCTPEstablished: "ESTABLISHED", SCTPShutdownSent: "SHUTDOWN_SENT", SCTPShutdownRecd: "SHUTDOWN_RECD",
	SCTPShutdownAckSent: "SHUTDOWN_ACK_SENT", SCTPHeartbeatSent: "HEARTBEAT_SENT",
	DCCPRequested: "REQUEST", DCCPResponded: "RESPOND", DCCPPartOpen: "PARTOPEN", DCCPOpen: "OPEN",
	DCCPCloseRequested: "CLOSEREQ", DCCPClosing: "CLOSING", DCCPTimeWait: "TIMEWAIT",
}

var _ [numStates]string = stateNames

// String returns conntrack(8)'s name of a state.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "INVALID"
}

// ParseState returns the state of an IP protocol that String calls name.
func ParseState(proto uint8, name string) (State, bool) {
	for i, n := range stateNames {
		if s := State(i); n == name && stateOf(proto, packState(s)) == s && HasStates(proto) {
			return s, true
		}
	}
	return None, false
}

// HasStates reports whether flows of an IP protocol have states that are
// printed.
func HasStates(proto uint8) bool {
	return proto == tuple.TCP || proto == tuple.SCTP || proto == tuple.DCCP
}

// stateMask covers the state in Entry.word. SCTP and DCCP count theirs from 1
// there, so that four bits do for everybody and 0 is None.
const stateMask = 0xf

// stateOf unpacks the state from Entry.word.
func stateOf(proto uint8, w uint32) State {
	s := State(w & stateMask)
	switch {
	case s == None:
	case proto == tuple.SCTP:
		s += sctpBase - 1
	case proto == tuple.DCCP:
		s += dccpBase - 1
	}
	return s
}

// packState is the inverse of stateOf.
func packState(s State) uint32 {
	switch {
	case s >= dccpBase:
		s -= dccpBase - 1
	case s >= sctpBase:
		s -= sctpBase - 1
	}
	return uint32(s)
}

// fits reports whether a flow of proto can be in state s.
func (s State) fits(proto uint8) bool {
	switch proto {
	case tuple.TCP:
		return s < numTCPStates
	case tuple.SCTP:
		return s == None || s >= sctpBase && s < dccpBase
	case tuple.DCCP:
		return s == None || s >= dccpBase && s < numStates
	}
	return s == None
}
