package conntrack

import (
	"sync"
	"sync/atomic"
)

// pool hands out numbers 1..limit, of slots or of extension records. Free
// numbers hang together through link, which nobody else reads; fresh ones are
// taken from the top only when no used one is left, so that memory that was
// never needed stays untouched.
type pool struct {
	link  []uint32 // next free number; index is the number
	limit uint32
	high  atomic.Uint32 // numbers above were never used

	mu       sync.Mutex
	reserve  func(from, to uint32) error // room for numbers; nil: there is for all. With mu
	reserved uint32                      // numbers that have it; with mu

	free chain         // with mu
	wake chan struct{} // with mu: told when high has passed low
	low  uint32        // with mu
}

// chain is a list of numbers through pool.link.
type chain struct {
	head, tail uint32
	n          int
}

// push adds number i in front of c.
func (c *chain) push(link []uint32, i uint32) {
	link[i] = c.head
	if c.n == 0 {
		c.tail = i
	}
	c.head = i
	c.n++
}

// append adds number i at the end of c.
func (c *chain) append(link []uint32, i uint32) {
	if c.n == 0 {
		c.head = i
	} else {
		link[c.tail] = i
	}
	c.tail = i
	c.n++
}

// pop removes the first number; c must not be empty.
func (c *chain) pop(link []uint32) uint32 {
	i := c.head
	c.head = link[i]
	c.n--
	return i
}

// join puts all of o, which is left empty, in front of c.
func (c *chain) join(link []uint32, o *chain) {
	if o.n == 0 {
		return
	}
	if c.n == 0 {
		*c = *o
	} else {
		link[o.tail] = c.head
		c.head = o.head
		c.n += o.n
	}
	*o = chain{}
}

const refillCount = 64 // numbers a worker takes at once

// get takes a number from the cache c, refilling it when it is empty. It
// returns 0 when all numbers are in use.
func (p *pool) get(c *chain) uint32 {
	if c.n == 0 {
		p.refill(c)
		if c.n == 0 {
			return 0
		}
	}
	return c.pop(p.link)
}

// refill moves some numbers to the empty chain c.
func (p *pool) refill(c *chain) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c.n < refillCount && p.free.n > 0 {
		c.push(p.link, p.free.pop(p.link))
	}
	if c.n > 0 {
		return
	}
	high := p.high.Load()
	last := min(high+refillCount, p.roomLocked(high+refillCount))
	for i := last; i > high; i-- {
		c.push(p.link, i)
	}
	p.high.Store(last)
	if last > p.low {
		select {
		case p.wake <- struct{}{}:
		default: // was told, or nobody cares
		}
	}
}

// reserveCount is how many numbers get room at a time.
const reserveCount = 1 << 13

// roomLocked returns up to which number there is room, if possible up to want. p.mu must be
// held.
func (p *pool) roomLocked(want uint32) uint32 {
	if p.reserve == nil {
		return p.limit
	}
	if p.reserved < min(want, p.limit) {
		if more := min(p.reserved+reserveCount, p.limit); p.reserve(p.reserved, more) == nil {
			p.reserved = more
		}
	}
	return p.reserved
}

// grow says whom to tell when numbers come near to those without memory.
func (p *pool) grow(g *grower) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake = g.wake
	if ready := g.ready.Load(); ready < g.limit {
		half := aheadOf(p.high.Load()) / 2
		p.low = max(ready, half) - half
	} else {
		p.low = p.limit // never
	}
}

// put gives back numbers to the cache c, or to everybody when c has enough.
func (p *pool) put(c, numbers *chain) {
	if c.n+numbers.n <= 2*refillCount {
		c.join(p.link, numbers)
		return
	}
	p.mu.Lock()
	p.free.join(p.link, numbers)
	p.mu.Unlock()
}

// epochs delays the reuse of slots until everybody who may still hold one has
// moved on. The global epoch rises when slots are retired; each participant
// publishes the epoch at which it last held nothing.
//
// Why this is enough: a slot leaves the index, then the retiring worker reads
// the epoch (the stamp), then raises it. Whoever publishes a later value read
// it after that, so it cannot find the slot any more; and it held nothing from
// before. All accesses are sequentially consistent.
type epochs struct {
	now   atomic.Uint64
	seats []seat
}

// seat is one participant's published epoch, on a line of its own.
type seat struct {
	at atomic.Uint64
	_  [56]byte
}

const away = ^uint64(0) // the participant holds nothing and looks at nothing

func newEpochs(participants int) *epochs {
	e := &epochs{seats: make([]seat, participants)}
	for i := range e.seats {
		e.seats[i].at.Store(away)
	}
	return e
}

// enter says that participant i holds nothing yet and is about to look.
func (e *epochs) enter(i int) { e.seats[i].at.Store(e.now.Load()) }

// leave says that participant i holds nothing.
func (e *epochs) leave(i int) { e.seats[i].at.Store(away) }

// oldest returns the oldest epoch anybody is in.
func (e *epochs) oldest() uint64 {
	oldest := away
	for i := range e.seats {
		oldest = min(oldest, e.seats[i].at.Load())
	}
	return oldest
}

// passed reports whether every participant has entered later than the epoch
// whose lower half stamp is.
func (e *epochs) passed(stamp uint32) bool {
	oldest := e.oldest()
	return oldest == away || int32(uint32(oldest)-stamp) > 0
}

// retirees are numbers on their way back to the pool: an open chain that is
// growing and closed ones that wait for their epoch.
type retirees struct {
	open   chain
	closed [16]struct {
		chain
		stamp uint64
	}
	first, n int // ring of closed
}

// close stamps what was retired since the last close.
func (r *retirees) close(e *epochs) {
	if r.open.n == 0 || r.n == len(r.closed) {
		return // a full ring only makes the open chain longer
	}
	c := &r.closed[(r.first+r.n)%len(r.closed)]
	c.chain, c.stamp = r.open, e.now.Add(1)-1
	r.open = chain{}
	r.n++
}

// due returns the oldest chain if nobody can hold its members, else nil. The
// caller empties it and calls drop.
func (r *retirees) due(e *epochs) *chain {
	if r.n == 0 || r.closed[r.first].stamp >= e.oldest() {
		return nil
	}
	return &r.closed[r.first].chain
}

func (r *retirees) drop() {
	r.first = (r.first + 1) % len(r.closed)
	r.n--
}
