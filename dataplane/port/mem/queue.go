package mem

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// slot is one frame in a queue; its buffer is reused and only grows.
type slot struct {
	buf []byte // Headroom bytes, then the frame
	f   Frame  // f.Data is buf[Headroom:]
}

// queue is one receive queue, and the sender of its worker.
//
// slots[head:][:lent] are lent to the worker, the n behind them wait.
type queue struct {
	sender
	fd int // eventfd, -1 without

	mu        sync.Mutex // guards all below
	slots     []slot
	head      int
	lent, n   int
	rx, bytes uint64
	drops     uint64
}

func newQueue(p *Port, i int) (*queue, error) {
	q := &queue{sender: sender{port: p, index: i}, fd: -1, slots: make([]slot, p.opt.Depth)}
	if p.opt.Wake == WakeFD {
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("port %s: eventfd: %w", p.name, err)
		}
		q.fd = fd
	}
	return q, nil
}

func (q *queue) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.fd < 0 {
		return nil
	}
	fd := q.fd
	q.fd = -1
	return unix.Close(fd)
}

// FD implements port.Queue.
func (q *queue) FD() int { return q.fd }

// push copies f into the queue, as often as its fate says.
func (q *queue) push(f Frame) port.Status {
	fate := Pass
	q.mu.Lock()
	if q.port.opt.Impair != nil {
		fate = q.port.opt.Impair(f.Data)
	}
	was := q.n
	st := port.Sent
	switch fate {
	case Drop:
	case Duplicate:
		st = q.pushLocked(f)
		q.pushLocked(f) // the copy may be lost, the frame is not
	case Swap:
		st = q.pushLocked(f)
		if st == port.Sent && q.n > 1 {
			last, before := q.at(q.lent+q.n-1), q.at(q.lent+q.n-2)
			*last, *before = *before, *last
		}
	default:
		st = q.pushLocked(f)
	}
	if was == 0 && q.n > 0 && q.fd >= 0 {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		unix.Write(q.fd, one[:]) // cannot overflow: drained whenever the queue is
	}
	arrived := q.n > 0
	q.mu.Unlock()
	if arrived && q.port.opt.Notify != nil {
		q.port.opt.Notify(q.index)
	}
	return st
}

func (q *queue) pushLocked(f Frame) port.Status {
	if q.lent+q.n == len(q.slots) {
		q.drops++
		return port.Full
	}
	s := q.at(q.lent + q.n)
	s.buf = append(append(s.buf[:0], make([]byte, packet.Headroom)...), f.Data...)
	s.f = f
	s.f.Data = s.buf[packet.Headroom:]
	q.n++
	return port.Sent
}

func (q *queue) at(i int) *slot { return &q.slots[(q.head+i)%len(q.slots)] }

// Recv implements port.Queue.
func (q *queue) Recv(pkts []packet.Packet) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(pkts), q.n)
	for i := range pkts[:n] {
		s := q.at(q.lent + i)
		p := &pkts[i]
		p.Mem, p.Off, p.End = s.buf, packet.Headroom, len(s.buf)
		p.Offload, p.VLAN, p.HasVLAN = s.f.Offload, s.f.VLAN, s.f.HasVLAN
		p.Link = q.port.opt.Link
		p.LinkKind = q.port.linkKind(s.f.Data)
		q.bytes += uint64(len(s.f.Data))
	}
	q.rx += uint64(n)
	q.lent += n
	q.n -= n
	if n > 0 && q.n == 0 && q.fd >= 0 {
		var b [8]byte
		unix.Read(q.fd, b[:]) // non-blocking
	}
	return n
}

// Release implements port.Queue.
func (q *queue) Release() {
	q.mu.Lock()
	q.head = (q.head + q.lent) % len(q.slots)
	q.lent = 0
	q.mu.Unlock()
}

// Stats implements port.Queue.
func (q *queue) Stats() port.Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return port.Stats{
		RxFrames: q.rx, RxBytes: q.bytes, RxRingDrops: q.drops,
		TxFrames: q.tx.Load(), TxBytes: q.txBytes.Load(), TxRefused: q.refusedTotal.Load(),
	}
}

// linkKind returns the sll_pkttype that a kernel would give frame.
func (p *Port) linkKind(frame []byte) uint8 {
	switch {
	case p.opt.Link != packet.LinkEthernet || len(frame) < 6:
		return unix.PACKET_HOST
	case [6]byte(frame) == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		return unix.PACKET_BROADCAST
	case frame[0]&1 != 0:
		return unix.PACKET_MULTICAST
	case [6]byte(frame) != p.opt.MAC:
		return unix.PACKET_OTHERHOST
	}
	return unix.PACKET_HOST
}

// sender is the sending half of a queue, or a sender of its own.
type sender struct {
	port    *Port
	index   int
	pending [batch]packet.Packet // memory is borrowed until Flush
	n       int
	refused [port.NumStatuses]uint32

	tx, txBytes, refusedTotal atomic.Uint64
}

// Send implements port.Sender.
func (s *sender) Send(p *packet.Packet) port.Status {
	if s.port.down.Load() {
		return port.Down
	}
	if st := port.Fit(p, s.port.opt.Link, int(s.port.mtu.Load()), s.port.opt.GSO); st != port.Sent {
		return st
	}
	if s.n == batch {
		s.transmit()
	}
	s.pending[s.n] = *p
	s.n++
	return port.Sent
}

// Flush implements port.Sender.
func (s *sender) Flush() (refused [port.NumStatuses]uint32) {
	s.transmit()
	refused, s.refused = s.refused, refused
	return refused
}

// Close implements port.Closer.
func (s *sender) Close() error { return nil }

func (s *sender) transmit() {
	for i := range s.pending[:s.n] {
		p := &s.pending[i]
		st := s.port.deliver(Frame{Data: p.Frame(), Offload: p.Offload, VLAN: p.VLAN, HasVLAN: p.HasVLAN}, s.index)
		if st != port.Sent {
			s.refused[st]++
			s.refusedTotal.Add(1)
		} else {
			s.tx.Add(1)
			s.txBytes.Add(uint64(p.End - p.Off))
		}
		p.Mem = nil
	}
	s.n = 0
}
