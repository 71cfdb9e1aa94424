package conntrack

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
)

func TestPacketsAllocateNothing(t *testing.T) {
	table := newTable(t, Config{Max: 10_000, Timestamp: true})
	sub := table.Subscribe(1, AllEvents) // the rings fill, then lose
	w := table.Worker(0)
	w.Begin(start)
	keys := make([]tuple.Tuple, MaxBatch)
	refs := make([]Ref, MaxBatch)
	for i := range keys {
		p := proposal(flowTuple(tuple.TCP, i))
		keys[i] = p.Original
		mustAdmit(t, w, p, syn, start)
	}
	sub.Close()
	next, now := 1000, start
	p := proposal(flowTuple(tuple.UDP, next))
	tests := []struct {
		name string
		f    func()
	}{
		{"lookup of a batch", func() { w.Lookup(keys, refs) }},
		{"find", func() { w.Find(&keys[0]) }},
		{"track tcp", func() { w.Track(refs[0], syn, now) }},
		{"claim, track, confirm, kill", func() {
			now++
			next++
			w.Begin(now)
			p.Original.SrcPort, p.Reply.DstPort = uint16(next), uint16(next)
			r, _ := w.Claim(p, now)
			w.Track(r, data, now)
			w.Confirm(r, now)
			w.Track(Ref{r.Slot, tuple.Reply}, data, now)
			w.Kill(r)
		}},
	}
	for _, tt := range tests {
		if n := testing.AllocsPerRun(100, tt.f); n != 0 {
			t.Errorf("%s allocates %v times", tt.name, n)
		}
	}
}

// cpuTime measures what the benchmark's own thread used since the call, which
// stays meaningful on a busy machine. Call the result at the end.
func cpuTime(b *testing.B) (report func()) {
	runtime.LockOSThread()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := used()
	return func() {
		b.ReportMetric(float64(used()-begin)/float64(b.N), "cpu-ns/op")
		runtime.UnlockOSThread()
	}
}

// populate admits n UDP flows and returns their tuples, original and reply in
// turn.
func populate(b *testing.B, w *Worker, n int) []tuple.Tuple {
	keys := make([]tuple.Tuple, n)
	for i := range n {
		p := proposal(benchTuple(i))
		mustAdmit(b, w, p, data, start)
		keys[i] = p.Original
		if i%2 == 1 {
			keys[i] = p.Reply
		}
		if i%MaxBatch == 0 {
			w.Begin(start)
		}
	}
	return keys
}

// benchTuple differs from flowTuple in being unique for millions of i.
func benchTuple(i int) tuple.Tuple {
	k := flowTuple(tuple.UDP, i&0xffff)
	k.Src[15] = byte(i >> 16)
	return k
}

// BenchmarkEstablished looks up and tracks packets of established UDP flows in
// an order that defeats the caches.
func BenchmarkEstablished(b *testing.B) {
	for _, size := range []struct {
		name  string
		flows int
	}{{"64k", 64 << 10}, {"1M", 1 << 20}} {
		b.Run(size.name, func(b *testing.B) {
			w := newWorker(b, Config{Max: size.flows})
			keys := populate(b, w, size.flows)
			batch := make([]tuple.Tuple, MaxBatch)
			refs := make([]Ref, MaxBatch)
			at := 0
			b.ReportAllocs()
			b.ResetTimer()
			report := cpuTime(b)
			for n := 0; n < b.N; n += MaxBatch {
				w.Begin(start + 1)
				for i := range batch {
					at = (at + 40503*7) & (size.flows - 1)
					batch[i] = keys[at]
				}
				w.Lookup(batch, refs)
				for _, r := range refs {
					w.Track(r, data, start+1)
				}
			}
			report()
		})
	}
}

// BenchmarkNewFlow claims, tracks and confirms new flows in a large table.
func BenchmarkNewFlow(b *testing.B) {
	const size = 1 << 20
	w := newWorker(b, Config{Max: size})
	now := start
	p := proposal(benchTuple(0))
	b.ReportAllocs()
	for n := range b.N {
		if n%MaxBatch == 0 {
			w.Begin(now)
		}
		if n&(size-1) == size-1 {
			b.StopTimer()
			w.t.Flush()
			for range 4 {
				w.Begin(now)
			}
			b.StartTimer()
		}
		k := benchTuple(n & (size - 1))
		p.Original.Src, p.Original.SrcPort = k.Src, k.SrcPort
		p.Reply.Dst, p.Reply.DstPort = k.Src, k.SrcPort
		r, c := w.Claim(p, now)
		if c != Claimed {
			b.Fatal(c)
		}
		w.Track(r, data, now)
		w.Confirm(r, now)
	}
}

// BenchmarkExpire measures the sweep of entries that are all due.
func BenchmarkExpire(b *testing.B) {
	const size = 1 << 18
	w := newWorker(b, Config{Max: size})
	b.StopTimer()
	for n := 0; n < b.N; n += size {
		now := start
		w.t.scanBase.Store(0)
		w.t.scan.Store(0)
		w.Begin(now)
		populate(b, w, size)
		b.StartTimer()
		for now += 30 * second; w.t.Len() > 0; now++ {
			w.Begin(now)
		}
		b.StopTimer()
		w.Begin(now)
		w.Begin(now)
	}
}

func BenchmarkHash(b *testing.B) {
	key := newHashKey([16]byte{1})
	k := benchTuple(1)
	sum := uint64(0)
	for b.Loop() {
		sum += key.tuple(&k)
		k.SrcPort++
	}
	_ = sum
}
