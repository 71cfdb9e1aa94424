package flowlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// File is a sink that appends to a file.
type File struct {
	Path string
	Mode fs.FileMode // of files that it makes
	Max  int64       // bytes of a file, 0: no bound
	Keep int         // files NAME.1 and on

	file   *os.File
	size   int64
	device bool // which has no bound: nobody renames /dev/null
}

func (f *File) String() string { return f.Path }

// ready opens the file.
func (f *File) ready() error { return f.open() }

// errNoFile is of what cannot be appended to and renamed.
var errNoFile = errors.New("is no regular file")

// open opens the path, making the file with its mode whatever the umask says. Nobody
// has to read a FIFO for that to return.
func (f *File) open() error {
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, f.Mode)
	switch {
	case err == nil:
		err = file.Chmod(f.Mode)
	case errors.Is(err, fs.ErrExist):
		file, err = os.OpenFile(f.Path, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENXIO) {
			err = fmt.Errorf("%s %w", f.Path, errNoFile)
		}
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	device := info.Mode()&fs.ModeCharDevice != 0
	if !device && !info.Mode().IsRegular() {
		file.Close()
		return fmt.Errorf("%s %w", f.Path, errNoFile)
	}
	f.file, f.size, f.device = file, info.Size(), device
	return nil
}

// write appends all lines, or none: what a full disk has taken of them is taken back.
func (f *File) write(l *lines) error {
	if f.file == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	if f.Max > 0 && f.size > 0 && !f.device && f.size+int64(len(l.b)) > f.Max {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	n, err := f.file.Write(l.b)
	if err == nil {
		f.size += int64(n)
		l.drop(l.len())
		return nil
	}
	if n > 0 {
		if cut := f.file.Truncate(f.size); cut != nil {
			return fmt.Errorf("%w; and what was written of a line stays: %w", err, cut)
		}
	}
	return err
}

// rotate moves the file out of the way, the oldest one out of the world.
func (f *File) rotate() error {
	if err := f.close(); err != nil {
		return err
	}
	if f.Keep == 0 {
		if err := os.Remove(f.Path); err != nil {
			return err
		}
		return f.open()
	}
	name := func(i int) string { return f.Path + "." + strconv.Itoa(i) }
	for i := f.Keep - 1; i > 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(f.Path, name(1)); err != nil {
		return err
	}
	return f.open()
}

// reopen opens the path anew, for somebody has moved the file.
func (f *File) reopen() error {
	return errors.Join(f.close(), f.open())
}

func (f *File) close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}
