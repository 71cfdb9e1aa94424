package conntrack

import (
	"fmt"
	"time"
	"unsafe"

	"example.com/culvert/internal/keep"
)

// Profile is a set of default timeouts and of behaviour under pressure.
type Profile uint8

const (
	Linux Profile = iota // netfilter's numbers; unassured entries are dropped early
	RFC                  // RFC 4787, 5382, 5508, 7857; a live flow is never evicted
)

// Timeouts says how long an idle flow lives. Zero fields take the profile's value.
type Timeouts struct {
	TCP            [numTCPStates]time.Duration // by state; None is not used
	TCPRetrans     time.Duration               // after TCPMaxRetrans retransmissions, or a zero window
	TCPUnacked     time.Duration               // while data is not acknowledged; mid-stream pickup without a reply
	UDP, UDPStream time.Duration               // before, and after a reply and two seconds; also UDP-Lite
	GRE, GREStream time.Duration               // before and after a reply
	SCTP           SCTPTimeouts
	DCCP           DCCPTimeouts
	ICMP, ICMPv6   time.Duration // queries
	Generic        time.Duration // all other protocols
}

// SCTPTimeouts are the timeouts of an SCTP flow by state.
type SCTPTimeouts struct {
	Closed, CookieWait, CookieEchoed, Established              time.Duration
	ShutdownSent, ShutdownRecd, ShutdownAckSent, HeartbeatSent time.Duration
}

// DCCPTimeouts are the timeouts of a DCCP flow by state.
type DCCPTimeouts struct {
	Request, Respond, PartOpen, Open, CloseReq, Closing, TimeWait time.Duration
}

// byState returns the timeouts in the order of the states.
func (t *SCTPTimeouts) byState() *[numSCTPStates]time.Duration {
	return (*[numSCTPStates]time.Duration)(unsafe.Pointer(t))
}

// byState returns the timeouts in the order of the states.
func (t *DCCPTimeouts) byState() *[numDCCPStates]time.Duration {
	return (*[numDCCPStates]time.Duration)(unsafe.Pointer(t))
}

var (
	_ [numSCTPStates * 8]byte = [unsafe.Sizeof(SCTPTimeouts{})]byte{}
	_ [numDCCPStates * 8]byte = [unsafe.Sizeof(DCCPTimeouts{})]byte{}
)

// LinuxTimeouts are the defaults of net.netfilter.nf_conntrack_*.
var LinuxTimeouts = Timeouts{
	TCP: [numTCPStates]time.Duration{
		SynSent:     120 * time.Second,
		SynRecv:     60 * time.Second,
		Established: 5 * 24 * time.Hour,
		FinWait:     120 * time.Second,
		CloseWait:   60 * time.Second,
		LastAck:     30 * time.Second,
		TimeWait:    120 * time.Second,
		Closed:      10 * time.Second,
		SynSent2:    120 * time.Second,
	},
	TCPRetrans: 300 * time.Second,
	TCPUnacked: 300 * time.Second,
	UDP:        30 * time.Second,
	UDPStream:  120 * time.Second,
	GRE:        30 * time.Second,
	GREStream:  180 * time.Second,
	SCTP: SCTPTimeouts{
		Closed:          10 * time.Second,
		CookieWait:      3 * time.Second,
		CookieEchoed:    3 * time.Second,
		Established:     210 * time.Second,
		ShutdownSent:    3 * time.Second,
		ShutdownRecd:    3 * time.Second,
		ShutdownAckSent: 3 * time.Second,
		HeartbeatSent:   30 * time.Second,
	},
	DCCP:    dccpTimeouts,
	ICMP:    30 * time.Second,
	ICMPv6:  30 * time.Second,
	Generic: 600 * time.Second,
}

// dccpTimeouts are those that Linux had while it tracked DCCP: multiples of the
// maximum segment lifetime of two minutes (RFC 4340 section 3.4).
var dccpTimeouts = DCCPTimeouts{
	Request:  4 * time.Minute,
	Respond:  8 * time.Minute,
	PartOpen: 8 * time.Minute,
	Open:     12 * time.Hour,
	CloseReq: 64 * time.Second,
	Closing:  64 * time.Second,
	TimeWait: 4 * time.Minute,
}

const (
	sctpTransitory = 2 * time.Minute // RFC 9260 section 16: a retransmission comes within RTO.Max, 60 s

	tcpTransitory = 4 * time.Minute // RFC 5382 REQ-5: transitory connections at least 4 min
	udpIdle       = 5 * time.Minute // RFC 4787 REQ-5: at least 2 min, 5 recommended
	icmpIdle      = 1 * time.Minute // RFC 5508 REQ-2: at least 60 s
)

// RFCTimeouts meet the documents the profile is named after. TCPRetrans and
// TCPUnacked stay short: a live host retransmits or probes well within them, so
// they end only what RFC 5382 REQ-5 exempts, connections whose end is gone.
var RFCTimeouts = Timeouts{
	TCP: [numTCPStates]time.Duration{
		SynSent:     tcpTransitory,
		SynRecv:     tcpTransitory,
		Established: 2*time.Hour + 4*time.Minute, // RFC 5382 REQ-5
		FinWait:     tcpTransitory,
		CloseWait:   tcpTransitory,
		LastAck:     tcpTransitory,
		TimeWait:    tcpTransitory,
		Closed:      tcpTransitory, // RFC 7857 section 2.2: four minutes after a RST
		SynSent2:    tcpTransitory,
	},
	TCPRetrans: 300 * time.Second,
	TCPUnacked: 300 * time.Second,
	UDP:        udpIdle,
	UDPStream:  udpIdle,
	GRE:        udpIdle,
	GREStream:  udpIdle,
	SCTP: SCTPTimeouts{
		Closed:          10 * time.Second,
		CookieWait:      sctpTransitory,
		CookieEchoed:    sctpTransitory,
		Established:     210 * time.Second, // seven heartbeats (RFC 9260 section 16: HB.interval 30 s)
		ShutdownSent:    sctpTransitory,
		ShutdownRecd:    sctpTransitory,
		ShutdownAckSent: sctpTransitory,
		HeartbeatSent:   sctpTransitory,
	},
	DCCP:    dccpTimeouts,
	ICMP:    icmpIdle,
	ICMPv6:  icmpIdle,
	Generic: 600 * time.Second,
}

// Sockets says whether a table counts the flows towards each host's sockets, for
// Table.Toward. It costs two lines of memory to touch for a flow's begin and end: a
// fifth of what a new flow costs, and half of an ending one.
type Sockets uint8

const (
	SocketsCounted   Sockets = iota
	SocketsUncounted         // Toward knows of none
)

// Config describes a Table. The zero value of every field but Max is usable.
type Config struct {
	Max      int // flows the table can hold, 1 to 2^30
	Profile  Profile
	Timeouts Timeouts // zero fields: of the profile
	Workers  int      // handles given out by Table.Worker; 0 means 1

	EventRing int  // events a worker can keep for the pump, rounded up to a power of two; 0 means 4096
	Timestamp bool // keep start and stop times (costs 128 bytes a flow)
	Reserve   bool // take the memory of Max flows at once; otherwise it comes a little ahead of them
	Sockets   Sockets

	Pickup           Pickup // net.netfilter.nf_conntrack_tcp_loose
	Window           Window // net.netfilter.nf_conntrack_tcp_be_liberal
	IgnoreInvalidRST bool   // net.netfilter.nf_conntrack_tcp_ignore_invalid_rst
	TCPMaxRetrans    int    // 0 means 3

	Shares Shares // what one client may take of a table that is nearly full

	MaxExpect int // expectations the table can hold; 0: Max/64, 16 to 4096, as Linux

	// Memory has what a successor needs of the table if the process is killed (Remains). It
	// must live longer than the table. Nil: that ends with the process.
	Memory keep.Memory

	// HelperName names the helper with a number that a Proposal had. Nil: no names.
	HelperName func(helper uint32) string

	Key [16]byte // secret of the hash and of ids; all zero: random

	// SlotBits is how many bits of an id say which slot the flow is in: those of the table
	// that this one takes over, so that its flows keep their ids. 0: as many as this one's
	// slots need.
	SlotBits int

	// Wall reads the wall clock, once a second: it may be set long after the table was
	// made. Nil: time.Now, or nobody if there is a Base.
	Wall func() time.Time
	Base time.Time // wall-clock time of tick 0; zero: derived from the clocks now
}

// Pickup says whether a TCP flow may be picked up in its middle.
type Pickup uint8

const (
	Loose  Pickup = iota // a bare ACK starts an entry
	Strict               // only a SYN does
)

// Window says what happens to TCP segments outside the window.
type Window uint8

const (
	Exact   Window = iota // they are invalid
	Liberal               // they pass
)

const (
	maxEntries       = 1 << 30 // an index value is slot<<1 | direction
	maxWorkers       = 1 << 10
	defaultEventRing = 4096
	defaultRetrans   = 3
)

// withDefaults returns c with every default filled in, or an error that says
// which field cannot be.
func (c Config) withDefaults() (Config, error) {
	if c.Max < 1 || c.Max > maxEntries {
		return c, fmt.Errorf("conntrack: max %d: must be 1 to %d", c.Max, maxEntries)
	}
	if c.SlotBits < 0 || c.SlotBits > 31 {
		return c, fmt.Errorf("conntrack: %d bits of a slot: must be 0 to 31", c.SlotBits)
	}
	if c.Workers < 0 || c.Workers > maxWorkers {
		return c, fmt.Errorf("conntrack: %d workers: must be 1 to %d", c.Workers, maxWorkers)
	}
	c.Workers = max(c.Workers, 1)
	if c.EventRing <= 0 {
		c.EventRing = defaultEventRing
	}
	if c.TCPMaxRetrans <= 0 {
		c.TCPMaxRetrans = defaultRetrans
	}
	if c.TCPMaxRetrans > maxRetrans {
		return c, fmt.Errorf("conntrack: tcp_max_retrans %d: must be 1 to %d", c.TCPMaxRetrans, maxRetrans)
	}
	if c.MaxExpect <= 0 {
		c.MaxExpect = min(max(c.Max/64, 16), defaultExpects)
	}
	c.Shares = c.Shares.withDefaults(c.Max)
	from := &LinuxTimeouts
	if c.Profile == RFC {
		from = &RFCTimeouts
	}
	c.Timeouts = c.Timeouts.or(from)
	if c.Base.IsZero() {
		if c.Wall == nil {
			c.Wall = time.Now
		}
		c.Base = c.Wall().Add(-Now().Duration())
	}
	c.Base = c.Base.Round(0) // by the wall, not by the monotonic clock
	return c, nil
}

// or returns t with zero fields taken from d.
func (t Timeouts) or(d *Timeouts) Timeouts {
	pick := func(to *time.Duration, from time.Duration) {
		if *to == 0 {
			*to = from
		}
	}
	for s := range t.TCP {
		pick(&t.TCP[s], d.TCP[s])
	}
	pick(&t.TCPRetrans, d.TCPRetrans)
	pick(&t.TCPUnacked, d.TCPUnacked)
	pick(&t.UDP, d.UDP)
	pick(&t.UDPStream, d.UDPStream)
	pick(&t.GRE, d.GRE)
	pick(&t.GREStream, d.GREStream)
	for s := range t.SCTP.byState() {
		pick(&t.SCTP.byState()[s], d.SCTP.byState()[s])
	}
	for s := range t.DCCP.byState() {
		pick(&t.DCCP.byState()[s], d.DCCP.byState()[s])
	}
	pick(&t.ICMP, d.ICMP)
	pick(&t.ICMPv6, d.ICMPv6)
	pick(&t.Generic, d.Generic)
	return t
}
