package rules

import (
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// Rate is a number of packets in a time, and how many may come at once.
type Rate struct {
	Count uint32
	Per   time.Duration
	Burst uint32
}

// String returns "10/s burst 5".
func (r Rate) String() string {
	units := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h", 24 * time.Hour: "d"}
	return fmt.Sprintf("%d/%s burst %d", r.Count, units[r.Per], r.Burst)
}

// Limit is a condition on how often a rule applies: within the rate, or with
// IsNot beyond it. Only packets for which all else holds count. The rest of the
// rate is kept over reloads, as long as the rule is the same.
type Limit struct {
	Sense Sense
	Rate  Rate
	Share Share
}

// String returns "10/s burst 5 per source", with "!" for IsNot.
func (l *Limit) String() string {
	var b strings.Builder
	if l.Sense == IsNot {
		b.WriteByte('!')
	}
	b.WriteString(l.Rate.String())
	if l.Share == PerSource {
		b.WriteString(" per source")
	}
	return b.String()
}

// Share says who has a Limit of its own.
type Share uint8

const (
	PerRule   Share = iota // all packets of the rule together
	PerSource              // each IPv4 address, each IPv6 network of 64 bits
)

// pace is a Rate in the form of its arithmetic. A token bucket is kept as one
// number, the time at which it is full again: a token costs interval of it, and
// burst is what an empty one needs.
type pace struct{ interval, burst int64 } // ns

func (r Rate) pace() pace {
	interval := max(int64(r.Per)/int64(r.Count), 1)
	return pace{interval, interval * int64(r.Burst)}
}

// take returns what a bucket that is full at time full becomes when one token is
// taken from it at time now, and whether there is one.
func (p pace) take(full, now int64) (int64, bool) {
	next := max(full, now) + p.interval
	return next, next-now <= p.burst
}

// bucket is a token bucket that any number of workers share. It is exact whatever
// worker a packet comes to; parts of the rate for each worker would refuse a client
// whose flows all meet on one. The price is a compare-and-swap for packets that get
// as far as the limit.
type bucket struct{ full atomic.Int64 }

func (b *bucket) take(p pace, now int64) bool {
	for {
		full := b.full.Load()
		next, ok := p.take(full, now)
		if !ok {
			return false
		}
		if b.full.CompareAndSwap(full, next) {
			return true
		}
	}
}

// limiter is the state of one rule's Limit.
type limiter struct {
	pace
	all     bucket
	sources *sources // PerSource
}

func newLimiter(l *Limit) *limiter {
	m := &limiter{pace: l.Rate.pace()}
	if l.Share == PerSource {
		m.sources = newSources()
	}
	return m
}

// within reports whether a packet is within the rate, and counts it if so.
func (m *limiter) within(t *tuple.Tuple, now int64) bool {
	if m.sources == nil {
		return m.all.take(m.pace, now)
	}
	return m.sources.take(m.pace, sourceOf(t), now)
}

// sourceOf identifies who sends t: an IPv4 address, or the 64 bits that an IPv6
// host cannot choose itself.
func sourceOf(t *tuple.Tuple) uint64 {
	hi, lo := halves(&t.Src)
	if t.Family == tuple.IPv4 {
		return lo
	}
	return hi
}

// Bounds of the sources that one rule remembers.
const (
	sourceSets = 8192
	sourceWays = 7
)

// sources has a bucket for each source that is not full. There is a fixed number
// of them, in sets of one cache line each way; a source whose bucket is full again
// makes place for another. While all of a set are in use, others that belong there
// are beyond the rate: nobody gets a fresh bucket by crowding others out.
type sources struct {
	seed maphash.Seed
	sets [sourceSets]sourceSet
}

type sourceSet struct {
	mu   sync.Mutex // guards what follows; held for some comparisons
	who  [sourceWays]uint64
	full [sourceWays]int64
}

func newSources() *sources { return &sources{seed: maphash.MakeSeed()} }

func (s *sources) take(p pace, who uint64, now int64) bool {
	set := &s.sets[maphash.Comparable(s.seed, who)%sourceSets]
	set.mu.Lock()
	defer set.mu.Unlock()
	place := -1
	for i := range set.who {
		if set.who[i] == who && set.full[i] > now {
			place = i
			break
		}
		if set.full[i] <= now {
			place = i
		}
	}
	if place < 0 {
		return false
	}
	next, ok := p.take(set.full[place], now)
	if ok {
		set.who[place], set.full[place] = who, next
	}
	return ok
}

// ParseRate reads "10/s", "600/m", "1000/h" or "5/d"; the burst is 5, as in nft.
func ParseRate(s string) (Rate, error) {
	count, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(count, 10, 32)
	per, known := map[string]time.Duration{
		"s": time.Second, "second": time.Second, "m": time.Minute, "minute": time.Minute,
		"h": time.Hour, "hour": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour,
	}[unit]
	if err != nil || !known || n == 0 {
		return Rate{}, fmt.Errorf("%q is not a rate: write a number above 0 and a unit, as 10/s, 600/m, 1000/h or 5/d", s)
	}
	return Rate{Count: uint32(n), Per: per, Burst: 5}, nil
}
