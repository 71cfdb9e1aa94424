package api

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
)

// rawServer is a server that the test shuts down itself.
func rawServer(t *testing.T) (*gateway, *Server, string) {
	t.Helper()
	table, err := conntrack.New(conntrack.Config{Max: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	g, path := &gateway{table: table}, filepath.Join(t.TempDir(), "culvert.sock")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(g, slog.New(slog.DiscardHandler), nil)
	go s.Serve(l)
	t.Cleanup(func() { s.http.Close() })
	return g, s, path
}

// say connects and sends text.
func say(t *testing.T, path, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return c
}

func request(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: culvert\r\n\r\n" }

func TestShutdownIsNotHeldUpByWhoDoesNotRead(t *testing.T) {
	g, s, path := rawServer(t)
	say(t, path, "")
	events := say(t, path, request("/v1/events"))
	if _, err := events.Read(make([]byte, 12)); err != nil { // the stream has begun
		t.Fatal(err)
	}
	for range 10 { // more than the socket holds
		for sport := range uint16(1000) {
			g.flow(t, 1000+sport)
		}
		g.table.Flush()
	}
	start := time.Now()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if d := time.Since(start); d > 4*time.Second { // net/http waits 5 s for a silent connection
		t.Errorf("shutdown took %v", d)
	}
}

func TestShutdownCutsOffWhatIsLeft(t *testing.T) {
	g, s, path := rawServer(t)
	for sport := range uint16(1000) {
		g.flow(t, 1000+sport)
	}
	list := say(t, path, strings.Repeat(request("/v1/flows"), 50))
	if _, err := list.Read(make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v; a reader that does not read is no failure of ours", err)
	}
}
