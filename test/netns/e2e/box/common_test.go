//go:build netns

package box

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/culvert/internal/await"
	"example.com/culvert/test/netns"
)

// TestMain builds the gateway once for all labs.
func TestMain(m *testing.M) { os.Exit(withBinary(m.Run)) }

// withBinary runs the tests with netns.BinaryEnv set.
func withBinary(run func() int) int {
	dir, err := os.MkdirTemp("", "culvert-box-")
	if err == nil {
		defer os.RemoveAll(dir)
		var path string
		if path, err = netns.Binary(context.Background(), dir); err == nil {
			err = os.Setenv(netns.BinaryEnv, path)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

// must ends the test when something that is not its subject goes wrong.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	patience  = 20 * time.Second      // for what a loaded machine does in a moment
	pollEvery = 10 * time.Millisecond // between two looks at a condition
)

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	await.Until(t, what, cond)
}

// serveHTTP answers every request on a host with the address that it sees, until
// the test ends.
func serveHTTP(t *testing.T, h *netns.Host, address string) {
	t.Helper()
	ln, err := h.Listen("tcp", address)
	must(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _, _ := net.SplitHostPort(r.RemoteAddr)
		io.WriteString(w, peer)
	})}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
}

// fetch gets a page from inside a host on a connection of its own.
func fetch(ctx context.Context, h *netns.Host, url string) (string, error) {
	transport := &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("GET %s: %s", url, answer.Status))
	}
	return string(body), err
}

// seenAs checks which source address a server (serveHTTP) sees.
func seenAs(t *testing.T, h *netns.Host, url, want string) {
	t.Helper()
	got, err := fetch(t.Context(), h, url)
	if err != nil {
		t.Errorf("%s: GET %s: %v", h.Name(), url, err)
	} else if got != want {
		t.Errorf("%s: GET %s: the server sees %s, want %s", h.Name(), url, got, want)
	}
}

// exec runs a command in a host and returns what it prints.
func exec(t *testing.T, h *netns.Host, args ...string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), args...)
	must(t, err)
	return strings.TrimSpace(out)
}

// silence is how long a test waits for what must not come. Whatever answers at
// all answers within microseconds here.
const silence = 300 * time.Millisecond

// unheard checks that a connection to an address gets no answer at all.
func unheard(t *testing.T, h *netns.Host, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", address)
	if err == nil {
		c.Close()
	}
	if !os.IsTimeout(err) {
		t.Errorf("%s: connecting to %s: %v, want silence", h.Name(), address, err)
	}
}

// refused checks that a connection to an address is reset.
func refused(t *testing.T, h *netns.Host, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", address)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s: connecting to %s: %v, want %v", h.Name(), address, err, syscall.ECONNREFUSED)
	}
}

// echo lets every connection to an address of a host have back what it sends,
// until the test ends.
func echo(t *testing.T, h *netns.Host, address string) {
	t.Helper()
	ln, err := h.Listen("tcp", address)
	must(t, err)
	echoOn(t, ln)
}

// echoOn returns to every client of a listener what it says.
func echoOn(t *testing.T, ln net.Listener) {
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// dial connects from inside a host until the test ends.
func dial(t *testing.T, h *netns.Host, from, to string) net.Conn {
	t.Helper()
	var local net.Addr
	if from != "" {
		local = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := h.DialFrom(ctx, local, "tcp", to)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// alive checks that what is said on a connection to echo comes back.
func alive(t *testing.T, c net.Conn) {
	t.Helper()
	const word = "still there?"
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(c, word)
	must(t, err)
	answer := make([]byte, len(word))
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != word {
		t.Errorf("%v to %v: the answer to %q is %q, %v", c.LocalAddr(), c.RemoteAddr(), word, answer, err)
	}
}

// bulk sends n bytes to an echo service and compares what comes back, so that both
// directions are busy.
func bulk(t *testing.T, c net.Conn, n int64) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(2*patience)))
	sent, got := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(c, sent), rand.NewChaCha8([32]byte{1}), n)
		failed <- err
	}()
	_, err := io.CopyN(got, c, n)
	must(t, err)
	must(t, <-failed)
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%v to %v: %d bytes came back changed", c.LocalAddr(), c.RemoteAddr(), n)
	}
}
