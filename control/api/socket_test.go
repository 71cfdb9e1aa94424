package api

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen(path, "")
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
	second, err := Listen(path, "")
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

// A process that was killed goes on listening until its memory is given back: who starts
// the next one at once need not know.
func TestSocketOfAGatewayThatIsEndingIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert.sock")
	dying, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dying.SetUnlinkOnClose(false)
	ended := make(chan error, 1)
	go func() {
		conn, err := dying.Accept() // somebody wants to know
		if err == nil {
			err = errors.Join(dying.Close(), conn.Close())
		}
		ended <- err
	}()
	listen(t, path)
	if err := <-ended; err != nil {
		t.Error(err)
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
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "no socket") {
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
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "shorter") {
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

// TestSocketWithAGroupIsForItsMembers connects as other users: a member may, whoever
// is not a member may not.
func TestSocketWithAGroupIsForItsMembers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: only the own group can be had")
	}
	dir, err := os.MkdirTemp("", "culvert-group")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	gid := os.Getegid()
	if os.Geteuid() == 0 {
		gid = 4711 // nobody's, and in no list of groups
	}
	path := filepath.Join(dir, "culvert.sock")
	l, err := place(path, gid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o777 != 0o660 || int(st.Gid) != gid {
		t.Errorf("the socket has mode %o and group %d, want 660 and %d", st.Mode&0o777, st.Gid, gid)
	}
	if os.Geteuid() != 0 {
		return
	}
	alone, err := Listen(filepath.Join(dir, "alone.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { alone.Close() })
	for _, tt := range []struct {
		claim, path string
		group       int
		want        error
	}{
		{"a member of the group", path, gid, nil},
		{"somebody else", path, 4712, unix.EACCES},
		{"a member of the group, at a socket without one", filepath.Join(dir, "alone.sock"), gid, unix.EACCES},
	} {
		if err := connectAs(4713, tt.group, tt.path); !errors.Is(err, tt.want) {
			t.Errorf("%s connects: %v, want %v", tt.claim, err, tt.want)
		}
	}
}

// connectAs connects as another user, and ends the connection.
func connectAs(uid, gid int, path string) error {
	f, err := dialAs(uid, gid, path)
	if err != nil {
		return err
	}
	return f.Close()
}

// dialAs connects as another user, in a thread that ends with that.
func dialAs(uid, gid int, path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is spoilt
		result <- func() error {
			// Of this thread alone: package syscall would change all.
			if _, _, err := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); err != 0 {
				return err
			}
			if _, _, err := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); err != 0 {
				return err
			}
			if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); err != 0 {
				return err
			}
			return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}()
	}()
	if err := <-result; err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func TestUnknownGroupsAreSaid(t *testing.T) {
	dir := t.TempDir()
	if _, err := Listen(filepath.Join(dir, "culvert.sock"), "no-such-group"); err == nil || !strings.Contains(err.Error(), `"no-such-group"`) {
		t.Errorf("listen for a group that is not there: %v, want its name", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if gid, err := groupID("root"); gid != 0 || err != nil {
		t.Errorf("group root: %d, %v", gid, err)
	}
}
