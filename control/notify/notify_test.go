package notify

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// manager listens as a service manager does and returns what it is sent.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestMessagesReachTheManager(t *testing.T) {
	for _, name := range []string{
		filepath.Join(t.TempDir(), "notify.sock"),
		"@culvert-notify-test-" + strconv.Itoa(os.Getpid()),
	} {
		conn := manager(t, name)
		t.Setenv("NOTIFY_SOCKET", name)
		n := FromEnvironment()
		for _, tt := range []struct {
			claim string
			send  func() error
			want  string
		}{
			{"ready carries a status line", func() error { return n.Ready("2 interfaces") }, "READY=1\nSTATUS=2 interfaces"},
			{"reloading carries the monotonic clock", n.Reloading, "RELOADING=1\nMONOTONIC_USEC="},
			{"watchdog is one line", n.Watchdog, "WATCHDOG=1"},
			{"stopping is one line", n.Stopping, "STOPPING=1"},
		} {
			if err := tt.send(); err != nil {
				t.Fatalf("%s: %v", tt.claim, err)
			}
			if got := receive(t, conn); !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s: manager at %s got %q, want %q", tt.claim, name, got, tt.want)
			}
		}
	}
}

func TestNoManagerIsNoError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := FromEnvironment().Ready("fine"); err != nil {
		t.Errorf("ready without a manager: %v", err)
	}
}

func TestDeadManagerIsAnErrorThatNamesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone.sock")
	err := To(path).Ready("fine")
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("ready to a dead manager: got %v, want an error naming %s", err, path)
	}
}

func TestWatchdogInterval(t *testing.T) {
	for _, tt := range []struct {
		claim     string
		usec, pid string
		want      time.Duration
	}{
		{"nobody asked", "", "", 0},
		{"half of what was asked", "3000000", "", 1500 * time.Millisecond},
		{"asked of this process", "3000000", strconv.Itoa(os.Getpid()), 1500 * time.Millisecond},
		{"asked of another process", "3000000", "1", 0},
		{"nonsense asks for nothing", "soon", "", 0},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if got := WatchdogInterval(); got != tt.want {
			t.Errorf("%s: interval %v, want %v", tt.claim, got, tt.want)
		}
	}
}

func TestManagerThatDoesNotReadHoldsUpNobodyForLong(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify.sock")
	manager(t, name)
	begun := time.Now()
	for range 1000 { // net.unix.max_dgram_qlen is 10, and seldom more
		err := To(name).Watchdog()
		if err == nil {
			continue
		}
		if took := time.Since(begun); !errors.Is(err, os.ErrDeadlineExceeded) || took > 10*patience {
			t.Errorf("%v after %v, want %v after %v", err, took, os.ErrDeadlineExceeded, patience)
		}
		return
	}
	t.Error("a thousand messages found room that nobody has read")
}
