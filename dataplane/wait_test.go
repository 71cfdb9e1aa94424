package dataplane

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRateLimit(t *testing.T) {
	const day = int64(24 * time.Hour)
	take := func(l *rateLimit, now int64, n int) (got int) {
		for range n {
			if l.allow(now) {
				got++
			}
		}
		return got
	}
	tests := []struct {
		claim     string
		perSecond int
		at        []int64 // when 3000 answers are wanted
		want      []int
	}{
		{"a second's worth at once", 10, []int64{0}, []int{10}},
		{"and no more within it", 10, []int64{0, 0}, []int{10, 0}},
		{"a tenth of a second brings one", 10, []int64{0, 1e8, 2e8}, []int{10, 1, 1}},
		{"nothing is lost between", 10, []int64{0, 15e7, 3e8, 45e7, 6e8}, []int{10, 1, 2, 1, 2}},
		{"a pause brings one second's worth", 10, []int64{0, day}, []int{10, 10}},
		{"long after boot", 1000, []int64{300 * day, 300*day + 1e9, 900 * day}, []int{1000, 1000, 1000}},
		{"a million a second", 1000000, []int64{900 * day, 901 * day}, []int{3000, 3000}},
		{"one a second", 1, []int64{5, 6, 1e9 + 5}, []int{1, 0, 1}},
		{"a clock set back does not end all answers", 10, []int64{day, 0}, []int{10, 10}},
		{"no limit", -1, []int64{0, 0}, []int{3000, 3000}},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			var l rateLimit
			l.init(tt.perSecond)
			for i, now := range tt.at {
				if got := take(&l, now, 3000); got != tt.want[i] {
					t.Errorf("at %v: %d allowed, want %d", time.Duration(now), got, tt.want[i])
				}
			}
		})
	}
}

func TestRateLimitIsSharedFairly(t *testing.T) {
	var l rateLimit
	l.init(100)
	var wg sync.WaitGroup
	got := make([]int, 4)
	for i := range got {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 1000 {
				if l.allow(0) {
					got[i]++
				}
			}
		}()
	}
	wg.Wait()
	if sum := got[0] + got[1] + got[2] + got[3]; sum != 100 {
		t.Errorf("%d allowed to four workers, want 100", sum)
	}
}

// readable reports whether a waiter's event would end a sleep.
func readable(t *testing.T, s *waiter) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(s.event), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// TestNoWakeIsLost wakes a waiter from two sides while it polls: whenever it says
// that a wake is under way, its event must be readable, or it would sleep through all further ones.
func TestNoWakeIsLost(t *testing.T) {
	l := newLab(t, labConfig{})
	s := &l.w.sleep
	l.w.begin(l.now)
	stop := make(chan struct{})
	var wakers sync.WaitGroup
	for range 2 {
		wakers.Add(1)
		go func() {
			defer wakers.Done()
			for {
				select {
				case <-stop:
					return
				default:
					s.wake()
				}
			}
		}()
	}
	for range 20000 {
		s.poll(l.w)
	}
	close(stop)
	wakers.Wait()
	if s.woken.Load() != readable(t, s) {
		t.Fatalf("woken %v, but event readable %v", s.woken.Load(), readable(t, s))
	}
	s.wake()
	if !readable(t, s) {
		t.Error("a wake has no effect")
	}
	s.poll(l.w)
	if s.woken.Load() || readable(t, s) {
		t.Error("the wake is still there after the sleep")
	}
}

// TestDescriptorThatWasBrokenIsPolledAgain: an interface that goes down and comes up
// before anybody has looked would otherwise be looked at ten times a second only.
func TestDescriptorThatWasBrokenIsPolledAgain(t *testing.T) {
	l := newLab(t, labConfig{})
	s := &l.w.sleep
	l.w.begin(l.now)
	l.w.wake()
	s.poll(l.w)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[0]) // the other end polls as an error
	fd := pipe[1]
	defer unix.Close(fd)
	s.fds = append(s.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	last := &s.fds[len(s.fds)-1]
	s.poll(l.w)
	if last.Fd >= 0 {
		t.Fatal("a broken descriptor is polled on: it ends every sleep at once")
	}
	ready, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ready)
	if err := unix.Dup3(ready, fd, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	s.poll(l.w) // an idle time
	s.poll(l.w)
	if last.Revents&unix.POLLIN == 0 {
		t.Error("the descriptor works again and ends no sleep")
	}
}

// TestWaitingRegimes: which regime a worker waits in. Sleeping and napping both
// park it, returning at once does not.
func TestWaitingRegimes(t *testing.T) {
	const us = int64(time.Microsecond)
	type look struct {
		n      int   // packets
		now    int64 // ns
		parked bool
	}
	tests := []struct {
		claim string
		mode  Waiting
		looks []look
	}{
		{"an idle worker sleeps", WaitAuto, []look{{0, 1e9, true}}},
		{"a full batch: look again at once", WaitAuto, []look{{Batch, 1e9, false}, {Batch / 2, 1e9, false}}},
		{"after a packet it spins for a moment, then sleeps", WaitAuto, []look{{1, 1e9, false}, {0, 1e9 + 10*us, false}, {0, 1e9 + 20*us, true}}},
		{"under load it naps", WaitAuto, []look{{Batch, 1e9, false}, {loadFloor, 1e9 + 1, false}, {1, 1e9 + 2, true}}},
		{"also when a nap brings nothing", WaitAuto, []look{{loadFloor, 1e9, false}, {0, 1e9 + 100*us, true}, {0, 1e9 + 200*us, true}}},
		{"for throughput it naps after every packet", WaitThroughput, []look{{1, 1e9, true}}},
		{"for latency it spins on", WaitLatency, []look{{1, 1e9, false}, {0, 1e9 + 10*us, false}, {0, 1e9 + 20*us, false}, {0, 1e9 + 30*us, false}}},
		{"and does not nap", WaitLatency, []look{{loadFloor, 1e9, false}, {1, 1e9 + 10*us, false}}},
		{"who loses the processor while it spins does not spin for a while", WaitAuto, []look{
			{1, 1e9, false}, {0, 1e9 + 1*us, false}, {1, 1e9 + 30*us, false}, {0, 1e9 + 31*us, true}, {1, 1e9 + 100*us, false}, {0, 1e9 + 101*us, true},
			{1, 1e9 + 5000*us, false}, {0, 1e9 + 5001*us, false}}},
		{"nor for latency", WaitLatency, []look{{0, 1e9, false}, {0, 1e9 + 30*us, true}, {0, 1e9 + 100*us, true}, {0, 1e9 + 5000*us, false}}},
		{"who is woken soon spins longer", WaitAuto, []look{
			{1, 1e9, false}, {0, 1e9 + 16*us, true}, {1, 1e9 + 46*us, false}, {0, 1e9 + 47*us, false}, {0, 1e9 + 60*us, false}, {0, 1e9 + 75*us, false}, {0, 1e9 + 77*us, true}}},
		{"and not for ever", WaitAuto, []look{
			{1, 1e9, false}, {0, 1e9 + 16*us, true}, {1, 1e9 + 46*us, false}, {0, 1e9 + 77*us, true}, {1, 1e9 + 2000*us, false}, {0, 1e9 + 2014*us, false}, {0, 1e9 + 2016*us, true}}},
		{"a stream is worth naps", WaitAuto, []look{
			{30, 1e9, false}, {flowFloor - 31, 1e9 + 1*us, false}, {1, 1e9 + 2*us, true}, {worthNap, 1e9 + 43*us, true}, {worthNap, 1e9 + 84*us, true}}},
		{"questions and answers are not", WaitAuto, []look{
			{30, 1e9, false}, {flowFloor - 30, 1e9 + 1*us, true}, {worthNap - 1, 1e9 + 42*us, false}, {1, 1e9 + 50*us, false}, {1, 1e9 + 60*us, false}}},
		{"but now and then it tries", WaitAuto, []look{
			{30, 1e9, false}, {flowFloor - 30, 1e9 + 1*us, true}, {1, 1e9 + 42*us, false},
			{1, 1e9 + 19_000*us, false}, {30, 1e9 + 19_001*us, false}, {flowFloor - 30, 1e9 + 19_002*us, false}, {1, 1e9 + 20_042*us, true}}},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{engine: func(c *Config) { c.Waiting = tt.mode }})
			for i, look := range tt.looks {
				l.w.begin(l.now)
				l.w.wake() // a sleep ends at once
				slept := l.w.sleep.wait(l.w, look.n, look.now)
				if got := l.w.asleep.Load(); got != look.parked || slept != look.parked {
					t.Errorf("look %d: parked %v, slept %v; want %v", i, got, slept, look.parked)
				}
			}
		})
	}
}
