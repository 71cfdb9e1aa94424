package dataplane

import "fmt"

// Pulse remembers where every worker was at the last look of Engine.Stuck. The
// zero Pulse has not looked yet.
type Pulse struct {
	rounds []uint64
	awake  []bool
}

// Stuck returns an error that names the workers which have neither slept nor begun
// a batch since the last look at p, or nil: it is for watchdogs. An idle worker
// passes ten batches a second, so looks that are a second or more apart find only
// workers that hang. Any goroutine may call it, each with a Pulse of its own; it
// takes no lock.
func (e *Engine) Stuck(p *Pulse) error {
	if p.rounds == nil {
		p.rounds, p.awake = make([]uint64, len(e.workers)), make([]bool, len(e.workers))
	}
	var stuck []*Worker
	for i, w := range e.workers {
		rounds, awake := w.rounds.Load(), !w.asleep.Load()
		if awake && p.awake[i] && rounds == p.rounds[i] {
			stuck = append(stuck, w)
		}
		p.rounds[i], p.awake[i] = rounds, awake
	}
	if stuck == nil {
		return nil
	}
	return fmt.Errorf("%v: in one batch since the last look", stuck)
}
