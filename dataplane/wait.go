package dataplane

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How long the three regimes of waiting last. Measured on two-core machines
// with veth pairs: every wake-up out of ppoll costs the sender some 2000 cycles
// and shrinks batches to 1..4; naps under load took a two-worker gateway from
// 1.23 to 1.97 Mpps, a short spin after a packet took the round trip of a
// request from 14.5 to 10.0 us.
const (
	spinTime  = 15_000      // ns after the last packet
	napTime   = 40_000      // ns between looks under load
	loadFloor = 300         // packets in a millisecond that count as load
	window    = 1_000_000   // ns over which load is measured
	idleTime  = 100_000_000 // ns: an idle worker still passes epochs and expires flows
)

// waiter decides how a worker waits, from what it has received lately.
type waiter struct {
	mode  Waiting
	event int // eventfd that ends a sleep
	fds   []unix.PollFd
	gen   uint32 // view the fds are of

	started  int64 // of the window, ns
	packets  int   // in the window
	busy     bool  // the last full window was above loadFloor
	lastSeen int64 // time of the last packet
	preempt  int64 // involuntary context switches at the last look
	looks    uint32
	yield    bool // somebody else wants this CPU: do not spin

	woken atomic.Bool // event is readable
}

func (s *waiter) init(mode Waiting) (err error) {
	s.mode = mode
	s.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	return err
}

func (s *waiter) close() { _ = unix.Close(s.event) }

// wake ends a sleep in ppoll, now or the next one. Any goroutine may call it.
func (s *waiter) wake() {
	if s.woken.Swap(true) {
		return
	}
	one := [8]byte{1}
	_, _ = unix.Write(s.event, one[:]) // full counter: already readable
}

// wait spends the time until the worker should look again, and reports whether that
// took any. n is what the last Step handled at time now.
func (s *waiter) wait(w *Worker, n int, now int64) (slept bool) {
	s.packets += n
	if now-s.started >= window {
		s.busy = s.packets >= loadFloor && now-s.started < 2*window
		s.started, s.packets = now, 0
	}
	if n > 0 {
		s.lastSeen = now
	}
	switch {
	case n >= Batch/2:
		return false // more is certainly there
	case (s.busy || s.packets >= loadFloor) && s.mode != WaitLatency, s.mode == WaitThroughput && n > 0:
		w.park()
		s.nap()
		return true
	case n > 0:
		return false
	case now-s.lastSeen < spinTime && s.maySpin(), s.mode == WaitLatency && s.maySpin():
		return false
	}
	s.poll(w)
	return true
}

// maySpin reports whether nobody else has wanted this CPU lately. It asks the
// kernel only now and then: the call costs as much as a look at the rings.
func (s *waiter) maySpin() bool {
	s.looks++
	if s.looks%256 != 0 {
		return !s.yield
	}
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &ru) == nil {
		s.yield = ru.Nivcsw > s.preempt+1
		s.preempt = ru.Nivcsw
	}
	return !s.yield
}

// nap sleeps for napTime without looking at the queues, like a NIC's interrupt
// moderation.
func (s *waiter) nap() {
	ts := unix.Timespec{Nsec: napTime}
	_, _, _ = unix.Syscall6(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0, 0, 0, 0)
}

// poll sleeps until a queue has something, somebody calls wake, or idleTime passes.
func (s *waiter) poll(w *Worker) {
	if s.gen != w.v.gen || s.fds == nil {
		s.gen = w.v.gen
		s.fds = append(s.fds[:0], unix.PollFd{Fd: int32(s.event), Events: unix.POLLIN})
		if w.index < len(w.v.sources) {
			for _, src := range w.v.sources[w.index] {
				if fd := src.q.FD(); fd >= 0 {
					s.fds = append(s.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
				}
			}
		}
	}
	ts := unix.Timespec{Nsec: idleTime}
	w.park()
	n, _, errno := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&s.fds[0])), uintptr(len(s.fds)),
		uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno == 0 && s.fds[0].Revents != 0 {
		// Read before the store: a wake between the two writes nothing, and the
		// worker is awake. The other way round the flag could stay set with
		// nothing to read, and no wake would ever write again.
		var b [8]byte
		_, _ = unix.Read(s.event, b[:])
		s.woken.Store(false)
	}
	s.hangups(errno == 0 && n == 0)
}

// hangups stops polling descriptors whose interface went away or down: they would end
// every sleep at once. After an idle time without any sign they are polled again: who
// changes the view may not have noticed an interface that came back at once.
func (s *waiter) hangups(idle bool) {
	for i := 1; i < len(s.fds); i++ {
		f := &s.fds[i]
		broken := f.Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 && f.Revents&unix.POLLIN == 0
		if broken || idle && f.Fd < 0 {
			f.Fd = ^f.Fd // the kernel passes over negative ones
		}
	}
}
