//go:build netns

package flood

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the user has, at which rates: little enough for a machine that has to flood as well.
const (
	connections = 8
	chunk       = 4 << 10              // bytes that a connection sends at a time
	every       = 5 * time.Millisecond // and that often
	datagram    = 200                  // bytes
	large       = 3000                 // bytes, more than fit into a packet
	apart       = 20 * time.Millisecond
	patience    = 3 * time.Second // with a new connection: it may repeat what is lost
	atOnce      = time.Second     // how soon it has to be served to count
)

// serve has the server answer all that the user does.
func (s *lab) serve(t *testing.T) {
	t.Helper()
	tcp := func(addr, port string, handle func(net.Conn)) {
		ln, err := s.server.Listen("tcp", net.JoinHostPort(addr, port))
		must(t, err)
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					handle(c)
				}()
			}
		}()
	}
	tcp(server, "7", func(c net.Conn) { _, _ = io.Copy(c, c) }) // until the user has gone
	for _, addr := range []string{server, server6} {
		tcp(addr, "13", func(c net.Conn) { fmt.Fprintln(c, "hello") })
	}
	web, err := s.user.Listen("tcp", self+":80") // what the forwarded port leads to
	must(t, err)
	t.Cleanup(func() { web.Close() })
	echo, err := s.server.ListenPacket("udp4", server+":7")
	must(t, err)
	t.Cleanup(func() { echo.Close() })
	go func() {
		for b := make([]byte, 4096); ; {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(b[:n], from) // what is lost is not counted
		}
	}()
}

// user is what one does who has nothing to do with the flood.
type user struct {
	s *lab

	bytes, small, fragmented atomic.Int64 // that came back
	begun                    atomic.Int64 // new connections

	mu    sync.Mutex
	tried []attempt // new connections, by when they began
	wrong []error   // what must not happen at all
}

// attempt is a new connection.
type attempt struct {
	began time.Time
	took  time.Duration // 0: it was not served
}

// begin has the user begin; it ends with ctx, and done is empty when all of it has.
func (s *lab) use(ctx context.Context, t *testing.T, done *sync.WaitGroup) *user {
	t.Helper()
	u := &user{s: s}
	for range connections {
		c, err := s.user.Dial(ctx, "tcp", server+":7")
		must(t, err)
		done.Go(func() { u.talk(ctx, c) })
		done.Go(func() { u.listen(c) })
	}
	for _, kind := range []struct {
		size  int
		count *atomic.Int64
	}{{datagram, &u.small}, {large, &u.fragmented}} {
		c, err := s.user.Dial(ctx, "udp4", server+":7")
		must(t, err)
		must(t, fragmentAlways(c))
		done.Go(func() { u.ask(ctx, c, kind.size) })
		done.Go(func() { u.hear(c, kind.size, kind.count) })
	}
	done.Go(func() { u.connect(ctx, done) })
	return u
}

// fragmentAlways lets the kernel send datagrams in fragments that are longer than a packet.
func fragmentAlways(c net.Conn) error {
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	})
	return errors.Join(err, set)
}

func (u *user) complain(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wrong = append(u.wrong, err)
}

// steadily calls f again and again until ctx ends or f says so: as often as it should, also
// when the machine was busy with something else for a while.
func steadily(ctx context.Context, f func() bool) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	for n := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for ; n*every < time.Since(began); n++ {
			if !f() {
				return
			}
		}
	}
}

// talk sends on a connection until ctx ends.
func (u *user) talk(ctx context.Context, c net.Conn) {
	defer c.Close()
	b := make([]byte, chunk)
	steadily(ctx, func() bool {
		if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			u.complain(err)
			return false
		}
		if _, err := c.Write(b); err != nil && ctx.Err() == nil {
			u.complain(fmt.Errorf("a connection that lived before the flood: %w", err))
			return false
		}
		return true
	})
}

// listen counts what comes back on a connection.
func (u *user) listen(c net.Conn) {
	for b := make([]byte, 64<<10); ; {
		n, err := c.Read(b)
		u.bytes.Add(int64(n))
		if err != nil {
			return // it is the user that ends it, or talk complains
		}
	}
}

// ask sends datagrams until ctx ends.
func (u *user) ask(ctx context.Context, c net.Conn, size int) {
	defer c.Close()
	b := make([]byte, size)
	steadily(ctx, func() bool {
		_, _ = c.Write(b) // what is lost does not come back
		return true
	})
}

func (u *user) hear(c net.Conn, size int, count *atomic.Int64) {
	for b := make([]byte, 4096); ; {
		n, err := c.Read(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil && n == size:
			count.Add(1)
		}
	}
}

// connect opens connections, over both families in turns, until ctx ends.
func (u *user) connect(ctx context.Context, done *sync.WaitGroup) {
	tick := time.NewTicker(apart)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			began, to := time.Now(), server
			if u.begun.Add(1)%2 == 0 {
				to = server6
			}
			done.Go(func() { u.once(began, to) })
		}
	}
}

func (u *user) once(began time.Time, to string) {
	a := attempt{began: began}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c, err := u.s.user.Dial(ctx, "tcp", net.JoinHostPort(to, "13")); err == nil {
		_ = c.SetDeadline(a.began.Add(patience)) // then it reads nothing
		if text, err := io.ReadAll(c); err == nil && string(text) == "hello\n" {
			a.took = time.Since(a.began)
		}
		c.Close()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tried = append(u.tried, a)
}

// mark is how far the user has come.
type mark struct {
	at                              time.Time
	bytes, small, fragmented, begun int64
}

func (u *user) mark() mark {
	return mark{time.Now(), u.bytes.Load(), u.small.Load(), u.fragmented.Load(), u.begun.Load()}
}

// over reports whether the connections are over that had begun at a mark.
func (u *user) over(m mark) bool {
	n := int64(0)
	for _, a := range u.attempts() {
		if a.began.Before(m.at) {
			n++
		}
	}
	return n >= m.begun
}

// got is what the user got in some time: rates, and the new connections.
type got struct {
	bytes, small, fragmented float64 // a second
	served                   float64 // share of new connections that were served at once
	median                   time.Duration
}

// between returns what the user got between two marks.
func (u *user) between(from, to mark) (g got) {
	s := to.at.Sub(from.at).Seconds()
	g.bytes, g.small, g.fragmented = float64(to.bytes-from.bytes)/s, float64(to.small-from.small)/s, float64(to.fragmented-from.fragmented)/s
	var took []time.Duration
	n := 0
	for _, a := range u.attempts() {
		if a.began.Before(from.at) || a.began.After(to.at) {
			continue
		}
		if n++; a.took != 0 && a.took <= atOnce {
			took = append(took, a.took)
		}
	}
	if n > 0 && len(took) > 0 {
		slices.Sort(took)
		g.served, g.median = float64(len(took))/float64(n), took[len(took)/2]
	}
	return g
}

// attempts returns the new connections that are over, by when they began.
func (u *user) attempts() []attempt {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := slices.Clone(u.tried)
	slices.SortFunc(all, func(a, b attempt) int { return a.began.Compare(b.began) })
	return all
}

// recovered returns how long after a time new connections began to be served fast, ten of
// them one after the other.
func (u *user) recovered(since time.Time, fast time.Duration) (time.Duration, bool) {
	n := 0
	var first time.Time
	for _, a := range u.attempts() {
		switch {
		case a.began.Before(since):
		case a.took == 0 || a.took > fast:
			n = 0
		default:
			if n++; n == 1 {
				first = a.began
			}
			if n == 10 {
				return first.Sub(since), true
			}
		}
	}
	return 0, false
}
