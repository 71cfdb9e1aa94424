package conntrack

import (
	"errors"
	"sync"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// expecter is a worker with a master flow from 10.0.0.5 to 198.51.100.7.
type expecter struct {
	*Worker
	t      *testing.T
	p      *Proposal
	master Ref
}

func newExpecter(t *testing.T, cfg Config) *expecter {
	x := &expecter{Worker: newWorker(t, cfg), t: t}
	x.p = proposal(flowTuple(tuple.TCP, 0))
	x.p.Mark, x.p.Helper = 77, 1
	x.master = mustAdmit(t, x.Worker, x.p, syn, start)
	return x
}

// data is the expectation of a connection from the master's host to a port.
func (x *expecter) data(port uint16) *Expectation {
	k := x.p.Original
	k.SrcPort, k.DstPort = 0, port
	return &Expectation{Tuple: k, Mask: WholeMask(0), Helper: 1, Data: [4]uint64{uint64(port)}}
}

func (x *expecter) expect(e *Expectation, p ExpectPolicy) {
	x.t.Helper()
	if err := x.Expect(x.master, e, p); err != nil {
		x.t.Fatal(err)
	}
}

// packet is the first packet of a flow to a port.
func (x *expecter) packet(port uint16) tuple.Tuple {
	k := x.p.Original
	k.SrcPort, k.DstPort = 5555, port
	return k
}

var fiveMinutes = ExpectPolicy{Timeout: 300 * second}

func TestExpectedFlowInheritsFromItsMaster(t *testing.T) {
	x := newExpecter(t, Config{Max: 100, HelperName: func(uint32) string { return "ftp" }})
	e := x.data(2000)
	e.Child = 9
	x.expect(e, fiveMinutes)
	var got Announced
	k := x.packet(2000)
	if !x.Expected(&k, &got) {
		t.Fatal("the packet is not expected")
	}
	if got.Expectation != *e || got.Master.Original != x.p.Original {
		t.Errorf("met %+v, want %+v", got, e)
	}
	p := proposal(k)
	got.Inherit(p)
	r := mustAdmit(t, x.Worker, p, syn, start)
	child := x.Entry(r.Slot)
	if child.Mark() != 77 || !child.Status().Has(Expected|Helper) {
		t.Errorf("mark %d status %v", child.Mark(), child.Status())
	}
	if slot, ok := x.Worker.t.Master(child); !ok || slot != x.master.Slot {
		t.Errorf("master in slot %d %v, want %d", slot, ok, x.master.Slot)
	}
	f, _ := x.Worker.t.Get(k)
	if f.Master != x.p.Original || f.Helper != "ftp" {
		t.Errorf("listed with master %v helper %q", f.Master, f.Helper)
	}
	if x.Expected(&k, &got) {
		t.Error("an expectation is met twice")
	}
	x.Kill(x.master)
	if _, ok := x.Worker.t.Master(child); ok {
		t.Error("a master that ended is still there")
	}
	if x.Worker.t.Len() != 1 {
		t.Error("the child ended with its master")
	}
}

func TestWhatMeetsAnExpectation(t *testing.T) {
	other := tuple.AddrFrom4([4]byte{192, 0, 2, 1})
	tests := []struct {
		name    string
		expect  func(*Expectation)
		packet  func(*tuple.Tuple)
		want    bool
		remains int
	}{
		{"any source port", func(*Expectation) {}, func(*tuple.Tuple) {}, true, 0},
		{"another source", func(*Expectation) {}, func(k *tuple.Tuple) { k.Src = other }, false, 1},
		{"another source under no mask", func(e *Expectation) { e.Mask = AnyMask() }, func(k *tuple.Tuple) { k.Src = other }, true, 0},
		{"another port than the one that matters", func(e *Expectation) { e.Mask.SrcPort, e.Tuple.SrcPort = 0xffff, 20 }, func(*tuple.Tuple) {}, false, 1},
		{"another destination", func(*Expectation) {}, func(k *tuple.Tuple) { k.Dst = other }, false, 1},
		{"another destination port", func(*Expectation) {}, func(k *tuple.Tuple) { k.DstPort++ }, false, 1},
		{"another protocol", func(*Expectation) {}, func(k *tuple.Tuple) { k.Proto = tuple.UDP }, false, 1},
		{"another zone", func(*Expectation) {}, func(k *tuple.Tuple) { k.Zone = 3 }, false, 1},
		{"an inactive one", func(e *Expectation) { e.Flags = ExpectInactive }, func(*tuple.Tuple) {}, false, 1},
		{"a permanent one stays", func(e *Expectation) { e.Flags = ExpectPermanent }, func(*tuple.Tuple) {}, true, 1},
	}
	for _, tt := range tests {
		x := newExpecter(t, Config{Max: 100})
		e := x.data(2000)
		tt.expect(e)
		x.expect(e, fiveMinutes)
		k := x.packet(2000)
		tt.packet(&k)
		var got Announced
		if met := x.Expected(&k, &got); met != tt.want || x.Worker.t.ExpectLen() != tt.remains {
			t.Errorf("%s: met %v, %d remain; want %v and %d", tt.name, met, x.Worker.t.ExpectLen(), tt.want, tt.remains)
		}
	}
}

func TestExpectationsEnd(t *testing.T) {
	tests := []struct {
		name string
		end  func(*expecter)
	}{
		{"with their master", func(x *expecter) { x.Kill(x.master) }},
		{"with a master that is deleted", func(x *expecter) { _ = x.Worker.t.Delete(x.p.Original) }},
		{"after their timeout", func(x *expecter) {
			x.Begin(x.now + 4*second)
			x.Begin(x.now + 6*second)
		}},
		{"by command", func(x *expecter) { _ = x.Worker.t.DeleteExpect(x.data(2000).Tuple) }},
		{"by a flush", func(x *expecter) { x.Worker.t.FlushExpect() }},
	}
	for _, tt := range tests {
		x := newExpecter(t, Config{Max: 100})
		e := x.data(2000)
		e.Flags = ExpectPermanent
		x.expect(e, ExpectPolicy{Timeout: 10 * second})
		events := hearExpects(t, x.Worker.t)
		tt.end(x)
		var got Announced
		if k := x.packet(2000); x.Expected(&k, &got) || x.Worker.t.ExpectLen() != 0 {
			t.Errorf("%s: it is still there", tt.name)
			continue
		}
		if e := <-events; e.Type != EventDestroy || e.Expect.Tuple != x.data(2000).Tuple {
			t.Errorf("%s: event %+v", tt.name, e)
		}
	}
}

func TestExpectationIsNotMetAfterItsTimeout(t *testing.T) {
	x := newExpecter(t, Config{Max: 100})
	x.expect(x.data(2000), ExpectPolicy{Timeout: 50})
	x.now += 50 // no sweep has come by
	k := x.packet(2000)
	if x.Expected(&k, new(Announced)) || len(expectations(x.Worker.t)) != 1 {
		t.Error("an expired expectation is met")
	}
}

// expectations lists the destination ports expected.
func expectations(t *Table) (ports []uint16) {
	t.DumpExpect(func(e *Expect) bool {
		ports = append(ports, e.Tuple.DstPort)
		return true
	})
	return ports
}

func TestExpectationLimits(t *testing.T) {
	x := newExpecter(t, Config{Max: 100, MaxExpect: 4})
	two := ExpectPolicy{Max: 2, Timeout: 300 * second}
	for port := uint16(1); port <= 3; port++ {
		x.expect(x.data(port), two)
	}
	var got Announced
	if k := x.packet(1); x.Expected(&k, &got) || x.Worker.t.ExpectLen() != 2 {
		t.Error("the oldest of a full class was not replaced")
	}
	video := x.data(4)
	video.Class = 1
	x.expect(video, two)
	if x.Worker.t.ExpectLen() != 3 {
		t.Error("classes share a limit")
	}
	x.expect(x.data(3), two) // announced again
	if n := x.Worker.t.ExpectLen(); n != 3 {
		t.Errorf("%d expectations after a repetition, want 3", n)
	}
	x.expect(x.data(5), fiveMinutes)
	if err := x.Expect(x.master, x.data(6), fiveMinutes); !errors.Is(err, ErrExpectFull) {
		t.Errorf("the fifth of four: %v, want %v", err, ErrExpectFull)
	}
	if s := x.Worker.t.ExpectStats(); s != (ExpectStats{Create: 6, Delete: 2}) {
		t.Errorf("counted %+v", s)
	}
}

// TestClientHasAShareOfExpectations counts those of all its flows, and no others.
func TestClientHasAShareOfExpectations(t *testing.T) {
	x := newExpecter(t, Config{Max: 100, MaxExpect: 40})
	few := ExpectPolicy{Client: 3, Timeout: 300 * second}
	another := *x
	p := proposal(flowTuple(tuple.TCP, 1))
	another.p, another.master = p, mustAdmit(t, x.Worker, p, syn, start)
	x.expect(x.data(1), few)
	x.expect(x.data(2), few)
	another.expect(another.data(3), few)
	if err := another.Expect(another.master, another.data(4), few); !errors.Is(err, ErrExpectClient) {
		t.Errorf("the fourth of three: %v, want %v", err, ErrExpectClient)
	}
	var got Announced
	if k := x.packet(1); !x.Expected(&k, &got) {
		t.Fatal("the packet is not expected")
	}
	another.expect(another.data(4), few) // its place is free
	stranger := *x
	p = proposal(flowTuple(tuple.TCP, 2))
	p.Original.Src[15]++
	p.Reply, _ = p.Original.Inverse()
	stranger.p, stranger.master = p, mustAdmit(t, x.Worker, p, syn, start)
	stranger.expect(stranger.data(5), few)
	if n := x.Worker.t.FlushExpect(); n != 4 || len(x.Worker.t.expects.held) != 0 {
		t.Errorf("%d were flushed, and %d clients still have some", n, len(x.Worker.t.expects.held))
	}
	if got, want := newExpecter(t, Config{Max: 100, MaxExpect: 4000}).Worker.t.ExpectShare(), 1000; got != want {
		t.Errorf("a share is %d, want %d", got, want)
	}
}

func TestExpectationsThatMaybeConfusedAreRefused(t *testing.T) {
	x := newExpecter(t, Config{Max: 100})
	x.expect(x.data(2000), fiveMinutes)
	other := mustAdmit(t, x.Worker, proposal(flowTuple(tuple.TCP, 9)), syn, start)
	if err := x.Expect(other, x.data(2000), fiveMinutes); !errors.Is(err, ErrExpectClash) {
		t.Errorf("the same of another master: %v, want %v", err, ErrExpectClash)
	}
	wide := x.data(2000)
	wide.Mask = AnyMask()
	if err := x.Expect(x.master, wide, fiveMinutes); !errors.Is(err, ErrExpectClash) {
		t.Errorf("a wider one: %v, want %v", err, ErrExpectClash)
	}
	elsewhere := x.data(2000)
	elsewhere.Data[0] = 1
	if err := x.Expect(x.master, elsewhere, fiveMinutes); !errors.Is(err, ErrExpectClash) {
		t.Errorf("one that leads elsewhere: %v, want %v", err, ErrExpectClash)
	}
	x.Kill(other)
	if err := x.Expect(other, x.data(3000), fiveMinutes); !errors.Is(err, ErrExpectMaster) {
		t.Errorf("of a master that ended: %v, want %v", err, ErrExpectMaster)
	}
}

func TestExpectationOfAnUnconfirmedMasterIsNotMet(t *testing.T) {
	x := newExpecter(t, Config{Max: 100})
	p := proposal(flowTuple(tuple.TCP, 8))
	r, _ := x.Claim(p, start)
	if err := x.Expect(r, x.data(2000), fiveMinutes); err != nil {
		t.Fatal(err)
	}
	k := x.packet(2000)
	if x.Expected(&k, new(Announced)) {
		t.Error("nobody can know about it yet")
	}
	x.Confirm(r, start)
	if !x.Expected(&k, new(Announced)) {
		t.Error("not met after the master was confirmed")
	}
}

func TestExpectationByCommand(t *testing.T) {
	x := newExpecter(t, Config{Max: 100, HelperName: func(uint32) string { return "ftp" }})
	table := x.Worker.t
	events := hearExpects(t, table)
	e := x.data(2000)
	if err := table.CreateExpect(x.p.Reply, *e, 20*second); err != nil {
		t.Fatal(err)
	}
	got, err := table.GetExpect(e.Tuple)
	if err != nil || got.Flags != ExpectUserspace || got.Master != x.p.Original || got.Timeout != Tick(20*second).Duration() || got.HelperName != "ftp" {
		t.Errorf("%+v, %v", got, err)
	}
	if n := <-events; n.Type != EventNew || n.Expect != got {
		t.Errorf("event %+v", n)
	}
	if err := table.CreateExpect(flowTuple(tuple.UDP, 5), *e, 20*second); !errors.Is(err, ErrExpectMaster) {
		t.Errorf("of no flow: %v", err)
	}
	if err := table.DeleteExpect(e.Tuple); err != nil {
		t.Fatal(err)
	}
	if err := table.DeleteExpect(e.Tuple); !errors.Is(err, ErrExpectAbsent) {
		t.Errorf("deleted twice: %v", err)
	}
	if e := <-events; e.Type != EventDestroy {
		t.Errorf("event %+v", e)
	}
}

func TestExpectedAllocatesNothing(t *testing.T) {
	x := newExpecter(t, Config{Max: 100})
	e, k := x.data(2000), x.packet(2000)
	var got Announced
	n := testing.AllocsPerRun(100, func() {
		if x.Expect(x.master, e, fiveMinutes) != nil || !x.Expected(&k, &got) {
			t.Error("not expected")
		}
	})
	if n != 0 {
		t.Errorf("an expectation and its flow allocate %v times", n)
	}
}

// TestExpectationsUnderRace lets workers announce, meet and end masters while
// commands list and flush; the check at the end finds what was left behind.
func TestExpectationsUnderRace(t *testing.T) {
	const workers, rounds = 2, 300
	table := newTable(t, Config{Max: 1000, MaxExpect: 50, Workers: workers})
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			w := table.Worker(i)
			for n := range rounds {
				w.Begin(start + Tick(n))
				p := proposal(flowTuple(tuple.TCP, 1000*i+n%20))
				r, c := w.Claim(p, w.now)
				if c != Claimed {
					continue
				}
				w.Track(r, syn, w.now)
				w.Confirm(r, w.now)
				k := flowTuple(tuple.TCP, 5000)
				k.DstPort = uint16(n % 30)
				_ = w.Expect(r, &Expectation{Tuple: k, Mask: AnyMask()}, ExpectPolicy{Max: 3, Timeout: 30}) // may clash
				var got Announced
				k.DstPort = uint16((n + 7) % 30)
				w.Expected(&k, &got)
				if n%3 == 0 {
					w.Kill(r)
				}
			}
			w.Park()
		})
	}
	for n := range 50 {
		expectations(table)
		if n%10 == 0 {
			table.Flush()
			table.FlushExpect()
		}
	}
	running.Wait()
}
