package await

import (
	"fmt"
	"testing"
	"time"
)

// ended stands for a test that Fatalf ends.
type ended struct{ why string }

func (e *ended) Helper() {}
func (e *ended) Fatalf(format string, args ...any) {
	e.why = fmt.Sprintf(format, args...)
	panic(e)
}

func TestWaitsUntilItIsSo(t *testing.T) {
	looks := 0
	Until(t, "five looks", func() bool { looks++; return looks == 5 })
	if looks != 5 {
		t.Errorf("%d looks, want 5", looks)
	}
}

func TestWaitsNotForEver(t *testing.T) {
	var e ended
	func() {
		defer func() { _ = recover() }()
		until(&e, 10*time.Millisecond, "the moon is blue", func() bool { return false })
	}()
	if want := "not within 10ms: the moon is blue"; e.why != want {
		t.Errorf("it ends with %q, want %q", e.why, want)
	}
}
