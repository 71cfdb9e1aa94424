package dataplane

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/steer"
)

// steerable is a port that remembers over how many queues it was told to spread packets.
type steerable struct {
	*pair
	told []int
	err  error
}

var _ port.Steerer = (*steerable)(nil)

func (p *steerable) Steer(t *steer.Table) error {
	p.told = append(p.told, int(slices.Max(t[:]))+1)
	return p.err
}

// steering makes an engine with two workers, and a function that applies ports.
func newSteering(t *testing.T, crew Crew) (e *Engine, apply func(...*steerable) error) {
	t.Helper()
	table, err := conntrack.New(conntrack.Config{Max: 1 << 10, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if e, err = New(Config{Workers: 2, Crew: crew, Table: table}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{TB: t}
	return e, func(all ...*steerable) error {
		st := State{}
		for i, p := range all {
			st.Ports = append(st.Ports, PortConfig{ID: uint16(1 + i), Name: p.info.Name, Port: p})
		}
		st.Routes, st.Program = l.routes(&st), l.program(&st, masquerade)
		return e.Apply(st)
	}
}

func newSteerable(name string) *steerable { return &steerable{pair: newPair(name)} }

func TestPortsAreToldWhoWorks(t *testing.T) {
	e, apply := newSteering(t, CrewByLoad)
	lan, wan := newSteerable("lan"), newSteerable("wan")
	tell := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, toldLAN, toldWAN []int) {
		t.Helper()
		if !slices.Equal(lan.told, toldLAN) || !slices.Equal(wan.told, toldWAN) {
			t.Errorf("%s: lan was told %v and wan %v, want %v and %v", what, lan.told, wan.told, toldLAN, toldWAN)
		}
	}
	tell(apply(lan))
	want("one works at first", []int{1}, nil)
	if !e.work(2) {
		t.Fatal("nobody else changes anything, but it came to nothing")
	}
	want("both work", []int{1, 2}, nil)
	tell(apply(lan, wan))
	want("a port that comes", []int{1, 2}, []int{2})
	tell(apply(lan, wan))
	want("a reload that changes no ports", []int{1, 2}, []int{2})
	e.work(1)
	want("one works again", []int{1, 2, 1}, []int{2, 1})
	if got := e.Steering(); got != (Steering{Working: 1, Changes: 2}) {
		t.Errorf("steering %+v", got)
	}
}

func TestAPortThatCanNotBeSteeredIsNamed(t *testing.T) {
	e, apply := newSteering(t, CrewByLoad)
	lan, wan := newSteerable("lan"), newSteerable("wan")
	lan.err = errors.New("it does not want to")
	if err := apply(lan, wan); err == nil || !strings.Contains(err.Error(), "port 1 (lan): steer: it does not want to") {
		t.Errorf("error %v", err)
	}
	lan.err = nil
	if err := apply(lan, wan); err != nil {
		t.Fatal(err)
	}
	lan.err = errors.New("no more")
	wan.told = nil
	e.work(2)
	if !slices.Equal(wan.told, []int{2}) {
		t.Errorf("the other one was told %v, want 2", wan.told)
	}
	if got := e.Steering(); got.Failed != 2 || got.Working != 2 {
		t.Errorf("steering %+v, want 2 working and 2 failures", got)
	}
}

func TestPortsOfAGivenNumberOfWorkersAreLeftAsTheyAre(t *testing.T) {
	e, apply := newSteering(t, CrewAll)
	lan := newSteerable("lan")
	if err := apply(lan); err != nil {
		t.Fatal(err)
	}
	if lan.told != nil || e.Steering().Working != 2 {
		t.Errorf("told %v, %+v", lan.told, e.Steering())
	}
}

// Apply holds the lock of changes; a change of the crew comes another time.
func TestTheCrewDoesNotWaitForOtherChanges(t *testing.T) {
	e, _ := newSteering(t, CrewByLoad)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.work(2) {
		t.Error("it came to something")
	}
	if got := e.Steering(); got != (Steering{Working: 1}) {
		t.Errorf("steering %+v, want as before", got)
	}
}

// Workers of a crew run where there is room, and each on a processor of its own while all
// of them work.
func TestWorkersAreOnProcessorsOfTheirOwnWhileAllOfThemWork(t *testing.T) {
	e, _ := newSteering(t, CrewByLoad)
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(allowed) * 64 {
		if allowed.IsSet(cpu) {
			e.cfg.PinCPUs = append(e.cfg.PinCPUs, cpu)
		}
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	want := func(what string, of func(worker int) []int) {
		t.Helper()
		for i, w := range e.workers {
			until(t, w.String()+" runs", func() bool { return w.thread.Load() != 0 })
			var want, got unix.CPUSet
			for _, cpu := range of(i) {
				want.Set(cpu)
			}
			if err := unix.SchedGetaffinity(int(w.thread.Load()), &got); err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("%s: worker %d may run on %x, want %x", what, i, got[0], want[0])
			}
		}
	}
	cpus := e.cfg.PinCPUs
	anyOf := func(int) []int { return cpus }
	want("at first", anyOf)
	until(t, "both work", func() bool { return e.work(2) })
	want("both work", func(i int) []int { return cpus[i%len(cpus):][:1] })
	until(t, "one works", func() bool { return e.work(1) })
	want("one works", anyOf)
}

// The clock of a thread and the idle time of the machine are what the kernel says they are.
func TestCrewSeesWhatThreadsAndProcessorsDo(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was := timeOf(unix.Gettid())
	until(t, "this thread's time goes on", func() bool { return timeOf(unix.Gettid()) > was })
	if got := timeOf(0); got != 0 {
		t.Errorf("a worker that does not run has run %v", got)
	}
	uptime, err := os.Open("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	defer uptime.Close()
	idle := idleTimeOf(uptime)
	if idle <= 0 {
		t.Errorf("the machine has idled %v since it began", idle)
	}
	if again := idleTimeOf(uptime); again < idle || again > idle+10*time.Minute {
		t.Errorf("it had idled %v, then %v", idle, again)
	}
	if got := idleTimeOf(nil); got != 0 {
		t.Errorf("without anybody who says so: %v", got)
	}
}
