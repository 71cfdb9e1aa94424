package conntrack

import (
	"runtime"
	"sync"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

const twoFlows = 1 << 17 // of two workers

// divisions are ways to divide flows between two workers. The goals are shares of
// what two workers do that have nothing in common, a table each: how much more two
// processors do than one is the machine's affair, and 1.2 is all that the two
// threads of one core give. least is what every run has to show: machines that
// run tests do other things, too.
var divisions = []struct {
	name        string
	of          [2]flowRange
	goal, least float64
}{
	{"own", ownFlows, 1.9 / 2, 0.7}, // both directions of a flow on its worker
	{"crossing", [2]flowRange{{0, twoFlows, bothWays[:1]}, {0, twoFlows, bothWays[1:]}}, 1.6 / 2, 0.55}, // one direction on each
}

var ownFlows = [2]flowRange{{0, twoFlows / 2, bothWays}, {twoFlows / 2, twoFlows, bothWays}}

// BenchmarkTwoWorkers compares two workers with one. x-one is how much more both
// do in the time that their threads get, x-apart is the share of that which
// two workers with nothing in common reach in the same run.
func BenchmarkTwoWorkers(b *testing.B) {
	for _, tt := range divisions {
		b.Run(tt.name, func(b *testing.B) {
			p, apart := newDuo(b, tt.of), newApart(b)
			b.ResetTimer()
			for range b.N {
				gain, share := p.share(apart)
				b.ReportMetric(gain, "x-one")
				b.ReportMetric(share, "x-apart")
			}
		})
	}
}

// duo is two workers on threads of their own.
type duo struct {
	work [2]chan int // packets to run
	took [2]chan float64
	done sync.WaitGroup
}

// newDuo has a table of established flows, and each direction with its owner.
func newDuo(b testing.TB, of [2]flowRange) *duo {
	table := newTable(b, Config{Max: twoFlows, Workers: 2})
	return startDuo(b, [2]*Table{table, table}, of)
}

// newApart has two tables, each worker's flows in one of its own.
func newApart(b testing.TB) *duo {
	var tables [2]*Table
	for i := range tables {
		tables[i] = newTable(b, Config{Max: twoFlows / 2, Workers: 2})
	}
	return startDuo(b, tables, ownFlows)
}

func startDuo(b testing.TB, tables [2]*Table, of [2]flowRange) *duo {
	for i, h := range ownFlows {
		establish(b, tables[i].Worker(i), tuple.UDP, h)
		tables[i].Worker(i).Park()
	}
	p := &duo{}
	b.Cleanup(p.stop)
	for i := range p.work {
		p.work[i], p.took[i] = make(chan int), make(chan float64)
		w, s := tables[i].Worker(i), newStream(tuple.UDP, of[i])
		p.done.Go(func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			for n := range p.work[i] {
				begin := threadTime(b)
				s.run(w, n, flowTime)
				took := threadTime(b) - begin
				w.Park()
				p.took[i] <- float64(took)
			}
		})
	}
	p.both(4 * twoFlows)
	return p
}

// share lets one alone and both take turns, with apart doing the same in between,
// and returns the medians of how much more both do than one, and of what part
// that is of apart's gain.
func (p *duo) share(apart *duo) (gain, share float64) {
	const rounds = 7
	var gains, shares []float64
	for i := range rounds {
		mine, its := p.gain(i%2), apart.gain(i%2)
		gains, shares = append(gains, mine), append(shares, mine/its)
	}
	return median(gains), median(shares)
}

// gain runs worker i alone and then both, and returns how much more both do.
func (p *duo) gain(i int) float64 {
	const packets = 1 << 17
	alone := p.alone(i, packets)
	together := p.both(packets)
	return 2 * alone / max(together[0], together[1])
}

// alone runs n packets on worker i and returns the nanoseconds it took.
func (p *duo) alone(i, n int) float64 {
	p.work[i] <- n
	return <-p.took[i]
}

// both runs n packets on each worker at the same time.
func (p *duo) both(n int) [2]float64 {
	for i := range p.work {
		p.work[i] <- n
	}
	return [2]float64{<-p.took[0], <-p.took[1]}
}

func (p *duo) stop() {
	for i := range p.work {
		close(p.work[i])
	}
	p.done.Wait()
}
