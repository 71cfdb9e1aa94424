package conntrack

import (
	"runtime"
	"sync"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// BenchmarkTwoWorkers compares two workers with one. Rounds of one alone and of
// both take turns; the metric is how much more both do in the time that their
// threads get, as a median: 2.0 is all one can have.
func BenchmarkTwoWorkers(b *testing.B) {
	const (
		flows    = 1 << 17
		perRound = 1 << 17
		rounds   = 7
	)
	half := [2]flowRange{{0, flows / 2, bothWays}, {flows / 2, flows, bothWays}}
	for _, tt := range []struct {
		name string
		of   [2]flowRange
	}{
		{"own", half}, // both directions of a flow on its worker
		{"crossing", [2]flowRange{{0, flows, bothWays[:1]}, {0, flows, bothWays[1:]}}}, // one direction on each
		{"mixed", [2]flowRange{{0, flows, bothWays}, {0, flows, bothWays}}},            // all on both
	} {
		b.Run(tt.name, func(b *testing.B) {
			table := newTable(b, Config{Max: flows, Workers: 2})
			for i, h := range half {
				establish(b, table.Worker(i), tuple.UDP, h)
				table.Worker(i).Park()
			}
			p := newDuo(b, table, tt.of)
			defer p.stop()
			p.both(4 * flows) // the directions find their owners
			b.ResetTimer()
			for range b.N {
				var gains []float64
				for i := range rounds {
					alone := p.alone(i%2, perRound)
					together := p.both(perRound)
					gains = append(gains, 2*alone/max(together[0], together[1]))
				}
				b.ReportMetric(median(gains), "x-one")
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

func newDuo(b *testing.B, table *Table, of [2]flowRange) *duo {
	p := &duo{}
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
	return p
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
