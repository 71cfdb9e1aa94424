package conntrack

import (
	"errors"
	"sync"
	"sync/atomic"

	"example.com/culvert/conntrack/internal/word"
	"example.com/culvert/conntrack/tuple"
)

// ErrNotFound is returned for a tuple that no confirmed entry has.
var ErrNotFound = errors.New("such conntrack doesn't exist")

// control is the actor behind commands.
type control struct {
	mu sync.Mutex // serialises commands
	actor
	pending atomic.Bool // retired slots wait for somebody to give them back
}

func (c *control) init(t *Table, i int) { c.actor.init(t, i) }

// help gives slots that commands retired back to the pool. Workers call it,
// so that slots don't wait for the next command.
func (c *control) help() {
	if !c.pending.Load() || !c.mu.TryLock() {
		return
	}
	c.retired.close(c.t.epochs)
	c.reclaim()
	c.pending.Store(c.retired.n > 0 || c.retired.open.n > 0)
	c.mu.Unlock()
}

// reader takes part in the epochs as somebody who looks at entries from
// outside a worker, and returns the seat to give to leave.
func (t *Table) reader() int {
	seat := <-t.readers
	t.epochs.enter(seat)
	return seat
}

func (t *Table) leave(seat int) {
	t.epochs.leave(seat)
	t.readers <- seat
}

// snapshot copies the entry in a slot if it is confirmed and alive. The caller
// is in an epoch.
func (t *Table) snapshot(slot uint32, f *Flow, now Tick) bool {
	if word.Load32(&t.due[slot]) == 0 {
		return false
	}
	e := &t.entries[slot]
	if s := e.Status(); s&(Confirmed|Dying) != Confirmed || e.expired(tuple.Original, now) {
		return false
	}
	var c Entry
	var x extension
	e.copyTo(&c)
	t.copyExt(&x, c.ext)
	t.describe(f, slot, &c, &x, now)
	return true
}

// Dump calls f with a copy of each confirmed flow until f returns false. Flows
// that begin or end meanwhile may or may not be among them. Workers go on.
// The Flow is reused for the next call.
func (t *Table) Dump(f func(*Flow) bool) { t.DumpFrom(0, f) }

// DumpFrom is Dump in pieces: it begins at a position, 0 for the beginning, and
// returns the one to go on from when f has returned false, 0 at the end. A caller
// that may have to wait for somebody collects a piece, lets f return false, and
// waits between the calls: slots that flows freed cannot be used again while f
// runs, and only few walks can go on at once.
func (t *Table) DumpFrom(position uint32, f func(*Flow) bool) (next uint32) {
	return t.each(max(position, 1), func(_ uint32, flow *Flow) bool { return f(flow) })
}

// each is DumpFrom with slots. It renews its epoch now and then, so that a long
// walk does not keep slots from being reused.
func (t *Table) each(from uint32, f func(uint32, *Flow) bool) (next uint32) {
	seat := t.reader()
	defer t.leave(seat)
	var flow Flow
	now := t.Now()
	for slot := from; slot <= t.slots.high.Load(); slot++ {
		if slot%chunkSlots == 0 {
			t.epochs.enter(seat)
		}
		if t.snapshot(slot, &flow, now) && !f(slot, &flow) {
			return slot + 1
		}
	}
	return 0
}

// lookup returns the confirmed entry that has tuple k in either direction. The
// caller is in an epoch.
func (t *Table) lookup(k *tuple.Tuple, f *Flow) (uint32, error) {
	slot := t.index.find(t.entries, k, t.index.key.tuple(k)) >> 1
	if slot == 0 || !t.snapshot(slot, f, t.Now()) {
		return 0, ErrNotFound
	}
	return slot, nil
}

// Get returns a copy of the flow that has tuple k in either direction, or
// ErrNotFound.
func (t *Table) Get(k tuple.Tuple) (Flow, error) {
	seat := t.reader()
	defer t.leave(seat)
	var f Flow
	_, err := t.lookup(&k, &f)
	return f, err
}

// Delete ends the flow that has tuple k in either direction. When it returns,
// packets don't find it any more. ErrNotFound if there is none.
func (t *Table) Delete(k tuple.Tuple) error {
	seat := t.reader()
	defer t.leave(seat)
	var f Flow
	slot, err := t.lookup(&k, &f)
	if err != nil {
		return err
	}
	if !t.end(slot) {
		return ErrNotFound // it ended on its own
	}
	return nil
}

// DeleteIf ends each flow for which f returns true and returns how many.
func (t *Table) DeleteIf(f func(*Flow) bool) int {
	n := 0
	t.each(1, func(slot uint32, flow *Flow) bool {
		if f(flow) && t.end(slot) {
			n++
		}
		return true
	})
	return n
}

// Flush ends all flows and returns how many.
func (t *Table) Flush() int { return t.DeleteIf(func(*Flow) bool { return true }) }

// end deletes the entry in a slot by command. The caller is in an epoch.
func (t *Table) end(slot uint32) bool {
	c := &t.control
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.kill(slot, always, t.Now()) {
		return false
	}
	word.Add64(&c.stats.Deleted, 1)
	c.pending.Store(true)
	return true
}

// SetMark replaces the bits of mask in the mark of the flow that has tuple k
// in either direction. ErrNotFound if there is none.
func (t *Table) SetMark(k tuple.Tuple, mark, mask uint32) error {
	return t.update(k, ChangedMark, func(_ uint32, e *Entry, _ Tick) {
		for {
			old := atomic.LoadUint32(&e.mark)
			if atomic.CompareAndSwapUint32(&e.mark, old, old&^mask|mark&mask) {
				return
			}
		}
	})
}

// SetTimeout gives the flow that has tuple k in either direction so long to
// live, counted from now; the next packet that counts sets it as usual.
// ErrNotFound if there is none.
func (t *Table) SetTimeout(k tuple.Tuple, timeout Tick) error {
	return t.update(k, ChangedTimeout, func(slot uint32, e *Entry, now Tick) {
		atomic.StoreUint32(&e.half[tuple.Original].seen, uint32(now))
		t.setTimeout(slot, e, min(timeout, maxTimeout))
	})
}

// update changes one entry and reports it.
func (t *Table) update(k tuple.Tuple, change Change, f func(uint32, *Entry, Tick)) error {
	seat := t.reader()
	defer t.leave(seat)
	var flow Flow
	slot, err := t.lookup(&k, &flow)
	if err != nil {
		return err
	}
	c := &t.control
	c.mu.Lock()
	defer c.mu.Unlock()
	f(slot, &t.entries[slot], t.Now())
	c.emit(EventUpdate, change, slot, t.Now())
	return nil
}
