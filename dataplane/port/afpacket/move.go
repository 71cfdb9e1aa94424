package afpacket

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/ns"
)

var _ port.Movable = (*Port)(nil)

// errMoved is for descriptors that are not what they are said to be.
var errMoved = errors.New("the packet sockets that were handed over are not those of the interface")

// Adopt is Open with the receive sockets of another process, those that its Descriptors
// returned, in place of new ones: their rings, of cfg.Slots slots, are mapped a second time, and
// frames wait in them until Resume. The descriptors belong to the port from here on, also
// when there is an error. Ways out are new.
func Adopt(cfg Config, fds []int) (*Port, error) {
	cfg.setDefaults()
	p := &Port{cfg: cfg, group: newGroup, apart: len(fds) == 2*cfg.Queues}
	if len(fds) != cfg.Queues && !p.apart {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("take over %s: %w: %d for %d queues", cfg.Ifname, errMoved, len(fds), cfg.Queues)
	}
	for i := range cfg.Queues {
		q := &queue{port: p, rx: &socket{fd: fds[i]}, slots: cfg.Slots, away: true}
		if p.apart {
			q.large.socket = &socket{fd: fds[cfg.Queues+i]}
		}
		p.queues = append(p.queues, q)
	}
	if err := ns.Do(cfg.Netns, p.adopt); err != nil {
		p.Close()
		return nil, fmt.Errorf("take over %s: %w", cfg.Ifname, err)
	}
	return p, nil
}

// adopt runs on a thread inside the interface's namespace.
func (p *Port) adopt() error {
	link, err := netlink.LinkByName(p.cfg.Ifname)
	if err != nil {
		return err
	}
	a := link.Attrs()
	p.dev.Set(port.Info{
		Index: a.Index, Link: packet.LinkEthernet, GSO: true,
		Driver: "af_packet", Netns: p.cfg.Netns, NumQueues: p.cfg.Queues,
	}, a)
	for _, q := range p.queues {
		if err := q.adopt(a.Index, p.cfg); err != nil {
			return err
		}
	}
	p.group = p.queues[0].rx.fanout()
	return nil
}

func (q *queue) adopt(ifindex int, cfg Config) error {
	if err := q.rx.adopt(ifindex, ordinary, cfg.Slots); err != nil {
		return err
	}
	if q.large.socket != nil {
		if err := q.large.adopt(ifindex, huge, cfg.largeSlots()); err != nil {
			return err
		}
	}
	return q.openRest(ifindex, cfg)
}

// adopt maps the ring of a receiver that is said to be one of an interface.
func (s *socket) adopt(ifindex int, r ring, slots int) error {
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	if at, ok := sa.(*unix.SockaddrLinklayer); !ok || at.Ifindex != ifindex {
		return errMoved
	}
	return s.mapRing(r, slots) // whole or not at all: the kernel refuses another number of slots
}

// Descriptors implements port.Movable: those of the rings for large frames come last.
func (p *Port) Descriptors() (fds []int) {
	for _, q := range p.queues {
		fds = append(fds, q.rx.fd)
	}
	for _, q := range p.queues {
		if q.large.socket != nil {
			fds = append(fds, q.large.fd)
		}
	}
	return fds
}

// Rests implements port.Movable. From here on the successor reads what the kernel counts:
// what one process reads the other one never sees.
func (p *Port) Rests() (at []port.Rest) {
	for _, q := range p.queues {
		at = append(at, q.rest())
	}
	return at
}

func (q *queue) rest() port.Rest {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := port.Rest{Next: q.next, Large: q.large.next, Stats: q.statsLocked()}
	q.away = true
	return at
}

// Resume implements port.Movable.
func (p *Port) Resume(at []port.Rest) error {
	if len(at) != len(p.queues) {
		return errMoved
	}
	for i, q := range p.queues {
		if at[i].Next < 0 || at[i].Next >= q.slots {
			return fmt.Errorf("%w: slot %d of %d", errMoved, at[i].Next, q.slots)
		}
		if at[i].Large < 0 || at[i].Large >= q.large.slots {
			return fmt.Errorf("%w: slot %d of %d for large frames", errMoved, at[i].Large, q.large.slots)
		}
		q.next, q.large.next = at[i].Next, at[i].Large
		st := &at[i].Stats
		q.frames.Store(st.RxFrames)
		q.bytes.Store(st.RxBytes)
		q.truncated.Store(st.RxTruncated)
		q.foreign.Store(st.RxForeignTag)
		q.sent.Store(st.TxFrames)
		q.sentBytes.Store(st.TxBytes)
		q.refusedTotal.Store(st.TxRefused)
		q.mu.Lock()
		q.drops, q.away = st.RxRingDrops, false
		q.mu.Unlock()
	}
	return nil
}

// Strayed implements port.Movable.
func (p *Port) Strayed() {
	for _, q := range p.queues {
		q.strayed, q.large.strayed = true, true
		q.mu.Lock()
		q.away = false
		q.mu.Unlock()
	}
}

// find looks for the oldest frame of a ring that somebody else has received from.
func (q *queue) find() bool {
	at := oldest(q.rx.mem, slotSize, q.next, q.slots)
	if at < 0 {
		return false // it is seen with the next frame
	}
	q.next, q.strayed = at, false
	return true
}

// oldest returns the first slot with a frame behind one that is the kernel's, looking from
// next on, -1 if there is no frame.
func oldest(ring []byte, size, next, slots int) int {
	user := func(i int) bool {
		return atomic.LoadUint32(statusOf(ring[i*size:]))&unix.TP_STATUS_USER != 0
	}
	at := -1
	for i := range slots {
		slot := (next + i) % slots
		if !user(slot) {
			continue
		}
		if at < 0 {
			at = slot // all of them, perhaps
		}
		if !user((slot + slots - 1) % slots) {
			return slot
		}
	}
	return at
}
