package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addLink joins the ends of a link: two by a veth pair, more by a bridge in a
// namespace of its own.
func (l *Lab) addLink(index int, lp linkPlan) error {
	if len(lp.ends) == 2 {
		a, b := lp.ends[0], lp.ends[1]
		return addVeth(lp, l.hosts[a.host], a, l.hosts[b.host], b)
	}
	sw, err := l.addHost(fmt.Sprintf("switch%d", index))
	if err != nil {
		return err
	}
	if err := sw.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return err
	}
	la := netlink.NewLinkAttrs()
	la.Name, la.MTU = "br0", lp.mtu
	off := false
	bridge := &netlink.Bridge{LinkAttrs: la, MulticastSnooping: &off}
	if err := sw.nl.LinkAdd(bridge); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := sw.nl.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	for i, e := range lp.ends {
		port := endPlan{host: sw.name, ifname: fmt.Sprintf("port%d", i)}
		if err := addVeth(lp, l.hosts[e.host], e, sw, port); err != nil {
			return err
		}
		link, err := sw.nl.LinkByName(port.ifname)
		if err != nil {
			return fmt.Errorf("bridge port: %w", err)
		}
		if err := sw.nl.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("bridge port: %w", err)
		}
	}
	return nil
}

// addVeth makes a pair with one end in ha and one in hb, and takes both up.
func addVeth(lp linkPlan, ha *Host, a endPlan, hb *Host, b endPlan) error {
	la := netlink.NewLinkAttrs()
	la.Name, la.MTU, la.HardwareAddr = a.ifname, lp.mtu, a.mac
	la.NumTxQueues, la.NumRxQueues = lp.queues, lp.queues
	veth := &netlink.Veth{
		LinkAttrs:        la,
		PeerName:         b.ifname,
		PeerHardwareAddr: b.mac,
		PeerMTU:          uint32(lp.mtu),
		PeerNumTxQueues:  uint32(lp.queues),
		PeerNumRxQueues:  uint32(lp.queues),
		PeerNamespace:    netlink.NsFd(int(hb.fd)),
	}
	if err := ha.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s/%s - %s/%s: %w", a.host, a.ifname, b.host, b.ifname, err)
	}
	for _, end := range []struct {
		host *Host
		name string
	}{{ha, a.ifname}, {hb, b.ifname}} {
		link, err := end.host.nl.LinkByName(end.name)
		if err != nil {
			return fmt.Errorf("host %s: %s: %w", end.host.name, end.name, err)
		}
		if err := end.host.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("host %s: %s up: %w", end.host.name, end.name, err)
		}
	}
	return nil
}

// address waits until an interface can carry traffic and gives it its addresses and routes.
func (h *Host) address(ctx context.Context, ep endPlan) error {
	link, err := h.waitUp(ctx, ep.ifname)
	if err != nil {
		return err
	}
	for _, a := range ep.addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.nl.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("host %s: %s: address %s: %w", h.name, ep.ifname, a, err)
		}
	}
	for _, r := range ep.routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.to)}
		if r.via.IsValid() {
			route.Gw = r.via.AsSlice()
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := h.nl.RouteReplace(route); err != nil {
			return fmt.Errorf("host %s: %s: route %s via %s: %w", h.name, ep.ifname, r.to, r.via, err)
		}
	}
	return nil
}

// waitUp waits for an interface to exist and have its carrier. A TUN says
// "unknown" where a veth says "up".
func (h *Host) waitUp(ctx context.Context, name string) (netlink.Link, error) {
	var link netlink.Link
	err := poll(ctx, pollEvery, func() (bool, error) {
		var err error
		link, err = h.nl.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		a := link.Attrs()
		running := a.RawFlags&unix.IFF_LOWER_UP != 0
		return running && (a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown), nil
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: waiting for %s to come up: %w", h.name, name, err)
	}
	return link, nil
}

const (
	pollEvery  = 2 * time.Millisecond  // what costs a system call
	pollSlowly = 25 * time.Millisecond // what costs a process
)

// poll calls cond until it is true, fails, or ctx or readyTimeout ends.
func poll(ctx context.Context, every time.Duration, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
