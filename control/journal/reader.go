package journal

import (
	"context"
	"encoding/binary"
	"io"

	"example.com/culvert/conntrack"
)

// Entry is what a Reader comes upon.
type Entry struct {
	Cursor  Cursor           // behind it: where to go on
	Missed  conntrack.Counts // if not zero: so many events the reader does not get
	Restart Restart          // if not zero: the gateway began anew here
	Record  conntrack.Record // otherwise; Seq is its number in the journal
}

// Restart says how one instance of a journal was followed by the next.
type Restart uint8

const (
	NoRestart Restart = iota
	Clean             // all events until the gateway ended came before
	Torn              // it ended in between: an unknown number of events is missing
)

// Reader goes through a journal at its own pace. One goroutine at a time may use it.
type Reader struct {
	j  *Journal
	at Cursor

	data  []byte           // records, from the one at pos
	pos   conntrack.Counts // before data; not beyond at but for a gap
	chunk *chunk           // that data is the rest of; nil: of a file
	read  int              // bytes of the chunk before the end of data
	file  *fileReader      // nil: no file is open
	ended func()           // nil: nobody wants to know of Close
}

// Tail returns a reader of what comes from now on.
func (j *Journal) Tail() *Reader {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.readers.Add(1)
	return &Reader{j: j, at: Cursor{j.instance, j.counts}}
}

// First returns the oldest place at which a reader can begin.
func (j *Journal) First() Cursor {
	if j.disk != nil {
		if c, ok := j.disk.first(); ok {
			return c
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.firstLocked()
}

// From returns a reader of what follows a cursor. Of what is gone the reader learns how
// much it was. The error wraps ErrCursor, or is an *ExpiredError: the journal that the
// cursor belongs to is gone as a whole.
func (j *Journal) From(at Cursor) (*Reader, error) {
	j.mu.Lock()
	same, end := at.Instance == j.instance, j.counts
	j.mu.Unlock()
	switch {
	case same && !within(&conntrack.Counts{}, &at.Counts, &end):
		return nil, ErrCursor
	case !same && (j.disk == nil || !j.disk.knows(at.Instance)):
		return nil, &ExpiredError{at, j.First()}
	}
	j.readers.Add(1)
	return &Reader{j: j, at: at}, nil
}

// Cursor returns where the reader is.
func (r *Reader) Cursor() Cursor { return r.at }

// Close ends the reader.
func (r *Reader) Close() {
	r.j.readers.Add(-1)
	r.closeFile()
	if r.ended != nil {
		r.ended()
	}
}

// Next reads the next entry into e, and reports false if there is none yet.
func (r *Reader) Next(e *Entry) bool {
	for {
		if len(r.data) == 0 && !r.load() {
			return r.over(e)
		}
		if r.pos.Sum() > r.at.Counts.Sum() {
			return r.miss(e)
		}
		n, used := binary.Uvarint(r.data)
		if used <= 0 || n > uint64(len(r.data)-used) {
			r.data = nil // of a file that somebody else wrote to
			continue
		}
		body := r.data[used : used+int(n)]
		r.data = r.data[used+int(n):]
		if err := r.step(body, e); err != nil {
			r.data = nil
			continue
		}
		if r.pos.Sum() <= r.at.Counts.Sum() {
			continue // before the cursor
		}
		r.at.Counts = r.pos
		e.Cursor = r.at
		e.Record.Seq = r.at.Seq()
		e.Record.Event.Seq = e.Record.Seq
		if e.Missed = e.Record.Lost; e.Missed != (conntrack.Counts{}) {
			r.j.missed.Add(e.Missed.Sum())
		}
		return true
	}
}

// step reads a record and moves pos behind it. What comes before the cursor is only
// counted.
func (r *Reader) step(body []byte, e *Entry) error {
	*e = Entry{}
	if len(body) == 0 {
		return errRecord
	}
	d := decoder{b: body}
	if k := conntrack.Kind(body[0]); k < kindLost && r.pos.Sum() < r.at.Counts.Sum() {
		r.pos[k]++
		return nil
	}
	if err := d.record(&e.Record); err != nil {
		return err
	}
	if e.Record.Lost != (conntrack.Counts{}) {
		r.pos.Add(e.Record.Lost)
	} else {
		r.pos[e.Record.Kind]++
	}
	return nil
}

// miss tells of the events between the reader and the next that there is.
func (r *Reader) miss(e *Entry) bool {
	*e = Entry{Missed: r.pos.Minus(r.at.Counts)}
	if !within(&r.at.Counts, &r.pos, &r.pos) { // somebody made the cursor up
		e.Missed = r.pos
	}
	r.at.Counts = r.pos
	e.Cursor = r.at
	r.j.missed.Add(e.Missed.Sum())
	return true
}

// over ends an instance of which nothing is left, and begins the next one.
func (r *Reader) over(e *Entry) bool {
	r.j.mu.Lock()
	now := r.j.instance
	r.j.mu.Unlock()
	if r.at.Instance == now {
		return false
	}
	*e = Entry{Restart: Torn}
	next := now
	if r.j.disk != nil {
		var clean bool
		if next, clean = r.j.disk.after(r.at.Instance, now); clean {
			e.Restart = Clean
		}
	}
	r.closeFile()
	r.at = Cursor{Instance: next}
	e.Cursor = r.at
	r.pos, r.chunk, r.read = conntrack.Counts{}, nil, 0
	return true
}

// load finds the records at the cursor, or the first ones behind it, and reports
// whether there are any. Memory is asked first and files second; where a gap is, the
// one whose records come first wins.
func (r *Reader) load() bool {
	c, read, now := r.inMemory()
	late := !now || c != nil && c.first.Sum() > r.at.Counts.Sum()
	if late && r.j.disk != nil && r.loadFile(c) {
		return true
	}
	if c == nil {
		return false
	}
	r.closeFile()
	if r.chunk != c {
		r.chunk, r.read, r.pos = c, 0, c.first
	}
	r.data = read[r.read:]
	r.read = len(read)
	return true
}

// inMemory returns the chunk that has what follows the cursor, or the first one behind
// that, with what is published of it; nil if there is none. now says that the cursor
// is of the present instance.
func (r *Reader) inMemory() (c *chunk, read []byte, now bool) {
	j := r.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.at.Instance != j.instance {
		return nil, nil, false
	}
	at := r.at.Counts.Sum()
	if c := r.chunk; c != nil && c.last.Sum() > at {
		return c, c.data, true // it may be gone from the journal: we have it still
	}
	for _, c := range j.chunks {
		if c.last.Sum() > at {
			return c, c.data, true
		}
	}
	return nil, nil, true
}

// Wait waits until Next has something. The error is ctx's, or io.EOF: the journal was
// closed, and all of it read.
func (r *Reader) Wait(ctx context.Context) error {
	for {
		more, wake := r.pending()
		if more {
			return nil
		}
		if wake == nil {
			return io.EOF
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pending reports whether there is something to read, or else returns what is closed
// when there is, nil if there never will be.
func (r *Reader) pending() (bool, <-chan struct{}) {
	j := r.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(r.data) > 0 || r.at.Instance != j.instance || j.counts.Sum() > r.at.Counts.Sum() {
		return true, nil
	}
	if j.ended {
		return false, nil
	}
	if j.wake == nil {
		j.wake = make(chan struct{})
	}
	return false, j.wake
}
