package api

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/internal/await"
)

func TestUpgradeTellsWhatTheNewProcessHas(t *testing.T) {
	_, client, _ := serve(t)
	if r, err := client.Upgrade(t.Context(), UpgradeRequest{}); err != nil || r.PID != 4711 || r.Flows != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := client.Upgrade(t.Context(), UpgradeRequest{Binary: "/nonexistent"}); !errors.Is(err, ErrRefused) {
		t.Errorf("an upgrade that was rolled back: %v, want %v", err, ErrRefused)
	}
}

// While requests are held, who only looks gets his answer, and who changes something
// waits: for an answer as if nothing had been, or for the news that another process does.
func TestHeldRequestsWaitForWhoGoesOn(t *testing.T) {
	for claim, tt := range map[string]struct {
		end  func(*Server)
		want error
	}{
		"rolled back": {(*Server).Let, nil},
		"handed over": {(*Server).Dismiss, ErrNotRunning},
	} {
		t.Run(claim, func(t *testing.T) {
			g, client, _ := serve(t)
			server := g.server
			g.flow(t, 40000)
			if err := server.Hold(); err != nil {
				t.Fatal(err)
			}
			if n, err := client.CountFlows(t.Context()); err != nil || n != 1 {
				t.Errorf("%d flows, %v; want 1", n, err)
			}
			answer := make(chan error, 1)
			go func() {
				_, err := client.FlushFlows(t.Context())
				answer <- err
			}()
			select {
			case err := <-answer:
				t.Fatalf("flows were flushed while requests are held: %v", err)
			case <-time.After(20 * time.Millisecond):
			}
			tt.end(server)
			if err := <-answer; !errors.Is(err, tt.want) {
				t.Errorf("the answer is %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRequestThatDoesNotEndKeepsOthersFromBeingHeld(t *testing.T) {
	g, _, _ := serve(t)
	server := g.server
	rt := route{pattern: "POST /v1/flows/delete", name: "deleteFlows"}
	done, err := server.pass(&rt, &http.Request{Method: http.MethodPost})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Hold(); !errors.Is(err, ErrUnderWay) {
		t.Errorf("%v, want %v", err, ErrUnderWay)
	}
	done()
	if err := server.Hold(); err != nil {
		t.Error(err)
	}
	server.Let()
}

// A connection that comes while both processes have the listener goes to the one that is
// not paused, and the socket file stays whoever closes first.
func TestListenerIsLeftToAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert.sock")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	old := NewPausable(l).(*Pausable)
	fd, inode, err := old.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := unix.FcntlInt(uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan string, 8)
	accept := func(l net.Listener, who string) {
		for {
			c, err := l.Accept()
			if err != nil {
				accepted <- who + " ended"
				return
			}
			c.Close()
			accepted <- who
		}
	}
	dial := func(want string) {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := <-accepted; got != want {
			t.Errorf("%s took the connection, want %s", got, want)
		}
	}
	go accept(old, "old")
	dial("old")
	if err := old.Pause(); err != nil {
		t.Fatal(err)
	}
	adopted, err := AdoptListener(theirs, path, inode)
	if err != nil {
		t.Fatal(err)
	}
	next := NewPausable(adopted).(*Pausable)
	go accept(next, "new")
	dial("new")
	if err := next.Pause(); err != nil { // rolled back
		t.Fatal(err)
	}
	if err := old.Resume(); err != nil {
		t.Fatal(err)
	}
	dial("old")
	if err := errors.Join(old.Pause(), next.Resume()); err != nil {
		t.Fatal(err)
	}
	old.Keep(true)
	next.Keep(false)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-accepted; got != "old ended" {
		t.Errorf("%s, want the old one to end", got)
	}
	dial("new")
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the file is gone", func() bool {
		_, err := os.Lstat(path)
		return errors.Is(err, os.ErrNotExist)
	})
}
