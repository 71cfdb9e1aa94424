package conntrack

import (
	"sync/atomic"

	"example.com/culvert/conntrack/internal/word"
	"example.com/culvert/conntrack/tuple"
)

// Proposal is a flow that wants to exist.
type Proposal struct {
	Original, Reply tuple.Tuple
	Status          Status // SrcNAT, DstNAT, Helper, ...; Confirmed and Dying are ignored
	Mark, Rule      uint32
	Choice          uint8     // why nat chose the port; opaque
	Timeout         Tick      // instead of the protocol's; 0: the protocol's, by state
	Labels          [2]uint64 // connection labels
	Policy          uint32    // timeouts to use, from Table.Policy; 0: the table's
	Helper          uint32    // number of the helper that watches the flow, 0 if none; see Config.HelperName
	Master          Master    // of an expected flow, set by Announced.Inherit
}

const claimTries = 4 // expired entries in the way of one claim

// Claim takes both tuples of a new flow under the locks of both shards. On
// Claimed the entry is found by lookups, but not listed, does not expire and
// made no event: the caller tracks its first packet and then calls Confirm, or
// Abort if the packet never left. The other outcomes change nothing.
func (w *Worker) Claim(p *Proposal, now Tick) (Ref, Claim) {
	t := w.t
	x := &t.index
	ho, hr := x.key.tuple(&p.Original), x.key.tuple(&p.Reply)
	if t.live.Load() >= int64(t.cfg.Max) && !w.makeRoom(ho, now) {
		return w.refuse(TableFull)
	}
	slot := t.slots.get(&w.slots)
	if slot == 0 {
		return w.refuse(TableFull)
	}
	if !w.fill(slot, p, now) {
		w.slots.push(t.slots.link, slot)
		return w.refuse(TableFull)
	}
	for range claimTries {
		taken, c := w.commit(slot, ho, hr)
		if c == Claimed {
			return Ref{Slot: slot}, c
		}
		if e := &t.entries[taken.Slot]; taken.Found() && e.expired(taken.Dir, now) {
			w.kill(taken.Slot, ifExpired, now)
			continue
		}
		w.forget(&t.entries[slot])
		w.slots.push(t.slots.link, slot)
		if !taken.Found() {
			return w.refuse(c)
		}
		word.Add64(&w.stats.InsertFailed, 1)
		if c == OriginalTaken {
			word.Add64(&w.stats.ClashResolve, 1)
		}
		return taken, c
	}
	w.forget(&t.entries[slot])
	w.slots.push(t.slots.link, slot)
	return w.refuse(ChainFull)
}

// refuse counts a claim that found no room.
func (w *Worker) refuse(c Claim) (Ref, Claim) {
	word.Add64(&w.stats.Drop, 1)
	if c == ChainFull {
		word.Add64(&w.stats.ChainTooLong, 1)
	}
	return Ref{}, c
}

// fill writes the record of a slot that is still ours alone, and reports
// whether there was room for its extension.
func (w *Worker) fill(slot uint32, p *Proposal, now Tick) bool {
	t := w.t
	e := &t.entries[slot]
	e.half[tuple.Original] = half{tuple: p.Original, seen: uint32(now)}
	e.half[tuple.Reply] = half{tuple: p.Reply, seen: uint32(now)}
	e.word, e.segment, e.proto = 0, 0, [8]uint32{}
	if !HasStates(p.Original.Proto) {
		e.proto[areaStream] = uint32(now + udpStreamAfter)
	}
	e.mark, e.rule = p.Mark, p.Rule
	status := p.Status&^(Confirmed|Dying) | Status(p.Choice)<<choiceShift
	if p.Helper != 0 {
		status |= Helper
	}
	idle := &t.idle
	if p.Policy != 0 {
		status |= OwnPolicy
		idle = t.policy(p.Policy)
	}
	timeout := idle.initial(p.Original.Proto)
	if p.Timeout != 0 {
		status |= OwnTimeout
		timeout = min(p.Timeout, maxTimeout)
	}
	word.Store32(&e.timeout, uint32(timeout))
	word.Store32(&e.status, uint32(status))
	if !t.cfg.Timestamp && p.Labels == ([2]uint64{}) && p.Policy|p.Helper|p.Master.Slot == 0 {
		return true
	}
	e.ext = t.extPool.get(&w.exts)
	if e.ext == 0 {
		return false
	}
	t.exts[e.ext] = extension{labels: p.Labels, policy: p.Policy, helper: p.Helper, master: p.Master}
	return true
}

// commit puts both tuples of slot into the index, or neither, and returns who
// has one of them.
func (w *Worker) commit(slot uint32, ho, hr uint64) (Ref, Claim) {
	x, e := &w.t.index, &w.t.entries[slot]
	x.lock(ho, hr)
	defer x.unlock(ho, hr)
	if id := x.find(w.t.entries, &e.half[tuple.Original].tuple, ho); id != 0 {
		return refOf(id), OriginalTaken
	}
	if id := x.find(w.t.entries, &e.half[tuple.Reply].tuple, hr); id != 0 {
		return refOf(id), ReplyTaken
	}
	if !x.insertLocked(ho, slot<<1|uint32(tuple.Original)) {
		return Ref{}, ChainFull
	}
	if !x.insertLocked(hr, slot<<1|uint32(tuple.Reply)) {
		x.removeLocked(ho, slot<<1|uint32(tuple.Original))
		return Ref{}, ChainFull
	}
	e.SetStatus(linked)
	w.t.live.Add(1)
	return Ref{}, Claimed
}

// Confirm says that the first packet of a claimed flow has left: its life
// begins, it is listed and the NEW event is made.
func (w *Worker) Confirm(r Ref, now Tick) {
	t := w.t
	e := &t.entries[r.Slot]
	if e.Status()&Confirmed != 0 {
		return
	}
	word.Store32(&e.half[tuple.Original].seen, uint32(now))
	if e.ext != 0 && t.cfg.Timestamp {
		word.Store64(&t.exts[e.ext].start, uint64(t.Time(now).UnixNano()))
	}
	word.Add64(&w.stats.Insert, 1)
	w.emit(EventNew, 0, r.Slot, now) // before anybody can end it and say so
	atomic.StoreUint32(&t.due[r.Slot], dueAt(e.deadline()))
	e.SetStatus(Confirmed)
}

// Abort takes back a claimed flow whose first packet did not leave. Nothing is
// reported. It has no effect on a confirmed entry.
func (w *Worker) Abort(r Ref) { w.kill(r.Slot, ifUnconfirmed, w.now) }

// Kill ends a confirmed flow at once.
func (w *Worker) Kill(r Ref) { w.kill(r.Slot, always, w.now) }

// killing says under which condition an entry may be ended.
type killing uint8

const (
	always        killing = iota // if it is confirmed
	ifExpired                    // if its time is over
	ifUnconfirmed                // if it was never confirmed
)

// kill takes an entry out of the index, reports it and retires its slot. It
// reports whether it did: somebody else may have been first. The caller's
// epoch protects the slot.
func (a *actor) kill(slot uint32, how killing, now Tick) bool {
	t := a.t
	e := &t.entries[slot]
	ho := t.index.key.tuple(&e.half[tuple.Original].tuple)
	hr := t.index.key.tuple(&e.half[tuple.Reply].tuple)
	if !a.unlink(slot, how, now, ho, hr) {
		return false
	}
	if e.Status()&announces != 0 {
		t.orphan(slot, e.gen, now)
	}
	if how == ifExpired {
		word.Add64(&a.stats.Expired, 1)
	}
	if how != ifUnconfirmed {
		if e.ext != 0 && t.cfg.Timestamp {
			word.Store64(&t.exts[e.ext].stop, uint64(t.Time(now).UnixNano()))
		}
		if !a.note(EventDestroy, 0, slot, now) && a.linger(slot) {
			return true
		}
	}
	a.retired.open.push(t.slots.link, slot)
	return true
}

// unlink is the part of kill under the locks.
func (a *actor) unlink(slot uint32, how killing, now Tick, ho, hr uint64) bool {
	t := a.t
	e := &t.entries[slot]
	t.index.lock(ho, hr)
	defer t.index.unlock(ho, hr)
	status := e.Status()
	if status&Dying != 0 || (status&Confirmed == 0) != (how == ifUnconfirmed) {
		return false
	}
	if how == ifExpired && !e.expired(tuple.Original, now) {
		return false // a packet came just now
	}
	e.SetStatus(Dying)
	word.Store32(&t.due[slot], 0)
	t.index.removeLocked(ho, slot<<1|uint32(tuple.Original))
	t.index.removeLocked(hr, slot<<1|uint32(tuple.Reply))
	t.live.Add(-1)
	return true
}

// makeRoom ends an entry near where a new one wants to go, and reports whether
// it did: one whose time is over that the sweep has not met yet, else, unless
// the profile is RFC (RFC 6888 REQ-11), one that nobody would miss much. The
// kernel looks at eight buckets too.
func (w *Worker) makeRoom(h uint64, now Tick) bool {
	if w.evict(h, now, ifExpired) {
		return true
	}
	if w.t.cfg.Profile == RFC || !w.evict(h, now, always) {
		return false
	}
	word.Add64(&w.stats.EarlyDrop, 1)
	return true
}

// evict ends the first entry near h that is expired or, with always, expendable.
func (w *Worker) evict(h uint64, now Tick, how killing) bool {
	x := &w.t.index
	for i := range min(x.perShard, earlyDropBuckets) {
		b := x.bucketAt(h, i)
		for place := range places {
			id := word.Load32(&b.ids[place])
			if b.tag(place) == 0 {
				continue
			}
			e := &w.t.entries[id>>1]
			if how == ifExpired && !e.expired(tuple.Original, now) || how == always && !e.expendable() {
				continue
			}
			if w.kill(id>>1, how, now) {
				return true
			}
		}
	}
	return false
}

const earlyDropBuckets = 8

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
