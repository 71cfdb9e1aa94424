package vnet

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Run moves every packet as far as it goes at the present time, and returns when
// the net is quiet. It is not for nets with Start.
func (n *Net) Run() {
	n.drive.Lock()
	defer n.drive.Unlock()
	n.runLocked()
}

func (n *Net) runLocked() {
	for n.round() {
	}
}

// round gives every part one turn and reports whether any had work.
func (n *Net) round() (worked bool) {
	n.clock.RunImmediatelyScheduledJobs()
	for _, l := range n.links {
		worked = l.carry() || worked
	}
	worked = n.Stack.Poll() > 0 || worked
	worked = n.Engine.Worker(0).Step(n.Now()) > 0 || worked
	for _, l := range n.links {
		worked = l.carry() || worked
	}
	return worked
}

// Advance lets d pass, with everything that happens in it: timers of the stacks, timeouts of flows.
// Long times pass in at most 1000 steps.
func (n *Net) Advance(d time.Duration) {
	step := max(time.Second, d/1000)
	for d > 0 {
		k := min(step, d)
		n.pass(k)
		d -= k
	}
}

func (n *Net) pass(d time.Duration) {
	n.drive.Lock()
	defer n.drive.Unlock()
	n.clock.Advance(d)
	if n.driver == nil {
		n.runLocked()
	}
}

// driver is the goroutine of Start.
type driver struct {
	quit int // eventfd
	stop atomic.Bool
	done chan struct{}
}

// idle is how long the driver sleeps at most when there is nothing to move.
const idle = 10 * time.Millisecond

// Start drives the net from a goroutine of its own until the end of the test. Time passes
// as it really does then, for what the stacks of hosts retransmit and acknowledge by timers.
func (n *Net) Start() {
	n.t.Helper()
	quit, err := newEventFD()
	if err != nil {
		n.t.Fatal(err)
	}
	n.driver = &driver{quit: quit, done: make(chan struct{})}
	go n.driver.run(n)
}

func (d *driver) run(n *Net) {
	defer close(d.done)
	fds := []unix.PollFd{
		{Fd: int32(d.quit), Events: unix.POLLIN},
		{Fd: int32(n.wakeFD), Events: unix.POLLIN},
		{Fd: int32(n.Stack.Port().Queue(0).FD()), Events: unix.POLLIN},
	}
	for last := time.Now(); !d.stop.Load(); {
		now := time.Now()
		worked := n.turn(now.Sub(last))
		last = now
		if worked {
			continue
		}
		if _, err := unix.Poll(fds, int(idle.Milliseconds())); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 {
			drainEventFD(n.wakeFD)
		}
	}
}

// turn lets d pass and gives every part one turn. Time must pass between turns: what
// netstack limits by time would go on for ever without.
func (n *Net) turn(d time.Duration) (worked bool) {
	n.drive.Lock()
	defer n.drive.Unlock()
	n.clock.Advance(d)
	return n.round()
}

func (n *Net) stopDriver() {
	if n.driver == nil {
		return
	}
	n.driver.stop.Store(true)
	signalEventFD(n.driver.quit)
	<-n.driver.done
	closeEventFD(n.driver.quit)
	n.driver = nil
}

func newEventFD() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) }

func signalEventFD(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:]) // a full counter is readable already
}

func drainEventFD(fd int) {
	var b [8]byte
	_, _ = unix.Read(fd, b[:]) // empty: nothing to drain
}

func closeEventFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
