package journal

import (
	"errors"
	"sync"
	"time"

	"example.com/culvert/conntrack"
)

// Recording says when the events of a table are recorded.
type Recording uint8

const (
	OnDemand Recording = iota // while somebody reads, and for a while after
	Always
)

// Recorder has a journal hear of the events of a table. Its methods are safe for
// concurrent use.
type Recorder struct {
	table *conntrack.Table
	j     *Journal
	when  Recording
	keep  time.Duration

	mu    sync.Mutex // guards what follows
	users int
	stop  func()      // nil: nothing is recorded
	idle  *time.Timer // ends the recording; nil: somebody reads
	ended bool
}

// Record makes a recorder of what happens in a table, from Begin on or from when the first
// reader comes. On demand it goes on for keep after the last reader has left, so that he can
// come back with his cursor; while nothing is recorded, events cost the data path a
// load. Close it before the table.
func Record(table *conntrack.Table, j *Journal, when Recording, keep time.Duration) *Recorder {
	return &Recorder{table: table, j: j, when: when, keep: keep}
}

// Begin says that the table is in use: what is always recorded is from now on.
func (r *Recorder) Begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.when == Always && r.stop == nil && !r.ended {
		r.stop = r.table.Listen(conntrack.EveryEvent, r.j.Append)
	}
}

// Succeed says that the table is about to go on in place of that of another process, whose
// events were recorded or not: then they are here, too, be it that nobody reads. The
// journal was made with Options.Later, and Continue follows.
func (r *Recorder) Succeed(recorded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if recorded || r.when == Always {
		r.stop = r.table.Listen(conntrack.EveryEvent, r.j.Append)
	}
}

// Continue has the journal go on behind what the other process has recorded; see
// Journal.Continue. A nil p: nobody knows what that was, or nothing was. It closes p.
func (r *Recorder) Continue(p *Past) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := errors.Join(r.j.Continue(p), p.Close())
	if r.stop != nil && r.users == 0 && r.when == OnDemand && !r.ended {
		r.idle = time.AfterFunc(r.keep, r.rest)
	}
	return err
}

// Recording reports whether events are recorded at the moment.
func (r *Recorder) Recording() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop != nil
}

// Leave ends the recording for another process, which goes on behind it; see
// Journal.Leave. It returns nil when nothing was recorded: then the journal is closed.
func (r *Recorder) Leave() (*Past, error) {
	if !r.unlisten() {
		return nil, r.j.Close()
	}
	return r.j.Leave()
}

// Tail returns a reader of what comes from now on.
func (r *Recorder) Tail() *Reader {
	r.begin()
	reader := r.j.Tail()
	reader.ended = sync.OnceFunc(r.end)
	return reader
}

// From returns a reader of what follows a cursor; see Journal.From.
func (r *Recorder) From(at Cursor) (*Reader, error) {
	r.begin()
	reader, err := r.j.From(at)
	if err != nil {
		r.end()
		return nil, err
	}
	reader.ended = sync.OnceFunc(r.end)
	return reader, nil
}

// End returns where the journal ends now.
func (r *Recorder) End() Cursor {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	return Cursor{r.j.instance, r.j.counts}
}

// begin counts a reader, and records if nobody did.
func (r *Recorder) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	if r.idle != nil {
		r.idle.Stop()
		r.idle = nil
	}
	if r.stop == nil && !r.ended {
		r.stop = r.table.Listen(conntrack.EveryEvent, r.j.Append)
	}
}

func (r *Recorder) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users == 0 && r.when == OnDemand && !r.ended {
		r.idle = time.AfterFunc(r.keep, r.rest)
	}
}

// rest stops recording, unless a reader came just now.
func (r *Recorder) rest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users > 0 || r.stop == nil || r.ended {
		return
	}
	r.stop()
	r.stop, r.idle = nil, nil
	r.j.Restart()
}

// Stats returns the counters of the journal.
func (r *Recorder) Stats() Stats {
	s := r.j.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Recording = r.stop != nil
	return s
}

// Close ends the recording, and the journal, and its readers with it.
func (r *Recorder) Close() error {
	r.unlisten()
	return r.j.Close()
}

// unlisten ends the recording when all that has happened is recorded, and reports whether
// there was one.
func (r *Recorder) unlisten() bool {
	r.mu.Lock()
	r.ended = true
	if r.idle != nil {
		r.idle.Stop()
	}
	stop := r.stop
	r.stop = nil
	r.mu.Unlock()
	if stop == nil {
		return false
	}
	r.table.Settle()
	stop()
	return true
}
