package api

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestSocketIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "culvert.sock")
	listen(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the control socket is %o, want 600", got)
	}
}

func TestSocketOfALiveGatewayIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert.sock")
	listen(t, path)
	second, err := Listen(path)
	if !errors.Is(err, ErrSocketInUse) {
		t.Errorf("second listener: %v, want %v", err, ErrSocketInUse)
	}
	if err == nil {
		second.Close()
	}
	if conn, err := dial(context.Background(), path); err != nil {
		t.Errorf("first listener after the refusal: %v", err)
	} else {
		conn.Close()
	}
}

func TestSocketOfADeadGatewayIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as kill -9 leaves it
	dead.Close()
	if _, err := dial(context.Background(), path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dial to a dead gateway: %v, want %v", err, ErrNotRunning)
	}
	listen(t, path)
	conn, err := dial(context.Background(), path)
	if err != nil {
		t.Fatalf("dial after the replacement: %v", err)
	}
	conn.Close()
}

func TestForeignFileIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("listen over a file: %v, want a refusal", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
		t.Errorf("the file holds %q, %v after the refusal", got, err)
	}
}

func TestCloseRemovesOnlyItsOwnSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert.sock")
	first := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	listen(t, path)
	first.Close()
	conn, err := dial(context.Background(), path)
	if err != nil {
		t.Fatalf("the second gateway's socket after the first closed: %v", err)
	}
	conn.Close()
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	listen(t, filepath.Join(dir, "culvert.sock")).Close()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTooLongPathSaysSo(t *testing.T) {
	path := "/tmp/" + strings.Repeat("x", 120) + ".sock"
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("listen on a path of %d bytes: %v, want advice", len(path), err)
	}
}

func TestForeignLockOfTheDirectoryDelaysOnly(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	listen(t, filepath.Join(dir, "culvert.sock"))
}
