package dataplane

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/steer"
)

// Crew says how many of the workers get packets from ports that can be steered
// (port.Steerer).
type Crew uint8

const (
	CrewAll    Crew = iota
	CrewByLoad      // one, and more while that many have more to do than they can
)

// placing says where the threads of workers run.
type placing uint8

const (
	anywhere placing = iota // on any of Config.PinCPUs: the scheduler moves them out of others' way
	apart                   // each on its own: moved about, they would get into each other's
)

// steering is what an Engine keeps about it.
type steering struct {
	working         atomic.Int32
	changes, failed atomic.Uint64
}

// Steering is how packets are spread over the workers.
type Steering struct {
	Working int    // workers that get packets of ports that can be steered
	Changes uint64 // of that number
	Failed  uint64 // times that a port could not be told
}

// Steering returns how packets are spread. Any goroutine may call it.
func (e *Engine) Steering() Steering {
	return Steering{Working: int(e.steering.working.Load()), Changes: e.steering.changes.Load(), Failed: e.steering.failed.Load()}
}

// steered returns the ports of v that can be told which queue gets what.
func (v *view) steered() (all []port.Steerer) {
	for _, p := range v.ports {
		if p == nil || p.port == nil {
			continue
		}
		if s, ok := p.port.(port.Steerer); ok {
			all = append(all, s)
		}
	}
	return all
}

// direct steers the ports of v that old has not, all if old is nil, to the workers that
// work. e.mu must be held.
func (e *Engine) direct(v, old *view) error {
	if e.cfg.Crew == CrewAll {
		return nil // ports begin so
	}
	known := map[port.Steerer]bool{}
	if old != nil {
		for _, s := range old.steered() {
			known[s] = true
		}
	}
	table := steer.Even(int(e.steering.working.Load()))
	var errs []error
	for id, p := range v.ports {
		if p == nil || p.port == nil {
			continue
		}
		s, ok := p.port.(port.Steerer)
		if !ok || known[s] {
			continue
		}
		if err := s.Steer(&table); err != nil {
			e.steering.failed.Add(1)
			errs = append(errs, portError(id, p.name, "steer: %w", err))
		}
	}
	return errors.Join(errs...)
}

// work has n workers get packets, and reports whether it came to that: it does not wait
// for Apply and Stop. Packets of a flow that moves may overtake those that wait in its old
// queue. A port that cannot be told keeps what it had: its packets come to a worker that
// nobody counts on, and are forwarded like others.
func (e *Engine) work(n int) bool {
	if !e.mu.TryLock() {
		return false
	}
	defer e.mu.Unlock()
	if was := int(e.steering.working.Swap(int32(n))); was != n {
		e.steering.changes.Add(1)
		e.place(was, n)
	}
	_ = e.direct(e.view.Load(), nil) // counted
	return true
}

// place moves the workers apart when all of them work, and lets them go when no longer.
func (e *Engine) place(was, n int) {
	p := anywhere
	switch all := len(e.workers); {
	case n == all:
		p = apart
	case was != all:
		return
	}
	for _, w := range e.workers {
		w.place(p)
	}
}

// steerByLoad changes how many workers work until the engine stops.
func (e *Engine) steerByLoad() {
	defer e.done.Done()
	tick := time.NewTicker(crewLook)
	defer tick.Stop()
	uptime, err := os.Open("/proc/uptime")
	if err == nil {
		defer uptime.Close()
	}
	c := newCrew(len(e.workers))
	c.size = int(e.steering.working.Load())
	was := e.crewTotals(uptime, &crewTotals{})
	told := false // the process whose ports these were may have told them otherwise meanwhile
	for {
		select {
		case <-e.quit:
			return
		case <-tick.C:
		}
		is := e.crewTotals(uptime, &was)
		l := is.since(&was)
		if n := c.look(&l); !told || n != int(e.steering.working.Load()) {
			told = e.work(n) // or at the next look
		}
		was = is
	}
}

// crewTotals is what workers have done since they began.
type crewTotals struct {
	at        int64 // boot clock, ns
	busy, ran []time.Duration
	idle      time.Duration
	work      float64
	lost      uint64 // of rings; they are not asked while nothing is done
}

// frameCost is how many bytes cost as much as a frame, about: copied twice, at 4 to 8 GB/s.
const frameCost = 4096

func (e *Engine) crewTotals(uptime *os.File, was *crewTotals) (t crewTotals) {
	t.at = e.cfg.Clock()
	for _, w := range e.workers {
		c := &w.counter
		t.busy = append(t.busy, time.Duration(c.load.busy.Load()))
		t.ran = append(t.ran, timeOf(int(w.thread.Load())))
		t.work += float64(c.forwarded.Load()+c.delivered.Load()) + float64(c.bytes.Load())/frameCost
	}
	t.idle = idleTimeOf(uptime)
	if t.lost = was.lost; t.work != was.work {
		t.lost = e.ringDrops()
	}
	return t
}

// ringDrops returns how many frames found no place in the rings of the ports that there are.
func (e *Engine) ringDrops() (n uint64) {
	for _, p := range e.view.Load().ports {
		if p == nil || p.port == nil {
			continue
		}
		for i := range p.port.Info().NumQueues {
			n += p.port.Queue(i).Stats().RxRingDrops
		}
	}
	return n
}

func (t *crewTotals) since(was *crewTotals) crewLoad {
	l := crewLoad{elapsed: time.Duration(t.at - was.at), idle: t.idle - was.idle, work: t.work - was.work}
	if t.lost > was.lost { // a port that went away takes its count along
		l.lost = float64(t.lost - was.lost)
	}
	for i := range t.busy {
		l.busy = append(l.busy, t.busy[i]-was.busy[i])
		l.ran = append(l.ran, t.ran[i]-was.ran[i])
	}
	return l
}

// timeOf returns how long a thread of this process has been on a processor, 0 if it has ended.
func timeOf(tid int) time.Duration {
	const perThread, scheduler = 4, 2 // the clock of a thread, and what it counts: its number is in the other bits
	var ts unix.Timespec
	if tid == 0 || unix.ClockGettime(int32(^tid<<3|perThread|scheduler), &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// idleTimeOf reads how long the processors of the machine have idled, all together, to
// 10 ms; 0 if nobody says.
func idleTimeOf(uptime *os.File) time.Duration {
	var b [64]byte
	n, _ := uptime.ReadAt(b[:], 0) // a nil file is an error like others
	f := bytes.Fields(b[:n])
	if len(f) < 2 {
		return 0
	}
	seconds, err := strconv.ParseFloat(string(f[1]), 64)
	if err != nil {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}
