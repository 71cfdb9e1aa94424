package keep

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Leftover are the files of a process that has died.
type Leftover struct {
	path string
	mems [][]byte
}

// Path returns the name of the folder.
func (l *Leftover) Path() string { return l.path }

// maxHeader bounds what is read of a header, bytes.
const maxHeader = 1 << 20

// open opens a file to read. Whatever else has the name is an error, and nobody waits.
func (l *Leftover) open(name string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(l.path, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file, but has mode %v", file.Name(), info.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Header reads the header into v.
func (l *Leftover) Header(v any) error {
	file, err := l.open(headerName)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxHeader))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(l.path, headerName), err)
	}
	return nil
}

// Array maps an array, read-only, until Close.
func (l *Leftover) Array(name string) ([]byte, error) {
	file, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	if int64(int(info.Size())) != info.Size() {
		return nil, fmt.Errorf("%s: %d bytes", file.Name(), info.Size())
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", file.Name(), err)
	}
	l.mems = append(l.mems, mem)
	return mem, nil
}

// Cut gives back the room of an array behind its first size bytes, which must not be
// read any more.
func (l *Leftover) Cut(name string, size int) error {
	return os.Truncate(filepath.Join(l.path, name), int64(size))
}

// Remove removes the files. What is mapped stays until Close.
func (l *Leftover) Remove() error { return os.RemoveAll(l.path) }

// Close gives back the memory of all arrays.
func (l *Leftover) Close() error {
	var errs []error
	for _, mem := range l.mems {
		errs = append(errs, unix.Munmap(mem))
	}
	l.mems = nil
	return errors.Join(errs...)
}
