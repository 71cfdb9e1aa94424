package stream

import (
	"cmp"
	"net/netip"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Event is something that happened to a flow with its helper, for counters.
type Event uint8

const (
	Edited   Event = iota // payload was replaced
	Refused               // an edit came too late, or was one too many
	Overflow              // a message longer than the helper's limit was passed unread
	Left                  // the helper left the flow
	Panicked              // it was taken away, because it panicked
	Broken                // it was taken away, because it returned what cannot be
	Starved               // it was taken away, because there was no memory
	Unread                // the helper could not read a message
	NumEvents
)

// Session is a flow with its helper. Its methods may not run at the same time.
type Session struct {
	ctx     alg.Context
	flow    alg.Flow
	helper  alg.Helper
	parser  alg.Parser // nil: gone
	sized   alg.Sized  // parser, nil if it does not say how large it is
	limit   int
	keep    Limits
	gateway alg.Gateway
	half    [tuple.NumDirections]half
	made    []made // announced in the call that is on its way
	raw     []byte // scratch: bytes of the sender
	text    []byte // what Out refers to
	Events  [NumEvents]uint32

	Observer Observer // nil: nobody wants to see
}

// Observer sees what a parser makes of what it is shown.
type Observer interface {
	// Inspected says what the parser returned for view. taken is false when its
	// replacements came too late, or were too many. Both are valid until it returns.
	Inspected(view []byte, e *alg.Edit, taken bool)
}

// made is an announcement that can be taken back.
type made struct {
	class uint8
	to    netip.AddrPort
}

// maxAnnounced bounds the announcements of one call.
const maxAnnounced = 32

// New returns the session of a flow that gets the helper of a, within keep.
func New(a *alg.Attachment, f alg.Flow, keep Limits) *Session {
	s := &Session{flow: f, helper: a.Helper, limit: a.Spec.Limit}
	s.keep = Limits{Edits: cmp.Or(keep.Edits, defaultEdits), Late: cmp.Or(keep.Late, defaultLate)}
	s.flow.Options = a.Options
	s.renew()
	return s
}

// renew has the helper make a parser that knows nothing.
func (s *Session) renew() {
	s.parser = nil
	if !s.contain(func() { s.parser = s.helper.New(&s.flow) }) {
		s.Events[Panicked]++
	}
	s.sized, _ = s.parser.(alg.Sized)
}

// History says whether the parser sees a stream from its first byte on.
type History uint8

const (
	FromStart History = iota
	InMiddle          // it was picked up later
)

// Begin says that the first byte of direction d to be seen has number seq.
func (s *Session) Begin(d tuple.Direction, seq uint32, h History) {
	s.half[d].begin(seq, h == InMiddle)
}

// Open says that a SYN has opened direction d, whose first byte has number first. When
// that is not the connection that the session knows, both directions and the parser begin
// anew: nothing that was said before vouches for what is said now. A helper that has left
// or was lost stays away.
func (s *Session) Open(d tuple.Direction, first uint32) {
	h := &s.half[d]
	if h.begun && h.first == first {
		return // a retransmission
	}
	if h.begun {
		s.half = [tuple.NumDirections]half{}
		if s.Helped() {
			s.renew()
		}
	}
	s.half[d].begin(first, false)
}

// Answered says that a SYN of direction d has taken the other one's, which answers for
// all of that direction's bytes before acked. If the session does not know them, they
// belong to another connection, of which d is the first direction to be met.
func (s *Session) Answered(d tuple.Direction, acked uint32) {
	h := &s.half[d.Other()]
	if h.begun && !before(acked, h.first) && !before(h.end(), acked) {
		return // with data in the SYN (RFC 7413) it is beyond the first one
	}
	h.begin(acked, false)
}

// Resume says that the receiver's numbers of direction d, which has begun, are ahead of
// the sender's by shift: edits of an earlier session made it so.
func (s *Session) Resume(d tuple.Direction, shift uint32) { s.half[d].base = shift }

// Begun reports whether direction d has its first number.
func (s *Session) Begun(d tuple.Direction) bool { return s.half[d].begun }

// Helped reports whether the helper is still there.
func (s *Session) Helped() bool { return s.parser != nil }

// Plain reports whether nothing in direction d needs the session any more: its
// helper has left, and numbers are all that differs.
func (s *Session) Plain(d tuple.Direction) bool {
	h := &s.half[d]
	return s.parser == nil && len(h.edits) == 0 && len(h.owed) == 0 && len(h.buf) == 0
}

// Shift returns how much the receiver's numbers of direction d are ahead, before and
// from the sender's number pos on: the latest correction.
func (s *Session) Shift(d tuple.Direction) (pos, before, after uint32) {
	h := &s.half[d]
	before, after = h.base, h.base
	for i := range h.edits {
		pos, before = h.edits[i].end(), after
		after += h.edits[i].grown()
	}
	return pos, before, after
}

// Allow gives the helper other options from now on.
func (s *Session) Allow(o alg.Options) { s.flow.Options = o }

// Dismiss takes the helper away. What it has changed stays as it is.
func (s *Session) Dismiss() {
	if s.parser != nil {
		s.lose(Left)
	}
}

// Swap has the session write what it returns into other memory, and returns the one it
// used until now: what was returned before stays as it is, for as long as its new owner
// leaves it alone.
func (s *Session) Swap(memory []byte) []byte {
	old := s.text
	s.text = memory
	return old
}

// Memory returns how many bytes the session keeps.
func (s *Session) Memory() int {
	n := s.half[tuple.Original].memory() + s.half[tuple.Reply].memory() + cap(s.raw) + cap(s.text)
	if s.sized != nil {
		n += s.sized.Size()
	}
	return n
}

// Seq returns the receiver's number for a number of the sender of direction d.
func (s *Session) Seq(d tuple.Direction, x uint32) uint32 { return s.half[d].toReceiver(x) }

// Ack returns what a packet in direction d that acknowledges y says to the sender it
// is for.
func (s *Session) Ack(d tuple.Direction, y uint32) uint32 {
	h := &s.half[d.Other()]
	x := h.toSender(y)
	if h.begun && before(x, h.told) {
		return h.told
	}
	return x
}

// Selected returns what block [left, right) of a selective acknowledgement in
// direction d is for the sender it is for: the bytes of which the receiver has all that
// became of them. It is empty if there is none.
func (s *Session) Selected(d tuple.Direction, left, right uint32) (uint32, uint32) {
	h := &s.half[d.Other()]
	left, right = h.toSenderUp(left), h.toSender(right)
	return earliest(left, right), right
}

// Acked says that a packet in direction d that acknowledges y is right. It reports
// whether the sender may be told more: see Told.
func (s *Session) Acked(d tuple.Direction, y uint32) bool {
	h := &s.half[d.Other()]
	if !h.begun {
		return false
	}
	x := h.toSender(y)
	if before(h.end()+1, x) { // bytes went another way: there is nothing to wait for
		h.begin(x, true)
		h.base = y - x
	}
	x = earliest(x, h.sent) // behind it is a FIN
	if !before(h.acked, x) {
		return false
	}
	h.acked = x
	h.retire(x)
	more := h.tell()
	h.trim()
	return more
}

// Told returns up to where the sender of direction d may be told that its bytes have
// arrived.
func (s *Session) Told(d tuple.Direction) uint32 { return latest(s.half[d].told, s.half[d].acked) }

// Late appends to blocks what has come of direction d behind a hole, as runs [first,
// behind the last) of its sender's numbers: the run with seq first (RFC 2018 section 4),
// and as many as fit.
func (s *Session) Late(d tuple.Direction, seq uint32, blocks [][2]uint32) [][2]uint32 {
	late := s.half[d].late
	for i := 0; i < len(late); {
		run := [2]uint32{late[i].seq, late[i].end()}
		for i++; i < len(late) && !before(run[1], late[i].seq); i++ {
			run[1] = latest(run[1], late[i].end())
		}
		latestRun := !before(seq, run[0]) && before(seq, run[1])
		switch {
		case len(blocks) < cap(blocks):
			blocks = append(blocks, run)
		case latestRun:
			blocks[len(blocks)-1] = run
		}
		if n := len(blocks) - 1; latestRun {
			blocks[0], blocks[n] = blocks[n], blocks[0]
		}
	}
	return blocks
}

// Piece is a run of bytes for the receiver, the first with his number Seq.
type Piece struct {
	Seq  uint32
	Data []byte
}

// Out is what becomes of a segment.
type Out struct {
	Fate Fate
	Seq  uint32   // AsItIs, Empty: its number for the receiver
	Send [2]Piece // Rewritten: what goes instead, so many
	Num  int      // of them, the last of which may be empty
	Fin  bool     // Rewritten: its FIN goes with the last piece
	Tell bool     // the sender has to be told what Told says
}

func (o *Out) add(seq uint32, b []byte) {
	o.Send[o.Num] = Piece{seq, b}
	o.Num++
}

// Pieces returns what goes instead of a segment.
func (o *Out) Pieces() []Piece { return o.Send[:o.Num] }

// Fate says what happens to a segment.
type Fate uint8

const (
	AsItIs    Fate = iota // it goes on with another sequence number
	Rewritten             // other bytes go
	Empty                 // it goes without its payload, because of its acknowledgement
	Crowded               // it does not go: there was no room to keep it
)

// Segment takes a segment of direction d, with payload b from seq on, through the
// helper. What Out refers to is valid until the next call.
func (s *Session) Segment(d tuple.Direction, seq uint32, b []byte, last Last, g alg.Gateway) Out {
	h := &s.half[d]
	if !h.begun {
		h.begin(seq, true)
	}
	end := seq + uint32(len(b))
	switch {
	case len(b) == 0 && last == More:
		if before(h.sent, seq) && !before(h.end(), seq) {
			seq = h.sent // the receiver does not know what is held
		}
		return Out{Fate: AsItIs, Seq: h.toReceiver(seq)}
	case len(h.late) == 0 && s.Plain(d):
		h.sent = latest(h.sent, end)
		h.settled, h.at = h.sent, h.sent
		return Out{Fate: AsItIs, Seq: h.toReceiver(seq)}
	}
	was := state{sent: h.sent, end: h.end()}
	if before(was.end, end) && !h.store(seq, b, s.keep.Late) {
		return Out{Fate: Crowded}
	}
	if before(h.end(), seq) { // behind a hole; a FIN will come again
		return Out{Fate: Empty, Seq: h.toReceiver(h.sent), Tell: true}
	}
	if before(was.end, h.end()) || last == Fin || s.parser == nil {
		s.release(d, last, g)
	}
	out := s.answer(h, was, seq, b, last)
	h.trim()
	return out
}

// Last says whether a segment is the end of its stream.
type Last uint8

const (
	More Last = iota // not as far as one can tell
	Fin              // it has a FIN
)

// state is how a direction was before a segment came.
type state struct{ sent, end uint32 }

// release asks the parser about what is not settled, and moves h.sent to where
// bytes may go.
func (s *Session) release(d tuple.Direction, last Last, g alg.Gateway) {
	h := &s.half[d]
	rest := alg.Pass
	for s.parser != nil && before(h.settled, h.end()) {
		view := h.buf[h.settled-h.at:]
		view = view[:min(len(view), s.limit)]
		e := s.inspect(d, h.gap, view, g)
		taken := h.record(&e, view, s.keep.Edits)
		if s.Observer != nil {
			s.Observer.Inspected(view, &e, taken)
		}
		if !taken {
			s.takeBack()
			s.Events[Refused]++
		} else if len(e.Replace) > 0 {
			s.Events[Edited]++
		}
		h.settled += uint32(e.Done)
		if e.Done > 0 {
			h.gap = false
		}
		if rest = e.Rest; rest == alg.Leave || e.Done == 0 && len(view) < s.limit {
			break
		}
		if e.Done == 0 {
			h.settled += uint32(len(view))
			h.gap = true
			s.Events[Overflow]++
		}
	}
	if s.parser == nil || last == Fin {
		h.settled = h.end()
	}
	h.sent = latest(h.sent, h.settled)
	if rest != alg.Hold {
		h.sent = h.end()
	}
	// Behind a replacement by nothing the receiver has what it had before.
	h.acked = earliest(latest(h.acked, h.toSender(h.toReceiver(h.acked))), h.sent)
}

// record makes edits of the replacements in e, whose bytes view begin at h.settled. It
// reports false, and changes nothing, when one is out of reach or there would be more
// than limit.
func (h *half) record(e *alg.Edit, view []byte, limit int) bool {
	known := len(h.edits)
	for _, r := range e.Replace {
		at, old := h.settled+uint32(r.From), uint32(r.To-r.From)
		if n := len(h.edits); n > known && h.edits[n-1].end() == at {
			prev := &h.edits[n-1]
			prev.text = append(prev.text, r.Text...)
			prev.old += old
			continue
		}
		h.edits = append(h.edits, edit{at, old, append([]byte(nil), r.Text...)})
	}
	for i := range h.edits[known:] {
		h.edits[known+i].widen(h.settled, view[:e.Done])
	}
	if len(h.edits) > limit || len(h.edits) > known && before(h.edits[known].at, h.sent) {
		h.edits = h.edits[:known]
		return false
	}
	return true
}

// widen gives an insertion a byte of the sender's to replace, the next one or else
// the one before: view are those around it, from number from on.
func (e *edit) widen(from uint32, view []byte) {
	switch at := e.at - from; {
	case e.old > 0:
	case at < uint32(len(view)):
		e.text, e.old = append(e.text, view[at]), 1
	default:
		e.text = append([]byte{view[at-1]}, e.text...)
		e.at, e.old = e.at-1, 1
	}
}

// answer makes the Out of a segment that came when the direction was as was says.
func (s *Session) answer(h *half, was state, seq uint32, b []byte, last Last) Out {
	end := seq + uint32(len(b))
	from, to := seq, earliest(end, h.sent) // again
	if before(was.sent, h.sent) {          // and what is new
		from, to = earliest(seq, was.sent), h.sent
	}
	if before(to, from) {
		from, to = h.sent, h.sent
	}
	// A retransmission also stands for what we have acknowledged ourselves.
	owed := piece{seq: h.told - uint32(len(h.owed))}
	lost := h.told
	again := before(seq, was.sent) || last == Fin && !before(was.sent, end)
	if !again || len(h.owed) == 0 || !before(owed.seq, from) {
		lost = owed.seq
	} else if !before(lost, from) {
		from, lost = owed.seq, owed.seq
	}
	held := before(was.sent, was.end) && before(seq, was.end)
	if from == seq && to == end && lost == owed.seq && !held && !h.touches(from, to) {
		return Out{Fate: AsItIs, Seq: h.toReceiver(seq), Tell: h.tell()}
	}

	out := Out{Fate: Rewritten, Fin: last == Fin && to == end}
	s.raw = h.raw(s.raw[:0], owed.seq, lost, seq, b)
	s.text = h.render(s.text[:0], owed.seq, s.raw)
	n := len(s.text)
	s.raw = h.raw(s.raw[:0], from, to, seq, b)
	s.text = h.render(s.text, from, s.raw)
	if n > 0 {
		out.add(h.toReceiver(owed.seq), s.text[:n:n])
	}
	if n == 0 || n < len(s.text) || out.Fin { // a FIN has a place of its own
		out.add(h.toReceiver(from), s.text[n:])
	}
	untold := before(seq, h.told) && before(h.acked, h.told) // what said so was lost
	out.Tell = h.tell() || untold || to != from && len(s.text) == 0
	if len(s.text) == 0 && !out.Fin {
		out.Fate, out.Seq = Empty, h.toReceiver(h.sent)
	}
	return out
}

// Datagram takes a datagram of direction d through the helper. It returns what goes
// in its place, and whether that differs; it is valid until the next call.
func (s *Session) Datagram(d tuple.Direction, b []byte, g alg.Gateway) ([]byte, bool) {
	if s.parser == nil || len(b) == 0 {
		return b, false
	}
	e := s.inspect(d, false, b, g)
	if len(e.Replace) == 0 {
		return b, false
	}
	s.Events[Edited]++
	if s.Observer != nil {
		s.Observer.Inspected(b, &e, true)
	}
	s.text = s.text[:0]
	at := 0
	for _, r := range e.Replace {
		s.text = append(append(s.text, b[at:r.From]...), r.Text...)
		at = r.To
	}
	s.text = append(s.text, b[at:]...)
	return s.text, true
}

// inspect asks the parser. Of one that fails nothing remains.
func (s *Session) inspect(d tuple.Direction, gap bool, view []byte, g alg.Gateway) (e alg.Edit) {
	s.ctx = alg.Context{Flow: &s.flow, Dir: d, Gap: gap, Payload: view, Gateway: s}
	s.gateway, s.made = g, s.made[:0]
	why := Panicked
	if s.contain(func() { e = s.parser.Inspect(&s.ctx, view) }) {
		if !s.flow.Stream() {
			e.Done = len(view)
		}
		why = Broken
		if e.Fits(len(view)) {
			s.Events[Unread] += uint32(e.Unread)
			if e.Rest == alg.Leave {
				s.lose(Left)
			}
			return e
		}
	}
	s.takeBack()
	s.lose(why)
	return alg.Edit{Rest: alg.Leave}
}

// contain runs f and reports whether it returned.
func (s *Session) contain(f func()) (returned bool) {
	defer func() { _ = recover() }()
	f()
	return true
}

// lose takes the helper away from the flow.
func (s *Session) lose(why Event) {
	s.parser, s.sized = nil, nil
	s.Events[why]++
}

// Starve takes the helper away because there is no memory for its bytes.
func (s *Session) Starve() {
	if s.parser != nil {
		s.lose(Starved)
	}
}

// Announce implements alg.Gateway: it notes what can be taken back.
func (s *Session) Announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	if len(s.made)+len(group) > maxAnnounced || len(group) == 0 {
		return netip.AddrPort{}, alg.ErrLimit
	}
	ep, err := s.gateway.Announce(c, group)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := range group {
		s.made = append(s.made, made{group[i].Class, group[i].To})
	}
	return ep, nil
}

// takeBack withdraws what was announced in the call that is on its way.
func (s *Session) takeBack() {
	for _, m := range s.made {
		s.gateway.Withdraw(&s.ctx, m.class, m.to)
	}
	s.made = s.made[:0]
}

// Withdraw implements alg.Gateway.
func (s *Session) Withdraw(c *alg.Context, class uint8, to netip.AddrPort) int {
	return s.gateway.Withdraw(c, class, to)
}

// Subnet implements alg.Gateway.
func (s *Session) Subnet(c *alg.Context) netip.Prefix { return s.gateway.Subnet(c) }

// SeenAs implements alg.Gateway.
func (s *Session) SeenAs(c *alg.Context, proto uint8, ep netip.AddrPort) (netip.AddrPort, bool) {
	return s.gateway.SeenAs(c, proto, ep)
}

// Keep implements alg.Gateway.
func (s *Session) Keep(c *alg.Context, d time.Duration) { s.gateway.Keep(c, d) }
