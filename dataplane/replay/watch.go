package replay

import (
	"net/netip"

	"example.com/culvert/alg"
	"example.com/culvert/alg/offline"
	"example.com/culvert/alg/report"
)

// gateway is what the helper of one flow asks, and what it said since it was last
// looked at.
type gateway struct {
	offline.Gateway
	r       *replay
	changes []report.Change
	edits   int
}

// Announce implements alg.Gateway. It remembers what the other side is told.
func (g *gateway) Announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	seen, err := g.Gateway.Announce(c, group)
	if err != nil {
		return seen, err
	}
	for i := range group {
		x := &group[i]
		if x.Way == alg.Inbound {
			g.Mapped[c.Real(x.To)] = netip.AddrPortFrom(seen.Addr(), seen.Port()+x.To.Port()-group[0].To.Port())
		}
		if x.Child == g.Spec.Name {
			g.r.awaited[socket{x.Proto, x.To}] = true
		}
	}
	return seen, nil
}

// watcher is a helper that shows what its parsers do.
type watcher struct {
	alg.Helper
	g *gateway
}

// New implements alg.Helper.
func (w *watcher) New(f *alg.Flow) alg.Parser { return &watched{w.Helper.New(f), w.g} }

type watched struct {
	alg.Parser
	g *gateway
}

// Inspect implements alg.Parser.
func (w *watched) Inspect(c *alg.Context, b []byte) alg.Edit {
	e := w.Parser.Inspect(c, b)
	whole := e
	if !c.Stream() {
		whole.Done = len(b)
	}
	if len(e.Replace) > 0 && whole.Fits(len(b)) {
		w.g.edits++
		w.g.changes = append(w.g.changes, report.Changes(b, e.Replace)...)
	}
	return e
}
