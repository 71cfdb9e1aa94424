package tun

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/virtio"
)

const (
	macs      = 12 // both addresses of an Ethernet frame: the tag goes behind them
	tagLen    = 4
	headLen   = virtio.Len + macs + tagLen
	tpid8021Q = 0x8100
)

// sender writes to one descriptor of the interface.
type sender struct {
	port   *Port
	fd     int
	header int // length of the virtio header: 0 or virtio.Len

	// What is written before the frame, and the two pieces of a write.
	head [headLen]byte
	iov  [2]unix.Iovec

	sent, sentBytes, refused atomic.Uint64
}

func (s *sender) open(p *Port, fd int) {
	s.port, s.fd = p, fd
	if p.cfg.Offload == OffloadOn {
		s.header = virtio.Len
	}
}

// Close implements port.Closer.
func (s *sender) Close() error {
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// Send implements port.Sender; the frame is with the kernel when it returns.
func (s *sender) Send(p *packet.Packet) port.Status {
	if !s.port.dev.Up() || s.port.gone.Load() {
		return port.Down
	}
	if st := port.Fit(p, s.port.link, s.port.dev.MTU(), port.GSO(s.header > 0)); st != port.Sent {
		return st
	}
	var e unix.Errno
	if p.HasVLAN && s.port.link == packet.LinkEthernet {
		e = s.writeTagged(p)
	} else {
		e = s.write(p)
	}
	if e != 0 {
		s.refused.Add(1)
		return s.cause(e)
	}
	s.sent.Add(1)
	s.sentBytes.Add(uint64(p.End - p.Off))
	return port.Sent
}

// write sends the frame with its virtio header put into the headroom.
func (s *sender) write(p *packet.Packet) unix.Errno {
	from := p.Off - s.header
	if s.header > 0 {
		virtio.Put(p.Mem[from:], &p.Offload, 0, virtio.HdrLen(&p.Offload, 0, p.End-p.Off))
	}
	_, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(&p.Mem[from])), uintptr(p.End-from))
	return e
}

// writeTagged sends the frame with an 802.1Q tag, and leaves its memory alone.
func (s *sender) writeTagged(p *packet.Packet) unix.Errno {
	head := s.head[virtio.Len-s.header:]
	if s.header > 0 {
		virtio.Put(head, &p.Offload, tagLen, virtio.HdrLen(&p.Offload, tagLen, p.End-p.Off+tagLen))
	}
	l2 := head[s.header:]
	copy(l2[:macs], p.Mem[p.Off:])
	binary.BigEndian.PutUint16(l2[macs:], tpid8021Q)
	binary.BigEndian.PutUint16(l2[macs+2:], p.VLAN)
	s.iov[0] = unix.Iovec{Base: &head[0], Len: uint64(len(head))}
	s.iov[1] = unix.Iovec{Base: &p.Mem[p.Off+macs], Len: uint64(p.End - p.Off - macs)}
	_, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(s.fd), uintptr(unsafe.Pointer(&s.iov[0])), uintptr(len(s.iov)))
	s.iov[1].Base = nil
	return e
}

// cause returns what an error of write means for the frame.
func (s *sender) cause(e unix.Errno) port.Status {
	switch e {
	case unix.EBADFD: // the interface was deleted
		s.port.gone.Store(true)
		return port.Down
	case unix.EIO: // it is down
		return port.Down
	case unix.EINVAL, unix.EFAULT:
		return port.Unsupported
	}
	return port.Full // ENOMEM, EAGAIN, ENOBUFS
}

// Flush implements port.Sender. Nothing is ever left to flush.
func (s *sender) Flush() (refused [port.NumStatuses]uint32) { return refused }
