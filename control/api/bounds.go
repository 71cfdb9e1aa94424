package api

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of connections.
const (
	localRoom   = 256 // by default to the socket: each stream has one
	remoteRate  = 20  // new ones to the TCP listener, a second
	remoteBurst = 40
)

// bounded is a listener that closes the connections beyond its bounds at once, so that
// those within never wait for others to go.
type bounded struct {
	net.Listener
	limit   int64
	rate    *bucket // nil: none
	refusal string  // written to whom there is no room for; empty: nothing
	open    atomic.Int64
	refused *atomic.Uint64
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if b.open.Add(1) <= b.limit && (b.rate == nil || b.rate.take(time.Now())) {
			return &counted{Conn: c, open: &b.open}, nil
		}
		b.open.Add(-1)
		b.refused.Add(1)
		if b.refusal != "" { // an error: it does not listen to us either
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write([]byte(b.refusal))
		}
		c.Close()
	}
}

// counted is a connection that bounded knows to be open.
type counted struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// bucket holds tokens that come at a rate up to a burst. It is for one goroutine.
type bucket struct {
	rate, burst float64 // tokens a second, tokens
	tokens      float64
	last        time.Time
}

func newBucket(rate, burst float64) *bucket { return &bucket{rate: rate, burst: burst, tokens: burst} }

// take takes a token and reports whether there was one.
func (b *bucket) take(now time.Time) bool {
	if !b.last.IsZero() {
		b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.last).Seconds())
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// busyAnswer is what a connection to the socket beyond the most there may be gets.
func busyAnswer(most int) string {
	text := fmt.Sprintf(`{"error":"%v: there are %d already; close some","code":"busy"}`+"\n", errBusy, most)
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable), mediaTypeJSON, len(text), text)
}
