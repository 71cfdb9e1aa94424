package own

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DefaultPinDir is where Hold keeps its links: one directory for each interface, named after the
// inode of its namespace and its index.
const DefaultPinDir = "/sys/fs/bpf/culvert"

// bpfRoot is where distributions mount the BPF file system.
const bpfRoot = "/sys/fs/bpf"

// fresh is the suffix of a pin that is about to replace another. (Names with a dot are
// refused by the BPF file system.)
const fresh = "_new"

// pin makes the links outlive the process, in place of those that an earlier one left.
func (o *Owner) pin() error {
	if err := ensureBPFFS(o.pinDir()); err != nil {
		return err
	}
	dir, err := o.ownPins()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pin links: %w", err)
	}
	if o.guard, err = lockPins(dir, unix.LOCK_SH); err != nil {
		return fmt.Errorf("pin links: %w", err)
	}
	keep := make(map[string]bool)
	for _, l := range o.links {
		at := filepath.Join(dir, l.name)
		keep[l.name] = true
		os.Remove(at + fresh) // of a process that died right here
		if err := l.link.Pin(at + fresh); err != nil {
			return fmt.Errorf("pin links in %s: %w", dir, err)
		}
		if err := os.Rename(at+fresh, at); err != nil { // the held one ends here, ours is attached already
			return fmt.Errorf("pin links: %w", err)
		}
	}
	o.pins = dir
	return removePins(dir, keep)
}

// dropHeld ends what an earlier process held, now that our own programs are attached.
// A user who may not look there has never held anything; what root holds beside us
// does what ours do, until culvert release ends it.
func (o *Owner) dropHeld() error {
	dir, err := o.ownPins()
	if err != nil {
		return err
	}
	if err := removePinDir(dir); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

func (o *Owner) unpinLocked() error {
	if o.pins == "" {
		return nil
	}
	dir := o.pins
	o.pins = ""
	return removePinDir(dir)
}

func (o *Owner) pinDir() string {
	if o.cfg.PinDir == "" {
		return DefaultPinDir
	}
	return o.cfg.PinDir
}

// ownPins returns the directory of this interface. It is called inside its namespace.
func (o *Owner) ownPins() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("identify network namespace: %w", err)
	}
	return filepath.Join(o.pinDir(), fmt.Sprintf("%d-%d", st.Ino, o.cfg.Ifindex)), nil
}

// lockPins opens a directory of pins and locks it: the process that owns the
// interface shares the lock, until it ends in whatever way. The error wraps
// unix.EWOULDBLOCK when others have a lock that how excludes.
func lockPins(dir string, how int) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", dir, err)
	}
	if err := unix.Flock(fd, how|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("lock %s: %w", dir, err)
	}
	return fd, nil
}

// ReleaseHeld gives all interfaces that are held below dir ("": DefaultPinDir) back to the
// kernel and returns how many these were. Those that a running process owns are left
// alone.
func ReleaseHeld(dir string) (int, error) {
	if dir == "" {
		dir = DefaultPinDir
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("release held interfaces: %w", err)
	}
	var errs []error
	n := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		switch err := releasePins(filepath.Join(dir, e.Name())); {
		case err == nil:
			n++
		case !errors.Is(err, unix.EWOULDBLOCK): // else it is owned
			errs = append(errs, err)
		}
	}
	return n, errors.Join(errs...)
}

// releasePins ends what is held in dir, unless somebody owns it.
func releasePins(dir string) error {
	lock, err := lockPins(dir, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("release held interface: %w", err)
	}
	defer unix.Close(lock)
	return removePinDir(dir)
}

// removePins removes what is in dir, except names to keep.
func removePins(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pinned links: %w", err)
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove pinned link: %w", err)
		}
	}
	return nil
}

func removePinDir(dir string) error {
	if err := removePins(dir, nil); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pinned links: %w", err)
	}
	return nil
}

// ensureBPFFS makes sure that dir can be made on a BPF file system. Where there is
// none, it mounts one: at the usual place if dir is below that, at dir itself otherwise.
// One that would end with this process is an error.
func ensureBPFFS(dir string) error {
	at := dir
	if rel, err := filepath.Rel(bpfRoot, dir); err == nil && filepath.IsLocal(rel) {
		at = bpfRoot
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory for pinned links: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if mountsAlone() {
		return fmt.Errorf("%s has no BPF file system, and one that is mounted now ends with this process, which has a mount namespace "+
			"of its own (ip netns exec makes one): start it by nsenter --net=/run/netns/NAME, or do without hold", at)
	}
	if err := unix.Mount("bpf", at, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system at %s (needs CAP_SYS_ADMIN): %w", at, err)
	}
	return nil
}

// mountsAlone reports whether this process was given a mount namespace that its parent
// does not share: what is mounted in it is gone with the process.
func mountsAlone() bool {
	var ours, parents unix.Stat_t
	return unix.Stat("/proc/self/ns/mnt", &ours) == nil &&
		unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()), &parents) == nil && ours.Ino != parents.Ino
}
