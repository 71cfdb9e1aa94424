package conntrack

import (
	"fmt"
	"reflect"
	"unsafe"

	"example.com/culvert/internal/keep"
	"example.com/culvert/internal/word"
)

// Names of the arrays that a table has in Config.Memory.
const (
	entriesName  = "entries"
	extsName     = "extensions"
	dueName      = "due"
	expectsName  = "expectations"
	policiesName = "timeouts"
)

// Layout returns a digest of how Config.Memory has a table: another program reads it
// only if its own is the same.
func Layout() string {
	return keep.Layout(reflect.TypeFor[Entry](), reflect.TypeFor[extension](), reflect.TypeFor[expectRecord](), reflect.TypeFor[Timeouts]())
}

// keptArray is newArray for what a successor reads, which is in Config.Memory if there is one.
func keptArray[T any](t *Table, name string, n int) ([]T, error) {
	if t.cfg.Memory == nil {
		return newArray[T](t, n)
	}
	var zero T
	mem, err := t.cfg.Memory.Array(name, n*int(unsafe.Sizeof(zero)))
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), n), nil
}

// keep provides for the rest of what a successor reads, and for room: at once for what
// every flow needs, else a little before it is needed.
func (t *Table) keep() error {
	m := t.cfg.Memory
	if m == nil {
		return nil
	}
	recs, err := keptArray[expectRecord](t, expectsName, t.expects.max+1)
	if err != nil {
		return err
	}
	t.expects.use(recs)
	if t.keptPolicies, err = keptArray[Timeouts](t, policiesName, maxPolicies); err != nil {
		return err
	}
	for _, part := range [][]byte{bytesOf(t.entries), bytesOf(t.due), bytesOf(recs)} {
		if err := m.Reserve(part); err != nil {
			return fmt.Errorf("conntrack: %w", err)
		}
	}
	if t.cfg.Timestamp || t.cfg.Reserve { // every flow has an extension, or all memory is wanted
		if err := m.Reserve(bytesOf(t.exts)); err != nil {
			return fmt.Errorf("conntrack: %w", err)
		}
	} else {
		t.extPool.reserve = func(from, to uint32) error { return m.Reserve(bytesOf(t.exts[from : to+1])) }
	}
	return t.keepPolicy(0, &t.cfg.Timeouts)
}

// keepPolicy has a successor know the timeouts with number n, before a flow has them.
func (t *Table) keepPolicy(n int, timeouts *Timeouts) error {
	if t.keptPolicies == nil {
		return nil
	}
	if err := t.cfg.Memory.Reserve(bytesOf(t.keptPolicies[n : n+1])); err != nil {
		return fmt.Errorf("conntrack: %w", err)
	}
	t.keptPolicies[n] = *timeouts
	return nil
}

// Remains are the flows of a table whose process was killed, in the memory that it left.
// Nobody writes there any more.
type Remains struct {
	entries  []Entry
	due      []uint32
	exts     []extension
	expects  []expectRecord
	policies []Timeouts
}

// ReadRemains views what Config.Memory of a process that is dead has under the names that
// the table gave. The layout must be that of this program (Layout).
func ReadRemains(array func(name string) ([]byte, error)) (*Remains, error) {
	var r Remains
	for name, view := range map[string]func([]byte) error{
		entriesName:  viewer(&r.entries),
		dueName:      viewer(&r.due),
		extsName:     viewer(&r.exts),
		expectsName:  viewer(&r.expects),
		policiesName: viewer(&r.policies),
	} {
		mem, err := array(name)
		if err == nil {
			err = view(mem)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(r.due) > len(r.entries) {
		return nil, fmt.Errorf("%w: %d flows, %d times", ErrTorn, len(r.entries), len(r.due))
	}
	r.entries = r.entries[:len(r.due)] // there are more if somebody was killed in the middle of a Cut
	return &r, nil
}

// viewer returns a function that has to view memory as what it has.
func viewer[T any](to *[]T) func([]byte) error {
	return func(mem []byte) error {
		size := int(unsafe.Sizeof((*to)[0]))
		if len(mem)%size != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%8 != 0 {
			return fmt.Errorf("%w: %d bytes of records of %d", ErrTorn, len(mem), size)
		}
		*to = nil
		if len(mem) > 0 {
			*to = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/size)
		}
		return nil
	}
}

// Cut tells how many bytes of the arrays, by name, have anything in them. The rest is not
// read any more: it may go. Times come first, as ReadRemains expects.
func (r *Remains) Cut(f func(name string, size int) error) error {
	n := len(r.due)
	for n > 0 && r.due[n-1] == 0 {
		n--
	}
	r.due, r.entries = r.due[:n], r.entries[:n]
	if err := f(dueName, len(bytesOf(r.due))); err != nil {
		return err
	}
	return f(entriesName, len(bytesOf(r.entries)))
}

// Policies returns the timeouts by number that flows name.
func (r *Remains) Policies() []Timeouts {
	n := 0
	for n < len(r.policies) && r.policies[n] != (Timeouts{}) {
		n++
	}
	return r.policies[:n]
}

// Flows calls f with each flow that was confirmed and had not ended until it returns
// false. s is valid until the next call. What a record has is whatever its writer had
// done when he died: Adoption.Verify is for that.
func (r *Remains) Flows(f func(s *Saved) bool) {
	var s Saved
	for slot := 1; slot < len(r.entries); slot++ {
		if r.read(uint32(slot), &s) && !f(&s) {
			return
		}
	}
}

// read fills s from a slot, and reports false if no confirmed flow was there. A lock that
// somebody held when he died stays in its word: Adoption.Flow looks at it.
func (r *Remains) read(slot uint32, s *Saved) bool {
	e := &r.entries[slot]
	if r.due[slot] == 0 || e.Status()&(Confirmed|Dying) != Confirmed {
		return false
	}
	*s = Saved{slot: slot}
	e.copyTo(&s.entry)
	if HasStates(e.Proto()) {
		s.entry.word, s.entry.segment, s.entry.proto = e.word, e.segment, e.proto
	} else {
		s.entry.proto[areaStream] = e.proto[areaStream]
	}
	switch n := int(s.entry.ext); {
	case n == 0:
	case n < len(r.exts):
		s.ext = r.exts[n]
	default:
		s.slot = 0 // check says that it makes no sense
	}
	return true
}

// Expects calls f with each expectation until it returns false. x is valid until the
// next call.
func (r *Remains) Expects(f func(x *SavedExpect) bool) {
	for i := range r.expects {
		rec := &r.expects[i]
		if word.Load64(&rec.born) == 0 {
			continue
		}
		if !f(&SavedExpect{Expectation: rec.x, master: rec.master, deadline: rec.deadline}) {
			return
		}
	}
}
