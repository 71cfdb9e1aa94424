package control

import (
	"fmt"
	"io"

	"example.com/culvert/control/api"
	"example.com/culvert/control/snapshot"
	"example.com/culvert/dataplane"
)

// SaveSnapshot writes the state of all flows to w, in the format of package snapshot.
// Packets go on meanwhile.
func (g *Gateway) SaveSnapshot(w io.Writer) error {
	engine := g.runningEngine()
	if engine == nil {
		return ErrNotRunning
	}
	here, err := snapshot.Here(Version())
	if err != nil {
		return err
	}
	im := engine.Image()
	_, err = snapshot.Write(w, here, &im)
	return err
}

// RestoreSnapshot has the flows of a snapshot again, besides those that there are. A
// damaged one, or one of another version, is refused whole: the error wraps
// api.ErrRefused.
func (g *Gateway) RestoreSnapshot(b []byte) (api.RestoreResult, error) {
	engine := g.runningEngine()
	if engine == nil {
		return api.RestoreResult{}, ErrNotRunning
	}
	s, err := snapshot.Parse(b)
	if err != nil {
		return api.RestoreResult{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	here, err := snapshot.Here(Version())
	if err != nil {
		return api.RestoreResult{}, err
	}
	did, err := engine.Restore(s.Image(here))
	if err != nil {
		return api.RestoreResult{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	g.logRestored("a snapshot", did)
	return api.RestoreResult(did), nil
}

// SnapshotLimit returns how many bytes a snapshot may have.
func (g *Gateway) SnapshotLimit() int64 {
	c := &g.current.Load().cfg.Conntrack
	return snapshot.Bytes(c.Limit(), max(c.ExpectMax, maxExpects))
}

// maxExpects is the most that conntrack.expect_max may be.
const maxExpects = 1 << 16

// runningEngine returns the engine while the gateway runs, else nil.
func (g *Gateway) runningEngine() *dataplane.Engine {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.phase != running {
		return nil
	}
	return g.engine
}

// logRestored tells what became of saved flows.
func (g *Gateway) logRestored(from string, did dataplane.Restored) {
	g.log.Info("flows are restored", "from", from, "flows", did.Flows, "expectations", did.Expectations, "ports", did.Ports,
		"expired", did.Expired, "taken", did.Taken, "full", did.Full, "torn", did.Torn)
}
