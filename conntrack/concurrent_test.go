package conntrack

import (
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestConcurrentWorkers lets workers make, use and end flows of the same small
// set of tuples while commands dump, mark and delete, and checks meanwhile and
// afterwards. Slots are few, so they are reused all the time; each worker
// verifies that an entry it found is and stays the one it looked for. With
// CULVERT_LONG=1 there are four million packets.
func TestConcurrentWorkers(t *testing.T) {
	const workers, keys = 3, 200
	rounds := 500
	if os.Getenv("CULVERT_LONG") != "" {
		rounds = 21_000
	}
	table := newTable(t, Config{Max: 150, Workers: workers, Timestamp: true, EventRing: 64})
	type life struct {
		e   *Entry
		gen uint32
	}
	var ended sync.Map
	table.OnEnd(func(e *Entry, _ Tick) {
		if _, twice := ended.LoadOrStore(life{e, e.Gen()}, nil); twice {
			t.Errorf("an entry ended twice: %v", e.Tuple(tuple.Original))
		}
	})
	sub := table.Subscribe(16, AllEvents)
	go func() {
		last := uint64(0)
		for e := range sub.Events() {
			if e.Seq <= last {
				t.Errorf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
	}()
	var running sync.WaitGroup
	var tick atomic.Uint32
	for i := range workers {
		running.Go(func() { hammer(t, table.Worker(i), &tick, rounds, keys) })
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	for n := 0; ; n++ {
		select {
		case <-done:
			for _, err := range table.Check(table.Now()) {
				t.Error(err)
			}
			slotsComeHome(t, table, Tick(tick.Load()))
			return
		default:
			command(t, table, n, keys)
		}
	}
}

// slotsComeHome ends all flows and counts the free slots.
func slotsComeHome(t *testing.T, table *Table, now Tick) {
	table.Flush()
	dying := func() bool {
		found := false
		table.DumpDying(func(*Flow) bool { found = true; return false })
		return found
	}
	for dying() { // until the pump has made room for their DESTROY
		for _, w := range table.workers {
			w.Begin(now)
		}
		runtime.Gosched()
	}
	for range 2 {
		for _, w := range table.workers {
			w.Begin(now)
			w.Park()
		}
	}
	for _, w := range table.workers {
		w.Begin(now) // nobody holds anything now
	}
	free := table.slots.free.n + table.control.slots.n
	for _, w := range table.workers {
		free += w.slots.n
	}
	if high := int(table.slots.high.Load()); free != high || table.Len() != 0 {
		t.Errorf("%d of %d slots are free after all %d flows ended", free, high, table.Len())
	}
}

// hammer is one worker's life.
func hammer(t *testing.T, w *Worker, tick *atomic.Uint32, rounds, keys int) {
	rng := rand.New(rand.NewPCG(uint64(w.seat), 1))
	batch := make([]tuple.Tuple, MaxBatch)
	refs := make([]Ref, MaxBatch)
	for range rounds {
		now := Tick(tick.Add(3))
		w.Begin(now)
		for i := range batch {
			p := proposal(flowTuple(tuple.UDP, rng.IntN(keys)))
			batch[i] = p.Original
			if rng.IntN(2) == 0 {
				batch[i] = p.Reply
			}
		}
		w.Lookup(batch, refs)
		for i, r := range refs {
			if !r.Found() {
				r = hammerNew(w, batch[i], rng, now)
			}
			if !r.Found() {
				continue
			}
			w.Track(r, data, now)
			if got := w.Entry(r.Slot).Tuple(r.Dir); got != batch[i] {
				t.Errorf("slot %d became %v under a worker that looked for %v", r.Slot, got, batch[i])
			}
			if rng.IntN(30) == 0 {
				w.Kill(r)
			}
		}
		if rng.IntN(20) == 0 {
			w.Park()
		}
	}
	w.Park()
}

// hammerNew admits a flow in its original direction.
func hammerNew(w *Worker, k tuple.Tuple, rng *rand.Rand, now Tick) Ref {
	if k.DstPort != 443 {
		return Ref{}
	}
	r, c := w.Claim(proposal(k), now)
	switch {
	case c == OriginalTaken:
		return r
	case c != Claimed:
		return Ref{}
	case rng.IntN(10) == 0:
		w.Abort(r)
		return Ref{}
	}
	w.Confirm(r, now)
	return r
}

// command does one of the things the control side does.
func command(t *testing.T, table *Table, n, keys int) {
	k := flowTuple(tuple.UDP, n%keys)
	switch n % 5 {
	case 0:
		for _, err := range table.Check(table.Now()) {
			t.Error(err)
		}
	case 1:
		table.Dump(func(f *Flow) bool {
			if r, _ := f.Tuple[0].Inverse(); r != f.Tuple[1] {
				t.Errorf("a listed flow is made of two: %v and %v", f.Tuple[0], f.Tuple[1])
			}
			return true
		})
	case 2:
		_ = table.Delete(k) // may not be there
	case 3:
		_ = table.SetMark(k, uint32(n), 0xff) // may not be there
	case 4:
		if n%50 == 4 {
			table.Flush()
		}
	}
}

// TestCommitRace: of workers that want the same external port, one gets it.
func TestCommitRace(t *testing.T) {
	const workers, ports = 3, 2000
	table := newTable(t, Config{Max: workers * ports, Workers: workers})
	var winners [ports]atomic.Int32
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			w := table.Worker(i)
			w.Begin(start)
			for port := range ports {
				p := proposal(flowTuple(tuple.UDP, i*ports+port))
				p.Reply = tuple.Tuple{SrcPort: 53, DstPort: uint16(port), Proto: tuple.UDP, Family: tuple.IPv4}
				if r, c := w.Claim(p, start); c == Claimed {
					w.Confirm(r, start)
					winners[port].Add(1)
				}
			}
			w.Park()
		})
	}
	running.Wait()
	for port := range winners {
		if n := winners[port].Load(); n != 1 {
			t.Errorf("port %d has %d owners", port, n)
		}
	}
}

// TestBothDirectionsOnTwoWorkers: no packet of a TCP flow is lost from the
// counts, and its state stays whole, wherever the packets are handled.
func TestBothDirectionsOnTwoWorkers(t *testing.T) {
	const packets = 20_000
	table := newTable(t, Config{Max: 10, Workers: 2})
	a := table.Worker(0)
	a.Begin(start)
	p := proposal(flowTuple(tuple.TCP, 1))
	r := mustAdmit(t, a, p, syn, start)
	a.Track(Ref{r.Slot, tuple.Reply}, &Segment{Flags: SYN | ACK, Seq: 5000, Ack: 1001, Window: 1000}, start)
	a.Track(r, &Segment{Flags: ACK, Seq: 1001, Ack: 5001, Window: 1000}, start)
	var running sync.WaitGroup
	for i := range 2 {
		running.Go(func() {
			w := table.Worker(i)
			w.Begin(start)
			for n := range packets {
				d := tuple.Direction(n & 1)
				s := Segment{Bytes: 40, Flags: ACK, Seq: 1001, Ack: 5001, Window: 1000}
				if d == tuple.Reply {
					s.Seq, s.Ack = s.Ack, s.Seq
				}
				if v := w.Track(Ref{r.Slot, d}, &s, start); v != Accept {
					t.Errorf("packet %d: %v", n, v)
					return
				}
			}
		})
	}
	running.Wait()
	e := table.Entry(r.Slot)
	if e.Packets(0) != packets+2 || e.Packets(1) != packets+1 || e.State() != Established {
		t.Errorf("%d/%d packets in %v, want %d/%d in ESTABLISHED", e.Packets(0), e.Packets(1), e.State(), packets+2, packets+1)
	}
}

// TestRacingPacketsOfOneSocketAreBothTracked: two workers meet the first packets
// of one UDP socket at the same time, and nat gave each another port (the A and
// AAAA questions of a resolver). Both packets go through the winner's entry.
func TestRacingPacketsOfOneSocketAreBothTracked(t *testing.T) {
	const workers, sockets = 2, 2000
	table := newTable(t, Config{Max: 2 * workers * sockets, Workers: workers})
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			w := table.Worker(i)
			w.Begin(start)
			for n := range sockets {
				p := proposal(flowTuple(tuple.UDP, n))
				p.Reply.DstPort = uint16(10_000 + workers*n + i)
				r, c := w.Claim(p, start)
				if c != Claimed && c != OriginalTaken {
					t.Errorf("socket %d: %v", n, c)
					return
				}
				if v := w.Track(r, data, start); v != Accept {
					t.Errorf("socket %d: %v", n, v)
				}
				w.Confirm(r, start)
			}
			w.Park()
		})
	}
	running.Wait()
	if n := table.Len(); n != sockets {
		t.Errorf("%d entries for %d sockets", n, sockets)
	}
	packets := uint64(0)
	table.Dump(func(f *Flow) bool {
		packets += f.Packets[tuple.Original]
		return true
	})
	if packets != workers*sockets {
		t.Errorf("%d packets counted of %d", packets, workers*sockets)
	}
	if s := table.Stats(); s.InsertFailed != s.ClashResolve || s.Insert != sockets {
		t.Errorf("%d flows, %d lost claims, %d of them resolved", s.Insert, s.InsertFailed, s.ClashResolve)
	}
}

// TestTableNeverHoldsMoreThanItsMax has workers fill one table at the same time, again and
// again the last place.
func TestTableNeverHoldsMoreThanItsMax(t *testing.T) {
	for _, profile := range []Profile{Linux, RFC} {
		const most, workers, rounds = 64, 4, 5000
		table := newTable(t, Config{Max: most, Workers: workers, Profile: profile, Shares: Shares{Floor: 1 << 20}})
		var running sync.WaitGroup
		for i := range workers {
			running.Go(func() {
				w := table.Worker(i)
				for n := range rounds {
					w.Begin(start)
					k := flowTuple(tuple.UDP, i*rounds+n)
					r, c := w.Claim(proposal(k), w.now)
					if got := table.Len(); got > most {
						t.Errorf("%d flows in a table of %d", got, most)
						return
					}
					if c == Claimed {
						w.Track(r, data, w.now)
						w.Confirm(r, w.now)
						if profile == RFC {
							w.Kill(r)
						}
					}
				}
				w.Park()
			})
		}
		running.Wait()
	}
}
