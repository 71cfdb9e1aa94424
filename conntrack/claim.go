package conntrack

import (
	"sync/atomic"
	"unsafe"

	"example.com/culvert/conntrack/internal/prefetch"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Proposal is a flow that wants to exist.
type Proposal struct {
	Original, Reply tuple.Tuple
	Status          Status // SrcNAT, DstNAT, Helper, ...; Confirmed, Dying and HWOffload are ignored
	Mark, Rule      uint32
	Generation      uint32    // of the rules
	Choice          uint8     // why nat chose the port, at most 15; opaque
	Holds           uint8     // what the flow holds elsewhere, at most 63; opaque, see Table.OnEnd
	Timeout         Tick      // instead of the protocol's; 0: the protocol's, by state
	Labels          [2]uint64 // connection labels
	Policy          uint32    // timeouts to use, from Table.Policy; 0: the table's
	Helper          uint32    // number of the helper that watches the flow, 0 if none; see Config.HelperName
	Master          Master    // of an expected flow, set by Announced.Inherit
}

const claimTries = 4 // expired entries, and other workers, in the way of one claim

// Claim takes both tuples of a new flow under the locks of both shards. On
// Claimed the entry is found by lookups, but not listed, does not expire and
// made no event: the caller tracks its first packet and then calls Confirm, or
// Abort if the packet never left. The other outcomes change nothing.
func (w *Worker) Claim(p *Proposal, now Tick) (Ref, Claim) {
	t := w.t
	x := &t.index
	ho, hr, asked := w.hashes(p)
	toward := t.towardCells(&p.Original, &p.Reply, p.Status)
	if !asked {
		w.prefetchPlaces(ho, hr)
	}
	w.prefetchRecords(&toward)
	w.ahead.learn(p)
	who := t.clients.enter(&w.hosts, &x.key, &p.Original, p.Status, now)
	at := w.placed()
	if at == 0 {
		if c := w.room(ho, who, now); c != Claimed {
			t.clients.leave(who, p.Original.Proto, p.Status)
			return w.refuse(c)
		}
	}
	slot := at
	if slot == 0 {
		slot = t.slots.get(&w.slots)
	}
	if slot == 0 {
		t.clients.leave(who, p.Original.Proto, p.Status)
		return w.refuse(TableFull)
	}
	if !w.fill(slot, p, now) {
		t.clients.leave(who, p.Original.Proto, p.Status)
		w.putBack(slot)
		return w.refuse(TableFull)
	}
	word.Store32(&t.owner[slot], who)
	word.Store32(&t.rules[slot], p.Generation)
	for range claimTries {
		taken, c := w.commit(slot, ho, hr, &toward)
		if c == Claimed {
			return Ref{Slot: slot}, c
		}
		if e := &t.entries[taken.Slot]; taken.Found() && at == 0 && e.expired(taken.Dir, now) {
			w.kill(taken.Slot, ifExpired, now)
			continue
		}
		if c == TableFull && at == 0 { // another worker has taken the place that room has found or made
			if c = w.room(ho, who, now); c == Claimed {
				continue
			}
		}
		if !taken.Found() {
			w.abandon(slot, who, p)
			return w.refuse(c)
		}
		w.giveUp(slot, who, p)
		word.Add64(&w.stats.InsertFailed, 1)
		if c == OriginalTaken {
			word.Add64(&w.stats.ClashResolve, 1)
		}
		return taken, c
	}
	w.giveUp(slot, who, p)
	return w.refuse(ChainFull)
}

// prefetchPlaces asks for the lines of the index that a claim is going to touch: both
// buckets with their locks.
func (w *Worker) prefetchPlaces(ho, hr uint64) {
	x := &w.t.index
	lines := w.lines[:4]
	for i, h := range [...]uint64{ho, hr} {
		lines[2*i] = uintptr(unsafe.Pointer(&x.shards[x.shardOf(h)]))
		lines[2*i+1] = uintptr(unsafe.Pointer(&x.buckets[x.firstBucket(h)]))
	}
	prefetch.Lines(lines)
}

// prefetchRecords asks for the lines of the record that the next claim is going to fill,
// and for the counters of the sockets of this one.
func (w *Worker) prefetchRecords(toward *[tuple.NumDirections]*uint32) {
	t := w.t
	slot := t.slots.link[w.slots.head] // an old one if there is none
	e := &t.entries[slot]
	lines := w.lines[:4]
	lines[0] = uintptr(unsafe.Pointer(&e.half[tuple.Original]))
	lines[1] = uintptr(unsafe.Pointer(&e.half[tuple.Reply]))
	lines[2] = uintptr(unsafe.Pointer(&e.word))
	lines[3] = uintptr(unsafe.Pointer(&t.due[slot]))
	for _, c := range toward {
		if c != nil {
			lines = append(lines, uintptr(unsafe.Pointer(c)))
		}
	}
	prefetch.Lines(lines)
}

// giveUp takes back what a claim that failed has taken.
func (w *Worker) giveUp(slot, who uint32, p *Proposal) {
	w.forget(&w.t.entries[slot])
	w.putBack(slot)
	w.t.clients.leave(who, p.Original.Proto, p.Status)
}

// placed returns the slot that the flow in hand must have, 0: any.
func (w *Worker) placed() uint32 {
	if w.making == nil {
		return 0
	}
	return w.making.at
}

// putBack gives a slot back that a claim has taken and nobody has seen.
func (w *Worker) putBack(slot uint32) {
	if w.placed() == 0 {
		w.slots.push(w.t.slots.link, slot)
	}
}

// abandon is giveUp for a slot whose original tuple was in the index for a moment:
// a reader may hold it, so that it waits for its epoch like one that was killed.
func (w *Worker) abandon(slot, who uint32, p *Proposal) {
	if w.placed() != 0 { // there are no readers
		w.giveUp(slot, who, p)
		return
	}
	atomic.OrUint32(&w.t.entries[slot].status, uint32(Dying))
	w.retired.open.push(w.t.slots.link, slot)
	w.t.clients.leave(who, p.Original.Proto, p.Status)
}

// refuse counts a claim that found no room.
func (w *Worker) refuse(c Claim) (Ref, Claim) {
	word.Add64(&w.stats.Drop, 1)
	switch c {
	case ChainFull:
		word.Add64(&w.stats.ChainTooLong, 1)
	case ClientFull:
		word.Add64(&w.stats.ClientFull, 1)
	default:
		word.Add64(&w.stats.TableFull, 1)
	}
	return Ref{}, c
}

// fill writes the record of a slot that is still ours alone, and reports
// whether there was room for its extension.
func (w *Worker) fill(slot uint32, p *Proposal, now Tick) bool {
	t := w.t
	e := &t.entries[slot]
	e.half[tuple.Original].begin(&p.Original, now)
	e.half[tuple.Reply].begin(&p.Reply, now)
	e.word, e.segment, e.proto = 0, 0, [8]uint32{}
	if !HasStates(p.Original.Proto) {
		e.proto[areaStream] = uint32(now + udpStreamAfter)
		if w.making == nil {
			e.proto[areaOwner+int(tuple.Original)] = w.owner() // whose packet it is
		}
	}
	e.mark, e.rule = p.Mark, p.Rule
	status := p.Status&(kernelBits|userBits)&^(Confirmed|Dying|assuredNow) | Status(p.Choice&choiceMask)<<choiceShift | holding(p.Holds)
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
	if w.making != nil {
		w.making.begin(e)
	}
	resumed := w.making != nil && w.making.from != nil
	if !t.cfg.Timestamp && p.Labels == ([2]uint64{}) && p.Policy|p.Helper|p.Master.Slot == 0 && !(resumed && w.making.from.extended()) {
		return true
	}
	e.ext = t.extPool.get(&w.exts)
	if e.ext == 0 {
		return false
	}
	t.exts[e.ext] = extension{labels: p.Labels, policy: p.Policy, helper: p.Helper, master: p.Master}
	if resumed {
		w.making.from.resumeExt(&t.exts[e.ext])
	}
	return true
}

// commit puts both tuples of slot into the index, or neither, and returns who
// has one of them.
func (w *Worker) commit(slot uint32, ho, hr uint64, toward *[tuple.NumDirections]*uint32) (Ref, Claim) {
	x, e := &w.t.index, &w.t.entries[slot]
	x.lock(ho, hr)
	defer x.unlock(ho, hr)
	if id := x.find(w.t.entries, &e.half[tuple.Original].tuple, ho); id != 0 {
		return refOf(id), OriginalTaken
	}
	if id := x.find(w.t.entries, &e.half[tuple.Reply].tuple, hr); id != 0 {
		return refOf(id), ReplyTaken
	}
	if !w.t.takePlace() {
		return Ref{}, TableFull
	}
	word.Store32(&e.status, uint32(e.Status()|linked)) // still ours alone
	if !x.insertLocked(ho, slot<<1|uint32(tuple.Original)) {
		w.t.live.Add(-1)
		return Ref{}, ChainFull
	}
	if !x.insertLocked(hr, slot<<1|uint32(tuple.Reply)) {
		x.removeLocked(ho, slot<<1|uint32(tuple.Original))
		w.t.live.Add(-1)
		return Ref{}, ChainFull
	}
	countToward(toward, 1)
	return Ref{}, Claimed
}

// takePlace counts one more entry, unless another worker has taken the last place since
// room looked.
func (t *Table) takePlace() bool {
	for {
		n := t.live.Load()
		if n >= int64(t.cfg.Max) {
			return false
		}
		if t.live.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Confirm says that the first packet of a claimed flow has left: its life
// begins, it is listed and the NEW event is made.
func (w *Worker) Confirm(r Ref, now Tick) {
	t := w.t
	e := &t.entries[r.Slot]
	if e.Status()&confirming != 0 || Status(atomic.OrUint32(&e.status, uint32(confirming)))&confirming != 0 {
		return // two first packets raced, and both leave
	}
	if word.Load32(&e.half[tuple.Original].seen) != uint32(now) {
		word.Store32(&e.half[tuple.Original].seen, uint32(now))
	}
	if e.ext != 0 && t.cfg.Timestamp {
		word.Store64(&t.exts[e.ext].start, uint64(t.Time(now).UnixNano()))
	}
	word.Add64(&w.stats.Insert, 1)
	w.emit(EventNew, 0, r.Slot, now) // before anybody can end it and say so
	word.Store32(&t.due[r.Slot], dueAt(e.deadline()))
	e.SetStatus(Confirmed) // an exclusive access: whoever sees it sees due
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
	return a.killFor(slot, how, Unspecified, now)
}

// killFor is kill with a cause.
func (a *actor) killFor(slot uint32, how killing, why Cause, now Tick) bool {
	t := a.t
	e := &t.entries[slot]
	ho := t.index.key.tuple(&e.half[tuple.Original].tuple)
	hr := t.index.key.tuple(&e.half[tuple.Reply].tuple)
	return a.endEntry(slot, how, why, now, ho, hr)
}

// endEntry is killFor for who has the hashes of both tuples.
func (a *actor) endEntry(slot uint32, how killing, why Cause, now Tick, ho, hr uint64) bool {
	t := a.t
	e := &t.entries[slot]
	last, ok := a.unlink(slot, how, now, ho, hr)
	if !ok {
		return false
	}
	if t.onEnd != nil {
		t.onEnd(e, now)
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
		if last&undelivered != 0 && !a.noteEnd(slot, why, now) {
			return true
		}
	}
	a.retired.open.push(t.slots.link, slot)
	return true
}

// unlink is the part of kill under the locks. It returns the status of the entry,
// with undelivered if somebody is to hear of the end.
func (a *actor) unlink(slot uint32, how killing, now Tick, ho, hr uint64) (last Status, ok bool) {
	t := a.t
	e := &t.entries[slot]
	t.index.lock(ho, hr)
	defer t.index.unlock(ho, hr)
	status := e.Status()
	if status&Dying != 0 || (status&Confirmed == 0) != (how == ifUnconfirmed) {
		return 0, false
	}
	if how == ifExpired && !e.expired(tuple.Original, now) {
		return 0, false // a packet came just now
	}
	ending := Dying
	if how != ifUnconfirmed && t.events.wants(FlowDestroy) {
		ending |= undelivered
	}
	last = Status(atomic.OrUint32(&e.status, uint32(ending))) | ending
	t.clients.leave(word.Load32(&t.owner[slot]), e.half[tuple.Original].tuple.Proto, last)
	word.Store32(&t.due[slot], 0)
	t.index.removeLocked(ho, slot<<1|uint32(tuple.Original))
	t.index.removeLocked(hr, slot<<1|uint32(tuple.Reply))
	toward := t.towardCellsOf(e)
	countToward(&toward, ^uint32(0))
	t.live.Add(-1)
	return last, true
}
