package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// runDir is where iproute2 keeps named namespaces.
const runDir = "/run/netns"

// Host is a network namespace. Methods are safe for concurrent use.
type Host struct {
	name string
	ns   string // name in runDir
	lab  *Lab
	fd   netns.NsHandle
	nl   *netlink.Handle
	exec *spawner

	mu    sync.Mutex
	procs []*Process // everything Start started
}

// hostSysctls make addresses usable at once and keep hosts quiet: no duplicate
// address detection, no router solicitations.
var hostSysctls = [][2]string{
	{"net.ipv6.conf.all.accept_dad", "0"},
	{"net.ipv6.conf.default.accept_dad", "0"},
	{"net.ipv6.conf.default.dad_transmits", "0"},
	{"net.ipv6.conf.default.router_solicitations", "0"},
	{"net.ipv6.conf.default.accept_ra", "0"},
}

// addHost makes a namespace and its threads. What was made is in l.order even
// if it fails halfway.
func (l *Lab) addHost(name string) (*Host, error) {
	h := &Host{name: name, ns: l.name + "-" + name, lab: l, fd: netns.None()}
	made := make(chan error, 1)
	onThread(func() {
		var err error
		h.fd, err = netns.NewNamed(h.ns)
		made <- err
	})
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", h.ns, err)
	}
	l.order = append(l.order, h)
	var err error
	if h.nl, err = netlink.NewHandleAt(h.fd, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("host %s: netlink: %w", name, err)
	}
	if h.exec, err = newSpawner(h.fd); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	for _, kv := range hostSysctls {
		if err := h.Sysctl(kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	lo, err := h.nl.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("host %s: lo: %w", name, err)
	}
	if err := h.nl.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("host %s: lo: %w", name, err)
	}
	return h, nil
}

// Name is the host's name in the topology.
func (h *Host) Name() string { return h.name }

// Namespace is the name for `ip netns exec`.
func (h *Host) Namespace() string { return h.ns }

// Netlink is a route netlink handle inside the host. It belongs to the host.
func (h *Host) Netlink() *netlink.Handle { return h.nl }

// Do runs fn on a thread inside the host's namespace and returns its error. The thread is
// thrown away, so fn may do what it likes to it; goroutines that fn starts are
// not in the namespace. fn must not call t.FailNow.
func (h *Host) Do(fn func() error) error { return inNamespace(h.fd, fn) }

// Dial connects from inside the host. The address must be numeric.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	return h.DialFrom(ctx, nil, network, address)
}

// DialFrom is Dial with a local address, nil for any.
func (h *Host) DialFrom(ctx context.Context, local net.Addr, network, address string) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		d := net.Dialer{LocalAddr: local, FallbackDelay: -1}
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen announces a stream socket inside the host. The address must be numeric.
func (h *Host) Listen(network, address string) (ln net.Listener, err error) {
	err = h.Do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		ln, err = lc.Listen(context.Background(), network, address)
		return err
	})
	return ln, err
}

// ListenPacket opens a datagram socket ("udp", "ip4:icmp", ...) inside the host.
func (h *Host) ListenPacket(network, address string) (pc net.PacketConn, err error) {
	err = h.Do(func() (err error) {
		pc, err = net.ListenPacket(network, address)
		return err
	})
	return pc, err
}

// Sysctl writes a value of the host's namespace, named with dots. A dot inside an
// interface name is written as a slash, as in sysctl(8).
func (h *Host) Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.NewReplacer(".", "/", "/", ".").Replace(key))
	err := h.Do(func() error { return os.WriteFile(path, []byte(value), 0o644) })
	if err != nil {
		return fmt.Errorf("host %s: sysctl %s=%s: %w", h.name, key, value, err)
	}
	return nil
}

// close ends the host's processes and removes its interfaces and namespace.
func (h *Host) close() error {
	h.mu.Lock()
	procs := h.procs
	h.procs = nil
	h.mu.Unlock()
	var errs []error
	for i := len(procs) - 1; i >= 0; i-- {
		errs = append(errs, procs[i].Stop())
	}
	if h.exec != nil {
		h.exec.close()
	}
	if h.nl != nil {
		h.nl.Close()
	}
	errs = append(errs, removeNamespace(h.ns), h.fd.Close())
	return errors.Join(errs...)
}
