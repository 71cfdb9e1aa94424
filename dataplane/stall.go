package dataplane

import (
	"fmt"
	"math"
	"time"
)

// Pulse remembers where every worker was at the last look of Engine.Stuck. The
// zero Pulse has not looked yet.
type Pulse struct {
	rounds []uint64
	awake  []bool
}

// look takes note of where the workers are, and returns those that have begun no batch
// since the last look, and of these the ones that were not asleep then and are not now.
func (p *Pulse) look(e *Engine) (still, awake []*Worker) {
	if p.rounds == nil {
		p.rounds, p.awake = make([]uint64, len(e.workers)), make([]bool, len(e.workers))
		for i := range p.rounds {
			p.rounds[i] = math.MaxUint64
		}
	}
	for i, w := range e.workers {
		rounds, up := w.rounds.Load(), !w.asleep.Load()
		if rounds == p.rounds[i] {
			still = append(still, w)
			if up && p.awake[i] {
				awake = append(awake, w)
			}
		}
		p.rounds[i], p.awake[i] = rounds, up
	}
	return still, awake
}

// Stuck returns an error that names the workers which have neither slept nor begun
// a batch since the last look at p, or nil: it is for watchdogs. An idle worker
// passes ten batches a second, so looks that are a second or more apart find only
// workers that hang. Any goroutine may call it, each with a Pulse of its own; it
// takes no lock.
func (e *Engine) Stuck(p *Pulse) error {
	if _, stuck := p.look(e); stuck != nil {
		return fmt.Errorf("%v: in one batch since the last look", stuck)
	}
	return nil
}

// StillAfter is how long a worker begins no batch until Still may say so: ten times as
// long as an idle one sleeps.
const StillAfter = time.Second

// Still returns the workers, by their index, that have begun no batch since the last look
// at p, which must be StillAfter ago: they hang, or the machine does not let them run. Any
// goroutine may call it, each with a Pulse of its own; it takes no lock.
func (e *Engine) Still(p *Pulse) (workers []int) {
	still, _ := p.look(e)
	for _, w := range still {
		workers = append(workers, w.index)
	}
	return workers
}
