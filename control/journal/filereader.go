package journal

import "os"

// fileReader reads the files of a disk one after the other.
type fileReader struct {
	d      *disk
	number uint64 // of the file
	in     *os.File
	at     int64  // bytes read
	b      []byte // of these, not used
}

// loadFile finds in files what follows the cursor, or the first behind it, unless that
// begins behind memory, the first chunk that has such, too. It reports whether there
// is any.
func (r *Reader) loadFile(memory *chunk) bool {
	if r.file == nil {
		r.file = &fileReader{d: r.j.disk}
	}
	for {
		var f frame
		if !r.file.next(r.at, &f) {
			return false
		}
		if f.instance != r.at.Instance || f.kind == frameEnd || f.last.Sum() <= r.at.Counts.Sum() {
			continue
		}
		if memory != nil && f.first.Sum() >= memory.first.Sum() {
			return false
		}
		r.chunk, r.data, r.pos = nil, f.data, f.first
		return true
	}
}

func (r *Reader) closeFile() {
	if r.file != nil && r.file.in != nil {
		r.file.in.Close()
	}
	r.file = nil
}

// next reads the next frame, beginning with the file that has what follows a cursor.
func (r *fileReader) next(at Cursor, f *frame) bool {
	for {
		used, skipped := nextFrame(r.b, f)
		if used > 0 {
			r.b = r.b[used:]
			r.d.addCorrupt(skipped)
			return true
		}
		size, last := r.d.sizeOf(r.number)
		if r.in != nil && size > r.at {
			if r.fill(size) {
				continue
			}
		}
		if r.in != nil && last && size > 0 {
			return false // what is written next will be in this file, or there will be a next one
		}
		r.d.addCorrupt(len(r.b))
		if !r.open(at) {
			return false
		}
	}
}

// fill reads what the file has got since.
func (r *fileReader) fill(size int64) bool {
	b := make([]byte, size-r.at)
	n, _ := r.in.ReadAt(b, r.at) // an error: it is as if there was nothing
	r.at += int64(n)
	r.b = append(r.b[:len(r.b):len(r.b)], b[:n]...)
	return n > 0
}

// open opens the next file that has anything behind a cursor.
func (r *fileReader) open(at Cursor) bool {
	for {
		f := r.d.next(r.number, at)
		if f == nil {
			return false
		}
		if r.in != nil {
			r.in.Close()
		}
		r.number, r.at, r.b = f.number, 0, nil
		var err error
		if r.in, err = os.Open(r.d.path(f.number)); err == nil {
			return true
		}
		r.in = nil // it was deleted meanwhile
	}
}

// next returns the first file with a number beyond one that has anything behind a
// cursor, nil if there is none.
func (d *disk) next(number uint64, at Cursor) *file {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		if f.number > number && f.instance == at.Instance && f.last.Sum() > at.Counts.Sum() {
			return f
		}
	}
	return nil
}

// sizeOf returns how many bytes a file has to read, and whether it is the last one.
func (d *disk) sizeOf(number uint64) (size int64, last bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, f := range d.files {
		if f.number == number {
			return f.size, i == len(d.files)-1
		}
	}
	return 0, false
}

func (d *disk) addCorrupt(n int) {
	if n > 0 {
		d.mu.Lock()
		d.corrupt += uint64(n)
		d.mu.Unlock()
	}
}
