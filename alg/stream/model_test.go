package stream

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// braces is a helper for tests: it replaces every word in braces by another one,
// whose length depends on it, and holds a brace until it is closed. Everything else
// is settled as it comes.
type braces struct{}

func (braces) Spec() alg.Spec {
	return alg.Spec{Name: "braces", Protos: []uint8{tuple.TCP}, Classes: []alg.Class{{Name: "none"}}, Limit: 64}
}
func (braces) New(*alg.Flow) alg.Parser { return &bracesParser{} }

type bracesParser struct{}

func (*bracesParser) Inspect(_ *alg.Context, b []byte) (e alg.Edit) {
	for e.Done < len(b) {
		rest := b[e.Done:]
		if rest[0] != '{' {
			if i := bytes.IndexByte(rest, '{'); i >= 0 {
				e.Done += i
				continue
			}
			e.Done = len(b)
			break
		}
		i := bytes.IndexByte(rest, '}')
		if i < 0 {
			e.Rest = alg.Hold
			break
		}
		if text, ok := rewrite(rest[:i+1]); ok {
			e.Replace = append(e.Replace, alg.Replacement{From: e.Done, To: e.Done + i + 1, Text: text})
		}
		e.Done += i + 1
	}
	return e
}

// rewrite is what braces makes of a word with its braces.
func rewrite(word []byte) ([]byte, bool) {
	switch len(word) % 4 {
	case 0:
		return nil, true // gone
	case 1:
		return bytes.Repeat([]byte{'+'}, 3*len(word)), true
	case 2:
		return []byte{'-'}, true
	}
	return nil, false // stays
}

// rewritten is what the receiver of text must get when messages of up to limit bytes are
// read: the slow twin of the session.
func rewritten(text []byte, limit int) (out []byte) {
	for len(text) > 0 {
		if text[0] == '{' {
			if i := bytes.IndexByte(text, '}'); i >= 0 && i < limit {
				if t, ok := rewrite(text[:i+1]); ok {
					out = append(out, t...)
				} else {
					out = append(out, text[:i+1]...)
				}
				text = text[i+1:]
				continue
			}
		}
		out, text = append(out, text[0]), text[1:]
	}
	return out
}

func randomText(r *rand.Rand, n int) []byte {
	var b []byte
	for len(b) < n {
		if r.IntN(3) == 0 {
			b = append(b, '{')
			b = append(b, bytes.Repeat([]byte{'x'}, r.IntN(20))...)
			b = append(b, '}')
		} else {
			b = append(b, bytes.Repeat([]byte{byte('a' + r.IntN(26))}, 1+r.IntN(30))...)
		}
	}
	return b
}

// host is a TCP endpoint that can do what matters here. Its own stream has numbers
// from isn, the peer's from peerISN.
type host struct {
	dir          tuple.Direction // of its packets
	isn, peerISN uint32
	data         []byte
	una, nxt     int // of data; len(data)+1 is the FIN
	nagle        bool
	mss          int

	got  []byte // in order
	late map[int]byte
	fin  int // position of the peer's FIN, -1: not seen
	done bool
}

// segment is a packet of the model.
type segment struct {
	dir      tuple.Direction
	seq, ack uint32
	data     []byte
	fin      bool
	sack     [][2]uint32
	forged   bool // by the gateway
}

func (h *host) segment(from, n int) segment {
	n = min(n, len(h.data)-min(from, len(h.data)))
	at := min(from, len(h.data))
	s := segment{dir: h.dir, seq: h.isn + uint32(from), data: bytes.Clone(h.data[at : at+n])}
	s.fin = from+n == len(h.data) && (h.nxt <= from+n || h.nxt > len(h.data))
	return h.acking(s)
}

// acking adds what h has received.
func (h *host) acking(s segment) segment {
	next := len(h.got)
	if h.done {
		next++
	}
	s.ack = h.peerISN + uint32(next)
	if len(h.late) > 0 {
		at := slices.Min(slices.Collect(maps.Keys(h.late)))
		s.sack = [][2]uint32{{h.peerISN + uint32(at), h.peerISN + uint32(at+1)}}
	}
	return s
}

// send returns new segments as far as the window and Nagle's algorithm allow.
func (h *host) send(r *rand.Rand) (out []segment) {
	for h.nxt <= len(h.data) && h.nxt-h.una < 400 {
		n := min(1+r.IntN(h.mss), len(h.data)-h.nxt)
		if h.nagle && n < h.mss && h.una < h.nxt && h.nxt+n < len(h.data) {
			return out
		}
		s := h.segment(h.nxt, n)
		h.nxt += len(s.data)
		if s.fin {
			h.nxt++
		}
		out = append(out, s)
	}
	return out
}

// receive takes a segment and returns whether it wants to be acknowledged.
func (h *host) receive(s segment) (answer bool, err error) {
	if ack := int(int32(s.ack - h.isn)); ack > h.nxt {
		return false, fmt.Errorf("%v: acknowledges %d, sent up to %d", h.dir, ack, h.nxt)
	} else if ack > h.una {
		h.una = ack
	}
	for _, b := range s.sack {
		if l, r := int(int32(b[0]-h.isn)), int(int32(b[1]-h.isn)); l > r || r > h.nxt {
			return false, fmt.Errorf("%v: selective acknowledgement of %d to %d, sent up to %d", h.dir, l, r, h.nxt)
		}
	}
	at := int(int32(s.seq - h.peerISN))
	for i, b := range s.data {
		switch pos := at + i; {
		case pos < len(h.got): // old: whatever it is
		default:
			if was, ok := h.late[pos]; ok && was != b {
				return false, fmt.Errorf("%v: byte %d is %q, was %q", h.dir, pos, b, was)
			}
			h.late[pos] = b
		}
	}
	if s.fin {
		h.fin = at + len(s.data)
	}
	for {
		b, ok := h.late[len(h.got)]
		if !ok {
			break
		}
		delete(h.late, len(h.got))
		h.got = append(h.got, b)
	}
	h.done = h.fin == len(h.got)
	return len(s.data) > 0 || s.fin, nil
}

// world is two hosts, a gateway between them, and a path that loses, repeats and
// exchanges packets.
type world struct {
	r     *rand.Rand
	s     *Session
	hosts [tuple.NumDirections]*host // by the direction of their packets
	ways  [2][]segment               // to and from the gateway
	loss  int                        // of 100
	moves int                        // of 100 segments, behind which another process goes on
}

func newWorld(seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{r: r, loss: r.IntN(30), moves: max(r.IntN(60)-30, 0)}
	w.s = New(&alg.Attachment{Helper: braces{}, Spec: braces{}.Spec()}, alg.Flow{Tuple: [2]tuple.Tuple{{Proto: tuple.TCP}, {Proto: tuple.TCP}}}, Limits{})
	isn := [2]uint32{r.Uint32(), -uint32(r.IntN(500))}
	for d := range w.hosts {
		w.hosts[d] = &host{
			dir: tuple.Direction(d), isn: isn[d], peerISN: isn[1-d], data: randomText(r, r.IntN(3000)),
			nagle: r.IntN(2) == 0, mss: 1 + r.IntN(100), late: map[int]byte{}, fin: -1,
		}
		w.s.Begin(tuple.Direction(d), isn[d], FromStart)
	}
	return w
}

// through takes a segment through the gateway and returns what comes out for the
// receiver and for the sender.
func (w *world) through(s segment) (on, back []segment, err error) {
	d := s.dir
	o := d.Other()
	ack := s.ack
	s.ack, s.sack = w.s.Ack(d, ack), slices.Clone(s.sack)
	for i, b := range s.sack {
		s.sack[i][0], s.sack[i][1] = w.s.Selected(d, b[0], b[1])
	}
	if w.s.Acked(d, ack) {
		s.ack = w.s.Told(o)
	}
	last := More
	if s.fin {
		last = Fin
	}
	if w.r.IntN(100) < w.moves {
		w.s = moved(w.s)
	}
	out := w.s.Segment(d, s.seq, s.data, last, nil)
	if out.Tell {
		back = append(back, segment{dir: o, seq: w.hosts[d].peerISN, ack: w.s.Told(d), forged: true})
	}
	switch out.Fate {
	case AsItIs:
		s.seq = out.Seq
		on = append(on, s)
	case Empty:
		s.seq, s.data, s.fin = out.Seq, nil, false
		on = append(on, s)
	case Rewritten:
		for i, p := range out.Pieces() {
			q := s
			q.seq, q.data = p.Seq, bytes.Clone(p.Data)
			q.fin = out.Fin && i == out.Num-1
			on = append(on, q)
		}
	}
	for _, q := range on {
		if err := w.right(q); err != nil {
			return nil, nil, err
		}
	}
	return on, back, nil
}

// right compares what leaves the gateway with what the receiver must get. What it
// has already may be anything.
func (w *world) right(s segment) error {
	from, to := w.hosts[s.dir], w.hosts[s.dir.Other()]
	want, at := rewritten(from.data, braces{}.Spec().Limit), int(int32(s.seq-from.isn))
	if end := at + len(s.data); s.fin && end != len(want) {
		return fmt.Errorf("%v: ends at %d of %d", s.dir, end, len(want))
	}
	for i, b := range s.data {
		switch pos := at + i; {
		case pos < len(to.got):
		case pos >= len(want) || want[pos] != b:
			return fmt.Errorf("%v: sends %q at %d of %q; the receiver has %d", s.dir, s.data, at, want[max(at, 0):min(at+len(s.data), len(want))], len(to.got))
		}
	}
	return nil
}

func (w *world) put(way int, list ...segment) {
	for _, s := range list {
		if w.r.IntN(100) < w.loss {
			continue
		}
		w.ways[way] = append(w.ways[way], s)
		if w.r.IntN(20) == 0 {
			w.ways[way] = append(w.ways[way], s)
		}
	}
}

func (w *world) finished() bool {
	for _, h := range w.hosts {
		if !h.done || h.una <= len(h.data) {
			return false
		}
	}
	return true
}

func (w *world) run() error {
	for step := range 200000 {
		if w.finished() {
			return nil
		}
		for _, h := range w.hosts {
			w.put(0, h.send(w.r)...)
		}
		if len(w.ways[0])+len(w.ways[1]) == 0 { // retransmission timeout
			w.loss = max(w.loss-1, 0)
			for _, h := range w.hosts {
				if from := h.una; from < h.nxt {
					if w.r.IntN(3) == 0 { // a probe for the end of it (RFC 8985 section 7)
						from = max(from, h.nxt-1-w.r.IntN(h.mss))
					}
					w.put(0, h.segment(from, min(1+w.r.IntN(3*h.mss), h.nxt-from)))
				}
			}
			continue
		}
		way := w.r.IntN(2)
		if len(w.ways[way]) == 0 {
			way = 1 - way
		}
		i := 0
		if w.r.IntN(3) == 0 {
			i = w.r.IntN(len(w.ways[way]))
		}
		s := w.ways[way][i]
		w.ways[way] = slices.Delete(w.ways[way], i, i+1)
		if way == 0 {
			on, back, err := w.through(s)
			if err != nil {
				return fmt.Errorf("step %d: %w", step, err)
			}
			w.put(1, on...)
			w.put(1, back...)
			continue
		}
		to := w.hosts[s.dir.Other()]
		answer, err := to.receive(s)
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if answer && !s.forged {
			w.put(0, to.acking(segment{dir: to.dir, seq: to.isn + uint32(to.nxt)}))
		}
	}
	return fmt.Errorf("no end: sent %d of %d and %d of %d", w.hosts[0].una, len(w.hosts[0].data), w.hosts[1].una, len(w.hosts[1].data))
}

// TestStreamsArriveAsEdited: whatever the path does, both hosts get exactly the
// edited stream of the other one, and are never told of bytes they did not send.
func TestStreamsArriveAsEdited(t *testing.T) {
	runs := uint64(1500)
	if testing.Short() {
		runs = 200
	}
	for seed := range runs {
		w := newWorld(seed)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for d, h := range w.hosts {
			if got, want := w.hosts[1-d].got, rewritten(h.data, braces{}.Spec().Limit); !bytes.Equal(got, want) {
				t.Fatalf("seed %d: %v arrived as\n%q, want\n%q", seed, h.dir, got, want)
			}
		}
		for _, d := range []tuple.Direction{tuple.Original, tuple.Reply} {
			if h := &w.s.half[d]; len(h.buf)+len(h.owed)+len(h.late) != 0 {
				t.Fatalf("seed %d: %v keeps %d, %d, %d at the end", seed, d, len(h.buf), len(h.owed), len(h.late))
			}
		}
	}
}
