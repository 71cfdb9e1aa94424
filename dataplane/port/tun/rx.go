package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/virtio"
)

const (
	frames = 64 // what is lent at most: one batch
	room   = 64 // before the frame: a cache line

	// Room and the longest GSO frame. An odd number of cache lines, so that the headers
	// of a batch lie in different cache sets.
	frameSize = 66<<10 + 64
)

// queue is one descriptor of the interface.
type queue struct {
	sender
	mem     []byte // frames buffers of frameSize
	lent    int
	retired bool // fd is no longer the interface

	rx, rxBytes, truncated atomic.Uint64
}

func newQueue(p *Port, fd int) (*queue, error) {
	mem, err := unix.Mmap(-1, 0, frames*frameSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map receive buffers: %w", err)
	}
	q := &queue{mem: mem}
	q.sender.open(p, fd)
	return q, nil
}

func (q *queue) close() error {
	err := q.sender.Close()
	if q.mem != nil {
		err = errors.Join(err, unix.Munmap(q.mem))
		q.mem = nil
	}
	return err
}

// FD implements port.Queue.
func (q *queue) FD() int { return q.fd }

// Recv implements port.Queue.
func (q *queue) Recv(pkts []packet.Packet) int {
	n := 0
	var bytes uint64
	for n < len(pkts) && q.lent < frames && !q.retired {
		buf := q.mem[q.lent*frameSize:][:frameSize:frameSize]
		dst := buf[room-q.header:]
		r, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd), uintptr(unsafe.Pointer(&dst[0])), uintptr(len(dst)))
		if e != 0 {
			if e == unix.EBADFD {
				q.retire()
			}
			break
		}
		if int(r) <= q.header || int(r) == len(dst) {
			q.truncated.Add(1)
			continue
		}
		p := &pkts[n]
		p.Mem, p.Off, p.End = buf, room, room+int(r)-q.header
		p.Offload = packet.Offload{}
		if q.header > 0 {
			p.Offload = virtio.Get(dst)
		}
		p.Link = q.port.link
		p.VLAN, p.HasVLAN = 0, false
		p.LinkKind = unix.PACKET_HOST
		if p.Link == packet.LinkEthernet {
			q.ethernet(p)
		}
		bytes += uint64(r) - uint64(q.header)
		q.lent++
		n++
	}
	if n > 0 {
		q.rx.Add(uint64(n))
		q.rxBytes.Add(bytes)
	}
	return n
}

// ethernet takes the tag out of a frame that a TAP gave us, and finds its link kind.
func (q *queue) ethernet(p *packet.Packet) {
	f := p.Frame()
	if len(f) < port.EthernetHeader {
		return
	}
	switch {
	case [6]byte(f) == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		p.LinkKind = unix.PACKET_BROADCAST
	case f[0]&1 != 0:
		p.LinkKind = unix.PACKET_MULTICAST
	}
	if len(f) < port.EthernetHeader+tagLen || binary.BigEndian.Uint16(f[macs:]) != tpid8021Q {
		return
	}
	p.VLAN, p.HasVLAN = binary.BigEndian.Uint16(f[macs+2:]), true
	copy(f[tagLen:], f[:macs])
	p.Off += tagLen
	p.Offload.HdrLen -= min(p.Offload.HdrLen, tagLen)
	p.Offload.CsumStart -= min(p.Offload.CsumStart, tagLen)
}

// retire silences the descriptor of an interface that was deleted: it would poll
// readable for ever. An eventfd that nobody writes to takes its place.
func (q *queue) retire() {
	q.retired = true
	q.port.gone.Store(true)
	quiet, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return // out of descriptors: the poller spins, as it would have
	}
	unix.Dup3(quiet, q.fd, unix.O_CLOEXEC) // both are open, nothing to fail
	unix.Close(quiet)
}

// Release implements port.Queue.
func (q *queue) Release() { q.lent = 0 }

// Stats implements port.Queue.
func (q *queue) Stats() port.Stats {
	return port.Stats{
		RxFrames: q.rx.Load(), RxBytes: q.rxBytes.Load(), RxTruncated: q.truncated.Load(),
		TxFrames: q.sent.Load(), TxBytes: q.sentBytes.Load(), TxRefused: q.refused.Load(),
	}
}
