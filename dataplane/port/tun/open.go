package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/ns"
)

// Offload says whether queues carry GSO frames and partial checksums.
type Offload uint8

// Values of Offload.
const (
	OffloadOn  Offload = iota // checksum, TSO, and USO if the kernel has it (6.2)
	OffloadOff                // plain packets
)

// Config describes an interface to make.
type Config struct {
	Name      string         // at most 15 bytes; must not exist yet
	Netns     string         // named namespace (or path of one) to make it in, "" for the process's own
	Queues    int            // default 1
	Offload   Offload        //
	Addresses []netip.Prefix // for the kernel's side
	Routes    []netip.Prefix // what the namespace reaches through the interface
	MTU       int            // default 1500
	QueueLen  int            // frames the kernel keeps for each queue, default 2048
}

func (c *Config) setDefaults() {
	if c.Queues <= 0 {
		c.Queues = 1
	}
	if c.MTU <= 0 {
		c.MTU = 1500
	}
	if c.QueueLen <= 0 {
		c.QueueLen = 2048
	}
}

// Open makes a TUN interface and brings it up. It needs CAP_NET_ADMIN, and
// CAP_SYS_ADMIN for another namespace.
func Open(cfg Config) (*Port, error) { return open(cfg, packet.LinkIP) }

// OpenTAP is Open for a TAP interface.
func OpenTAP(cfg Config) (*Port, error) { return open(cfg, packet.LinkEthernet) }

func open(cfg Config, link packet.Link) (*Port, error) {
	cfg.setDefaults()
	p := &Port{cfg: cfg, link: link}
	if err := ns.Do(cfg.Netns, p.create); err != nil {
		p.Close()
		return nil, fmt.Errorf("make interface %s: %w", cfg.Name, err)
	}
	return p, nil
}

// create runs on a thread inside the interface's namespace.
func (p *Port) create() error {
	if _, err := netlink.LinkByName(p.cfg.Name); err == nil {
		return os.ErrExist
	}
	for range p.cfg.Queues {
		fd, err := p.openQueue()
		if err != nil {
			return err
		}
		q, err := newQueue(p, fd)
		if err != nil {
			unix.Close(fd)
			return err
		}
		p.queues = append(p.queues, q)
	}
	return p.configure()
}

// openQueue returns the descriptor of one more queue, non-blocking. The first makes the interface.
func (p *Port) openQueue() (int, error) {
	if p.cfg.Offload == OffloadOff {
		return p.openPlain()
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	if err := p.setUp(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (p *Port) setUp(fd int) error {
	ifr, err := unix.NewIfreq(p.cfg.Name)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if p.link == packet.LinkIP {
		flags |= unix.IFF_TUN
	} else {
		flags |= unix.IFF_TAP
	}
	if p.cfg.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso|unix.TUN_F_USO4|unix.TUN_F_USO6)
	if errors.Is(err, unix.EINVAL) { // kernel before 6.2
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso)
	}
	if err != nil {
		return fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return nil
}

// openPlain opens a queue without virtio header.
func (p *Port) openPlain() (int, error) {
	kind := water.DeviceType(water.TUN)
	if p.link == packet.LinkEthernet {
		kind = water.TAP
	}
	dev, err := water.New(water.Config{
		DeviceType:             kind,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: p.cfg.Name, MultiQueue: p.cfg.Queues > 1},
	})
	if err != nil {
		return -1, fmt.Errorf("open queue: %w", err)
	}
	defer dev.Close() // the duplicate lives on, outside of Go's poller
	conn, ok := dev.ReadWriteCloser.(syscall.Conn)
	if !ok {
		return -1, errors.New("open queue: no descriptor")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("open queue: %w", err)
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(f uintptr) { fd, dupErr = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, fmt.Errorf("open queue: %w", err)
	}
	if dupErr != nil {
		return -1, fmt.Errorf("duplicate queue: %w", dupErr)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open queue: %w", err)
	}
	return fd, nil
}

// configure sets addresses and routes, and brings the interface up.
func (p *Port) configure() error {
	link, err := netlink.LinkByName(p.cfg.Name)
	if err != nil {
		return err
	}
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := netlink.LinkSetIP6AddrGenMode(link, none); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("switch off link-local addresses: %w", err) // EAFNOSUPPORT: kernel without IPv6
	}
	if err := netlink.LinkSetMTU(link, p.cfg.MTU); err != nil {
		return fmt.Errorf("set mtu %d: %w", p.cfg.MTU, err)
	}
	if err := netlink.LinkSetTxQLen(link, p.cfg.QueueLen); err != nil {
		return fmt.Errorf("set queue length %d: %w", p.cfg.QueueLen, err)
	}
	for _, a := range p.cfg.Addresses {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %v: %w", a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	for _, r := range p.cfg.Routes {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r)}); err != nil {
			return fmt.Errorf("add route %v: %w", r, err)
		}
	}
	if link, err = netlink.LinkByIndex(link.Attrs().Index); err != nil {
		return err
	}
	p.describe(link)
	return nil
}

// describe notes what the kernel says of the interface.
func (p *Port) describe(link netlink.Link) {
	p.dev.Set(port.Info{
		Index: link.Attrs().Index, Link: p.link, GSO: p.cfg.Offload == OffloadOn,
		Driver: map[packet.Link]string{packet.LinkIP: "tun", packet.LinkEthernet: "tap"}[p.link],
		Netns:  p.cfg.Netns, NumQueues: p.cfg.Queues,
	}, link.Attrs())
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
