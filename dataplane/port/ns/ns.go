// Package ns runs functions inside network namespaces.
//
// A namespace belongs to a thread. Do therefore uses a thread of its own, which
// dies afterwards: what a function left changed on it can reach nobody. What
// the function opens (sockets, TUN queues) stays in the namespace for good.
package ns

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where iproute2 keeps named namespaces.
const Dir = "/run/netns"

// Path returns the file of namespace name; a name with a slash is a path already
// (/proc/PID/ns/net).
func Path(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return filepath.Join(Dir, name)
}

// Do calls f on a thread inside the namespace called name, and returns its
// error. The empty name is the caller's own namespace: f is called at once.
// f must not start goroutines that rely on the namespace.
func Do(name string, f func() error) error {
	if name == "" {
		return f()
	}
	fd, err := unix.Open(Path(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network namespace %q: %w", name, err)
	}
	defer unix.Close(fd)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %q: %w", name, err)
			return
		}
		done <- f()
	}()
	return <-done
}
