package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/host"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/afpacket"
	"example.com/culvert/dataplane/port/own"
	"example.com/culvert/dataplane/port/tun"
	"example.com/culvert/rules/config"
)

// openPort is an interface that the gateway has taken.
type openPort struct {
	key
	id     uint16
	conf   config.Interface
	index  int         // of the kernel's interface, 0 if it has none beforehand
	port   port.Port   // nil for a VLAN sub-interface
	parent *openPort   // of a VLAN sub-interface
	owner  *own.Owner  // keeps the kernel out; nil where there is no kernel to keep out
	box    port.Port   // TAP to the kernel of the gateway's namespace; nil without [host]
	sender port.Sender // of the own stack

	// As the own stack was told.
	info    port.Info
	local   []netip.Prefix
	proxied []netip.Addr
}

// open takes the interface of l. What it needs of the kernel happens on the
// thread of the gateway's own namespace.
func (g *Gateway) open(l *link, id uint16, parent *openPort) (*openPort, error) {
	p := &openPort{key: l.key, id: id, conf: l.conf, index: l.kernel.Index, parent: parent}
	err := g.own.Do(func() error {
		if err := g.openDriver(p, l); err != nil {
			return err
		}
		return p.openSender()
	})
	if err == nil {
		err = g.host.AddPort(id, p.info, p.sender, g.neighbour)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("interface %v: %w", l.key, err), g.release(p))
	}
	return p, nil
}

func (g *Gateway) openDriver(p *openPort, l *link) (err error) {
	provided, ok := g.opts.Ports[p.name]
	switch {
	case ok:
		p.port = provided
	case p.parent != nil:
		return nil
	case p.conf.Driver == config.TUN:
		p.port, err = g.openTUN(&p.conf)
	default:
		err = g.openEthernet(p, l)
	}
	return err
}

func (g *Gateway) openTUN(conf *config.Interface) (port.Port, error) {
	c := tun.Config{
		Name:      conf.Name,
		Netns:     conf.Netns,
		Queues:    g.queues(conf),
		Addresses: conf.PeerAddresses,
		Routes:    conf.PeerRoutes,
		MTU:       conf.MTU,
	}
	if conf.Offload == config.OffloadOff {
		c.Offload = tun.OffloadOff
	}
	if from := g.heir.find(key{conf.Netns, conf.Name}); from != nil {
		return from.tun(c)
	}
	return tun.Open(c)
}

// openEthernet keeps the kernel out before the first frame is taken: there is no
// moment in which both answer.
func (g *Gateway) openEthernet(p *openPort, l *link) error {
	c := afpacket.Config{
		Ifname: p.name,
		Netns:  p.netns,
		Queues: g.queues(&p.conf),
		Slots:  p.conf.Slots,
		Accept: afpacket.AcceptAllMulticast, // neighbour discovery of any address
	}
	if from := g.heir.find(l.key); from != nil {
		return from.ethernet(g, p, l, c)
	}
	if err := g.keepOut(p, l); err != nil {
		return err
	}
	drv, err := afpacket.Open(c)
	if err != nil {
		return err
	}
	p.port = drv
	return nil
}

// queues returns how many queues an interface gets: one for each worker unless
// it is configured otherwise.
func (g *Gateway) queues(conf *config.Interface) int {
	if conf.Queues > 0 {
		return conf.Queues
	}
	return g.engine.Workers()
}

// openSender opens the way out for the own stack: its ARP and neighbour discovery.
func (p *openPort) openSender() error {
	carrier := p.port
	if p.parent != nil {
		carrier = p.parent.port
	}
	s, err := carrier.NewSender()
	if err != nil {
		return err
	}
	p.info = carrier.Info()
	p.sender = s
	if p.parent != nil {
		p.info.Name = p.name
		p.sender = &tagged{Sender: s, tag: p.conf.VLAN}
	}
	return nil
}

// tagged sends on a VLAN of its port.
type tagged struct {
	port.Sender
	tag uint16
}

// Send queues p's frame with the tag.
func (t *tagged) Send(p *packet.Packet) port.Status {
	p.VLAN, p.HasVLAN = t.tag, true
	return t.Sender.Send(p)
}

// Close ends the sender.
func (t *tagged) Close() error { return closeSender(t.Sender) }

func closeSender(s port.Sender) error {
	if c, ok := s.(port.Closer); ok {
		return c.Close()
	}
	return nil
}

// neighbour carries what the own stack learned to the engine.
func (g *Gateway) neighbour(n host.Neighbour) {
	switch addr := tuple.AddrFrom(n.Addr); n.State {
	case host.Reachable:
		g.engine.NeighbourLearned(n.Port, addr, n.MAC)
	case host.Stale:
		g.engine.NeighbourAnnounced(n.Port, addr, n.MAC)
	case host.Failed:
		g.engine.NeighbourFailed(n.Port, addr)
	}
}

// closePort gives an interface back, after the engine has let go of it.
func (g *Gateway) closePort(p *openPort) error {
	g.host.RemovePort(p.id)
	return g.release(p)
}

// giveBack ends the ownership of p as the occasion wants: an interface that the
// gateway goes on serving by another port, or serves until its own end, is left
// to on_exit; one that was removed is the kernel's again. g.mu must be held.
func (g *Gateway) giveBack(p *openPort) error {
	if p.owner == nil {
		return nil
	}
	other := g.ports[p.key]
	if g.phase != running || other != nil && other != p && other.index == p.index {
		return p.owner.Close()
	}
	return p.owner.Release()
}

// release ends what open opened. The kernel is let in last. g.mu must be held.
func (g *Gateway) release(p *openPort) error {
	var errs []error
	if p.sender != nil {
		errs = append(errs, closeSender(p.sender))
	}
	if p.port != nil {
		errs = append(errs, p.port.Close())
	}
	errs = append(errs, g.giveBack(p))
	if p.box != nil {
		errs = append(errs, p.box.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("interface %v: %w", p.key, err)
	}
	return nil
}

// refresh follows a change of MAC, MTU or state. An interface that cannot be asked
// after is served as it was, and looked at again later. g.mu must be held.
func (g *Gateway) refresh(p *openPort) error {
	if p.port == nil {
		return nil
	}
	var info port.Info
	err := g.own.Do(func() (err error) {
		if info, err = p.port.Refresh(); err == nil && p.box != nil {
			err = setMTU(p.box, info.MTU)
		}
		return err
	})
	if errors.Is(err, port.ErrGone) {
		return fmt.Errorf("interface %v: %w", p.key, err)
	}
	if err != nil {
		g.log.Warn("interface was not looked at; trying on", "interface", p.key.String(), "error", err)
		g.unsure = true
		return nil
	}
	if info == p.info {
		return nil
	}
	g.host.RemovePort(p.id)
	p.info, p.local, p.proxied = info, nil, nil
	if err := g.host.AddPort(p.id, info, p.sender, g.neighbour); err != nil {
		return fmt.Errorf("interface %v: %w", p.key, err)
	}
	return nil
}

// announce sets the addresses that the own stack answers for on p.
func (g *Gateway) announce(p *openPort, local []netip.Prefix, proxied []netip.Addr) error {
	if slices.Equal(p.local, local) && slices.Equal(p.proxied, proxied) {
		return nil
	}
	if err := g.host.SetAddresses(p.id, local, proxied); err != nil {
		return fmt.Errorf("interface %v: addresses: %w", p.key, err)
	}
	p.local, p.proxied = local, proxied
	return nil
}

// sameDevice reports whether the open port still is what l asks for; otherwise it
// must be closed and opened again.
func (p *openPort) sameDevice(l *link) bool {
	a, b := &p.conf, &l.conf
	return (p.owner == nil || p.index == l.kernel.Index) && a.Driver == b.Driver && a.Queues == b.Queues && a.Slots == b.Slots && a.Offload == b.Offload &&
		a.VLAN == b.VLAN && a.Parent == b.Parent &&
		slices.Equal(a.PeerAddresses, b.PeerAddresses) && slices.Equal(a.PeerRoutes, b.PeerRoutes)
}
