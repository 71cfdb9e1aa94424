package rules

import (
	"time"

	"example.com/culvert/internal/word"
)

// Ledger is what packets leave behind in a Program, and what its rules remember
// from packet to packet: hits, counters, what is left of limits, lines to log. Each
// worker writes its own Page; only limits are shared.
type Ledger struct {
	prog     *Program
	pages    []Page
	carried  []Hit        // of the same rules under earlier programs
	counted  []Hit        // of the same counters
	limits   []*limiter   // by Rule.Index; nil: the rule has none
	flows    []*flowCount // by Rule.Index; nil: the rule has no limit of flows
	logRates []*bucket    // by Rule.Index; nil: the rule does not log
}

// Hit is a number of packets and of their bytes. One goroutine writes it, any may
// read it.
type Hit struct{ packets, bytes uint64 }

// add counts one packet. There is one writer, so no read-modify-write is needed.
func (h *Hit) add(bytes uint32) {
	word.Add64(&h.packets, 1)
	word.Add64(&h.bytes, uint64(bytes))
}

// Traffic is a number of packets and of the bytes of their IP packets.
type Traffic struct{ Packets, Bytes uint64 }

func (t *Traffic) plus(h *Hit) {
	t.Packets += word.Load64(&h.packets)
	t.Bytes += word.Load64(&h.bytes)
}

func (h *Hit) set(t Traffic) {
	word.Store64(&h.packets, t.Packets)
	word.Store64(&h.bytes, t.Bytes)
}

// Page is the part of a Ledger that one worker writes. Without a
// Page nothing is counted or logged, no window is open and no limit is reached.
type Page struct {
	ledger   *Ledger
	now      int64  // boot clock, ns
	checked  int64  // when open was found, 0: never
	open     []bool // by window
	hits     []Hit  // by Rule.Index
	counters []Hit  // by counter
	lines    *lines
}

// NewLedger returns an empty ledger of p for a number of workers; alive tells
// whether a flow still exists. It goes on with the limits and logs of before, which
// may be nil; see Carry for the counts.
func NewLedger(p *Program, workers int, alive func(Flow) bool, before *Ledger) *Ledger {
	l := &Ledger{
		prog: p, pages: make([]Page, workers),
		carried: make([]Hit, len(p.all)), counted: make([]Hit, len(p.counters)),
		limits: make([]*limiter, len(p.all)), flows: make([]*flowCount, len(p.all)), logRates: make([]*bucket, len(p.all)),
	}
	for _, r := range p.all {
		var same *Rule
		if before != nil {
			same = before.prog.Rule(r.ID)
		}
		if r.spec.If.Limit != nil {
			if same != nil {
				l.limits[r.Index] = before.limits[same.Index]
			} else {
				l.limits[r.Index] = newLimiter(r.spec.If.Limit)
			}
		}
		if r.spec.If.Flows != nil {
			if same != nil {
				l.flows[r.Index] = before.flows[same.Index]
			} else {
				l.flows[r.Index] = newFlowCount(alive)
			}
		}
		if r.spec.Log != nil {
			if same != nil {
				l.logRates[r.Index] = before.logRates[same.Index]
			} else {
				l.logRates[r.Index] = new(bucket)
			}
		}
	}
	for i := range l.pages {
		l.pages[i] = Page{
			ledger: l, open: make([]bool, len(p.windows)),
			hits: make([]Hit, len(p.all)), counters: make([]Hit, len(p.counters)),
		}
		if before != nil && i < len(before.pages) {
			l.pages[i].lines = before.pages[i].lines
		} else {
			l.pages[i].lines = newLines()
		}
	}
	return l
}

// Page returns the page of a worker.
func (l *Ledger) Page(worker int) *Page { return &l.pages[worker] }

// Reader returns a page that knows which windows are open, for decisions that only
// Ask.
func (l *Ledger) Reader(now int64, wall time.Time) *Page {
	g := &Page{ledger: l, now: now, open: make([]bool, len(l.prog.windows))}
	g.look(wall)
	return g
}

// Carry takes over the counts of the rules and counters that l and before have in
// common. It may be called again when before has counted more.
func (l *Ledger) Carry(before *Ledger) {
	for _, r := range l.prog.all {
		if same := before.prog.Rule(r.ID); same != nil {
			l.carried[r.Index].set(before.Hits(same))
		}
	}
	for i, name := range l.prog.counters {
		if n, ok := before.prog.counterOf[name]; ok {
			l.counted[i].set(before.counter(int(n)))
		}
	}
}

// Inherit has l go on from what rules, by their ids, and named counters had in another
// process.
func (l *Ledger) Inherit(byRule map[uint32]Traffic, counters map[string]Traffic) {
	for _, r := range l.prog.all {
		l.carried[r.Index].set(byRule[r.ID])
	}
	for i, name := range l.prog.counters {
		l.counted[i].set(counters[name])
	}
}

// Hits returns how many packets matched r, with those under earlier programs that
// had the same rule.
func (l *Ledger) Hits(r *Rule) (t Traffic) {
	t.plus(&l.carried[r.Index])
	for i := range l.pages {
		t.plus(&l.pages[i].hits[r.Index])
	}
	return t
}

// Counters calls f for each counter that rules name, in the order of the rules.
func (l *Ledger) Counters(f func(name string, t Traffic)) {
	for i, name := range l.prog.counters {
		f(name, l.counter(i))
	}
}

func (l *Ledger) counter(n int) (t Traffic) {
	t.plus(&l.counted[n])
	for i := range l.pages {
		t.plus(&l.pages[i].counters[n])
	}
	return t
}

// Begin opens a batch at time now (boot clock, ns). The wall clock is read once a
// second, and only if a rule asks for it.
func (g *Page) Begin(now int64, wall func() time.Time) {
	g.now = now
	if len(g.ledger.prog.windows) > 0 && (g.checked == 0 || now-g.checked >= int64(time.Second)) {
		g.checked = now
		g.look(wall())
	}
}

// look finds which windows are open at t.
func (g *Page) look(t time.Time) {
	for i := range g.open {
		g.open[i] = g.ledger.prog.windows[i].open(t)
	}
}

// isOpen reports whether a window is open.
func (g *Page) isOpen(window int32) bool { return g != nil && g.open[window] }

// grants asks r's limits, if it has some. It comes after all other conditions, since
// it takes from the limit.
func (d *Decision) grants(r *Rule, k *Key) bool {
	if !r.match.looksAt(fLimit | fFlows) {
		return true
	}
	return d.inRate(r, k) && (r.spec.If.Flows == nil || d.fewFlows(r, k) == (r.spec.If.Flows.Sense == Is))
}

func (d *Decision) inRate(r *Rule, k *Key) bool {
	limit := r.spec.If.Limit
	switch {
	case limit == nil:
		return true
	case d.Page == nil || d.Purpose == Ask:
		return limit.Sense == Is
	}
	return d.Page.ledger.limits[r.Index].within(&k.Tuple, d.Page.now) == (limit.Sense == Is)
}

// enter writes down that r applies to a packet.
func (g *Page) enter(r *Rule, k *Key, mark uint32) {
	g.hits[r.Index].add(k.Length)
	if r.counter >= 0 {
		g.counters[r.counter].add(k.Length)
	}
	if r.spec.Log != nil {
		g.lines.add(r, k, mark, g.now, g.ledger.logRates[r.Index].take(r.logPace, g.now))
	}
}
