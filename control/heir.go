package control

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/control/api"
	"example.com/culvert/control/upgrade"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/afpacket"
	"example.com/culvert/dataplane/port/own"
	"example.com/culvert/dataplane/port/tun"
)

// heir is what a gateway has from the process that it takes over from. A nil heir has
// nothing, and its methods say so.
type heir struct {
	conn       *upgrade.Conn
	offer      upgrade.Offer
	interfaces []*inherited
	sockets    map[string]inheritedSocket // by role; those not used yet
	was        map[key]*report            // of uplinks
	final      *upgrade.Final
	done       dataplane.Restored
}

// inherited is an interface of the predecessor.
type inherited struct {
	upgrade.Interface
	queues, estate, box []int // descriptors; nil when they are somebody's
	used                bool
}

type inheritedSocket struct {
	upgrade.Socket
	fd int
}

// How long the other process may take to say something. While flows are handed over for
// the last time packets wait.
const (
	helloWait = 20 * time.Second // to start, and to read its configuration
	readyWait = 60 * time.Second
	roundWait = 60 * time.Second
	finalWait = 5 * time.Second
	leaveWait = 10 * time.Second
	goneWait  = time.Second // to end when it has let go of the connection, or to kill this one
)

// greet says hello to the predecessor, if there is one, and takes what it offers.
func (g *Gateway) greet() error {
	c := g.opts.Predecessor
	if c == nil {
		return nil
	}
	g.heir = &heir{conn: c, sockets: make(map[string]inheritedSocket), was: make(map[key]*report)}
	h := g.heir
	if err := c.Send(upgrade.KindHello, upgrade.Hello{Version: Version(), Protocol: upgrade.Protocol, Format: upgrade.Digest()}); err != nil {
		return err
	}
	fds, err := c.Receive(upgrade.KindOffer, &h.offer, helloWait)
	if err != nil {
		return err
	}
	if err := h.sort(fds); err != nil {
		return err
	}
	if h.offer.Name != g.cfg.Gateway.Name {
		return fmt.Errorf("gateway.name changed from %q to %q, which needs a restart", h.offer.Name, g.cfg.Gateway.Name)
	}
	for _, k := range h.offer.Excluded {
		g.excluded[key{k.Netns, k.Name}] = struct{}{}
	}
	for _, a := range h.offer.Added {
		conf, err := interfaceFrom(api.InterfaceSpec(a))
		if err != nil {
			return fmt.Errorf("interface %s: %w", a.Name, err)
		}
		g.added = append(g.added, conf)
	}
	for _, u := range h.offer.Uplinks {
		h.was[key{u.Netns, u.Name}] = &report{down: u.Down, since: u.Since, changes: u.Changes, trouble: u.Trouble}
	}
	g.ids = make(map[key]uint16)
	for _, i := range h.interfaces {
		g.ids[i.key()] = i.ID
	}
	a := *g.current.Load()
	a.generation = h.offer.Generation
	g.current.Store(&a)
	return nil
}

// sort gives descriptors to what they belong to.
func (h *heir) sort(fds []int) error {
	take := func(n int) []int {
		n = min(n, len(fds))
		some := fds[:n:n]
		fds = fds[n:]
		return some
	}
	want := len(h.offer.Sockets)
	for i := range h.offer.Interfaces {
		want += h.offer.Interfaces[i].Descriptors()
	}
	if want != len(fds) {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return fmt.Errorf("%w: %d descriptors in place of %d", upgrade.ErrProtocol, len(fds), want)
	}
	for _, i := range h.offer.Interfaces {
		x := &inherited{Interface: i}
		x.queues = take(i.Rings)
		if i.Owned {
			x.estate = take(i.Estate.Descriptors())
		}
		if i.Box {
			x.box = take(1)
		}
		h.interfaces = append(h.interfaces, x)
	}
	for _, s := range h.offer.Sockets {
		h.sockets[s.Role] = inheritedSocket{s, take(1)[0]}
	}
	return nil
}

func (i *inherited) key() key { return key{i.Netns, i.Name} }

// secret returns what makes ids of flows: they have the same ones with it.
func (h *heir) secret() (key [16]byte, slotBits int) {
	if h == nil {
		return key, 0
	}
	return h.offer.Secret, h.offer.SlotBits
}

// find returns an interface of the predecessor, nil if it had none.
func (h *heir) find(k key) *inherited {
	if h == nil {
		return nil
	}
	for _, i := range h.interfaces {
		if i.key() == k && !i.used {
			return i
		}
	}
	return nil
}

// uplinks returns what was known about uplinks, once.
func (h *heir) uplinks() map[key]*report {
	if h == nil || h.was == nil {
		return make(map[key]*report)
	}
	was := h.was
	h.was = nil
	return was
}

// socket returns the listener of a role if it is at the same address.
func (h *heir) socket(role, address string) (net.Listener, error) {
	if h == nil {
		return nil, nil
	}
	s, ok := h.sockets[role]
	if !ok || s.Address != address {
		return nil, nil
	}
	delete(h.sockets, role)
	path := ""
	if role == upgrade.SocketControl {
		path = address
	}
	l, err := api.AdoptListener(s.fd, path, s.Inode)
	if err != nil {
		return nil, err
	}
	return api.NewPausable(l), nil
}

// errQueues is for settings that the queues of an interface cannot follow.
var errQueues = errors.New("its driver, or the number of its queues or of gateway.workers, changed, which needs a restart")

// tun goes on with a TUN interface.
func (i *inherited) tun(c tun.Config) (port.Port, error) {
	if i.Driver != "tun" || c.Queues != i.Queues {
		return nil, errQueues
	}
	fds := i.queues
	i.queues, i.used = nil, true
	p, err := tun.Adopt(c, fds)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ethernet goes on with an interface of the kernel, which stays kept out.
func (i *inherited) ethernet(g *Gateway, p *openPort, l *link, c afpacket.Config) error {
	switch {
	case i.Driver != "af_packet" || c.Queues != i.Queues || !i.Owned:
		return errQueues
	case i.Index != l.kernel.Index:
		return errors.New("it was made anew just now; try again")
	case i.Box != g.boxed(p):
		return errors.New("host.enabled changed, which needs a restart")
	}
	queues, estate, box := i.queues, i.estate, i.box
	i.queues, i.estate, i.box, i.used = nil, nil, nil, true
	conf := g.ownership(p, l)
	if len(box) > 0 {
		tap, err := tun.AdoptTAP(tapConfig(l), box)
		if err != nil {
			closeDescriptors(queues, estate)
			return err
		}
		p.box = tap
		conf.Host = &own.HostPath{TAP: tap.Info().Index}
	}
	owner, err := own.Adopt(conf, &i.Estate, estate)
	if err != nil {
		closeDescriptors(queues)
		return err
	}
	p.owner = owner
	drv, err := afpacket.Adopt(c, queues)
	if err != nil {
		return err
	}
	p.port = drv
	return nil
}

func closeDescriptors(lists ...[]int) {
	for _, fds := range lists {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// takeOver takes the flows of the predecessor over, round by round: when it returns, its
// workers have stopped, and ours begin where they did.
func (g *Gateway) takeOver() error {
	h := g.heir
	if h == nil {
		return nil
	}
	if all, _ := g.table.Slots(); h.offer.Slots > all {
		return errors.New("conntrack.max is too small for the flows that there are: raise it, or restart")
	}
	if err := h.conn.Send(upgrade.KindReady, upgrade.Ready{Interfaces: len(g.ports)}); err != nil {
		return err
	}
	to, err := g.engine.TakeOver(nil, nil)
	if err != nil {
		return err
	}
	for {
		final, err := h.round(to)
		if err != nil {
			return err
		}
		if final == nil {
			continue
		}
		h.final = final
		if err := g.resume(); err != nil {
			return err
		}
		g.adoptMappings()
		g.adoptAlarms()
		h.done = to.Finish(final.Legacy)
		return nil
	}
}

// round takes a round, and returns what came with it if it was the last one.
func (h *heir) round(to *dataplane.TakeOver) (*upgrade.Final, error) {
	final := &upgrade.Final{}
	last, fds, err := h.conn.ReceiveRound(final, roundWait)
	if err != nil {
		return nil, err
	}
	defer closeDescriptors(fds)
	if len(fds) != 1 {
		return nil, fmt.Errorf("%w: a round with %d files", upgrade.ErrProtocol, len(fds))
	}
	s, err := upgrade.OpenState(fds[0])
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := to.Begin(final.Policies, final.Helpers); err != nil {
		return nil, err
	}
	if last {
		take(to, s)
		for i := range final.Helped {
			to.Help(&final.Helped[i])
		}
		return final, nil
	}
	var taken upgrade.Taken
	unhurried(func() { taken.Not = take(to, s) })
	return nil, h.conn.Send(upgrade.KindTaken, taken)
}

// take takes what a round has, and returns the slots of flows that have to come again.
func take(to *dataplane.TakeOver, s *upgrade.State) (not []uint32) {
	to.Restart()
	for _, slot := range s.Ended {
		to.End(slot)
	}
	for i := range s.Flows {
		to.Vacate(&s.Flows[i])
	}
	for i := range s.Flows {
		if !to.Flow(&s.Flows[i]) {
			not = append(not, s.Flows[i].Slot())
		}
	}
	for i := range s.Expects {
		to.Expect(&s.Expects[i])
	}
	for i := range s.Kept {
		to.Kept(&s.Kept[i])
	}
	return not
}

// resume has the queues go on from where they stand.
func (g *Gateway) resume() error {
	f := g.heir.final
	if f.Legacy == nil || len(f.Ports) != len(g.heir.interfaces) {
		return fmt.Errorf("%w: %d ports in place of %d", upgrade.ErrProtocol, len(f.Ports), len(g.heir.interfaces))
	}
	for n, i := range g.heir.interfaces {
		p := g.ports[i.key()]
		if p == nil || !i.used {
			continue
		}
		var err error
		if m, ok := p.port.(port.Movable); ok {
			err = m.Resume(f.Ports[n].Queues)
		}
		if m, ok := p.box.(port.Movable); ok {
			err = errors.Join(err, m.Resume(f.Ports[n].Box))
		}
		if err != nil {
			return fmt.Errorf("interface %v: %w", i.key(), err)
		}
	}
	return nil
}

// adoptMappings goes on with the ports that hosts have at their request.
func (g *Gateway) adoptMappings() {
	server := g.portService.server.Load()
	if server == nil {
		return
	}
	if lost := server.Adopt(g.heir.final.Epoch, g.heir.final.Mappings, time.Now()); lost > 0 {
		g.log.Warn("requested ports could not be taken over: their hosts ask again", "ports", lost)
	}
}

// adoptAlarms goes on counting alarms.
func (g *Gateway) adoptAlarms() {
	for i, n := range g.heir.final.Alarms[:min(len(g.heir.final.Alarms), len(g.pressure.alarms))] {
		g.pressure.alarms[i].Store(n)
	}
}

// succeed says that packets go on, and waits until the predecessor has left, so that
// nobody hears from two. Nothing that happens to it matters any more: it has said all, and
// when it has ended before it could hear of this, nobody else is left to go on.
func (g *Gateway) succeed() error {
	h := g.heir
	if h == nil {
		return nil
	}
	at := dataplane.BootClock()
	var last upgrade.Leave
	var fds []int
	err := h.conn.Send(upgrade.KindRunning, upgrade.Running{At: at, Done: h.done})
	heard := err == nil
	if heard {
		h.conn.Join() // while it is there
		fds, err = h.conn.Receive(upgrade.KindLeave, &last, leaveWait)
		heard = !errors.Is(err, upgrade.ErrUnheard)
	}
	switch {
	case heard:
		if err != nil && !errors.Is(err, upgrade.ErrEnded) {
			g.log.Warn("the process before did not say that it leaves", "error", err)
		}
	case errors.Is(err, upgrade.ErrEnded) && h.conn.Gone(goneWait):
		g.log.Warn("the process before has ended before it could leave")
	default:
		g.engine.Stop() // whoever does not hear of it goes on himself
		return err
	}
	h.conn.Close()
	g.recordOn(last.Events, fds)
	g.settle()
	pause := time.Duration(at - h.final.Stopped)
	g.handing.count.Store(h.offer.Upgrades + 1)
	g.handing.pause.Store(int64(pause))
	did := &h.done
	g.log.Info("flows are taken over", "from", h.offer.Version, "version", Version(), "pause", pause, "flows", did.Flows,
		"expectations", did.Expectations, "ports", did.Ports, "lost", lostOf(did))
	return nil
}

// lostOf returns how many records could not be taken over.
func lostOf(did *dataplane.Restored) int { return did.Taken + did.Full + did.Torn + did.Expired }

// settle makes what was shared with the predecessor this process's, and ends what it does
// not use.
func (g *Gateway) settle() {
	for _, l := range g.services.listeners() {
		l.Keep(false)
	}
	for _, p := range g.ports {
		if p.owner == nil {
			continue
		}
		if err := p.owner.Reclaim(); err != nil {
			g.log.Warn("interface is not claimed", "interface", p.key.String(), "error", err)
		}
	}
	for _, i := range g.heir.interfaces {
		if i.used {
			continue
		}
		closeDescriptors(i.queues, i.box)
		if i.Owned { // it is no longer served
			owner, err := own.Adopt(own.Config{Ifindex: i.Index, Netns: i.Netns, OnExit: i.Estate.OnExit, Host: hostOf(i)}, &i.Estate, i.estate)
			if err == nil {
				err = owner.Release()
			}
			if err != nil {
				g.log.Warn("interface was not let go cleanly", "interface", i.key().String(), "error", err)
			}
		}
	}
	for _, s := range g.heir.sockets {
		unix.Close(s.fd)
	}
}

func hostOf(i *inherited) *own.HostPath {
	if !i.Box {
		return nil
	}
	return &own.HostPath{}
}

// fail tells the predecessor why this gateway cannot go on.
func (h *heir) fail(err error) {
	if h == nil {
		return
	}
	_ = h.conn.Fail(err)
}

// listeners returns the listeners that may have been shared.
func (s *services) listeners() (all []*api.Pausable) {
	for _, l := range []net.Listener{s.control, s.remote, s.scrape} {
		if p, ok := l.(*api.Pausable); ok {
			all = append(all, p)
		}
	}
	return slices.Clip(all)
}
