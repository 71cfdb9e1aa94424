//go:build netns

package wire

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// socket opens a UDP socket of a host that blocks, at most for a second.
func (b *bed) socket(host *netns.Host, at *unix.SockaddrInet4) (fd int) {
	b.Helper()
	b.must(host.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
			return err
		}
		return unix.Bind(fd, at)
	}))
	return fd
}

// echo has the server answer until stopped.
func (b *bed) echo() (stop func()) {
	fd := b.socket(b.lab.Host("server"), &unix.SockaddrInet4{Port: echoService, Addr: server.As4()})
	var running sync.WaitGroup
	var end atomic.Bool
	running.Go(func() {
		runtime.LockOSThread()
		buf := make([]byte, 64)
		for !end.Load() {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err == nil {
				_ = unix.Sendto(fd, buf[:n], 0, from)
			}
		}
	})
	return func() {
		end.Store(true)
		running.Wait()
		_ = unix.Close(fd)
	}
}

// times are how long requests took, sorted, and how many had no answer.
type times struct {
	all  []time.Duration
	lost int
}

// at returns the time within which a share of the requests were answered.
func (t *times) at(share float64) float64 {
	return float64(t.all[int(share*float64(len(t.all)-1))]) / 1e3
}

// exchange sends one request after the other for a while.
func (b *bed) exchange(lasts time.Duration) *times {
	b.Helper()
	fd := b.socket(b.lab.Host("client"), &unix.SockaddrInet4{Addr: client.As4()})
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	to := &unix.SockaddrInet4{Port: echoService, Addr: server.As4()}
	buf := make([]byte, 64)
	t := &times{}
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		began := time.Now()
		b.must(unix.Sendto(fd, buf[:1], 0, to))
		if _, _, err := unix.Recvfrom(fd, buf, 0); err != nil {
			t.lost++
			continue
		}
		t.all = append(t.all, time.Since(began))
	}
	if len(t.all) == 0 {
		b.Fatalf("none of %d requests was answered", t.lost)
	}
	slices.Sort(t.all)
	return t
}
