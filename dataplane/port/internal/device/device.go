// Package device keeps what is known of the kernel's interface behind a port.
package device

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/ns"
)

// Device is the interface of a port. Set must be called once before anything
// else; afterwards it is safe for concurrent use. Up and MTU are for the data path.
type Device struct {
	mtu atomic.Int64
	up  atomic.Bool

	mu   sync.Mutex // guards info
	info port.Info
}

// Set describes the interface: info, with what a says of it.
func (d *Device) Set(info port.Info, a *netlink.LinkAttrs) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info = info
	d.update(a)
}

// update takes what may change. d.mu must be held.
func (d *Device) update(a *netlink.LinkAttrs) {
	copy(d.info.MAC[:], a.HardwareAddr)
	d.info.Name = a.Name
	d.info.MTU = a.MTU
	d.info.Up = a.Flags&net.FlagUp != 0
	d.mtu.Store(int64(a.MTU))
	d.up.Store(d.info.Up)
}

// Info implements port.Port.
func (d *Device) Info() port.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.info
}

// Refresh implements port.Port. Whoever cannot ask the kernel, for want of descriptors
// or memory, knows no more than before: only an interface that is not there is down.
func (d *Device) Refresh() (port.Info, error) {
	known := d.Info()
	var link netlink.Link
	err := ns.Do(known.Netns, func() (err error) {
		link, err = netlink.LinkByIndex(known.Index)
		return err
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if isGone(err) {
		d.info.Up = false
		d.up.Store(false)
		return d.info, fmt.Errorf("interface %s: %w: %w", d.info.Name, port.ErrGone, err)
	}
	if err != nil {
		return d.info, fmt.Errorf("interface %s: %w", d.info.Name, err)
	}
	d.update(link.Attrs())
	return d.info, nil
}

// isGone reports whether an error says that there is no such interface, or no such
// namespace.
func isGone(err error) bool {
	return errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist)
}

// Up reports whether the interface was up when it was last looked at.
func (d *Device) Up() bool { return d.up.Load() }

// MTU returns the largest IP packet in bytes.
func (d *Device) MTU() int { return int(d.mtu.Load()) }

// Down lets nothing be sent any more: the port is being closed.
func (d *Device) Down() { d.up.Store(false) }
