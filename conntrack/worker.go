package conntrack

import (
	"unsafe"

	"example.com/culvert/conntrack/internal/prefetch"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// MaxBatch is the largest batch Worker.Lookup takes.
const MaxBatch = 64

// Ref names an entry and the direction a packet goes through it. It is valid
// until the worker's next Begin or Park; an entry that is not confirmed yet
// stays until its owner confirms or aborts it.
type Ref struct {
	Slot uint32 // 0: none
	Dir  tuple.Direction
}

// Found reports whether r names an entry.
func (r Ref) Found() bool { return r.Slot != 0 }

// refOf decodes a value of the index.
func refOf(id uint32) Ref { return Ref{id >> 1, tuple.Direction(id & 1)} }

// actor is somebody who can make and end entries: a worker, or the control
// side. It keeps what must not be shared while doing so.
type actor struct {
	t       *Table
	ring    *ring[note] // events
	stats   Stats       // written by the actor alone
	slots   chain       // free slots at hand
	exts    chain       // free extension records at hand
	retired retirees
	dying   chain // entries whose DESTROY waits for room in the ring
	causes  causes

	commands bool // does what commands ask for
}

func (a *actor) init(t *Table, i int) {
	a.t = t
	a.ring = &t.events.rings[i]
}

// Worker is the handle through which one goroutine takes packets through the
// table. Its calls come in batches: Begin, then any of the others, again
// Begin; Park when there is nothing to do for a while.
type Worker struct {
	now    Tick       // of the batch
	swept  Tick       // of the batch before, see sweep
	behind bool       // see Behind
	seat   int        // in epochs
	making *Insertion // that a claim is for, nil for packets
	actor

	hash  [MaxBatch]uint64
	home  [MaxBatch]uint64 // first bucket
	ids   [MaxBatch]uint32
	lines [linesOfEntry * MaxBatch]uintptr
	hosts nearClients
	ahead foresight
	_     [64]byte
}

// Begin starts a batch at time now: entries seen before may be gone, slots
// that nobody can hold any more return to the pool, and a bounded number of
// entries is looked at for expiry. An idle worker calls it every 100 ms.
func (w *Worker) Begin(now Tick) {
	w.now = now
	w.t.advance(now)
	w.retired.close(w.t.epochs)
	w.t.epochs.enter(w.seat)
	w.deliverDying(now)
	w.reclaim()
	w.t.control.help()
	if live := w.t.live.Load(); live*100 >= int64(w.t.cfg.Max)*watchPercent || w.t.shares.raised.Load() != 0 {
		w.t.watch(live, now)
	}
	if w.t.expects.n.Load() != 0 {
		w.t.expireExpects(now)
	}
	w.sweep(now)
}

// Park says that the worker holds no entry and will not look any up before its
// next Begin.
func (w *Worker) Park() {
	w.retired.close(w.t.epochs)
	w.t.epochs.leave(w.seat)
}

// reclaim gives slots whose time has come back to the pool.
func (a *actor) reclaim() {
	for {
		c := a.retired.due(a.t.epochs)
		if c == nil {
			return
		}
		for slot, n := c.head, c.n; n > 0; n-- {
			a.forget(&a.t.entries[slot])
			slot = a.t.slots.link[slot]
		}
		a.t.slots.put(&a.slots, c)
		a.retired.drop()
	}
}

// forget clears what must not outlive an entry nobody can see any more. Whoever
// remembered the entry tells by its generation that it is gone.
func (a *actor) forget(e *Entry) {
	word.Store32(&e.gen, e.gen+1)
	if e.ext != 0 {
		one := chain{}
		one.push(a.t.extPool.link, e.ext)
		a.t.extPool.put(&a.exts, &one)
		word.Store32(&e.ext, 0)
	}
	word.Store32(&e.status, 0)
}

// Lookup finds the entries of a batch of at most MaxBatch packets: refs[i] is
// that of keys[i]. Entries whose time is over are not found.
//
// The batch goes through three steps in groups, a group being one step ahead of
// the next one: while the processor computes for one, the cache lines that
// another waits for are on their way.
func (w *Worker) Lookup(keys []tuple.Tuple, refs []Ref) {
	n := len(keys)
	refs = refs[:n]
	found := 0
	for at := 0; at < n+2*lookupGroup; at += lookupGroup {
		if at < n {
			w.hashGroup(keys, at)
		}
		if at >= lookupGroup && at < n+lookupGroup {
			w.probeGroup(n, at-lookupGroup)
		}
		if at >= 2*lookupGroup {
			found += w.matchGroup(keys, refs, at-2*lookupGroup)
		}
	}
	word.Add64(&w.stats.Found, uint64(found))
	if found < n {
		w.foresee(keys, refs)
	}
}

// lookupGroup is how many packets go through a step of Lookup together: enough
// for misses to overlap, and few enough for the lines on their way to fit into
// the processor's buffers.
const lookupGroup = 16

// linesOfEntry is how many cache lines an entry has. A packet needs all of them.
const linesOfEntry = 3

// hashGroup finds the home buckets of the group that begins at at, and asks for
// their lines.
func (w *Worker) hashGroup(keys []tuple.Tuple, at int) {
	x := &w.t.index
	end := min(at+lookupGroup, len(keys))
	hash, home := w.hash[at:end], w.home[at:end]
	x.key.tuples(hash, keys[at:end])
	if hasProbe && len(hash) > 0 {
		seek(&home[0], &hash[0], len(hash), &x.buckets[0], len(x.buckets))
		return
	}
	lines := w.lines[:len(hash)]
	home = home[:len(hash)]
	for i, h := range hash {
		b := x.firstBucket(h)
		home[i] = b
		lines[i] = uintptr(unsafe.Pointer(&x.buckets[b]))
	}
	prefetch.Lines(lines)
}

// probeGroup finds the candidates in the home buckets of a group of a batch of
// n, and asks for the lines of their records.
func (w *Worker) probeGroup(n, at int) {
	x := &w.t.index
	end := min(at+lookupGroup, n)
	hash := w.hash[at:end]
	home, ids, lines := w.home[at:end][:len(hash)], w.ids[at:end][:len(hash)], w.lines[:linesOfEntry*len(hash)]
	if hasProbe && len(hash) > 0 {
		probe(&ids[0], &home[0], &hash[0], len(hash), &x.buckets[0], &w.t.entries[0])
		return
	}
	for i, h := range hash {
		id := x.buckets[home[i]].candidate(tagOf(h))
		ids[i] = id
		e := &w.t.entries[id>>1]
		line := lines[linesOfEntry*i:][:linesOfEntry]
		line[0] = uintptr(unsafe.Pointer(&e.half[id&1]))
		line[1] = uintptr(unsafe.Pointer(&e.word))
		line[2] = uintptr(unsafe.Pointer(&e.half[id&1^1])) // says what the packet becomes
	}
	prefetch.Lines(lines)
}

// matchGroup compares the candidates of a group with the keys, searches for what
// is not there, and returns how many entries it found.
func (w *Worker) matchGroup(keys []tuple.Tuple, refs []Ref, at int) (found int) {
	x := &w.t.index
	end := min(at+lookupGroup, len(keys))
	keys = keys[at:end]
	refs, ids := refs[at:end][:len(keys)], w.ids[at:end][:len(keys)]
	for i := range keys {
		id := ids[i]
		if id == 0 && x.buckets[w.home[at+i]].overflow() == 0 {
			refs[i] = Ref{}
			continue
		}
		e := &w.t.entries[id>>1]
		h := &e.half[id&1]
		if id == 0 || !same(&h.tuple, &keys[i]) {
			refs[i] = w.alive(x.find(w.t.entries, &keys[i], w.hash[at+i]))
		} else if w.now.Reached(Tick(word.Load32(&h.seen))+e.Timeout()) || e.Status()&Dying != 0 {
			refs[i] = w.alive(id)
		} else {
			refs[i] = refOf(id)
		}
		if refs[i].Slot != 0 {
			found++
		}
	}
	return found
}

// Find is Lookup for one packet.
func (w *Worker) Find(k *tuple.Tuple) Ref {
	x := &w.t.index
	r := w.alive(x.find(w.t.entries, k, x.key.tuple(k)))
	if r.Slot != 0 {
		word.Add64(&w.stats.Found, 1)
	}
	return r
}

// Entry returns the record of a slot found in this batch.
func (w *Worker) Entry(slot uint32) *Entry { return &w.t.entries[slot] }

// alive returns the Ref of an index value unless the entry's time is over, in
// which case the entry ends here.
func (w *Worker) alive(id uint32) Ref {
	if id == 0 {
		return Ref{}
	}
	r := refOf(id)
	e := &w.t.entries[r.Slot]
	if e.expired(r.Dir, w.now) {
		w.kill(r.Slot, ifExpired, w.now)
		return Ref{}
	}
	if e.Status()&Dying != 0 {
		return Ref{}
	}
	return r
}
