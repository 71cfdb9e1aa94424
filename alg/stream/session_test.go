package stream

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// scripted is a helper that does what a test says.
type scripted func(c *alg.Context, b []byte) alg.Edit

func (scripted) Spec() alg.Spec {
	return alg.Spec{Name: "scripted", Protos: []uint8{tuple.TCP}, Classes: []alg.Class{{Name: "one"}}, Limit: 16}
}
func (s scripted) New(*alg.Flow) alg.Parser                      { return s }
func (s scripted) Inspect(c *alg.Context, b []byte) (e alg.Edit) { return s(c, b) }

// session begins a stream at number 100 with a helper.
func session(h alg.Helper) *Session {
	s := New(&alg.Attachment{Helper: h, Spec: h.Spec()}, alg.Flow{Tuple: [2]tuple.Tuple{{Proto: tuple.TCP}, {Proto: tuple.TCP}}}, Limits{})
	s.Begin(tuple.Original, 100, FromStart)
	s.Begin(tuple.Reply, 500, FromStart)
	return s
}

// took is what a gateway of a test was asked.
type took struct{ announced, withdrawn int }

func (g *took) Announce(_ *alg.Context, x []alg.Expectation) (netip.AddrPort, error) {
	g.announced++
	return x[0].To, nil
}
func (g *took) Withdraw(*alg.Context, uint8, netip.AddrPort) int { g.withdrawn++; return 1 }
func (g *took) Subnet(*alg.Context) netip.Prefix                 { return netip.Prefix{} }
func (g *took) SeenAs(*alg.Context, uint8, netip.AddrPort) (netip.AddrPort, bool) {
	return netip.AddrPort{}, false
}
func (g *took) Keep(*alg.Context, time.Duration) {}

// text is what an Out sends.
func text(o Out, b string) (all string) {
	switch o.Fate {
	case AsItIs:
		return b
	case Rewritten:
		for _, p := range o.Pieces() {
			all += string(p.Data)
		}
	}
	return all
}

func TestWhatWasHeldIsSentAsItWasShown(t *testing.T) {
	s := session(braces{})
	if out := s.Segment(0, 100, []byte("{abc"), More, nil); out.Fate != Empty || !out.Tell || s.Told(0) != 104 {
		t.Fatalf("fate %d, tell %v, told %d", out.Fate, out.Tell, s.Told(0))
	}
	// The sender changes his mind about bytes that the parser has seen.
	out := s.Segment(0, 100, []byte("EVIL}"), More, nil)
	if got, want := text(out, ""), strings.Repeat("+", 15); got != want && got != "{abc}" {
		t.Errorf("it was sent as %q", got)
	}
	if strings.Contains(text(out, ""), "EVIL") {
		t.Error("bytes left that the parser did not see")
	}
}

// TestAnswerThatWasLostIsGivenAgain: a sender that has not heard of the acknowledgement of
// what is held repeats it from where it was told of, and would do so for ever.
func TestAnswerThatWasLostIsGivenAgain(t *testing.T) {
	s := session(braces{})
	if out := s.Segment(0, 100, []byte("{ab"), More, nil); !out.Tell || s.Told(0) != 103 {
		t.Fatalf("tell %v, told %d", out.Tell, s.Told(0))
	}
	if out := s.Segment(0, 103, []byte("cdef"), More, nil); !out.Tell || s.Told(0) != 107 {
		t.Fatalf("tell %v, told %d", out.Tell, s.Told(0))
	}
	if out := s.Segment(0, 103, []byte("cd"), More, nil); out.Fate != Empty || !out.Tell || s.Told(0) != 107 {
		t.Errorf("again: fate %d, tell %v, told %d", out.Fate, out.Tell, s.Told(0))
	}
}

// TestFinBehindAHoleIsNoBlock: a FIN without data has nothing that could be kept, and a
// selective acknowledgement of nothing is none.
func TestFinBehindAHoleIsNoBlock(t *testing.T) {
	s := session(braces{})
	s.Segment(0, 110, []byte("behind"), More, nil)
	s.Segment(0, 130, nil, Fin, nil)
	if got := s.Late(0, 130, make([][2]uint32, 0, 3)); len(got) != 1 || got[0] != [2]uint32{110, 116} {
		t.Errorf("behind the hole are %v", got)
	}
}

func TestPartiallyHeldSegmentGoesInPart(t *testing.T) {
	s := session(braces{})
	if got := text(s.Segment(0, 100, []byte("abc{de"), More, nil), "abc{de"); got != "abc" {
		t.Errorf("sent %q, want what is before the brace", got)
	}
	if got := text(s.Segment(0, 106, []byte("f}gh"), More, nil), "f}gh"); got != strings.Repeat("+", 15)+"gh" {
		t.Errorf("then %q", got)
	}
}

func TestLeaveForwardsWhatWasHeld(t *testing.T) {
	s := session(scripted(func(_ *alg.Context, b []byte) alg.Edit {
		if len(b) < 4 {
			return alg.Edit{Rest: alg.Hold}
		}
		return alg.Edit{Rest: alg.Leave}
	}))
	s.Segment(0, 100, []byte("ab"), More, nil)
	if got := text(s.Segment(0, 102, []byte("cd"), More, nil), "cd"); got != "abcd" {
		t.Errorf("sent %q, want %q", got, "abcd")
	}
	if got := text(s.Segment(0, 104, []byte("ef"), More, nil), "ef"); got != "ef" || s.Helped() {
		t.Errorf("then %q", got)
	}
}

func TestEndReleasesWhatWasHeld(t *testing.T) {
	s := session(braces{})
	s.Segment(0, 100, []byte("{ab"), More, nil)
	out := s.Segment(0, 103, nil, Fin, nil)
	if text(out, "") != "{ab" || !out.Fin {
		t.Errorf("sent %q, with FIN %v", text(out, ""), out.Fin)
	}
}

func TestMessageBeyondTheLimitPassesAndIsAGap(t *testing.T) {
	var gaps []bool
	s := session(scripted(func(c *alg.Context, b []byte) alg.Edit {
		gaps = append(gaps, c.Gap)
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			return alg.Edit{Done: i + 1}
		}
		return alg.Edit{Rest: alg.Hold}
	}))
	long := strings.Repeat("x", 20) + "\nok\n"
	got := text(s.Segment(0, 100, []byte(long[:12]), More, nil), "")
	got += text(s.Segment(0, 112, []byte(long[12:]), More, nil), "")
	if got != long {
		t.Errorf("sent %q, want %q", got, long)
	}
	if want := []bool{false, false, true, false}; !slices.Equal(gaps, want) || s.Events[Overflow] != 1 {
		t.Errorf("gaps %v, want %v; %d overflows", gaps, want, s.Events[Overflow])
	}
}

func TestEditOutOfReachIsRefusedWithItsAnnouncements(t *testing.T) {
	g := &took{}
	s := session(scripted(func(c *alg.Context, b []byte) alg.Edit {
		if len(b) < 4 {
			return alg.Edit{} // passed
		}
		_, _ = c.Announce(alg.Expectation{})
		return alg.Edit{Done: 4, Replace: []alg.Replacement{{From: 1, To: 2, Text: []byte("late")}}}
	}))
	s.Segment(0, 100, []byte("abc"), More, g)
	if got := text(s.Segment(0, 103, []byte("d"), More, g), "d"); got != "d" {
		t.Errorf("sent %q, want %q", got, "d")
	}
	if g.announced != 1 || g.withdrawn != 1 || s.Events[Refused] != 1 {
		t.Errorf("%d announced, %d withdrawn, %d refused; want 1 of each", g.announced, g.withdrawn, s.Events[Refused])
	}
}

func TestFailingParserLosesItsFlowAlone(t *testing.T) {
	for claim, h := range map[string]scripted{
		"it panics": func(c *alg.Context, _ []byte) alg.Edit { _, _ = c.Announce(alg.Expectation{}); panic("x") },
		"its edit is out of range": func(c *alg.Context, _ []byte) alg.Edit {
			_, _ = c.Announce(alg.Expectation{})
			return alg.Edit{Done: 99}
		},
	} {
		g := &took{}
		s := session(h)
		if got := text(s.Segment(0, 100, []byte("abc"), More, g), "abc"); got != "abc" || s.Helped() {
			t.Errorf("%s: sent %q", claim, got)
		}
		if g.withdrawn != 1 || s.Events[Panicked]+s.Events[Broken] != 1 {
			t.Errorf("%s: %d withdrawn, events %v", claim, g.withdrawn, s.Events)
		}
	}
}

func TestInsertionsAndNeighbours(t *testing.T) {
	put := func(from, to int, text string) alg.Replacement {
		return alg.Replacement{From: from, To: to, Text: []byte(text)}
	}
	for _, tt := range []struct {
		replace []alg.Replacement
		want    string
	}{
		{[]alg.Replacement{put(0, 0, "<")}, "<abcdef"},
		{[]alg.Replacement{put(6, 6, ">")}, "abcdef>"},
		{[]alg.Replacement{put(0, 0, "<"), put(6, 6, ">")}, "<abcdef>"},
		{[]alg.Replacement{put(2, 2, "-"), put(2, 3, "C"), put(3, 3, "+")}, "ab-C+def"},
		{[]alg.Replacement{put(2, 4, ""), put(4, 4, "*"), put(5, 6, "")}, "ab*e"},
		{[]alg.Replacement{put(0, 6, "")}, ""},
	} {
		s := session(scripted(func(_ *alg.Context, b []byte) alg.Edit { return alg.Edit{Done: len(b), Replace: tt.replace} }))
		if got := text(s.Segment(0, 100, []byte("abcdef"), More, nil), "abcdef"); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.replace, got, tt.want)
		}
	}
}

func TestBytesThatWentAnotherWayAreNotWaitedFor(t *testing.T) {
	s := session(braces{})
	s.Segment(0, 100, []byte("abc"), More, nil)
	s.Acked(1, 5000) // of bytes never seen here
	if got := text(s.Segment(0, 5000, []byte("def"), More, nil), "def"); got != "def" {
		t.Errorf("sent %q, want %q", got, "def")
	}
}

func TestQueueBehindAHoleIsBounded(t *testing.T) {
	s := session(braces{})
	crowded := 0
	for i := range 200 {
		if s.Segment(0, uint32(200+2000*i), make([]byte, 1000), More, nil).Fate == Crowded {
			crowded++
		}
	}
	if crowded == 0 || s.Memory() > 2*defaultLate {
		t.Errorf("%d refused, %d bytes kept", crowded, s.Memory())
	}
}

// FuzzSegments sends a text in segments that the fuzzer chooses, in any order, again and
// overlapping; what is sent must be the edited text.
func FuzzSegments(f *testing.F) {
	f.Add([]byte("a{bc}d{}e"), []byte{0, 3, 3, 9})
	f.Add([]byte("{abcd}{e}"), []byte{5, 4, 0, 9})            // behind a hole
	f.Add([]byte("ab{cdefg}hi"), []byte{0, 4, 2, 3, 5})       // again, from inside of an edit
	f.Add([]byte("{"+strings.Repeat("0", 63)+"}"), []byte{0}) // a word longer than the usual limit, not this one
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		if len(data) == 0 || len(data) > 200 || len(cuts) > 64 {
			return
		}
		s := session(braces{})
		s.limit = 1 << 10
		want := rewritten(data, s.limit)
		got := map[int]byte{}
		send := func(at, n int, last Last) {
			b := data[at:min(at+n, len(data))]
			out := s.Segment(0, 100+uint32(at), b, last, nil)
			pieces := out.Pieces()
			if out.Fate == AsItIs {
				pieces = []Piece{{out.Seq, b}}
			}
			for _, p := range pieces {
				for i, c := range p.Data {
					pos := int(p.Seq-100) + i
					if was, ok := got[pos]; ok && was != c || pos >= len(want) || want[pos] != c {
						t.Fatalf("byte %d is %q, want %q", pos, c, want)
					}
					got[pos] = c
				}
			}
		}
		for i := 0; i+1 < len(cuts); i += 2 {
			send(int(cuts[i])%len(data), int(cuts[i+1]), More)
		}
		send(0, len(data), Fin)
		if len(got) != len(want) {
			t.Fatalf("%d bytes were sent of %d", len(got), len(want))
		}
	})
}
