package tun

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/device"
	"example.com/culvert/dataplane/port/steer"
)

// Port is a TUN or TAP interface.
type Port struct {
	cfg    Config
	link   packet.Link
	dev    device.Device
	queues []*queue
	gone   atomic.Bool // the interface was deleted; never cleared
}

var (
	_ port.Port    = (*Port)(nil)
	_ port.Steerer = (*Port)(nil)
	_ port.Queue   = (*queue)(nil)
	_ port.Closer  = (*sender)(nil)
)

// Info implements port.Port.
func (p *Port) Info() port.Info { return p.dev.Info() }

// Refresh implements port.Port.
func (p *Port) Refresh() (port.Info, error) { return p.dev.Refresh() }

// Gone reports whether the interface is known to be deleted: whoever used it last has
// found that out. Nothing brings it back.
func (p *Port) Gone() bool { return p.gone.Load() }

// Queue implements port.Port.
func (p *Port) Queue(i int) port.Queue { return p.queues[i] }

// Steer implements port.Steerer. It needs CAP_BPF, and changes nothing in a port with one
// queue. A port that was never steered leaves it to the kernel, which gives a flow to the
// queue that packets of its other direction were written to.
func (p *Port) Steer(t *steer.Table) error {
	if p.cfg.Queues == 1 || p.gone.Load() {
		return nil
	}
	prog, err := steer.Load(t)
	if err != nil {
		return err
	}
	defer prog.Close() // the interface keeps it
	fd := int32(prog.FD())
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(p.queues[0].fd), unix.TUNSETSTEERINGEBPF, uintptr(unsafe.Pointer(&fd)))
	if e != 0 && !p.gone.Load() {
		return fmt.Errorf("TUNSETSTEERINGEBPF: %w", e)
	}
	return nil
}

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
	p.dev.Down()
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}
