package stream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Saved is a session as another process goes on with it, in a form that JSON can carry.
type Saved struct {
	Half   [tuple.NumDirections]SavedHalf
	Helped bool            // the helper is still there
	Parser json.RawMessage // what it knows; nil: nothing
}

// SavedHalf is one direction of a stream. See the package comment for its positions.
type SavedHalf struct {
	Begun, Gap                 bool
	First                      uint32
	Acked, Sent, Settled, Told uint32
	At                         uint32 // number of the first byte of Bytes
	Bytes, Owed                []byte
	Late                       []SavedPiece
	Base                       uint32
	Edits                      []SavedEdit
}

// SavedPiece is a run of bytes behind a hole.
type SavedPiece struct {
	Seq  uint32
	Data []byte
}

// SavedEdit is a replacement that the receiver has not acknowledged.
type SavedEdit struct {
	At, Old uint32
	Text    []byte
}

// Save returns what s knows. It is valid until the next call.
func (s *Session) Save() *Saved {
	v := &Saved{Helped: s.Helped()}
	for d := range s.half {
		v.Half[d] = s.half[d].save()
	}
	if hasState(s.parser) && !s.contain(func() { v.Parser, _ = json.Marshal(s.parser) }) {
		v.Parser = nil
	}
	return v
}

// hasState reports whether a parser may know something from one call for the next: one
// that is a value does not.
func hasState(p alg.Parser) bool { return p != nil && reflect.TypeOf(p).Kind() == reflect.Pointer }

func (h *half) save() SavedHalf {
	v := SavedHalf{Begun: h.begun, Gap: h.gap, First: h.first, Acked: h.acked, Sent: h.sent, Settled: h.settled, Told: h.told,
		At: h.at, Bytes: h.buf, Owed: h.owed, Base: h.base}
	for _, p := range h.late {
		v.Late = append(v.Late, SavedPiece{p.seq, p.data})
	}
	for _, e := range h.edits {
		v.Edits = append(v.Edits, SavedEdit{e.at, e.old, e.text})
	}
	return v
}

// Resume returns the session that was saved as v, of a flow that has the helper of a, and
// keeps what is v's. With a nil a its helper is gone, and only what it has changed goes on.
// A parser that cannot read what one of it has saved has lost its place in both
// directions. An error: v makes no sense.
func Resume(a *alg.Attachment, f alg.Flow, keep Limits, v *Saved) (*Session, error) {
	s := &Session{flow: f}
	s.keep = Limits{Edits: cmp.Or(keep.Edits, defaultEdits), Late: cmp.Or(keep.Late, defaultLate)}
	for d := range s.half {
		if err := s.half[d].resume(&v.Half[d]); err != nil {
			return nil, fmt.Errorf("direction %v: %w", tuple.Direction(d), err)
		}
	}
	if a == nil || !v.Helped {
		return s, nil
	}
	s.helper, s.limit, s.flow.Options = a.Helper, a.Spec.Limit, a.Options
	s.renew()
	if !hasState(s.parser) {
		return s, nil
	}
	var err error
	if !s.contain(func() { err = json.Unmarshal(v.Parser, s.parser) }) || err != nil {
		s.renew()
		for d := range s.half {
			s.half[d].gap = true
		}
	}
	return s, nil
}

func (h *half) resume(v *SavedHalf) error {
	end := v.At + uint32(len(v.Bytes))
	for name, x := range map[string]uint32{"settled": v.Settled, "sent": v.Sent} {
		if before(x, v.At) || before(end, x) {
			return fmt.Errorf("%s up to %d, but there is %d to %d", name, x, v.At, end)
		}
	}
	*h = half{begun: v.Begun, gap: v.Gap, first: v.First, acked: v.Acked, sent: v.Sent, settled: v.Settled, told: v.Told,
		at: v.At, buf: v.Bytes, owed: v.Owed}
	h.base = v.Base
	for _, p := range v.Late {
		if !before(end, p.Seq) {
			return fmt.Errorf("%d is behind no hole: there is %d to %d", p.Seq, v.At, end)
		}
		h.late = append(h.late, piece{p.Seq, p.Data})
	}
	last := v.At
	for i, e := range v.Edits {
		if e.Old == 0 || i > 0 && before(e.At, last) {
			return fmt.Errorf("an edit of %d bytes at %d, behind %d", e.Old, e.At, last)
		}
		last = e.At + e.Old
		h.edits = append(h.edits, edit{e.At, e.Old, e.Text})
	}
	return nil
}
