package conntrack

import (
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"example.com/culvert/conntrack/tuple"
)

// Shares bounds what one client may take of a table that is nearly full. Below
// nine tenths of Config.Max nobody is bounded. Zero fields take the default.
//
// A share is max-min fair: the largest number such that, if nobody had more, all
// would fit. In the Linux profile a full table makes room at the cost of the
// largest holder; in the RFC profile, which never ends a live flow, who is above
// his share gets no new flows, so that the last tenth remains for the others: while
// that fills, fewer and fewer flows without an answer are granted to any client.
type Shares struct {
	Floor    int // flows a client may always have; default Max/64, at least 16
	HalfOpen int // flows of all clients that are not assured, before they are shared; default Max/4
	Rate     int // new flows a second of all clients, before they are shared; default Max/16, at least 1000
}

// withDefaults returns s with its defaults for a table that holds so many flows.
func (s Shares) withDefaults(flows int) Shares {
	pick := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	pick(&s.Floor, max(flows/64, 16))
	pick(&s.HalfOpen, max(flows/4, 16))
	pick(&s.Rate, max(flows/16, 1000))
	return s
}

// Percentages of Config.Max.
const (
	watchPercent = 75 // from here on shares are computed
	sharePercent = 90 // from here on they count
)

// alarmPercents are the fills that are told.
var alarmPercents = [...]int{80, 90, 95}

const (
	shareChunk = 512 // clients looked at in a tick
	maxHolders = 8   // named by an alarm
	unlimited  = math.MaxUint32
)

// shares computes what each client may have, by a walk over all of them that
// goes on for a piece with every tick while the table is nearly full.
type shares struct {
	flows, half, rate atomic.Uint32 // of one client; unlimited: all fit
	clients           atomic.Uint32 // that have flows
	raised            atomic.Uint32 // highest of alarmPercents told

	last atomic.Uint32 // tick of the last piece of the walk

	mu     sync.Mutex // guards what follows
	at     int        // next client to look at
	seen   uint32
	levels [3]levels // flows, half-open, rate
	top    [maxHolders]holder
	alarms chan Alarm
}

// holder is a client as the walk met it.
type holder struct{ client, flows uint32 }

// levels sorts amounts into classes, four to an octave.
type levels struct {
	count [numLevels]uint32
	sum   [numLevels]uint64
}

const numLevels = 4 * 32

// levelOf returns the class of an amount above 0.
func levelOf(n uint32) int {
	if n < 4 {
		return int(n)
	}
	octave := bits.Len32(n) - 3
	return 4*octave + int(n>>octave)
}

func (l *levels) add(n uint32) {
	i := levelOf(n)
	l.count[i]++
	l.sum[i] += uint64(n)
}

// share returns the max-min fair share of capacity; those within one class
// count as if they wanted equally much.
func (l *levels) share(capacity int) uint32 {
	rest, takers := uint64(capacity), uint64(0)
	for _, n := range l.count {
		takers += uint64(n)
	}
	for i, n := range l.count {
		if n == 0 {
			continue
		}
		if l.sum[i] > rest || l.sum[i]/uint64(n) > rest/takers {
			return uint32(max(rest/takers, 1))
		}
		rest -= l.sum[i]
		takers -= uint64(n)
	}
	return unlimited
}

// Holder is a client and what it has.
type Holder struct {
	Addr            netip.Addr // of IPv6 clients the /64
	Zone            uint16
	Flows, HalfOpen int
}

// Alarm tells that the table fills up. It comes once for each level until the
// table has drained five percent below it.
type Alarm struct {
	Percent    int // 80, 90 or 95
	Flows, Max int
	Time       time.Time
	Holders    []Holder // the largest, largest first
}

// Alarms is where alarms arrive, for one reader. Some wait; when there are more
// the newest are dropped. Close closes it.
func (t *Table) Alarms() <-chan Alarm { return t.shares.alarms }

// Holders returns the n clients with the most flows, largest first. It looks at
// every client.
func (t *Table) Holders(n int) []Holder {
	var all []holder
	for i := range t.clients.recs {
		if flows := t.clients.recs[i].flows(); flows > 0 {
			all = append(all, holder{uint32(i), flows})
		}
	}
	slices.SortFunc(all, func(a, b holder) int { return int(b.flows) - int(a.flows) })
	return t.name(all[:min(n, len(all))])
}

// name describes holders by their addresses.
func (t *Table) name(of []holder) []Holder {
	var named []Holder
	for _, h := range of {
		addr, zone, ok := t.clients.who(h.client)
		if ok {
			half := t.clients.recs[h.client].half()
			named = append(named, Holder{addr.Netip(), uint16(zone), int(h.flows), int(half)})
		}
	}
	return named
}

// who returns the address and zone of a client. It reports false for those
// that share a record.
func (c *clients) who(n uint32) (tuple.Addr, uint32, bool) {
	if n == sharedClient {
		return tuple.Addr{}, 0, false
	}
	lock := &c.locks[n/clientWays%clientLocks]
	lock.Lock()
	defer lock.Unlock()
	return *(*tuple.Addr)(unsafe.Pointer(&c.recs[n].addr)), c.recs[n].zone, true
}

// watch does a piece of the walk over the clients. live is the number of flows.
func (t *Table) watch(live int64, now Tick) {
	s := &t.shares
	if last := s.last.Load(); last == uint32(now) || !s.last.CompareAndSwap(last, uint32(now)) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	second := uint32(now) / secondTicks
	end := min(s.at+shareChunk, len(t.clients.recs))
	for ; s.at < end; s.at++ {
		r := &t.clients.recs[s.at]
		flows := r.flows()
		if flows == 0 {
			continue
		}
		s.seen++
		s.levels[0].add(flows)
		s.levels[1].add(r.half())
		s.levels[2].add(r.rate(second))
		s.rankLocked(holder{uint32(s.at), flows})
	}
	if s.at < len(t.clients.recs) {
		return
	}
	s.flows.Store(s.levels[0].share(t.cfg.Max * sharePercent / 100)) // what everybody has always fits into all of it
	s.half.Store(s.levels[1].share(t.cfg.Shares.HalfOpen))
	s.rate.Store(s.levels[2].share(t.cfg.Shares.Rate))
	s.clients.Store(s.seen)
	t.alarmLocked(live, now)
	s.at, s.seen, s.levels, s.top = 0, 0, [3]levels{}, [maxHolders]holder{}
}

// rankLocked keeps the largest holders in order.
func (s *shares) rankLocked(h holder) {
	for i := range s.top {
		if h.flows > s.top[i].flows {
			h, s.top[i] = s.top[i], h
		}
	}
}

// alarmLocked tells a level that was reached since the last walk.
func (t *Table) alarmLocked(live int64, now Tick) {
	s := &t.shares
	fill, raised := int(live*100/int64(t.cfg.Max)), int(s.raised.Load())
	reached := 0
	for _, level := range alarmPercents {
		if fill >= level || level <= raised && fill >= level-5 {
			reached = level
		}
	}
	s.raised.Store(uint32(reached))
	if reached <= raised {
		return
	}
	n := 0
	for n < len(s.top) && s.top[n].flows > 0 {
		n++
	}
	a := Alarm{Percent: reached, Flows: int(live), Max: t.cfg.Max, Time: t.Time(now), Holders: t.name(s.top[:n])}
	select {
	case s.alarms <- a:
	default: // nobody reads
	}
}

// aboveShare reports whether a client, which already counts the flow it wants,
// has more than it may have in a table that is nearly full.
func (t *Table) aboveShare(n uint32, now Tick) bool {
	s, r, c := &t.shares, &t.clients.recs[n], &t.cfg.Shares
	if s.clients.Load() < 2 {
		// Whom should it spare? Those that may come: where nothing gives way to them
		// they would wait until flows of this one are over.
		return t.cfg.Profile == RFC && int(r.flows()) > c.Floor
	}
	above := func(has uint32, share uint32, floor int) bool {
		return has > share && int(has) > floor
	}
	return above(r.flows(), s.flows.Load(), c.Floor) ||
		above(r.half(), s.half.Load(), c.Floor) ||
		above(r.rate(uint32(now)/secondTicks), s.rate.Load(), c.Floor)
}
