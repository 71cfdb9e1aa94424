package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Sweep removes what killed runs with this prefix left behind: namespaces with
// their processes and interfaces, and folders. Labs of living processes stay.
func Sweep(prefix string) error {
	var errs []error
	for _, dir := range []struct {
		path   string
		remove func(name string) error
	}{
		{runDir, removeNamespace},
		{os.TempDir(), func(name string) error { return os.RemoveAll(filepath.Join(os.TempDir(), name)) }},
	} {
		entries, err := os.ReadDir(dir.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if pid, ok := ownerOf(e.Name(), prefix); ok && !isAlive(pid) {
				errs = append(errs, dir.remove(e.Name()))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("leftovers of an earlier run: %w", err)
	}
	return nil
}

// ownerOf reads the pid out of PREFIX-PID-N or PREFIX-PID-N-HOST.
func ownerOf(name, prefix string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix+"-")
	if !ok {
		return 0, false
	}
	digits, rest, ok := strings.Cut(rest, "-")
	pid, err := strconv.Atoi(digits)
	if !ok || err != nil || pid <= 0 {
		return 0, false
	}
	n, _, _ := strings.Cut(rest, "-")
	_, err = strconv.ParseUint(n, 10, 32)
	return pid, err == nil
}

// isAlive reports whether a process runs. One that was killed and waits for its
// parent to notice does not.
func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// pid (comm) state ...; comm may hold anything, parentheses too.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// removeNamespace ends what still runs in a named namespace, deletes its
// interfaces (a socket that somebody forgot would keep both alive) and removes it.
func removeNamespace(name string) error {
	path := filepath.Join(runDir, name)
	var errs []error
	if fd, err := netns.GetFromPath(path); err == nil {
		errs = append(errs, killAll(path), deleteLinks(fd), fd.Close())
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// killAll kills every process whose main thread is in the namespace: daemons
// that left the process group of their starter.
func killAll(path string) error {
	var want unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		return err
	}
	procs, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err
	}
	for _, p := range procs {
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil || st.Ino != want.Ino || st.Dev != want.Dev {
			continue // gone meanwhile, or elsewhere
		}
		pid, err := strconv.Atoi(strings.Split(p, "/")[2])
		if err == nil && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return nil
}

// deleteLinks deletes the interfaces of a namespace. One end of a pair takes
// the other with it, so some may already be gone.
func deleteLinks(fd netns.NsHandle) error {
	nl, err := netlink.NewHandleAt(fd, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type() == "veth" || l.Type() == "bridge" || l.Type() == "tuntap" {
			_ = nl.LinkDel(l)
		}
	}
	return nil
}
