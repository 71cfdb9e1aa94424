package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
)

// Past is what a journal leaves to that of another process, so that numbers and cursors
// go on there: in a form that JSON can carry, and files whose descriptors go beside it.
type Past struct {
	Form     string // of records
	Instance uint64
	Counts   conntrack.Counts // at the end
	Lost     conntrack.Counts // of these, by rings
	Missed   uint64           // by readers
	Chunks   []PastChunk      // in memory, the oldest first
	Disk     *PastDisk        // nil: there were no files

	memory *os.File // data of Chunks, one behind the other
	lock   *os.File // of the directory; nil without Disk
}

// PastChunk is a run of records.
type PastChunk struct {
	First, Last conntrack.Counts
	Size        int // bytes
}

// PastDisk says what is in a directory.
type PastDisk struct {
	Files     []PastFile // by number
	Written   conntrack.Counts
	Unwritten uint64
	Corrupt   uint64
}

// PastFile is one file of a directory.
type PastFile struct {
	Number, Instance uint64
	First, Last      conntrack.Counts
	Size             int64
	Clean            bool
}

// ErrPast is wrapped by errors for what another process has left, and nobody can read.
var ErrPast = errors.New("what the journal before has left is damaged")

// Leave ends the journal for its readers, writes what is to be written, and returns what
// another process goes on with, which has to be closed. Nothing is appended any more, and
// the files are not written to.
func (j *Journal) Leave() (*Past, error) {
	j.mu.Lock()
	j.ended = true
	j.wakeLocked()
	disk, chunks := j.disk, j.chunks
	p := &Past{Form: frameMagic, Instance: j.instance, Counts: j.counts, Lost: j.lost, Missed: j.missed.Load()}
	j.mu.Unlock()
	var err error
	if disk != nil {
		p.Disk, p.lock = disk.leave()
	}
	if p.memory, err = memoryFile(chunks); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	for _, c := range chunks {
		p.Chunks = append(p.Chunks, PastChunk{c.first, c.last, len(c.data)})
	}
	return p, nil
}

// memoryFile returns a file in memory with the data of chunks, which do not change.
func memoryFile(chunks []*chunk) (*os.File, error) {
	fd, err := unix.MemfdCreate("culvert-events", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("events: file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "events")
	for _, c := range chunks {
		if _, err := f.Write(c.data); err != nil {
			return nil, errors.Join(fmt.Errorf("events: %w", err), f.Close())
		}
	}
	return f, nil
}

// Descriptors returns those of the files that go beside p, which stay its own. A nil p has
// none.
func (p *Past) Descriptors() (fds []int) {
	if p == nil {
		return nil
	}
	for _, f := range []*os.File{p.memory, p.lock} {
		if f != nil {
			fds = append(fds, int(f.Fd()))
		}
	}
	return fds
}

// Adopt gives p the files that came beside it, which belong to it then.
func (p *Past) Adopt(fds []int) error {
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "events")
		switch {
		case i == 0:
			p.memory = f
		case i == 1 && p.Disk != nil:
			p.lock = f
		default:
			f.Close()
		}
	}
	want := 1
	if p.Disk != nil {
		want = 2
	}
	switch {
	case len(fds) != want:
		return fmt.Errorf("%w: %d files in place of %d", ErrPast, len(fds), want)
	case p.Form != frameMagic:
		return fmt.Errorf("%w: its records are of form %q, here they are of %q", ErrPast, p.Form, frameMagic)
	}
	return nil
}

// Close closes the files of p. A nil p has none.
func (p *Past) Close() error {
	if p == nil {
		return nil
	}
	var errs []error
	for _, f := range []*os.File{p.memory, p.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	p.memory, p.lock = nil, nil
	return errors.Join(errs...)
}

// chunks reads what was in memory.
func (p *Past) chunks() (all []*chunk, err error) {
	var at int64
	var before conntrack.Counts
	if len(p.Chunks) > 0 {
		before = p.Chunks[0].First
	}
	for _, c := range p.Chunks {
		if c.First != before || !within(&c.First, &c.Last, &c.Last) || c.Size < 0 || c.Size > 2*largestChunk {
			return nil, fmt.Errorf("%w: a run of %d bytes from %d to %d", ErrPast, c.Size, c.First, c.Last)
		}
		data := make([]byte, c.Size)
		if _, err := p.memory.ReadAt(data, at); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPast, err)
		}
		all = append(all, &chunk{first: c.First, last: c.Last, data: data})
		at, before = at+int64(c.Size), c.Last
	}
	if before != p.Counts {
		return nil, fmt.Errorf("%w: it ends at %d in place of %d", ErrPast, before, p.Counts)
	}
	return all, nil
}

// Continue ends what Options.Later began: the journal goes on behind p, with its numbers,
// and what has been appended meanwhile follows. With a nil p, or one that cannot be read,
// which the error says, it is an instance of its own. Nobody has read it yet. Files that
// another process still has, or that cannot be opened, are tried again until they can.
func (j *Journal) Continue(p *Past) error {
	var past []*chunk
	var err error
	if p != nil {
		if past, err = p.chunks(); err != nil {
			p = nil
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if p != nil {
		for _, c := range j.chunks {
			c.first.Add(p.Counts)
			c.last.Add(p.Counts)
		}
		j.instance = p.Instance
		j.counts.Add(p.Counts)
		j.lost.Add(p.Lost)
		j.missed.Add(p.Missed)
		j.chunks = append(past, j.chunks...)
		for _, c := range past {
			j.size += cap(c.data)
		}
		j.boundLocked(1)
	}
	if j.opts.Directory == "" {
		return err
	}
	j.disk = newDisk(j, j.opts)
	if len(j.chunks) > 0 {
		j.disk.written = j.chunks[0].first // to a directory of before it is more: see inherit
	}
	switch {
	case p != nil && p.Disk != nil && j.disk.inherits(p.lock):
		j.disk.inherit(p.Disk, p.lock)
		p.lock = nil
	default:
		if late := j.disk.enter(); late != nil {
			j.disk.fail(true)
			j.opts.Log.Warn("events cannot be written yet; they are kept in memory, as long as there is room", "error", late)
		}
	}
	go j.disk.run()
	return err
}

// leave stops writing, and returns what is in the directory and the lock on it.
func (d *disk) leave() (*PastDisk, *os.File) {
	d.halt()
	if d.out != nil {
		d.out.Close() // all is written, or counted
	}
	if d.lock == nil {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &PastDisk{Written: d.written, Unwritten: d.unwritten, Corrupt: d.corrupt}
	for _, f := range d.files {
		p.Files = append(p.Files, PastFile{f.number, f.instance, f.first, f.last, f.size, f.clean})
	}
	lock := d.lock
	d.lock = nil
	return p, lock
}

// inherits reports whether lock is on the directory of d.
func (d *disk) inherits(lock *os.File) bool {
	if lock == nil {
		return false
	}
	theirs, err := lock.Stat()
	if err != nil {
		return false
	}
	ours, err := os.Stat(filepath.Join(d.dir, lockName))
	return err == nil && os.SameFile(theirs, ours)
}

// inherit goes on with the directory of another process.
func (d *disk) inherit(p *PastDisk, lock *os.File) {
	d.lock, d.written = lock, p.Written
	d.unwritten, d.corrupt = p.Unwritten, p.Corrupt
	for _, f := range p.Files {
		d.files = append(d.files, &file{f.Number, f.Instance, f.First, f.Last, f.Size, f.Clean})
	}
}
