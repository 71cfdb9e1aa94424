package journal

import (
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"

	"example.com/culvert/conntrack"
)

// Bounds of Options.
const (
	MinMemory = 64 << 10
	MinDisk   = 1 << 20
)

// Options say how much a Journal keeps.
type Options struct {
	Memory    int    // bytes of the latest events; at least MinMemory
	Directory string // of files with older ones; empty: none
	Disk      int64  // bytes of all files; at least MinDisk
	Log       *slog.Logger

	Later bool // another process may have the files: they are opened by Continue, which has to be called
}

// Stats are the counters and fill of a Journal.
type Stats struct {
	Recording   bool // or nobody wants to know
	Readers     int
	Events      conntrack.Counts // recorded or lost
	RingLost    conntrack.Counts // of these, found no room in a worker's ring
	Memory      int              // bytes that are kept
	MemoryLimit int
	Disk        int64  // bytes of files
	DiskLimit   int64  // 0: none
	Missed      uint64 // events that readers were told they missed
	Unwritten   uint64 // events that no file could take
	Failing     bool   // files take nothing at the moment
	Corrupt     uint64 // bytes of files that could not be read
}

// Journal keeps the latest events for any number of readers, none of whom holds up
// anybody. Its methods are safe for concurrent use.
type Journal struct {
	opts Options
	disk *disk // nil: none

	missed  atomic.Uint64
	readers atomic.Int64

	mu       sync.Mutex // held for no longer than it takes to copy an event
	instance uint64
	counts   conntrack.Counts // at the end
	lost     conntrack.Counts // of counts, by rings
	chunks   []*chunk         // the oldest first; the last one grows
	size     int              // bytes that chunks hold
	body     []byte           // of the record that is appended
	wake     chan struct{}    // closed with the next record; nil: nobody waits
	ended    bool
}

// chunk is a run of records. What was published of data does not change.
type chunk struct {
	first, last conntrack.Counts // before its first record, after its last
	data        []byte           // its capacity is never exceeded
}

// largestChunk is how large a chunk becomes, bytes. At least eight make a journal.
const largestChunk = 256 << 10

// New makes a journal. With a directory, what is in its files can be read, too; the
// error is about that directory.
func New(opts Options) (*Journal, error) {
	opts.Memory = max(opts.Memory, MinMemory)
	j := &Journal{opts: opts, instance: newInstance()}
	if opts.Directory == "" || opts.Later {
		return j, nil
	}
	var err error
	j.disk, err = openDisk(j, opts)
	return j, err
}

// newInstance returns a number that no other journal has.
func newInstance() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// Append adds a record at the end and wakes those who wait for it. It never waits for
// a reader or for the disk. Record.Seq is not looked at: the journal numbers its own.
func (j *Journal) Append(r *conntrack.Record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended {
		return
	}
	j.body = appendRecord(j.body[:0], r)
	c := j.roomLocked(len(j.body) + binary.MaxVarintLen32)
	c.data = binary.AppendUvarint(c.data, uint64(len(j.body)))
	c.data = append(c.data, j.body...)
	if r.Lost != (conntrack.Counts{}) {
		j.counts.Add(r.Lost)
		j.lost.Add(r.Lost)
	} else {
		j.counts[r.Kind]++
	}
	c.last = j.counts
	j.wakeLocked()
}

// roomLocked returns a chunk with room for n bytes. j.mu must be held.
func (j *Journal) roomLocked(n int) *chunk {
	if len(j.chunks) > 0 {
		if c := j.chunks[len(j.chunks)-1]; cap(c.data)-len(c.data) >= n {
			return c
		}
	}
	c := &chunk{first: j.counts, last: j.counts, data: make([]byte, 0, max(n, min(largestChunk, j.opts.Memory/8)))}
	j.size += cap(c.data)
	j.boundLocked(0)
	j.chunks = append(j.chunks, c)
	if j.disk != nil {
		j.disk.due()
	}
	return c
}

// boundLocked lets the oldest chunks go that are too many, but for so many. j.mu must be
// held.
func (j *Journal) boundLocked(least int) {
	for len(j.chunks) > least && j.size > j.opts.Memory {
		j.size -= cap(j.chunks[0].data)
		j.chunks = append([]*chunk(nil), j.chunks[1:]...)
	}
}

func (j *Journal) wakeLocked() {
	if j.wake != nil {
		close(j.wake)
		j.wake = nil
	}
}

// firstLocked returns the oldest place in memory. j.mu must be held.
func (j *Journal) firstLocked() Cursor {
	if len(j.chunks) == 0 {
		return Cursor{j.instance, j.counts}
	}
	return Cursor{j.instance, j.chunks[0].first}
}

// Restart forgets everything: recording was interrupted, and cursors of before lead
// nowhere. It is for a journal without a directory.
func (j *Journal) Restart() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.instance, j.counts, j.lost, j.chunks, j.size = newInstance(), conntrack.Counts{}, conntrack.Counts{}, nil, 0
}

// Close ends the journal: readers come to their end, and what is to be written is. After
// Leave it does nothing.
func (j *Journal) Close() error {
	j.mu.Lock()
	left := j.ended
	j.ended = true
	j.wakeLocked()
	j.mu.Unlock()
	if j.disk != nil && !left {
		return j.disk.close()
	}
	return nil
}

// Stats returns the counters. RingLost, Recording are the Recorder's to know, too.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	s := Stats{Events: j.counts, RingLost: j.lost, Memory: j.size, MemoryLimit: j.opts.Memory}
	j.mu.Unlock()
	s.Missed, s.Readers = j.missed.Load(), int(j.readers.Load())
	if j.disk != nil {
		j.disk.stats(&s)
	}
	return s
}
