package control

import (
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
	"example.com/culvert/dataplane"
	"example.com/culvert/rules"
)

// portWatch knows how full the ports of external addresses are, and where they go.
type portWatch struct {
	mu       sync.Mutex
	series   map[portKey]*portSeries
	last     []api.PortUse
	refusals []api.Refusal // the last one of each kind, newest first
}

type portKey struct {
	address  string
	zone     uint16
	protocol string
}

// portSeries are the latest samples of one address and protocol.
type portSeries struct {
	at   [portSamples]time.Time
	used [portSamples]int
	n    int // taken; the latest is n-1 modulo portSamples
}

const (
	portInterval = 10 * time.Second // between two samples, longer with many flows
	portShare    = 50               // of the time, one part may go into sampling
	portSamples  = 31               // five minutes
	forecastMax  = 24 * time.Hour
	refusalsKept = 8
)

// watchPorts samples until the gateway ends.
func (g *Gateway) watchPorts() {
	wait := portInterval
	for {
		select {
		case <-g.ending:
			return
		case <-time.After(wait):
		}
		began := time.Now()
		g.samplePorts(began)
		wait = max(portInterval, portShare*time.Since(began))
	}
}

// samplePorts samples once, unless the table is gone.
func (g *Gateway) samplePorts(now time.Time) {
	g.pressure.mu.RLock()
	defer g.pressure.mu.RUnlock()
	if !g.pressure.ended {
		use := g.engine.PortUse()
		g.portWatch.sample(now, use)
		g.exportTable(g.table.Len(), g.current.Load().cfg.Conntrack.Limit())
		g.exportPortUse(now, use)
		g.exportFragments(g.engine.Stats().Dropped[dataplane.FragmentLimit])
	}
}

// sample takes note of the ports in use at a time.
func (p *portWatch) sample(now time.Time, use []dataplane.PortUse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.series
	p.series = make(map[portKey]*portSeries, len(use))
	p.last = make([]api.PortUse, len(use))
	for i := range use {
		u := &use[i]
		k := portKey{u.Addr.String(), u.Zone, rules.ProtoName(u.Proto)}
		s := old[k]
		if s == nil {
			s = new(portSeries)
		}
		p.series[k] = s
		s.add(now, u.Used+u.Kept)
		p.last[i] = api.PortUse{Address: k.address, Zone: k.zone, Protocol: k.protocol, Used: u.Used, Kept: u.Kept, Total: u.Total,
			FullIn: s.fullIn(u.Total).Seconds()}
	}
}

func (s *portSeries) add(now time.Time, used int) {
	s.at[s.n%portSamples], s.used[s.n%portSamples] = now, used
	s.n++
}

// fullIn returns when so many ports will be used if use grows as it did over the
// samples; 0: it does not grow, or not soon enough to tell.
func (s *portSeries) fullIn(total int) time.Duration {
	last, first := (s.n-1)%portSamples, 0
	if s.n > portSamples {
		first = s.n % portSamples
	}
	grown, took := s.used[last]-s.used[first], s.at[last].Sub(s.at[first])
	if grown <= 0 || took <= 0 || s.used[last] >= total {
		return 0
	}
	in := time.Duration(float64(total-s.used[last]) / float64(grown) * float64(took))
	if in > forecastMax {
		return 0
	}
	return max(in, time.Second)
}

// report returns what is known.
func (p *portWatch) report() ([]api.PortUse, []api.Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, slices.Clone(p.refusals)
}

// followRefusals tells of flows that got no port, until the engine is closed.
func (g *Gateway) followRefusals() {
	for r := range g.engine.Refusals() {
		a := describeRefusal(&r)
		g.exportRefusal(&r)
		g.portWatch.refused(a)
		logging.For(g.log, logging.Port).Warn("a flow got no port: "+a.Advice, "reason", a.Reason, "client", a.Client, "address", a.Address,
			"protocol", a.Protocol, "destination", a.Destination, "packets", a.Packets)
	}
}

func describeRefusal(r *dataplane.Refusal) api.Refusal {
	return api.Refusal{At: time.Now(), Reason: r.Why.String(), Advice: r.Why.Advice(), Client: r.Client.String(), Address: r.Address.String(),
		Zone: r.Zone, Protocol: rules.ProtoName(r.Proto), Destination: net.JoinHostPort(r.Dst.String(), strconv.Itoa(int(r.DstPort))), Packets: r.Packets}
}

// refused puts a refusal in place of the last one of its kind.
func (p *portWatch) refused(r api.Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals = slices.DeleteFunc(p.refusals, func(o api.Refusal) bool {
		return o.Reason == r.Reason && o.Address == r.Address && o.Zone == r.Zone && o.Protocol == r.Protocol
	})
	p.refusals = slices.Insert(p.refusals, 0, r)
	p.refusals = p.refusals[:min(len(p.refusals), refusalsKept)]
}

// followBlocks logs whose the blocks of ports are, until the engine is closed.
func (g *Gateway) followBlocks() {
	lost, log := uint64(0), logging.For(g.log, logging.Port)
	for e := range g.engine.Blocks() {
		g.exportBlock(&e)
		log.Info("port block "+e.Kind.String(), "client", e.Client.String(), "zone", e.Zone, "address", e.Addr.String(), "ports", e.Ports.String())
		if n := g.engine.BlocksLost(); n != lost {
			log.Error("port blocks were not logged: the log is too slow", "blocks", n-lost)
			lost = n
		}
	}
}
