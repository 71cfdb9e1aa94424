package dataplane

import (
	"cmp"
	"slices"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// PortUse is how many ports of one external address are in use for one protocol.
type PortUse struct {
	Addr  tuple.Addr
	Zone  uint16
	Proto uint8
	Used  int // by flows, whatever their destinations
	Kept  int // for clients that had them
	Total int // that rules may give away
}

// Free returns how many ports nobody has.
func (u *PortUse) Free() int { return max(u.Total-u.Used-u.Kept, 0) }

type portSpace struct {
	addr  tuple.Addr
	zone  uint16
	proto uint8
}

// PortUse looks at all flows and returns what ports they use, the fullest address
// first. It takes time in proportion to the flows, while workers go on.
func (e *Engine) PortUse() []PortUse {
	seen := map[portSpace]*nat.PortSet{}
	e.table.Dump(func(f *conntrack.Flow) bool {
		reply := &f.Tuple[tuple.Reply]
		if f.Status&conntrack.SrcNAT == 0 || !leasable(reply.Proto) {
			return true
		}
		k := portSpace{reply.Dst, reply.Zone, reply.Proto}
		if seen[k] == nil {
			seen[k] = new(nat.PortSet)
		}
		port := reply.DstPort
		if tuple.IsICMP(reply.Proto) {
			port = reply.SrcPort
		}
		seen[k].Add(port)
		return true
	})
	all := make([]PortUse, 0, len(seen))
	v := e.view.Load()
	add := func(k portSpace, used, kept int) {
		all = append(all, PortUse{Addr: k.addr, Zone: k.zone, Proto: k.proto, Used: used, Kept: kept, Total: v.portsOf(k)})
	}
	kept := map[portSpace]int{}
	for _, sp := range e.leases.Spaces() {
		if _, n := sp.Used(); n > 0 {
			kept[portSpace{sp.Addr, sp.Zone, sp.Proto}] = n
		}
	}
	for k, set := range seen {
		add(k, set.Len(), kept[k])
		delete(kept, k)
	}
	for k, n := range kept {
		add(k, 0, n)
	}
	slices.SortFunc(all, func(a, b PortUse) int {
		return cmp.Or(cmp.Compare(b.Used+b.Kept, a.Used+a.Kept), slices.Compare(a.Addr[:], b.Addr[:]), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Zone, b.Zone))
	})
	return all
}

// portsOf returns how many ports of a space rules may give away: the widest range
// of those that have the address.
func (v *view) portsOf(k portSpace) (most int) {
	for _, r := range v.prog.Rules() {
		if r.List != rules.Snat || r.Action() != rules.ActSnat && r.Action() != rules.ActMasquerade {
			continue
		}
		r.NewSource().Each(func(src *nat.Source) {
			switch {
			case !src.AllowsAddr(k.addr, k.addr):
			case !src.Ports.IsZero():
				most = max(most, src.Ports.Size())
			default:
				most = max(most, allPorts(k.proto))
			}
		})
	}
	if most == 0 { // no rule that runs has the address
		most = allPorts(k.proto)
	}
	return most
}

// allPorts returns how many ports, or identifiers, a protocol has to give: those
// below 1024 are a class of their own.
func allPorts(proto uint8) int {
	if tuple.IsICMP(proto) {
		return 65536
	}
	return 65536 - 1024
}

// Refusal tells of a flow that got no port.
type Refusal struct {
	Why     Reason
	Client  tuple.Addr
	Address tuple.Addr // external, the last one tried
	Zone    uint16
	Proto   uint8
	Dst     tuple.Addr
	DstPort uint16
	Rule    uint32 // id of the rule that translates the source, 0: none
	Limit   uint32 // ports that it gives a client, of PortQuota and PortBlocks
	Packets uint64 // refused for this Reason by the same worker since the last one told
}

// limit returns how many ports the rule of a flow gives a client, for the reason that
// it got none.
func (b *binding) limit() uint32 {
	switch t := &b.f.terms; b.why {
	case PortQuota:
		return t.Quota
	case PortBlocks:
		return uint32(t.BlockSize) * uint32(t.MaxBlocks)
	}
	return 0
}

const (
	refusalRoom     = 64
	refusalInterval = int64(1e9) // ns between two of one Reason and worker
)

// refusals is a worker's memory of what it told.
type refusals struct {
	at    [numReasons]int64
	count [numReasons]uint64
}

// tellRefused tells of a flow that got no port, once a second for each Reason. It
// never waits.
func (w *Worker) tellRefused(b *binding) {
	told := &w.refusals
	told.count[b.why]++
	if at := told.at[b.why]; at != 0 && w.now-at < refusalInterval {
		return
	}
	t, address := &b.f.key.Tuple, b.f.prop.Reply.Dst
	if address == (tuple.Addr{}) {
		address = b.f.search.Addr()
	}
	rule := uint32(0)
	if r := b.f.ruling.SnatRule; r != nil {
		rule = r.ID
	}
	select {
	case w.e.refusals <- Refusal{Why: b.why, Client: b.f.prop.Original.Src, Address: address, Zone: t.Zone, Proto: t.Proto,
		Dst: t.Dst, DstPort: t.DstPort, Rule: rule, Limit: b.limit(), Packets: told.count[b.why]}:
		told.at[b.why], told.count[b.why] = w.now, 0
	default: // nobody reads; it is counted with the next one
	}
}

// Refusals returns flows that got no port, some of them. It is closed by Close.
func (e *Engine) Refusals() <-chan Refusal { return e.refusals }

// Blocks returns what becomes of blocks of ports. It is closed by Close.
func (e *Engine) Blocks() <-chan ports.Event { return e.leases.Events() }

// BlocksLost returns how many events of Blocks found no room.
func (e *Engine) BlocksLost() uint64 { return e.leases.Lost() }

// WatchPorts sets what Notices tells from now on; see ports.Watch.
func (e *Engine) WatchPorts(w ports.Watch) { e.leases.Watch(w) }

// Notices returns what becomes of mappings and of clients' ports. It is closed by Close.
func (e *Engine) Notices() <-chan ports.Notice { return e.leases.Notices() }

// NoticesLost returns how many Notices found no room.
func (e *Engine) NoticesLost() uint64 { return e.leases.NoticesLost() }
