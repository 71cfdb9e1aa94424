package conntrack

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Entry is the record of one flow: three cache lines without pointers, in
// memory the collector does not know. The first line is what both directions
// share, the others are all that a packet in the original or the reply
// direction writes besides. The shared one comes first because the compiler
// touches the beginning of a record to see that it is not nil: in the line of a
// direction, that would be a cache miss for each packet in the other one.
//
// Both tuples and gen are written only while the slot belongs to nobody else.
// Everything else is shared by the rules in the package comment.
//
// A *Entry is valid until the end of the batch of the worker that asked for it.
type Entry struct {
	word    uint32    // lock and protocol state, see wordLock
	status  uint32    // Status; changed with atomic or
	timeout uint32    // ticks of idleness until it expires
	mark    uint32    //
	gen     uint32    // how often the slot was used before
	rule    uint32    // rule that admitted the flow
	ext     uint32    // index of the extension record, 0 if none
	segment uint32    // TCP: see tcpConn.last
	proto   [8]uint32 // TCP: two tcpSide; others: see area

	half [tuple.NumDirections]half
}

// half is the part of an entry that one direction owns.
type half struct {
	tuple   tuple.Tuple
	packets uint64
	bytes   uint64
	seen    uint32 // tick of the last packet that counted
	hint    uint32 // the engine's
}

// begin makes h that of a flow whose packets in this direction have tuple t.
func (h *half) begin(t *tuple.Tuple, now Tick) {
	h.tuple.Set(t)
	h.packets, h.bytes, h.seen, h.hint = 0, 0, uint32(now), 0
}

// Use of Entry.proto by protocols that take no lock.
const (
	areaStream   = 0 // tick from which a UDP flow is a stream
	areaOwner    = 1 // + direction: who counts, see account.go
	areaStamp    = 3 // epoch when a second worker came
	areaVisitors = 4 // + 2 * direction: what others than the owner counted
)

const wordLock = 1 << 31

// The layout is a promise: three lines, each field in its line.
var (
	_ [192]byte = [unsafe.Sizeof(Entry{})]byte{}
	_ [64]byte  = [unsafe.Sizeof(half{})]byte{}
	_ [64]byte  = [unsafe.Offsetof(Entry{}.half)]byte{}
	_ [128]byte = [unsafe.Sizeof(extension{})]byte{}
)

// extension holds what few flows have. It is allocated with the entry and
// freed with it.
type extension struct {
	start, stop uint64    // ns since 1970
	labels      [2]uint64 // 128 connection labels
	policy      uint32    // of timeouts; see Table.Policy
	helper      uint32    // number of the helper, 0 if none
	master      Master    // of an expected flow
	seq         [tuple.NumDirections]Correction
	turn        uint32 // odd while seq is being changed
	_           [3]uint32
}

// Tuple returns the tuple of packets in direction d.
func (e *Entry) Tuple(d tuple.Direction) tuple.Tuple { return e.half[d].tuple }

// Answer makes to the tuple that a packet in direction d leaves with: that of the
// answer to what comes in the other direction. There is one, or there were no entry.
func (e *Entry) Answer(d tuple.Direction, to *tuple.Tuple) { to.Answer(&e.half[d.Other()&1].tuple) }

// Opposite returns the tuple of packets in the other direction than d, which those in
// direction d leave as the answer to. It is not to be changed.
func (e *Entry) Opposite(d tuple.Direction) *tuple.Tuple { return &e.half[d.Other()&1].tuple }

// Proto returns the IP protocol.
func (e *Entry) Proto() uint8 { return e.half[tuple.Original].tuple.Proto }

// Status returns the status bits.
func (e *Entry) Status() Status { return Status(word.Load32(&e.status)) }

// SetStatus sets bits; it never clears any. Assured is set by trackers and by
// Table.Update only, which keep count.
func (e *Entry) SetStatus(bits Status) { atomic.OrUint32(&e.status, uint32(bits)) }

// Choice returns Proposal.Choice.
func (e *Entry) Choice() uint8 { return uint8(e.Status()>>choiceShift) & choiceMask }

// Holds returns Proposal.Holds.
func (e *Entry) Holds() uint8 { return e.Status().holds() }

// Mark returns the connection mark.
func (e *Entry) Mark() uint32 { return word.Load32(&e.mark) }

// SetMark sets the connection mark without an event.
func (e *Entry) SetMark(m uint32) { atomic.StoreUint32(&e.mark, m) }

// Hint returns the word the engine left for direction d, 0 in a new entry.
func (e *Entry) Hint(d tuple.Direction) uint32 { return word.Load32(&e.half[d].hint) }

// SetHint leaves a word for the next packet in direction d.
func (e *Entry) SetHint(d tuple.Direction, h uint32) { word.Store32(&e.half[d].hint, h) }

// Rule returns the id of the rule that admitted the flow.
func (e *Entry) Rule() uint32 { return word.Load32(&e.rule) }

// Gen tells entries apart that used the same slot after each other. It changes
// when the slot is free again; between its end and that an entry is Dying.
func (e *Entry) Gen() uint32 { return word.Load32(&e.gen) }

// Timeout returns how long the flow may be idle.
func (e *Entry) Timeout() Tick { return Tick(word.Load32(&e.timeout)) }

// State returns the protocol state, None for protocols without.
func (e *Entry) State() State { return stateOf(e.Proto(), word.Load32(&e.word)) }

// Packets returns how many packets direction d had.
func (e *Entry) Packets(d tuple.Direction) uint64 {
	packets, _ := e.counters(d)
	return packets
}

// Bytes returns how many bytes of IP packets direction d had.
func (e *Entry) Bytes(d tuple.Direction) uint64 {
	_, bytes := e.counters(d)
	return bytes
}

// deadline returns the tick at which the entry expires unless a packet comes.
func (e *Entry) deadline() Tick {
	seen := later(Tick(word.Load32(&e.half[tuple.Original].seen)), Tick(word.Load32(&e.half[tuple.Reply].seen)))
	return seen + e.Timeout()
}

// see notes the time of a packet in direction d. Batches of two workers may
// carry times in the other order; the later one stays.
func (e *Entry) see(d tuple.Direction, now Tick) {
	if seen := &e.half[d].seen; now.Sub(Tick(word.Load32(seen))) > 0 {
		word.Store32(seen, uint32(now))
	}
}

// expired reports whether a confirmed entry's time is over. For packets in
// direction d the other line is looked at only when it matters.
func (e *Entry) expired(d tuple.Direction, now Tick) bool {
	timeout := e.Timeout()
	if !now.Reached(Tick(word.Load32(&e.half[d].seen)) + timeout) {
		return false
	}
	return e.Status().Has(Confirmed) && now.Reached(Tick(word.Load32(&e.half[d.Other()].seen))+timeout)
}

// lock takes the entry's lock and returns the rest of the word.
func (e *Entry) lock() uint32 {
	for spins := 0; ; spins++ {
		w := atomic.LoadUint32(&e.word)
		if w&wordLock == 0 && atomic.CompareAndSwapUint32(&e.word, w, w|wordLock) {
			return w
		}
		if spins > 100 {
			runtime.Gosched() // the holder lost its processor
		}
	}
}

// unlock stores the new state w and lets the next one in.
func (e *Entry) unlock(w uint32) { word.Store32(&e.word, w&^wordLock) }

// copyTo makes a copy of e whose words are each whole. Words of one copy may
// be from different moments while packets pass.
func (e *Entry) copyTo(c *Entry) {
	for d := range e.half {
		from, to := &e.half[d], &c.half[d]
		to.tuple.Set(&from.tuple)
		to.packets, to.bytes = e.counters(tuple.Direction(d))
		to.seen, to.hint = word.Load32(&from.seen), word.Load32(&from.hint)
	}
	c.word, c.status = word.Load32(&e.word)&^wordLock, word.Load32(&e.status)
	c.timeout, c.mark = word.Load32(&e.timeout), word.Load32(&e.mark)
	if c.half[tuple.Original].tuple.Proto == tuple.SCTP {
		c.proto[0], c.proto[1] = word.Load32(&e.proto[0]), word.Load32(&e.proto[1])
	}
	c.gen, c.rule, c.ext = word.Load32(&e.gen), word.Load32(&e.rule), word.Load32(&e.ext)
}

// copyTo copies the words of x that change while others read them.
func (x *extension) copyTo(c *extension) {
	c.start, c.stop = word.Load64(&x.start), word.Load64(&x.stop)
	c.labels[0], c.labels[1] = word.Load64(&x.labels[0]), word.Load64(&x.labels[1])
	c.master = x.master // does not change
	c.policy, c.helper = word.Load32(&x.policy), word.Load32(&x.helper)
	for d := range x.seq {
		c.seq[d] = x.seq[d].load()
	}
}
