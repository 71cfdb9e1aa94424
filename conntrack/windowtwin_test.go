package conntrack

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// windowTwin is the window tracker once more, to be read in a minute. It is written from
// the description of netfilter's behaviour and shares nothing with tcpwindow.go:
// its positions are whole numbers that never wrap.
type windowTwin struct {
	side    [2]windowSide
	latest  [6]int64 // of the ACK that counted last
	repeats int      // how often it came again, at most 3
}

// windowSide is what is known of one host. A host is met when it has spoken.
type windowSide struct {
	met    bool
	end    int64 // behind the last byte it sent
	limit  int64 // behind the last byte it may send
	window int64 // largest it announced
	ack    int64 // highest it acknowledged, if acked
	scale  uint8 // how many bits its windows are shifted

	acked, scales, sacks, lax, owes bool
}

// near returns the position nearest to what s sent that a sequence number can mean.
func (s *windowSide) near(number uint32) int64 {
	return s.end + int64(int32(number-uint32(s.end)))
}

// begin takes note of the first segment. One that is no SYN comes in the middle of a
// connection: nothing is certain then.
func (w *windowTwin) begin(s *Segment) {
	me := &w.side[0]
	end := me.near(s.Seq) + length(s)
	window := max(int64(s.Window), 1)
	*me = windowSide{met: true, end: end, limit: end, window: window}
	if s.Flags&SYN != 0 {
		me.offer(s)
		return
	}
	me.limit += window
	for i := range w.side {
		w.side[i].lax, w.side[i].sacks = true, true
	}
}

// offer notes the options of a SYN.
func (s *windowSide) offer(seg *Segment) {
	s.sacks = seg.Options&OptSACKPermit != 0
	if s.scales = seg.Options&OptWindowScale != 0; s.scales {
		s.scale = min(seg.WindowScale, 14)
	}
}

// length is how many numbers a segment uses up.
func length(s *Segment) int64 {
	n := int64(s.Payload)
	for _, f := range []uint8{SYN, FIN} {
		if s.Flags&f != 0 {
			n++
		}
	}
	return n
}

// judge says what becomes of a segment. A host whose history is unknown is never
// told off.
func (w *windowTwin) judge(state State, d tuple.Direction, s *Segment) Verdict {
	v := w.strict(state, d, s)
	if w.side[d].lax {
		return Accept
	}
	return v
}

func (w *windowTwin) strict(state State, d tuple.Direction, s *Segment) Verdict {
	me, you := &w.side[d], &w.side[d.Other()]
	has := func(f uint8) bool { return s.Flags&f != 0 }

	seq := me.near(s.Seq)
	end := seq + length(s)
	ack := you.near(s.Ack)
	best := ack // what it acknowledges, selectively too
	if s.Options&OptSACK != 0 && you.sacks {
		best = max(best, you.near(s.SACK))
	}

	// Who is this? A SYN says it, once more as long as the connection is not up.
	opening := state == SynSent || state == SynRecv
	switch {
	case has(SYN) && (!me.met || opening && end > me.end):
		was := *me
		*me = windowSide{met: true, end: end, limit: end, window: max(int64(s.Window), 1), lax: was.lax}
		me.offer(s)
		if d == tuple.Reply && !(me.scales && you.scales) {
			me.scale, you.scale = 0, 0
		}
		if !has(ACK) && (!was.met || d == tuple.Reply) {
			return Accept
		}
	case !me.met:
		me.met, me.end = true, end
		me.window = max(int64(s.Window)<<me.scale, 1)
		me.limit = end + me.window
		if !you.met {
			you.end, you.limit = best, best
		} else if best == you.end+1 {
			you.end++
		}
	}

	// Without an acknowledgement, or in a RST with an empty one, all is right with it.
	if !has(ACK) || has(RST) && s.Ack == 0 {
		ack, best = you.end, you.end
	}
	if has(RST) && s.Seq == 0 && state == SynSent {
		seq, end = me.end, me.end
	}

	// The four bounds.
	reach := max(me.window, 66000)
	notAbove := seq <= me.limit
	notBelow := !you.met || end >= me.end-you.window
	notUnsent := best <= you.end
	notAncient := best >= you.end-reach
	switch {
	case !notAbove && you.met && notBelow && notUnsent && notAncient && end-me.limit < you.window:
		me.end, me.owes = end, true // too far by less than a window
		return Ignore
	case !notAbove:
		return InvalidSeq
	case !notUnsent:
		return InvalidAck
	case !notBelow || !notAncient:
		return Ignore
	}

	// What it tells about both.
	window := int64(s.Window)
	if !has(SYN) {
		window <<= me.scale
	}
	me.window = max(me.window, window+best-ack)
	if end > me.end {
		me.end, me.owes = end, true
	}
	if has(ACK) && (!me.acked || ack > me.ack) {
		me.acked, me.ack = true, ack
	}
	if you.met && end > me.limit {
		you.window += end - me.limit
	}
	if best+window >= you.limit {
		you.limit = best + window
		if window == 0 {
			you.limit++ // a probe
		}
	}
	if ack == you.end {
		you.owes = false
	}
	if has(ACK) && !has(SYN) && !has(FIN) && !has(RST) {
		w.count([6]int64{int64(d), seq, ack, end, int64(s.Window), 1})
	}
	return Accept
}

// count counts equal acknowledgements in a row.
func (w *windowTwin) count(this [6]int64) {
	if this == w.latest {
		w.repeats = min(w.repeats+1, 3)
		return
	}
	w.latest, w.repeats = this, 0
}

// differs says where the tracker and its twin do not know the same.
func (w *windowTwin) differs(c *tcpConn) string {
	if int(c.retrans) != w.repeats {
		return fmt.Sprintf("%d repeats, the twin has %d", c.retrans, w.repeats)
	}
	for d := range w.side {
		s, t := &c.side[d], &w.side[d]
		got := windowSide{
			met: s.maxWin != 0, window: int64(s.maxWin), scale: c.scale[d],
			end: t.near(s.end), limit: t.near(s.maxEnd), ack: t.ack,
			acked: c.flags[d]&sideAcked != 0, scales: c.flags[d]&sideScale != 0, sacks: c.flags[d]&sideSACK != 0,
			lax: c.flags[d]&sideLoose != 0, owes: c.flags[d]&sideUnacked != 0,
		}
		if got.acked && s.maxAck != uint32(t.ack) {
			got.ack = int64(s.maxAck)
		}
		if got != *t {
			return fmt.Sprintf("%v side is %+v, the twin has %+v", tuple.Direction(d), got, *t)
		}
	}
	return ""
}

// walker makes segments that lie at the bounds of what the twin permits.
type walker struct {
	*rand.Rand
	w *windowTwin
}

func choose[T any](r *walker, from ...T) T { return from[r.IntN(len(from))] }

// shaken is a number close to n, mostly n itself.
func (r *walker) shaken(n int64) uint32 {
	return uint32(n + choose[int64](r, 0, 0, 0, 0, 1, -1, 2, -2, 100, -100, 1500, -1500))
}

func (r *walker) segment(d tuple.Direction) Segment {
	me, you := &r.w.side[d], &r.w.side[d.Other()]
	s := Segment{
		Flags:   choose(r, ACK, ACK, ACK, ACK, ACK|PSH, ACK|FIN, SYN, SYN|ACK, RST, RST|ACK),
		Window:  choose[uint16](r, 0, 1, 100, 1000, 1000, 65535),
		Payload: choose[uint32](r, 0, 0, 0, 1, 100, 1460, 60000),
	}
	if me.scale > 7 {
		s.Window = min(s.Window, 1000) // or sides get further apart than sequence numbers can tell
	}
	s.Seq = r.shaken(choose(r, me.end, me.end, me.end, me.limit, me.limit, me.end-you.window, me.limit+you.window, me.end+int64(r.Int32())/4))
	if r.IntN(40) == 0 {
		s.Seq = 0
	}
	back := max(me.window, 66000)
	s.Ack = r.shaken(choose(r, you.end, you.end, you.end, you.end, you.end-back, you.end-1000, you.end+int64(r.Int32())/4))
	if s.Flags&ACK == 0 && r.IntN(2) == 0 {
		s.Ack = 0
	}
	if r.IntN(8) == 0 {
		s.Options |= OptSACK
		s.SACK = r.shaken(choose(r, you.end, you.end-500, int64(s.Ack)))
	}
	if s.Flags&SYN != 0 {
		s.Payload = 0
		s.Options |= choose[uint8](r, 0, OptWindowScale, OptWindowScale, OptWindowScale|OptSACKPermit, OptSACKPermit)
		s.WindowScale = uint8(r.IntN(16))
	}
	return s
}

// TestWindowTwin walks random segments through the tracker and its twin. They
// agree about each, and about everything they know afterwards.
func TestWindowTwin(t *testing.T) {
	walks := 30000
	if testing.Short() {
		walks = 3000
	}
	var verdicts [numVerdicts]int
	for seed := range walks {
		r := &walker{Rand: rand.New(rand.NewPCG(uint64(seed), 66000))}
		if err := r.walk(&verdicts); err != nil {
			t.Fatalf("walk %d: %v", seed, err)
		}
	}
	for _, v := range []Verdict{Accept, Ignore, InvalidSeq, InvalidAck} {
		if verdicts[v] < walks/10 {
			t.Errorf("%v was the verdict %d times in %d walks: the walks are too tame", v, verdicts[v], walks)
		}
	}
}

// walk is one connection.
func (r *walker) walk(verdicts *[numVerdicts]int) error {
	r.w = &windowTwin{}
	first := Segment{Flags: SYN, Seq: r.Uint32(), Window: 1000}
	if r.IntN(4) == 0 {
		first.Flags, first.Ack = ACK, choose(r, 0, r.Uint32())
		first.Payload = choose[uint32](r, 0, 100)
	} else if r.IntN(2) == 0 {
		first.Options, first.WindowScale = OptWindowScale|OptSACKPermit, uint8(r.IntN(16))
	}
	var c tcpConn
	var history []string
	d, s := tuple.Original, first
	fixes := [2]correctionTwin{r.correction(first.Seq), r.correction(first.Ack)}
	for range 40 {
		class := classify(s.Flags)
		cell := tcpNext[d][class][c.state]
		if cell > ignore {
			next := cell - stay
			if c.state == None {
				c.begin(d, &s, class)
				r.w.begin(&s)
			}
			history = append(history, fmt.Sprintf("%v %+v in %v", d, s, c.state))
			other := d.Other()
			fix, near := fixes[other], r.w.side[other].near
			if !fix.covers(near(s.Ack)) || !fix.covers(near(s.SACK)) {
				fix = correctionTwin{pos: near(s.Ack)}
			}
			there := [2]int64{fix.toReceiver(near(s.Ack)), fix.toReceiver(near(s.SACK))} // what the other host's receiver writes
			s.Ack, s.SACK = uint32(fix.toSender(there[0])), uint32(fix.toSender(there[1]))
			seen, a := s, fix.correction()
			seen.Ack, seen.SACK = a.ToSender(uint32(there[0])), a.ToSender(uint32(there[1]))
			got, want := c.window(d, &seen, class, &tcpLimits{}), r.w.judge(c.state, d, &s)
			verdicts[want]++
			if got != want {
				return fmt.Errorf("%v, the twin says %v\n%s", got, want, lines(history))
			}
			if diff := r.w.differs(&c); diff != "" {
				return fmt.Errorf("%s\n%s", diff, lines(history))
			}
			if next == Closed || next == SynSent && c.state > SynSent {
				return nil
			}
			if got == Accept {
				c.state = next
			}
		}
		d = tuple.Direction(r.IntN(2))
		s = r.segment(d)
	}
	return nil
}

func lines(all []string) string {
	text := ""
	for _, l := range all {
		text += l + "\n"
	}
	return text
}
