package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/own"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

var _ api.Backend = (*Gateway)(nil)

// boundInterface is an interface as it is in force. Immutable.
type boundInterface struct {
	conf      config.Interface
	state     string
	id        int // -1: absent
	mac       [6]byte
	mtu       int
	driver    string
	addresses []netip.Prefix
	nextHops  []netip.Addr
	owner     *own.Owner // nil where there is no kernel to keep out
	uplink    *uplink    // nil if it is not checked
}

// publish makes what reconcile did visible. g.mu must be held.
func (g *Gateway) publish(p *plan, program *rules.Program, leftOut []string) {
	a := &active{generation: program.Generation, cfg: p.cfg, rules: len(program.Rules()), waiting: leftOut,
		changes: g.current.Load().changes, origins: g.current.Load().origins.next(program)}
	for i := range p.links {
		b := bound(&p.links[i], g.ports[p.links[i].key])
		b.uplink = g.uplinks[p.links[i].key]
		a.interfaces = append(a.interfaces, b)
	}
	for _, conf := range p.cfg.Interfaces {
		if k := (key{conf.Netns, conf.Name}); slices.Contains(p.absent, k.String()) {
			a.interfaces = append(a.interfaces, boundInterface{conf: conf, state: api.StateAbsent, id: -1, driver: driverNames[conf.Driver]})
			a.waiting = append(a.waiting, fmt.Sprintf("interface %v is absent", k))
		}
	}
	g.current.Store(a)
}

// logChanges tells how interfaces that are served have changed.
func (g *Gateway) logChanges(old, now *active) {
	for _, b := range now.interfaces {
		i := slices.IndexFunc(old.interfaces, func(o boundInterface) bool {
			return o.conf.Name == b.conf.Name && o.conf.Netns == b.conf.Netns
		})
		if i < 0 {
			continue
		}
		was := old.interfaces[i]
		var changes []any
		note := func(what string, same bool, value any) {
			if !same {
				changes = append(changes, what, value)
			}
		}
		note("state", was.state == b.state, b.state)
		if was.id >= 0 && b.id >= 0 { // else it came or went
			note("mtu", was.mtu == b.mtu, b.mtu)
			note("mac", was.mac == b.mac, net.HardwareAddr(b.mac[:]).String())
			note("addresses", slices.Equal(was.addresses, b.addresses), texts(b.addresses))
			note("next_hops", slices.Equal(was.nextHops, b.nextHops), texts(b.nextHops))
		}
		if len(changes) > 0 {
			k := key{b.conf.Netns, b.conf.Name}
			g.log.Info("interface changed", append([]any{"interface", k.String()}, changes...)...)
		}
	}
}

var driverNames = map[config.Driver]string{config.AFPacket: "af_packet", config.TUN: "tun"}

func bound(l *link, o *openPort) boundInterface {
	b := boundInterface{conf: l.conf, state: api.StateUp, id: int(o.id), mac: o.info.MAC, mtu: o.info.MTU,
		driver: o.info.Driver, addresses: l.addresses, owner: o.owner}
	if l.conf.MTU > 0 {
		b.mtu = min(b.mtu, l.conf.MTU)
	}
	if o.owner != nil && !l.kernel.Up {
		b.state = api.StateDown
	}
	b.nextHops = l.nextHops()
	return b
}

// Config returns the configuration in force.
func (g *Gateway) Config() api.Config {
	cfg := g.current.Load().cfg
	return api.Config{File: cfg.File, Text: cfg.Text}
}

// Status returns the health of the gateway.
func (g *Gateway) Status() api.Status {
	a := g.current.Load()
	st := api.Status{
		Name:       a.cfg.Gateway.Name,
		Version:    Version(),
		PID:        os.Getpid(),
		Started:    g.started,
		Ready:      len(a.waiting) == 0,
		Waiting:    append([]string{}, a.waiting...), // not nil
		Config:     a.cfg.File,
		Generation: a.generation,
		Rules:      a.rules,
		FlowLimit:  a.cfg.Conntrack.Limit(),
		Interfaces: []api.Interface{},
		Changes:    a.changes,
		Recalled:   g.keeper.result,
	}
	traffic := make(map[int]port.Stats)
	if a.generation > 0 {
		s := g.engine.Stats()
		st.Flows, st.Forwarded, st.Dropped = g.table.Len(), s.Forwarded, s.Drops()
		st.Holders = g.holders(st.Flows, st.FlowLimit)
		st.Load = g.loadWatch.since(g.loadSample(time.Now()))
		st.Ports, st.Refusals = g.portWatch.report()
		st.Requested = g.PortRequests().Mappings
		st.Helpers = troubled(g.Helpers())
		st.Still, st.Failing = g.stillWatch.now(), g.failing()
		for _, p := range g.engine.PortStats() {
			traffic[int(p.ID)] = p.Stats
		}
	}
	for _, b := range a.interfaces {
		st.Interfaces = append(st.Interfaces, b.describe(traffic[b.id]))
	}
	st.Troubles = st.FindTroubles()
	return st
}

func (b *boundInterface) describe(s port.Stats) api.Interface {
	i := api.Interface{
		Name:      b.conf.Name,
		Area:      b.conf.Area,
		Driver:    b.driver,
		Netns:     b.conf.Netns,
		State:     b.state,
		Port:      b.id,
		MTU:       b.mtu,
		Addresses: texts(b.addresses),
		NextHops:  texts(b.nextHops),
		Uplink:    b.uplink.describe(),
		Counters: api.Traffic{
			RxPackets:     s.RxFrames,
			RxBytes:       s.RxBytes,
			TxPackets:     s.TxFrames,
			TxBytes:       s.TxBytes,
			RxRingDropped: s.RxRingDrops,
			RxTruncated:   s.RxTruncated,
			TxRefused:     s.TxRefused,
		},
	}
	if b.owner != nil {
		if kept, err := b.owner.Stats(); err == nil { // an error: let go meanwhile
			i.Counters.KernelDropped, i.Counters.KernelReinject = kept.EgressDropped, kept.HostRedirected
		}
	}
	if b.mac != [6]byte{} {
		i.MAC = net.HardwareAddr(b.mac[:]).String()
	}
	return i
}

func texts[T fmt.Stringer](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = v.String()
	}
	return out
}

// Rules returns the rules in force, with their hits.
func (g *Gateway) Rules() []api.Rule {
	out := []api.Rule{}
	if g.current.Load().generation == 0 {
		return out
	}
	for _, h := range g.engine.RuleHits() {
		out = append(out, api.Rule{ID: h.Rule.ID, List: h.Rule.List.String(), Index: h.Rule.Pos, Name: h.Rule.Name, Text: h.Rule.String(),
			Position: position(h.Rule), Hits: h.Hits, Bytes: h.Bytes, Counter: h.Rule.Counter()})
	}
	return out
}

// RuleCounters returns the counters that rules name.
func (g *Gateway) RuleCounters() []api.RuleCounter {
	out := []api.RuleCounter{}
	if g.current.Load().generation == 0 {
		return out
	}
	for _, c := range g.engine.RuleCounters() {
		out = append(out, api.RuleCounter{Name: c.Name, Packets: c.Packets, Bytes: c.Bytes})
	}
	return out
}

// RuleLinesLost returns how many lines of rules were beyond their rate or found no place.
func (g *Gateway) RuleLinesLost() uint64 {
	if g.current.Load().generation == 0 {
		return 0
	}
	return g.engine.RuleLinesLost()
}

// logRule writes what a rule logs.
func (g *Gateway) logRule(l dataplane.RuleLine) {
	t := &l.Key.Tuple
	g.ruleLog.LogAttrs(context.Background(), slog.LevelInfo, l.Rule.LogPrefix(),
		slog.String("rule", cmp.Or(l.Rule.Name, fmt.Sprintf("%s %d", l.Rule.List, l.Rule.Pos))),
		slog.String("in", l.In), slog.String("out", l.Out),
		slog.String("proto", rules.ProtoName(t.Proto)),
		slog.String("src", t.Src.String()), slog.Int("sport", int(t.SrcPort)),
		slog.String("dst", t.Dst.String()), slog.Int("dport", int(t.DstPort)),
		slog.String("state", l.Key.State.String()), slog.Uint64("length", uint64(l.Key.Length)),
		slog.Int("ttl", int(l.Key.TTL)), slog.Uint64("mark", uint64(l.Mark)),
		slog.Time("at", l.At), slog.Uint64("missed", l.Missed))
}

// Counters returns the dropped packets by reason, in the order of the packet walk.
func (g *Gateway) Counters() []api.Counter {
	out := []api.Counter{}
	if g.current.Load().generation == 0 {
		return out
	}
	stats := g.engine.Stats()
	for _, r := range dataplane.Reasons() {
		out = append(out, api.Counter{Reason: r.String(), Step: r.Step(), Count: stats.Dropped[r], Advice: r.Advice()})
	}
	return out
}

// Table returns the connection-tracking table, nil before Start.
func (g *Gateway) Table() *conntrack.Table { return g.table }

// Engine returns the data path, nil before Start.
func (g *Gateway) Engine() *dataplane.Engine { return g.engine }

// Accounting reports whether flows are printed with packet and byte counters.
func (g *Gateway) Accounting() bool { return g.current.Load().cfg.Conntrack.Accounting }

// AddInterface serves one more interface, or all that a name with a trailing *
// fits, until RemoveInterface. When it returns the interface is in force.
func (g *Gateway) AddInterface(_ context.Context, spec api.InterfaceSpec) error {
	conf, err := interfaceFrom(spec)
	if err != nil {
		return fmt.Errorf("interface %s: %w: %w", spec.Name, ErrRefused, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != running {
		return ErrNotRunning
	}
	k := key{conf.Netns, conf.Name}
	if _, served := g.ids[k]; served || slices.ContainsFunc(g.added, func(i config.Interface) bool { return i.Name == conf.Name }) {
		return fmt.Errorf("interface %v %w", k, ErrExists)
	}
	need := mustExist
	if conf.Pattern() {
		need = mayBeAbsent
	}
	added, excluded := g.added, g.excluded
	g.added = append(slices.Clone(added), conf)
	g.excluded = without(excluded, k)
	if err := g.reshape(k, need); err != nil {
		g.added, g.excluded = added, excluded
		return fmt.Errorf("%w: %w", ErrRefused, err) // which names the interface
	}
	return nil
}

// RemoveInterface stops serving an interface, whether it came by AddInterface,
// by a pattern or by its name in the configuration. Only AddInterface brings it
// back.
func (g *Gateway) RemoveInterface(_ context.Context, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != running {
		return ErrNotRunning
	}
	added, excluded := g.added, g.excluded
	g.added = slices.DeleteFunc(slices.Clone(added), func(i config.Interface) bool { return i.Name == name })
	k, served := g.servedAs(name)
	if !served && len(g.added) == len(added) {
		return fmt.Errorf("interface %s: %w", name, ErrNotFound)
	}
	if served {
		g.excluded = with(excluded, k)
	}
	if err := g.reshape(k, mayBeAbsent); err != nil {
		g.added, g.excluded = added, excluded
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// servedAs returns the key of the served interface called name. g.mu must be held.
func (g *Gateway) servedAs(name string) (key, bool) {
	for k := range g.ids {
		if k.name == name || k.String() == name {
			return k, true
		}
	}
	return key{}, false
}

// presence says whether reshape must find its interface.
type presence uint8

const (
	mayBeAbsent presence = iota
	mustExist
)

// reshape carries out what was added or removed. g.mu must be held.
func (g *Gateway) reshape(k key, need presence) error {
	if err := g.openSpaces(g.cfg); err != nil {
		return err
	}
	p, err := g.plan(g.cfg)
	if err != nil {
		return err
	}
	if need == mustExist && p.find(k) == nil {
		return absentError([]string{k.String()})
	}
	return g.reconcile(p, refuse)
}

func with(set map[key]struct{}, k key) map[key]struct{} {
	out := maps.Clone(set)
	out[k] = struct{}{}
	return out
}

func without(set map[key]struct{}, k key) map[key]struct{} {
	out := maps.Clone(set)
	delete(out, k)
	return out
}

// interfaceFrom checks a request and turns it into what the configuration would
// have made of it.
func interfaceFrom(spec api.InterfaceSpec) (config.Interface, error) {
	i := config.Interface{Name: spec.Name, Area: spec.Area}
	switch spec.Driver {
	case "", driverNames[config.AFPacket]:
	case driverNames[config.TUN]:
		i.Driver = config.TUN
	default:
		return i, fmt.Errorf("unknown driver %q; use af_packet or tun", spec.Driver)
	}
	for _, text := range spec.Addresses {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return i, fmt.Errorf("address %q: want an address with its prefix length, such as 10.7.0.1/24", text)
		}
		i.AddressFrom, i.Addresses = config.Static, append(i.Addresses, prefix)
	}
	for _, text := range spec.NextHops {
		hop, err := netip.ParseAddr(text)
		if err != nil {
			return i, fmt.Errorf("next hop %q: want an address, such as 10.7.0.254", text)
		}
		i.NextHops = append(i.NextHops, hop)
	}
	if i.Driver == config.TUN && (i.Pattern() || i.AddressFrom != config.Static) {
		return i, errors.New("a TUN device needs a full name and addresses")
	}
	return i, nil
}
