package afpacket

// Geometry of the rings, in bytes. 64 slots fill a block exactly.
const (
	slotSize  = 2112
	blockSize = 64 * slotSize // 33 pages
	blockLen  = blockSize / slotSize

	defaultSlots = 64 * blockLen
	txSlots      = 8 * blockLen

	rcvBuf = 32 << 20 // queue of frames that do not fit a slot
	sndBuf = 16 << 20
)

// Fanout is how the kernel spreads frames over the queues of a port.
type Fanout uint8

// Values of Fanout.
const (
	FanoutSteer Fanout = iota // as Port.Steer says, evenly at first
	FanoutHash                // by flow; both directions of one that is not translated agree
	FanoutCPU                 // by the CPU that received the frame: no cache line changes core
	FanoutQM                  // by the receive queue of the device
)

// Accept says which frames the interface's address filter lets in, besides
// those for its own address and broadcast, until the port is closed. Group by
// group is no choice: neighbour discovery needs one for each address that the
// gateway answers for, and filters of devices overflow to "all" at a few dozen.
type Accept uint8

// Values of Accept.
const (
	AcceptOwn          Accept = iota
	AcceptAllMulticast        // every multicast group: enough for neighbour discovery of any address
	AcceptAll                 // promiscuous mode
)

// Qdisc says whether frames pass the interface's queueing discipline.
type Qdisc uint8

// Values of Qdisc.
const (
	BypassQdisc Qdisc = iota // straight to the driver; neither tc nor TCX egress sees the frame
	UseQdisc                 // through it, marked port.OursMark
)

// Config describes a port.
type Config struct {
	Ifname string // name of the interface
	Netns  string // named namespace it is in, "" for the process's own
	Queues int    // default 1
	Fanout Fanout
	Slots  int // receive slots of each queue, rounded up to 64; default 4096 (8.7 MB, and 8.4 MB for large frames)
	Accept Accept
	Qdisc  Qdisc
}

func (c *Config) setDefaults() {
	if c.Queues <= 0 {
		c.Queues = 1
	}
	if c.Slots <= 0 {
		c.Slots = defaultSlots
	}
	c.Slots = (c.Slots + blockLen - 1) / blockLen * blockLen
}
