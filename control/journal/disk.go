package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
)

// Files hold frames, and a frame holds a run of records of one instance:
//
//	magic     8 bytes
//	length    4 bytes, of the records
//	checksum  4 bytes, CRC-32C of what follows
//	instance  8 bytes
//	kind      1 byte: see frameKind
//	first     40 bytes, the counts before the first record
//	last      40 bytes, the counts after the last
//	records
//
// Integers are little-endian. Files are numbered in their order, and a file is of one
// instance. Bytes that are no frame are skipped, and what they held is a gap between
// the counts of the frames around it.
const (
	frameMagic  = "cvevent\x02" // the last byte changes with the form of records
	frameHeader = 8 + 4 + 4 + frameFixed
	frameFixed  = 8 + 1 + 2*8*int(conntrack.NumKinds)
	largestFile = 8 << 20
	fileSuffix  = ".events"
)

type frameKind uint8

const (
	frameData frameKind = iota
	frameEnd            // the gateway ended here, in order
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is one of a file.
type frame struct {
	kind        frameKind
	instance    uint64
	first, last conntrack.Counts
	data        []byte
}

func (f *frame) append(b []byte) []byte {
	at := len(b)
	b = append(b, frameMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.data)))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, f.instance)
	b = append(b, byte(f.kind))
	for _, c := range [...]*conntrack.Counts{&f.first, &f.last} {
		for _, n := range c {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
	}
	b = append(b, f.data...)
	binary.LittleEndian.PutUint32(b[at+12:], crc32.Checksum(b[at+16:], castagnoli))
	return b
}

// nextFrame reads the first frame in b, and returns how many bytes it took, and how
// many of these were none of it. Without a frame used is 0.
func nextFrame(b []byte, f *frame) (used, skipped int) {
	for {
		at := bytes.Index(b[skipped:], []byte(frameMagic))
		if at < 0 {
			return 0, skipped
		}
		skipped += at
		if n := f.parse(b[skipped:]); n > 0 {
			return skipped + n, skipped
		}
		skipped++
	}
}

// parse reads the frame that b begins with, and returns its length, 0 if it is none.
func (f *frame) parse(b []byte) int {
	if len(b) < frameHeader {
		return 0
	}
	n := uint64(frameHeader) + uint64(binary.LittleEndian.Uint32(b[8:]))
	if n > uint64(len(b)) || crc32.Checksum(b[16:n], castagnoli) != binary.LittleEndian.Uint32(b[12:]) {
		return 0
	}
	f.instance, f.kind = binary.LittleEndian.Uint64(b[16:]), frameKind(b[24])
	at := 25
	for _, c := range [...]*conntrack.Counts{&f.first, &f.last} {
		for k := range c {
			c[k] = binary.LittleEndian.Uint64(b[at:])
			at += 8
		}
	}
	f.data = b[frameHeader:n]
	return int(n)
}

// file is one of the directory.
type file struct {
	number      uint64
	instance    uint64
	first, last conntrack.Counts
	size        int64 // bytes to read
	clean       bool  // ends with frameEnd
}

// disk writes what a journal has to files, and finds it there.
type disk struct {
	j    *Journal
	dir  string
	max  int64
	lock *os.File // nil: another process has the directory, or did
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	// Of the goroutine that writes, and of close after it.
	out     output           // nil: none yet
	written conntrack.Counts // of the journal
	buf     []byte
	err     error // of the last write

	mu        sync.Mutex // guards what follows
	failing   bool
	files     []*file // by number
	unwritten uint64
	corrupt   uint64
}

// output is the newest file.
type output interface {
	io.WriterAt
	io.Closer
	Truncate(size int64) error
}

// flushInterval is how long an event may wait until it is written: what a killed
// gateway loses.
const flushInterval = time.Second

func newDisk(j *Journal, opts Options) *disk {
	return &disk{j: j, dir: opts.Directory, max: max(opts.Disk, MinDisk), wake: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{})}
}

func openDisk(j *Journal, opts Options) (*disk, error) {
	d := newDisk(j, opts)
	if err := d.enter(); err != nil {
		return nil, err
	}
	go d.run()
	return d, nil
}

// enter makes the directory its own and looks at what is there.
func (d *disk) enter() (err error) {
	if err = os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("events on disk: %w", err)
	}
	lock, err := d.own()
	if err != nil {
		return fmt.Errorf("events on disk: %w", err)
	}
	if err := d.scan(); err != nil {
		lock.Close()
		return fmt.Errorf("events on disk: %w", err)
	}
	d.lock = lock
	return nil
}

const lockName = "lock"

func (d *disk) path(number uint64) string {
	return filepath.Join(d.dir, fmt.Sprintf("%016d%s", number, fileSuffix))
}

// own makes sure that no other gateway writes to the directory.
func (d *disk) own() (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(d.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: another gateway writes there: give each a directory of its own", d.dir)
	}
	return lock, nil
}

// scan finds out what is in the directory.
func (d *disk) scan() error {
	names, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	var files []*file
	for _, e := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), fileSuffix), 10, 64)
		if err != nil || e.Name() != filepath.Base(d.path(number)) {
			continue // not ours
		}
		b, err := os.ReadFile(d.path(number))
		if err != nil {
			return err
		}
		files = append(files, d.examine(number, b))
	}
	slices.SortFunc(files, func(a, b *file) int { return cmp.Compare(a.number, b.number) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = files
	return nil
}

// examine returns what is in a file.
func (d *disk) examine(number uint64, b []byte) *file {
	f := &file{number: number, size: int64(len(b))}
	for first := true; ; first = false {
		var x frame
		used, skipped := nextFrame(b, &x)
		d.addCorrupt(skipped)
		if used == 0 {
			d.addCorrupt(len(b) - skipped)
			return f
		}
		b = b[used:]
		if first {
			f.instance, f.first = x.instance, x.first
		}
		f.last, f.clean = x.last, x.kind == frameEnd
	}
}

// due says that a chunk is full. It does not wait.
func (d *disk) due() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *disk) run() {
	defer close(d.done)
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-d.wake:
		case <-tick.C:
		case <-d.quit:
			return
		}
		d.flush()
	}
}

// halt writes the rest. Nothing is written any more.
func (d *disk) halt() {
	close(d.quit)
	<-d.done
	d.flush()
}

// close writes the rest, and that it is all.
func (d *disk) close() error {
	d.halt()
	if d.err == nil && d.out != nil {
		d.write(&frame{kind: frameEnd, instance: d.j.instance, first: d.written, last: d.written})
	}
	err := d.err
	if d.out != nil {
		err = errors.Join(err, d.out.Close())
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// flush writes what the journal has and the files have not.
func (d *disk) flush() {
	if d.lock == nil {
		if d.err = d.enter(); d.err != nil {
			return
		}
	}
	for _, f := range d.fresh() {
		if skipped := f.first.Minus(d.written); skipped != (conntrack.Counts{}) {
			d.mu.Lock()
			d.unwritten += skipped.Sum()
			d.mu.Unlock()
		}
		d.written = f.first
		if !d.write(&f) {
			return // next time again, if it is still there
		}
		d.written = f.last
	}
}

// fresh returns what is to be written. The data is not copied: it does not change.
func (d *disk) fresh() (frames []frame) {
	j := d.j
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range j.chunks {
		if c.last.Sum() <= d.written.Sum() {
			continue
		}
		f := frame{instance: j.instance, first: c.first, last: c.last, data: c.data}
		for f.first.Sum() < d.written.Sum() { // the beginning is written
			n, used := binary.Uvarint(f.data)
			body := f.data[used : used+int(n)]
			if k := conntrack.Kind(body[0]); k < kindLost {
				f.first[k]++
			} else {
				var lost conntrack.Counts
				(&decoder{b: body[1:]}).counts(&lost)
				f.first.Add(lost)
			}
			f.data = f.data[used+int(n):]
		}
		frames = append(frames, f)
	}
	return frames
}

// write appends a frame to the newest file and reports whether that was possible.
func (d *disk) write(f *frame) bool {
	d.buf = f.append(d.buf[:0])
	d.err = d.put(d.buf, f)
	switch failed := d.fail(d.err != nil); {
	case d.err != nil && !failed:
		d.j.opts.Log.Warn("events cannot be written; they are kept in memory, as long as there is room", "error", d.err)
	case d.err == nil && failed:
		d.j.opts.Log.Info("events can be written again")
	}
	return d.err == nil
}

// fail sets failing and returns what it was.
func (d *disk) fail(failing bool) (was bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was, d.failing = d.failing, failing
	return was
}

func (d *disk) put(b []byte, f *frame) error {
	at := d.newest()
	if d.out == nil || at.size > 0 && at.size+int64(len(b)) > min(largestFile, d.max/4) {
		var err error
		if at, err = d.begin(f); err != nil {
			return err
		}
	}
	if err := d.makeRoom(int64(len(b))); err != nil {
		return err
	}
	if _, err := d.out.WriteAt(b, at.size); err != nil {
		return errors.Join(err, d.out.Truncate(at.size))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at.size += int64(len(b))
	at.last, at.clean = f.last, f.kind == frameEnd
	return nil
}

func (d *disk) newest() *file {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.files) == 0 {
		return &file{}
	}
	return d.files[len(d.files)-1]
}

// begin makes a new file.
func (d *disk) begin(f *frame) (*file, error) {
	next := &file{number: d.newest().number + 1, instance: f.instance, first: f.first, last: f.first}
	out, err := os.OpenFile(d.path(next.number), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if d.out != nil {
		err = d.out.Close()
	}
	d.out = out
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = append(d.files, next)
	return next, err
}

// makeRoom deletes the oldest files until n more bytes are within the bound.
func (d *disk) makeRoom(n int64) error {
	for {
		d.mu.Lock()
		oldest := d.files[0]
		over := len(d.files) > 1 && d.sizeLocked()+n > d.max
		if over {
			d.files = slices.Clone(d.files[1:])
		}
		d.mu.Unlock()
		if !over {
			return nil
		}
		if err := os.Remove(d.path(oldest.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

func (d *disk) sizeLocked() (n int64) {
	for _, f := range d.files {
		n += f.size
	}
	return n
}

func (d *disk) stats(s *Stats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Disk, s.DiskLimit, s.Unwritten, s.Corrupt, s.Failing = d.sizeLocked(), d.max, d.unwritten, d.corrupt, d.failing
}

// first returns the oldest place in files.
func (d *disk) first() (Cursor, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		if f.first != f.last {
			return Cursor{f.instance, f.first}, true
		}
	}
	return Cursor{}, false
}

// knows reports whether any file is of an instance.
func (d *disk) knows(instance uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.files, func(f *file) bool { return f.instance == instance })
}

// after returns the instance that followed another one, now if none is in files, and
// whether that one ended in order.
func (d *disk) after(instance, now uint64) (next uint64, clean bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next = now
	for i := len(d.files) - 1; i >= 0; i-- {
		switch f := d.files[i]; {
		case f.instance == instance:
			return next, f.clean
		case f.size > 0 && f.instance != 0:
			next = f.instance
		}
	}
	return next, false
}
