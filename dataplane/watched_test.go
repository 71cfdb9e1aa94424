package dataplane

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// watchLabs has a Trace watch every lab.
var watchLabs bool

// TestMain runs all tests a second time, the long ones short, with a Trace on every lab:
// what it tells has to be what the counters say, whatever a test does. Nobody watches in
// short runs, benchmarks and fuzzing.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	bench, fuzz := flag.Lookup("test.bench"), flag.Lookup("test.fuzz")
	if code == 0 && !testing.Short() && bench.Value.String() == "" && fuzz.Value.String() == "" {
		watchLabs = true
		if err := flag.Set("test.short", "true"); err != nil {
			panic(err)
		}
		code = m.Run()
	}
	os.Exit(code)
}

// traceAccount counts what a Trace tells as the engine counts packets.
type traceAccount struct {
	testing.TB
	t      *Trace
	before Stats
	got    Stats
}

func newTraceAccount(t testing.TB, e *Engine) *traceAccount {
	t.Helper()
	trace, err := e.Trace(TraceOptions{Walks: 1 << 13})
	if err != nil {
		t.Fatal(err)
	}
	return &traceAccount{TB: t, t: trace, before: e.Stats()}
}

// unwatched ends the Trace of a lab whose worker is not driven by its Step.
func (l *lab) unwatched() {
	if l.trace != nil {
		l.trace.t.Close()
		l.trace = nil
	}
}

// read takes in what there is.
func (a *traceAccount) read() {
	if a == nil {
		return
	}
	a.t.Read(func(p *TracedPacket) bool {
		a.count(p)
		return true
	})
}

func (a *traceAccount) count(p *TracedPacket) {
	a.Helper()
	if p.Packet == "" || len(p.Steps) == 0 {
		a.Errorf("a walk without words: %+v", p)
	}
	switch {
	case p.Count != 1 || p.Worker < 0 || p.In == "" && p.Reason != None:
		a.got.Dropped[p.Reason] += p.Count
		return
	case p.In == "":
		return
	case !p.Resumed:
		a.got.Received++
	}
	switch p.Fate {
	case Forwarded:
		a.got.Forwarded++
	case Delivered:
		a.got.Delivered++
	case Kept:
		a.got.Held++
	case Dropped, Rejected:
		if p.Reason == None {
			a.Errorf("dropped without a reason: %+v", p)
		}
	}
	for _, s := range p.Steps {
		if s.Name == "drop" {
			a.drop(s.Text)
		}
	}
}

// drop counts what a step says.
func (a *traceAccount) drop(text string) {
	a.Helper()
	for _, r := range Reasons() {
		if name := r.String() + ": "; len(text) > len(name) && text[:len(name)] == name {
			a.got.Dropped[r]++
			return
		}
	}
	var n uint64
	if _, err := fmt.Sscanf(text, "%d fragments that waited for it", &n); err != nil {
		a.Errorf("drop without a reason: %q", text)
	}
	a.got.Dropped[FragmentOrphan] += n
}

// check compares with what the engine has counted.
func (a *traceAccount) check(now Stats) {
	if a == nil {
		return
	}
	a.Helper()
	a.read()
	if unread, beyond := a.t.Lost(); unread+beyond != 0 {
		a.Errorf("%d walks were not read in time, %d were too many", unread, beyond)
	}
	for r := range now.Dropped {
		if want := now.Dropped[r] - a.before.Dropped[r]; a.got.Dropped[r] != want {
			a.Errorf("%d packets told as %v, %d counted", a.got.Dropped[r], Reason(r), want)
		}
	}
	if want := now.Received - a.before.Received; a.got.Received != want {
		a.Errorf("%d packets told, %d received", a.got.Received, want)
	}
	if want := now.Forwarded - a.before.Forwarded; a.got.Forwarded != want {
		a.Errorf("%d packets told as forwarded, %d counted", a.got.Forwarded, want)
	}
	if want := now.Delivered - a.before.Delivered; a.got.Delivered != want {
		a.Errorf("%d packets told as delivered, %d counted", a.got.Delivered, want)
	}
	a.t.Close()
}
