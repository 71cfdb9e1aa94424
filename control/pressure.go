package control

import (
	"sync"
	"sync/atomic"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/metrics"
)

// pressure is what is known about a table that fills up.
type pressure struct {
	alarms [len(metrics.AlarmPercents)]atomic.Uint64

	mu    sync.RWMutex // held while the clients in the table are looked at
	ended bool         // the table is closed
}

// Holders that are named, and from which percentage of conntrack.max on.
const (
	holdersShown = 3
	holdersFrom  = 80
)

// followAlarms counts and logs the alarms of the table until it is closed.
func (g *Gateway) followAlarms() {
	for a := range g.table.Alarms() {
		for i, percent := range metrics.AlarmPercents {
			if a.Percent == percent {
				g.pressure.alarms[i].Add(1)
			}
		}
		g.exportTable(a.Flows, a.Max)
		g.log.Warn("connection table fills up: raise conntrack.max, or find out what the largest holders do",
			"percent", a.Percent, "flows", a.Flows, "limit", a.Max, "holders", texts(describeHolders(a.Holders)))
	}
}

// holders returns the largest holders of a table that is nearly full.
func (g *Gateway) holders(flows, limit int) []api.Holder {
	if flows*100 < limit*holdersFrom {
		return nil
	}
	g.pressure.mu.RLock()
	defer g.pressure.mu.RUnlock()
	if g.pressure.ended {
		return nil
	}
	return describeHolders(g.table.Holders(holdersShown))
}

// closeTable frees the table once nobody looks at its clients.
func (g *Gateway) closeTable() error {
	g.pressure.mu.Lock()
	defer g.pressure.mu.Unlock()
	g.pressure.ended = true
	return g.table.Close()
}

// describeHolders returns clients as the API names them.
func describeHolders(of []conntrack.Holder) []api.Holder {
	out := make([]api.Holder, len(of))
	for i, h := range of {
		client := h.Addr.String()
		if h.Addr.Is6() {
			client += "/64"
		}
		out[i] = api.Holder{Client: client, Zone: h.Zone, Flows: h.Flows, HalfOpen: h.HalfOpen}
	}
	return out
}

// Tracking returns the counters of the connection table.
func (g *Gateway) Tracking() (t metrics.Tracking) {
	if g.current.Load().generation == 0 {
		return t
	}
	t.Stats, t.Expect, t.Expectations = g.table.Stats(), g.table.ExpectStats(), g.table.ExpectLen()
	engine := g.engine.Stats()
	t.Ended, t.Unanswered, t.BlocksLost = engine.Ended, engine.Unanswered, g.engine.BlocksLost()
	t.Helpers = g.engine.HelperStats()
	t.EventsLost = make(map[string]uint64)
	lost := g.table.LostEvents()
	for _, typ := range conntrack.EventTypes() {
		t.EventsLost[typ.String()] = lost[typ]
	}
	for i := range t.Alarms {
		t.Alarms[i] = g.pressure.alarms[i].Load()
	}
	return t
}
