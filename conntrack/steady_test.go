package conntrack

import (
	"math/rand/v2"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// steadyTrial is what advanceSteady made of an entry.
type steadyTrial struct {
	took  bool
	timer tcpTimer
	entry Entry
}

// steadily takes a segment through advanceSteady, if SteadyTCP would, on a copy of e.
func steadily(e Entry, d tuple.Direction, s *Segment, status Status, l *tcpLimits) (r steadyTrial) {
	before := e
	if steady(status, s) {
		e.word, r.timer, r.took = e.advanceSteady(e.word, d, s, l.maxRetrans)
		if !r.took && e != before {
			panic("advanceSteady changes what it does not take")
		}
	}
	r.entry = e
	return r
}

// compare holds the trial against the entry and the result of the whole tracker.
func (r *steadyTrial) compare(t *testing.T, e *Entry, res tcpResult) {
	t.Helper()
	if !r.took {
		return
	}
	if want := (tcpResult{verdict: Accept, timer: r.timer}); res != want {
		t.Fatalf("the steady way is %+v, the whole tracker says %+v", want, res)
	}
	if r.entry.word != e.word || r.entry.segment != e.segment || r.entry.proto != e.proto {
		t.Fatalf("the steady way leaves %#x %#x %v, the whole tracker %#x %#x %v",
			r.entry.word, r.entry.segment, r.entry.proto, e.word, e.segment, e.proto)
	}
}

// TestSteadySegmentsAreTrackedAsAllOthers: data, acknowledgements, retransmissions and
// what lies beside the window, in connections that live long.
func TestSteadySegmentsAreTrackedAsAllOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	took, left := 0, 0
	for range 300 {
		var e Entry
		var next [tuple.NumDirections]uint32
		status := Confirmed
		limits := tcpLimits{maxRetrans: uint8(r.IntN(maxRetrans + 1))}
		track := func(d tuple.Direction, s Segment) {
			trial := steadily(e, d, &s, status, &limits)
			var c tcpConn
			c.load(&e, e.word)
			res := c.advance(d, &s, status, &limits)
			e.word = c.store(&e)
			trial.compare(t, &e, res)
			if trial.took {
				took++
			} else {
				left++
			}
			if d == tuple.Reply && res.verdict == Accept {
				status |= SeenReply
			}
			if res.assured {
				status |= Assured
			}
		}
		next[0], next[1] = r.Uint32(), r.Uint32()
		scale := Segment{Options: OptWindowScale, WindowScale: uint8(r.IntN(15)), Window: uint16(r.Uint32())}
		syn, ack := scale, scale
		syn.Flags, syn.Seq = SYN, next[0]-1
		ack.Flags, ack.Seq, ack.Ack = SYN|ACK, next[1]-1, next[0]
		track(tuple.Original, syn)
		track(tuple.Reply, ack)
		track(tuple.Original, Segment{Flags: ACK, Seq: next[0], Ack: next[1], Window: 1000})
		for range 200 {
			d := tuple.Direction(r.IntN(2))
			s := Segment{Flags: ACK, Seq: next[d], Ack: next[d.Other()], Window: uint16(r.Uint32()), Payload: uint32(r.IntN(1500))}
			switch r.IntN(12) {
			case 0:
				s.Window = 0
			case 1:
				s.Seq -= uint32(r.IntN(100_000))
			case 2:
				s.Seq += uint32(r.IntN(100_000))
			case 3:
				s.Ack += r.Uint32N(100_000) - 90_000
			case 4:
				s.Options, s.SACK = OptSACK, s.Ack+uint32(r.IntN(3000))
			case 5:
				s.Flags |= PSH | ECE
			case 6:
				s.Payload = 0
			case 7:
				s.Flags = []uint8{RST, SYN, ACK | URG, SYN | ACK, 0}[r.IntN(5)]
				s.Ack += 70_000
			default:
				next[d] += s.Payload
			}
			track(d, s)
			if r.IntN(8) == 0 {
				track(d, s)
			}
		}
	}
	if took < 10_000 || left < 10_000 {
		t.Errorf("%d segments took the steady way, %d did not", took, left)
	}
}
