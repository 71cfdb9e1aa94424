package control

import (
	"fmt"

	"example.com/culvert/dataplane/port/own"
	"example.com/culvert/dataplane/port/tun"
	"example.com/culvert/rules/config"
)

// keepOut takes the interface of l away from the kernel. With [host], what the
// kernel sends on it comes out of a TAP, p.box.
func (g *Gateway) keepOut(p *openPort, l *link) error {
	c := own.Config{Ifindex: l.kernel.Index, Netns: p.netns}
	if g.cfg.Gateway.OnExit == config.Hold {
		c.OnExit = own.Hold
	}
	if g.cfg.Host.Enabled && p.netns == "" {
		tap, err := tun.OpenTAP(tun.Config{Name: tapName(l.kernel.Index), MTU: l.kernel.MTU})
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

// tapName names the TAP of the interface with the given index: unique in its
// namespace, and within the 15 bytes a name may have.
func tapName(index int) string { return fmt.Sprintf("culvert%d", index) }
