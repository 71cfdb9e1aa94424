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

// Adopt is Open with the receive sockets of another process, in place of
// cfg.Queues new ones: their rings, of cfg.Slots slots, are mapped a second time, and
// frames wait in them until Resume. The descriptors belong to the port from here on, also
// when there is an error. Ways out are new.
func Adopt(cfg Config, fds []int) (*Port, error) {
	cfg.Queues = len(fds)
	cfg.setDefaults()
	p := &Port{cfg: cfg}
	for _, fd := range fds {
		p.queues = append(p.queues, &queue{port: p, rx: &socket{fd: fd}, slots: cfg.Slots, away: true})
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
	return nil
}

func (q *queue) adopt(ifindex int, cfg Config) error {
	sa, err := unix.Getsockname(q.rx.fd)
	if err != nil {
		return fmt.Errorf("%w: %w", errMoved, err)
	}
	if at, ok := sa.(*unix.SockaddrLinklayer); !ok || at.Ifindex != ifindex {
		return errMoved
	}
	// The kernel maps a ring whole or not at all: another number of slots is refused.
	mem, err := unix.Mmap(q.rx.fd, 0, cfg.Slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map packet ring of %d slots: %w", cfg.Slots, err)
	}
	q.rx.mem = mem
	return q.openRest(ifindex, cfg)
}

// Descriptors implements port.Movable.
func (p *Port) Descriptors() (fds []int) {
	for _, q := range p.queues {
		fds = append(fds, q.rx.fd)
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
	at := port.Rest{Next: q.next, Stats: q.statsLocked()}
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
		q.next = at[i].Next
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
		q.strayed = true
		q.mu.Lock()
		q.away = false
		q.mu.Unlock()
	}
}

// find looks for the oldest frame of a ring that somebody else has received from: the
// first one behind a slot that is the kernel's.
func (q *queue) find() bool {
	user := func(i int) bool {
		return atomic.LoadUint32(statusOf(q.rx.mem[i*slotSize:]))&unix.TP_STATUS_USER != 0
	}
	at := -1
	for i := range q.slots {
		slot := (q.next + i) % q.slots
		if !user(slot) {
			continue
		}
		if at < 0 {
			at = slot // all of them, perhaps
		}
		if !user((slot + q.slots - 1) % q.slots) {
			at = slot
			break
		}
	}
	if at < 0 {
		return false // it is seen with the next frame
	}
	q.next, q.strayed = at, false
	return true
}
