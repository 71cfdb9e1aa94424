package report

import (
	"slices"
	"testing"

	"example.com/culvert/alg"
)

func TestChangesAreWholeLinesOfText(t *testing.T) {
	edit := func(from, to int, text string) alg.Replacement {
		return alg.Replacement{From: from, To: to, Text: []byte(text)}
	}
	for _, tt := range []struct {
		name  string
		b     string
		edits []alg.Replacement
		want  []Change
	}{
		{"one line", "a\nbcd\ne\n", []alg.Replacement{edit(3, 4, "XY")}, []Change{{At: 2, Old: "bcd\n", New: "bXYd\n"}}},
		{"two edits of a line", "a\nbcd\ne\n", []alg.Replacement{edit(2, 3, ""), edit(4, 5, "X")}, []Change{{At: 2, Old: "bcd\n", New: "cX\n"}}},
		{"an edit over two lines", "a\nb\nc\nd\n", []alg.Replacement{edit(2, 5, "X")}, []Change{{At: 2, Old: "b\nc\n", New: "X\n"}}},
		{"two lines", "a\nb\nc\n", []alg.Replacement{edit(0, 1, "X"), edit(4, 5, "Y")}, []Change{{At: 0, Old: "a\n", New: "X\n"}, {At: 4, Old: "c\n", New: "Y\n"}}},
		{"text that is put in", "a\nb\n", []alg.Replacement{edit(2, 2, "X\n")}, []Change{{At: 2, Old: "b\n", New: "X\nb\n"}}},
		{"text at the end", "a\nb", []alg.Replacement{edit(3, 3, "X")}, []Change{{At: 2, Old: "b", New: "bX"}}},
		{"bytes", "\x00\x01\x02\x03", []alg.Replacement{edit(1, 2, "\xff"), edit(3, 4, "\xfe")}, []Change{{At: 1, Old: "01", New: "ff", Hex: true}, {At: 3, Old: "03", New: "fe", Hex: true}}},
	} {
		if got := Changes([]byte(tt.b), tt.edits); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
