package afpacket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/virtio"
)

const (
	// Frames that do not fit a slot are fetched into these. 16 of them are what
	// one Recv returns at most: 1 MB, the size of a core's second-level cache.
	bigFrames = 16
	bigRoom   = 64          // before the frame: a cache line
	bigSize   = 66<<10 + 64 // room and the longest GSO frame; an odd number of lines spreads headers over the cache

	// A tpacket2_hdr and its sockaddr_ll start each slot (linux/if_packet.h).
	offStatus  = 0
	offLen     = 4
	offSnaplen = 8
	offMAC     = 12
	offTCI     = 24
	offTPID    = 26
	offPktType = 32 + 10

	// The packet's memory starts behind the tpacket2_hdr, which holds the slot's
	// status; the sockaddr_ll and its padding are headroom: 44 bytes.
	offMem = 32

	tpid8021Q = 0x8100

	// An error on the socket (interface down) makes ppoll return at once until
	// somebody reads it. Recv does so when it has been called for nothing this often.
	emptyBeforeError = 64
)

// queue is one receive ring, and the sender of its worker.
//
// Slots from oldest up to next are lent to the worker.
type queue struct {
	sender
	port *Port
	rx   *socket

	next, slots int // slot to look at, slots in the ring
	lent        int
	big         []byte // bigFrames buffers
	bigUsed     int
	empty       int  // calls of Recv in a row that found nothing
	strayed     bool // next is not where the kernel goes on, see find

	large largeRing

	frames, bytes, truncated, foreign atomic.Uint64

	mu    sync.Mutex // guards drops (reading them from the kernel clears them there), away, and closing receivers
	drops uint64
	away  bool // the kernel's count of drops is another process's, which goes on with the ring
}

func (q *queue) open(ifindex int, cfg Config) (err error) {
	q.slots = cfg.Slots
	if q.rx, err = newReceiver(ifindex, ordinary, cfg.Slots); err != nil {
		return err
	}
	return q.openRest(ifindex, cfg)
}

// openRest opens what a queue has besides its ring.
func (q *queue) openRest(ifindex int, cfg Config) (err error) {
	q.sender.port = q.port
	q.large.slots = cfg.largeSlots()
	q.big, err = unix.Mmap(-1, 0, bigFrames*bigSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map receive buffers: %w", err)
	}
	return q.sender.open(ifindex, cfg.Qdisc)
}

func (q *queue) close() error {
	errs := []error{q.sender.Close()}
	q.mu.Lock() // Stats may still be called
	defer q.mu.Unlock()
	for _, s := range q.receivers() {
		errs = append(errs, s.close())
	}
	if q.big != nil {
		errs = append(errs, unix.Munmap(q.big))
		q.big = nil
	}
	return errors.Join(errs...)
}

// receivers returns the sockets that q receives from.
func (q *queue) receivers() (all []*socket) {
	for _, s := range []*socket{q.rx, q.large.socket} {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// FD implements port.Queue.
func (q *queue) FD() int { return q.rx.fd }

// SecondFD implements port.TwoRings.
func (q *queue) SecondFD() int {
	if q.large.socket == nil {
		return -1
	}
	return q.large.fd
}

// Recv implements port.Queue.
func (q *queue) Recv(pkts []packet.Packet) int {
	n := 0
	var bytes uint64
	for n < len(pkts) && q.lent < q.slots {
		if q.strayed && !q.find() { // there are large ones at most
			if q.large.socket == nil || q.large.lent == bigFrames {
				break
			}
			long := q.large.head()
			if long == nil {
				break
			}
			if q.takeLarge(&pkts[n], long) {
				bytes += uint64(pkts[n].End - pkts[n].Off)
				n++
			}
			continue
		}
		slot := q.rx.mem[q.next*slotSize:][:slotSize:slotSize]
		status := atomic.LoadUint32(statusOf(slot))
		if q.large.socket != nil {
			if long := q.large.head(); long != nil {
				status = atomic.LoadUint32(statusOf(slot)) // what arrived before that is here by now
				if status&unix.TP_STATUS_USER == 0 || before(long, slot) {
					if q.large.lent == bigFrames { // what arrived later waits as well
						break
					}
					if q.takeLarge(&pkts[n], long) {
						bytes += uint64(pkts[n].End - pkts[n].Off)
						n++
					}
					continue
				}
			}
		}
		if status&unix.TP_STATUS_USER == 0 {
			break
		}
		if status&unix.TP_STATUS_COPY != 0 && q.bigUsed == bigFrames {
			break
		}
		if q.fill(&pkts[n], slot, status) {
			bytes += uint64(pkts[n].End - pkts[n].Off)
			n++
		}
		q.lent++
		if q.next++; q.next == q.slots {
			q.next = 0
		}
	}
	if n == 0 {
		q.clearError()
		return 0
	}
	q.empty = 0
	q.frames.Add(uint64(n))
	q.bytes.Add(bytes)
	return n
}

// fill makes p the frame of slot and reports whether there is one.
func (q *queue) fill(p *packet.Packet, slot []byte, status uint32) bool {
	ne := binary.NativeEndian
	length := int(ne.Uint32(slot[offLen:]))
	snap := int(ne.Uint32(slot[offSnaplen:]))
	p.HasVLAN = status&unix.TP_STATUS_VLAN_VALID != 0
	p.VLAN = ne.Uint16(slot[offTCI:])
	p.Link = packet.LinkEthernet
	p.LinkKind = slot[offPktType]
	foreign := p.HasVLAN && status&unix.TP_STATUS_VLAN_TPID_VALID != 0 && ne.Uint16(slot[offTPID:]) != tpid8021Q
	if status&unix.TP_STATUS_COPY != 0 {
		if !q.fetch(p, length) { // even if foreign: the socket's queue must stay in step with the ring
			q.truncated.Add(1)
			return false
		}
	} else {
		mac := int(ne.Uint16(slot[offMAC:]))
		if snap < length || mac < virtio.Len || mac+snap > len(slot) {
			q.truncated.Add(1)
			return false
		}
		p.Mem = slot[offMem:]
		p.Off = mac - offMem
		p.End = p.Off + snap
		p.Offload = virtio.Get(slot[mac-virtio.Len:])
	}
	if foreign || p.End-p.Off < port.EthernetHeader {
		q.foreign.Add(1)
		return false
	}
	return true
}

// fetch reads a frame of the given length, too long for its slot, from the socket's queue.
func (q *queue) fetch(p *packet.Packet, length int) bool {
	buf := q.big[q.bigUsed*bigSize:][:bigSize:bigSize]
	dst := buf[bigRoom-virtio.Len:]
	for range 2 { // a pending error of the socket, interface down, comes first
		n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(q.rx.fd), uintptr(unsafe.Pointer(&dst[0])), uintptr(len(dst)),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
		if e != 0 {
			continue
		}
		if int(n) != length+virtio.Len || int(n) > len(dst) {
			return false
		}
		q.bigUsed++
		p.Mem, p.Off, p.End = buf, bigRoom, bigRoom+length
		p.Offload = virtio.Get(dst)
		return true
	}
	return false
}

// clearError reads the socket's error now and then, so that a poller can sleep again.
func (q *queue) clearError() {
	if q.empty++; q.empty >= emptyBeforeError {
		q.empty = 0
		for _, s := range [...]*socket{q.rx, q.large.socket} {
			if s != nil {
				unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR) // which error it is, Send will tell
			}
		}
	}
}

// Release implements port.Queue.
func (q *queue) Release() {
	i := q.next - q.lent
	if i < 0 {
		i += q.slots
	}
	for ; q.lent > 0; q.lent-- {
		storeRelease(statusOf(q.rx.mem[i*slotSize:]), unix.TP_STATUS_KERNEL)
		if i++; i == q.slots {
			i = 0
		}
	}
	q.bigUsed = 0
	if q.large.lent > 0 {
		q.large.release()
	}
}

// Stats implements port.Queue.
func (q *queue) Stats() port.Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.statsLocked()
}

func (q *queue) statsLocked() port.Stats {
	if !q.away {
		for _, s := range q.receivers() {
			q.drops += s.dropped()
		}
	}
	return port.Stats{
		RxFrames: q.frames.Load(), RxBytes: q.bytes.Load(),
		RxRingDrops: q.drops, RxTruncated: q.truncated.Load(), RxForeignTag: q.foreign.Load(),
		TxFrames: q.sent.Load(), TxBytes: q.sentBytes.Load(), TxRefused: q.refusedTotal.Load(),
	}
}

// dropped returns how many frames found no slot since it was asked last.
func (s *socket) dropped() uint64 {
	st, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return uint64(st.Drops)
}

// statusOf returns the status word of a slot, which the kernel changes too.
func statusOf(slot []byte) *uint32 { return (*uint32)(unsafe.Pointer(&slot[offStatus])) }
