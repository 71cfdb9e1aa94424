package port

import (
	"errors"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/steer"
)

// ErrGone is what Refresh says of an interface that was deleted.
var ErrGone = errors.New("the interface is gone")

// Status is the outcome of Queue.Send.
type Status uint8

const (
	Sent        Status = iota // accepted; leaves with the next Flush at the latest
	TooBig                    // longer than the port's MTU and not segmentable by it
	Unsupported               // wants an offload the port does not do: segment, or complete the checksum, first
	Full                      // no room in the transmit queue, nothing queued
	Down                      // the interface is down or gone
	NumStatuses
)

var statusNames = [NumStatuses]string{"sent", "too-big", "unsupported", "full", "down"}

// String returns the name of s as metrics print it.
func (s Status) String() string {
	if s >= NumStatuses {
		return "invalid"
	}
	return statusNames[s]
}

// Info describes a port. It changes only through Port.Refresh.
type Info struct {
	Name      string
	Index     int         // kernel interface index in its namespace, 0 if it has none
	Link      packet.Link // what frames start with
	MAC       [6]byte     // LinkEthernet only
	MTU       int         // largest IP packet, bytes
	GSO       bool        // takes GSO frames and partial checksums (else segment and complete first)
	Up        bool        // administratively up, and not deleted
	Driver    string      // "af_packet", "tun", "tap", "mem", "pcap"
	Netns     string      // named namespace the interface is in, "" for the process's own
	NumQueues int
}

// Port is a network interface as the data path sees it: one Queue for each
// worker. Methods are for the control path and safe for concurrent use.
type Port interface {
	Info() Info
	// Refresh reads MAC, MTU and state of the interface again. When the interface is
	// gone it returns the last Info with Up false, and an error that wraps ErrGone.
	// With any other error nothing has changed: the kernel could not be asked.
	Refresh() (Info, error)
	// Queue returns the queue of worker i, 0 <= i < NumQueues.
	Queue(i int) Queue
	// NewSender opens one more send-only queue for a sender that is not a worker
	// (the host stack). The caller closes it, before it closes the port; it may
	// implement Closer.
	NewSender() (Sender, error)
	// Close ends the port. No queue may be in use any more.
	Close() error
}

// Steerer is implemented by ports that can be told which queue takes which packets.
type Steerer interface {
	// Steer has the queues take what t says: what arrives when it returns, and some of
	// what arrived since it was called. What is in a queue stays there.
	Steer(t *steer.Table) error
}

// Sender transmits frames. It is used by one goroutine at a time.
type Sender interface {
	// Send queues p's frame for transmission, with p.Offload and, if p.HasVLAN,
	// the tag. p.Off must point at a frame of the port's own Link kind, with
	// packet.Headroom writable bytes before it (Send may use them). The memory
	// must stay as it is until Flush. Send never blocks; it may flush.
	Send(p *packet.Packet) Status
	// Flush hands everything queued to the kernel, in order, and returns how
	// many frames were refused since the last Flush, by cause.
	Flush() (refused [NumStatuses]uint32)
}

// Queue is one receive and transmit queue. Only its worker touches it.
type Queue interface {
	Sender
	// Recv fills at most len(pkts) packets (Mem, Off, End, Offload, VLAN, Link,
	// LinkKind; other fields keep what they had) and returns how many. It never
	// blocks. Memory of the packets is the queue's and stays valid until Release.
	Recv(pkts []packet.Packet) int
	// Release gives back the memory of everything Recv returned.
	Release()
	// FD returns a descriptor that polls readable when Recv would find
	// something, -1 if there is none (then somebody else calls the worker).
	FD() int
	// Stats may be called by any goroutine.
	Stats() Stats
}

// TwoRings is implemented by queues that have two descriptors to poll.
type TwoRings interface {
	// SecondFD returns the other one, -1 if there is none.
	SecondFD() int
}

// PollFDs returns the descriptors to poll for what q receives.
func PollFDs(q Queue) (fds []int) {
	if fd := q.FD(); fd >= 0 {
		fds = append(fds, fd)
	}
	if two, ok := q.(TwoRings); ok {
		if fd := two.SecondFD(); fd >= 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// Stats are the counters of a queue since it was opened.
type Stats struct {
	RxFrames, RxBytes uint64
	TxFrames, TxBytes uint64 // handed to the kernel
	RxRingDrops       uint64 // the kernel had no slot (PACKET_STATISTICS tp_drops)
	RxTruncated       uint64 // frame longer than its slot and not retrievable
	RxForeignTag      uint64 // tagged with another protocol than 802.1Q, or twice: dropped
	TxRefused         uint64 // the kernel refused the frame
}

// Add adds the counters of another queue.
func (s *Stats) Add(o Stats) {
	s.RxFrames += o.RxFrames
	s.RxBytes += o.RxBytes
	s.TxFrames += o.TxFrames
	s.TxBytes += o.TxBytes
	s.RxRingDrops += o.RxRingDrops
	s.RxTruncated += o.RxTruncated
	s.RxForeignTag += o.RxForeignTag
	s.TxRefused += o.TxRefused
}

// Closer is implemented by senders that NewSender returned.
type Closer interface{ Close() error }

// Movable is a port that another process can go on with: its queues are descriptors that
// keep what arrives meanwhile.
type Movable interface {
	Port
	// Descriptors returns those of the queues, in their order, and behind them those that
	// queues have besides. They stay the port's.
	Descriptors() []int
	// Rests returns where the queues stand, whose workers have stopped.
	Rests() []Rest
	// Resume has the queues go on from there, before a worker begins.
	Resume(at []Rest) error
	// Strayed says that another process may have received from the queues meanwhile,
	// and has ended. No worker runs.
	Strayed()
}

// Rest is where a queue stands.
type Rest struct {
	Next  int // receive slot to look at, 0 if it has none
	Large int // of its ring for large frames, likewise
	Stats Stats
}
