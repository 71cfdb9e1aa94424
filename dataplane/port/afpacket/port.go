package afpacket

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/ns"
)

// Port is an interface of the kernel.
type Port struct {
	cfg    Config
	queues []*queue
	mtu    atomic.Int64
	up     atomic.Bool

	mu   sync.Mutex // guards info
	info port.Info
}

var (
	_ port.Port   = (*Port)(nil)
	_ port.Queue  = (*queue)(nil)
	_ port.Closer = (*sender)(nil)
)

// Open opens the interface. It needs CAP_NET_RAW and CAP_NET_ADMIN, and
// CAP_SYS_ADMIN for another namespace. Frames arrive from when it returns.
func Open(cfg Config) (*Port, error) {
	cfg.setDefaults()
	p := &Port{cfg: cfg}
	if err := ns.Do(cfg.Netns, p.open); err != nil {
		p.Close()
		return nil, fmt.Errorf("open %s: %w", cfg.Ifname, err)
	}
	return p, nil
}

// open runs on a thread inside the interface's namespace.
func (p *Port) open() error {
	link, err := netlink.LinkByName(p.cfg.Ifname)
	if err != nil {
		return err
	}
	a := link.Attrs()
	if a.EncapType != "ether" || len(a.HardwareAddr) != 6 {
		return fmt.Errorf("not an Ethernet interface (link type %s)", a.EncapType)
	}
	p.info = port.Info{
		Name: a.Name, Index: a.Index, Link: packet.LinkEthernet, GSO: true,
		Driver: "af_packet", Netns: p.cfg.Netns, NumQueues: p.cfg.Queues,
	}
	p.update(a)
	group := newGroup
	for range p.cfg.Queues {
		q := &queue{port: p}
		p.queues = append(p.queues, q)
		if err := q.open(a.Index, p.cfg); err != nil {
			return err
		}
		if p.cfg.Queues > 1 {
			if err := q.rx.joinFanout(&group, p.cfg.Fanout); err != nil {
				return err
			}
		}
	}
	if err := p.accept(); err != nil {
		return err
	}
	for _, q := range p.queues {
		if err := q.rx.setFilter(takeForeign); err != nil {
			return err
		}
	}
	return nil
}

func (p *Port) accept() error {
	rx := p.queues[0].rx
	switch p.cfg.Accept {
	case AcceptAllMulticast:
		return rx.addMembership(p.info.Index, unix.PACKET_MR_ALLMULTI, nil)
	case AcceptAll:
		return rx.addMembership(p.info.Index, unix.PACKET_MR_PROMISC, nil)
	}
	return nil
}

func (p *Port) update(a *netlink.LinkAttrs) {
	copy(p.info.MAC[:], a.HardwareAddr)
	p.info.Name = a.Name
	p.info.MTU = a.MTU
	p.info.Up = a.Flags&net.FlagUp != 0
	p.mtu.Store(int64(a.MTU))
	p.up.Store(p.info.Up)
}

// Info implements port.Port.
func (p *Port) Info() port.Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info
}

// Refresh implements port.Port.
func (p *Port) Refresh() (port.Info, error) {
	var link netlink.Link
	err := ns.Do(p.cfg.Netns, func() (err error) {
		link, err = netlink.LinkByIndex(p.Info().Index)
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.info.Up = false
		p.up.Store(false)
		return p.info, fmt.Errorf("interface %s: %w", p.info.Name, err)
	}
	p.update(link.Attrs())
	return p.info, nil
}

// Queue implements port.Port.
func (p *Port) Queue(i int) port.Queue { return p.queues[i] }

// NewSender implements port.Port.
func (p *Port) NewSender() (port.Sender, error) {
	s := &sender{port: p}
	err := ns.Do(p.cfg.Netns, func() error { return s.open(p.info.Index, p.cfg.Qdisc) })
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open sender on %s: %w", p.cfg.Ifname, err)
	}
	return s, nil
}

// Close implements port.Port.
func (p *Port) Close() error {
	p.up.Store(false)
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}
