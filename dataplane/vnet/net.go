package vnet

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"example.com/culvert/alg"
	"example.com/culvert/alg/registry"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/host"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// maxFlows bounds the table whatever the configuration says: its memory is
// allocated at once.
const maxFlows = 1 << 14

// epoch is the boot clock at the start of every net: not zero, as on a machine.
const epoch = int64(1000 * time.Second)

// T is what a net needs of a test; *testing.T and its kin are some.
type T interface {
	Helper()
	Cleanup(func())
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// Net is a gateway with its links.
type Net struct {
	Engine *dataplane.Engine
	Table  *conntrack.Table
	Stack  *host.Host // the gateway's own

	t     T // nil after Open
	cfg   *config.Config
	clock *faketime.ManualClock
	start tcpip.MonotonicTime
	links []*Link
	hosts []*Host
	gen   uint32
	opts  Options

	drive  sync.Mutex // held by whoever moves packets
	wakeFD int        // eventfd: a host has sent something
	driver *driver    // of Start
}

// New makes a gateway from a configuration in TOML. It ends with the test.
func New(t T, toml string) *Net {
	t.Helper()
	cfg, err := config.Parse("test.toml", []byte(toml))
	if err != nil {
		t.Fatal(err)
	}
	return NewConfig(t, cfg)
}

// Options are what a net may have beside its configuration.
type Options struct {
	Helpers *alg.Set                       // nil: those of every gateway
	Helper  func(tuple.Tuple) uint32       // the helper of flows; see dataplane.Config
	Impair  func(frame []byte) mem.Fate    // what becomes of frames on their way to the gateway
	Engine  func(config *dataplane.Config) // changes before the engine is made
}

// NewOptions is New with options.
func NewOptions(t T, toml string, o Options) *Net {
	t.Helper()
	cfg, err := config.Parse("test.toml", []byte(toml))
	if err != nil {
		t.Fatal(err)
	}
	n, err := open(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	n.endWith(t)
	return n
}

// NewConfig makes a gateway from a checked configuration, whose interfaces must
// have static addresses. It has one worker. It ends with the test.
func NewConfig(t T, cfg *config.Config) *Net {
	t.Helper()
	n, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.endWith(t)
	return n
}

// endWith closes the net with a test.
func (n *Net) endWith(t T) {
	n.t = t
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Open makes a net as NewConfig does, without a test. Who has it uses FindLink,
// and ends it with Close.
func Open(cfg *config.Config) (*Net, error) { return open(cfg, Options{}) }

func open(cfg *config.Config, o Options) (*Net, error) {
	n := &Net{cfg: cfg, opts: o, clock: faketime.NewManualClock(), wakeFD: -1}
	n.start = n.clock.NowMonotonic()
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Net) build() (err error) {
	if n.wakeFD, err = newEventFD(); err != nil {
		return err
	}
	if n.opts.Helpers == nil {
		n.opts.Helpers = registry.New()
	}
	tc := tableConfig(n.cfg)
	tc.HelperName = n.opts.Helpers.Name
	if n.Table, err = conntrack.New(tc); err != nil {
		return err
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	if n.Stack, err = host.New(host.Config{Pump: host.PumpManual, Clock: n.clock, Log: quiet}); err != nil {
		return err
	}
	rate := n.cfg.Gateway.ICMPRate
	if rate == 0 {
		rate = -1 // the configuration's way to say "no limit"
	}
	ec := dataplane.Config{
		Workers: 1, Table: n.Table, Host: n.Stack, ICMPRate: rate, Clock: n.Now, Seed: 1,
		Helpers: n.opts.Helpers, Helper: n.opts.Helper,
	}
	if n.opts.Engine != nil {
		n.opts.Engine(&ec)
	}
	n.Engine, err = dataplane.New(ec)
	if err != nil {
		return err
	}
	for i, conf := range n.cfg.Interfaces {
		if err := n.addLink(uint16(i+1), conf); err != nil {
			return fmt.Errorf("interface %s: %w", conf.Name, err)
		}
	}
	return n.apply()
}

// tableConfig is that of every gateway but for its size; two runs are the same.
func tableConfig(cfg *config.Config) conntrack.Config {
	c := cfg.Conntrack.Table()
	c.Max, c.Workers = min(c.Max, maxFlows), 1
	c.Key = [16]byte{1}
	c.Base = time.Unix(1e9, 0).UTC()
	return c
}

func (n *Net) addLink(id uint16, conf config.Interface) error {
	if conf.AddressFrom != config.Static || conf.VLAN != 0 || conf.Driver != config.AFPacket || conf.Pattern() {
		return fmt.Errorf("only plain Ethernet interfaces with static addresses exist in memory")
	}
	p, err := mem.New(conf.Name, mem.Options{MTU: conf.MTU, Impair: n.opts.Impair})
	if err != nil {
		return err
	}
	l := &Link{net: n, id: id, conf: conf, port: p, silent: make(map[netip.Addr]struct{})}
	n.links = append(n.links, l)
	send, err := p.NewSender()
	if err != nil {
		return err
	}
	return n.Stack.AddPort(id, p.Info(), send, n.neighbour)
}

// neighbour carries what the own stack learned to the engine.
func (n *Net) neighbour(e host.Neighbour) {
	switch addr := tuple.AddrFrom(e.Addr); e.State {
	case host.Reachable:
		n.Engine.NeighbourLearned(e.Port, addr, e.MAC)
	case host.Stale:
		n.Engine.NeighbourAnnounced(e.Port, addr, e.MAC)
	case host.Failed:
		n.Engine.NeighbourFailed(e.Port, addr)
	}
}

// Reload puts the rules of another configuration in force. Its interfaces must
// be those of the present one.
func (n *Net) Reload(toml string) {
	n.t.Helper()
	cfg, err := config.Parse("test.toml", []byte(toml))
	if err == nil {
		err = n.reload(cfg)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *Net) reload(cfg *config.Config) error {
	n.drive.Lock()
	defer n.drive.Unlock()
	n.cfg = cfg
	return n.apply()
}

func (n *Net) apply() error {
	var binding rules.Binding
	var routes []route.Route
	var st dataplane.State
	for _, l := range n.links {
		binding.Ports = append(binding.Ports, rules.BoundPort{Index: l.id, Name: l.conf.Name, Area: l.conf.Area})
		for _, a := range l.conf.Addresses {
			routes = append(routes, route.Route{Prefix: a.Masked(), Port: l.id})
		}
		for _, hop := range l.conf.NextHops {
			routes = append(routes, route.Route{Prefix: defaultOf(hop), Port: l.id, Gateway: hop, Metric: l.conf.Metric, Weight: l.conf.Weight})
		}
		st.Ports = append(st.Ports, dataplane.PortConfig{
			ID: l.id, Name: l.conf.Name, Port: l.port, Addresses: l.conf.Addresses, MTU: l.conf.MTU,
			RPF: dataplane.RPF(l.conf.RPF), MSS: dataplane.MSSClamp(l.conf.MSSClamp), // control ties their values
		})
	}
	for _, r := range n.cfg.Routes {
		routes = append(routes, n.routesOf(&r)...)
	}
	n.gen++
	var err error
	if st.Program, err = rules.Compile(&n.cfg.Rules, &binding, n.gen); err != nil {
		return err
	}
	if st.Routes, err = route.NewTable(routes); err != nil {
		return err
	}
	if err := n.Engine.Apply(st); err != nil {
		return err
	}
	for _, l := range n.links {
		if err := n.Stack.SetAddresses(l.id, l.conf.Addresses, nil); err != nil {
			return err
		}
	}
	return nil
}

// routesOf returns what a static route of the configuration means.
func (n *Net) routesOf(r *config.Route) []route.Route {
	l := n.carrier(r)
	if l == nil {
		return nil
	}
	one := route.Route{
		Prefix: r.To, Port: l.id, Gateway: r.Via, Metric: r.Metric, Weight: r.Weight,
		Only: route.Only{From: r.From, Mark: r.Mark.Value, MarkMask: r.Mark.Mask},
	}
	if id, ok := n.cfg.Rules.AreaID(r.InArea); ok && r.InArea != "" {
		one.Only.Area = route.AreaNumber(uint8(id))
	}
	if !r.ByNextHop {
		return []route.Route{one}
	}
	var all []route.Route
	for _, hop := range l.conf.NextHops {
		if one.Gateway = hop; hop.Is4() == r.To.Addr().Is4() {
			all = append(all, one)
		}
	}
	return all
}

// carrier returns the link that a static route leaves by, nil if there is none.
func (n *Net) carrier(r *config.Route) *Link {
	for _, l := range n.links {
		if l.conf.Name == r.Interface || r.Interface == "" && slices.ContainsFunc(l.conf.Addresses, func(p netip.Prefix) bool { return p.Contains(r.Via) }) {
			return l
		}
	}
	return nil
}

func defaultOf(hop netip.Addr) netip.Prefix {
	if hop.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Now returns the boot clock of the net in nanoseconds.
func (n *Net) Now() int64 { return epoch + int64(n.clock.NowMonotonic().Sub(n.start)) }

// Link returns the link of an interface, by its name or that of its area (the
// first one in it).
func (n *Net) Link(name string) *Link {
	n.t.Helper()
	l, ok := n.FindLink(name)
	if !ok {
		n.t.Fatalf("vnet: no interface or area %q", name)
	}
	return l
}

// FindLink is Link for names that may not exist.
func (n *Net) FindLink(name string) (*Link, bool) {
	for _, l := range n.links {
		if l.conf.Name == name {
			return l, true
		}
	}
	for _, l := range n.links {
		if l.conf.Area == name {
			return l, true
		}
	}
	return nil, false
}

// Close ends the net and returns what does not hold that must hold in the end. Tests
// do it by themselves.
func (n *Net) Close() error {
	n.stopDriver()
	for _, h := range n.hosts {
		h.stack.Destroy()
	}
	var defects []error
	if n.Table != nil && n.Engine != nil {
		for _, err := range n.Table.Check(n.Table.Now()) {
			defects = append(defects, fmt.Errorf("connection table: %w", err))
		}
		stats := n.Engine.Stats()
		if k := stats.Dropped[dataplane.Internal]; k != 0 {
			defects = append(defects, fmt.Errorf("%d packets met an internal defect", k))
		}
		n.Engine.Close()
	}
	if n.Stack != nil {
		n.Stack.Close()
	}
	for _, l := range n.links {
		l.port.Close()
	}
	if n.Table != nil {
		n.Table.Close()
	}
	closeEventFD(n.wakeFD)
	return errors.Join(defects...)
}
