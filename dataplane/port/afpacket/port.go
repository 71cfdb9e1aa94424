package afpacket

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/device"
	"example.com/culvert/dataplane/port/ns"
	"example.com/culvert/dataplane/port/steer"
)

// Port is an interface of the kernel.
type Port struct {
	cfg    Config
	dev    device.Device
	queues []*queue
	group  int  // fanout group of the receive sockets, newGroup if there is none
	apart  bool // large frames have sockets of their own, see large.go
}

var (
	_ port.Port     = (*Port)(nil)
	_ port.Steerer  = (*Port)(nil)
	_ port.Queue    = (*queue)(nil)
	_ port.TwoRings = (*queue)(nil)
	_ port.Closer   = (*sender)(nil)
)

// Open opens the interface. It needs CAP_NET_RAW and CAP_NET_ADMIN, and
// CAP_SYS_ADMIN for another namespace. Frames arrive from when it returns.
func Open(cfg Config) (*Port, error) {
	cfg.setDefaults()
	p := &Port{cfg: cfg, group: newGroup, apart: cfg.apart()}
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
	p.dev.Set(port.Info{
		Index: a.Index, Link: packet.LinkEthernet, GSO: true,
		Driver: "af_packet", Netns: p.cfg.Netns, NumQueues: p.cfg.Queues,
	}, a)
	for range p.cfg.Queues {
		q := &queue{port: p}
		p.queues = append(p.queues, q)
		if err := q.open(a.Index, p.cfg); err != nil {
			return err
		}
		if p.cfg.Queues > 1 || p.apart {
			if err := q.rx.joinFanout(&p.group, p.cfg.Fanout); err != nil {
				return err
			}
		}
	}
	if err := p.addLarge(a.Index); err != nil {
		return err
	}
	if err := p.accept(a.Index); err != nil {
		return err
	}
	even := steer.Even(p.cfg.Queues)
	if err := p.Steer(&even); err != nil {
		return err
	}
	for _, q := range p.queues {
		for _, s := range q.receivers() {
			if err := s.setFilter(takeForeign); err != nil {
				return err
			}
		}
	}
	return nil
}

// Widen lets in what a wants as well, until Close. Promiscuous mode also switches
// off the tag filter of network cards that have one, which know only the kernel's
// own VLANs. Not for concurrent use with Close.
func (p *Port) Widen(a Accept) error {
	if a <= p.cfg.Accept {
		return nil
	}
	p.cfg.Accept = a
	return p.accept(p.Info().Index)
}

func (p *Port) accept(ifindex int) error {
	rx := p.queues[0].rx
	switch p.cfg.Accept {
	case AcceptAllMulticast:
		return rx.addMembership(ifindex, unix.PACKET_MR_ALLMULTI, nil)
	case AcceptAll:
		return rx.addMembership(ifindex, unix.PACKET_MR_PROMISC, nil)
	}
	return nil
}

// Steer implements port.Steerer. It changes nothing in a port with another Fanout.
func (p *Port) Steer(t *steer.Table) error {
	if p.group == newGroup || p.cfg.Fanout != FanoutSteer {
		return nil
	}
	return p.queues[0].rx.steer(p.program(t))
}

// Info implements port.Port.
func (p *Port) Info() port.Info { return p.dev.Info() }

// Refresh implements port.Port.
func (p *Port) Refresh() (port.Info, error) { return p.dev.Refresh() }

// Queue implements port.Port.
func (p *Port) Queue(i int) port.Queue { return p.queues[i] }

// NewSender implements port.Port.
func (p *Port) NewSender() (port.Sender, error) {
	s := &sender{port: p}
	err := ns.Do(p.cfg.Netns, func() error { return s.open(p.dev.Info().Index, p.cfg.Qdisc) })
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open sender on %s: %w", p.cfg.Ifname, err)
	}
	return s, nil
}

// Close implements port.Port.
func (p *Port) Close() error {
	p.dev.Down()
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}
