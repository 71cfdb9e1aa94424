package conntrack

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
)

// The benchmarks count the time that their threads got (cpu-ns/op), which means
// something on a busy machine, too. What compares, compares medians of rounds
// that take turns.

// threadTime returns the processor time of the calling thread, which the caller
// has locked.
func threadTime(b testing.TB) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// stopwatch sums up what a benchmark's own thread uses while it runs.
type stopwatch struct {
	b    *testing.B
	from time.Duration
	sum  time.Duration
}

// newStopwatch returns one that runs, with the thread locked until report.
func newStopwatch(b *testing.B) *stopwatch {
	runtime.LockOSThread()
	b.ReportAllocs()
	b.ResetTimer()
	return &stopwatch{b: b, from: threadTime(b)}
}

func (s *stopwatch) stop() {
	s.sum += threadTime(s.b) - s.from
	s.b.StopTimer()
}

func (s *stopwatch) start() {
	s.b.StartTimer()
	s.from = threadTime(s.b)
}

// report ends the measurement of a watch that was stopped.
func (s *stopwatch) report() {
	s.b.ReportMetric(float64(s.sum)/float64(s.b.N), "cpu-ns/op")
	runtime.UnlockOSThread()
}

// median returns the middle one of some values, which it sorts.
func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// benchTuple returns the original tuple of the i-th of millions of flows: IPv6,
// 256 clients of many ports.
func benchTuple(proto uint8, i int) tuple.Tuple {
	k := tuple.Tuple{
		Src:     tuple.Addr{0x20, 0x01, 0x0d, 0xb8, 7: byte(i)},
		Dst:     tuple.Addr{0x20, 0x01, 0x0d, 0xb8, 15: 7},
		SrcPort: uint16(i >> 8), DstPort: 443,
		Proto: proto, Family: tuple.IPv6,
	}
	binary.BigEndian.PutUint32(k.Src[8:], uint32(i>>24))
	return k
}

// stream is a sequence of packets in an order that defeats the caches. Each pass
// over it has other sequence numbers.
type stream struct {
	keys []tuple.Tuple
	seg  Segment
	at   int
}

const (
	maxStream = 4 << 20 // packets
	benchData = 100     // bytes of payload
)

// flowRange says which flows, and which of their directions, a stream takes.
type flowRange struct {
	from, to int
	dirs     []tuple.Direction
}

var bothWays = []tuple.Direction{tuple.Original, tuple.Reply}

// newStream makes the packets of some flows, each direction once unless they
// are too many.
func newStream(proto uint8, of flowRange) *stream {
	n := (of.to - of.from) * len(of.dirs)
	order := make([]uint32, n)
	for i := range order {
		order[i] = uint32(i)
	}
	random := rand.New(rand.NewPCG(1, uint64(n)))
	random.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	s := &stream{keys: make([]tuple.Tuple, min(n, maxStream)), seg: benchSegment(0)}
	for i := range s.keys {
		at := int(order[i])
		k := benchTuple(proto, of.from+at/len(of.dirs))
		if of.dirs[at%len(of.dirs)] == tuple.Reply {
			k, _ = k.Inverse()
		}
		s.keys[i] = k
	}
	return s
}

// benchSegment returns the segment of the n-th pass: both hosts send data, and
// acknowledge the other's of the pass before.
func benchSegment(n uint32) Segment {
	return Segment{
		Bytes: benchData + 60, Payload: benchData, Flags: ACK, Window: 60000,
		Seq: 1001 + n*benchData, Ack: 1001 + n*benchData,
	}
}

// run takes n packets through a worker.
func (s *stream) run(w *Worker, n int, now Tick) {
	var refs [MaxBatch]Ref
	for ; n > 0; n -= MaxBatch {
		w.Begin(now)
		batch := s.keys[s.at : s.at+MaxBatch]
		w.Lookup(batch, refs[:])
		for _, r := range refs {
			w.Track(r, &s.seg, now)
		}
		if s.at += MaxBatch; s.at+MaxBatch > len(s.keys) {
			s.at = 0
			s.seg.Seq += benchData
			s.seg.Ack += benchData
		}
	}
}

// Flows of benchmarks begin at birth; at flowTime they are old enough to be
// streams.
const (
	birth    = 1000 * second
	flowTime = birth + 5*second
)

// establish admits flows from to to and lets them live until flowTime.
func establish(b testing.TB, w *Worker, proto uint8, of flowRange) {
	for i := of.from; i < of.to; i++ {
		if i%MaxBatch == 0 {
			w.Begin(birth)
		}
		open(b, w, benchTuple(proto, i))
	}
	if proto == tuple.UDP {
		newStream(proto, flowRange{of.from, of.to, bothWays}).run(w, 2*(of.to-of.from), flowTime)
	}
}

// open begins a flow and answers it: a handshake of TCP, which has sent 1000
// bytes then, or two datagrams.
func open(b testing.TB, w *Worker, k tuple.Tuple) {
	first, answer := benchSegment(0), benchSegment(0)
	if k.Proto == tuple.TCP {
		first = Segment{Bytes: 60, Flags: SYN, Window: 60000, Seq: 1000}
		answer = Segment{Bytes: 60, Flags: SYN | ACK, Window: 60000, Seq: 1000, Ack: 1001}
	}
	r := mustAdmit(b, w, proposal(k), &first, birth)
	w.Track(Ref{r.Slot, tuple.Reply}, &answer, birth)
	if k.Proto == tuple.TCP {
		w.Track(r, &Segment{Bytes: 60, Flags: ACK, Window: 60000, Seq: 1001, Ack: 1001}, birth)
	}
}

// BenchmarkEstablished looks up and tracks packets of established flows, both
// directions.
func BenchmarkEstablished(b *testing.B) {
	for _, tt := range []struct {
		name  string
		proto uint8
		flows int
	}{
		{"udp-64k", tuple.UDP, 64 << 10},
		{"udp-1M", tuple.UDP, 1 << 20},
		{"udp-4M", tuple.UDP, 4 << 20},
		{"tcp-64k", tuple.TCP, 64 << 10},
		{"tcp-1M", tuple.TCP, 1 << 20},
	} {
		var w *Worker
		var s *stream
		if testing.Short() && tt.flows > 64<<10 {
			continue
		}
		b.Run(tt.name, func(run *testing.B) {
			if w == nil { // one table for all rounds
				all := flowRange{0, tt.flows, bothWays}
				w = newTable(b, Config{Max: tt.flows}).Worker(0)
				establish(b, w, tt.proto, all)
				s = newStream(tt.proto, all)
			}
			watch := newStopwatch(run)
			s.run(w, run.N, flowTime)
			watch.stop()
			watch.report()
			if n := w.stats.Invalid; n != 0 {
				run.Errorf("%d packets were invalid", n)
			}
		})
	}
}

// BenchmarkNewFlow claims, tracks and confirms new flows in a table of a million.
// Nobody hears of it.
func BenchmarkNewFlow(b *testing.B) { eachSockets(b, benchNewFlow) }

// eachSockets runs a benchmark with a table for a gateway without helpers, and with
// one for helpers.
func eachSockets(b *testing.B, f func(*testing.B, Sockets)) {
	b.Run("plain", func(b *testing.B) { f(b, SocketsUncounted) })
	b.Run("sockets-counted", func(b *testing.B) { f(b, SocketsCounted) })
}

func benchNewFlow(b *testing.B, s Sockets) {
	const flows = 1 << 20
	w := newTable(b, Config{Max: 2 * flows, Sockets: s}).Worker(0)
	p := proposal(benchTuple(tuple.UDP, 0))
	seg := benchSegment(0)
	admit := func(i int) {
		if i%MaxBatch == 0 {
			w.Begin(birth)
		}
		k := benchTuple(tuple.UDP, i)
		p.Original.Src, p.Original.SrcPort = k.Src, k.SrcPort
		p.Reply.Dst, p.Reply.DstPort = k.Src, k.SrcPort
		r, c := w.Claim(p, birth)
		if c != Claimed {
			b.Fatal(c)
		}
		w.Track(r, &seg, birth)
		w.Confirm(r, birth)
	}
	empty := func() {
		w.t.Flush()
		w.Begin(birth)
		w.Begin(birth)
	}
	for i := range flows { // the kernel clears the memory
		admit(i)
	}
	empty()
	watch := newStopwatch(b)
	for n := range b.N {
		admit(n % flows)
		if n%flows == flows-1 {
			watch.stop()
			empty()
			watch.start()
		}
	}
	watch.stop()
	watch.report()
}

// BenchmarkExpire measures the sweep of entries that are all due.
func BenchmarkExpire(b *testing.B) { eachSockets(b, benchExpire) }

func benchExpire(b *testing.B, s Sockets) {
	const flows = 1 << 18
	w := newTable(b, Config{Max: flows, Sockets: s}).Worker(0)
	seg := benchSegment(0)
	watch := newStopwatch(b)
	watch.stop()
	for n := 0; n < b.N; n += flows {
		now := birth
		for i := range flows {
			if i%MaxBatch == 0 {
				w.Begin(now)
			}
			mustAdmit(b, w, proposal(benchTuple(tuple.UDP, i)), &seg, now)
		}
		watch.start()
		for now += 30 * second; w.t.Len() > 0; now++ {
			w.Begin(now)
		}
		watch.stop()
		w.Begin(now)
		w.Begin(now)
	}
	watch.report()
}

func BenchmarkHash(b *testing.B) {
	key := newHashKey([16]byte{1})
	keys := newStream(tuple.UDP, flowRange{0, 64, bothWays[:1]}).keys
	sum := uint64(0)
	for i := 0; b.Loop(); i++ {
		sum += key.tuple(&keys[i%len(keys)])
	}
	_ = sum
}
