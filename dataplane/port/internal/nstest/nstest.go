//go:build netns

// Package nstest has what the drivers' privileged tests share: namespaces,
// veth pairs, a forwarding loop, and bulk transfers. It needs root.
package nstest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/port/ns"
)

var serial atomic.Int64

// Namespace makes a network namespace that ends with the test, and returns its name.
func Namespace(t testing.TB, role string) string {
	t.Helper()
	name := fmt.Sprintf("port%d-%d-%s", os.Getpid(), serial.Add(1), role)
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread is in the new namespace, and dies
		h, err := netns.NewNamed(name)
		if err == nil {
			h.Close()
			var lo netlink.Link
			if lo, err = netlink.LinkByName("lo"); err == nil {
				err = netlink.LinkSetUp(lo)
			}
		}
		made <- err
	}()
	err := <-made
	t.Cleanup(func() { netns.DeleteNamed(name) })
	if err != nil {
		t.Fatalf("make namespace %s (needs root): %v", name, err)
	}
	return name
}

// Do runs f inside a namespace and fails the test on its error.
func Do(t testing.TB, namespace string, f func() error) {
	t.Helper()
	if err := ns.Do(namespace, f); err != nil {
		t.Fatal(err)
	}
}

// End is an interface in a namespace.
type End struct {
	Netns, Name string
	Queues      int // veth queues, default 1
}

// Veth makes a veth pair and brings both ends up. No end gets a link-local
// address, so that the kernel is quiet unless a test asks it something.
func Veth(t testing.TB, a, b End) {
	t.Helper()
	Do(t, a.Netns, func() error {
		peer, err := netns.GetFromName(b.Netns)
		if err != nil {
			return err
		}
		defer peer.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = a.Name
		attrs.NumRxQueues, attrs.NumTxQueues = max(1, a.Queues), max(1, a.Queues)
		veth := &netlink.Veth{
			LinkAttrs: attrs, PeerName: b.Name, PeerNamespace: netlink.NsFd(peer),
			PeerNumRxQueues: uint32(max(1, b.Queues)), PeerNumTxQueues: uint32(max(1, b.Queues)),
		}
		return netlink.LinkAdd(veth)
	})
	for _, e := range []End{a, b} {
		Do(t, e.Netns, func() error {
			l, err := netlink.LinkByName(e.Name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetIP6AddrGenMode(l, 1); err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		})
	}
}

// Address gives the interface addresses, without duplicate address detection.
func (e End) Address(t testing.TB, prefixes ...string) {
	t.Helper()
	Do(t, e.Netns, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		for _, p := range prefixes {
			a, err := netlink.ParseAddr(p)
			if err != nil {
				return err
			}
			if a.IP.To4() == nil {
				a.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return fmt.Errorf("address %s: %w", p, err)
			}
		}
		return nil
	})
}

// Via makes gateway, at the given MAC address, the default route of the
// interface's namespace.
func (e End) Via(t testing.TB, gateway string, mac net.HardwareAddr) {
	t.Helper()
	ip := netip.MustParseAddr(gateway)
	Do(t, e.Netns, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		n := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: ip.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST}
		if err := netlink.NeighSet(n); err != nil {
			return fmt.Errorf("neighbour %s: %w", gateway, err)
		}
		all := &net.IPNet{IP: make(net.IP, ip.BitLen()/8), Mask: net.CIDRMask(0, ip.BitLen())}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: ip.AsSlice(), Dst: all}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route by %s: %w", gateway, err)
		}
		return nil
	})
}

// MAC returns the interface's address.
func (e End) MAC(t testing.TB) (mac net.HardwareAddr) {
	t.Helper()
	Do(t, e.Netns, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	})
	return mac
}

// Delete removes the interface.
func (e End) Delete(t testing.TB) {
	t.Helper()
	e.Change(t, netlink.LinkDel)
}

// Down and Up set the administrative state.
func (e End) Down(t testing.TB) { t.Helper(); e.Change(t, netlink.LinkSetDown) }
func (e End) Up(t testing.TB)   { t.Helper(); e.Change(t, netlink.LinkSetUp) }

// Change runs f on the interface, inside its namespace.
func (e End) Change(t testing.TB, f func(netlink.Link) error) {
	t.Helper()
	Do(t, e.Netns, func() error {
		l, err := netlink.LinkByName(e.Name)
		if err != nil {
			return err
		}
		return f(l)
	})
}

// Index returns the interface's index.
func (e End) Index(t testing.TB) (index int) {
	t.Helper()
	e.Change(t, func(l netlink.Link) error { index = l.Attrs().Index; return nil })
	return index
}

// Unprefixed returns p without its length.
func Unprefixed(p string) string { s, _, _ := strings.Cut(p, "/"); return s }
