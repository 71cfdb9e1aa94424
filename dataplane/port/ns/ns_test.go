package ns

import (
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOwnNamespaceNeedsNoThread(t *testing.T) {
	want := errors.New("from f")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, during := unix.Gettid(), 0
	err := Do("", func() error { during = unix.Gettid(); return want })
	if err != want || during != before {
		t.Errorf("error %v on thread %d, want %v on the caller's, %d", err, during, want, before)
	}
}

func TestMissingNamespaceIsNamed(t *testing.T) {
	called := false
	err := Do("culvert-missing", func() error { called = true; return nil })
	if called || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"culvert-missing"`) {
		t.Errorf("called %v, error %v", called, err)
	}
}

func TestNamesWithASlashArePaths(t *testing.T) {
	for name, want := range map[string]string{"lab": "/run/netns/lab", "/proc/1/ns/net": "/proc/1/ns/net"} {
		if got := Path(name); got != want {
			t.Errorf("Path(%q) = %q, want %q", name, got, want)
		}
	}
}
