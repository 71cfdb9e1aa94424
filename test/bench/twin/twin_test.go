//go:build !race

package twin

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

const (
	maxRatio = 1.8 // of Go's time to C's
	rounds   = 9   // each way; the median counts
	perRound = 1 << 18
)

// TestGoKeepsUpWithC compares a table that lies in the cache of a large
// processor; CULVERT_LONG=1 adds larger ones.
func TestGoKeepsUpWithC(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Log("no C compiler here: nothing to compare with")
		return
	}
	bin := filepath.Join(t.TempDir(), "twin")
	if out, err := exec.Command(cc, "-O3", "-march=native", "-Wall", "-o", bin, "testdata/twin.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sizes := []int{64 << 10}
	if os.Getenv("CULVERT_LONG") != "" {
		sizes = append(sizes, 1<<20, 4<<20)
	}
	for _, flows := range sizes {
		t.Run(fmt.Sprint(flows, " flows"), func(t *testing.T) { compare(t, bin, flows) })
	}
}

// compare lets Go and C take turns on one processor.
func compare(t *testing.T, bin string, flows int) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	pin(t)
	c, g := start(t, bin, flows), newTable(t, flows)
	c.run(t, 2*flows)
	g.run(t, 2*flows)
	var ratios, ours, theirs []float64
	for range rounds {
		in, out := g.run(t, perRound), c.run(t, perRound)
		ratios = append(ratios, in/out)
		ours, theirs = append(ours, in/perRound), append(theirs, out/perRound)
	}
	ratio := median(ratios)
	t.Logf("Go %.1f ns, C %.1f ns a packet, ratio %.2f (%.2f to %.2f)", median(ours), median(theirs), ratio, ratios[0], ratios[len(ratios)-1])
	if ratio > maxRatio {
		t.Errorf("Go takes %.2f times as long as C, want at most %.1f", ratio, maxRatio)
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// pin ties the thread, and the processes it starts, to one processor.
func pin(t *testing.T) {
	t.Helper()
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !allowed.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
}

// process is a running twin.
type process struct {
	in  io.Writer
	out *bufio.Reader
}

func start(t *testing.T, bin string, flows int) *process {
	t.Helper()
	cmd := exec.Command(bin, strconv.Itoa(flows))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &process{in, bufio.NewReader(out)}
}

// run takes packets through the twin and returns the nanoseconds it took.
func (p *process) run(t *testing.T, packets int) float64 {
	t.Helper()
	fmt.Fprintln(p.in, packets)
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	ns, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// table is a tracker with established flows and a stream of their packets.
type table struct {
	w    *conntrack.Worker
	keys []tuple.Tuple
	at   int
}

const (
	batch     = conntrack.MaxBatch
	second    = 100 // ticks
	birth     = conntrack.Tick(1000 * second)
	now       = birth + 5*second // the flows are streams
	maxStream = 4 << 20          // packets
)

var segment = conntrack.Segment{Bytes: 160}

func newTable(t *testing.T, flows int) *table {
	t.Helper()
	ct, err := conntrack.New(conntrack.Config{Max: flows})
	if err != nil {
		t.Fatal(err)
	}
	g := &table{w: ct.Worker(0)}
	t.Cleanup(func() {
		g.w.Park()
		if err := ct.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range flows {
		if i%batch == 0 {
			g.w.Begin(birth)
		}
		p := conntrack.Proposal{Original: tupleOf(i, tuple.Original), Reply: tupleOf(i, tuple.Reply)}
		r, claim := g.w.Claim(&p, birth)
		if claim != conntrack.Claimed {
			t.Fatal(claim)
		}
		g.w.Track(r, &segment, birth)
		g.w.Confirm(r, birth)
		g.w.Track(conntrack.Ref{Slot: r.Slot, Dir: tuple.Reply}, &segment, birth)
	}
	order := rand.New(rand.NewPCG(1, 2)).Perm(2 * flows)
	g.keys = make([]tuple.Tuple, min(len(order), maxStream))
	for i := range g.keys {
		g.keys[i] = tupleOf(order[i]/2, tuple.Direction(order[i]&1))
	}
	for i := 0; i < 2*flows; i += batch { // every direction has been seen, also of flows that are not in the stream
		g.w.Begin(now)
		for j := i; j < i+batch; j++ {
			r := g.w.Find(new(tupleOf(j/2, tuple.Direction(j&1))))
			g.w.Track(r, &segment, now)
		}
	}
	return g
}

// tupleOf returns direction d of the i-th flow.
func tupleOf(i int, d tuple.Direction) tuple.Tuple {
	k := tuple.Tuple{
		Src:     tuple.Addr{0x20, 0x01, 0x0d, 0xb8, 7: byte(i)},
		Dst:     tuple.Addr{0x20, 0x01, 0x0d, 0xb8, 15: 7},
		SrcPort: uint16(i >> 8), DstPort: 443,
		Proto: tuple.UDP, Family: tuple.IPv6,
	}
	k.Src[11] = byte(i >> 24)
	if d == tuple.Reply {
		k, _ = k.Inverse()
	}
	return k
}

// run takes packets through the tracker and returns the nanoseconds it took.
func (g *table) run(t *testing.T, packets int) float64 {
	t.Helper()
	var refs [batch]conntrack.Ref
	begin := threadTime(t)
	for ; packets >= batch; packets -= batch {
		g.w.Begin(now)
		g.w.Lookup(g.keys[g.at:g.at+batch], refs[:])
		for _, r := range refs {
			if !r.Found() {
				t.Fatal("a flow was not found")
			}
			g.w.Track(r, &segment, now)
		}
		if g.at += batch; g.at+batch > len(g.keys) {
			g.at = 0
		}
	}
	return threadTime(t) - begin
}

// threadTime returns the processor time of this thread in nanoseconds.
func threadTime(t *testing.T) float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return float64(ts.Nano())
}
