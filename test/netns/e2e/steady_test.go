//go:build netns

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// Steady traffic, while something else happens: of each family a series of numbered
// datagrams that are echoed, and a connection that moves data both ways and compares
// the sums of both ends.
const (
	streamPort   = 7060
	transferPort = 7061
	streamRate   = 1000    // datagrams a second
	streamBurst  = 8       // sent at once at most: what a pause of the test has kept back is not caught up with
	streamFit    = 100     // datagrams in a row that arrive where all is well
	streamRoom   = 8 << 20 // bytes a receiver's socket holds while the test has no processor
	roundSize    = 128 << 10
	roundEvery   = 20 * time.Millisecond
)

// steadily is traffic that goes on until settle.
type steadily struct {
	*house
	disk      string // where the gateway writes logs
	read      int    // of the gateway's log
	streams   []*series
	transfers []*transfers
}

// goOn starts the traffic between the first host and the server. Datagrams have so
// many bytes.
func (h *house) goOn(t *testing.T, size int) *steadily {
	t.Helper()
	s := &steadily{house: h}
	if h.gw.Kind() == netns.Culvert {
		s.read = len(h.gw.Process().Output())
	}
	for _, f := range families {
		s.streams = append(s.streams, startSeries(t, h.first, h.server, f, size))
		s.transfers = append(s.transfers, startTransfers(t, h.first, f))
	}
	for _, x := range s.streams {
		until(t, x.f.name+": datagrams are echoed", x.fit)
	}
	return s
}

// serveTransfers lets goOn's connections be made, until the test ends.
func (h *house) serveTransfers(t *testing.T) {
	t.Helper()
	for _, f := range families {
		serveTCP(t, h.server, at(f.server, transferPort), bulkService)
	}
}

// recover waits until datagrams arrive without gaps again.
func (s *steadily) recover(t *testing.T) {
	t.Helper()
	for _, x := range s.streams {
		x.resume()
		until(t, x.f.name+": datagrams are echoed again", x.fit)
	}
}

// series is a sender of numbered datagrams and the books about them.
type series struct {
	f          *family
	near, far  *net.UDPConn
	quit, done chan struct{}

	mu       sync.Mutex // guards the rest
	reached  []bool     // the server, by number
	answered []bool     // at the client, by number
	since    int        // number that was sent when resume was called
}

// startSeries returns when the first datagram was sent.
func startSeries(t *testing.T, client, server *netns.Host, f *family, size int) *series {
	t.Helper()
	x := &series{f: f, near: roomy(t, client, at(f.first, 0)), far: roomy(t, server, at(f.server, streamPort)),
		quit: make(chan struct{}), done: make(chan struct{})}
	go x.echo()
	go x.listen()
	go x.send(size)
	t.Cleanup(x.stop)
	return x
}

// roomy opens a socket that loses nothing while the test has no processor.
func roomy(t *testing.T, host *netns.Host, on netip.AddrPort) *net.UDPConn {
	t.Helper()
	c := bindUDP(t, host, on).UDPConn
	raw, err := c.SyscallConn()
	must(t, err)
	var set error
	must(t, raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, streamRoom) }))
	must(t, set)
	return c
}

// send sends at streamRate until stop.
func (x *series) send(size int) {
	defer close(x.done)
	tick := time.NewTicker(time.Second / streamRate)
	defer tick.Stop()
	payload := make([]byte, max(size, 4))
	due, last := 0.0, time.Now()
	for {
		select {
		case now := <-tick.C:
			due = min(due+now.Sub(last).Seconds()*streamRate, streamBurst)
			last = now
		case <-x.quit:
			return
		}
		for ; due >= 1; due-- {
			x.mu.Lock()
			n := len(x.reached)
			x.reached, x.answered = append(x.reached, false), append(x.answered, false)
			x.mu.Unlock()
			binary.BigEndian.PutUint32(payload, uint32(n))
			if _, err := x.near.WriteToUDPAddrPort(payload, at(x.f.server, streamPort)); err != nil {
				x.unsent(n)
			}
		}
	}
}

// unsent takes back the number of a datagram that the client's own kernel refused.
func (x *series) unsent(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reached, x.answered = x.reached[:n], x.answered[:n]
}

// echo is the server: it returns the numbers.
func (x *series) echo() {
	x.read(x.far, func(n int, from netip.AddrPort) {
		if n < len(x.reached) {
			x.reached[n] = true
		}
		_, _ = x.far.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, uint32(n)), from)
	})
}

func (x *series) listen() {
	x.read(x.near, func(n int, _ netip.AddrPort) {
		if n < len(x.answered) {
			x.answered[n] = true
		}
	})
}

// read calls take with each number that comes, until the socket is closed.
func (x *series) read(c *net.UDPConn, take func(n int, from netip.AddrPort)) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 4 { // an ICMP error about an earlier one
			continue
		}
		x.mu.Lock()
		take(int(binary.BigEndian.Uint32(buf)), from)
		x.mu.Unlock()
	}
}

// resume has fit look at nothing that was sent before.
func (x *series) resume() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.since = len(x.answered)
}

// fit reports whether, since resume, streamFit datagrams in a row were answered.
func (x *series) fit() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	row := 0
	for _, ok := range x.answered[x.since:] {
		if row++; !ok {
			row = 0
		}
		if row == streamFit {
			return true
		}
	}
	return false
}

// stop ends the sender. More calls do nothing.
func (x *series) stop() {
	x.mu.Lock()
	select {
	case <-x.quit:
	default:
		close(x.quit)
	}
	x.mu.Unlock()
	<-x.done
}

// toll is what became of a series.
type toll struct {
	sent    int
	there   int // were lost on their way to the server
	back    int // their answers were
	longest int // in a row without an answer
}

func (l toll) lost() int { return l.there + l.back }

func (l toll) String() string {
	return fmt.Sprintf("%d sent, %d lost on the way there and %d on the way back, %d in a row", l.sent, l.there, l.back, l.longest)
}

// settle ends the series and counts. Datagrams must arrive again: the answer to one of
// the last says that nothing is on its way any more.
func (x *series) settle(t *testing.T) (l toll) {
	t.Helper()
	x.stop()
	until(t, x.f.name+": the last datagrams are echoed", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return slices.Contains(x.answered[max(0, len(x.answered)-streamFit):], true) && x.quietLocked()
	})
	x.mu.Lock()
	defer x.mu.Unlock()
	l.sent = len(x.answered)
	row := 0
	for n, ok := range x.answered {
		if row++; ok {
			row = 0
		}
		l.longest = max(l.longest, row)
		switch {
		case !x.reached[n]:
			l.there++
		case !ok:
			l.back++
		}
	}
	return l
}

// quietLocked reports whether the last datagram is answered. x.mu must be held.
func (x *series) quietLocked() bool { return x.answered[len(x.answered)-1] }

// transfers is a connection in use.
type transfers struct {
	f          *family
	conn       net.Conn
	quit, done chan struct{}

	mu     sync.Mutex // guards the rest
	rounds int
	err    error
}

func startTransfers(t *testing.T, client *netns.Host, f *family) *transfers {
	t.Helper()
	x := &transfers{f: f, conn: dial(t, client, at(f.first, 0), at(f.server, transferPort)), quit: make(chan struct{}), done: make(chan struct{})}
	go x.run()
	t.Cleanup(x.stop)
	return x
}

func (x *transfers) run() {
	defer close(x.done)
	tick := time.NewTicker(roundEvery)
	defer tick.Stop()
	for {
		for _, way := range []byte{upload, download} {
			if err := transfer(x.conn, way, roundSize, patience); err != nil {
				x.mu.Lock()
				x.err = err
				x.mu.Unlock()
				return
			}
		}
		x.mu.Lock()
		x.rounds++
		x.mu.Unlock()
		select {
		case <-tick.C:
		case <-x.quit:
			return
		}
	}
}

func (x *transfers) state() (rounds int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rounds, x.err
}

// goesOn waits for a round that began after the call.
func (x *transfers) goesOn(t *testing.T) {
	t.Helper()
	before, _ := x.state()
	until(t, x.f.name+": the connection moves data", func() bool {
		rounds, err := x.state()
		if err != nil {
			t.Fatalf("%s: the connection that was open all the time: %v", x.f.name, err)
		}
		return rounds >= before+2
	})
}

// ended waits until the connection has ended, which has to be with notice.
func (x *transfers) ended(t *testing.T) {
	t.Helper()
	<-x.done
	if _, err := x.state(); err == nil || strings.Contains(err.Error(), "timeout") || errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("%s: the connection ends with %v, want notice", x.f.name, err)
	}
}

func (x *transfers) stop() {
	x.mu.Lock()
	select {
	case <-x.quit:
	default:
		close(x.quit)
	}
	x.mu.Unlock()
	x.conn.Close()
	<-x.done
}
