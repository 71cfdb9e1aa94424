// Package await waits in tests for what other goroutines and processes do.
package await

import "time"

// T is what Until needs of a test.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Limit is how long a loaded machine may take for what others do in a moment.
const Limit = 20 * time.Second

// The time between two looks at a condition grows from first to last: a look may
// cost a process.
const (
	first = time.Millisecond
	last  = 20 * time.Millisecond
)

// Until waits until ok, and ends the test when that takes longer than Limit. what
// says what was waited for. It calls ok in the test's own goroutine.
func Until(t T, what string, ok func() bool) {
	t.Helper()
	until(t, Limit, what, ok)
}

func until(t T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	late := time.After(limit)
	for pause := first; !ok(); pause = min(2*pause, last) {
		select {
		case <-time.After(pause):
		case <-late:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
