package upgrade

import (
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/journal"
	"example.com/culvert/control/pcp"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/own"
)

// Hello is what the new process says first.
type Hello struct {
	Version  string // of its program
	Protocol int
	Format   string // Digest
}

// Key names an interface.
type Key struct{ Netns, Name string }

// Offer is what the old process has.
type Offer struct {
	Name       string   // of the gateway
	Version    string   // of its program
	Generation uint32   // of its rules
	Secret     [16]byte // conntrack.Table.Key
	SlotBits   int      // conntrack.Table.SlotBits
	Slots      uint32   // of the table, that have ever been used
	Upgrades   uint64   // how often it was handed over before

	Interfaces []Interface // with their descriptors, in this order
	Sockets    []Socket    // then these, with one each
	Added      []Added
	Excluded   []Key // removed at run time
	Uplinks    []Uplink
}

// Interface is one that the old process serves. Its descriptors are those of its queues,
// then of its estate, then that of the TAP to the kernel.
type Interface struct {
	Key
	ID     uint16
	Index  int // of the kernel's interface
	Driver string
	Queues int
	Rings  int // descriptors of these: a queue may have two
	Box    bool
	Owned  bool
	Estate own.Estate
}

// Descriptors returns how many descriptors belong to the interface.
func (i *Interface) Descriptors() int {
	n := i.Rings
	if i.Owned {
		n += i.Estate.Descriptors()
	}
	if i.Box {
		n++
	}
	return n
}

// Roles of sockets.
const (
	SocketControl = "control" // unix socket of the control interface
	SocketRemote  = "remote"  // its TCP listener
	SocketMetrics = "metrics"
)

// Socket is a listener.
type Socket struct {
	Role    string
	Address string // path or TCP address, as configured
	Inode   uint64 // of a path
}

// Added is an interface that was added at run time.
type Added struct {
	Name, Area, Driver string
	Addresses          []string
	NextHops           []string
}

// Uplink is the state of one that is checked.
type Uplink struct {
	Key
	Down    bool
	Since   time.Time
	Changes uint64
	Trouble string
}

// Ready says that the new process could go on at once.
type Ready struct{ Interfaces int }

// Round says what the numbers in flows mean; its one descriptor is the State.
type Round struct {
	Policies []conntrack.Timeouts
	Helpers  []string
}

// Taken is the answer to a Round.
type Taken struct {
	Not []uint32 // slots of flows that are to be sent again
}

// Final is the last Round, and what goes with it.
type Final struct {
	Round
	Legacy   *dataplane.Legacy
	Ports    []Rested    // in the order of Offer.Interfaces
	Stopped  int64       // when the workers did, boot clock, ns
	Mappings []pcp.Saved // ports that hosts have at their request
	Epoch    time.Time   // of the service that gives them
	Helped   []dataplane.SavedHelp
	Alarms   []uint64
	Recorded bool // events are, and go on to be
}

// Rested is where the queues of an interface stand.
type Rested struct {
	Queues []port.Rest
	Box    []port.Rest
}

// Running says what became of all that.
type Running struct {
	At   int64 // when packets went on, boot clock, ns
	Done dataplane.Restored
}

// Leave is the last word of the old process. Its descriptors are those of Events.
type Leave struct {
	Events *journal.Past // nil: nothing was recorded
}
