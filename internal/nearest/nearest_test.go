package nearest

import (
	"strings"
	"testing"
)

func TestTo(t *testing.T) {
	for _, tt := range []struct {
		claim, word string
		candidates  []string
		want        string
	}{
		{"a letter too few", "statu", []string{"rules", "status"}, "status"},
		{"neighbours swapped", "--wiat", []string{"--socket", "--wait"}, "--wait"},
		{"neighbours swapped in a short word", "tpc", []string{"udp", "tcp"}, "tcp"},
		{"the nearest wins", "dports", []string{"ports", "dport"}, "ports"},
		{"one letter of two", "lo", []string{"to"}, "to"},
		{"a short word is not another one", "foo", []string{"to"}, ""},
		{"a letter is not any other", "x", []string{"y"}, ""},
		{"nothing is near", "frobnicate", []string{"status", "run"}, ""},
		{"an empty word is near nothing", "", []string{"a", ""}, ""},
		{"long words are not compared", strings.Repeat("a", 100), []string{strings.Repeat("a", 99)}, ""},
	} {
		if got := To(tt.word, tt.candidates); got != tt.want {
			t.Errorf("%s: nearest to %q of %q is %q, want %q", tt.claim, tt.word, tt.candidates, got, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"kitten", "sitting", 3}, {"ab", "ba", 1}, {"areas", "area", 1}, {"adress", "address", 1},
	} {
		if got := Distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q are %d apart, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
