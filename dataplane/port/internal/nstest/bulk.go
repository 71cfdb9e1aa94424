//go:build netns

package nstest

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"example.com/culvert/dataplane/port/ns"
)

// limit bounds every wait of a transfer.
const limit = 60 * time.Second

// Transfer sends size bytes over TCP from a host in namespace from to one in
// namespace to, which listens on address, and compares checksums. It returns the rate in Gbit/s.
func Transfer(t testing.TB, from, to, address string, size int) float64 {
	t.Helper()
	var l net.Listener
	Do(t, to, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	defer l.Close()
	got := make(chan result, 1)
	go func() { got <- receive(l) }()
	var c net.Conn
	Do(t, from, func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		return err
	})
	defer c.Close()
	start := time.Now()
	c.SetDeadline(start.Add(limit))
	want := sha256.New()
	if err := produce(io.MultiWriter(c, want), size); err != nil {
		t.Fatalf("send to %s: %v", address, err)
	}
	c.(*net.TCPConn).CloseWrite()
	r := <-got
	took := time.Since(start)
	if r.err != nil {
		t.Fatalf("receive on %s: %v", address, r.err)
	}
	if r.n != int64(size) || string(r.sum.Sum(nil)) != string(want.Sum(nil)) {
		t.Fatalf("%s: %d of %d bytes arrived, checksums differ", address, r.n, size)
	}
	return float64(size) * 8 / took.Seconds() / 1e9
}

type result struct {
	n   int64
	sum hash.Hash
	err error
}

func receive(l net.Listener) result {
	c, err := l.Accept()
	if err != nil {
		return result{err: err}
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	r := result{sum: sha256.New()}
	r.n, r.err = io.CopyBuffer(struct{ io.Writer }{r.sum}, struct{ io.Reader }{c}, make([]byte, 1<<18))
	return r
}

func produce(w io.Writer, size int) error {
	block := make([]byte, 1<<18)
	r := rand.NewChaCha8([32]byte{'b', 'u', 'l', 'k'})
	r.Read(block)
	for i := 0; size > 0; i++ {
		block[i%len(block)]++ // no two blocks are alike
		n := min(size, len(block))
		if _, err := w.Write(block[:n]); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// Socket returns a UDP socket of a host in namespace, bound to address.
func Socket(t testing.TB, namespace, address string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	Do(t, namespace, func() (err error) {
		c, err = net.ListenPacket("udp", net.JoinHostPort(address, "0"))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// Eventually waits until f reports true, at most ten seconds.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after 10 s: not yet %s", what)
		}
	}
}

// Dial tries a TCP connection from namespace and returns its error.
func Dial(namespace, address string, timeout time.Duration) error {
	return ns.Do(namespace, func() error {
		c, err := net.DialTimeout("tcp", address, timeout)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// TimedOut reports whether nobody answered.
func TimedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
