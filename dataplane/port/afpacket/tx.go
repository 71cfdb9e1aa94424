package afpacket

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/virtio"
)

const (
	txBatch = 64 // frames in the ring before it is flushed
	txTries = 4  // system calls on a ring that does not move

	offData = 32 // TPACKET2_HDRLEN without its sockaddr_ll: where the kernel looks for data
	txRoom  = slotSize - offData - virtio.Len

	macs    = 12 // both addresses: the VLAN tag goes behind them
	tagLen  = 4
	headLen = virtio.Len + macs + tagLen
)

// sender transmits from one worker, or from the host stack.
type sender struct {
	port *Port
	ring *socket // frames that fit a slot
	cur  int     // next slot to use
	pend int     // slots before cur that the kernel has not been told of
	size int     // bytes in them
	bulk bulk    // all others

	refused                       [port.NumStatuses]uint32
	sent, sentBytes, refusedTotal atomic.Uint64
}

func (s *sender) open(ifindex int, q Qdisc) (err error) {
	s.ring, err = newTransmitter(ifindex, q,
		packetOption("PACKET_VERSION", unix.PACKET_VERSION, unix.TPACKET_V2),
		packetOption("PACKET_LOSS", unix.PACKET_LOSS, 1)) // a bad slot is passed over, not waited for
	if err != nil {
		return err
	}
	if err := s.ring.addRing(unix.PACKET_TX_RING, ordinary, txSlots); err != nil {
		return err
	}
	return s.bulk.open(ifindex, q)
}

// Close implements port.Closer.
func (s *sender) Close() error {
	var err error
	if s.ring != nil {
		err = s.ring.close()
	}
	return errors.Join(err, s.bulk.close())
}

// Send implements port.Sender.
func (s *sender) Send(p *packet.Packet) port.Status {
	if !s.port.dev.Up() {
		return port.Down
	}
	if st := port.Fit(p, packet.LinkEthernet, s.port.dev.MTU(), port.WithGSO); st != port.Sent {
		return st
	}
	tag := 0
	if p.HasVLAN {
		tag = tagLen
	}
	n := p.End - p.Off
	if n+tag > txRoom || p.Offload.GSOType != packet.GSONone {
		if s.pend > 0 {
			s.flushRing()
		}
		if s.bulk.full() {
			s.flushBulk()
		}
		s.bulk.add(p, tag)
		return port.Sent
	}
	if s.bulk.n > 0 {
		s.flushBulk()
	}
	return s.addRing(p, n, tag)
}

// addRing copies p's frame into the next slot of the ring.
func (s *sender) addRing(p *packet.Packet, n, tag int) port.Status {
	slot := s.ring.mem[s.cur*slotSize:][:slotSize:slotSize]
	if atomic.LoadUint32(statusOf(slot)) != unix.TP_STATUS_AVAILABLE {
		s.flushRing()
		if atomic.LoadUint32(statusOf(slot)) != unix.TP_STATUS_AVAILABLE {
			return port.Full
		}
	}
	data := slot[offData:]
	virtio.Put(data, &p.Offload, tag, n+tag) // header length = all: the kernel keeps the frame linear
	frame := p.Mem[p.Off:p.End]
	if tag == 0 {
		copy(data[virtio.Len:], frame)
	} else {
		putTagged(data[virtio.Len:], frame, p.VLAN)
		copy(data[headLen:], frame[macs:])
	}
	binary.NativeEndian.PutUint32(slot[offLen:], uint32(virtio.Len+n+tag))
	storeRelease(statusOf(slot), unix.TP_STATUS_SEND_REQUEST)
	if s.cur++; s.cur == txSlots {
		s.cur = 0
	}
	s.size += n + tag
	if s.pend++; s.pend == txBatch {
		s.flushRing()
	}
	return port.Sent
}

// putTagged writes the addresses of frame and an 802.1Q tag to dst.
func putTagged(dst, frame []byte, tci uint16) {
	copy(dst[:macs], frame)
	binary.BigEndian.PutUint16(dst[macs:], tpid8021Q)
	binary.BigEndian.PutUint16(dst[macs+2:], tci)
}

// Flush implements port.Sender.
func (s *sender) Flush() (refused [port.NumStatuses]uint32) {
	if s.pend > 0 {
		s.flushRing()
	}
	if s.bulk.n > 0 {
		s.flushBulk()
	}
	refused, s.refused = s.refused, refused
	return refused
}

// refuse counts n frames that the kernel did not take.
func (s *sender) refuse(cause port.Status, n int) {
	s.refused[cause] += uint32(n)
	s.refusedTotal.Add(uint64(n))
}

// flushRing hands the pending slots to the kernel.
//
// The system call returns the bytes of the frames it sent. It stops at a
// frame it cannot send now, which keeps its SEND_REQUEST; a malformed frame it
// passes over (PACKET_LOSS), so that only the missing bytes tell.
func (s *sender) flushRing() {
	for try := 1; s.pend > 0; try++ {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.ring.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		if e == 0 && int(n) == s.size {
			s.count(s.pend, s.size)
			s.pend, s.size = 0, 0
			return
		}
		done, bytes := s.consumed()
		s.pend -= done
		s.size -= bytes
		bad := 0
		if e == 0 && bytes > int(n) {
			bad = missing(done, bytes, bytes-int(n))
			s.refuse(port.Unsupported, bad)
			bytes = int(n)
		}
		s.count(done-bad, bytes)
		if cause := causeOf(e); cause == port.Down || try >= txTries {
			s.takeBack(cause)
		}
	}
}

// consumed returns how many of the pending frames the kernel is done with, and their bytes.
func (s *sender) consumed() (frames, bytes int) {
	i := s.first()
	for ; frames < s.pend; frames++ {
		slot := s.ring.mem[i*slotSize:]
		if atomic.LoadUint32(statusOf(slot)) == unix.TP_STATUS_SEND_REQUEST {
			break
		}
		bytes += int(binary.NativeEndian.Uint32(slot[offLen:])) - virtio.Len
		if i++; i == txSlots {
			i = 0
		}
	}
	return frames, bytes
}

// first returns the index of the oldest pending slot.
func (s *sender) first() int {
	i := s.cur - s.pend
	if i < 0 {
		i += txSlots
	}
	return i
}

// missing estimates how many of some frames make up the given missing bytes: one,
// or as many as frames of average length do.
func missing(frames, bytes, gone int) int {
	if frames <= 1 {
		return frames
	}
	mean := max(1, bytes/frames)
	return max(1, min(frames, (gone+mean/2)/mean))
}

// takeBack drops the pending frames. The kernel waits at the oldest of them, so the
// slots are used again from there.
func (s *sender) takeBack(cause port.Status) {
	s.refuse(cause, s.pend)
	first := s.first()
	for i := first; s.pend > 0; s.pend-- {
		storeRelease(statusOf(s.ring.mem[i*slotSize:]), unix.TP_STATUS_AVAILABLE)
		if i++; i == txSlots {
			i = 0
		}
	}
	s.cur, s.size = first, 0
}

func (s *sender) count(frames, bytes int) {
	s.sent.Add(uint64(frames))
	s.sentBytes.Add(uint64(bytes))
}

// causeOf returns what an error of a sending system call means for the frame.
func causeOf(e unix.Errno) port.Status {
	switch e {
	case unix.ENETDOWN, unix.ENXIO, unix.ENODEV, unix.EBADF:
		return port.Down
	case unix.EMSGSIZE:
		return port.TooBig
	case unix.EINVAL, unix.EPROTO, unix.EOPNOTSUPP:
		return port.Unsupported
	}
	return port.Full // ENOBUFS, EAGAIN, ENOMEM
}
