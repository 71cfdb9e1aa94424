package dataplane

import (
	"hash/maphash"
	"net/netip"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// HostPort is the port of the gateway's own stack.
const HostPort = route.HostPort

// RPF is the reverse-path check of a port (RFC 3704).
type RPF uint8

const (
	RPFStrict RPF = iota // the route back to the source must leave by the same port
	RPFLoose             // there must be a route back to the source
	RPFOff
)

// PortConfig is one port of a State.
type PortConfig struct {
	ID     uint16 // its index everywhere: rules, routes, neighbours; never 0 (the host)
	Name   string
	Port   port.Port // nil for a VLAN sub-interface
	Parent uint16    // VLAN sub-interface: the port that carries it
	VLAN   uint16    // its tag, 1..4094; 0: no sub-interface

	Addresses []netip.Prefix // the gateway's own, the primary of each family first
	MTU       int            // largest IP packet; 0: the port's own
	RPF       RPF
	MSS       MSSClamp  // of TCP flows through this port, both directions
	Box       port.Port // TAP to the kernel of the gateway's namespace ([host]); nil: none
}

// MSSClamp says to how much the MSS option of TCP is lowered: to so many bytes, or
// one of the values below. No number exceeds what the MTU of both ports takes.
type MSSClamp int

const (
	ClampOutside MSSClamp = -iota // to the MTU if the port's area is outside, else not
	ClampMTU                      // to the MTU
	ClampOff
)

// limit returns the largest MSS through a port, 0 for any.
func (c MSSClamp) limit(outside bool) int {
	switch {
	case c > 0:
		return int(c)
	case c == ClampMTU, c == ClampOutside && outside:
		return 65535
	}
	return 0
}

// State is everything that a reload may change, applied at once.
type State struct {
	Program *rules.Program
	Routes  *route.Table
	Ports   []PortConfig

	Requests Requests     // for ports, by RequestPort
	Helpers  HelperBounds // of what helpers ask for and keep

	// Gone are external addresses that flows may still have and must not use any
	// more. What comes for such a flow ends it; Engine.End ends the others.
	Gone []netip.Addr
}

// role says how frames that come out of a queue are to be read.
type role uint8

const (
	roleWire role = iota // from a link
	roleHost             // from the gateway's own stack
	roleBox              // from the kernel of the gateway's namespace, sent on a port
)

// portEntry is a port as workers see it. Immutable.
type portEntry struct {
	id           uint16
	name         string
	port         port.Port
	link         packet.Link
	mac          [6]byte
	macNumber    uint64 // the same
	mtu          int
	area         rules.AreaID
	outside      bool
	rpf          RPF
	mss          int // largest MSS option, 0: any
	pointToPoint bool
	carrier      uint16 // port whose queues carry it: itself, or the parent of a VLAN
	vlan         uint16
	primary4     tuple.Addr
	primary6     tuple.Addr
	has4, has6   bool
	box          port.Port
	children     []child // VLAN sub-interfaces of this port
}

type child struct{ vlan, id uint16 }

// primary returns the port's own first address of a family.
func (p *portEntry) primary(family uint8) (tuple.Addr, bool) {
	if family == tuple.IPv4 {
		return p.primary4, p.has4
	}
	return p.primary6, p.has6
}

// neighbour returns under which address the neighbour table has the next hop of packets
// to dst that leave by p: none where the link leads to one host only.
func (p *portEntry) neighbour(hop *route.NextHop, dst tuple.Addr) tuple.Addr {
	if p.pointToPoint {
		return tuple.Addr{}
	}
	return hop.Neighbour(dst)
}

// sameLink reports whether q is the same link as p, under the same number:
// neighbours of one are neighbours of the other.
func (p *portEntry) sameLink(q *portEntry) bool {
	return q != nil && p.port == q.port && p.carrier == q.carrier && p.vlan == q.vlan
}

// source is one receive queue of a worker.
type source struct {
	q    port.Queue
	id   uint16 // port
	role role
}

// sinks are where a worker sends: for each port one of its queues, or a sender of its
// own where the port has fewer queues than there are workers.
type sinks struct {
	wire []port.Sender // by port id
	box  []port.Sender
}

// view is everything workers read that changes at run time, published as one
// immutable value.
type view struct {
	gen      uint32
	prog     *rules.Program
	express  bool // later packets of flows meet no rule
	routes   *route.Table
	ports    []*portEntry                // by id; nil: no such port
	local    map[tuple.Addr]uint16       // port of each of the gateway's own addresses: see own
	ownEnds  [256]bool                   // last bytes of these, so that few addresses are looked up there
	gone     map[tuple.Addr]struct{}     // nil: none
	seed     maphash.Seed                // of hashes that spread flows
	subnets  map[tuple.Addr]netip.Prefix // own IPv4 prefixes, by their directed broadcast addresses
	directed [256]bool                   // last bytes of these, so that few packets are looked up there
	sources  [][]source                  // by worker
	sinks    []sinks                     // by worker
	ledger   *rules.Ledger               // with a page for each worker

	helpers []uint32 // by Rule.Index: number of its helper, 0 if it has none
	helps   bool     // some rule has a helper
	asks    bool     // one of them reads broadcasts of the box
	bounds  HelperBounds
	host    Host // nil: no own stack
	leases  *ports.Set
	terms   []ports.Terms // by Rule.Index
	sharing ports.Sharing

	policies []uint32 // by Rule.Index: number of its timeouts in the table, 0 for the table's own
}

// noRules is a program with the default policy only.
func noRules() *rules.Program {
	p, err := rules.Compile(&rules.Spec{Areas: rules.DefaultAreas()}, &rules.Binding{}, 0)
	if err != nil {
		panic(err) // an empty ruleset compiles
	}
	return p
}

func emptyView(workers int) *view {
	v := &view{prog: noRules(), routes: &route.Table{}, sources: nil}
	v.ledger = rules.NewLedger(v.prog, workers, nil, nil)
	return v
}

// portOf returns port id, nil if there is none.
func (v *view) portOf(id uint16) *portEntry {
	if int(id) >= len(v.ports) {
		return nil
	}
	return v.ports[id]
}

// own returns the port that an address of the gateway's own is on, and whether a is one.
func (v *view) own(a *tuple.Addr) (port uint16, is bool) {
	if !v.ownEnds[a[15]] {
		return 0, false
	}
	port, is = v.local[*a]
	return port, is
}

// has reports whether d is among the ports of v.
func (v *view) has(d port.Port) bool {
	for _, p := range v.ports {
		if p != nil && (p.port == d || p.box == d) {
			return true
		}
	}
	return false
}

// newView checks st and prepares what workers need of it.
func (e *Engine) newView(st State, gen uint32) (*view, error) {
	v, err := e.describe(st, gen)
	if err != nil {
		return nil, err
	}
	if err := v.addPolicies(e.table); err != nil {
		return nil, err
	}
	if err := v.addHelpers(e.helpers.set); err != nil {
		return nil, err
	}
	v.ledger = rules.NewLedger(v.prog, e.cfg.Workers, e.alive, e.view.Load().ledger)
	return v, e.openQueues(v)
}

// describe checks st and returns as much of its view as decisions need.
func (e *Engine) describe(st State, gen uint32) (*view, error) {
	v := &view{
		gen: gen, prog: st.Program, routes: st.Routes, seed: e.seed, bounds: st.Helpers.withDefaults(e.table),
		local:   make(map[tuple.Addr]uint16),
		subnets: make(map[tuple.Addr]netip.Prefix),
	}
	for _, a := range st.Gone {
		if v.gone == nil {
			v.gone = make(map[tuple.Addr]struct{}, len(st.Gone))
		}
		v.gone[tuple.AddrFrom(a)] = struct{}{}
	}
	if v.prog == nil {
		v.prog = noRules()
	}
	v.express = v.prog.Len(rules.Pre) == 0 && v.prog.Follow() != rules.PerPacket
	if v.routes == nil {
		v.routes = &route.Table{}
	}
	top := 0
	for i := range st.Ports {
		top = max(top, int(st.Ports[i].ID))
	}
	v.ports = make([]*portEntry, top+1)
	if e.host != nil {
		hp := e.host.Port()
		info := hp.Info()
		v.ports[HostPort] = &portEntry{id: HostPort, name: "host", port: hp, link: info.Link, mtu: info.MTU,
			rpf: RPFOff, pointToPoint: true}
	}
	for i := range st.Ports {
		if err := v.addPort(&st.Ports[i]); err != nil {
			return nil, err
		}
	}
	for i := range st.Ports {
		if err := v.linkVLAN(&st.Ports[i]); err != nil {
			return nil, err
		}
	}
	for id, p := range v.ports {
		if p != nil {
			p.area = v.prog.AreaOf(uint16(id))
			if p.area == rules.AreaHost && uint16(id) != HostPort {
				return nil, portError(id, p.name, "the rules give it no area")
			}
			p.outside = v.prog.Area(p.area).Side == rules.Outside
			p.mss = MSSClamp(p.mss).limit(p.outside)
		}
	}
	v.host = e.host
	v.addTerms(e.leases)
	if st.Requests == TakeRequests {
		v.sharing = ports.Mixed
	}
	return v, nil
}

// alive reports whether a flow still exists. A worker asks, in its epoch.
func (e *Engine) alive(f rules.Flow) bool {
	entry := e.table.Entry(f.Slot)
	return entry.Gen() == f.Gen && entry.Status()&conntrack.Dying == 0
}

// maxVLAN is the highest VLAN identifier (IEEE 802.1Q; 4095 is reserved).
const maxVLAN = 4094

func (v *view) addPort(c *PortConfig) error {
	if c.ID == HostPort {
		return portError(int(c.ID), c.Name, "index %d is the host's", HostPort)
	}
	if v.ports[c.ID] != nil {
		return portError(int(c.ID), c.Name, "index is taken by %s", v.ports[c.ID].name)
	}
	p := &portEntry{id: c.ID, name: c.Name, port: c.Port, rpf: c.RPF,
		mss: int(c.MSS), mtu: c.MTU, carrier: c.ID, vlan: c.VLAN, box: c.Box}
	if c.VLAN != 0 {
		if c.VLAN > maxVLAN {
			return portError(int(c.ID), c.Name, "VLAN %d: must be 1 to %d", c.VLAN, maxVLAN)
		}
		p.carrier = c.Parent
	} else {
		if c.Port == nil {
			return portError(int(c.ID), c.Name, "has no driver")
		}
		info := c.Port.Info()
		p.link, p.mac, p.macNumber = info.Link, info.MAC, numberOf(info.MAC)
		if p.mtu <= 0 || p.mtu > info.MTU {
			p.mtu = info.MTU
		}
		p.pointToPoint = info.Link == packet.LinkIP
	}
	for _, a := range c.Addresses {
		addr := tuple.AddrFrom(a.Addr())
		if other, taken := v.local[addr]; taken && other != c.ID {
			return portError(int(c.ID), c.Name, "address %v is already on %s", a.Addr(), v.ports[other].name)
		}
		v.local[addr] = c.ID
		v.ownEnds[addr[15]] = true
		switch {
		case a.Addr().Is4() && !p.has4:
			p.primary4, p.has4 = addr, true
		case a.Addr().Is6() && !p.has6 && !a.Addr().IsLinkLocalUnicast():
			p.primary6, p.has6 = addr, true
		}
		if a.Addr().Is4() && a.Bits() < 31 {
			all := broadcastOf(a)
			v.subnets[all] = a.Masked()
			v.directed[all[15]] = true
		}
	}
	v.ports[c.ID] = p
	return nil
}

// numberOf returns a link-layer address as a number.
func numberOf(mac [6]byte) (n uint64) {
	for _, b := range mac {
		n = n<<8 | uint64(b)
	}
	return n
}

// broadcastOf returns the directed broadcast address of an IPv4 prefix.
func broadcastOf(p netip.Prefix) tuple.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return tuple.AddrFrom4(b)
}

// linkVLAN joins a sub-interface to its parent, once all ports are known.
func (v *view) linkVLAN(c *PortConfig) error {
	if c.VLAN == 0 {
		return nil
	}
	p, parent := v.ports[c.ID], v.portOf(c.Parent)
	if parent == nil || parent.vlan != 0 || parent.link != packet.LinkEthernet || parent.port == nil {
		return portError(int(c.ID), c.Name, "parent port %d is no Ethernet port", c.Parent)
	}
	for _, other := range parent.children {
		if other.vlan == c.VLAN {
			return portError(int(c.ID), c.Name, "VLAN %d of %s is already %s", c.VLAN, parent.name, v.ports[other.id].name)
		}
	}
	parent.children = append(parent.children, child{c.VLAN, c.ID})
	p.link, p.mac, p.macNumber = parent.link, parent.mac, parent.macNumber
	if p.mtu <= 0 || p.mtu > parent.mtu {
		p.mtu = parent.mtu
	}
	return nil
}

// openQueues gives each worker its queues.
func (e *Engine) openQueues(v *view) error {
	n := e.cfg.Workers
	v.sources = make([][]source, n)
	v.sinks = make([]sinks, n)
	for w := range n {
		v.sinks[w] = sinks{wire: make([]port.Sender, len(v.ports)), box: make([]port.Sender, len(v.ports))}
	}
	for id, p := range v.ports {
		if p == nil {
			continue
		}
		if p.port != nil {
			r := roleWire
			if id == int(HostPort) {
				r = roleHost
			}
			if err := e.openPort(v, p, p.port, r); err != nil {
				return portError(id, p.name, "%w", err)
			}
		}
		if p.box != nil {
			if err := e.openPort(v, p, p.box, roleBox); err != nil {
				return portError(id, p.name, "kernel path: %w", err)
			}
		}
	}
	for _, p := range v.ports { // sub-interfaces send through their parent
		if p != nil && p.vlan != 0 {
			for w := range n {
				v.sinks[w].wire[p.id] = v.sinks[w].wire[p.carrier]
			}
		}
	}
	return nil
}

func (e *Engine) openPort(v *view, p *portEntry, d port.Port, r role) error {
	queues := d.Info().NumQueues
	for w := range e.cfg.Workers {
		var s port.Sender
		if w < queues {
			q := d.Queue(w)
			v.sources[w] = append(v.sources[w], source{q: q, id: p.id, role: r})
			s = q
		} else {
			var err error
			if s, err = e.extraSender(d, w); err != nil {
				return err
			}
		}
		if r == roleBox {
			v.sinks[w].box[p.id] = s
		} else {
			v.sinks[w].wire[p.id] = s
		}
	}
	return nil
}

// extraSender returns the sender that worker w uses on a port with fewer queues
// than workers; it is opened once and kept while the port lives.
func (e *Engine) extraSender(d port.Port, w int) (port.Sender, error) {
	key := senderKey{d, w}
	if s, ok := e.senders[key]; ok {
		return s, nil
	}
	s, err := d.NewSender()
	if err != nil {
		return nil, err
	}
	e.senders[key] = s
	return s, nil
}

type senderKey struct {
	port   port.Port
	worker int
}
