package report

import (
	"bytes"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/culvert/alg"
)

// Change is a part of a message before and after. Of text it is whole lines, of
// other messages the bytes that are replaced, in hexadecimal.
type Change struct {
	At  int    `json:"at"` // of the first byte, in the message
	Old string `json:"old"`
	New string `json:"new"`
	Hex bool   `json:"hex,omitempty"` // Old and New are
}

// Changes returns what edits, in order, make of b.
func Changes(b []byte, edits []alg.Replacement) (all []Change) {
	text := isText(b)
	for i := 0; i < len(edits); {
		from, to := edits[i].From, edits[i].To
		if text {
			from, to = lineAround(b, from, to)
		}
		var now []byte
		at := from
		for first := true; first || i < len(edits) && edits[i].From < to; first = false {
			if text {
				_, to = lineAround(b, from, max(to, edits[i].To))
			}
			now = append(append(now, b[at:edits[i].From]...), edits[i].Text...)
			at = edits[i].To
			i++
		}
		now = append(now, b[at:to]...)
		c := Change{At: from, Old: string(b[from:to]), New: string(now)}
		if !text {
			c = Change{At: from, Old: hex.EncodeToString(b[from:to]), New: hex.EncodeToString(now), Hex: true}
		}
		all = append(all, c)
	}
	return all
}

// lineAround widens a range to whole lines.
func lineAround(b []byte, from, to int) (int, int) {
	from = bytes.LastIndexByte(b[:from], '\n') + 1
	if to > from && b[to-1] == '\n' {
		return from, to
	}
	if i := bytes.IndexByte(b[to:], '\n'); i >= 0 {
		return from, to + i + 1
	}
	return from, len(b)
}

// isText reports whether b is made of lines that a terminal can show.
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) && !strings.ContainsRune("\r\n\t\x01", r) { // 1: marks of CTCP
			return false
		}
	}
	return true
}
