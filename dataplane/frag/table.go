package frag

import (
	"iter"
	"sync"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

const (
	timeout4 = 30 * time.Second // RFC 1122 section 3.3.2 asks for 60 to 120 s of hosts; Linux takes 30
	timeout6 = 60 * time.Second // RFC 8200 section 4.5
)

// DefaultDatagrams is how many datagrams may wait for their fragments by default.
const DefaultDatagrams = 16384

// Config bounds a Table. Zero values mean the default.
type Config struct {
	Datagrams          int // most datagrams at a time; default DefaultDatagrams
	DatagramsPerSource int // of one source address; default 1024
	Bytes              int // most bytes of held frames; default 4 MB
	BytesPerSource     int // of one source address; default Bytes/8
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.Datagrams, DefaultDatagrams)
	def(&c.DatagramsPerSource, 1024)
	def(&c.Bytes, 4<<20)
	def(&c.BytesPerSource, max(c.Bytes/8, 1))
	return c
}

// Reason says why a fragment was dropped.
type Reason uint8

const (
	None      Reason = iota
	Overlap          // it partly covers an earlier fragment, or one of the datagram did
	Duplicate        // it was here already
	Limit            // a bound of the table is reached
	Orphan           // its first fragment was refused
	Timeout          // its first fragment never came
	NumReasons
)

var reasonNames = [...]string{
	None:      "none",
	Overlap:   "overlap",
	Duplicate: "duplicate",
	Limit:     "limit",
	Orphan:    "orphan",
	Timeout:   "timeout",
}

var _ [NumReasons]string = reasonNames

func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return "unknown"
}

// Action is what to do with a fragment.
type Action uint8

const (
	Drop   Action = iota // for Verdict.Reason
	First                // look it up as a whole packet, then Learn or Refuse; or Collect
	Follow               // treat it as its first fragment: Verdict.Ref
	Hold                 // copied into the table; Learn or a Whole will give it back
	Whole                // all of a datagram to Collect, this fragment too: Verdict.Held
)

// Verdict is the answer of Track.
type Verdict struct {
	Action Action
	Reason Reason // of Drop
	Ref    uint64 // of Follow: what Learn was told
	Held   *Held  // of Whole: copies of all fragments, in order of arrival; the caller's
}

// Key names a datagram in flight (RFC 791 section 3.2, RFC 8200 section 4.5: IPv6
// does not count the protocol).
type Key struct {
	Src, Dst tuple.Addr
	ID       uint32
	Area     uint16 // keeps equal addresses behind different interfaces apart
	Proto    uint8  // 0 for IPv6
	Family   uint8
}

// KeyOf returns the key of fragment p as it came in, before any translation.
func KeyOf(p *packet.Packet, area uint16) Key {
	t := &p.Tuple
	k := Key{Src: t.Src, Dst: t.Dst, ID: p.FragID, Area: area, Proto: t.Proto, Family: t.Family}
	if t.Family == tuple.IPv6 {
		k.Proto = 0
	}
	return k
}

// Held is a fragment that waited for others. The holder of a list gives it back
// with Free.
type Held struct {
	Packet packet.Packet // parsed, in memory of its own with Headroom
	Next   *Held
}

// All returns the packets of list h.
func (h *Held) All() iter.Seq[*packet.Packet] {
	return func(yield func(*packet.Packet) bool) {
		for x := h; x != nil && yield(&x.Packet); x = x.Next {
		}
	}
}

// Table knows the datagrams in flight. All methods are safe for concurrent use.
type Table struct {
	cfg Config

	mu        sync.Mutex // guards all below
	datagrams map[Key]*datagram
	sources   map[sourceKey]*source
	age       [2]list // by family (familyIndex), oldest first
	holders   list    // datagrams with held fragments, oldest first
	bytes     int     // of held frames
	lost      [NumReasons]uint64
	spare     *datagram // free list, linked by links[byAge].next
	buffers   [][]byte  // free buffers of bufferLen
}

// New makes an empty table.
func New(cfg Config) *Table {
	return &Table{
		cfg:       cfg.withDefaults(),
		datagrams: make(map[Key]*datagram),
		sources:   make(map[sourceKey]*source),
	}
}

// Track takes note of fragment p, received from area at time now (ns, never going
// back), and says what to do with it. p must have been parsed and not yet
// translated.
func (t *Table) Track(p *packet.Packet, area uint16, now int64) Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(now, expireBatch)
	k := KeyOf(p, area)
	d := t.datagrams[k]
	if d == nil {
		d = t.addLocked(k, now)
	}
	if d.state == dead {
		return Verdict{Action: Drop, Reason: d.why}
	}
	start := int(p.FragOff)
	end := start + p.End - p.FragAt
	last := p.Flags&(packet.FragmentFirst|packet.FragmentMore) == 0
	if r := d.place(start, end, last); r != None {
		if r != Duplicate {
			t.killLocked(d, r)
		}
		return Verdict{Action: Drop, Reason: r}
	}
	switch {
	case start == 0:
		return Verdict{Action: First}
	case d.state == collecting:
		return t.collectLocked(d, p)
	case d.state == following:
		v := Verdict{Action: Follow, Ref: d.ref}
		t.forgetIfCompleteLocked(d)
		return v
	}
	return t.holdLocked(d, p)
}

// Collect tells that the datagram with first fragment p, received from area, must
// be seen whole: p and all others are held until the last of them has come, which
// may be p. The Verdict is Hold, Whole or Drop. A datagram that has gone since Track
// said First is dropped for Limit, one that has got a verdict for Orphan.
func (t *Table) Collect(p *packet.Packet, area uint16) Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.datagrams[KeyOf(p, area)]
	switch {
	case d == nil:
		return Verdict{Action: Drop, Reason: Limit}
	case d.state == dead:
		return Verdict{Action: Drop, Reason: d.why}
	case d.state != waiting:
		return Verdict{Action: Drop, Reason: Orphan}
	}
	d.state = collecting
	return t.collectLocked(d, p)
}

// Learn tells what was decided for the first fragment of datagram k: ref, which
// later fragments get. It returns the fragments that waited, in order of arrival,
// which now belong to the caller.
func (t *Table) Learn(k Key, ref uint64) *Held {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.datagrams[k]
	if d == nil || d.state != waiting {
		return nil
	}
	d.state, d.ref = following, ref
	h := t.takeHeldLocked(d)
	t.forgetIfCompleteLocked(d)
	return h
}

// Refuse tells that the first fragment of datagram k, or the flow it belonged to,
// goes nowhere. It returns how many held fragments were dropped with it (as
// Orphan; they are not counted in TakeLost).
func (t *Table) Refuse(k Key) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.datagrams[k]
	if d == nil || d.state == dead {
		return 0
	}
	n := d.numHeld
	t.freeLocked(t.takeHeldLocked(d))
	d.state, d.why = dead, Orphan
	return n
}

// Free takes back the memory of a list that Learn or a Whole returned.
func (t *Table) Free(h *Held) {
	if h == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.freeLocked(h)
}

// Expire ends all datagrams that are too old at time now (ns). Track does a bit
// of it each time; somebody must call Expire when no fragments come.
func (t *Table) Expire(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(now, len(t.datagrams))
}

// TakeLost returns how many held fragments were dropped since the last call
// without a verdict to anybody, by reason.
func (t *Table) TakeLost() [NumReasons]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	lost := t.lost
	t.lost = [NumReasons]uint64{}
	return lost
}

// Usage is how full a Table is.
type Usage struct {
	Datagrams, Sources, Bytes int
}

// Usage returns how full t is.
func (t *Table) Usage() Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Usage{Datagrams: len(t.datagrams), Sources: len(t.sources), Bytes: t.bytes}
}

// Room returns how many bytes of held frames there can be.
func (t *Table) Room() int { return t.cfg.Bytes }
