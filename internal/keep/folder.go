package keep

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory provides arrays without pointers.
type Memory interface {
	// Array returns size zero bytes, page aligned, that live as long as the Memory.
	// Nothing may be written to them before Reserve.
	Array(name string, size int) ([]byte, error)

	// Reserve provides room for a part of an array. An error: there is not enough.
	Reserve(part []byte) error
}

// ErrBusy is returned for a folder that another process is using.
var ErrBusy = errors.New("another process keeps its flows there: give each gateway a folder of its own")

// ErrOthers is returned for a folder that belongs to another user, or that others may
// write to.
var ErrOthers = errors.New("others may write there")

const (
	prefix     = "flows."
	headerName = "header.json"
	lockName   = "lock"
	hugePage   = 2 << 20
)

// Folder is the memory of this process. Array and Reserve may be called by any
// goroutine once the arrays are made; the others by one at a time.
type Folder struct {
	root   string   // of the gateway
	path   string   // of this process
	lock   *os.File // nil when another process goes on in place of this one
	arrays []array
	left   []string // of processes that have died
	own    bool     // header is written: the folder is worth reading
}

// array is a file and where it is mapped.
type array struct {
	file *os.File
	mem  []byte
}

// Rivals says whether other processes may use the folder of a gateway.
type Rivals uint8

const (
	Alone     Rivals = iota // no
	Successor               // yes: this process is about to take over from one
)

// busyWait is how long a process that was killed may take to give back its memory.
const (
	busyWait = time.Second
	busyPoll = 10 * time.Millisecond
)

// Open makes a folder for this process in that of its gateway, which it makes if
// necessary. Errors wrap ErrBusy or ErrOthers, or say what the file system has against it.
func Open(root string, r Rivals) (*Folder, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	if err := ours(root); err != nil {
		return nil, err
	}
	gate, err := lockFile(filepath.Join(root, lockName), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	f := &Folder{root: root}
	all, err := folders(root)
	if err != nil {
		return nil, err
	}
	for _, path := range all {
		dead, err := abandoned(path)
		for until := time.Now().Add(busyWait); err == nil && !dead && r == Alone && time.Now().Before(until); {
			time.Sleep(busyPoll)
			dead, err = abandoned(path)
		}
		switch {
		case err != nil:
			return nil, err
		case dead:
			f.left = append(f.left, path)
		case r == Alone:
			return nil, fmt.Errorf("%s: %w", root, ErrBusy)
		}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return nil, err
	}
	f.path = filepath.Join(root, fmt.Sprintf("%s%019d", prefix, now.Nano()))
	if err := os.Mkdir(f.path, 0o700); err != nil {
		return nil, err
	}
	if f.lock, err = lockFile(filepath.Join(f.path, lockName), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, os.RemoveAll(f.path))
	}
	return f, nil
}

// ours says what is wrong with a folder that others may write to: what they put there
// would be flows, which let packets in.
func ours(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if me := uint32(os.Geteuid()); st.Uid != me && st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s: %w: it has owner %d and mode %o; want owner %d and mode 700", path, ErrOthers, st.Uid, st.Mode&0o7777, me)
	}
	return nil
}

// abandoned reports whether the process of a folder has died.
func abandoned(path string) (bool, error) {
	lock, err := lockFile(filepath.Join(path, lockName), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) { // it is being removed just now
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return true, lock.Close()
}

// lockFile opens and locks a file. The kernel unlocks it with the end of the process.
func lockFile(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), how)
		if err == nil {
			return file, nil
		}
		if err != unix.EINTR {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
	}
}

// Array makes an array in a file of its own, and implements Memory.
func (f *Folder) Array(name string, size int) ([]byte, error) {
	file, err := os.OpenFile(filepath.Join(f.path, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(int64(size)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map %s, %d bytes: %w", file.Name(), size, err), file.Close())
	}
	if size >= 2*hugePage {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // an optimisation; most file systems do without
	}
	f.arrays = append(f.arrays, array{file, mem})
	return mem, nil
}

// reserveStep is how much room is asked for at a time. A signal begins a request anew,
// and the runtime sends some: a long one would never end.
const reserveStep = 4 << 20

// Reserve implements Memory.
func (f *Folder) Reserve(part []byte) error {
	if len(part) == 0 {
		return nil
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(part)))
	i := slices.IndexFunc(f.arrays, func(a array) bool {
		first := uintptr(unsafe.Pointer(unsafe.SliceData(a.mem)))
		return first <= at && at-first+uintptr(len(part)) <= uintptr(len(a.mem))
	})
	if i < 0 {
		panic("keep: memory of somebody else")
	}
	a := &f.arrays[i]
	from := int64(at - uintptr(unsafe.Pointer(unsafe.SliceData(a.mem))))
	for end := from + int64(len(part)); from < end; {
		n := min(end-from, reserveStep)
		switch err := unix.Fallocate(int(a.file.Fd()), 0, from, n); err {
		case nil:
			from += n
		case unix.EINTR:
		default:
			return fmt.Errorf("%d bytes for %s: %w", len(part), a.file.Name(), err)
		}
	}
	return nil
}

// Lacking returns how many bytes the file system lacks for all that Reserve could be asked
// for, 0 if there is room for everything.
func (f *Folder) Lacking() (int64, error) {
	var fsys unix.Statfs_t
	if err := unix.Statfs(f.path, &fsys); err != nil {
		return 0, fmt.Errorf("%s: %w", f.path, err)
	}
	need := -int64(fsys.Bavail) * fsys.Bsize
	for _, a := range f.arrays {
		var st unix.Stat_t
		if err := unix.Fstat(int(a.file.Fd()), &st); err != nil {
			return 0, fmt.Errorf("%s: %w", a.file.Name(), err)
		}
		need += max(st.Size-st.Blocks*512, 0)
	}
	return max(need, 0), nil
}

// InMemory reports whether the folder is on a tmpfs. The kernel writes back the pages of
// others from time to time, and whoever stores to one then waits.
func (f *Folder) InMemory() bool {
	var fsys unix.Statfs_t
	return unix.Statfs(f.path, &fsys) == nil && fsys.Type == unix.TMPFS_MAGIC
}

// Describe writes the header, in JSON: from now on the folder is what a successor reads.
// It may be called again with another one. What other processes left is removed, that of
// one which has died since Open included.
func (f *Folder) Describe(header any) error {
	text, err := json.Marshal(header)
	if err != nil {
		return err
	}
	name := filepath.Join(f.path, headerName)
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	f.own = true
	if err := f.lookAgain(); err != nil {
		return err
	}
	_, err = f.Forget()
	return err
}

// lookAgain finds what processes have left that have died since.
func (f *Folder) lookAgain() error {
	gate, err := lockFile(filepath.Join(f.root, lockName), unix.LOCK_EX) // nobody has a folder without its lock now
	if err != nil {
		return err
	}
	defer gate.Close()
	all, err := folders(f.root)
	if err != nil {
		return err
	}
	f.left = nil
	for _, path := range all {
		dead, err := abandoned(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // its process removes it
		case err != nil:
			return err
		case dead:
			f.left = append(f.left, path)
		}
	}
	return nil
}

// folders returns those of processes, in a folder of a gateway.
func folders(root string) (all []string, err error) {
	entries, err := os.ReadDir(root)
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
			all = append(all, filepath.Join(root, e.Name()))
		}
	}
	return all, err
}

// Forget removes what other processes left, and reports whether there was anything.
func (f *Folder) Forget() (removed bool, err error) {
	for _, path := range f.left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	removed, f.left = len(f.left) > 0, nil
	return removed, err
}

// Close gives the memory back: nobody may use an array any more. The files stay if they
// are described.
func (f *Folder) Close() error {
	var errs []error
	for _, a := range f.arrays {
		errs = append(errs, unix.Munmap(a.mem), a.file.Close())
	}
	f.arrays = nil
	if !f.own {
		errs = append(errs, os.RemoveAll(f.path))
	}
	return errors.Join(append(errs, f.unlock())...)
}

// Leave lets whoever comes after the process that has taken over have the folder, however
// long this one still needs its arrays. Close removes the files.
func (f *Folder) Leave() error {
	f.own = false
	return f.unlock()
}

func (f *Folder) unlock() (err error) {
	if f.lock != nil {
		err = f.lock.Close()
		f.lock = nil
	}
	return err
}

// Leftovers returns what processes have left that were killed: as a rule that of one, else
// that of the last one first.
func (f *Folder) Leftovers() (all []*Leftover) {
	for _, path := range slices.Backward(f.left) { // ReadDir sorts, and names are as long as each other
		if _, err := os.Stat(filepath.Join(path, headerName)); !errors.Is(err, fs.ErrNotExist) {
			all = append(all, &Leftover{path: path})
		}
	}
	return all
}
