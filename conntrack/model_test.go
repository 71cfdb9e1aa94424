package conntrack

import (
	"math/rand/v2"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// twin is the table as one can read it in a minute: UDP flows in a map.
type twin struct {
	now   Tick
	flows map[tuple.Tuple]*twinFlow // both tuples of a flow lead to it
}

type twinFlow struct {
	p         Proposal
	confirmed bool
	born      Tick
	seen      Tick
	timeout   time.Duration
	replied   bool
	assured   bool
	mark      uint32
	packets   [2]uint64
}

func (m *twin) find(k tuple.Tuple) *twinFlow {
	f := m.flows[k]
	if f != nil && f.confirmed && m.now-f.seen >= Ticks(f.timeout) {
		m.remove(f)
		return nil
	}
	return f
}

func (m *twin) remove(f *twinFlow) {
	delete(m.flows, f.p.Original)
	delete(m.flows, f.p.Reply)
}

func (m *twin) claim(p *Proposal) Claim {
	if m.find(p.Original) != nil {
		return OriginalTaken
	}
	if m.find(p.Reply) != nil {
		return ReplyTaken
	}
	f := &twinFlow{p: *p, born: m.now, mark: p.Mark, timeout: 30 * time.Second}
	m.flows[p.Original], m.flows[p.Reply] = f, f
	return Claimed
}

func (m *twin) packet(f *twinFlow, d tuple.Direction) {
	f.seen = m.now
	f.packets[d]++
	f.timeout = 30 * time.Second
	if f.replied && m.now-f.born >= 2*second {
		f.timeout, f.assured = 120*time.Second, true
	}
	f.replied = f.replied || d == tuple.Reply
}

// pair is a table and its twin.
type pair struct {
	t *testing.T
	w *Worker
	m *twin
}

// modelProposal makes one of 16 flows that compete for 8 outside ports in two zones.
func modelProposal(b byte) *Proposal {
	p := proposal(flowTuple(tuple.UDP, int(b&15)))
	p.Original.Zone = uint16(b >> 4 & 1)
	p.Reply.Zone = p.Original.Zone
	p.Reply.DstPort = uint16(60000 + int(b>>5))
	p.Mark = uint32(b)
	return p
}

// step does one operation on both and compares what they say.
func (x *pair) step(op, arg byte) {
	p := modelProposal(arg)
	k := p.Original
	if op&0x80 != 0 {
		k = p.Reply
	}
	switch op & 0x0f {
	case 0, 1, 2, 3:
		r, got := x.w.Claim(p, x.m.now)
		if want := x.m.claim(p); got != want {
			x.t.Fatalf("claim %v: %v, want %v", p.Original, got, want)
		} else if got != Claimed {
			return
		}
		if op&0x40 != 0 {
			x.w.Abort(r)
			x.m.remove(x.m.flows[p.Original])
			return
		}
		x.packet(r, p.Original)
		x.w.Confirm(r, x.m.now)
		x.m.flows[p.Original].confirmed = true
	case 4, 5, 6, 7, 8:
		r := x.w.Find(&k)
		if got, want := r.Found(), x.m.find(k) != nil; got != want {
			x.t.Fatalf("find %v: %v, want %v", k, got, want)
		} else if got {
			x.packet(r, k)
		}
	case 9, 10:
		x.m.now += Tick(arg) * 4
		x.w.Begin(x.m.now)
	case 11:
		x.m.now += Tick(arg) * 40
		x.w.Begin(x.m.now)
	case 12:
		f := x.m.find(k)
		if got, want := x.w.t.Delete(k) == nil, f != nil; got != want {
			x.t.Fatalf("delete %v: %v, want %v", k, got, want)
		} else if got {
			x.m.remove(f)
		}
	case 13:
		f := x.m.find(k)
		if got, want := x.w.t.SetMark(k, uint32(op), 0xf0) == nil, f != nil; got != want {
			x.t.Fatalf("set mark of %v: %v, want %v", k, got, want)
		} else if got {
			f.mark = f.mark&^0xf0 | uint32(op)&0xf0
		}
	case 14:
		odd := func(mark uint32) bool { return mark&1 == 1 }
		x.w.t.DeleteIf(func(f *Flow) bool { return odd(f.Mark) })
		for _, f := range x.m.flows {
			if odd(f.mark) {
				x.m.remove(f)
			}
		}
	case 15:
		x.compare()
	}
}

// packet takes a packet with tuple k through both.
func (x *pair) packet(r Ref, k tuple.Tuple) {
	f := x.m.flows[k]
	d := tuple.Original
	if k == f.p.Reply {
		d = tuple.Reply
	}
	if r.Dir != d {
		x.t.Fatalf("%v is found in direction %v, want %v", k, r.Dir, d)
	}
	if v := x.w.Track(r, &Segment{Bytes: 10}, x.m.now); v != Accept {
		x.t.Fatalf("track %v: %v", k, v)
	}
	x.m.packet(f, d)
}

// compare compares everything.
func (x *pair) compare() {
	left := map[tuple.Tuple]*twinFlow{}
	for k := range x.m.flows {
		if f := x.m.find(k); f != nil {
			left[f.p.Original] = f
		}
	}
	x.w.t.Dump(func(f *Flow) bool {
		want := left[f.Tuple[0]]
		if want == nil {
			x.t.Fatalf("listed, but should not be: %v", f.Tuple[0])
		}
		delete(left, f.Tuple[0])
		status := Confirmed
		if want.replied {
			status |= SeenReply
		}
		if want.assured {
			status |= Assured
		}
		timeout := want.timeout - (x.m.now - want.seen).Duration()
		if f.Tuple[1] != want.p.Reply || f.Mark != want.mark || f.Status != status || f.Packets != want.packets ||
			f.Bytes[0] != 10*want.packets[0] || f.Timeout != timeout {
			x.t.Fatalf("%v: got %+v, want %+v status %v timeout %v", f.Tuple[0], f, want, status, timeout)
		}
		return true
	})
	for k := range left {
		x.t.Fatalf("not listed: %v", k)
	}
	for _, err := range x.w.t.Check(x.m.now) {
		x.t.Error(err)
	}
}

// runModel interprets pairs of bytes as operations.
func runModel(t *testing.T, ops []byte) {
	x := &pair{t: t, w: newWorker(t, Config{Max: 1000}), m: &twin{now: start, flows: map[tuple.Tuple]*twinFlow{}}}
	for i := 0; i+1 < len(ops); i += 2 {
		x.step(ops[i], ops[i+1])
	}
	x.compare()
}

func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		ops := make([]byte, 40_000)
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		runModel(t, ops)
	}
}

func FuzzModel(f *testing.F) {
	f.Add([]byte{0, 1, 4, 1, 0x84, 1, 15, 0})            // a flow and its answer
	f.Add([]byte{0, 1, 0, 0x31, 0, 0x11, 15, 0})         // competing for a reply tuple, and not in another zone
	f.Add([]byte{0x40, 1, 0, 1, 12, 1, 0, 1, 15, 0})     // abort, claim, delete, claim
	f.Add([]byte{0, 1, 11, 255, 0, 1, 11, 255, 0x84, 1}) // expiry, then the same tuple again
	f.Add([]byte{0, 1, 13, 1, 0x9d, 1, 14, 0, 15, 0})    // marks
	f.Fuzz(func(t *testing.T, ops []byte) {
		runModel(t, ops[:min(len(ops), 2000)])
	})
}
