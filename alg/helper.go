package alg

import (
	"net/netip"
	"time"
)

// Helper makes parsers for flows. It is a value without state: one serves all flows.
type Helper interface {
	Spec() Spec
	// New returns a parser for a flow. It may keep f.
	New(f *Flow) Parser
}

// Parser reads the payload of one flow, in both directions.
type Parser interface {
	// Inspect looks at what c.Dir has sent: of a stream at its unsettled bytes, of UDP
	// at one datagram. It may read b until it returns and must copy what it keeps. The
	// texts of the Edit must stay as they are until the next call.
	Inspect(c *Context, b []byte) Edit
}

// Sized is a Parser that keeps more than a kilobyte, and says how many bytes: they count
// for its flow's client like those that wait.
type Sized interface {
	Size() int
}

// Spec is what the engine and the configuration need to know about a helper.
type Spec struct {
	Name    string  // in rules, conntrack -L and metrics
	Protos  []uint8 // IP protocols it can read: tuple.TCP, tuple.UDP
	Port    uint16  // where its protocol usually is: a rule names its own, a capture is read for this one
	Classes []Class // by Expectation.Class; at least one
	Limit   int     // bytes of the longest message of a stream; 0: DefaultLimit

	Broadcasts bool // it reads datagrams that the gateway's own box sends to all of a link
}

// Class bounds the expectations of one kind that a flow may have at a time.
type Class struct {
	Name    string        // for the log
	Max     int           // the oldest gives way to a newer one
	Timeout time.Duration // how long one waits for its flow
	Peers   Peers         // who may begin its flows
}

// Peers says where the flows of a class may come from.
type Peers uint8

const (
	OtherEnd Peers = iota // of the master; of others only if the rule's Options say so
	Anyone                // the protocol does not tell who will come
)

// Bounds of Spec.Limit.
const (
	DefaultLimit = 4 << 10
	MaxLimit     = 64 << 10 // a SIP message in UDP can be this long (RFC 3261 section 18.1.1)
)

// Rest says what happens to bytes of a stream that are not settled.
type Rest uint8

const (
	Pass  Rest = iota // they are forwarded, and shown again
	Hold              // they wait, and are shown again
	Leave             // the helper leaves the flow
)

// Edit is what a parser makes of the bytes it was shown. The zero value forwards
// them and shows them again with those that follow. Announcements made during the
// call belong to it.
type Edit struct {
	Done    int  // bytes that are settled; ignored for UDP
	Rest    Rest // about the bytes after them; of UDP only Leave matters
	Replace []Replacement
	Unread  int // messages that the helper could not read, and left as they are; they are counted
}

// Replacement puts Text in the place of b[From:To].
type Replacement struct {
	From, To int
	Text     []byte
}

// Fits reports whether e can be an edit of n bytes of a stream or a datagram:
// its replacements are in order, within what is settled, and none is empty on both
// sides.
func (e *Edit) Fits(n int) bool {
	if e.Done < 0 || e.Done > n || e.Rest > Leave || e.Unread < 0 {
		return false
	}
	at := 0
	for _, r := range e.Replace {
		if r.From < at || r.To < r.From || r.To > e.Done || r.From == r.To && (len(r.Text) == 0 || e.Done == 0) || len(r.Text) > MaxLimit {
			return false
		}
		at = r.To
	}
	return true
}

// Way says which way an expected flow goes.
type Way uint8

const (
	Inbound  Way = iota // to the side that sent the payload
	Outbound            // from there to the other side
)

// Expectation is a flow that a payload speaks of.
type Expectation struct {
	Class uint8 // index into Spec.Classes
	Proto uint8
	Way   Way

	// To is where the flow goes, in the addresses of the side that sent the payload.
	To netip.AddrPort

	// Seen is the external port that it gets if it is free: one that it had before, or
	// that nobody else is likely to have; 0: any. Of several at once, that of the first one counts.
	Seen uint16

	// From is where it comes from, in the same addresses. An invalid address means
	// the other end of the master (Context.Peer, for Outbound Context.Self); one that is
	// unspecified means anybody. Port 0: any port.
	From netip.AddrPort

	// FromBits is how many leading bits of From's address matter; 0: all.
	FromBits int

	Permanent bool          // it stays after a flow has met it, until Timeout
	Timeout   time.Duration // instead of the class's; 0: the class's
	Child     string        // name of the helper that reads the flow; "": none
}

// Options are what a rule allows a helper beyond the safe defaults.
type Options struct {
	// Foreign lets a payload announce addresses that are not its sender's own (loose of
	// netfilter's ftp).
	Foreign bool
	// LowPorts lets it announce ports below 1024.
	LowPorts bool
	// AnySignalling and AnyMedia let the announced flows come from anybody, not only
	// from the other end of the master (sip_direct_signalling and sip_direct_media off).
	AnySignalling bool
	AnyMedia      bool
}
