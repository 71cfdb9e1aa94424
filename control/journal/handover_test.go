package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
)

// sent returns what another process gets of p.
func sent(t *testing.T, p *Past) *Past {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	for _, fd := range p.Descriptors() {
		same, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, same)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	got := &Past{}
	if err := json.Unmarshal(text, got); err != nil {
		t.Fatal(err)
	}
	if err := got.Adopt(fds); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { got.Close() })
	return got
}

// left ends j for another process.
func left(t *testing.T, j *Journal) *Past {
	t.Helper()
	p, err := j.Leave()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("close after leave: %v", err)
	}
	return sent(t, p)
}

// TestNumbersGoOnInAnotherProcess hands a journal over three times. Whoever read, comes
// back with a cursor from anywhere, and gets or is told to miss each event once.
func TestNumbersGoOnInAnotherProcess(t *testing.T) {
	for claim, with := range map[string]struct {
		disk, elsewhere bool
		memory          int  // of who goes on
		whole           bool // nothing but what rings have lost is missing
	}{
		"in memory":             {memory: 64 * MinMemory, whole: true},
		"in memory that is few": {memory: MinMemory},
		"in files":              {disk: true, memory: 16 * MinMemory, whole: true},
		"in other files":        {disk: true, elsewhere: true, memory: MinMemory},
	} {
		t.Run(claim, func(t *testing.T) {
			opts := Options{Memory: 64 * MinMemory}
			if with.disk {
				opts.Directory, opts.Disk = t.TempDir(), 64*MinDisk
			}
			j := newJournal(t, opts)
			opts.Memory, opts.Later = with.memory, true
			var w twin
			rng := rand.New(rand.NewPCG(11, 12))
			more := func(j *Journal, n int) {
				for range n {
					r := randomRecord(t, rng)
					j.Append(&r)
					w.append(r)
				}
			}
			more(j, 1500)
			reader, began := &follower{t: t, w: &w, r: j.Tail(), at: w.ends[len(w.ends)-1]}, len(w.records)
			for range 3 {
				more(j, 1000)
				reader.take(300)
				if with.elsewhere {
					opts.Directory = t.TempDir()
				}
				next := newJournal(t, opts)
				more(j, 10) // the last that happens there
				more(next, 700)
				p := left(t, j)
				if err := next.Continue(p); err != nil {
					t.Fatal(err)
				}
				more(next, 100)
				cursor := reader.r.Cursor()
				reader.r.Close()
				var err error
				if reader.r, err = next.From(cursor); err != nil {
					t.Fatal(err)
				}
				j = next
			}
			for reader.take(1) {
			}
			end := w.ends[len(w.ends)-1]
			if reader.at != end {
				t.Errorf("the reader is at %v, the end is %v", reader.at, end)
			}
			var lost conntrack.Counts
			for i := range w.records[began:] {
				lost.Add(w.records[began+i].Lost)
			}
			if whole := reader.missed == lost; whole != with.whole {
				t.Errorf("the reader missed %v, rings lost %v", reader.missed, lost)
			}
			for i := 0; i < len(w.ends); i += 397 {
				r, err := j.From(Cursor{j.instance, w.ends[i]})
				if err != nil {
					t.Fatal(err)
				}
				f := &follower{t: t, w: &w, r: r, at: w.ends[i]}
				for f.take(1) {
				}
				if f.at != end {
					t.Fatalf("from event %d: at %v, the end is %v", w.ends[i].Sum(), f.at, end)
				}
				r.Close()
			}
			reader.r.Close()
			if s := j.Stats(); s.Events != end || s.Memory > s.MemoryLimit || with.whole && s.Unwritten != 0 {
				t.Errorf("counts %v of %v, %d of %d bytes, %d are not written", s.Events, end, s.Memory, s.MemoryLimit, s.Unwritten)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReaderHasAllBeforeTheJournalIsLeft: streams end when they have told everything.
func TestReaderHasAllBeforeTheJournalIsLeft(t *testing.T) {
	j := newJournal(t, Options{})
	r := j.Tail()
	defer r.Close()
	appendMany(j, 100)
	left(t, j)
	appendMany(j, 1) // nobody hears of it
	if got, missed, restarts := drain(t, r); got != 100 || missed != 0 || len(restarts) != 0 {
		t.Errorf("got %d, missed %d, restarts %v; want 100", got, missed, restarts)
	}
	if more, wake := r.pending(); more || wake != nil {
		t.Error("the stream does not end")
	}
}

// TestFilesAreOpenedWhenTheyAreFree: when the process before does not say what it leaves,
// its files lead to a restart, as those of a killed one.
func TestFilesAreOpenedWhenTheyAreFree(t *testing.T) {
	opts := Options{Memory: 64 * MinMemory, Directory: t.TempDir(), Disk: 10 * MinDisk}
	j := newJournal(t, opts)
	cursor := j.Tail().Cursor()
	appendMany(j, 100)
	opts.Later = true
	next := newJournal(t, opts)
	appendMany(next, 10)
	if err := next.Continue(nil); err != nil {
		t.Fatal(err)
	}
	if s := next.Stats(); !s.Failing {
		t.Error("nobody is told that events cannot be written")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * flushInterval); next.Stats().Failing; {
		if time.Now().After(deadline) {
			t.Fatal("the files are free, and nothing is written")
		}
		next.disk.due()
		time.Sleep(time.Millisecond)
	}
	r, err := next.From(cursor)
	if err != nil {
		t.Fatal(err)
	}
	if got, missed, restarts := drain(t, r); got != 110 || missed != 0 || len(restarts) != 1 || restarts[0] != Clean {
		t.Errorf("got %d, missed %d, restarts %v; want 110, 0 and a clean one", got, missed, restarts)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

// TestDamagedPastBeginsAnew: what cannot be read is said, and the journal goes on by itself.
func TestDamagedPastBeginsAnew(t *testing.T) {
	for claim, harm := range map[string]func(*Past){
		"a run is cut off":      func(p *Past) { _ = unix.Ftruncate(int(p.memory.Fd()), 10) },
		"a run comes twice":     func(p *Past) { p.Chunks = append(p.Chunks, p.Chunks[0]) },
		"it ends elsewhere":     func(p *Past) { p.Counts[0]++ },
		"runs go backwards":     func(p *Past) { p.Chunks[0].Last, p.Chunks[0].First = p.Chunks[0].First, p.Chunks[0].Last },
		"a run of no size":      func(p *Past) { p.Chunks[0].Size = -1 },
		"a run without an end":  func(p *Past) { p.Chunks[0].Size = 1 << 40 },
		"there are none at all": func(p *Past) { p.Chunks = nil },
	} {
		t.Run(claim, func(t *testing.T) {
			dir := t.TempDir()
			j := newJournal(t, Options{Memory: 64 * MinMemory, Directory: dir, Disk: MinDisk})
			cursor := j.Tail().Cursor()
			appendMany(j, 1000)
			p := left(t, j)
			harm(p)
			next := newJournal(t, Options{Directory: dir, Disk: MinDisk, Later: true})
			appendMany(next, 5)
			err := next.Continue(p)
			if !errors.Is(err, ErrPast) {
				t.Fatalf("%v, want %v", err, ErrPast)
			}
			p.Close() // the lock is free
			next.disk.due()
			for deadline := time.Now().Add(20 * flushInterval); next.Stats().Failing; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("nothing is written")
				}
				next.disk.due()
			}
			r, err := next.From(cursor)
			if err != nil {
				t.Fatal(err)
			}
			if got, _, restarts := drain(t, r); got != 1005 || len(restarts) != 1 || restarts[0] != Torn {
				t.Errorf("got %d, restarts %v; want 1005 and a torn one", got, restarts)
			}
			if err := next.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPastOfAnotherFormIsRefused, and its files are closed.
func TestPastOfAnotherFormIsRefused(t *testing.T) {
	j := newJournal(t, Options{Directory: t.TempDir(), Disk: MinDisk})
	p, err := j.Leave()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	fd, err := unix.FcntlInt(uintptr(p.Descriptors()[0]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := *p
	if err := got.Adopt([]int{fd}); !errors.Is(err, ErrPast) {
		t.Errorf("a file is missing: %v", err)
	}
	got.lock = nil
	if err := got.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join("/proc/self/fd", fmt.Sprint(fd))); err == nil {
		t.Error("a descriptor is still open")
	}
}
