package conntrack

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/keep"
	"example.com/culvert/internal/keep/keeptest"
)

// heirOf returns a table that has adopted what another left, and what was not adopted.
func heirOf(t testing.TB, left func(string) ([]byte, error), now Tick) (table *Table, refused []error) {
	t.Helper()
	r, err := ReadRemains(left)
	if err != nil {
		t.Fatal(err)
	}
	table = newTable(t, millConfig(nil))
	a, err := table.Adopt(&Origin{Policies: r.Policies()}, 1, now)
	if err != nil {
		t.Fatal(err)
	}
	note := func(err error) {
		if err != nil {
			refused = append(refused, err)
		}
	}
	for rank := range Ranks {
		r.Flows(func(s *Saved) bool {
			if s.Rank() == rank {
				if err := a.Verify(s); err != nil {
					note(err)
				} else {
					note(a.Flow(s, s.Helper()))
				}
			}
			return true
		})
	}
	r.Expects(func(x *SavedExpect) bool {
		note(a.Expect(x, x.Helper, x.Child))
		return true
	})
	return table, refused
}

func millConfig(m keep.Memory) Config {
	return Config{Max: 2000, Workers: 2, MaxExpect: 64, Memory: m, HelperName: func(n uint32) string { return fmt.Sprint("helper", n) }}
}

// contents are the flows and expectations of a table by their tuples, as a user sees
// them, but for what belongs to one table.
func contents(table *Table) map[tuple.Tuple]string {
	all := map[tuple.Tuple]string{}
	table.Dump(func(f *Flow) bool {
		one := *f
		one.ID, one.Generation = 0, 0
		w := table.workers[0]
		r := Ref{Slot: table.slotOf(f)}
		if _, ok := table.Master(w.Entry(r.Slot)); !ok {
			one.Master = tuple.Tuple{} // it has ended, and nobody knows it any more
		}
		for d := range one.Seq { // with a helper, begun in the middle is as good as no correction
			if a := w.Correction(r, tuple.Direction(d)); a.Before != 0 || a.After != 0 {
				one.Seq[d] = a
			} else {
				one.Seq[d] = Correction{}
			}
		}
		all[f.Tuple[0]] = fmt.Sprintf("%+v", one)
		return true
	})
	table.DumpExpect(func(x *Expect) bool {
		if table.Has(x.Master) { // else it is over, and nobody has found it yet
			all[x.Tuple] = fmt.Sprintf("%+v", *x)
		}
		return true
	})
	return all
}

// slotOf returns the slot of a flow that is there.
func (t *Table) slotOf(f *Flow) uint32 {
	k := f.Tuple[0]
	return t.index.find(t.entries, &k, t.index.key.tuple(&k)) >> 1
}

// mill does to a table all that is done to one, at random.
type mill struct {
	*rand.Rand
	t    testing.TB
	w    *Worker
	now  Tick
	base int  // of the ports of its flows
	rush Tick // by how much time may go on at a turn; others' flows age, too
}

// flow returns the proposal of one of a few hundred flows.
func (m *mill) flow() *Proposal {
	protos := []uint8{tuple.TCP, tuple.TCP, tuple.UDP, tuple.UDP, tuple.ICMP, tuple.SCTP, tuple.UDPLite}
	i := m.base + m.IntN(300)
	p := proposal(flowTuple(protos[i%len(protos)], i))
	if p.Original.Proto != tuple.ICMP {
		p.Reply.DstPort = uint16(20000 + i) // translated
	}
	p.Mark, p.Rule, p.Choice, p.Holds = m.Uint32(), m.Uint32(), uint8(m.IntN(16)), uint8(m.IntN(60))
	if i%5 == 0 {
		p.Labels = [2]uint64{m.Uint64(), m.Uint64()}
	}
	if i%7 == 0 {
		p.Helper = 1 + uint32(m.IntN(3))
	}
	if i%11 == 0 {
		policy, err := m.w.t.Policy(Timeouts{UDP: time.Duration(40+m.IntN(8)) * time.Minute, TCPUnacked: 10 * time.Minute})
		if err != nil {
			m.t.Fatal(err)
		}
		p.Policy = policy
	}
	return p
}

// turn does one thing.
func (m *mill) turn() {
	w, p := m.w, m.flow()
	r := w.Find(&p.Original)
	if !r.Found() {
		m.begin(p)
		return
	}
	switch m.IntN(24) {
	case 0:
		w.Kill(r)
	case 1:
		_ = w.t.SetMark(p.Original, m.Uint32(), ^uint32(0))
	case 2:
		_ = w.t.SetLabels(p.Original, [2]uint64{m.Uint64(), m.Uint64()}, [2]uint64{m.Uint64(), m.Uint64()})
	case 3:
		_ = w.t.SetTimeout(p.Original, Tick(1+m.IntN(5000)))
	case 4:
		if p.Original.Proto == tuple.TCP {
			w.SetCorrection(r, tuple.Direction(m.IntN(2)), Correction{m.Uint32(), m.Uint32(), m.Uint32()})
		}
	case 5, 6:
		if p.Original.Proto == tuple.ICMP {
			return
		}
		k := p.Original
		k.SrcPort, k.DstPort = 0, uint16(30000+m.base/10+m.IntN(60))
		x := &Expectation{Tuple: k, Mask: WholeMask(0), Class: uint8(m.IntN(2)), Helper: 1, Data: [4]uint64{m.Uint64(), 1, 2, m.Uint64()}}
		_ = w.Expect(r, x, ExpectPolicy{Max: 8, Timeout: Tick(1 + m.IntN(9000))})
	case 7:
		if p.Original.Proto == tuple.ICMP {
			return
		}
		k := p.Original
		k.DstPort = uint16(30000 + m.base/10 + m.IntN(60))
		var x Announced
		if p := proposal(k); !w.Find(&k).Found() && w.Expected(&k, &x) {
			x.Inherit(p)
			m.begin(p)
		}
	case 8:
		m.now += Tick(m.IntN(int(m.rush) + 1))
		w.Begin(m.now)
	default:
		m.packet(r)
	}
}

// begin admits a flow; one in eight is taken back.
func (m *mill) begin(p *Proposal) {
	r, c := m.w.Claim(p, m.now)
	if c != Claimed {
		return
	}
	if s := m.segment(p.Original.Proto, SYN); m.w.Track(r, &s, m.now) != Accept || m.IntN(8) == 0 {
		m.w.Abort(r)
		return
	}
	m.w.Confirm(r, m.now)
}

// packet takes a packet of a flow through the tracker.
func (m *mill) packet(r Ref) {
	r.Dir = tuple.Direction(m.IntN(2))
	flags := []uint8{SYN | ACK, ACK, ACK, ACK | PSH, FIN | ACK, RST}
	s := m.segment(m.w.Entry(r.Slot).Proto(), flags[m.IntN(len(flags))])
	m.w.Track(r, &s, m.now)
}

func (m *mill) segment(proto uint8, f uint8) Segment {
	s := Segment{Bytes: uint32(40 + m.IntN(1000))}
	switch proto {
	case tuple.TCP:
		s.Flags, s.Window, s.Seq, s.Ack = f, 60000, 1000+uint32(m.IntN(100)), 1000+uint32(m.IntN(100))
	case tuple.SCTP:
		s.SCTP = SCTPChunks{}
	}
	return s
}

// What a process leaves that is killed between two calls is the table as it was, whatever
// was done to it, and nothing is written where room was not asked for.
func TestKilledTableIsReadWhole(t *testing.T) {
	for seed := range uint64(4) {
		memory := &keeptest.Memory{}
		table := newTable(t, millConfig(memory))
		m := &mill{Rand: rand.New(rand.NewPCG(seed, 1)), t: t, w: table.Worker(0), now: start, rush: 2 * second}
		m.w.Begin(start)
		for range 15 {
			for range 50 + m.IntN(400) {
				m.turn()
			}
			m.w.Begin(m.now)
			heir, refused := heirOf(t, memory.Left().Array, m.now)
			for _, err := range refused {
				if !errors.Is(err, ErrExpired) && !errors.Is(err, ErrExpectMaster) { // which nobody has found yet
					t.Errorf("not adopted: %v", err)
				}
			}
			was, is := contents(table), contents(heir)
			compareContents(t, was, is)
			for k := range is {
				if was[k] == "" {
					t.Errorf("%v is there, and was not", k)
				}
			}
			if len(was) < 50 {
				t.Fatalf("%d flows and expectations prove little", len(was))
			}
		}
		for _, where := range memory.Trespasses() {
			t.Errorf("written where there may be no room: %s", where)
		}
	}
}

func compareContents(t *testing.T, was, is map[tuple.Tuple]string) {
	t.Helper()
	for k, want := range was {
		if is[k] != want {
			t.Fatalf("%v: after the kill\n\t%s, was\n\t%s", k, is[k], want)
		}
	}
}

// Whoever is killed while he reads what was left, and has given back a part of it, leaves
// all of it to the next one.
func TestReaderThatIsKilledWhileItCutsLosesNothing(t *testing.T) {
	memory := &keeptest.Memory{}
	table := newTable(t, millConfig(memory))
	w := table.Worker(0)
	w.Begin(start)
	for n := range 20 {
		mustAdmit(t, w, proposal(flowTuple(tuple.UDP, n)), data, start)
	}
	was, killed := contents(table), errors.New("killed")
	for steps := range 3 {
		left := memory.Left()
		r, err := ReadRemains(left.Array)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		err = r.Cut(func(name string, size int) error {
			if n == steps {
				return killed
			}
			n++
			left[name] = left[name][:size]
			return nil
		})
		if (err != nil) != (steps < 2) {
			t.Fatalf("after %d steps: %v", n, err)
		}
		heir, refused := heirOf(t, left.Array, start)
		compareContents(t, was, contents(heir))
		if len(refused) > 0 || heir.Len() != 20 {
			t.Errorf("killed after %d steps: %d of 20 flows are there, not adopted: %v", n, heir.Len(), refused)
		}
	}
}

const (
	millFolder = "CULVERT_TEST_MILL"
	millSeed   = "CULVERT_TEST_MILL_SEED"
)

// quiet fills a table with flows and expectations that depend on the seed alone, and
// returns what time it is then.
func quiet(t testing.TB, w *Worker, seed uint64) Tick {
	m := &mill{Rand: rand.New(rand.NewPCG(seed, 2)), t: t, w: w, now: start, rush: second / 2}
	w.Begin(start)
	for range 1500 {
		m.turn()
	}
	w.Begin(m.now)
	return m.now
}

// TestMillUntilKilled is the process that the next test kills.
func TestMillUntilKilled(t *testing.T) {
	root := os.Getenv(millFolder)
	if root == "" {
		return // nobody wants to kill it
	}
	seed, _ := strconv.ParseUint(os.Getenv(millSeed), 10, 64)
	folder, err := keep.Open(root, keep.Alone)
	if err != nil {
		t.Fatal(err)
	}
	cfg := millConfig(folder)
	cfg.Key = [16]byte{9}
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	now := quiet(t, table.Worker(0), seed)
	if err := folder.Describe("a test"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("\nmilling")
	for i := range 2 {
		m := &mill{Rand: rand.New(rand.NewPCG(seed, 3+uint64(i))), t: t, w: table.Worker(i), now: now, base: 1000 + 1000*i}
		go func() {
			for n := 0; ; n++ {
				if n%16 == 0 {
					m.w.Begin(m.now)
				}
				if n%256 == 0 && i == 0 {
					fmt.Println(n)
				}
				m.turn()
			}
		}()
	}
	select {} // until killed
}

// A process is killed in the middle of whatever it does, again and again. What was at
// rest then is there as it was; of the rest each record is either there and sound, or is
// found out.
func TestTableOfAKilledProcessIsReadWhole(t *testing.T) {
	if info, err := os.Stat("/dev/shm"); err != nil || !info.IsDir() {
		t.Fatal("there is no /dev/shm for files that outlive a process")
	}
	wait := rand.New(rand.NewPCG(7, 7))
	for seed := range uint64(8) {
		root, err := os.MkdirTemp("/dev/shm", "culvert-mill-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(root) })
		killMill(t, root, seed, wait.IntN(200))
		folder, err := keep.Open(root, keep.Alone)
		if err != nil {
			t.Fatal(err)
		}
		left := folder.Leftovers()
		if len(left) != 1 {
			t.Fatalf("%d processes have left something, want 1", len(left))
		}
		twin := newTable(t, millConfig(nil))
		now := quiet(t, twin.Worker(0), seed)
		heir, refused := heirOf(t, left[0].Array, now)
		for _, err := range refused {
			t.Logf("seed %d: not adopted: %v", seed, err)
		}
		if len(refused) > 8 {
			t.Errorf("%d records were not adopted, of two workers each in the middle of one", len(refused))
		}
		compareContents(t, contents(twin), contents(heir))
		if err := errors.Join(left[0].Close(), folder.Close()); err != nil {
			t.Error(err)
		}
	}
}

// killMill starts a mill, lets it turn some 256 times so often and kills it.
func killMill(t *testing.T, root string, seed uint64, after int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestMillUntilKilled$", "-test.timeout", "1m")
	cmd.Env = append(os.Environ(), millFolder+"="+root, millSeed+"="+fmt.Sprint(seed))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var text []string
	for lines.Scan() && lines.Text() != "milling" {
		text = append(text, lines.Text())
	}
	for range after { // it does not wait for us: this is an arbitrary moment of what it does
		lines.Scan()
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the mill ended with %v:\n%s", err, strings.Join(text, "\n"))
	}
}

// What its writer had not finished is found out by itself: such a flow is left out, or
// not held to what nobody knows.
func TestHalfWrittenRecordsAreFoundOut(t *testing.T) {
	later := start
	later += second
	for _, tt := range []struct {
		name string
		tear func(table *Table, slot uint32)
		want error // nil: the flow is there
	}{
		{"nothing", func(*Table, uint32) {}, nil},
		{"a lock is held", func(table *Table, slot uint32) { table.entries[slot].word |= wordLock }, nil},
		{"corrections are being changed", func(table *Table, slot uint32) { table.exts[table.entries[slot].ext].turn++ }, ErrTorn},
		{"there is no such extension", func(table *Table, slot uint32) { table.entries[slot].ext = 1 << 30 }, ErrTorn},
		{"there are no such timeouts", func(table *Table, slot uint32) { table.exts[table.entries[slot].ext].policy = 7 }, ErrTorn},
		{"protocols differ", func(table *Table, slot uint32) { table.entries[slot].half[1].tuple.Proto = tuple.UDP }, ErrTorn},
		{"there is no such state", func(table *Table, slot uint32) { table.entries[slot].word |= stateMask }, ErrTorn},
		{"its time is over", func(table *Table, slot uint32) { table.entries[slot].timeout = 0 }, ErrExpired},
	} {
		memory := &keeptest.Memory{}
		table := newTable(t, millConfig(memory))
		w := table.Worker(0)
		w.Begin(start)
		p := proposal(flowTuple(tuple.TCP, 1))
		p.Helper = 1
		r := mustAdmit(t, w, p, syn, start)
		w.Track(Ref{r.Slot, tuple.Reply}, &Segment{Bytes: 60, Flags: SYN | ACK, Seq: 5000, Ack: 1001, Window: 1000}, start)
		w.Track(r, &Segment{Bytes: 60, Flags: ACK, Seq: 1001, Ack: 5001, Window: 1000}, start)
		w.SetCorrection(r, tuple.Original, Correction{1001, 0, 5})
		before, ext := *table.Entry(r.Slot), table.exts[table.Entry(r.Slot).ext]
		tt.tear(table, r.Slot)
		left := memory.Left()
		*table.Entry(r.Slot) = before
		table.exts[before.ext] = ext

		heir, refused := heirOf(t, left.Array, later)
		if err := errors.Join(refused...); !errors.Is(err, tt.want) || (err == nil) != (heir.Len() == 1) {
			t.Errorf("%s: %v, %d flows, want %v", tt.name, err, heir.Len(), tt.want)
			continue
		}
		if tt.want != nil {
			continue
		}
		w = heir.Worker(0)
		w.Begin(later)
		r = w.Find(&p.Original)
		if got := w.Correction(r, tuple.Original); got != (Correction{1001, 0, 5}) {
			t.Errorf("%s: the correction is %+v", tt.name, got)
		}
		far := &Segment{Bytes: 60, Flags: ACK, Seq: 1001 + 1<<28, Ack: 5001 + 1<<28, Window: 1000}
		if v, torn := w.Track(r, far, later), tt.name == "a lock is held"; (v == Accept) != torn {
			t.Errorf("%s: a segment far away is %v", tt.name, v)
		}
	}
}

// Memory that is full refuses the flows that need more of it, and no others.
func TestFullMemoryRefusesWhatNeedsIt(t *testing.T) {
	full := errors.New("full")
	memory := &keeptest.Memory{Full: func(name string) error {
		if name == extsName {
			return full
		}
		return nil
	}}
	table := newTable(t, millConfig(memory))
	w := table.Worker(0)
	w.Begin(start)
	p := proposal(flowTuple(tuple.UDP, 1))
	p.Helper = 1
	if _, c := w.Claim(p, start); c != TableFull {
		t.Errorf("a flow with a helper: %v, want %v", c, TableFull)
	}
	mustAdmit(t, w, proposal(flowTuple(tuple.UDP, 2)), data, start)
	memory.Full = nil
	mustAdmit(t, w, p, data, start)
	memory.Full = func(string) error { return full }
	if _, err := table.Policy(Timeouts{UDP: time.Hour}); !errors.Is(err, full) {
		t.Errorf("timeouts that nobody can keep: %v, want %v", err, full)
	}
	cfg := millConfig(&keeptest.Memory{Full: memory.Full})
	if _, err := New(cfg); !errors.Is(err, full) {
		t.Errorf("a table without room: %v, want %v", err, full)
	}
}
