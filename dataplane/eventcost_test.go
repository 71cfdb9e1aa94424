package dataplane

import (
	"runtime"
	"testing"
	"time"

	"example.com/culvert/conntrack"
)

// audience is who wants to know of events while packets pass.
type audience struct {
	name string
	come func(t *testing.T, table *conntrack.Table) (leave func())
}

var audiences = []audience{
	{"nobody", func(*testing.T, *conntrack.Table) func() { return func() {} }},
	{"a reader that drains", func(_ *testing.T, table *conntrack.Table) func() {
		s := table.Subscribe(1<<12, conntrack.AllEvents)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range s.Events() {
			}
		}()
		return func() { s.Close(); <-done }
	}},
	{"a reader that stalls", func(t *testing.T, table *conntrack.Table) func() {
		s := table.Subscribe(1, conntrack.AllEvents)
		return func() {
			if s.Missed() == 0 {
				t.Error("the reader that stalls missed nothing")
			}
			s.Close()
		}
	}},
	{"a pump that stalls", func(t *testing.T, table *conntrack.Table) func() {
		goOn := make(chan struct{})
		stop := table.Listen(conntrack.EveryEvent, func(*conntrack.Record) { <-goOn })
		return func() {
			close(goOn)
			stop()
		}
	}},
}

// watchedTraffic is a worker with packets of flows, one in 64 of which begins a flow while
// another one ends, and somebody who may want to know.
type watchedTraffic struct {
	e    *Engine
	w    *Worker
	now  int64
	best time.Duration // processor time of the fastest run
}

func newWatchedTraffic(t *testing.T, who audience) *watchedTraffic {
	const lasting, begin = 1 << 10, 1
	e, lan, _ := bulkLab(t, 1<<14)
	x := &watchedTraffic{e: e, w: e.Worker(0), now: 1e12, best: time.Hour}
	old, fresh := uint32(0), uint32(lasting)
	lan.load(batchOf(udp("10.0.0.5:1", "198.51.100.7:53", body("payload"))), func(frames [][]byte) {
		for i, f := range frames {
			if i < begin {
				retarget(f, fresh)
				fresh++
				continue
			}
			retarget(f, old)
			old = (old + 1) % lasting
		}
	})
	t.Cleanup(who.come(t, e.Table()))
	for range 300 { // until as many flows end as begin
		x.step()
	}
	return x
}

// step passes one batch, in whose time a flow becomes idle for a fifth of a second more.
func (x *watchedTraffic) step() {
	x.now += int64(200 * time.Millisecond)
	x.w.Step(x.now)
}

// run passes batches at a quarter of the rate that would be possible: whoever sleeps in
// between has to be woken again and again.
func (x *watchedTraffic) run() {
	const batches = 100
	sum := time.Duration(0)
	for range batches {
		before := threadTime()
		x.step()
		took := threadTime() - before
		sum += took
		for end := time.Now().Add(3 * took); time.Now().Before(end); {
			runtime.Gosched()
		}
	}
	x.best = min(x.best, sum/batches)
}

// TestReadersOfEventsCostPacketsLittle compares the processor time of packets while nobody
// wants to know of events with that while somebody reads them, stalls, or stalls even the
// pump that puts them in order. It wants the machine for itself (make unit). With -short,
// as under the race detector, it only wants the events to be told or counted.
func TestReadersOfEventsCostPacketsLittle(t *testing.T) {
	const want, most, runs = 1.05, 1.15, 100 // between them: a busy machine
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all []*watchedTraffic
	for _, who := range audiences {
		all = append(all, newWatchedTraffic(t, who))
	}
	ratio := func(i int) float64 { return float64(all[i].best) / float64(all[0].best) }
	for n := range runs {
		for _, x := range all { // in turns: what else the machine does meets all of them
			x.run()
		}
		if n >= 10 && ratio(1) <= want && ratio(2) <= want && ratio(3) <= want || testing.Short() {
			break
		}
	}
	for i, x := range all {
		t.Logf("%s: %.1f ns a packet, %.3f of that with nobody", audiences[i].name, float64(x.best)/Batch, ratio(i))
		if ratio(i) > most && !testing.Short() {
			t.Errorf("%s: packets cost %.3f of what they cost with nobody, want %v, at most %v", audiences[i].name, ratio(i), want, most)
		}
		if s := x.e.Stats(); s.Drops() != 0 || s.Forwarded != s.Received {
			t.Errorf("%s: %d of %d packets went through, dropped %v", audiences[i].name, s.Forwarded, s.Received, s.Dropped)
		}
	}
}
