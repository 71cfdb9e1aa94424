package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/control/api"
)

// pty is a terminal whose user is a test.
type pty struct {
	user, term *os.File

	mu   sync.Mutex // guards seen
	seen strings.Builder
}

func newPTY(t *testing.T) *pty {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	term, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{user: user, term: term}
	p.size(t, 100, 30)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := user.Read(b)
			p.mu.Lock()
			p.seen.Write(b[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { term.Close(); user.Close() })
	return p
}

func (p *pty) size(t *testing.T, columns, lines uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(p.user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}); err != nil {
		t.Fatal(err)
	}
}

func (p *pty) modes(t *testing.T) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(p.term.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func (p *pty) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// wants waits until what came since the last call has a text, and forgets it.
func (p *pty) wants(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.text(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the terminal does not show %q but\n%q", text, p.text())
		}
	}
	p.mu.Lock()
	p.seen.Reset()
	p.mu.Unlock()
}

func (p *pty) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := p.user.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// startTop runs culvert top on a terminal and returns how it ended.
func startTop(t *testing.T, ctx context.Context) (*pty, <-chan error) {
	t.Helper()
	socket, _ := topGateway(t)
	p, ended := newPTY(t), make(chan error, 1)
	go func() {
		client := connect(whereabouts{socket: socket})
		defer client.Close()
		ended <- liveTop(ctx, client, api.TopRequest{View: api.ViewFlows}, p.term, p.term)
	}()
	return p, ended
}

// wantRestored checks that the terminal is as it was.
func (p *pty) wantRestored(t *testing.T, before unix.Termios) {
	t.Helper()
	if after := p.modes(t); after != before {
		t.Errorf("modes %+v, were %+v", after, before)
	}
	p.wants(t, screenLeave)
}

func TestTopOnATerminalFollowsItsKeys(t *testing.T) {
	p := newPTY(t)
	before := p.modes(t)
	p, ended := startTop(t, t.Context())
	p.wants(t, screenEnter)
	p.wants(t, "10.0.0.5:40000 > 198.51.100.7:443")
	if m := p.modes(t); m.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("modes %+v: keys wait for a line, or are shown", m)
	}
	p.press(t, "t")
	p.wants(t, "2001:db8:0:1::/64 in zone 7")
	p.press(t, "r")
	p.wants(t, "out-area wan masquerade")
	p.press(t, "d")
	p.wants(t, "rule-denied")
	p.press(t, "p")
	p.wants(t, "14m0s")
	p.press(t, "\x1b[A\x00x") // keys that do nothing
	p.press(t, " ")
	p.wants(t, "PAUSED")
	p.press(t, "s") // by another order; it goes on
	p.wants(t, "looking")
	p.wants(t, "203.0.113.2")
	p.press(t, "q")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.wantRestored(t, before)
}

// shownEnd is lineEnd as the terminal shows it.
const shownEnd = "\x1b[K\r\n"

func TestTopFitsTheTerminal(t *testing.T) {
	p, ended := startTop(t, t.Context())
	p.wants(t, "FLOW")
	p.size(t, 30, 6)
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	short := keyHelp[:30]
	p.wants(t, "\x1b[6;1H"+short+"\x1b[K")
	p.wants(t, "\x1b[6;1H") // one more screen, whole
	for deadline := time.Now().Add(20 * time.Second); strings.Count(p.text(), screenHome) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no other screen comes")
		}
	}
	p.press(t, "q")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	_, screen, _ := strings.Cut(p.text(), screenHome)
	screen, _, _ = strings.Cut(screen, screenRest)
	lines := strings.Split(strings.TrimSuffix(screen, shownEnd), shownEnd)
	if len(lines) > 5 {
		t.Errorf("%d lines where 5 fit", len(lines))
	}
	for _, line := range lines {
		if line = strings.TrimSuffix(strings.TrimPrefix(line, boldOn), boldOff); len(line) > 30 {
			t.Errorf("line %q is longer than 30 columns", line)
		}
	}
}

func TestTheTerminalComesBackHoweverTopEnds(t *testing.T) {
	before := newPTY(t).modes(t)
	for _, tt := range []struct {
		claim string
		end   func(p *pty, cancel func())
	}{
		{"by ^C", func(p *pty, _ func()) { p.press(t, "\x03") }},
		{"by a signal", func(_ *pty, cancel func()) { cancel() }},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		p, ended := startTop(t, ctx)
		p.wants(t, "FLOW")
		tt.end(p, cancel)
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", tt.claim, err)
		}
		p.wantRestored(t, before)
		cancel()
	}

	p := newPTY(t)
	func() {
		defer func() { _ = recover() }()
		term, err := openTerminal(p.term, p.term)
		if err != nil {
			t.Fatal(err)
		}
		defer term.restore()
		panic("in the middle of it")
	}()
	p.wantRestored(t, before)

	client := connect(whereabouts{socket: t.TempDir() + "/none.sock"})
	if err := liveTop(t.Context(), client, api.TopRequest{View: api.ViewFlows}, p.term, p.term); err == nil {
		t.Error("without a gateway there is no error")
	}
	p.wantRestored(t, before)
}
