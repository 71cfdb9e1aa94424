package conntrack

import (
	"sync/atomic"
	"unsafe"

	"example.com/culvert/conntrack/internal/prefetch"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// The due array holds, per slot, a tick that is not later than the entry's
// deadline, so that finding what expires is a walk over four bytes a flow.
// Packets only store when they were seen; the sweep moves due forward when it
// meets it. Only a timeout that got shorter moves it back.

const (
	sweepTicks = 100  // the sweep passes every slot once in this time
	chunkSlots = 1024 // claimed by a worker at a time
	maxChunks  = 1024 // looked at in one Begin: a million slots, under half a millisecond
	maxExamine = 512  // entries examined in one Begin, four times that after a pause
	sweepGroup = 32   // entries whose cache misses overlap
)

// dueAt returns the value for Table.due of a deadline: 0 means something else.
func dueAt(deadline Tick) uint32 { return max(uint32(deadline), 1) }

// sweep does the part of the expiry walk that has become due since anybody did
// some, within bounds.
func (w *Worker) sweep(now Tick) {
	t := w.t
	bound := maxExamine
	if now.Sub(w.swept) > 1 { // idle
		bound *= 4
	}
	w.swept, w.behind = now, false
	chunks := uint64(t.slots.high.Load()/chunkSlots) + 1
	last, at := t.scanTick.Load(), clockValid|uint64(now)
	if last&clockValid == 0 {
		t.scanTick.CompareAndSwap(last, at)
	} else if passed := now.Sub(Tick(last)); passed > 0 && t.scanTick.CompareAndSwap(last, at) {
		t.scanGoal.Add(uint64(min(passed, sweepTicks)) * chunks)
	}
	goal := t.scanGoal.Load() / sweepTicks
	examined := 0
	for range maxChunks {
		at := t.scan.Load()
		if at >= goal {
			return
		}
		if examined >= bound {
			w.behind = true
			return
		}
		if goal-at > chunks { // more than a pass behind: one is enough
			t.scan.CompareAndSwap(at, goal-chunks)
			continue
		}
		if t.scan.CompareAndSwap(at, at+1) {
			examined += w.sweepChunk(uint32(at%chunks), now)
		}
	}
}

// Behind reports whether entries wait to be expired that the bound of the last
// Begin left over. A worker that has nothing else to do begins again at once.
func (w *Worker) Behind() bool { return w.behind }

// sweepChunk ends the expired entries of one chunk of slots and returns how
// many entries it looked at.
func (w *Worker) sweepChunk(chunk uint32, now Tick) int {
	t := w.t
	examined := 0
	end := min((chunk+1)*chunkSlots, t.slots.high.Load()+1)
	group := w.ids[:0]
	for slot := max(chunk*chunkSlots, 1); slot < end; slot++ {
		due := word.Load32(&t.due[slot])
		if due == 0 || !now.Reached(Tick(due)) {
			continue
		}
		examined++
		if group = append(group, slot); len(group) == sweepGroup {
			w.sweepSlots(group, now)
			group = group[:0]
		}
	}
	w.sweepSlots(group, now)
	return examined
}

// sweepSlots ends the expired ones among a few slots that look due, and notes
// when the others are.
func (w *Worker) sweepSlots(slots []uint32, now Tick) {
	t := w.t
	for i, slot := range slots {
		e := &t.entries[slot]
		w.lines[3*i] = uintptr(unsafe.Pointer(&e.half[tuple.Original]))
		w.lines[3*i+1] = uintptr(unsafe.Pointer(&e.half[tuple.Reply]))
		w.lines[3*i+2] = uintptr(unsafe.Pointer(&e.word))
	}
	prefetch.Lines(w.lines[:3*len(slots)])

	n := 0
	for _, slot := range slots {
		e := &t.entries[slot]
		due, deadline := word.Load32(&t.due[slot]), e.deadline()
		if !now.Reached(deadline) {
			if due != 0 {
				e.rebase(now)
				t.postpone(slot, due, deadline)
			}
			continue
		}
		slots[n] = slot
		for d := range e.half {
			h := t.index.key.tuple(&e.half[d].tuple)
			w.hash[2*n+d] = h
			w.lines[2*n+d] = uintptr(unsafe.Pointer(&t.index.buckets[t.index.firstBucket(h)]))
		}
		n++
	}
	prefetch.Lines(w.lines[:2*n])

	for i, slot := range slots[:n] {
		w.endEntry(slot, ifExpired, Unspecified, now, w.hash[2*i], w.hash[2*i+1])
	}
}

// farBack is how far back a moment may lie that somebody still compares with: with
// the longest timeout between two looks at it, less than a signed difference tells.
const farBack = Tick(1 << 29)

// rebase draws the moments of a live entry nearer that are so far back that they
// would seem to be ahead one day: when a direction that says nothing last had a packet,
// and since when a UDP flow has been a stream.
func (e *Entry) rebase(now Tick) {
	for d := range e.half {
		draw(&e.half[d].seen, now)
	}
	if !HasStates(e.Proto()) {
		draw(&e.proto[areaStream], now)
	}
}

// draw moves a moment that lies far back nearer. A packet that stores its own time
// meanwhile wins.
func draw(at *uint32, now Tick) {
	if old := word.Load32(at); now.Sub(Tick(old)) > int32(farBack) {
		atomic.CompareAndSwapUint32(at, old, uint32(now-farBack))
	}
}

// postpone moves the due tick of a slot from old to its deadline.
func (t *Table) postpone(slot, old uint32, deadline Tick) {
	for atomic.CompareAndSwapUint32(&t.due[slot], old, dueAt(deadline)) {
		// A timeout that was shortened meanwhile may have found the old value
		// early enough and left it: look again after the store.
		again := t.entries[slot].deadline()
		if again.Sub(deadline) >= 0 {
			return
		}
		old, deadline = dueAt(deadline), again
	}
}

// setTimeout changes how long an entry may be idle, counted from its last
// packet. The store is sequentially consistent; see postpone.
func (t *Table) setTimeout(slot uint32, e *Entry, timeout Tick) {
	old := e.Timeout()
	if old == timeout {
		return
	}
	atomic.StoreUint32(&e.timeout, uint32(timeout))
	if timeout >= old {
		return
	}
	deadline := e.deadline()
	for {
		due := atomic.LoadUint32(&t.due[slot])
		if due == 0 || deadline.Sub(Tick(due)) >= 0 || atomic.CompareAndSwapUint32(&t.due[slot], due, dueAt(deadline)) {
			return
		}
	}
}
