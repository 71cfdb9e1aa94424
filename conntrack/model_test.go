package conntrack

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// twin is the table as one can read it in a minute: UDP flows in a map.
type twin struct {
	now     Tick
	flows   map[tuple.Tuple]*twinFlow // both tuples of a flow lead to it
	expects []twinExpect              // oldest first
}

// twinExpect expects a flow to a port.
type twinExpect struct {
	port   uint16
	master *twinFlow
	end    Tick
}

const (
	modelExpectMax     = 2
	modelExpectTimeout = 20 * second
)

// expect announces a flow to a port and reports whether it may.
func (m *twin) expect(port uint16, master *twinFlow) bool {
	m.dropExpects(func(x *twinExpect) bool { return m.now.Reached(x.end) || x.port == port && x.master == master })
	mine := 0
	for _, x := range m.expects {
		if x.port == port {
			return false
		}
		if x.master == master {
			mine++
		}
	}
	if mine == modelExpectMax {
		oldest := slices.IndexFunc(m.expects, func(x twinExpect) bool { return x.master == master })
		m.expects = slices.Delete(m.expects, oldest, oldest+1)
	}
	m.expects = append(m.expects, twinExpect{port, master, m.now + modelExpectTimeout})
	return true
}

// expected uses up the expectation for a port and returns its master.
func (m *twin) expected(port uint16) (master *twinFlow) {
	m.dropExpects(func(x *twinExpect) bool {
		if m.now.Reached(x.end) {
			return true
		}
		if x.port == port {
			master = x.master
		}
		return x.port == port
	})
	return master
}

func (m *twin) dropExpects(f func(*twinExpect) bool) {
	m.expects = slices.DeleteFunc(m.expects, func(x twinExpect) bool { return f(&x) })
}

type twinFlow struct {
	p         Proposal
	confirmed bool
	born      Tick
	seen      Tick
	timeout   time.Duration
	replied   bool
	assured   bool
	fixed     bool
	mark      uint32
	labels    uint64
	packets   [2]uint64
}

// idle returns the timeouts before and after a flow is a stream.
func (f *twinFlow) idle() (udp, stream time.Duration) {
	if f.p.Policy != 0 {
		return modelPolicy.UDP, modelPolicy.UDPStream
	}
	return 30 * time.Second, 120 * time.Second
}

// modelPolicy is what rules make of timeouts here.
var modelPolicy = Timeouts{UDP: 10 * time.Second, UDPStream: 50 * time.Second}

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
	m.dropExpects(func(x *twinExpect) bool { return x.master == f })
}

// expire ends what is over.
func (m *twin) expire() {
	for k := range m.flows {
		m.find(k)
	}
}

func (m *twin) claim(p *Proposal) Claim {
	if m.find(p.Original) != nil {
		return OriginalTaken
	}
	if m.find(p.Reply) != nil {
		return ReplyTaken
	}
	f := &twinFlow{p: *p, born: m.now, seen: m.now, mark: p.Mark}
	f.timeout, _ = f.idle()
	m.flows[p.Original], m.flows[p.Reply] = f, f
	return Claimed
}

func (m *twin) packet(f *twinFlow, d tuple.Direction) {
	f.packets[d]++
	timeout, stream := f.idle()
	if f.replied && m.now-f.born >= 2*second {
		timeout, f.assured = stream, true
	}
	if !f.fixed {
		f.seen, f.timeout = m.now, timeout
	}
	f.replied = f.replied || d == tuple.Reply
}

// pair is a table and its twin.
type pair struct {
	t *testing.T
	w *Worker
	m *twin

	policy uint32
}

// Bits of an operation.
const (
	opReply   = 0x80 // the tuple of the reply direction
	opAbort   = 0x40 // the first packet does not leave
	opZones   = 0x20 // the reply direction is in another zone
	opVariant = 0x10
)

// proposal makes one of 16 flows that compete for 8 outside ports in two zones.
func (x *pair) proposal(op, b byte) *Proposal {
	p := proposal(flowTuple(tuple.UDP, int(b&15)))
	p.Original.Zone = uint16(b >> 4 & 1)
	p.Reply.Zone = p.Original.Zone
	p.Reply.DstPort = uint16(60000 + int(b>>5))
	if op&opZones != 0 {
		p.Reply.Zone ^= 1
	}
	if op&opVariant != 0 {
		p.Policy = x.policy
	}
	p.Mark = uint32(b)
	return p
}

// step does one operation on both and compares what they say.
func (x *pair) step(op, arg byte) {
	p := x.proposal(op, arg)
	k := p.Original
	if op&opReply != 0 {
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
		x.unconfirmed(p)
		if op&opAbort != 0 {
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
		x.update(op, arg, k)
	case 14:
		odd := func(mark uint32) bool { return mark&1 == 1 }
		x.w.t.DeleteIf(func(f *Flow) bool { return odd(f.Mark) })
		for _, f := range x.m.flows {
			if odd(f.mark) {
				x.m.remove(f)
			}
		}
	case 15:
		switch {
		case op&opVariant == 0:
			x.compare()
		case op&opAbort == 0:
			x.expect(k, uint16(arg>>4))
		default:
			x.expected(uint16(arg >> 4))
		}
	}
}

// unconfirmed looks whether a flow is the only one that was claimed.
func (x *pair) unconfirmed(p *Proposal) {
	if got := listed(x.w.t.DumpUnconfirmed); len(got) != 1 || got[0] != p.Original {
		x.t.Fatalf("unconfirmed: %v, want %v", got, p.Original)
	}
}

// update changes a flow in one of four ways.
func (x *pair) update(op, arg byte, k tuple.Tuple) {
	f := x.m.find(k)
	want := f != nil
	var u Update
	var change func()
	switch arg & 3 {
	case 0:
		u = Update{What: ChangedMark, Mark: uint32(op), MarkMask: 0xf0}
		change = func() { f.mark = f.mark&^0xf0 ^ uint32(op) }
	case 1:
		u = Update{What: ChangedLabels, Labels: [2]uint64{uint64(op), 0}, Mask: [2]uint64{0xff, 0}}
		change = func() { f.labels = uint64(op) }
	case 2:
		u = Update{What: ChangedStatus, Status: FixedTimeout | Assured}
		change = func() { f.fixed, f.assured = true, true }
	case 3:
		u = Update{What: ChangedTimeout, Timeout: Tick(op) * 10}
		want = want && !f.fixed
		change = func() { f.seen, f.timeout = x.m.now, u.Timeout.Duration() }
	}
	if got := x.w.t.Update(k, &u) == nil; got != want {
		x.t.Fatalf("update %v: %v, want %v", k, got, want)
	} else if got {
		change()
	}
}

// expectPort is a tuple to a port that no flow here has.
func expectPort(port uint16) tuple.Tuple {
	k := flowTuple(tuple.UDP, 77)
	k.DstPort = 1000 + port
	return k
}

// expect announces a flow to a port for the flow with tuple k.
func (x *pair) expect(k tuple.Tuple, port uint16) {
	x.m.expire()
	r, f := x.w.Find(&k), x.m.find(k)
	if f == nil {
		return
	}
	e := &Expectation{Tuple: expectPort(port), Mask: AnyMask()}
	got := x.w.Expect(r, e, ExpectPolicy{Max: modelExpectMax, Timeout: modelExpectTimeout})
	if want := x.m.expect(port, f); (got == nil) != want {
		x.t.Fatalf("%v expects port %d: %v, want %v", k, port, got, want)
	}
}

// expected brings a packet to a port that may be expected.
func (x *pair) expected(port uint16) {
	x.m.expire()
	k := expectPort(port)
	var got Announced
	met, master := x.w.Expected(&k, &got), x.m.expected(port)
	if met != (master != nil) {
		x.t.Fatalf("port %d is expected: %v, want %v", port, met, master != nil)
	}
	if met && (got.Master.Original != master.p.Original || got.Mark != master.mark) {
		x.t.Fatalf("port %d: master %v mark %d, want %v and %d", port, got.Master.Original, got.Mark, master.p.Original, master.mark)
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
		if want.fixed {
			status |= FixedTimeout
		}
		timeout := want.timeout - (x.m.now - want.seen).Duration()
		if f.Tuple[1] != want.p.Reply || f.Mark != want.mark || f.Labels[0] != want.labels || f.Status != status || f.Packets != want.packets ||
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
	var err error
	if x.policy, err = x.w.t.Policy(modelPolicy); err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(ops); i += 2 {
		x.step(ops[i], ops[i+1])
	}
	x.compare()
}

// TestModel does two million operations, with CULVERT_LONG=1 twenty.
func TestModel(t *testing.T) {
	seeds := uint64(100)
	switch {
	case os.Getenv("CULVERT_LONG") != "":
		seeds = 1000
	case testing.Short():
		seeds = 8
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 0))
		ops := make([]byte, 40_000)
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		runModel(t, ops)
	}
}

func FuzzModel(f *testing.F) {
	f.Add([]byte{0, 1, 4, 1, 0x84, 1, 15, 0})                                         // a flow and its answer
	f.Add([]byte{0, 1, 0, 0x31, 0, 0x11, 15, 0})                                      // competing for a reply tuple, and not in another zone
	f.Add([]byte{0x40, 1, 0, 1, 12, 1, 0, 1, 15, 0})                                  // abort, claim, delete, claim
	f.Add([]byte{0, 1, 11, 255, 0, 1, 11, 255, 0x84, 1})                              // expiry, then the same tuple again
	f.Add([]byte{0, 1, 13, 1, 0x9d, 1, 14, 0, 15, 0})                                 // marks
	f.Add([]byte{0, 1, 0x1f, 0x31, 0x5f, 0x30, 0x1f, 0x11, 12, 1, 0x5f, 0x10, 15, 0}) // expectations, met and orphaned
	f.Add([]byte{0x30, 0x31, 0x1f, 0x11, 0x5f, 0x10})                                 // an expectation that ends after the clock has wrapped
	f.Add([]byte{0x30, 1, 13, 2, 4, 1, 13, 3, 0xa4, 1, 13, 1, 15, 0})                 // zones, policy, updates
	f.Fuzz(func(t *testing.T, ops []byte) {
		runModel(t, ops[:min(len(ops), 2000)])
	})
}
