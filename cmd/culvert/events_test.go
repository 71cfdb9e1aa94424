package main

import (
	"bytes"
	"context"
	"encoding/json"
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

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestEventsRefuseWhatCannotBe(t *testing.T) {
	for _, args := range [][]string{
		{"events", "--snapshot", "--cursor", "x"}, {"events", "--types", "OLD"}, {"events", "--about", "rules"},
	} {
		if stdout, stderr, code := culvert(t, args...); code != exitMisused || stdout != "" {
			t.Errorf("%q: status %d, stderr %q", args, code, stderr)
		}
	}
}
