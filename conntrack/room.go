package conntrack

import (
	"math/bits"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
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
	if who == sharedClient && t.cfg.Profile != RFC {
		above = false // of nobody in particular: it may be the first flow of one who has not flooded
	}
	if live >= limit && w.dropExpired(h, now) {
		live--
	}
	switch {
	case above && t.cfg.Profile == RFC:
		return ClientFull
	case live < limit && t.cfg.Profile == RFC:
		return t.spare(who, live)
	case live < limit:
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

// spare says whether a client, whose flow in hand is counted already, may have a place of
// the last tenth in a table of profile rfc. Nothing makes room there (RFC 6888 REQ-11), so
// that those must not use it up whom nobody answers. The fuller it is, the fewer flows
// without an answer a client may have: as many as there are places at first (or Floor), then
// half as many, and so on. The last eighth is for clients whom somebody has answered
// lastingly: who sends from addresses that are not his, as many as he likes, cannot get there.
func (t *Table) spare(n uint32, live int64) Claim {
	r, limit := &t.clients.recs[n], int64(t.cfg.Max)
	first := limit * sharePercent / 100
	most := uint64(max(limit-first, int64(t.cfg.Shares.Floor)))
	halvings := int64(bits.Len64(most)) * (live - first) * 8 / ((limit - first) * 7)
	may := uint32(most >> halvings)
	if r.flows() > r.half() {
		may = max(may, answeredMay)
	}
	switch waits := r.waits(); {
	case waits <= may:
		return Claimed
	case waits > 1:
		return ClientFull
	}
	return TableFull // it is not for what this one has
}

// answeredMay is how many flows a client may begin at a time, if others of it were
// answered, whatever room there is: what browsers do.
const answeredMay = 8

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
// of a client: one of a client that has more than its share, else of the largest
// holder it meets, and of one no smaller than the client if that has more than
// its share itself. What the floor allows to everybody makes nobody a holder, nor
// do those who are too many to be counted one by one. Of several such entries the
// one goes that has been silent longest: a handshake that is about to be answered
// is younger than what a flood has left behind.
func (w *Worker) dropEarly(h uint64, who uint32, above bool, now Tick) bool {
	t := w.t
	share, floor := t.shares.flows.Load(), uint32(t.cfg.Shares.Floor)
	least := uint32(0)
	if above {
		least = max(t.clients.recs[who].flows(), 2) - 2 // the one it wants is counted, and equals will do
	}
	var best struct {
		slot, flows uint32
		over        bool // its client has more than its share
		silent      int32
	}
	rivals := 0
	consider := func(slot uint32, e *Entry) bool {
		owner := word.Load32(&t.owner[slot])
		flows := t.clients.recs[owner].flows()
		if flows <= least || !e.expendable() {
			return true
		}
		over := flows > share && flows > floor && owner != sharedClient
		if flows <= floor || over || owner == sharedClient { // those are alike
			flows = 1
		}
		if rivals++; over {
			rivals += earlyDropOver - 1
		}
		silent := now.Sub(Tick(word.Load32(&e.half[tuple.Original].seen)))
		if best.slot == 0 || over && !best.over || over == best.over && (flows > best.flows || flows == best.flows && silent > best.silent) {
			best.slot, best.flows, best.over, best.silent = slot, flows, over, silent
		}
		return rivals < earlyDropRivals
	}
	w.near(h, consider)
	if !best.over { // nobody above his share yet: look elsewhere, too
		slots := t.slots.high.Load()
		for i := range min(slots, earlyDropSlots) {
			slot := 1 + (uint32(h)+i)%slots
			if !consider(slot, &t.entries[slot]) {
				break
			}
		}
	}
	return best.slot != 0 && w.kill(best.slot, always, now)
}

// How far an early drop looks for its victim.
const (
	earlyDropBuckets = 8
	earlyDropSlots   = 32
	earlyDropRivals  = 24 // entries that it compares
	earlyDropOver    = 4  // for how many of them one of a client above its share counts
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
