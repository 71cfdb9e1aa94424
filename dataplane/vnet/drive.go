package vnet

import (
	"time"

	"golang.org/x/sys/unix"
)

// Run moves every packet as far as it goes at the present time, and returns when the net is
// quiet. With Start, hosts may send again at any moment.
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
		n.clock.Advance(k)
		n.Run()
		d -= k
	}
}

// driver is the goroutine of Start.
type driver struct {
	quit int // eventfd
	done chan struct{}
}

// Start drives the net from a goroutine of its own until the end of the test.
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
	for {
		n.Run()
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[0].Revents != 0 {
			return
		}
		if fds[1].Revents != 0 {
			drainEventFD(n.wakeFD)
		}
	}
}

func (n *Net) stopDriver() {
	if n.driver == nil {
		return
	}
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
