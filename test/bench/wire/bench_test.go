//go:build netns

package wire

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

const lasts = 2 * time.Second // a measurement

// sizes are how many flows there are.
var sizes = []struct {
	name  string
	flows int
}{{"1k", 1000}, {"64k", 64_000}, {"256k", 256_000}, {"1M", 1_000_000}}

func TestGeneratorLoadsEachGateway(t *testing.T) {
	for _, kind := range netns.Kinds() {
		t.Run("gateway="+kind.String(), func(t *testing.T) {
			b := newBed(t, kind, configOf(1, 2000))
			b.neighbours()
			b.fill(2000)
			pps, lost := b.rate(200*time.Millisecond, b.generator(0, 2000))
			if pps < 20_000 || lost > 0.99 {
				t.Errorf("%.0f packets a second arrive, %.0f %% are lost", pps, 100*lost)
			}
			defer b.echo()()
			if x := b.exchange(100 * time.Millisecond); len(x.all) < 100 || x.lost > 0 {
				t.Errorf("%d requests were answered, %d were not", len(x.all), x.lost)
			}
		})
	}
}

// BenchmarkRate is what arrives while one thread sends as fast as it can.
func BenchmarkRate(b *testing.B) {
	for _, kind := range netns.Kinds() {
		for _, size := range sizes {
			if !fits(b, kind, size.flows) {
				continue
			}
			b.Run(fmt.Sprintf("gateway=%v/flows=%s", kind, size.name), func(b *testing.B) {
				x := newBed(b, kind, configOf(0, size.flows))
				x.neighbours()
				x.fill(size.flows)
				x.reportRate(b, x.generator(0, size.flows))
			})
		}
	}
}

// reportRate measures for each op.
func (x *bed) reportRate(b *testing.B, generators ...*generator) {
	var pps, lost float64
	for range b.N {
		p, l := x.rate(lasts, generators...)
		pps, lost = pps+p, lost+l
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(pps/float64(b.N)/1e6, "Mpps")
	b.ReportMetric(100*lost/float64(b.N), "lost-%")
}

// BenchmarkWorkers is what arrives while as many threads send as there are processors, at
// most four, by the number of workers. The kernel has none.
func BenchmarkWorkers(b *testing.B) {
	const flows = 64_000
	threads := min(4, runtime.NumCPU())
	measure := func(kind netns.Kind, workers int) {
		b.Run(fmt.Sprintf("gateway=%v/workers=%d", kind, workers), func(b *testing.B) {
			x := newBed(b, kind, configOf(workers, flows))
			x.neighbours()
			x.fill(flows)
			var all []*generator
			for i := range threads {
				all = append(all, x.generator(i*flows/threads, (i+1)*flows/threads))
			}
			x.reportRate(b, all...)
		})
	}
	for _, kind := range netns.Kinds() {
		if kind == netns.Kernel {
			measure(kind, 0)
			continue
		}
		for workers := 1; workers <= runtime.NumCPU() && workers <= 16; workers *= 2 {
			measure(kind, workers)
		}
	}
}

// BenchmarkLatency is a request of one byte and its answer, one after the other, while
// so many other packets a second pass.
func BenchmarkLatency(b *testing.B) {
	for _, kind := range netns.Kinds() {
		for _, load := range []int{0, 25_000, 50_000, 100_000, 200_000, 400_000} {
			b.Run(fmt.Sprintf("gateway=%v/load=%dk", kind, load/1000), func(b *testing.B) {
				x := newBed(b, kind, configOf(0, 1000))
				x.neighbours()
				x.fill(1000)
				defer x.echo()()
				if load > 0 {
					defer x.generator(0, 1000).start(load)()
				}
				x.exchange(lasts / 10)
				x.reportTimes(b, lasts)
			})
		}
	}
}

func (x *bed) reportTimes(b *testing.B, lasts time.Duration) {
	t := x.exchange(lasts)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(t.at(0.5), "p50-us")
	b.ReportMetric(t.at(0.99), "p99-us")
	b.ReportMetric(t.at(1), "max-us")
	b.ReportMetric(float64(t.lost), "lost")
}

// BenchmarkMemory is what a gateway has of the machine's memory with so many flows, beyond
// that of one with room for a thousand.
func BenchmarkMemory(b *testing.B) {
	base := 0
	for _, size := range append(sizes[:len(sizes):len(sizes)], struct {
		name  string
		flows int
	}{"4M", 4_000_000}) {
		b.Run("gateway=culvert/flows="+size.name, func(b *testing.B) {
			if base == 0 {
				base = newBed(b, netns.Culvert, configOf(0, 0)).resident()
			}
			x := newBed(b, netns.Culvert, configOf(0, size.flows))
			x.neighbours()
			x.fill(size.flows)
			resident := x.resident()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(resident)/(1<<20), "resident-MB")
			b.ReportMetric(float64(resident-base)/float64(size.flows), "B/flow")
		})
	}
}

// BenchmarkIdle is the time of a processor that a gateway takes with so many silent flows.
func BenchmarkIdle(b *testing.B) {
	for _, size := range sizes {
		b.Run("gateway=culvert/flows="+size.name, func(b *testing.B) {
			x := newBed(b, netns.Culvert, configOf(0, size.flows))
			x.neighbours()
			x.fill(size.flows)
			<-time.After(time.Second) // what the flows' begin has left to do
			before, began := x.busy(), time.Now()
			<-time.After(5 * time.Second)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(100*(x.busy()-before).Seconds()/time.Since(began).Seconds(), "cpu-%")
		})
	}
}

// BenchmarkBeside is requests and answers, one after the other, while 100,000 other packets
// a second pass and the gateway does something else all the time.
func BenchmarkBeside(b *testing.B) {
	const flows = 1_000_000
	config := configOf(0, flows)
	for _, work := range []struct {
		name string
		do   func(x *bed, n int) error
	}{
		{"nothing", nil},
		{"scrape", func(x *bed, _ int) error {
			c := http.Client{Transport: &http.Transport{DialContext: x.gw.Dial, DisableKeepAlives: true}}
			answer, err := c.Get("http://127.0.0.1:9464/metrics")
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			_, err = io.Copy(io.Discard, answer.Body)
			return err
		}},
		{"list", func(x *bed, _ int) error {
			_, err := x.gw.Exec(x.Context(), "sh", "-c", fmt.Sprintf("%s conntrack -L --socket %s >/dev/null 2>&1", x.gw.Binary(), x.gw.Socket()))
			return err
		}},
		{"reload-10k-rules", func(x *bed, n int) error { return x.gw.Reload(x.Context(), withRules(config, n)) }},
	} {
		b.Run("gateway=culvert/flows=1M/work="+work.name, func(b *testing.B) {
			x := newBed(b, netns.Culvert, config)
			x.neighbours()
			x.fill(flows)
			defer x.echo()()
			g := x.generator(0, flows)
			defer g.start(100_000)()
			x.exchange(lasts / 10)
			var working sync.WaitGroup
			var end atomic.Bool
			done := 0
			if work.do != nil {
				working.Go(func() {
					for !end.Load() {
						if err := work.do(x, done); err != nil {
							x.Error(err)
							return
						}
						done++
					}
				})
			}
			sent, arrived := g.sent.Load(), x.arrived()
			x.reportTimes(b, 2*lasts)
			b.ReportMetric(100*max(0, 1-float64(x.arrived()-arrived)/float64(g.sent.Load()-sent)), "lost-%")
			end.Store(true)
			working.Wait()
			if work.do != nil {
				b.ReportMetric(float64(done), "times")
			}
		})
	}
}

// withRules adds ten thousand rules to a configuration, no two times the same.
func withRules(config string, n int) string {
	var b strings.Builder
	b.WriteString(config)
	for i := range 10_000 {
		fmt.Fprintf(&b, "\n[[filter]]\nproto = \"tcp\"\ndst = \"192.0.%d.%d\"\ndport = %d\naction = \"drop\"\n", i>>8, i&255, 1+(i+n)%60_000)
	}
	return b.String()
}
