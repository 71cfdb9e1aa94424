package control

import (
	"context"
	"errors"
	"fmt"

	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// Reload puts cfg in force in place of the present configuration: rules,
// interfaces, addresses, next hops and routes. When it returns nil, every new
// packet meets it, and live flows that the rules would treat otherwise have been
// dealt with as their rules say (on_change). Otherwise nothing has changed; the error
// wraps ErrRefused.
func (g *Gateway) Reload(cfg *config.Config) error {
	_, err := g.reload(cfg, 0)
	return err
}

// ReloadFile reads a configuration file, or the one in force when the request names
// none, and reloads, or only says what a reload would do.
func (g *Gateway) ReloadFile(_ context.Context, r api.ReloadRequest) (api.ReloadResult, error) {
	a := g.current.Load()
	path := r.Config
	if path == "" {
		path = a.cfg.File
	}
	if path == "" {
		return api.ReloadResult{}, fmt.Errorf("reload %w, generation %d stays active: the gateway was started without a file; name one with -c",
			ErrRefused, a.generation)
	}
	if !r.DryRun {
		g.exports.reopenLogs() // even if the file is refused: somebody may have moved them
	}
	cfg, err := config.Load(path)
	if err != nil {
		return api.ReloadResult{}, fmt.Errorf("reload %w, generation %d stays active: %w", ErrRefused, a.generation, err)
	}
	if r.DryRun {
		return g.foresee(cfg, r.Flows)
	}
	changes, err := g.reload(cfg, r.Flows)
	if err != nil {
		return api.ReloadResult{}, err
	}
	a = g.current.Load()
	return api.ReloadResult{Generation: a.generation, Rules: a.rules, Interfaces: len(a.interfaces), Changes: changes}, nil
}

func (g *Gateway) reload(cfg *config.Config, sample int) (api.Changes, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != running {
		return api.Changes{}, ErrNotRunning
	}
	g.tell(g.opts.Notify.Reloading())
	before := g.engine.Ruleset()
	err := g.replace(cfg)
	a := g.current.Load()
	g.tell(g.opts.Notify.Ready(statusLine(a)))
	if err != nil {
		g.log.Warn("reload refused", "generation", a.generation, "error", err)
		return api.Changes{}, fmt.Errorf("reload %w, generation %d stays active: %w", ErrRefused, a.generation, err)
	}
	g.log.Info("reloaded", "generation", a.generation, "interfaces", len(a.interfaces), "rules", a.rules)
	if hasHelpers(cfg) && !g.helped {
		g.log.Warn("helpers were added while running: what they announce is not checked against live flows until a restart")
	}
	survey := g.engine.Settle(before, sample)
	changes := changesOf(&survey)
	g.showChanges(&changes)
	return changes, nil
}

// replace puts cfg in force. g.mu must be held.
func (g *Gateway) replace(cfg *config.Config) error {
	shown, err := credentials(&cfg.API)
	if err != nil {
		return err
	}
	p, err := g.planFor(cfg)
	if err != nil {
		return err
	}
	exports, err := g.openExports(cfg)
	if err != nil {
		return err
	}
	if err := g.reconcile(p, refuse); err != nil {
		return errors.Join(err, closeExports(exports.opened))
	}
	g.useCredentials(shown)
	g.useExports(exports)
	if g.opts.Logs != nil {
		g.opts.Logs.Apply(LogSettings(&cfg.Log))
	}
	return nil
}

// planFor makes the plan of a reload, with the namespaces that cfg names open. g.mu
// must be held.
func (g *Gateway) planFor(cfg *config.Config) (*plan, error) {
	if err := needsRestart(g.cfg, cfg); err != nil {
		return nil, err
	}
	if err := g.openSpaces(cfg); err != nil {
		return nil, err
	}
	p, err := g.plan(cfg)
	if err != nil {
		return nil, err
	}
	if missing := g.newlyAbsent(p); len(missing) > 0 {
		return nil, absentError(missing)
	}
	return p, nil
}

// showChanges logs what became of flows that differ, and puts it into the status,
// where it stays until the next reload. g.mu must be held.
func (g *Gateway) showChanges(c *api.Changes) {
	a := *g.current.Load()
	a.changes = nil
	if c.Changed() > 0 {
		shown := *c
		shown.Sample = nil
		a.changes = &shown
		g.log.Warn("live flows differ from the rules", "generation", a.generation, "flows", c.Flows,
			"kept", c.Kept, "ended", c.Ended, "reevaluated", c.Reevaluated)
		for i := range c.Groups {
			g.log.Info("flows differ", "flows", c.Groups[i].Flows, "fate", c.Groups[i].Fate, "rules", c.Groups[i].String())
		}
	}
	g.current.Store(&a)
}

// foresee says what Reload would do.
func (g *Gateway) foresee(cfg *config.Config, sample int) (api.ReloadResult, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != running {
		return api.ReloadResult{}, ErrNotRunning
	}
	result, err := g.rehearse(cfg, sample)
	if err != nil {
		return api.ReloadResult{}, fmt.Errorf("reload would be %w, generation %d is active: %w", ErrRefused, g.current.Load().generation, err)
	}
	return result, nil
}

// rehearse goes the way of a reload up to where something would change. g.mu must be
// held.
func (g *Gateway) rehearse(cfg *config.Config, sample int) (r api.ReloadResult, err error) {
	defer g.pruneSpaces(g.cfg)
	if _, err := credentials(&cfg.API); err != nil {
		return r, err
	}
	p, err := g.planFor(cfg)
	if err != nil {
		return r, err
	}
	ids, err := p.assignIDs(g.ids)
	if err != nil {
		return r, err
	}
	st, err := g.state(p, ids, g.imagined(p, ids), g.lost(p, p.proxies()))
	if err != nil {
		return r, err
	}
	survey, err := g.engine.Foresee(st, sample)
	if err != nil {
		return r, err
	}
	return api.ReloadResult{Generation: st.Program.Generation, Rules: len(st.Program.Rules()), Interfaces: len(p.links), Changes: changesOf(&survey)}, nil
}

// imagined returns ports for all links of p: those that are open, and others in place
// of those that are not. g.mu must be held.
func (g *Gateway) imagined(p *plan, ids map[key]uint16) map[key]*openPort {
	ports := make(map[key]*openPort, len(p.links))
	for i := range p.links {
		l := &p.links[i]
		if o := g.ports[l.key]; o != nil {
			ports[l.key] = o
			continue
		}
		ports[l.key] = &openPort{key: l.key, id: ids[l.key], conf: l.conf, port: unopened{info: port.Info{
			Name: l.name, Link: linkOf(l), MTU: max(l.kernel.MTU, minMTU), NumQueues: 1,
		}}}
	}
	for i := range p.links {
		if l := &p.links[i]; l.conf.VLAN != 0 {
			o := *ports[l.key]
			o.parent = ports[key{l.netns, l.conf.Parent}]
			ports[l.key] = &o
		}
	}
	return ports
}

// minMTU is that of links nobody has asked yet (RFC 8200 section 5).
const minMTU = 1280

func linkOf(l *link) packet.Link {
	if l.conf.Driver == config.TUN {
		return packet.LinkIP
	}
	return packet.LinkEthernet
}

// unopened stands for a port in a State that is never applied.
type unopened struct {
	port.Port
	info port.Info
}

// Info implements port.Port.
func (u unopened) Info() port.Info { return u.info }

func changesOf(s *dataplane.Survey) api.Changes {
	c := api.Changes{
		Flows: s.Flows, Kept: s.Meet(rules.KeepFlows), Ended: s.Meet(rules.EndFlows), Reevaluated: s.Meet(rules.ReevaluateFlows),
		Groups: []api.ChangedFlows{},
	}
	for i := range s.Groups {
		c.Groups = append(c.Groups, api.ChangedFlows{Change: changeOf(&s.Groups[i].Change), Flows: s.Groups[i].Flows})
	}
	for i := range s.Sample {
		f := &s.Sample[i]
		c.Sample = append(c.Sample, api.ChangedFlow{Change: changeOf(&f.Change), ID: f.Flow.ID, Flow: f.Flow.Tuple[0].String(), Generation: f.Flow.Generation})
	}
	return c
}

func changeOf(c *dataplane.Change) api.Change {
	out := api.Change{What: c.What.String(), Fate: c.Fate.String()}
	if c.Reason != dataplane.None {
		out.Reason = c.Reason.String()
	}
	if c.Old != nil {
		ref := ruleRef(c.Old)
		out.Old = &ref
	}
	if c.New != nil {
		ref := ruleRef(c.New)
		out.New = &ref
	}
	return out
}
