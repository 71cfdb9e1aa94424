package dataplane

import (
	"encoding/binary"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// Benchmarks of the walk in memory. Ports give frames that were made beforehand and
// forget what is sent; one op is one packet unless a benchmark says otherwise.
// ns/op is the time that passed, cpu-ns/op what the thread got of its processor,
// which means something on a busy machine, too.

// benchSizes are how many flows there are. With -short only those that are there at once.
var benchSizes = []struct {
	name  string
	flows int
}{{"1k", 1 << 10}, {"10k", 10_000}, {"64k", 64 << 10}, {"1M", 1 << 20}, {"4M", 4 << 20}, {"16M", 16 << 20}}

const shortFlows = 64 << 10

// flow is what the packets of a flow of a benchmark have of their own.
type flow struct {
	client, server uint32
	port           uint16 // of the client, and outside: no two flows to a server share one
}

const (
	benchClients = 60_000 // flows of one client
	benchServers = 4093   // a prime: no port is used twice towards one of them before 245 M flows
	firstServer  = 198<<24 | 18<<16
	firstClient  = 10<<24 | 5
	benchOutside = 203<<24 | 113<<8 | 1
)

// flowOf returns the n-th flow.
func flowOf(n int) flow {
	return flow{
		client: firstClient + uint32(n/benchClients),
		server: firstServer + uint32(n%benchServers),
		port:   uint16(1024 + n%benchClients),
	}
}

// scattered returns flows 0..n-1 in an order in which the next one is never next in
// memory.
func scattered(n int) []flow {
	const stride = 7_368_787 // a prime that divides no size
	all := make([]flow, n)
	for i := range all {
		all[i] = flowOf(i * stride % n)
	}
	return all
}

// headerSum is the sum over the header of a template, to which stamp adds what differs.
func headerSum(ip []byte) uint32 {
	h := slices.Clone(ip[:20])
	h[10], h[11] = 0, 0
	clear(h[12:20])
	return uint32(sum(0, h))
}

// stamp makes a frame of IPv4 with ports that of another flow. Transport checksums
// stay what they are: bulk ports say that they are verified.
func stamp(frame []byte, header, src, dst uint32, sport, dport uint16) {
	ip := frame[14:38]
	s := header + src>>16 + src&0xffff + dst>>16 + dst&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(s))
	binary.BigEndian.PutUint32(ip[12:], src)
	binary.BigEndian.PutUint32(ip[16:], dst)
	binary.BigEndian.PutUint16(ip[20:], sport)
	binary.BigEndian.PutUint16(ip[22:], dport)
}

// world is an engine with flows, whose packets come batch by batch in turns.
type world struct {
	testing.TB
	e        *Engine
	w        *Worker
	lan, wan *bulk
	flows    []flow
	server   uint16 // port, of traffic from now on
	now      int64
}

// batchTime is the virtual time between two batches.
const batchTime = 20_000

func newWorld(t testing.TB, flows int, cfg bulkConfig) *world {
	t.Helper()
	if cfg.table.Max == 0 {
		cfg.table.Max = flows + flows/4
	}
	x := &world{TB: t, flows: scattered(flows), server: 53, now: 1e12}
	x.e, x.lan, x.wan = openBulk(t, cfg)
	x.w = x.e.Worker(0)
	for c := uint32(0); c <= uint32(flows/benchClients); c++ {
		a := tuple.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, firstClient+c)))
		x.e.neigh.Ask(lanID, a, 1, 0)
		x.e.NeighbourLearned(lanID, a, [6]byte{2, 5})
	}
	return x
}

// close ends the world. Whatever did not go through makes its figures worthless.
func (x *world) close() {
	if s := x.e.Stats(); s.Drops() != 0 || s.Forwarded != s.Received {
		x.Errorf("received %d and forwarded %d; dropped %v", s.Received, s.Forwarded, s.Dropped)
	}
	closeBulk(x, x.e)
	x.flows = nil
	runtime.GC() // the next world is made of the same memory
}

// step passes one batch.
func (x *world) step() {
	x.now += batchTime
	x.w.Step(x.now)
}

// traffic is packets of all flows of a world in one direction, batch by batch.
type traffic struct {
	x       *world
	port    *bulk
	frames  [][]byte
	header  uint32
	dir     tuple.Direction
	server  uint16 // port
	at      int
	passes  uint32 // over the flows
	mutate  func([][]byte)
	sending uint32 // bytes of TCP's data in each packet; both directions send as many
}

// traffic returns packets like ip, which has any addresses and ports.
func (x *world) traffic(dir tuple.Direction, ip []byte) *traffic {
	tr := &traffic{x: x, port: x.lan, frames: batchOf(ip), header: headerSum(ip), dir: dir, server: x.server}
	tr.mutate = tr.next
	if dir == tuple.Reply {
		tr.port = x.wan
	}
	if ip[9] == tuple.TCP {
		tr.sending = uint32(len(ip) - 40)
	}
	return tr
}

// next is the mutation of bulk ports: the packets of the next Batch flows.
func (tr *traffic) next(frames [][]byte) {
	all := tr.x.flows
	if tr.at+len(frames) > len(all) {
		tr.at = 0
		tr.passes++
	}
	flows := all[tr.at : tr.at+len(frames)]
	tr.at += len(frames)
	for i, f := range frames {
		fl := &flows[i]
		if tr.dir == tuple.Original {
			stamp(f, tr.header, fl.client, fl.server, fl.port, tr.server)
		} else {
			stamp(f, tr.header, fl.server, benchOutside, tr.server, fl.port)
		}
		if tr.sending != 0 {
			sent := 1 + tr.passes*tr.sending
			binary.BigEndian.PutUint32(f[38:], sent)
			if tr.dir == tuple.Reply {
				sent += tr.sending
			}
			binary.BigEndian.PutUint32(f[42:], sent)
		}
	}
}

// batch passes the next batch of tr.
func (x *world) batch(tr *traffic) {
	other := x.wan
	if tr.port == other {
		other = x.lan
	}
	other.idle = true
	tr.load()
	x.step()
}

// load has the next Step receive the next batch of tr.
func (tr *traffic) load() { tr.port.loadHeads(tr.frames, tr.mutate, min(len(tr.frames[0]), headers)) }

// headers are as many bytes as those of a packet of TCP with their link-layer header.
const headers = 54

// receive is batch without the walk: what making packets takes of a benchmark.
func (x *world) receive(tr *traffic) {
	tr.load()
	tr.port.Recv(x.w.pkts[:])
}

// all passes a packet of every flow.
func (x *world) all(tr *traffic) {
	tr.at = 0
	for range len(x.flows) / Batch {
		x.batch(tr)
	}
	if rest := len(x.flows) % Batch; rest != 0 {
		frames := tr.frames
		tr.frames = frames[:rest]
		x.batch(tr)
		tr.frames = frames
	}
	tr.at = 0
}

// Packets of the flows of worlds: UDP of 60 bytes with its link-layer header, a
// handshake of TCP, and a kilobyte of its data.
var (
	benchUDP  = noSum(udp("10.0.0.5:1", "198.51.100.7:53", length(18)))
	benchSYN  = tcp("10.0.0.5:1", "198.51.100.7:80", seq(0, 0))
	benchBack = tcp("198.51.100.7:80", "203.0.113.1:1", flags(packet.SYN|packet.ACK), seq(0, 1))
	benchACK  = tcp("10.0.0.5:1", "198.51.100.7:80", flags(packet.ACK), seq(1, 1))
	benchData = tcp("10.0.0.5:1", "198.51.100.7:80", flags(packet.ACK), seq(1, 1), length(1000))
)

// newUDPWorld has flows that were answered.
func newUDPWorld(t testing.TB, flows int, cfg bulkConfig) *world {
	x := newWorld(t, flows, cfg)
	x.all(x.traffic(tuple.Original, benchUDP))
	x.all(x.traffic(tuple.Reply, benchUDP))
	x.there(flows)
	return x
}

// newTCPWorld has connections after their handshake.
func newTCPWorld(t testing.TB, flows int, cfg bulkConfig) *world {
	x := newWorld(t, flows, cfg)
	x.shakeHands()
	x.there(flows)
	return x
}

// shakeHands has a connection of TCP begin for every flow, to port 80 unless another one
// than DNS's was set.
func (x *world) shakeHands() {
	if x.server == 53 {
		x.server = 80
	}
	x.all(x.traffic(tuple.Original, benchSYN))
	x.all(x.traffic(tuple.Reply, benchBack))
	x.all(x.traffic(tuple.Original, benchACK))
}

// there checks how many flows there are.
func (x *world) there(flows int) {
	x.Helper()
	if n := x.e.Table().Len(); n != flows {
		x.Fatalf("%d flows, want %d: dropped %v", n, flows, x.e.Stats().Dropped)
	}
}

// stopwatch sums up what a benchmark's thread uses while it runs.
type stopwatch struct {
	b         *testing.B
	from, sum time.Duration
}

// newStopwatch returns one that runs, with the thread locked until report.
func newStopwatch(b *testing.B) *stopwatch {
	runtime.LockOSThread()
	b.ReportAllocs()
	b.ResetTimer()
	return &stopwatch{b: b, from: threadTime()}
}

func (s *stopwatch) stop() {
	s.sum += threadTime() - s.from
	s.b.StopTimer()
}

func (s *stopwatch) start() {
	s.b.StartTimer()
	s.from = threadTime()
}

// report ends the measurement of a watch that was stopped, of so many ops, and returns the
// nanoseconds of the thread's processor that each took.
func (s *stopwatch) report(ops int) (each float64) {
	each = float64(s.sum) / float64(ops)
	s.b.ReportMetric(each, "cpu-ns/op")
	runtime.UnlockOSThread()
	return each
}

// batches returns how many batches make b.N packets.
func batches(b *testing.B) int { return (b.N + Batch - 1) / Batch }

// measure runs batches for b.N packets, and wants them to allocate nothing. It returns
// cpu-ns/op.
func measure(b *testing.B, batch func()) float64 {
	watch := newStopwatch(b)
	for range batches(b) {
		batch()
	}
	watch.stop()
	each := watch.report(batches(b) * Batch)
	if n := testing.AllocsPerRun(10, batch); n != 0 {
		b.Errorf("%v allocations a batch, want none", n)
	}
	return each
}

// measureWalk is measure of batches whose packets receive makes. It reports the part of
// them as receive-ns/op and the rest as walk-ns/op, both of the thread's processor.
func measureWalk(b *testing.B, batch, receive func()) {
	whole := measure(b, batch)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := max(1, batches(b)/4)
	from := threadTime()
	for range n {
		receive()
	}
	part := float64(threadTime()-from) / float64(n*Batch)
	b.ReportMetric(part, "receive-ns/op")
	b.ReportMetric(whole-part, "walk-ns/op")
}

// room skips a benchmark of so many flows that does not fit into this machine's memory, and
// long ones with -short.
func room(b *testing.B, flows int) bool {
	if testing.Short() && flows > shortFlows {
		return false
	}
	const each = 400 // bytes: table, leases, and what the benchmark itself keeps
	if free := memoryAvailable(b); flows*each > free {
		b.Logf("%d flows take %d MB, this machine has %d", flows, flows*each>>20, free>>20)
		return false
	}
	return true
}

// memoryAvailable returns how many bytes this machine can still give.
func memoryAvailable(t testing.TB) int {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	kilobytes, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(kilobytes)
	if err != nil {
		t.Fatalf("/proc/meminfo: MemAvailable: %v", err)
	}
	return n << 10
}
