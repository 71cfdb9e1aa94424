package conntrack

// Verdict is what a tracker says about one packet. The zero value is invalid,
// so that a cell nobody thought of lets nothing through as part of a flow.
type Verdict uint8

const (
	InvalidState  Verdict = iota // no such segment in this state
	InvalidFlags                 // impossible TCP flags
	InvalidSeq                   // sequence number above what the receiver allowed
	InvalidAck                   // acknowledges data never sent
	InvalidRST                   // RST outside the expected sequence
	InvalidPickup                // no SYN, and mid-stream pickup is off
	InvalidType                  // ICMP message that is no query and belongs to no flow
	InvalidTag                   // SCTP verification tag of neither host

	Accept  // part of the flow; state, timer and counters are updated
	Ignore  // let through without touching the entry
	Restart // the entry was stale and is gone: look the packet up again
	numVerdicts
)

var verdictNames = [...]string{
	InvalidState: "invalid-state", InvalidFlags: "invalid-flags", InvalidSeq: "invalid-seq", InvalidAck: "invalid-ack",
	InvalidRST: "invalid-rst", InvalidPickup: "invalid-pickup", InvalidType: "invalid-type",
	InvalidTag: "invalid-tag",
	Accept:     "accept", Ignore: "ignore", Restart: "restart",
}

var _ [numVerdicts]string = verdictNames

func (v Verdict) String() string { return verdictNames[v] }

// Invalid reports whether the packet has conntrack state INVALID.
func (v Verdict) Invalid() bool { return v < Accept }

// Claim is the outcome of claiming the two tuples of a new flow.
type Claim uint8

const (
	Claimed       Claim = iota + 1 // both are ours; Track, then Confirm or Abort
	OriginalTaken                  // another packet of this flow was first; the Ref is its entry
	ReplyTaken                     // choose another reply tuple; the Ref is its owner
	TableFull                      // Config.Max entries, none can be dropped
	ChainFull                      // the buckets of a tuple are full
	ClientFull                     // the table is nearly full, and the client has more than its share
	numClaims
)

var claimNames = [...]string{
	Claimed: "claimed", OriginalTaken: "original-taken", ReplyTaken: "reply-taken", TableFull: "table-full", ChainFull: "chain-full",
	ClientFull: "client-full",
}

var _ [numClaims]string = claimNames

func (c Claim) String() string { return claimNames[c] }
