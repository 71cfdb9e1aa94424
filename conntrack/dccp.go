package conntrack

import (
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// DCCP packet types (RFC 4340 section 5.1), as in Segment.DCCPType.
const (
	DCCPRequest uint8 = iota
	DCCPResponse
	DCCPData
	DCCPAck
	DCCPDataAck
	DCCPCloseReq
	DCCPClose
	DCCPReset
	DCCPSync
	DCCPSyncAck
	numDCCPTypes
)

// dccpNext is what a packet type in a direction makes of a state. The client
// is the host of the original direction, the server the other (RFC 4340 section
// 4.3). A zero cell is invalid.
var dccpNext = [tuple.NumDirections][numDCCPTypes][numStates]State{
	tuple.Original: {
		DCCPRequest: {None: DCCPRequested, DCCPRequested: DCCPRequested, DCCPTimeWait: DCCPRequested,
			// The response, or the acknowledgement of it, was lost behind us: it is for the
			// server to say so again (RFC 4340 sections 8.1.3 and 8.5).
			DCCPResponded: DCCPResponded, DCCPPartOpen: DCCPPartOpen, DCCPOpen: DCCPOpen},
		DCCPData: {None: DCCPOpen, DCCPOpen: DCCPOpen, DCCPClosing: DCCPClosing}, // not before the answer is acknowledged (RFC 4340 section 8.1.5)
		DCCPAck: {None: DCCPOpen, DCCPResponded: DCCPPartOpen, DCCPPartOpen: DCCPPartOpen, DCCPOpen: DCCPOpen,
			DCCPCloseRequested: DCCPCloseRequested, DCCPClosing: DCCPClosing},
		DCCPDataAck: {None: DCCPOpen, DCCPResponded: DCCPPartOpen, DCCPPartOpen: DCCPPartOpen, DCCPOpen: DCCPOpen,
			DCCPCloseRequested: DCCPCloseRequested, DCCPClosing: DCCPClosing},
		DCCPClose: {DCCPResponded: DCCPClosing, DCCPPartOpen: DCCPClosing, DCCPOpen: DCCPClosing,
			DCCPCloseRequested: DCCPClosing, DCCPClosing: DCCPClosing},
		DCCPReset:   dccpEnded,
		DCCPSync:    dccpStays,
		DCCPSyncAck: dccpStays,
	},
	tuple.Reply: {
		DCCPResponse: {DCCPRequested: DCCPResponded, DCCPResponded: DCCPResponded, DCCPPartOpen: DCCPPartOpen},
		DCCPData:     dccpAnswered,
		DCCPAck:      dccpAnswered,
		DCCPDataAck:  dccpAnswered,
		DCCPCloseReq: {DCCPPartOpen: DCCPCloseRequested, DCCPOpen: DCCPCloseRequested, DCCPCloseRequested: DCCPCloseRequested},
		DCCPClose:    {DCCPPartOpen: DCCPClosing, DCCPOpen: DCCPClosing, DCCPClosing: DCCPClosing},
		DCCPReset:    dccpEnded,
		DCCPSync:     dccpStays,
		DCCPSyncAck:  dccpStays,
	},
}

// Rows that several packet types share.
var (
	dccpEnded = [numStates]State{DCCPRequested: DCCPTimeWait, DCCPResponded: DCCPTimeWait, DCCPPartOpen: DCCPTimeWait,
		DCCPOpen: DCCPTimeWait, DCCPCloseRequested: DCCPTimeWait, DCCPClosing: DCCPTimeWait, DCCPTimeWait: DCCPTimeWait}
	dccpStays = [numStates]State{DCCPResponded: DCCPResponded, DCCPPartOpen: DCCPPartOpen, DCCPOpen: DCCPOpen,
		DCCPCloseRequested: DCCPCloseRequested, DCCPClosing: DCCPClosing, DCCPTimeWait: DCCPTimeWait}
	dccpAnswered = [numStates]State{DCCPPartOpen: DCCPOpen, DCCPOpen: DCCPOpen, DCCPCloseRequested: DCCPCloseRequested, DCCPClosing: DCCPClosing}
)

// dccpBegins reports whether a packet type may begin a flow.
func dccpBegins(kind uint8, p Pickup) bool {
	if kind >= numDCCPTypes || dccpNext[tuple.Original][kind][None] == None {
		return false
	}
	return kind == DCCPRequest || p == Loose
}

// trackDCCP takes a packet through the table under the entry's lock.
func (w *Worker) trackDCCP(r Ref, e *Entry, status Status, s *Segment, now Tick) Verdict {
	packed := e.lock()
	old := stateOf(tuple.DCCP, packed)
	next := None
	if s.DCCPType < numDCCPTypes {
		next = dccpNext[r.Dir][s.DCCPType][old]
	}
	if next == None {
		e.unlock(packed)
		word.Add64(&w.stats.Invalid, 1)
		return InvalidState
	}
	e.countLocked(r.Dir, s)
	if next != old || s.DCCPType != DCCPRequest { // repeated requests don't keep a flow
		w.refreshLocked(r, e, status, now, w.idleOf(e, status).dccp[next-dccpBase])
	}
	e.unlock(packed&^stateMask | packState(next))

	change := Change(0)
	if next != old {
		change |= ChangedState
	}
	if next == DCCPOpen && status&SeenReply != 0 && status&Assured == 0 && w.assure(r.Slot) != 0 {
		change |= ChangedAssured
	}
	w.replied(r, e, status, change, now)
	return Accept
}
