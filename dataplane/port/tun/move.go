package tun

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/ns"
)

var _ port.Movable = (*Port)(nil)

// errMoved is for descriptors that are not what they are said to be.
var errMoved = errors.New("the descriptors that were handed over are not those of the interface")

// Adopt is Open for a TUN interface that another process has made: fds are its queues.
// They belong to the port from here on, also when there is an error. The interface stays
// as it is.
func Adopt(cfg Config, fds []int) (*Port, error) { return adopt(cfg, packet.LinkIP, fds) }

// AdoptTAP is Adopt for a TAP interface.
func AdoptTAP(cfg Config, fds []int) (*Port, error) { return adopt(cfg, packet.LinkEthernet, fds) }

func adopt(cfg Config, link packet.Link, fds []int) (*Port, error) {
	cfg.Queues = len(fds)
	cfg.setDefaults()
	p := &Port{cfg: cfg, link: link}
	var err error
	for _, fd := range fds {
		q, failed := newQueue(p, fd)
		if failed != nil {
			unix.Close(fd)
			err = errors.Join(err, failed)
			continue
		}
		p.queues = append(p.queues, q)
	}
	if err == nil {
		err = ns.Do(cfg.Netns, p.recognize)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("take over %s: %w", cfg.Name, err)
	}
	return p, nil
}

// recognize runs on a thread inside the interface's namespace.
func (p *Port) recognize() error {
	link, err := netlink.LinkByName(p.cfg.Name)
	if err != nil {
		return err
	}
	for _, q := range p.queues {
		ifr, err := unix.NewIfreq(p.cfg.Name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(q.fd, unix.TUNGETIFF, ifr); err != nil {
			return fmt.Errorf("%w: TUNGETIFF: %w", errMoved, err)
		}
		vnet := ifr.Uint16()&unix.IFF_VNET_HDR != 0
		if ifr.Name() != p.cfg.Name || vnet != (p.cfg.Offload == OffloadOn) {
			return errMoved
		}
	}
	p.describe(link)
	return nil
}

// Descriptors implements port.Movable.
func (p *Port) Descriptors() (fds []int) {
	for _, q := range p.queues {
		fds = append(fds, q.fd)
	}
	return fds
}

// Rests implements port.Movable.
func (p *Port) Rests() (at []port.Rest) {
	for _, q := range p.queues {
		at = append(at, port.Rest{Stats: q.Stats()})
	}
	return at
}

// Resume implements port.Movable.
func (p *Port) Resume(at []port.Rest) error {
	if len(at) != len(p.queues) {
		return errMoved
	}
	for i, q := range p.queues {
		st := &at[i].Stats
		q.rx.Store(st.RxFrames)
		q.rxBytes.Store(st.RxBytes)
		q.truncated.Store(st.RxTruncated)
		q.sent.Store(st.TxFrames)
		q.sentBytes.Store(st.TxBytes)
		q.refused.Store(st.TxRefused)
	}
	return nil
}

// Strayed implements port.Movable: the kernel alone knows where a queue stands.
func (p *Port) Strayed() {}
