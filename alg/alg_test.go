package alg

import (
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

type named string

func (n named) Spec() Spec {
	return Spec{Name: string(n), Protos: []uint8{tuple.TCP}, Classes: []Class{{Name: "data", Max: 1, Timeout: time.Minute}}}
}
func (named) New(*Flow) Parser { return nil }

func TestNumbersStayWithTheirHelperAndOptions(t *testing.T) {
	s, err := NewSet(named("b"), named("a"))
	if err != nil {
		t.Fatal(err)
	}
	number := func(name string, o Options) uint32 {
		t.Helper()
		n, err := s.Number(name, o)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, loose := number("a", Options{}), number("a", Options{Foreign: true})
	b := number("b", Options{})
	if a == loose || a == b || a == 0 {
		t.Errorf("numbers %d, %d, %d: want three different ones", a, loose, b)
	}
	if again := number("a", Options{Foreign: true}); again != loose {
		t.Errorf("a helper that had number %d has %d now", loose, again)
	}
	if s.Name(b) != "b" || s.Name(0) != "" || s.Name(99) != "" {
		t.Errorf("names are %q, %q, %q", s.Name(b), s.Name(0), s.Name(99))
	}
	if got := s.Get(loose); !got.Options.Foreign || got.Spec.Limit != DefaultLimit {
		t.Errorf("attachment is %+v", got)
	}
	if _, err := s.Number("c", Options{}); err == nil || err.Error() != `no helper "c": there are a, b` {
		t.Errorf("error is %v", err)
	}
}

func TestHelpersOfOneNameAreRefused(t *testing.T) {
	if _, err := NewSet(named("a"), named("a")); err == nil {
		t.Error("no error")
	}
}

func TestLine(t *testing.T) {
	for _, tt := range []struct {
		in, line string
		n        int
		st       LineState
	}{
		{"", "", 0, LineOpen},
		{"PO", "PO", 2, LineOpen},
		{"PORT\r", "PORT\r", 5, LineOpen},
		{"PORT\r\nX", "PORT", 6, LineDone},
		{"PORT\nX", "PORT", 5, LineDone},
		{"12345678", "12345678", 8, LineLong},
		{"12345678\n", "12345678", 8, LineLong},
		{"1234567\n", "1234567", 8, LineDone},
	} {
		line, n, st := Line([]byte(tt.in), 8)
		if string(line) != tt.line || n != tt.n || st != tt.st {
			t.Errorf("%q: %q, %d, %d; want %q, %d, %d", tt.in, line, n, st, tt.line, tt.n, tt.st)
		}
	}
}

func TestVerbs(t *testing.T) {
	for line, want := range map[string]bool{"": true, "p": true, "Por": true, "port 1": true, "PAS": false, "x": false} {
		if HasVerb([]byte(line), "PORT") != want {
			t.Errorf("%q may be PORT: %v, want %v", line, !want, want)
		}
	}
}

func TestEditsThatCannotBe(t *testing.T) {
	for name, e := range map[string]Edit{
		"settles more than there is":  {Done: 11},
		"settles less than nothing":   {Done: -1},
		"replaces what is not done":   {Done: 4, Replace: []Replacement{{3, 5, nil}}},
		"ranges overlap":              {Done: 9, Replace: []Replacement{{1, 4, nil}, {3, 5, nil}}},
		"range ends before its start": {Done: 9, Replace: []Replacement{{4, 1, nil}}},
		"nothing for nothing":         {Done: 9, Replace: []Replacement{{4, 4, nil}}},
		"starts before the payload":   {Done: 9, Replace: []Replacement{{-1, 4, nil}}},
		"unknown rest":                {Rest: 9},
	} {
		if e.Fits(10) {
			t.Errorf("%s: accepted", name)
		}
	}
	if e := (&Edit{Done: 9, Replace: []Replacement{{1, 4, nil}, {4, 4, []byte("x")}, {8, 9, []byte("yy")}}}); !e.Fits(10) {
		t.Error("a right edit is refused")
	}
}
