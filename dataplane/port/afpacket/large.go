package afpacket

import (
	"encoding/binary"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/steer"
)

const (
	// largeFrom is the length from which frames have a ring of their own. Below it a
	// slot of such a ring would be empty for the most part.
	largeFrom = 16 << 10

	largePages = 17
	largeSlot  = largePages * 4096 // the longest GSO frame and what is before it
	largeLen   = 30                // slots of a block: 2 MB but for two pages
	largeBlock = largeLen * largeSlot
	largeShare = 1024 // slots of the other ring for each block

	offSec, offNsec = 16, 20 // when it arrived
)

var huge = ring{largeSlot, largeBlock, largeLen}

// apart reports whether queues have a second ring: the group's program must be ours, and
// say which of all sockets, in a byte of steer.Table.
func (c *Config) apart() bool { return c.Fanout == FanoutSteer && 2*c.Queues-1 <= math.MaxUint8 }

// largeSlots returns how many slots the second ring of a queue has.
func (c *Config) largeSlots() int { return max(c.Slots/largeShare, 1) * largeLen }

// addLarge opens the rings for large frames, behind filters that take nothing. Their
// sockets follow all others in the group: the one of queue i is number Queues+i.
func (p *Port) addLarge(ifindex int) (err error) {
	if !p.apart {
		return nil
	}
	for _, q := range p.queues {
		if q.large.socket, err = newReceiver(ifindex, huge, p.cfg.largeSlots()); err != nil {
			return err
		}
		if err := q.large.joinFanout(&p.group, p.cfg.Fanout); err != nil {
			return err
		}
	}
	return nil
}

// largeRing is the second ring of a queue. Slots from oldest up to next are lent to the
// worker.
type largeRing struct {
	*socket     // nil: large frames arrive with the others
	next, slots int
	lent        int
	strayed     bool // next is not where the kernel goes on
}

// head returns the next slot with a large frame, nil if there is none.
func (r *largeRing) head() []byte {
	if r.strayed && !r.find() {
		return nil
	}
	slot := r.mem[r.next*largeSlot:][:largeSlot:largeSlot]
	if atomic.LoadUint32(statusOf(slot))&unix.TP_STATUS_USER == 0 || r.lent == r.slots {
		return nil
	}
	return slot
}

func (r *largeRing) find() bool {
	at := oldest(r.mem, largeSlot, r.next, r.slots)
	if at < 0 {
		return false
	}
	r.next, r.strayed = at, false
	return true
}

// takeLarge makes p the large frame of a slot and reports whether there is one.
func (q *queue) takeLarge(p *packet.Packet, slot []byte) bool {
	ok := q.fill(p, slot, atomic.LoadUint32(statusOf(slot)))
	r := &q.large
	r.lent++
	if r.next++; r.next == r.slots {
		r.next = 0
	}
	return ok
}

// release gives back what Recv returned.
func (r *largeRing) release() {
	i := r.next - r.lent
	if i < 0 {
		i += r.slots
	}
	for ; r.lent > 0; r.lent-- {
		storeRelease(statusOf(r.mem[i*largeSlot:]), unix.TP_STATUS_KERNEL)
		if i++; i == r.slots {
			i = 0
		}
	}
}

// before reports whether the frame of slot a arrived before that of b.
func before(a, b []byte) bool {
	ne := binary.NativeEndian
	if x, y := ne.Uint32(a[offSec:]), ne.Uint32(b[offSec:]); x != y {
		return x < y
	}
	return ne.Uint32(a[offNsec:]) < ne.Uint32(b[offNsec:])
}

// program returns the group's program: what t says, by length for one of two sockets.
func (p *Port) program(t *steer.Table) []unix.SockFilter {
	small := steer.Program(t)
	if !p.apart {
		return small
	}
	behind := *t
	for b := range behind {
		behind[b] += uint8(p.cfg.Queues)
	}
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: largeFrom, Jf: 1},
		{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(small))},
	}
	return append(append(prog, small...), steer.Program(&behind)...)
}
