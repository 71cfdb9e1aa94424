package control

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/own"
	"example.com/culvert/dataplane/port/tun"
	"example.com/culvert/rules/config"
)

// keepOut takes the interface of l away from the kernel. With [host], what the
// kernel sends on it comes out of a TAP, p.box.
func (g *Gateway) keepOut(p *openPort, l *link) error {
	c := g.ownership(p, l)
	if g.boxed(p) {
		tap, err := tun.OpenTAP(tapConfig(l))
		if err != nil {
			return err
		}
		p.box = tap
		c.Host = &own.HostPath{TAP: tap.Info().Index}
	}
	owner, err := own.Take(c)
	p.owner = owner
	return err
}

// ownership returns how the interface of l is owned, the way to the kernel excepted.
func (g *Gateway) ownership(p *openPort, l *link) own.Config {
	c := own.Config{Ifindex: l.kernel.Index, Netns: p.netns}
	if g.cfg.Gateway.OnExit == config.Hold {
		c.OnExit = own.Hold
	}
	return c
}

// boxed reports whether there is a way to the kernel on an interface.
func (g *Gateway) boxed(p *openPort) bool { return g.cfg.Host.Enabled && p.netns == "" }

func tapConfig(l *link) tun.Config {
	return tun.Config{Name: tapName(l.kernel.Index), MTU: min(l.kernel.MTU, maxTAP)}
}

// maxTAP is the largest MTU of a TAP: what the kernel takes from a descriptor at
// once is 64 KB with the link-layer header.
const maxTAP = 65535 - 14

// setMTU has the TAP of an interface carry what the interface does. It runs on the
// thread of the gateway's own namespace.
func setMTU(tap port.Port, mtu int) error {
	info := tap.Info()
	if mtu = min(mtu, maxTAP); info.MTU == mtu {
		return nil
	}
	l, err := netlink.LinkByIndex(info.Index)
	if err == nil {
		err = netlink.LinkSetMTU(l, mtu)
	}
	if err == nil {
		_, err = tap.Refresh()
	}
	if err != nil {
		return fmt.Errorf("kernel path %s: mtu %d: %w", info.Name, mtu, err)
	}
	return nil
}

// tapName names the TAP of the interface with the given index: unique in its
// namespace, and within the 15 bytes a name may have.
func tapName(index int) string { return tapStem + strconv.Itoa(index) }

const tapStem = "culvert"

// isTAP reports whether name is what tapName makes, here or in another process.
func isTAP(name string) bool {
	rest, ok := strings.CutPrefix(name, tapStem)
	if !ok {
		return false
	}
	_, err := strconv.ParseUint(rest, 10, 31)
	return err == nil
}
