package conntrack

import (
	"time"

	"golang.org/x/sys/unix"
)

// Tick is the table's unit of time: 10 ms of the boot clock, modulo 2^32
// (about 497 days). Two ticks are compared by their signed difference, so no
// two live moments may lie further apart than maxTimeout.
type Tick uint32

// TickLength is the real time that one Tick stands for.
const TickLength = 10 * time.Millisecond

// maxTimeout is the longest timeout an entry can have, about 124 days: half of
// what a signed difference of ticks can tell apart.
const maxTimeout = Tick(1 << 30)

// Now reads the boot clock. Workers call it once a batch.
func Now() Tick {
	return Tick(bootTime() / TickLength)
}

// Ticks converts d, rounded down, to ticks. Negative durations give 0 and long
// ones the longest timeout the table can hold.
func Ticks(d time.Duration) Tick {
	return Tick(min(max(d/TickLength, 0), time.Duration(maxTimeout)))
}

// Duration converts t, taken as a distance, to real time.
func (t Tick) Duration() time.Duration { return time.Duration(t) * TickLength }

// Sub returns t-u in ticks; negative when t is earlier than u.
func (t Tick) Sub(u Tick) int32 { return int32(t - u) }

// Reached reports whether the moment deadline has come at time t.
func (t Tick) Reached(deadline Tick) bool { return t.Sub(deadline) >= 0 }

// later returns the later of two ticks.
func later(a, b Tick) Tick {
	if a.Sub(b) >= 0 {
		return a
	}
	return b
}

// bootTime returns the time since boot, suspended time included.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("conntrack: boot clock: " + err.Error()) // cannot fail on a kernel we support
	}
	return time.Duration(ts.Nano())
}
