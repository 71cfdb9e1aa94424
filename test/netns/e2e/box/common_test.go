//go:build netns

package box

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

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

// eventually waits for a condition; what says what was waited for.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		wait := time.NewTimer(pollEvery)
		<-wait.C
	}
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
