package dataplane

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/internal/keep/keeptest"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// lab is an engine between memory ports, its worker driven by hand under a
// virtual clock:
//
//	lan    1  10.0.0.1/24     2001:db8:1::1/64
//	wan    2  203.0.113.1/24  2001:db8:2::1/64   default routes to .254 and ::fe
//	guest  3  10.9.0.1/24     2001:db8:9::1/64
//
// Every test ends with the accounts in balance, no defect counted, no frame
// unexplained and a sound table.
type lab struct {
	testing.TB
	e     *Engine
	w     *Worker
	table *conntrack.Table
	now   int64
	cfg   labConfig
	ports map[string]*mem.Port
	host  *fakeHost
	last  Stats
	trace *traceAccount // nil: nobody watches

	memory *keeptest.Memory // nil: nothing is kept
}

// labConfig says how a lab differs from the usual one.
type labConfig struct {
	rules  func(s *rules.Spec)                             // default: masquerade IPv4 to wan
	ports  func(st *State, options map[string]mem.Options) // changes before ports are made; nil Port means: make one
	routes []route.Route                                   // default: connected ones and two default routes
	engine func(c *Config)                                 //
	table  func(c *conntrack.Config)                       //
	more   func(st *State, make portMaker)                 // after ports are made
	kept   bool                                            // what a successor needs outlives the lab
	cold   bool                                            // neighbours are not known from the start
}

const (
	lanID uint16 = iota + 1
	wanID
	guestID
	extraID
)

// known are the hosts of the usual topology.
var known = map[uint16][]string{
	lanID:   {"10.0.0.5", "10.0.0.6", "10.0.0.7", "2001:db8:1::5", "2001:db8:1::6"},
	wanID:   {"203.0.113.254", "203.0.113.7", "2001:db8:2::fe"},
	guestID: {"10.9.0.5", "2001:db8:9::5"},
}

func masquerade(s *rules.Spec) {
	s.Lists[rules.Snat] = []rules.RuleSpec{{
		If:   rules.Conditions{OutArea: oneOf("wan"), Family: tuple.IPv4},
		Then: rules.ActMasquerade,
	}}
}

func oneOf[T any](v ...T) rules.Match[T] { return rules.Match[T]{Values: v} }

func single(a string) []nat.AddrRange { return []nat.AddrRange{{First: addr(a), Last: addr(a)}} }

func addr(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }

func prefixes(s ...string) (p []netip.Prefix) {
	for _, x := range s {
		p = append(p, netip.MustParsePrefix(x))
	}
	return p
}

func newLab(t testing.TB, cfg labConfig) *lab {
	t.Helper()
	l := &lab{TB: t, now: 1000 * int64(time.Second), cfg: cfg, ports: map[string]*mem.Port{}}
	tc := conntrack.Config{Max: 1 << 12, Workers: 1, Key: [16]byte{1}}
	if cfg.table != nil {
		cfg.table(&tc)
	}
	if cfg.kept {
		l.memory = &keeptest.Memory{}
		tc.Memory = l.memory
	}
	var err error
	if l.table, err = conntrack.New(tc); err != nil {
		t.Fatal(err)
	}
	l.host = newFakeHost(l)
	ec := Config{Workers: tc.Workers, Table: l.table, Host: l.host, Seed: 1, ICMPRate: -1, Clock: func() int64 { return l.now }}
	if cfg.engine != nil {
		cfg.engine(&ec)
	}
	ec.Memory = tc.Memory
	if l.e, err = New(ec); err != nil {
		t.Fatal(err)
	}
	l.w = l.e.Worker(0)
	if watchLabs {
		l.trace = newTraceAccount(t, l.e)
	}
	l.apply(l.state())
	if !cfg.cold {
		for id, hosts := range known {
			for _, h := range hosts {
				l.resolve(id, h)
			}
		}
	}
	t.Cleanup(l.close)
	return l
}

// state makes the ports and the State of the lab.
func (l *lab) state() State {
	st := State{Ports: []PortConfig{
		{ID: lanID, Name: "lan", Addresses: prefixes("10.0.0.1/24", "2001:db8:1::1/64")},
		{ID: wanID, Name: "wan", Addresses: prefixes("203.0.113.1/24", "2001:db8:2::1/64")},
		{ID: guestID, Name: "guest", Addresses: prefixes("10.9.0.1/24", "2001:db8:9::1/64")},
	}}
	options := map[string]mem.Options{}
	if l.cfg.ports != nil {
		l.cfg.ports(&st, options)
	}
	for i := range st.Ports {
		if p := &st.Ports[i]; p.Port == nil && p.VLAN == 0 {
			p.Port = l.port(p.Name, options[p.Name])
		}
	}
	if l.cfg.more != nil {
		l.cfg.more(&st, func(name string, o mem.Options) port.Port { return l.port(name, o) })
	}
	st.Routes = l.routes(&st)
	st.Program = l.program(&st, l.cfg.rules)
	return st
}

func (l *lab) port(name string, o mem.Options) *mem.Port {
	l.Helper()
	o.Wake = mem.WakeNone
	p, err := mem.New(name, o)
	if err != nil {
		l.Fatal(err)
	}
	l.ports[name] = p
	return p
}

func (l *lab) routes(st *State) *route.Table {
	l.Helper()
	all := slices.Clone(l.cfg.routes)
	if all == nil {
		all = []route.Route{
			{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: wanID, Gateway: netip.MustParseAddr("203.0.113.254")},
			{Prefix: netip.MustParsePrefix("::/0"), Port: wanID, Gateway: netip.MustParseAddr("2001:db8:2::fe")},
		}
	}
	for _, p := range st.Ports {
		for _, a := range p.Addresses {
			all = append(all, route.Route{Prefix: a.Masked(), Port: p.ID})
		}
	}
	table, err := route.NewTable(all)
	if err != nil {
		l.Fatal(err)
	}
	return table
}

// program compiles the rules that edit writes, masquerade if nil. Ports called
// other than an area are in lan.
func (l *lab) program(st *State, edit func(*rules.Spec)) *rules.Program {
	l.Helper()
	spec := &rules.Spec{Areas: rules.DefaultAreas()}
	if edit == nil {
		edit = masquerade
	}
	edit(spec)
	var b rules.Binding
	for _, p := range st.Ports {
		area := p.Name
		if _, ok := spec.AreaID(area); !ok {
			area = "lan"
		}
		b.Ports = append(b.Ports, rules.BoundPort{Index: p.ID, Name: p.Name, Area: area})
	}
	prog, err := rules.Compile(spec, &b, 1)
	if err != nil {
		l.Fatal(err)
	}
	return prog
}

func (l *lab) apply(st State) {
	l.Helper()
	if err := l.e.Apply(st); err != nil {
		l.Fatal(err)
	}
}

// stateNow returns the state that is applied, to change and apply again.
func (l *lab) stateNow() State {
	v := l.e.view.Load()
	st := State{Routes: v.routes, Program: v.prog, Helpers: v.bounds}
	for id, p := range v.ports {
		if p == nil || id == int(HostPort) {
			continue
		}
		c := PortConfig{ID: uint16(id), Name: p.name, Port: p.port, MTU: p.mtu, RPF: p.rpf, MSS: ClampOff, Box: p.box, VLAN: p.vlan}
		if p.mss != 0 {
			c.MSS = MSSClamp(p.mss)
		}
		if p.vlan != 0 {
			c.Parent = p.carrier
		}
		for a, at := range v.local {
			if at == uint16(id) {
				bits := 24
				if !a.Is4() {
					bits = 64
				}
				c.Addresses = append(c.Addresses, netip.PrefixFrom(a.Netip(), bits))
			}
		}
		st.Ports = append(st.Ports, c)
	}
	return st
}

// reload applies the lab's state with other rules.
func (l *lab) reload(edit func(*rules.Spec)) {
	l.Helper()
	st := l.stateNow()
	st.Program = l.program(&st, edit)
	l.apply(st)
}

// removePort applies the lab's state without a port; its routes stay.
func (l *lab) removePort(id uint16) {
	l.Helper()
	st := l.stateNow()
	st.Ports = slices.DeleteFunc(st.Ports, func(p PortConfig) bool { return p.ID == id })
	l.apply(st)
}

// resolve makes a neighbour known.
func (l *lab) resolve(id uint16, a string) {
	l.e.neigh.Ask(id, addr(a), 1, l.now)
	l.e.NeighbourLearned(id, addr(a), macOf(addr(a)))
}

// step runs the worker until nothing is left to do.
func (l *lab) step() {
	for l.w.Step(l.now) > 0 {
		l.trace.read()
	}
	l.trace.read()
}

// advance lets time pass in steps of at most a second.
func (l *lab) advance(d time.Duration) {
	for end := l.now + int64(d); l.now < end; {
		l.now = min(l.now+int64(time.Second), end)
		l.step()
	}
}

// send has an IP packet arrive at a port, framed as its host on that link would.
func (l *lab) send(name string, ip []byte) {
	l.Helper()
	l.inject(name, mem.Frame{Data: l.frame(name, ip)})
	l.step()
}

func (l *lab) inject(name string, f mem.Frame) {
	l.Helper()
	if st := l.ports[name].InjectFrame(f); st != port.Sent {
		l.Fatalf("%s: inject: %v", name, st)
	}
}

// frame puts ip into a frame to the gateway's port.
func (l *lab) frame(name string, ip []byte) []byte {
	info := l.ports[name].Info()
	if info.Link == packet.LinkIP {
		return ip
	}
	return ethernet(info.MAC, macOf(sourceOf(ip)), ip)
}

// want checks that exactly these packets left by a port, in order.
func (l *lab) want(name string, want ...string) {
	l.Helper()
	var got []string
	for _, f := range l.ports[name].TakeFrames() {
		got = append(got, describe(f, l.ports[name].Info().Link))
	}
	if !slices.Equal(got, want) {
		l.Errorf("%s sent\n\t%q, want\n\t%q", name, got, want)
	}
}

// wantProhibited checks that a sender at a port was told, once, that the gateway
// does not let it through. Outside learns nothing.
func (l *lab) wantProhibited(name string, why Reason) {
	l.Helper()
	if why != PolicyDenied || name == "wan" {
		return
	}
	if got := describe(l.take(name), packet.LinkEthernet); !strings.Contains(got, " 3/13 ") && !strings.Contains(got, " 1/1 ") {
		l.Errorf("%s was told %s, want administratively prohibited", name, got)
	}
}

// take returns the one frame that left by a port.
func (l *lab) take(name string) mem.Frame {
	l.Helper()
	f := l.ports[name].TakeFrames()
	if len(f) != 1 {
		l.Fatalf("%s sent %d frames, want 1", name, len(f))
	}
	return f[0]
}

// wantDrops checks how many packets were dropped since the last call, and why.
func (l *lab) wantDrops(want ...Reason) {
	l.Helper()
	now := l.e.Stats()
	var got []Reason
	for r := range now.Dropped {
		for range now.Dropped[r] - l.last.Dropped[r] {
			got = append(got, Reason(r))
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		l.Errorf("dropped %v, want %v", got, want)
	}
	l.last = now
}

// flows returns the confirmed flows as text.
func (l *lab) flows() (all []string) {
	l.table.Dump(func(f *conntrack.Flow) bool {
		all = append(all, f.Tuple[0].String()+" / "+f.Tuple[1].String())
		return true
	})
	slices.Sort(all)
	return all
}

func (l *lab) wantFlows(want ...string) {
	l.Helper()
	if got := l.flows(); !slices.Equal(got, want) {
		l.Errorf("flows\n\t%q, want\n\t%q", got, want)
	}
	if n := l.table.Len(); n != len(want) {
		l.Errorf("%d entries in the table, want %d: some are not confirmed", n, len(want))
	}
}

// close checks what holds after every test.
func (l *lab) close() {
	l.Helper()
	for name := range l.ports {
		if f := l.ports[name].TakeFrames(); len(f) != 0 && !l.Failed() {
			l.Errorf("%s sent %d frames nobody expected, the first: %s", name, len(f), describe(f[0], l.ports[name].Info().Link))
		}
	}
	l.balance()
	l.trace.check(l.e.Stats())
	checkLeases(l, l.e)
	if l.memory != nil {
		for _, where := range l.memory.Trespasses() {
			l.Errorf("something was written where there may be no room: %s", where)
		}
	}
	l.e.Close()
	if err := l.table.Close(); err != nil {
		l.Error(err)
	}
}

// checkLeases checks the tables of an engine at rest, and that ports are held by the
// flows that there are, and only by them.
func checkLeases(t testing.TB, e *Engine) {
	t.Helper()
	for _, err := range e.Check() {
		t.Error(err)
	}
}

// balance checks that every packet is accounted for exactly once.
func (l *lab) balance() {
	l.Helper()
	s := l.e.Stats()
	if n := s.Dropped[Internal]; n != 0 {
		l.Errorf("%d packets met a defect", n)
	}
	if sum := s.Forwarded + s.Delivered + s.Joined + s.Drops() + s.Waiting; s.Received != sum {
		l.Errorf("received %d packets, accounted for %d: forwarded %d, delivered %d, joined %d, dropped %d, waiting %d",
			s.Received, sum, s.Forwarded, s.Delivered, s.Joined, s.Drops(), s.Waiting)
	}
}

// fakeHost is a Host that remembers what it was given.
type fakeHost struct {
	l        *lab
	port     *mem.Port
	links    [][]byte // DeliverLink
	asked    []string // Resolve
	answers  map[string][6]byte
	services map[uint16]bool // ports that Owns
	full     bool
}

func newFakeHost(l *lab) *fakeHost {
	return &fakeHost{l: l, port: l.port("host", mem.Options{Link: packet.LinkIP, MTU: 65535, GSO: port.WithGSO}),
		answers: map[string][6]byte{}, services: map[uint16]bool{}}
}

func (h *fakeHost) DeliverLink(_ uint16, frame []byte) bool {
	if h.full {
		return false
	}
	h.links = append(h.links, slices.Clone(frame))
	return true
}

func (h *fakeHost) Resolve(id uint16, a netip.Addr) {
	h.asked = append(h.asked, a.String())
	if mac, ok := h.answers[a.String()]; ok {
		h.l.e.NeighbourLearned(id, tuple.AddrFrom(a), mac)
	}
}

func (h *fakeHost) Owns(_ uint8, _ tuple.Addr, p uint16) bool { return h.services[p] }

func (h *fakeHost) Port() port.Port { return h.port }

// macOf is the link-layer address of a host in labs.
func macOf(a tuple.Addr) [6]byte { return [6]byte{2, 0, a[12], a[13], a[14], a[15]} }
