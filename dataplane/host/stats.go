package host

import "sync/atomic"

// Stats are the counters of a Host since New.
type Stats struct {
	LinkRx      uint64 // ARP and neighbour-discovery frames taken from workers
	LinkFull    uint64 // refused: ring full
	AskFull     uint64 // questions of workers refused: ring full
	LinkTx      uint64 // frames sent out of ports
	LinkRefused uint64 // not taken by the port
	LinkForeign uint64 // not sent: netstack wanted to bypass the engine

	LocalRx   uint64 // IP packets taken from workers
	LocalFull uint64 // refused: ring full
	LocalBad  uint64 // neither IPv4 nor IPv6, or not to be segmented
	LocalTx   uint64 // IP packets handed to the engine
	TxFull    uint64 // lost because the engine did not take them in time

	Failed         uint64 // neighbours that did not answer
	NeighboursFull uint64 // questions given up because too many were open
	Conflicts      uint64 // frames of other stations that use an address of ours
}

// RingLoad is how full a ring between workers and netstack is, in slots of 2 KB.
type RingLoad struct {
	Name       RingName
	Used, Size int
}

// RingName names a ring of a Host.
type RingName string

// Rings of a Host.
const (
	RingLink     RingName = "host-link"     // ARP and neighbour-discovery frames from workers
	RingQuestion RingName = "host-question" // neighbours that workers ask for
	RingIn       RingName = "host-in"       // IP packets to the own stack
	RingOut      RingName = "host-out"      // IP packets of the own stack
)

// RingLoads returns how full the rings are.
func (h *Host) RingLoads() []RingLoad {
	load := func(name RingName, r *ring) RingLoad { return RingLoad{name, r.fill(), len(r.slots)} }
	return []RingLoad{load(RingLink, h.links), load(RingQuestion, h.asks), load(RingIn, h.locals), load(RingOut, h.port.out)}
}

type counters struct {
	linkRx, linkTx, linkRefused, linkForeign atomic.Uint64
	localRx, localBad, localTx               atomic.Uint64
	failed, neighboursFull, conflicts        atomic.Uint64
}

// Stats returns the counters.
func (h *Host) Stats() Stats {
	c := &h.stats
	return Stats{
		LinkRx: c.linkRx.Load(), LinkFull: h.links.full.Load(), AskFull: h.asks.full.Load(), LinkTx: c.linkTx.Load(),
		LinkRefused: c.linkRefused.Load(), LinkForeign: c.linkForeign.Load(),
		LocalRx: c.localRx.Load(), LocalFull: h.locals.full.Load(), LocalBad: c.localBad.Load(),
		LocalTx: c.localTx.Load(), TxFull: h.port.out.full.Load(),
		Failed: c.failed.Load(), NeighboursFull: c.neighboursFull.Load(), Conflicts: c.conflicts.Load(),
	}
}
