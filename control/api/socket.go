package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSocketInUse is wrapped by Listen when another gateway answers on the socket.
var ErrSocketInUse = errors.New("another gateway answers there")

const (
	socketMode    = 0o600
	groupMode     = 0o660 // with a group
	directoryMode = 0o755
	maxPath       = 107         // bytes of sun_path without the final zero
	probeTimeout  = time.Second // for one that ends, too
	probePause    = 10 * time.Millisecond
	lockWait      = time.Second // for another gateway that starts
)

// DefaultSocket returns the socket of the instance called name: below /run for
// root, else below XDG_RUNTIME_DIR, else below the directory for temporary files.
func DefaultSocket(name string) string {
	if os.Geteuid() == 0 {
		return filepath.Join("/run/culvert", name+".sock")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "culvert", name+".sock")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("culvert-%d", os.Geteuid()), name+".sock")
}

// listener removes its socket file when it closes, if the file is still its own.
type listener struct {
	*net.UnixListener
	path  string
	inode uint64
	kept  atomic.Bool // another process has it, too
}

// Listen makes the socket at path and its directory if need be. Its mode is 0600, and
// 0660 for a group, which may be empty: none. A file that a dead process left there is
// replaced. The error wraps ErrSocketInUse when somebody answers.
func Listen(path, group string) (net.Listener, error) {
	if len(path) > maxPath-len(temporaryName("")) {
		return nil, fmt.Errorf("control socket %s: path is longer than %d bytes; choose a shorter one with --socket",
			path, maxPath-len(temporaryName("")))
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, directoryMode); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	unlock, err := lockDirectory(dir)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer unlock()
	if err := probe(path); err != nil {
		return nil, err
	}
	gid, err := groupID(group)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return place(path, gid)
}

// probe reports an error unless path is free or holds a dead socket. The socket of a
// gateway that was killed just now accepts connections until its memory is given back.
func probe(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control socket %s: exists and is no socket; remove it or choose another with --socket", path)
	}
	for until := time.Now().Add(probeTimeout); ; {
		conn, err := net.DialTimeout("unix", path, probeTimeout)
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			return nil // nobody listens any more
		}
		if err != nil {
			return fmt.Errorf("control socket: %w", err)
		}
		if !hangsUp(conn, until) {
			return fmt.Errorf("control socket %s: %w; give this one its own with --socket", path, ErrSocketInUse)
		}
		time.Sleep(probePause)
	}
}

// hangsUp closes conn, and reports whether the other side has done so before until.
func hangsUp(conn net.Conn, until time.Time) bool {
	defer conn.Close()
	_ = conn.SetReadDeadline(until) // an error: so has Read
	_, err := conn.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// place makes the socket under another name, so that it is never seen with
// another mode, and moves it over path.
func place(path string, gid int) (net.Listener, error) {
	tmp := temporaryName(path)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	inode, err := publish(tmp, path, gid)
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &listener{UnixListener: l, path: path, inode: inode}, nil
}

func temporaryName(path string) string { return fmt.Sprintf("%s.%d", path, os.Getpid()) }

// noGroup stands for a socket that is for its owner alone.
const noGroup = -1

// groupID returns the number of a group, which may be given as a number.
func groupID(name string) (int, error) {
	if name == "" {
		return noGroup, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		if g, err = user.LookupGroupId(name); err != nil {
			return 0, fmt.Errorf("there is no group %q: name one of /etc/group", name)
		}
	}
	return strconv.Atoi(g.Gid)
}

func publish(tmp, path string, gid int) (inode uint64, err error) {
	mode := fs.FileMode(socketMode)
	if gid != noGroup {
		if err := os.Chown(tmp, -1, gid); err != nil { // before the mode: never open for another group
			return 0, err
		}
		mode = groupMode
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return 0, err
	}
	if inode, err = inodeOf(tmp); err != nil {
		return 0, err
	}
	return inode, os.Rename(tmp, path)
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// lockDirectory keeps two starting gateways from probing the same file at once,
// without leaving a lock file behind. Whoever may read the directory may hold
// its lock for ever, so it is not waited for longer than lockWait.
func lockDirectory(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil || errors.Is(err, unix.EWOULDBLOCK) && time.Now().After(deadline):
			return func() { d.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
}

// Close stops listening and removes the socket file, unless another process has
// put its own there.
func (l *listener) Close() error {
	if l.kept.Load() {
		return l.UnixListener.Close()
	}
	if inode, err := inodeOf(l.path); err == nil && inode == l.inode {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// dial connects to the gateway at path.
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("no gateway answers at %s: %w (start one with culvert run, or name its socket with --socket or CULVERT_SOCKET)",
			path, ErrNotRunning)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("control socket %s: %w (only the user who started the gateway, root and the group api.group may connect)", path, fs.ErrPermission)
	}
	return conn, err
}
