package afpacket

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/virtio"
)

// bulkBatch is how many frames one sendmmsg takes: as many as one Recv returns of that kind.
const bulkBatch = bigFrames

// enoughStrikes is how often a device must refuse a GSO type before frames of that type
// no longer try it first. One refusal may be a full backlog.
const enoughStrikes = 8

// trialAfter is how many frames of such a type are sent until the device gets one again:
// it may have been full for long.
const trialAfter = 1024

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// bulk sends frames out of the memory they are in. Each message is two pieces: a
// copy of the virtio header (and of addresses and tag), and the frame.
type bulk struct {
	direct  *socket
	segment *socket // through the qdisc, where the kernel segments what the device cannot
	n       int
	msgs    [bulkBatch]mmsghdr
	iov     [bulkBatch][2]unix.Iovec
	head    [bulkBatch][headLen]byte
	bytes   [bulkBatch]int
	gso     [bulkBatch]uint8 // GSO type
	strikes [256]uint8       // by GSO type: refused in a row by the device, then taken by segment
	spared  [256]uint16      // by GSO type: taken by segment since the device got one
}

func (b *bulk) open(ifindex int, q Qdisc) (err error) {
	if b.direct, err = newTransmitter(ifindex, q); err != nil {
		return err
	}
	if b.segment, err = newTransmitter(ifindex, UseQdisc); err != nil {
		return err
	}
	for i := range b.msgs {
		b.msgs[i].hdr.Iov = &b.iov[i][0]
		b.msgs[i].hdr.Iovlen = 2
	}
	return nil
}

func (b *bulk) close() error {
	var errs []error
	for _, s := range []*socket{b.direct, b.segment} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}

func (b *bulk) full() bool { return b.n == bulkBatch }

// add queues p's frame, which gets tag (0 or tagLen) bytes of VLAN tag.
func (b *bulk) add(p *packet.Packet, tag int) {
	i := b.n
	b.n++
	n := p.End - p.Off + tag
	head := &b.head[i]
	virtio.Put(head[:], &p.Offload, tag, virtio.HdrLen(&p.Offload, tag, n))
	used, from := virtio.Len, p.Off
	if tag > 0 {
		putTagged(head[virtio.Len:], p.Mem[p.Off:p.End], p.VLAN)
		used, from = headLen, p.Off+macs
	}
	b.iov[i] = [2]unix.Iovec{
		{Base: &head[0], Len: uint64(used)},
		{Base: &p.Mem[from], Len: uint64(p.End - from)},
	}
	b.bytes[i] = n
	b.gso[i] = p.Offload.GSOType
}

// soft reports whether the device does not segment frames such as message i.
func (b *bulk) soft(i int) bool { return b.strikes[b.gso[i]] >= enoughStrikes }

// took takes note of a frame that a socket has sent.
func (b *bulk) took(s *socket, gso uint8) {
	if s == b.direct {
		b.strikes[gso] = 0
		return
	}
	if b.spared[gso]++; b.spared[gso] == trialAfter {
		b.spared[gso] = 0
		b.strikes[gso] = min(b.strikes[gso], enoughStrikes-1)
	}
}

// run returns the socket for message i and how many messages from there on take the same one.
func (b *bulk) run(i int) (*socket, int) {
	soft := b.soft(i)
	k := 1
	for i+k < b.n && b.soft(i+k) == soft {
		k++
	}
	if soft {
		return b.segment, k
	}
	return b.direct, k
}

// flushBulk hands the queued frames to the kernel. sendmmsg stops at the first
// message that fails: that one is decided, then it goes on.
func (s *sender) flushBulk() {
	b := &s.bulk
	for i := 0; i < b.n; {
		sock, k := b.run(i)
		n, e := b.sendmmsg(sock, i, k)
		if e == 0 {
			for range n {
				b.took(sock, b.gso[i])
				s.count(1, b.bytes[i])
				i++
			}
			continue
		}
		cause := causeOf(e)
		switch {
		case cause == port.Down:
			s.refuse(cause, b.n-i)
			i = b.n
			continue
		case cause == port.Full && sock == b.direct && b.gso[i] != packet.GSONone:
			if n, e = b.sendmmsg(b.segment, i, 1); e == 0 && n == 1 {
				b.strikes[b.gso[i]]++
				s.count(1, b.bytes[i])
				i++
				continue
			}
		}
		s.refuse(cause, 1)
		i++
	}
	for i := range b.iov[:b.n] {
		b.iov[i][1].Base = nil
	}
	b.n = 0
}

// sendmmsg sends messages i to i+k. It does not block.
func (b *bulk) sendmmsg(s *socket, i, k int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&b.msgs[i])), uintptr(k), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}
