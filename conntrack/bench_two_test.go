package conntrack

import (
	"runtime"
	"sync"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

const twoFlows = 1 << 17 // of two workers

// divisions are ways to divide flows between two workers, with the least gain
// over one worker that every run has to show: goals are higher, but machines
// that run tests do other things, too.
var divisions = []struct {
	name  string
	of    [2]flowRange
	least float64
}{
	{"own", ownFlows, 1.4}, // both directions of a flow on its worker; the goal is 1.9
	{"crossing", [2]flowRange{{0, twoFlows, bothWays[:1]}, {0, twoFlows, bothWays[1:]}}, 1.1}, // one direction on each; the goal is 1.6
	{"mixed", [2]flowRange{{0, twoFlows, bothWays}, {0, twoFlows, bothWays}}, 0},              // all on both; no goal
}

var ownFlows = [2]flowRange{{0, twoFlows / 2, bothWays}, {twoFlows / 2, twoFlows, bothWays}}

// BenchmarkTwoWorkers compares two workers with one. The metric is how much more
// both do in the time that their threads get: 2.0 is all one can have.
func BenchmarkTwoWorkers(b *testing.B) {
	for _, tt := range divisions {
		b.Run(tt.name, func(b *testing.B) {
			p := newDuo(b, tt.of)
			b.ResetTimer()
			for range b.N {
				b.ReportMetric(p.gain(), "x-one")
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
	for i, h := range ownFlows {
		establish(b, table.Worker(i), tuple.UDP, h)
		table.Worker(i).Park()
	}
	p := &duo{}
	b.Cleanup(p.stop)
	for i := range p.work {
		p.work[i], p.took[i] = make(chan int), make(chan float64)
		w, s := table.Worker(i), newStream(tuple.UDP, of[i])
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

// gain lets one alone and both take turns and returns the median of how much
// more both did.
func (p *duo) gain() float64 {
	const rounds, packets = 7, 1 << 17
	var gains []float64
	for i := range rounds {
		alone := p.alone(i%2, packets)
		together := p.both(packets)
		gains = append(gains, 2*alone/max(together[0], together[1]))
	}
	return median(gains)
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
