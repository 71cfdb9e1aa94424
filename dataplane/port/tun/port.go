package tun

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

// Port is a TUN or TAP interface.
type Port struct {
	cfg    Config
	link   packet.Link
	queues []*queue
	mtu    atomic.Int64
	up     atomic.Bool
	gone   atomic.Bool // the interface was deleted; never cleared

	mu   sync.Mutex // guards info
	info port.Info
}

var (
	_ port.Port   = (*Port)(nil)
	_ port.Queue  = (*queue)(nil)
	_ port.Closer = (*sender)(nil)
)

func (p *Port) update(a *netlink.LinkAttrs) {
	copy(p.info.MAC[:], a.HardwareAddr)
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

// NewSender implements port.Port. Writing needs no queue of its own.
func (p *Port) NewSender() (port.Sender, error) {
	if p.gone.Load() {
		return nil, fmt.Errorf("open sender on %s: %w", p.cfg.Name, net.ErrClosed)
	}
	fd, err := unix.FcntlInt(uintptr(p.queues[0].fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open sender on %s: %w", p.cfg.Name, err)
	}
	s := &sender{}
	s.open(p, fd)
	return s, nil
}

// Close implements port.Port. The interface is gone when it and all senders are closed.
func (p *Port) Close() error {
	p.up.Store(false)
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}
