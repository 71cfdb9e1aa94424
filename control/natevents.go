package control

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/control/flowlog"
	"example.com/culvert/control/ipfix"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/frag"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// sessionEvent turns the event of a translated flow into that of a session. An ICMP
// query has its identifier for a source port and no other.
func sessionEvent(e *conntrack.Event) ipfix.Event {
	o, r := &e.Flow.Tuple[tuple.Original], &e.Flow.Tuple[tuple.Reply]
	out := ipfix.Event{
		Kind: ipfix.SessionCreate, Realm: ipfix.Private, Proto: o.Proto, Time: e.Time,
		Source: o.Src.Netip(), PostSource: r.Dst.Netip(), Destination: o.Dst.Netip(), PostDestination: r.Src.Netip(),
		SourcePort: o.SrcPort, PostSourcePort: r.DstPort, DestPort: o.DstPort, PostDestPort: r.SrcPort,
	}
	if tuple.IsICMP(o.Proto) {
		out.PostSourcePort, out.DestPort, out.PostDestPort = r.SrcPort, 0, 0
	}
	if e.Flow.Status&conntrack.SrcNAT == 0 { // only its destination is translated
		out.Realm = ipfix.Public
	}
	if e.Type == conntrack.EventDestroy {
		out.Kind, out.Octets = ipfix.SessionDelete, e.Flow.Bytes
	}
	return out
}

func blockEvent(e *ports.Event, now time.Time) ipfix.Event {
	kind := ipfix.BlockAllocated
	if e.Kind == ports.BlockReleased {
		kind = ipfix.BlockReleased
	}
	return ipfix.Event{Kind: kind, Time: now, Source: e.Client.Netip(), PostSource: e.Addr.Netip(), FirstPort: e.Ports.First, LastPort: e.Ports.Last}
}

// exportRefusal tells of a flow that got no port or no room.
func (g *Gateway) exportRefusal(r *dataplane.Refusal) {
	x := &g.exports
	x.mu.RLock()
	defer x.mu.RUnlock()
	now := time.Now()
	for _, l := range x.logs {
		l.Refuse(flowlog.Refusal{At: now, Reason: r.Why.String(), Client: r.Client, Address: r.Address, Zone: r.Zone, Proto: r.Proto,
			Dst: r.Dst, DstPort: r.DstPort, Packets: r.Packets})
	}
	if len(x.collectors) == 0 {
		return
	}
	quota := ipfix.Event{Kind: ipfix.QuotaExceeded, Time: now, Source: r.Client.Netip(), Limit: r.Limit}
	conf := &g.current.Load().cfg.Conntrack
	switch r.Why {
	case dataplane.TableFull:
		quota.Quota, quota.Limit = ipfix.QuotaSessions, uint32(conf.Limit())
	case dataplane.LeasesFull:
		quota.Quota, quota.Limit = ipfix.QuotaMappings, uint32(conf.Limit())
	case dataplane.PortQuota, dataplane.PortBlocks:
		quota.Quota = ipfix.QuotaUser
	case dataplane.ClientFull:
		quota.Quota, quota.Limit = ipfix.QuotaUser, uint32(clientFloor(conf))
	case dataplane.PortsExhausted:
		x.sendLocked(config.NATExhausted, ipfix.Event{Kind: ipfix.PortsExhausted, Proto: r.Proto, Time: now, PostSource: r.Address.Netip()})
		if rule := g.engine.Program().Rule(r.Rule); rule != nil && len(rule.NewSource().Targets()) > 0 {
			x.sendLocked(config.NATExhausted, ipfix.Event{Kind: ipfix.AddressesExhausted, Time: now, Pool: r.Rule})
		}
		return
	default:
		return
	}
	x.sendLocked(config.NATQuota, quota)
}

// clientFloor returns how many flows a client may have whatever its share is.
func clientFloor(c *config.Conntrack) int {
	if c.Shares.Floor != 0 {
		return c.Shares.Floor
	}
	return max(c.Limit()/64, 16)
}

// watchPortsFor has the engine tell what collectors want to know. What thresholds are
// is the same for all of them; rules/config sees to it.
func (g *Gateway) watchPortsFor(all []*collector) {
	var w ports.Watch
	for _, c := range all {
		if c.conf.Events&config.NATMapping != 0 {
			w.Mappings = true
		}
		if c.conf.Events&config.NATThreshold != 0 {
			w.High, w.Low = c.conf.High, c.conf.Low
		}
	}
	g.exports.marks.set(w.High, w.Low)
	g.engine.WatchPorts(w)
}

// followNotices tells of mappings and of clients near their quota, until the engine is
// closed.
func (g *Gateway) followNotices() {
	x, lost := &g.exports, uint64(0)
	for n := range g.engine.Notices() {
		e := ipfix.Event{Time: time.Now(), Proto: n.Proto, Source: n.Inside.Addr.Netip()}
		kind := config.NATMapping
		switch n.Kind {
		case ports.MappingBegun, ports.MappingEnded:
			e.Kind = ipfix.MappingCreate
			if n.Kind == ports.MappingEnded {
				e.Kind = ipfix.MappingDelete
			}
			e.SourcePort, e.PostSource, e.PostSourcePort = n.Inside.Port, n.External.Addr.Netip(), n.External.Port
		case ports.ClientHigh:
			e.Kind, e.Threshold, e.Limit, kind = ipfix.ThresholdReached, ipfix.UserHigh, n.Used, config.NATThreshold
		default: // RFC 8158 has no event for a client that is well again
			continue
		}
		x.send(kind, e)
		if now := g.engine.NoticesLost(); now != lost {
			x.lose(now - lost)
			lost = now
		}
	}
}

// lose counts notices that did not get to the collectors that want them.
func (x *exports) lose(n uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, c := range x.collectors {
		if c.conf.Events&(config.NATMapping|config.NATThreshold) != 0 {
			c.Lose(n)
		}
	}
}

// marks remembers what is above its high mark, so that it is told once.
type marks struct {
	mu        sync.Mutex // guards the rest
	high, low int        // percent; high 0: nothing is told
	above     map[markKey]struct{}
}

// markKey says what may be above its mark: the ports of an address, the addresses of
// a pool, or, when it is zero, the table.
type markKey struct {
	address  netip.Addr
	zone     uint16
	protocol uint8
	pool     uint32
}

func (m *marks) set(high, low int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.high, m.low = high, low
	if high == 0 {
		m.above = nil
	}
}

// crossing says what has happened to use since it was last looked at.
type crossing uint8

const (
	notCrossed crossing = iota
	crossedHigh
	crossedLow
)

// cross notes how much of something is used, and returns the mark that this crosses.
func (m *marks) cross(k markKey, used, total uint64) (what crossing, mark uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.high == 0 || total == 0 {
		return notCrossed, 0
	}
	high, low := max((total*uint64(m.high)+99)/100, 1), total*uint64(m.low)/100
	_, above := m.above[k]
	switch {
	case !above && used >= high:
		if m.above == nil {
			m.above = make(map[markKey]struct{})
		}
		m.above[k] = struct{}{}
		return crossedHigh, uint32(min(high, math.MaxUint32))
	case above && used <= low:
		delete(m.above, k)
		return crossedLow, uint32(min(low, math.MaxUint32))
	}
	return notCrossed, 0
}

// exportTable tells when the table of flows fills up.
func (g *Gateway) exportTable(flows, limit int) {
	what, mark := g.exports.marks.cross(markKey{}, uint64(flows), uint64(limit))
	if what == crossedHigh {
		g.exports.send(config.NATThreshold, ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.GlobalHigh, Time: time.Now(), Limit: mark})
	}
}

// exportPortUse tells when the ports of an address or the addresses of a pool run low.
func (g *Gateway) exportPortUse(now time.Time, use []dataplane.PortUse) {
	for i := range use {
		u := &use[i]
		k := markKey{address: u.Addr.Netip(), zone: u.Zone, protocol: u.Proto}
		if what, mark := g.exports.marks.cross(k, uint64(u.Used+u.Kept), uint64(u.Total)); what == crossedHigh {
			g.exports.send(config.NATThreshold, ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.MappingsHigh, Time: now,
				PostSource: k.address, Proto: u.Proto, Limit: mark})
		}
	}
	for _, r := range g.engine.Program().Rules() {
		pool := poolOf(r)
		if len(pool) == 0 {
			continue
		}
		used, size := poolUse(pool, use)
		what, mark := g.exports.marks.cross(markKey{pool: r.ID}, used, size)
		e := ipfix.Event{Kind: ipfix.ThresholdReached, Threshold: ipfix.PoolHigh, Time: now, Pool: r.ID, Limit: mark}
		if what == crossedLow {
			e.Threshold = ipfix.PoolLow
		}
		if what != notCrossed {
			g.exports.send(config.NATThreshold, e)
		}
	}
}

// poolOf returns the addresses that a rule gives away, none if they are not a pool.
func poolOf(r *rules.Rule) []nat.AddrRange {
	if r.List != rules.Snat || r.Action() != rules.ActSnat {
		return nil
	}
	return r.NewSource().Targets()
}

// poolUse returns how many addresses of a pool have ports in use, and how many it has.
func poolUse(pool []nat.AddrRange, use []dataplane.PortUse) (used, size uint64) {
	for i := range pool {
		size += pool[i].Size()
	}
	seen := make(map[tuple.Addr]struct{})
	for i := range use {
		u := &use[i]
		if _, counted := seen[u.Addr]; counted || u.Used+u.Kept == 0 {
			continue
		}
		for j := range pool {
			if pool[j].Contains(u.Addr) {
				seen[u.Addr] = struct{}{}
				break
			}
		}
	}
	return uint64(len(seen)), size
}

// exportFragments tells when fragments were dropped because too many wait, since it was
// called last.
func (g *Gateway) exportFragments(dropped uint64) {
	before := g.exports.fragments
	if g.exports.fragments = dropped; dropped == before {
		return
	}
	g.exports.send(config.NATQuota, ipfix.Event{Kind: ipfix.QuotaExceeded, Quota: ipfix.QuotaFragments, Time: time.Now(), Limit: frag.DefaultDatagrams})
}
