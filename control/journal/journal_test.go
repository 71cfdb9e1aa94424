package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack"
)

// twin is a journal that keeps everything, and remembers where each record ended.
type twin struct {
	records []conntrack.Record
	ends    []conntrack.Counts
}

func (w *twin) append(r conntrack.Record) {
	var at conntrack.Counts
	if n := len(w.ends); n > 0 {
		at = w.ends[n-1]
	}
	if r.Lost != (conntrack.Counts{}) {
		at.Add(r.Lost)
	} else {
		at[r.Kind]++
	}
	r.Seq = at.Sum()
	r.Event.Seq = r.Seq
	w.records, w.ends = append(w.records, r), append(w.ends, at)
}

// follower checks what a reader gets against the twin.
type follower struct {
	t      *testing.T
	w      *twin
	r      *Reader
	at     conntrack.Counts
	got    int
	missed conntrack.Counts
}

// take reads up to n entries and reports whether there were as many.
func (f *follower) take(n int) bool {
	f.t.Helper()
	var e Entry
	for range n {
		if !f.r.Next(&e) {
			return false
		}
		if e.Restart != NoRestart {
			f.t.Fatalf("restart at %v", e.Cursor)
		}
		if e.Missed != (conntrack.Counts{}) {
			f.at.Add(e.Missed)
			f.missed.Add(e.Missed)
		} else {
			f.at[e.Record.Kind]++
			i := f.w.find(f.at.Sum())
			if i < 0 || f.w.records[i] != e.Record || f.w.ends[i] != f.at {
				f.t.Fatalf("event %d is not what was told:\n%+v", f.at.Sum(), e.Record)
			}
			f.got++
		}
		if e.Cursor.Counts != f.at {
			f.t.Fatalf("cursor %v after %v", e.Cursor.Counts, f.at)
		}
	}
	return true
}

func (w *twin) find(seq uint64) int {
	low, high := 0, len(w.records)
	for low < high {
		if mid := (low + high) / 2; w.records[mid].Seq < seq {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(w.records) || w.records[low].Seq != seq {
		return -1
	}
	return low
}

func newJournal(t testing.TB, opts Options) *Journal {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	j, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestReadersAndTwinAgree lets readers of all kinds come, read a little, leave and
// come back, beside a journal that forgets nothing.
func TestReadersAndTwinAgree(t *testing.T) {
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%v", disk), func(t *testing.T) {
			opts := Options{Memory: MinMemory}
			if disk {
				opts.Directory, opts.Disk = t.TempDir(), MinDisk
			}
			j := newJournal(t, opts)
			var w twin
			rng := rand.New(rand.NewPCG(5, 6))
			var readers []*follower
			for step := range 6000 {
				r := randomRecord(t, rng)
				j.Append(&r)
				w.append(r)
				switch rng.IntN(100) {
				case 0:
					var at conntrack.Counts
					if n := len(w.ends); n > 0 {
						at = w.ends[n-1]
					}
					readers = append(readers, &follower{t: t, w: &w, r: j.Tail(), at: at})
				case 1:
					if len(readers) > 0 { // leaves, and comes back with his cursor's text
						f := readers[rng.IntN(len(readers))]
						cursor, err := ParseCursor(f.r.Cursor().String())
						if err != nil {
							t.Fatal(err)
						}
						f.r.Close()
						if f.r, err = j.From(cursor); err != nil {
							t.Fatal(err)
						}
					}
				case 2: // from somewhere in the past
					i := rng.IntN(len(w.ends))
					f := &follower{t: t, w: &w, at: w.ends[i]}
					var err error
					if f.r, err = j.From(Cursor{j.instance, f.at}); err != nil {
						t.Fatal(err)
					}
					f.take(10)
					f.r.Close()
				case 3:
					if disk && step%10 == 0 {
						j.disk.due()
					}
				}
				if len(readers) > 0 {
					readers[rng.IntN(len(readers))].take(rng.IntN(60))
				}
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
			end := w.ends[len(w.ends)-1]
			gaps := 0
			for _, f := range readers {
				for f.take(1) {
				}
				if f.at != end {
					t.Errorf("a reader is at %v, the end is %v", f.at, end)
				}
				if err := f.r.Wait(context.Background()); err != io.EOF {
					t.Errorf("a reader at the end of a closed journal: %v", err)
				}
				if f.missed.Sum() > 0 {
					gaps++
				}
				f.r.Close()
			}
			if s := j.Stats(); s.Memory > s.MemoryLimit || s.Disk > s.DiskLimit || s.Readers != 0 || gaps == 0 {
				t.Errorf("%d of %d bytes in memory, %d of %d on disk, %d readers; %d missed any", s.Memory, s.MemoryLimit, s.Disk, s.DiskLimit, s.Readers, gaps)
			}
		})
	}
}

// TestReceivedAndMissedAreAll: with readers that stall, sleep and hurry at once, what
// each got and what it was told it missed add up, kind by kind.
func TestReceivedAndMissedAreAll(t *testing.T) {
	const events, count = 200_000, 6
	j := newJournal(t, Options{Memory: MinMemory})
	var sum [count]conntrack.Counts
	var running sync.WaitGroup
	for i := range count {
		r := j.Tail()
		running.Go(func() {
			defer r.Close()
			for n := 0; r.Wait(context.Background()) == nil; n++ {
				var e Entry
				for r.Next(&e) {
					sum[i].Add(e.Missed)
					if e.Missed == (conntrack.Counts{}) {
						sum[i][e.Record.Kind]++
					}
				}
			}
		})
	}
	stalled := j.Tail() // reads nothing until the end
	rng := rand.New(rand.NewPCG(7, 8))
	some := make([]conntrack.Record, 100)
	for i := range some {
		some[i] = randomRecord(t, rng)
	}
	var end conntrack.Counts
	for i := range events {
		r := &some[i%len(some)]
		j.Append(r)
		end.Add(r.Lost)
		if r.Lost == (conntrack.Counts{}) {
			end[r.Kind]++
		}
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	running.Wait()
	for i := range sum {
		if sum[i] != end {
			t.Errorf("reader %d got and missed %v of %v", i, sum[i], end)
		}
	}
	var e Entry
	if !stalled.Next(&e) || e.Missed.Sum() == 0 {
		t.Errorf("a reader that stalled all the time was told %+v", e)
	}
}

func TestReaderWaitsForTheNextEvent(t *testing.T) {
	j := newJournal(t, Options{})
	r := j.Tail()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait of a reader who left: %v", err)
	}
	go j.Append(&conntrack.Record{Kind: conntrack.FlowUpdate})
	if err := r.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	var e Entry
	if !r.Next(&e) || e.Record.Kind != conntrack.FlowUpdate || r.Next(&e) {
		t.Errorf("got %+v", e)
	}
}

func TestCursorsOfAnEndedJournalNameTheFirstThereIs(t *testing.T) {
	j := newJournal(t, Options{})
	j.Append(&conntrack.Record{})
	old := j.Tail().Cursor()
	j.Restart()
	j.Append(&conntrack.Record{Kind: conntrack.FlowDestroy})
	_, err := j.From(old)
	var expired *ExpiredError
	if !errors.As(err, &expired) || expired.First != j.First() || expired.Cursor != old {
		t.Errorf("an old cursor: %v", err)
	}
	future := expired.First
	future.Counts[0] = 99
	if _, err := j.From(future); !errors.Is(err, ErrCursor) {
		t.Errorf("a cursor that was never given: %v", err)
	}
	r, err := j.From(expired.First)
	if err != nil {
		t.Fatal(err)
	}
	var e Entry
	if !r.Next(&e) || e.Record.Kind != conntrack.FlowDestroy {
		t.Errorf("from the first place: %+v", e)
	}
}

// appendMany appends n updates whose mark is their number.
func appendMany(j *Journal, n int) {
	for range n {
		r := conntrack.Record{Kind: conntrack.FlowUpdate}
		r.Event.Type = conntrack.EventUpdate
		r.Event.Flow.Mark = uint32(j.Stats().Events.Sum() + 1)
		r.Event.Flow.Helper = "abcdefghijklmnopqrstuvwxyz"
		j.Append(&r)
	}
}

// drain reads all there is; it returns what it got, missed, and the restarts.
func drain(t *testing.T, r *Reader) (got int, missed uint64, restarts []Restart) {
	t.Helper()
	var e Entry
	for r.Next(&e) {
		switch {
		case e.Restart != NoRestart:
			restarts = append(restarts, e.Restart)
		case e.Missed != conntrack.Counts{}:
			missed += e.Missed.Sum()
		default:
			if uint64(e.Record.Event.Flow.Mark) != e.Record.Seq {
				t.Fatalf("event %d carries number %d", e.Record.Seq, e.Record.Event.Flow.Mark)
			}
			got++
		}
	}
	return got, missed, restarts
}

func TestCursorsLeadThroughARestart(t *testing.T) {
	const before, after = 3000, 500
	opts := Options{Memory: 16 * MinMemory, Directory: t.TempDir(), Disk: 10 * MinDisk}
	j := newJournal(t, opts)
	appendMany(j, 1000)
	r := j.Tail()
	cursor := r.Cursor()
	appendMany(j, before-1000)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = newJournal(t, opts)
	appendMany(j, after)
	r, err := j.From(cursor)
	if err != nil {
		t.Fatal(err)
	}
	got, missed, restarts := drain(t, r)
	if got != before-1000+after || missed != 0 || len(restarts) != 1 || restarts[0] != Clean {
		t.Errorf("got %d, missed %d, restarts %v; want %d, 0 and a clean one", got, missed, restarts, before-1000+after)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	r, err = j.From(cursor) // all of it from files
	if err != nil {
		t.Fatal(err)
	}
	if got, missed, _ := drain(t, r); got != before-1000+after || missed != 0 {
		t.Errorf("of files: got %d, missed %d", got, missed)
	}
}

// TestKilledGatewayIsTold: without its end the first instance may have had more.
func TestKilledGatewayIsTold(t *testing.T) {
	opts := Options{Memory: MinMemory, Directory: t.TempDir(), Disk: 10 * MinDisk}
	j := newJournal(t, opts)
	cursor := j.Tail().Cursor()
	appendMany(j, 100)
	close(j.disk.quit)
	<-j.disk.done
	j.disk.flush() // and then it is killed
	if _, err := New(opts); err == nil || !strings.Contains(err.Error(), "another gateway writes there") {
		t.Errorf("a second gateway in the directory: %v", err)
	}
	j.disk.lock.Close()
	next := newJournal(t, opts)
	r, err := next.From(cursor)
	if err != nil {
		t.Fatal(err)
	}
	if got, missed, restarts := drain(t, r); got != 100 || missed != 0 || len(restarts) != 1 || restarts[0] != Torn {
		t.Errorf("got %d, missed %d, restarts %v; want 100, 0 and a torn one", got, missed, restarts)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

func TestCorruptFilesAreGapsOfKnownSize(t *testing.T) {
	const events = 4000
	opts := Options{Memory: MinMemory, Directory: t.TempDir(), Disk: 10 * MinDisk}
	j := newJournal(t, opts)
	cursor := j.Tail().Cursor()
	for range events / 100 { // many frames
		appendMany(j, 100)
		j.disk.due()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(opts.Directory, "*"+fileSuffix))
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := 5000; at < len(b); at += 100_000 {
		b[at] ^= 0x55
	}
	if err := os.WriteFile(names[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	j = newJournal(t, opts)
	defer j.Close()
	r, err := j.From(cursor)
	if err != nil {
		t.Fatal(err)
	}
	got, missed, restarts := drain(t, r)
	if uint64(got)+missed != events || missed == 0 || got == 0 || len(restarts) != 1 {
		t.Errorf("got %d and missed %d of %d, restarts %v", got, missed, events, restarts)
	}
	if s := j.Stats(); s.Corrupt == 0 {
		t.Error("nobody counted what could not be read")
	}
}

// fullDisk takes no more bytes while it is full.
type fullDisk struct {
	output
	mu   sync.Mutex
	full bool
}

func (d *fullDisk) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (d *fullDisk) WriteAt(b []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		n, _ := d.output.WriteAt(b[:len(b)/2], at)
		return n, errors.New("no space left on device")
	}
	return d.output.WriteAt(b, at)
}

func TestFullDiskIsCountedAndHoldsUpNobody(t *testing.T) {
	opts := Options{Memory: MinMemory, Directory: t.TempDir(), Disk: 10 * MinDisk}
	j := newJournal(t, opts)
	cursor := j.Tail().Cursor()
	close(j.disk.quit) // the test flushes
	<-j.disk.done
	appendMany(j, 10)
	j.disk.flush()
	full := &fullDisk{output: j.disk.out}
	j.disk.out = full
	full.set(true)
	for range 30 {
		appendMany(j, 100)
		j.disk.flush()
	}
	if j.disk.err == nil || !j.Stats().Failing {
		t.Error("the full disk was not noticed")
	}
	full.set(false)
	j.disk.flush()
	s := j.Stats()
	if s.Failing {
		t.Error("the disk counts as full when it has room again")
	}
	if s.Unwritten == 0 {
		t.Error("nothing was lost for the files")
	}
	r, err := j.From(cursor)
	if err != nil {
		t.Fatal(err)
	}
	got, missed, _ := drain(t, r)
	if got+int(missed) != 3010 || missed != s.Unwritten {
		t.Errorf("got %d and missed %d of 3010; %d were not written", got, missed, s.Unwritten)
	}
}

func TestRecordingRestsWhenNobodyReads(t *testing.T) {
	table, err := conntrack.New(conntrack.Config{Max: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	j := newJournal(t, Options{})
	rec := Record(table, j, OnDemand, time.Hour)
	if rec.Stats().Recording {
		t.Error("recording before anybody reads")
	}
	r := rec.Tail()
	cursor := r.Cursor()
	r.Close()
	if !rec.Stats().Recording {
		t.Error("the recording ended with its reader")
	}
	if r, err = rec.From(cursor); err != nil {
		t.Fatalf("coming back: %v", err)
	}
	rec.rest() // too late: somebody reads
	if !rec.Stats().Recording {
		t.Error("the recording ended under a reader")
	}
	r.Close()
	rec.rest()
	if rec.Stats().Recording {
		t.Error("the recording goes on for nobody")
	}
	if _, err := rec.From(cursor); !errors.As(err, new(*ExpiredError)) {
		t.Errorf("a cursor from before the rest: %v", err)
	}
	if err := rec.Close(); err != nil {
		t.Error(err)
	}
}
