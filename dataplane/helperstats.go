package dataplane

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// Announcement is what a helper asked for, granted or not, and why.
type Announcement struct {
	Helper  string
	Flow    tuple.Tuple      // original one of the master
	From    tuple.Direction  // who sent the payload
	To      []netip.AddrPort // the sockets it names
	Seen    netip.AddrPort   // what the other side is told instead of the first one
	Err     error            // why it was refused; nil: it was not
	Payload []byte           // the bytes that the helper was shown, or the first of them
}

const (
	announcementsKept = 256 // that nobody has read yet
	payloadKept       = 512 // bytes: a message of IRC (RFC 1459 section 2.3)
)

// Announcements returns what helpers ask for, until the engine is closed. When nobody
// reads, or when there are more in a second than HelperBounds.LogPerSec, half of that of
// one client, they are counted and lost.
func (e *Engine) Announcements() <-chan Announcement { return e.helpers.log }

// note logs an announcement, without waiting. A flood of them leaves the log readable,
// and leaves room in it for those of others.
func (h *herald) note(c *alg.Context, group []alg.Expectation, seen netip.AddrPort, err error) {
	all := &h.w.e.helpers
	if !all.maySay(clientOf(c.Flow), h.w.v.bounds.LogPerSec, h.f.charged) {
		all.unlogged.Add(1)
		return
	}
	to := make([]netip.AddrPort, len(group))
	for i := range group {
		to[i] = group[i].To
	}
	a := Announcement{
		Helper: all.set.Name(h.f.number), Flow: c.Tuple[tuple.Original], From: c.Dir, To: to, Seen: seen, Err: err,
		Payload: bytes.Clone(c.Payload[:min(len(c.Payload), payloadKept)]),
	}
	select {
	case all.log <- a:
	default:
		all.unlogged.Add(1)
	}
}

// HelperStats are the counters of all helpers since New.
type HelperStats struct {
	Flows     int    // with a helper now
	Memory    int64  // bytes they keep
	Edited    uint64 // payloads that were changed
	Late      uint64 // edits refused: the bytes had left, or too many were in flight
	Overflows uint64 // messages longer than the helper's limit, passed unread
	Left      uint64 // helpers that left their flow
	Panicked  uint64 // flows that lost their helper because it panicked
	Broken    uint64 // flows that lost it because it returned an edit that cannot be
	Starved   uint64 // flows without helper because of memory
	Unlogged  uint64 // announcements that nobody read in time, or that were too many

	Each []HelperCount // by name
}

// HelperCount are the counters of one helper.
type HelperCount struct {
	Name      string
	Unread    uint64 // messages that it could not read
	Announced uint64 // groups of expectations
	Refused   uint64 // announcements refused
	Last      *RefusedAnnouncement
}

// RefusedAnnouncement says whose payload announced last what it may not.
type RefusedAnnouncement struct {
	Client netip.Addr // who began the flow; for IPv6 the first address of the /64
	Err    error      // one of package alg
	At     time.Time
}

// helperTally counts for one helper, whatever its options.
type helperTally struct {
	name                       string
	unread, announced, refused atomic.Uint64
	last                       atomic.Pointer[RefusedAnnouncement]
}

// tally returns the counters of the helper with a number.
func (h *helpers) tally(number uint32) *helperTally {
	i, _ := slices.BinarySearchFunc(h.tallies, h.set.Name(number), func(t *helperTally, name string) int { return strings.Compare(t.name, name) })
	return h.tallies[i]
}

// Announced returns how many announcements were granted, of all helpers.
func (s *HelperStats) Announced() (n uint64) {
	for i := range s.Each {
		n += s.Each[i].Announced
	}
	return n
}

// Refused returns how many announcements were refused, of all helpers.
func (s *HelperStats) Refused() (n uint64) {
	for i := range s.Each {
		n += s.Each[i].Refused
	}
	return n
}

// HelperStats returns the counters of helpers. Any goroutine may call it.
func (e *Engine) HelperStats() (s HelperStats) {
	h := &e.helpers
	for i := range h.shards {
		h.shards[i].mu.Lock()
		s.Flows += len(h.shards[i].flows)
		h.shards[i].mu.Unlock()
	}
	event := func(ev stream.Event) uint64 { return h.events[ev].Load() }
	s.Memory = h.memory.Load()
	s.Edited, s.Late, s.Overflows = event(stream.Edited), event(stream.Refused), event(stream.Overflow)
	s.Left, s.Panicked, s.Broken = event(stream.Left), event(stream.Panicked), event(stream.Broken)
	s.Starved, s.Unlogged = event(stream.Starved)+h.starving.Load(), h.unlogged.Load()
	s.Each = make([]HelperCount, len(h.tallies))
	for i, t := range h.tallies {
		s.Each[i] = HelperCount{t.name, t.unread.Load(), t.announced.Load(), t.refused.Load(), t.last.Load()}
	}
	return s
}
