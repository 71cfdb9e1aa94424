package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"example.com/culvert/control/api"
)

// TestLostEventsAreToldOnStandardError: JSON has them, too.
func TestLostEventsAreToldOnStandardError(t *testing.T) {
	const stream = `{"seq":1,"type":"NEW"}` + "\n" + `{"seq":4,"type":"MISSED","missed":3}` + "\n"
	var out, notes bytes.Buffer
	if err := copyEvents(&out, &notes, strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if out.String() != stream || notes.String() != "culvert: 3 events lost: read faster, or raise memory in [events]\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), notes.String())
	}
	out.Reset()
	notes.Reset()
	text := "    [NEW] udp\n" + api.MissedPrefix + "3\n" + api.RestartedPrefix + "\n"
	n, err := copyLines(&out, &notes, strings.NewReader(text), "")
	if err != nil || n != 1 || !strings.Contains(notes.String(), "We are losing events") || !strings.Contains(notes.String(), "3 events lost") ||
		!strings.Contains(notes.String(), "began anew") {
		t.Errorf("%d lines, %v, stderr %q", n, err, notes.String())
	}
}

// TestEventsBeginWithAList: the stream of a gateway without flows begins with READY.
func TestEventsBeginWithAList(t *testing.T) {
	g := runGateway(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := make(chan []byte, 100)
	var stderr bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- execute(ctx, []string{"events", "--snapshot", "-o", "json", "--socket", g.socket}, writerFunc(func(p []byte) (int, error) {
			first <- bytes.Clone(p)
			return len(p), nil
		}), &stderr)
	}()
	var e api.Event
	if err := json.Unmarshal(<-first, &e); err != nil || e.Type != api.EventReady || e.Cursor == "" {
		t.Errorf("first line %+v, %v", e, err)
	}
	cancel()
	if code := <-done; code != exitDone {
		t.Errorf("status %d after an interrupt, stderr %q", code, stderr.String())
	}
}

// TestEventsTakeTheFilterOfConntrack: flows that are listed, and those that begin, are
// those that it wants; what expectations do not have is refused beside them.
func TestEventsTakeTheFilterOfConntrack(t *testing.T) {
	g := runGateway(t)
	begin := func(port, to uint16) {
		if !g.pass(t, g.lan, g.wan, "10.0.0.5", port, "203.0.113.9", to) {
			t.Fatalf("no packet to port %d goes out", to)
		}
	}
	begin(40000, 53)
	begin(40001, 123)
	lines := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan int, 1)
	go func() {
		args := []string{"events", "--snapshot", "--types", "NEW", "-o", "json", "--socket", g.socket, "--", "-p", "udp", "--dport", "123"}
		done <- execute(ctx, args, writerFunc(func(p []byte) (int, error) {
			for line := range strings.Lines(string(p)) {
				lines <- line
			}
			return len(p), nil
		}), io.Discard)
	}()
	for _, want := range []struct {
		typ  string
		port uint16
	}{{api.EventListed, 40001}, {api.EventReady, 0}, {"NEW", 40003}} {
		var e api.Event
		if err := json.Unmarshal([]byte(<-lines), &e); err != nil || e.Type != want.typ || want.port != 0 && *e.Flow.Original.Sport != want.port {
			t.Errorf("%+v, %v; want %s of port %d", e, err, want.typ, want.port)
		}
		if want.typ == api.EventReady {
			begin(40002, 53)
			begin(40003, 123)
		}
	}
	cancel()
	if code := <-done; code != exitDone {
		t.Errorf("status %d after an interrupt", code)
	}
	stdout, stderr, code := culvert(t, "events", "--about", "all", "--socket", g.socket, "--", "-p", "tcp", "--state", "ESTABLISHED")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "expectations have original, zone and helper alone") {
		t.Errorf("a state of expectations: status %d, %q, %q", code, stdout, stderr)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestEventsRefuseWhatCannotBe(t *testing.T) {
	for _, args := range [][]string{
		{"events", "--snapshot", "--cursor", "x"}, {"events", "--types", "OLD"}, {"events", "--about", "rules"},
		{"events", "tcp"}, {"events", "--", "-p", "tpc"}, {"events", "--", "-D"}, {"events", "--", "-o", "xml"}, {"events", "--", "-z"},
		{"events", "--", "-u", "SRC_NAT"},
	} {
		if stdout, stderr, code := culvert(t, args...); code != exitMisused || stdout != "" {
			t.Errorf("%q: status %d, stderr %q", args, code, stderr)
		}
	}
}
