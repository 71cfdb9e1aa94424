package flowlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/await"
	"example.com/culvert/nat"
)

// box is a table with flows to log.
type box struct {
	*conntrack.Table
}

func newBox(t *testing.T) box {
	t.Helper()
	table, err := conntrack.New(conntrack.Config{Max: 4096, Timestamp: true, EventRing: 4096})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return box{table}
}

// flows lets UDP flows begin, masqueraded from port 20000 on, and end them.
func (b box) flows(t *testing.T, n int) {
	t.Helper()
	w, now := b.Worker(0), conntrack.Now()
	w.Begin(now)
	for i := range n {
		o := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("192.0.2.53"), SrcPort: uint16(1024 + i), DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}
		r, _ := o.Inverse()
		r.Dst, r.DstPort = addr("203.0.113.1"), uint16(20000+i)
		ref, claim := w.Claim(&conntrack.Proposal{Original: o, Reply: r, Status: conntrack.SrcNAT, Rule: 7}, now)
		if claim != conntrack.Claimed {
			t.Fatalf("flow %d was not claimed: %v", i, claim)
		}
		w.Confirm(ref, now)
		if !w.End(ref, conntrack.RulesChanged) {
			t.Fatalf("flow %d was not ended", i)
		}
	}
	w.Begin(now)
	w.Park()
}

// memory is a sink that can be shut.
type memory struct {
	mu     sync.Mutex // guards the rest
	b      []byte
	shut   error
	opened int
}

func (m *memory) String() string { return "memory" }
func (m *memory) ready() error   { return nil }
func (m *memory) close() error   { return nil }
func (m *memory) reopen() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened++
	m.shut = nil
	return nil
}

func (m *memory) write(l *lines) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shut != nil {
		return m.shut
	}
	m.b = append(m.b, l.b...)
	l.drop(l.len())
	return nil
}

func (m *memory) count(what string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Count(string(m.b), what)
}

func settings(t *testing.T, s Sink) Config {
	return Config{Sink: s, Events: [numEvents]bool{true, true, true, true, true, true}, Buffer: 8192,
		Rule: func(id uint32) string { return fmt.Sprint("rule-", id) }, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func open(t *testing.T, b box, c Config) *Logger {
	t.Helper()
	l, err := Open(b.Table, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = l.Close(ctx) // lines that are left are the test's affair
	})
	return l
}

func shut(t *testing.T, l *Logger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Error(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	await.Until(t, what, ok)
}

func TestEveryFlowHasItsLines(t *testing.T) {
	b, f := newBox(t), &File{Path: filepath.Join(t.TempDir(), "flows.log"), Mode: 0o600}
	l := open(t, b, settings(t, f))
	b.flows(t, 1000)
	eventually(t, "all lines", func() bool { return l.Stats().Written == 2000 })
	shut(t, l)
	text := content(t, f.Path)
	seen := map[string]int{}
	for line := range strings.Lines(text) {
		_, line, _ = strings.Cut(line, " ")
		line, _, _ = strings.Cut(line, " generation=")
		seen[line]++
	}
	for i := range 1000 {
		line := fmt.Sprintf(" proto=udp src=10.0.0.5 sport=%d dst=192.0.2.53 dport=53 nat_src=203.0.113.1 nat_sport=%d nat_dst=192.0.2.53 nat_dport=53 rule=rule-7", 1024+i, 20000+i)
		if seen["event=new"+line] != 1 || seen["event=destroy"+line] != 1 {
			t.Fatalf("not both lines of flow %d", i)
		}
	}
	if n := strings.Count(text, " duration=0."); n != 1000 || strings.Count(text, " end=rules-changed\n") != 1000 {
		t.Errorf("%d lines with a duration, want 1000 with a cause as well", n)
	}
}

func TestOnlyWhatIsAskedForIsLogged(t *testing.T) {
	b, m := newBox(t), &memory{}
	c := settings(t, m)
	c.Events = [numEvents]bool{BlockAllocated: true, BlockReleased: true}
	l := open(t, b, c)
	b.flows(t, 3)
	l.Refuse(Refusal{At: noon})
	l.Block(Block{noon, BlockAllocated, addr("10.0.0.5"), 0, addr("203.0.113.1"), nat.PortRange{First: 1024, Last: 1535}})
	shut(t, l)
	if n := m.count("\n"); n != 1 || m.count("event=block-allocated") != 1 {
		t.Errorf("logged %q", m.b)
	}
}

func TestFlowsThatAreNotTranslatedCanBeLeftOut(t *testing.T) {
	b, m := newBox(t), &memory{}
	c := settings(t, m)
	c.Flows = Translated
	l := open(t, b, c)
	w, now := b.Worker(0), conntrack.Now()
	w.Begin(now)
	o := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("10.0.1.5"), SrcPort: 5, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}
	r, _ := o.Inverse()
	ref, _ := w.Claim(&conntrack.Proposal{Original: o, Reply: r}, now)
	w.Confirm(ref, now)
	w.Park()
	b.flows(t, 1)
	eventually(t, "the end of the flow", func() bool { return m.count("event=destroy") == 1 })
	if shut(t, l); m.count("event=new") != 1 || m.count("10.0.1.5") != 0 {
		t.Errorf("logged %q", m.b)
	}
}

func TestLossIsExactAndSaidInTheLog(t *testing.T) {
	b, m := newBox(t), &memory{shut: errors.New("disk is full")}
	c := settings(t, m)
	c.Buffer = 100
	l := open(t, b, c)
	b.flows(t, 1)
	eventually(t, "trouble", func() bool { return l.Stats().Failing })
	all := b.Subscribe(4096, conntrack.NewEvents|conntrack.DestroyEvents) // is told after the log
	b.flows(t, 1000)
	for range 2000 {
		<-all.Events()
	}
	all.Close()
	l.Reopen() // which opens it
	eventually(t, "recovery", func() bool { return !l.Stats().Failing })
	shut(t, l)
	lost := uint64(0)
	for line := range strings.Lines(string(m.b)) {
		var n uint64
		if _, after, ok := strings.Cut(line, "event=lost records="); ok {
			fmt.Sscan(after, &n)
		}
		lost += n
	}
	written := uint64(m.count("event=new") + m.count("event=destroy"))
	if s := l.Stats(); lost != s.Lost || written+lost != 2002 || m.count("event=lost") == 0 {
		t.Errorf("%d written, %d lost, the log says %d; want 2002 together", written, s.Lost, lost)
	}
}

// dead is a sink that takes nothing, and counts how many lines it was offered.
type dead struct {
	memory
	tried   int
	offered int // the last time
}

func (d *dead) reopen() error { return nil }
func (d *dead) write(l *lines) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tried, d.offered = d.tried+1, l.len()
	return errors.New("disk is full")
}

// Each attempt used to add a line about what had been lost since the one before, for as
// long as the disk was full.
func TestWhatIsLostMeanwhileIsOneLine(t *testing.T) {
	d := &dead{}
	l := open(t, newBox(t), settings(t, d))
	fill := func() {
		for range extraRoom + batchBytes/64 {
			l.Refuse(Refusal{At: noon, Reason: "port-quota", Client: addr("10.0.0.5"), Address: addr("203.0.113.1"), Dst: addr("192.0.2.53"), Packets: 1})
		}
	}
	tries := func() (tried, offered int) { d.mu.Lock(); defer d.mu.Unlock(); return d.tried, d.offered }
	fill()
	eventually(t, "the first attempt", func() bool { n, _ := tries(); return n > 0 })
	_, first := tries()
	for range 20 {
		fill()
		before, _ := tries()
		l.Reopen() // tries at once
		eventually(t, "another attempt", func() bool { n, _ := tries(); return n > before })
	}
	if _, last := tries(); last > first+1 {
		t.Errorf("%d lines wait at first and %d in the end, want at most one more", first, last)
	}
}

func TestReopenIsPassedOn(t *testing.T) {
	b, m := newBox(t), &memory{}
	l := open(t, b, settings(t, m))
	l.Reopen()
	eventually(t, "a new file", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.opened == 1 })
	b.flows(t, 1)
	eventually(t, "its lines", func() bool { return m.count("\n") == 2 })
}

func TestCloseTellsWhatItCouldNotWrite(t *testing.T) {
	b, m := newBox(t), &memory{shut: errors.New("disk is full")}
	l := open(t, b, settings(t, m))
	b.flows(t, 5)
	eventually(t, "trouble", func() bool { return l.Stats().Failing })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err == nil || l.Stats().Lost != 10 {
		t.Errorf("%v, %+v; want 10 lines lost", err, l.Stats())
	}
}

func TestTableThatClosesEndsTheLog(t *testing.T) {
	table, err := conntrack.New(conntrack.Config{Max: 64})
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{}
	l := open(t, box{table}, settings(t, m))
	box{table}.flows(t, 2)
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if shut(t, l); m.count("\n") != 4 {
		t.Errorf("logged %q", m.b)
	}
}

func TestFileThatCanNotBeOpenedIsRefused(t *testing.T) {
	f := &File{Path: filepath.Join(t.TempDir(), "no", "flows.log")}
	if _, err := Open(newBox(t).Table, settings(t, f)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file in no directory: %v", err)
	}
}

func TestServerMayComeLater(t *testing.T) {
	b, s := newBox(t), &Syslog{Network: "unixgram", Address: filepath.Join(t.TempDir(), "log"), Dial: new(net.Dialer).DialContext, Name: "edge1"}
	l := open(t, b, settings(t, s))
	b.flows(t, 1)
	eventually(t, "trouble", func() bool { return l.Stats().Failing })
	server, err := net.ListenPacket("unixgram", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	eventually(t, "its lines", func() bool { return l.Stats().Written == 2 })
}

func BenchmarkLine(b *testing.B) {
	e := conntrack.Event{Type: conntrack.EventDestroy, Time: noon, Flow: webFlow()}
	var l lines
	b.ReportAllocs()
	for b.Loop() {
		l.b = l.b[:0]
		l.flow(&e, "internet")
	}
}
