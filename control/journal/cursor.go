package journal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"example.com/culvert/conntrack"
)

// Cursor is a place between two events. To others it is an opaque text. It holds how
// many events of each kind come before it, so that what lies between two cursors is
// known exactly, even when the events are gone.
type Cursor struct {
	Instance uint64 // of the journal: another one after each start
	Counts   conntrack.Counts
}

// ErrCursor is the error for a text that is no cursor, or not one of this gateway.
var ErrCursor = errors.New("not a cursor of this gateway")

// String returns the text of c: the instance in hexadecimal, the counts in base 36.
func (c Cursor) String() string {
	b := fmt.Appendf(nil, "%016x", c.Instance)
	for _, n := range c.Counts {
		b = strconv.AppendUint(append(b, '-'), n, 36)
	}
	return string(b)
}

// ParseCursor is String's inverse. The error wraps ErrCursor.
func ParseCursor(text string) (c Cursor, err error) {
	words := strings.Split(text, "-")
	if len(words) != 1+len(c.Counts) || len(words[0]) != 16 {
		return c, fmt.Errorf("%q: %w", text, ErrCursor)
	}
	c.Instance, err = strconv.ParseUint(words[0], 16, 64)
	for k := range c.Counts {
		if err == nil {
			c.Counts[k], err = strconv.ParseUint(words[1+k], 36, 48)
		}
	}
	if err != nil || c.String() != text {
		return Cursor{}, fmt.Errorf("%q: %w", text, ErrCursor)
	}
	return c, nil
}

// Seq returns the number of the last event before the cursor.
func (c *Cursor) Seq() uint64 { return c.Counts.Sum() }

// within reports whether c may lie between two places: no kind says otherwise.
func within(low, c, high *conntrack.Counts) bool {
	for k := range c {
		if c[k] < low[k] || c[k] > high[k] {
			return false
		}
	}
	return true
}

// ExpiredError says that nothing is known of what followed a cursor.
type ExpiredError struct {
	Cursor Cursor
	First  Cursor // the oldest place that a reader can begin at
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("cursor %v is of a journal that has ended, so what followed it is not known: take a snapshot, or go on at %v, the oldest place there is", e.Cursor, e.First)
}
