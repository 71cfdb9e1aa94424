package stream

import (
	"encoding/json"
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// moved returns what another process goes on with in place of s, which has braces.
func moved(s *Session) *Session {
	text, err := json.Marshal(s.Save())
	if err != nil {
		panic(err)
	}
	var v Saved
	if err := json.Unmarshal(text, &v); err != nil {
		panic(err)
	}
	next, err := Resume(&alg.Attachment{Helper: braces{}, Spec: braces{}.Spec()}, s.flow, s.keep, &v)
	if err != nil {
		panic(err)
	}
	next.Events = s.Events
	return next
}

// TestSessionThatMakesNoSenseIsRefused: what another process says is looked at before
// any byte is looked for where it says.
func TestSessionThatMakesNoSenseIsRefused(t *testing.T) {
	fine := func() *Saved {
		return &Saved{Helped: true, Half: [tuple.NumDirections]SavedHalf{{
			Begun: true, First: 10, Acked: 10, Sent: 10, Settled: 10, Told: 13, At: 10, Bytes: []byte("{ab"), Owed: []byte("{ab"),
			Late: []SavedPiece{{20, []byte("d}")}}, Edits: []SavedEdit{{5, 2, []byte("long")}, {7, 1, nil}},
		}}}
	}
	for claim, harm := range map[string]func(h *SavedHalf){
		"":                                  func(*SavedHalf) {},
		"decided beyond what has come":      func(h *SavedHalf) { h.Settled = 14 },
		"decided on what is gone":           func(h *SavedHalf) { h.Settled = 9 },
		"sent what has not come":            func(h *SavedHalf) { h.Sent = 1 << 31 },
		"sent, and is still to be, is gone": func(h *SavedHalf) { h.At = 11 },
		"behind a hole, and there is none":  func(h *SavedHalf) { h.Late[0].Seq = 13 },
		"edits overlap":                     func(h *SavedHalf) { h.Edits[1].At = 6 },
		"an edit of nothing":                func(h *SavedHalf) { h.Edits[0].Old = 0 },
	} {
		v := fine()
		harm(&v.Half[0])
		s, err := Resume(&alg.Attachment{Helper: braces{}, Spec: braces{}.Spec()}, alg.Flow{Tuple: [2]tuple.Tuple{{Proto: tuple.TCP}, {Proto: tuple.TCP}}}, Limits{}, v)
		if (claim == "") != (err == nil) {
			t.Errorf("%q: %v", claim, err)
		}
		if err == nil && (s.Seq(0, 10) != 11 || !s.Helped()) {
			t.Errorf("number 10 is %d for the receiver, want 11; helped: %v", s.Seq(0, 10), s.Helped())
		}
	}
}
