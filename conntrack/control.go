package conntrack

import (
	"errors"
	"sync"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// ErrNotFound is returned for a tuple that no confirmed entry has.
var ErrNotFound = errors.New("such conntrack doesn't exist")

// control is the actor behind commands.
type control struct {
	mu      sync.Mutex  // serialises commands
	Worker              // for what workers do, too; it never begins a batch: commands take reader seats
	pending atomic.Bool // retired slots wait for somebody to give them back
}

func (c *control) init(t *Table, i int) {
	c.actor.init(t, i)
	c.commands = true
}

// help gives slots that commands retired back to the pool. Workers call it,
// so that slots don't wait for the next command.
func (c *control) help() {
	if !c.pending.Load() || !c.mu.TryLock() {
		return
	}
	c.deliverDying(c.t.Now())
	c.retired.close(c.t.epochs)
	c.reclaim()
	c.pending.Store(c.retired.n+c.retired.open.n+c.dying.n > 0)
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
	t.copyFlow(slot, f, now)
	return true
}

// copyFlow fills f from the entry in a slot. The caller is in an epoch.
func (t *Table) copyFlow(slot uint32, f *Flow, now Tick) {
	var c Entry
	var x extension
	t.entries[slot].copyTo(&c)
	t.copyExt(&x, c.ext)
	t.describe(f, slot, &c, &x, now)
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

// DumpUnconfirmed is Dump for the flows whose first packet has not left yet: it
// waits for a neighbour's address or for the rest of its fragments.
func (t *Table) DumpUnconfirmed(f func(*Flow) bool) {
	t.eachIn(linked|Confirmed|Dying, linked, f)
}

// DumpDying is Dump for the flows that ended and whose DESTROY event has not
// found room on its way to the subscribers yet.
func (t *Table) DumpDying(f func(*Flow) bool) {
	t.eachIn(undelivered, undelivered, f)
}

// eachIn calls f for the entries whose status has the bits want of mask.
func (t *Table) eachIn(mask, want Status, f func(*Flow) bool) {
	seat := t.reader()
	defer t.leave(seat)
	var flow Flow
	now := t.Now()
	for slot := uint32(1); slot <= t.slots.high.Load(); slot++ {
		if slot%chunkSlots == 0 {
			t.epochs.enter(seat)
		}
		if t.entries[slot].Status()&mask != want {
			continue
		}
		if t.copyFlow(slot, &flow, now); !f(&flow) {
			return
		}
	}
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

// Has reports whether a live entry, confirmed or not, has tuple k in either
// direction. Anybody may ask.
func (t *Table) Has(k tuple.Tuple) bool {
	seat := t.reader()
	defer t.leave(seat)
	id := t.index.find(t.entries, &k, t.index.key.tuple(&k))
	if id == 0 {
		return false
	}
	e := &t.entries[id>>1]
	return e.Status()&Dying == 0 && !e.expired(tuple.Direction(id&1), t.Now())
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

// DeleteFrom is DeleteIf in pieces, with the positions of DumpFrom: it ends each flow
// for which want returns true and calls ended with it, until that returns false.
func (t *Table) DeleteFrom(position uint32, want, ended func(*Flow) bool) (next uint32) {
	return t.each(max(position, 1), func(slot uint32, flow *Flow) bool {
		return !want(flow) || !t.end(slot) || ended(flow)
	})
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

// Update is what a command changes in a flow: all of it at once, told in one event.
type Update struct {
	What Change // ChangedMark, ChangedTimeout, ChangedLabels, ChangedStatus: the fields that count

	Mark, MarkMask uint32    // the bits of MarkMask are cleared, then Mark is toggled, as the kernel does
	Timeout        Tick      // counted from now; the next packet that counts sets it as usual
	Labels, Mask   [2]uint64 // the labels in Mask become those in Labels
	Status         Status    // bits to set, of SettableStatus
}

// SettableStatus is what Update.Status may have.
const SettableStatus = SeenReply | Assured | FixedTimeout

// Errors of Table.Update besides ErrNotFound.
var (
	ErrStatus   = errors.New("status bits that a user cannot set")
	ErrTimeout  = errors.New("timeout is fixed")
	ErrNoMemory = errors.New("not enough memory")
)

// Update changes the flow that has tuple k in either direction. ErrNotFound if
// there is none; ErrStatus, ErrTimeout (the flow was FixedTimeout before), ErrNoMemory
// (too many flows with labels): nothing has changed.
func (t *Table) Update(k tuple.Tuple, u *Update) error {
	if u.Status&^SettableStatus != 0 {
		return ErrStatus
	}
	return t.update(k, u.What, func(slot uint32, e *Entry, now Tick) error {
		if u.What&ChangedTimeout != 0 && e.Status()&FixedTimeout != 0 {
			return ErrTimeout
		}
		if u.What&ChangedLabels != 0 {
			x := t.control.extend(e)
			if x == nil {
				return ErrNoMemory
			}
			for i := range x.labels {
				word.Store64(&x.labels[i], x.labels[i]&^u.Mask[i]|u.Labels[i]&u.Mask[i])
			}
		}
		if u.What&ChangedMark != 0 {
			e.changeMark(func(old uint32) uint32 { return old&^u.MarkMask ^ u.Mark })
		}
		if u.What&ChangedStatus != 0 {
			t.control.answer(slot, u.Status)
		}
		if u.What&ChangedTimeout != 0 {
			atomic.StoreUint32(&e.half[tuple.Original].seen, uint32(now))
			t.setTimeout(slot, e, min(u.Timeout, maxTimeout))
		}
		return nil
	})
}

// extend returns the extension of an entry, which gets one if it has none. Nil:
// there is no room. The caller's epoch protects the entry.
func (a *actor) extend(e *Entry) *extension {
	t := a.t
	if n := atomic.LoadUint32(&e.ext); n != 0 {
		return &t.exts[n]
	}
	n := t.extPool.get(&a.exts)
	if n == 0 {
		return nil
	}
	t.exts[n] = extension{}
	if !atomic.CompareAndSwapUint32(&e.ext, 0, n) { // somebody was faster
		a.exts.push(t.extPool.link, n)
		n = atomic.LoadUint32(&e.ext)
	}
	return &t.exts[n]
}

// changeMark replaces the mark by f of it.
func (e *Entry) changeMark(f func(uint32) uint32) {
	for {
		old := atomic.LoadUint32(&e.mark)
		if atomic.CompareAndSwapUint32(&e.mark, old, f(old)) {
			return
		}
	}
}

// SetMark replaces the bits of mask in the mark of the flow that has tuple k
// in either direction. ErrNotFound if there is none.
func (t *Table) SetMark(k tuple.Tuple, mark, mask uint32) error {
	return t.Update(k, &Update{What: ChangedMark, Mark: mark & mask, MarkMask: mask})
}

// SetTimeout gives the flow that has tuple k in either direction so long to
// live, counted from now; the next packet that counts sets it as usual.
// ErrNotFound if there is none.
func (t *Table) SetTimeout(k tuple.Tuple, timeout Tick) error {
	return t.Update(k, &Update{What: ChangedTimeout, Timeout: timeout})
}

// SetLabels makes the labels in mask of the flow that has tuple k in either
// direction those in labels. ErrNotFound if there is none.
func (t *Table) SetLabels(k tuple.Tuple, labels, mask [2]uint64) error {
	return t.Update(k, &Update{What: ChangedLabels, Labels: labels, Mask: mask})
}

// update changes one entry and reports it, unless f returns an error.
func (t *Table) update(k tuple.Tuple, change Change, f func(uint32, *Entry, Tick) error) error {
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
	if err := f(slot, &t.entries[slot], t.Now()); err != nil {
		return err
	}
	c.emit(EventUpdate, change, slot, t.Now())
	return nil
}

// ChangeMark gives the bits of mask in the mark of a flow that w is tracking a
// packet of the value of those in mark, and reports it if that changes anything.
func (w *Worker) ChangeMark(r Ref, mark, mask uint32, now Tick) {
	e := &w.t.entries[r.Slot]
	old := e.Mark()
	if old&mask == mark&mask {
		return
	}
	e.changeMark(func(m uint32) uint32 { return m&^mask | mark&mask })
	if e.Status()&Confirmed != 0 {
		w.emit(EventUpdate, ChangedMark, r.Slot, now)
	}
}

// HelperName returns the name of the helper with a number, "" if there is none.
func (t *Table) HelperName(helper uint32) string {
	if helper == 0 || t.cfg.HelperName == nil {
		return ""
	}
	return t.cfg.HelperName(helper)
}

// helperOf returns the number of the helper that watches the flow in a slot, 0 if
// there is none.
func (t *Table) helperOf(slot uint32) uint32 {
	ext := word.Load32(&t.entries[slot].ext)
	if ext == 0 {
		return 0
	}
	return word.Load32(&t.exts[ext].helper)
}

// HelperAt returns the number of the helper that watches the flow in a slot, 0 if there
// is none. It may be called at any time, and then says nothing of a flow that has ended.
func (t *Table) HelperAt(slot uint32) uint32 { return t.helperOf(slot) }

// SetHelper gives a flow that has a helper another one, or none (0), and ends the flows
// that it has announced and that have not begun. ErrNotFound if there is no such flow, or
// none with a helper.
func (t *Table) SetHelper(k tuple.Tuple, number uint32) error {
	return t.update(k, ChangedHelper, func(slot uint32, e *Entry, now Tick) error {
		ext := word.Load32(&e.ext)
		if ext == 0 || word.Load32(&t.exts[ext].helper) == 0 {
			return ErrNotFound
		}
		word.Store32(&t.exts[ext].helper, number)
		t.orphan(slot, e.gen, now)
		return nil
	})
}

// MasterHelper returns the name of the helper of the flow that announced e, ""
// if there is none any more. The caller got e in its current epoch.
func (t *Table) MasterHelper(e *Entry) string {
	if e.Status()&Expected == 0 {
		return ""
	}
	slot, ok := t.Master(e)
	if !ok {
		return ""
	}
	return t.HelperName(t.helperOf(slot))
}

// Master returns the slot of the flow that announced e, if it has one that is
// still there. The caller got e in its current epoch.
func (t *Table) Master(e *Entry) (slot uint32, ok bool) {
	ext := word.Load32(&e.ext)
	if ext == 0 || t.exts[ext].master.Slot == 0 || !t.aliveMaster(&t.exts[ext].master, t.Now()) {
		return 0, false
	}
	return t.exts[ext].master.Slot, true
}
