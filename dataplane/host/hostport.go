package host

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// hostPort is the engine's side of host0. Its one queue belongs to worker 0;
// other workers only send.
type hostPort struct {
	host *Host
	out  *ring // from netstack to worker 0

	// signalled: fd is readable, or is about to be. So fd is written once for
	// each time the worker ran dry, not once a packet.
	signalled atomic.Bool
	fdMu      sync.Mutex // guards fd against its end; not taken by the worker
	fd        int        // eventfd, -1 when closed

	queue queue
}

var (
	_ port.Port  = (*hostPort)(nil)
	_ port.Queue = (*queue)(nil)
)

func newHostPort(h *Host, queueLen int) (*hostPort, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("host: eventfd: %w", err)
	}
	p := &hostPort{host: h, out: newRing(queueLen), fd: fd}
	p.queue = queue{sender: sender{host: h}, port: p, pollFD: fd}
	return p, nil
}

// signal tells the worker that out is not empty.
func (p *hostPort) signal() {
	if !p.signalled.CompareAndSwap(false, true) {
		return
	}
	p.fdMu.Lock()
	defer p.fdMu.Unlock()
	if p.fd >= 0 {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		// Cannot fail: the counter is far from its limit.
		_, _ = unix.Write(p.fd, one[:])
	}
}

func (p *hostPort) closeFD() {
	p.fdMu.Lock()
	defer p.fdMu.Unlock()
	if p.fd >= 0 {
		unix.Close(p.fd)
		p.fd = -1
	}
}

func (p *hostPort) Info() port.Info {
	return port.Info{
		Name: "host", Link: packet.LinkIP, MTU: gsoMax, GSO: true, Driver: "host", NumQueues: 1,
	}
}

func (p *hostPort) Refresh() (port.Info, error) { return p.Info(), nil }

func (p *hostPort) Queue(int) port.Queue { return &p.queue }

func (p *hostPort) NewSender() (port.Sender, error) { return &sender{host: p.host}, nil }

// Close does nothing: the port ends with its Host.
func (p *hostPort) Close() error { return nil }

// sender delivers packets to the stack. They are copied at once, so it needs no flushing.
type sender struct {
	host *Host
	tx   struct{ frames, bytes, refused atomic.Uint64 }
}

func (s *sender) Send(p *packet.Packet) port.Status {
	if !s.host.DeliverLocal(p.Frame(), p.Offload) {
		s.tx.refused.Add(1)
		return port.Full
	}
	s.tx.frames.Add(1)
	s.tx.bytes.Add(uint64(p.End - p.Off))
	return port.Sent
}

func (s *sender) Flush() (refused [port.NumStatuses]uint32) { return refused }

func (s *sender) Close() error { return nil }

// queue is the host port's queue.
type queue struct {
	sender
	port   *hostPort
	pollFD int
	rx     struct{ frames, bytes atomic.Uint64 }
}

func (q *queue) Recv(pkts []packet.Packet) int {
	n, bytes := 0, 0
	for n < len(pkts) {
		s, pos := q.port.out.read()
		if s == nil {
			if n > 0 || !q.rearm() {
				break
			}
			continue
		}
		at := int(pos&q.port.out.mask)*slotSize + packet.Headroom
		p := &pkts[n]
		p.Mem = q.port.out.mem
		p.Off, p.End = at, at+int(s.length)
		p.Offload = s.off
		p.Link, p.LinkKind = packet.LinkIP, unix.PACKET_HOST
		p.VLAN, p.HasVLAN = 0, false
		n++
		bytes += int(s.length)
	}
	if n > 0 {
		q.rx.frames.Add(uint64(n))
		q.rx.bytes.Add(uint64(bytes))
	}
	return n
}

// rearm makes the next packet write the eventfd again, and reports whether one
// has come in the meantime.
func (q *queue) rearm() (more bool) {
	if !q.port.signalled.Load() {
		return false
	}
	var count [8]byte
	if _, err := unix.Read(q.pollFD, count[:]); err != nil {
		return false // the producer has yet to write; stay signalled until it has
	}
	q.port.signalled.Store(false)
	return !q.port.out.empty()
}

func (q *queue) Release() { q.port.out.release() }

func (q *queue) FD() int { return q.pollFD }

func (q *queue) Stats() port.Stats {
	return port.Stats{
		RxFrames: q.rx.frames.Load(), RxBytes: q.rx.bytes.Load(), RxRingDrops: q.port.out.full.Load(),
		TxFrames: q.tx.frames.Load(), TxBytes: q.tx.bytes.Load(), TxRefused: q.tx.refused.Load(),
	}
}

// Tag returns a sender that gives every frame of s the VLAN tag vid, for the
// link of a VLAN sub-interface.
func Tag(s port.Sender, vid uint16) port.Sender { return tagged{s, vid} }

type tagged struct {
	port.Sender
	vid uint16
}

func (t tagged) Send(p *packet.Packet) port.Status {
	p.VLAN, p.HasVLAN = t.vid, true
	return t.Sender.Send(p)
}
