package alg

import "bytes"

// LineState says how far a line got.
type LineState uint8

const (
	LineOpen LineState = iota // its end has not come yet
	LineDone                  // it is whole
	LineLong                  // it is longer than it may be
)

// Line returns the first line of b without its end, LF or CR LF, and how many bytes
// it takes with it. Of an open line both are what has come of it so far.
func Line(b []byte, limit int) (line []byte, n int, st LineState) {
	i := bytes.IndexByte(b[:min(len(b), limit)], '\n')
	switch {
	case i >= 0:
		return bytes.TrimSuffix(b[:i], cr), i + 1, LineDone
	case len(b) >= limit:
		return b[:limit], limit, LineLong
	}
	return b, len(b), LineOpen
}

var cr = []byte{'\r'}

// HasVerb reports whether line is, or may become when more of it comes, a command
// that begins with verb, whatever its case. verb is in capitals.
func HasVerb(line []byte, verb string) bool {
	for i := range min(len(line), len(verb)) {
		b := line[i]
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		if b != verb[i] {
			return false
		}
	}
	return true
}

// Number reads the digits that b begins with, most at the most, which must fit into an
// int. It returns how many there are.
func Number(b []byte, most int) (x, digits int) {
	for digits < len(b) && digits < most && '0' <= b[digits] && b[digits] <= '9' {
		x = 10*x + int(b[digits]-'0')
		digits++
	}
	return x, digits
}
