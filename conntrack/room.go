package conntrack

import (
	"sync/atomic"

	"example.com/culvert/conntrack/internal/word"
	"example.com/culvert/conntrack/tuple"
)

// room sees to it that there is room for a flow of a client, or says why there
// is none.
func (w *Worker) room(h uint64, who uint32, now Tick) Claim {
	t := w.t
	live, limit := t.live.Load(), int64(t.cfg.Max)
	if live < limit*sharePercent/100 {
		return Claimed
	}
	above := t.aboveShare(who, now)
	switch {
	case above && t.cfg.Profile == RFC:
		return ClientFull
	case live < limit || w.dropExpired(h, now):
		return Claimed
	case t.cfg.Profile == RFC: // a live flow is never ended (RFC 6888 REQ-11)
		return TableFull
	case w.dropEarly(h, who, above, now):
		word.Add64(&w.stats.EarlyDrop, 1)
		return Claimed
	case above:
		return ClientFull
	}
	return TableFull
}

// near calls f for the entries that have a place where hash h would look, until
// it returns false. The kernel looks at eight buckets too.
func (w *Worker) near(h uint64, f func(slot uint32, e *Entry) bool) {
	x := &w.t.index
	for i := range min(x.perShard, earlyDropBuckets) {
		b := x.bucketAt(h, i)
		for place := range places {
			id := word.Load32(&b.ids[place])
			if b.tag(place) != 0 && !f(id>>1, &w.t.entries[id>>1]) {
				return
			}
		}
	}
}

// dropExpired ends an entry near h whose time is over and that the sweep has not
// met yet.
func (w *Worker) dropExpired(h uint64, now Tick) (done bool) {
	w.near(h, func(slot uint32, e *Entry) bool {
		done = e.expired(tuple.Original, now) && w.kill(slot, ifExpired, now)
		return !done
	})
	return done
}

// dropEarly ends an entry that nobody would miss much, to make room for a flow
// of a client: that of the largest holder it meets, and of one no smaller than
// the client if that has more than its share itself.
func (w *Worker) dropEarly(h uint64, who uint32, above bool, now Tick) bool {
	t := w.t
	victim, most := uint32(0), uint32(0)
	if above {
		most = max(atomic.LoadUint32(&t.clients.recs[who].flows), 2) - 2 // the one it wants is counted, and equals will do
	}
	share := t.shares.flows.Load()
	consider := func(slot uint32, e *Entry) bool {
		flows := atomic.LoadUint32(&t.clients.recs[word.Load32(&t.owner[slot])].flows)
		if flows <= most || !e.expendable() {
			return true
		}
		victim, most = slot, flows
		return flows <= share
	}
	w.near(h, consider)
	if victim == 0 || most <= share { // nobody above his share yet: look elsewhere, too
		slots := t.slots.high.Load()
		for i := range min(slots, earlyDropSlots) {
			slot := 1 + (uint32(h)+i)%slots
			if !consider(slot, &t.entries[slot]) {
				break
			}
		}
	}
	return victim != 0 && w.kill(victim, always, now)
}

// How far an early drop looks for its victim.
const (
	earlyDropBuckets = 8
	earlyDropSlots   = 32
)

// expendable reports whether e may be evicted to make room.
func (e *Entry) expendable() bool {
	if status := e.Status(); status&Confirmed == 0 || status&Dying != 0 {
		return false
	} else if status&Assured == 0 {
		return true
	}
	switch e.State() {
	case FinWait, LastAck, TimeWait, Closed, CloseWait,
		SCTPShutdownSent, SCTPShutdownRecd, SCTPShutdownAckSent, SCTPClosed,
		DCCPCloseRequested, DCCPClosing, DCCPTimeWait:
		return true
	}
	return false
}
