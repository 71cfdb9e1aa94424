//go:build !race

package conntrack

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
)

// Budgets of a full table.
const (
	bytesPerFlow  = 256
	longestPause  = time.Millisecond       // of a worker that inserts flows
	collectorTail = 150 * time.Microsecond // p99.9 of a batch while the collector runs
)

// TestManyFlows fills a table with two workers and compares the memory that
// became resident, over that of a small table, with the budget. With
// CULVERT_LONG=1 there are ten million flows, and pauses have to keep to their
// budgets, too: the machine should have nothing else to do.
func TestManyFlows(t *testing.T) {
	flows, long := 500_000, os.Getenv("CULVERT_LONG") != ""
	if long {
		flows = 10_000_000
	}
	small := newTable(t, Config{Max: 1000, Workers: 2})
	fill(t, small, 1000)
	before := resident(t)
	table := newTable(t, Config{Max: flows, Workers: 2, Reserve: long})
	pauses := fill(t, table, flows)
	each := (resident(t) - before) / flows
	t.Logf("%d bytes a flow", each)
	if each > bytesPerFlow {
		t.Errorf("%d bytes a flow, want at most %d", each, bytesPerFlow)
	}
	for try := 1; try < tries && long && pauses.max > longestPause; try++ {
		pauses = shorter(pauses, refill(t, flows))
	}
	t.Logf("batches of 64 new flows: %v", pauses)
	batches := collect(t, table, flows)
	t.Logf("batches of 64 packets beside the collector: %v", batches)
	if long && pauses.max > longestPause {
		t.Errorf("the longest batch took %v, want at most %v", pauses.max, longestPause)
	}
	if long && batches.p999 > collectorTail {
		t.Errorf("p99.9 of the batches is %v, want at most %v", batches.p999, collectorTail)
	}
}

// TestTwoWorkersDoMoreThanOne takes the best of a few tries.
func TestTwoWorkersDoMoreThanOne(t *testing.T) {
	apart := newApart(t)
	for _, tt := range divisions {
		p := newDuo(t, tt.of)
		var gain, best float64
		for range tries {
			g, share := p.share(apart)
			if share > best {
				gain, best = g, share
			}
			if best >= tt.goal {
				break
			}
		}
		t.Logf("%s: %.2f times as much as one, %.2f of what two tables do", tt.name, gain, best)
		if best < tt.least {
			t.Errorf("%s: two workers do %.2f of what they do with a table each, want at least %.2f", tt.name, best, tt.least)
		}
	}
}

// spread describes how long batches took.
type spread struct{ p50, p999, p9999, max time.Duration }

func (s spread) String() string {
	return fmt.Sprintf("p50 %v, p99.9 %v, p99.99 %v, longest %v", s.p50, s.p999, s.p9999, s.max)
}

func spreadOf(d []time.Duration) spread {
	slices.Sort(d)
	at := func(rest int) time.Duration { return d[len(d)-1-len(d)/rest] }
	return spread{at(2), at(1000), at(10000), d[len(d)-1]}
}

// tries is how often something is measured that others on the machine disturb: what
// the table itself does comes back.
const tries = 3

// refill is fill for a table of its own.
func refill(t *testing.T, flows int) spread {
	t.Helper()
	table, err := New(Config{Max: flows, Workers: 2, Reserve: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	}()
	return fill(t, table, flows)
}

// shorter returns the spread with the shorter longest batch.
func shorter(a, b spread) spread {
	if b.max < a.max {
		return b
	}
	return a
}

// fill lets two workers insert flows at the same time, and returns the time that
// their threads took for the batches, the kernel's share included. Batches in which
// the kernel gave the processor to somebody else are left out: their time has what
// the interrupt and the switch cost, and cold caches after them.
func fill(t *testing.T, table *Table, flows int) spread {
	var all [2][]time.Duration
	var done sync.WaitGroup
	for i := range all {
		done.Go(func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			w := table.Worker(i)
			defer w.Park()
			all[i] = make([]time.Duration, 0, flows/2/MaxBatch+1)
			seg := benchSegment(0)
			last := switches(t)
			for at, batch := i*flows/2, 0; at < (i+1)*flows/2; batch++ {
				begin := threadTime(t)
				w.Begin(birth + Tick(batch/1000))
				for end := min(at+MaxBatch, (i+1)*flows/2); at < end; at++ {
					k := benchTuple(tuple.UDP, at)
					reply, _ := k.Inverse()
					r, c := w.Claim(&Proposal{Original: k, Reply: reply}, w.now)
					if c != Claimed {
						t.Errorf("flow %d: %v", at, c)
						return
					}
					w.Track(r, &seg, w.now)
					w.Confirm(r, w.now)
				}
				took := threadTime(t) - begin
				if now := switches(t); now != last {
					last = now
					continue
				}
				all[i] = append(all[i], took)
			}
		})
	}
	done.Wait()
	t.Logf("%d of %d batches were not interrupted", len(all[0])+len(all[1]), (flows+MaxBatch-1)/MaxBatch)
	return spreadOf(slices.Concat(all[0], all[1]))
}

// collect takes packets through the table while the collector runs all the time,
// and returns the median of rounds of how long batches took, without those in
// which the kernel gave the processor to somebody else.
func collect(t *testing.T, table *Table, flows int) spread {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const rounds, batches = 7, 20_000
	w := table.Worker(0)
	defer w.Park()
	s := newStream(tuple.UDP, flowRange{0, min(flows, 1<<20), bothWays})
	var stop atomic.Bool
	var done sync.WaitGroup
	defer done.Wait()
	defer stop.Store(true)
	done.Go(func() {
		for !stop.Load() {
			runtime.GC()
		}
	})
	all := make([]spread, 0, rounds)
	for range rounds {
		took := make([]time.Duration, 0, batches)
		for last := switches(t); len(took) < batches; {
			begin := time.Now()
			s.run(w, MaxBatch, table.Now())
			d := time.Since(begin)
			if now := switches(t); now != last {
				last = now
				continue
			}
			took = append(took, d)
		}
		all = append(all, spreadOf(took))
	}
	slices.SortFunc(all, func(a, b spread) int { return int(a.p999 - b.p999) })
	return all[rounds/2]
}

// switches returns how often the kernel took the processor from this thread.
func switches(t *testing.T) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return u.Nivcsw
}

// resident returns the resident memory of this process in bytes.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(status))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
