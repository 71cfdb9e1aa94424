package dataplane

import "time"

// How many workers work. One worker moves more packets than two beside a sender that
// needs a processor of its own: on two processors 0.62 M packets/s against 0.29 M, since
// who shares a processor with the sender preempts it. So one works while it can, and
// another one joins when those that work are saturated, or lose packets, and there is
// processor time to be had. Whether that pays is measured.
const (
	crewLook   = 100 * time.Millisecond // between looks
	saturated  = 0.9                    // share of the time that those who work have been busy
	lossy      = 0.01                   // share of what is done that was lost besides: they don't get the time, busy or not
	enough     = 0.6                    // share at which one less is enough
	idleShare  = 0.35                   // of a processor that idled: there is time for one more
	starved    = 0.75                   // share of its busy time that a worker had a processor, or it waits for one
	worthwhile = 1.05                   // by which throughput must grow for one more to stay

	riseLooks  = 2  // saturated in a row before one joins
	fallLooks  = 10 // with little to do before one leaves
	trialLooks = 3  // of a trial, the look in which it began apart

	firstPause = 5 * time.Second // after a trial that did not pay; each further one waits twice as long
	longPause  = 5 * time.Minute
)

// crewLoad is what workers did between two looks.
type crewLoad struct {
	elapsed time.Duration
	busy    []time.Duration // of each worker: in steps that handled packets
	ran     []time.Duration // of each worker: on a processor
	idle    time.Duration   // that processors of the machine spent with nothing to do
	work    float64         // done by all of them, in frames or what costs as much
	lost    float64         // frames that found no place in their rings
}

// crew decides how many of the workers work. It has no clock and no threads.
type crew struct {
	size, most   int
	high, low    int     // looks in a row
	rate         float64 // of work, of the last look of a saturated crew
	trial        int     // looks since one joined for trial, or 0
	was, is      float64 // rate of work before the trial and, summed, in it
	pause, until time.Duration
	now          time.Duration
}

func newCrew(most int) crew { return crew{size: 1, most: most, pause: firstPause} }

// look takes note of what happened since the last one and returns how many shall work
// from now on: 1 to the most there are, at most one more or less than before.
func (c *crew) look(l *crewLoad) int {
	if l.elapsed <= 0 {
		return c.size
	}
	c.now += l.elapsed
	rate := l.work / l.elapsed.Seconds()
	if c.trial > 0 {
		return c.judge(rate)
	}
	var busy, ran time.Duration
	for i := range c.size {
		busy += l.busy[i]
		ran += l.ran[i]
	}
	share := busy.Seconds() / l.elapsed.Seconds()
	c.high, c.low = c.high+1, c.low+1
	if share < saturated*float64(c.size) && l.lost <= lossy*l.work {
		c.high = 0
	}
	if share > enough*float64(c.size-1) {
		c.low = 0
	}
	room := l.idle.Seconds() >= idleShare*l.elapsed.Seconds() || ran.Seconds() < starved*busy.Seconds()
	switch {
	case c.high >= riseLooks && c.size < c.most && room && c.now >= c.until:
		c.was = (c.rate + rate) / 2
		c.size++
		c.trial, c.is = 1, 0
	case c.low >= fallLooks && c.size > 1:
		c.size--
		c.low = 0
	}
	c.rate = rate
	return c.size
}

// judge ends a trial when it has lasted: the new one stays if more got done.
func (c *crew) judge(rate float64) int {
	if c.trial++; c.trial == 2 {
		return c.size // of the time in which it joined
	}
	c.is += rate
	if c.trial < 2+trialLooks {
		return c.size
	}
	if c.is/trialLooks >= worthwhile*c.was {
		c.pause = firstPause
	} else {
		c.size--
		c.until = c.now + c.pause
		c.pause = min(2*c.pause, longPause)
	}
	c.trial, c.high, c.low, c.rate = 0, 0, 0, rate
	return c.size
}
