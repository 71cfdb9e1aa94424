package dataplane

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/port"
)

// How long the three regimes of waiting last. Measured on two-core machines
// with veth pairs: every wake-up out of ppoll costs the sender some 2000 cycles
// and shrinks batches to 1..4; naps under load took a two-worker gateway from
// 1.23 to 1.97 Mpps with 30 us and to 2.28 with 100, a short spin after a packet took
// the round trip of a request from 14.5 to 10.0 us.
const (
	spinLeast = 15_000    // ns after the last packet
	spinMost  = 50_000    // where packets come again that soon: a processor that idles takes as long to wake up
	stolen    = 20_000    // ns between two looks of a spin: somebody else had the processor
	noSpin    = 4_000_000 // ns without spinning, then: he may want it again

	window    = 1_000_000 // ns over which load is measured
	loadFloor = 300       // packets in it that count as load: nap
	flowFloor = 50        // packets in it that may be a stream as well as questions and answers: try a nap
	worthNap  = 4         // packets that a nap gathers out of a stream; answers wait for the gateway and gather less
	retryNap  = 20 * window

	shortNap = 40_000  // ns between looks at a stream
	longNap  = 250_000 // ns between looks under load; 100_000 took two workers beside two senders from 0.83 of the kernel's rate to 0.73
	leastNap = 20_000
	gather   = 256 // packets of a nap at most, about: 1/16 of the slots of a ring

	idleTime = 100_000_000 // ns: an idle worker still passes epochs and expires flows
)

// waited is what a worker did between two looks.
type waited uint8

const (
	waitedNot waited = iota
	waitedSpun
	waitedNapped
	waitedSlept
)

// waiter decides how a worker waits, from what it has received lately.
type waiter struct {
	mode  Waiting
	event int // eventfd that ends a sleep
	fds   []unix.PollFd
	gen   uint32 // view the fds are of

	started  int64 // of the window, ns
	packets  int   // in the window
	rate     int   // packets of the last full window
	lastSeen int64 // time of the last packet
	lastLook int64
	last     waited // since then
	spin     int64  // ns after the last packet, spinLeast to spinMost
	spinFrom int64  // not before: somebody else wants this processor
	stream   bool   // the last short nap gathered enough
	napFrom  int64  // time to try one again

	woken atomic.Bool // event is readable
}

func (s *waiter) init(mode Waiting) (err error) {
	s.mode, s.spin = mode, spinLeast
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
	s.learn(n, now)
	switch nap := s.nap(n, now); {
	case n >= Batch/2:
		s.last = waitedNot // more is certainly there
		return false
	case nap > 0:
		s.last = waitedNapped
		w.park()
		sleep(nap)
		return true
	case n > 0:
		s.last = waitedNot
		return false
	case s.mode == WaitLatency || now-s.lastSeen < s.spin:
		if now >= s.spinFrom {
			s.last = waitedSpun
			return false
		}
	}
	s.last = waitedSlept
	s.poll(w)
	return true
}

// learn takes note of what the last wait led to.
func (s *waiter) learn(n int, now int64) {
	if took := now - s.started; took >= window {
		s.rate = s.packets
		if took >= 2*window {
			s.rate = 0
		}
		s.started, s.packets = now, 0
	}
	s.packets += n
	took := now - s.lastLook
	switch s.last {
	case waitedSpun:
		if took > stolen {
			s.spinFrom = now + noSpin
		}
	case waitedNapped:
		if s.stream = n >= worthNap; !s.stream {
			s.napFrom = now + retryNap
		}
	case waitedSlept:
		switch {
		case n > 0 && took < spinMost:
			s.spin = min(2*s.spin, spinMost)
		case took > 10*spinMost:
			s.spin = max(s.spin/2, spinLeast)
		}
	}
	if n > 0 {
		s.lastSeen = now
	}
	s.lastLook = now
}

// nap returns how long the worker shall not look at its queues, like a NIC's interrupt
// moderation, ns; 0 if it shall.
func (s *waiter) nap(n int, now int64) int64 {
	rate := max(s.rate, s.packets)
	switch {
	case s.mode == WaitLatency:
		return 0
	case rate >= loadFloor:
		return min(max(gather*window/int64(rate), leastNap), longNap)
	case s.mode == WaitThroughput && n > 0, n > 0 && rate >= flowFloor && (s.stream || now >= s.napFrom):
		return shortNap
	}
	return 0
}

// sleep sleeps for ns.
func sleep(ns int64) {
	ts := unix.Timespec{Nsec: ns}
	_, _, _ = unix.Syscall6(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0, 0, 0, 0)
}

// poll sleeps until a queue has something, somebody calls wake, or idleTime passes.
func (s *waiter) poll(w *Worker) {
	if s.gen != w.v.gen || s.fds == nil {
		s.gen = w.v.gen
		s.fds = append(s.fds[:0], unix.PollFd{Fd: int32(s.event), Events: unix.POLLIN})
		if w.index < len(w.v.sources) {
			for _, src := range w.v.sources[w.index] {
				for _, fd := range port.PollFDs(src.q) {
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
