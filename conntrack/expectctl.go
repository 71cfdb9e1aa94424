package conntrack

import (
	"time"

	"example.com/culvert/conntrack/tuple"
)

// CreateExpect announces a flow by command. master is a tuple of the flow that
// it belongs to, in either direction. Errors as Worker.Expect.
func (t *Table) CreateExpect(master tuple.Tuple, x Expectation, timeout Tick) error {
	seat := t.reader()
	defer t.leave(seat)
	var f Flow
	slot, err := t.lookup(&master, &f)
	if err != nil {
		return ErrExpectMaster
	}
	x.Flags |= ExpectUserspace
	return t.expect(slot, &x, ExpectPolicy{Timeout: timeout}, t.Now())
}

// expectChunk is how many records a dump copies while it holds the lock.
const expectChunk = 128

// DumpExpect calls f with a copy of each expectation until f returns false.
// Expectations that come or go meanwhile may or may not be among them.
func (t *Table) DumpExpect(f func(*Expect) bool) {
	ex := &t.expects
	var batch [expectChunk]Expect
	for from := 0; ; from += expectChunk {
		n, more := t.copyExpects(ex, from, &batch)
		for i := range n {
			if !f(&batch[i]) {
				return
			}
		}
		if !more {
			return
		}
	}
}

// copyExpects copies one chunk of records and reports whether there are more.
func (t *Table) copyExpects(ex *expects, from int, batch *[expectChunk]Expect) (n int, more bool) {
	now := t.Now()
	ex.mu.Lock()
	defer ex.mu.Unlock()
	end := min(from+expectChunk, len(ex.recs))
	for i := from; i < end; i++ {
		if r := &ex.recs[i]; r.born != 0 && !now.Reached(r.deadline) {
			t.describeExpect(&batch[n], r, now)
			n++
		}
	}
	return n, end < len(ex.recs)
}

// GetExpect returns the expectation with exactly tuple k, or ErrExpectAbsent.
func (t *Table) GetExpect(k tuple.Tuple) (Expect, error) {
	ex := &t.expects
	ex.mu.Lock()
	defer ex.mu.Unlock()
	n := t.findExpectLocked(&k)
	if n == 0 {
		return Expect{}, ErrExpectAbsent
	}
	var x Expect
	t.describeExpect(&x, &ex.recs[n], t.Now())
	return x, nil
}

// DeleteExpect ends the expectation with exactly tuple k. ErrExpectAbsent if
// there is none.
func (t *Table) DeleteExpect(k tuple.Tuple) error {
	ex := &t.expects
	ex.mu.Lock()
	defer ex.mu.Unlock()
	n := t.findExpectLocked(&k)
	if n == 0 {
		return ErrExpectAbsent
	}
	t.removeExpectLocked(n, t.Now())
	return nil
}

func (t *Table) findExpectLocked(k *tuple.Tuple) uint32 {
	ex := &t.expects
	n := ex.heads[t.expectCell(k)]
	for n != 0 && (ex.recs[n].x.Tuple != *k || t.Now().Reached(ex.recs[n].deadline)) {
		n = ex.recs[n].next
	}
	return n
}

// FlushExpect ends all expectations and returns how many.
func (t *Table) FlushExpect() int {
	ex := &t.expects
	ex.mu.Lock()
	defer ex.mu.Unlock()
	count := 0
	for n := range ex.recs {
		if ex.recs[n].born != 0 {
			t.removeExpectLocked(uint32(n), t.Now())
			count++
		}
	}
	return count
}

// ExpectEvent reports that an expectation came (EventNew) or went (EventDestroy).
type ExpectEvent struct {
	Type   EventType
	Time   time.Time
	Expect Expect
}
