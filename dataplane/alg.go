package dataplane

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"example.com/culvert/alg"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// helpers are the flows that have a helper, or had one and keep its edits. They are
// few: a lock for each flow, and one for each shard of the map.
type helpers struct {
	set    *alg.Set
	memory atomic.Int64 // bytes kept for all flows
	shards [helperShards]struct {
		mu    sync.Mutex
		flows map[uint32]*helped // by slot
	}
	seed     maphash.Seed // of budgets
	budgets  [helperShards]budget
	events   [stream.NumEvents]atomic.Uint64
	tallies  []*helperTally // by name
	starving atomic.Uint64  // flows that got no helper, for want of memory
	log      chan Announcement
	pace     pace
	unlogged atomic.Uint64 // announcements that found no place in log, or had too many before them
	shut     sync.Once     // of log
}

const (
	helperShards = 64
	helpedSize   = 1 << 10 // bytes of a flow with a small parser
)

// helped is one flow with its helper.
type helped struct {
	gen    uint32 // of the entry's slot
	number uint32 // of the helper; guarded by mu
	who    netip.Addr
	purse  *account // of who

	mu      sync.Mutex // guards what follows
	s       *stream.Session
	memory  int64
	events  [stream.NumEvents]uint32
	seq     [tuple.NumDirections]conntrack.Correction // as the entry has it
	window  [tuple.NumDirections]uint16               // last seen from each side
	awaits  [tuple.NumDirections]uint32               // the number that each side waits for, as it has said
	sack    [tuple.NumDirections]bool                 // whether each side understands selective acknowledgements
	spent   int                                       // announcements in this second
	charged int64                                     // the second, of the boot clock
}

func (h *helpers) init(c *Config) {
	h.set, h.seed = c.Helpers, maphash.MakeSeed()
	if h.set != nil {
		names := h.set.Names()
		h.tallies = make([]*helperTally, len(names))
		for i := range names {
			h.tallies[i] = &helperTally{name: names[i]}
		}
	}
	h.log = make(chan Announcement, announcementsKept)
	for i := range h.shards {
		h.shards[i].flows = make(map[uint32]*helped)
	}
}

// find returns the flow of an entry, nil if it is not there.
func (h *helpers) find(slot, gen uint32) *helped {
	sh := &h.shards[slot%helperShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f := sh.flows[slot]; f != nil && f.gen == gen {
		return f
	}
	return nil
}

// add returns the flow of an entry, which f becomes if there is none.
func (h *helpers) add(slot uint32, f *helped) *helped {
	sh := &h.shards[slot%helperShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if old := sh.flows[slot]; old != nil {
		if old.gen == f.gen {
			return old
		}
		h.release(old)
	}
	sh.flows[slot] = f
	return f
}

// release gives back what a flow has, which has ended.
func (h *helpers) release(f *helped) {
	f.mu.Lock()
	h.book(f.purse, -f.memory, 0)
	f.memory = 0
	f.mu.Unlock()
	h.end(f.who)
}

// expire forgets the flows that have ended.
func (h *helpers) expire(t *conntrack.Table) {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		for slot, f := range sh.flows {
			if e := t.Entry(slot); e.Gen() != f.gen || e.Status()&conntrack.Dying != 0 {
				h.release(f)
				delete(sh.flows, slot)
			}
		}
		sh.mu.Unlock()
	}
}

// follow has every flow have the helper that the table says.
func (h *helpers) follow(t *conntrack.Table) {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		for slot, f := range sh.flows {
			if t.Entry(slot).Gen() == f.gen {
				h.change(f, t.HelperAt(slot))
			}
		}
		sh.mu.Unlock()
	}
}

// change gives the session of a flow the helper with a number: with other options, if it
// is the same one. Another one does not begin in the middle.
func (h *helpers) change(f *helped, number uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.number == number {
		return
	}
	if at := h.set.Get(number); at != nil && at.Spec.Name == h.set.Name(f.number) {
		f.s.Allow(at.Options)
	} else {
		f.s.Dismiss()
	}
	h.settleLocked(f, 1<<62)
	f.number = number
}

// settleLocked counts what happened in a call of the session, and what it keeps, of
// limit bytes for all flows.
func (h *helpers) settleLocked(f *helped, limit int64) {
	if m := int64(f.s.Memory()) + helpedSize; m != f.memory {
		if !h.book(f.purse, m-f.memory, limit) && m > f.memory {
			f.s.Starve()
		}
		f.memory = m
	}
	for ev, n := range f.s.Events {
		if n != f.events[ev] {
			h.events[ev].Add(uint64(n - f.events[ev]))
			if stream.Event(ev) == stream.Unread {
				h.tally(f.number).unread.Add(uint64(n - f.events[ev]))
			}
			f.events[ev] = n
		}
	}
}

// addHelpers gives numbers to the helpers of rules. A number stays for as long as the
// engine lives, so flows keep their helper when rules change.
func (v *view) addHelpers(set *alg.Set) error {
	v.helpers = make([]uint32, len(v.prog.Rules()))
	for _, r := range v.prog.Rules() {
		name, o := r.Helper()
		if name == "" {
			continue
		}
		if set == nil {
			return fmt.Errorf("%s rule %d: helper %q: this engine has no helpers", r.List, r.Pos, name)
		}
		n, err := set.Number(name, o)
		if err != nil {
			return fmt.Errorf("%s rule %d: %w", r.List, r.Pos, err)
		}
		v.helpers[r.Index], v.helps = n, true
		v.asks = v.asks || set.Get(n).Spec.Broadcasts
	}
	return nil
}

// attach gives a new flow its helper: that of its expectation, or else of the rules. A
// helper that cannot read the flow's protocol stays away from it.
func (w *Worker) attach(f *first) {
	h := &w.e.helpers
	if h.set == nil {
		return
	}
	if f.prop.Helper == 0 {
		f.prop.Helper = w.e.helperBy(w.v, f)
	}
	if at := h.set.Get(f.prop.Helper); at != nil && !slices.Contains(at.Spec.Protos, f.prop.Original.Proto) {
		f.prop.Helper = 0
	}
}

// helperBy returns the number of the helper that the rules of v give a new flow.
func (e *Engine) helperBy(v *view, f *first) uint32 {
	switch {
	case f.ruling.HelperRule != nil:
		return v.helpers[f.ruling.HelperRule.Index]
	case e.cfg.Helper != nil:
		return e.cfg.Helper(f.prop.Original)
	}
	return 0
}

// hasHelper is the set of status bits of flows that step 9 is for.
const hasHelper = conntrack.Helper | conntrack.SeqAdjust

// helpedFlow returns the flow of a packet with its helper, made if payload comes for
// the first time. It is nil for flows without, and for those that have none yet.
func (w *Worker) helpedFlow(p *packet.Packet, e *conntrack.Entry, ref conntrack.Ref) *helped {
	h := &w.e.helpers
	if f := h.find(ref.Slot, e.Gen()); f != nil {
		return f
	}
	number := w.ct.HelperOf(ref)
	if h.set == nil || number == 0 || len(packet.Body(p)) == 0 {
		return nil
	}
	at := h.set.Get(number)
	if at == nil {
		return nil
	}
	flow := alg.Flow{Tuple: [tuple.NumDirections]tuple.Tuple{e.Tuple(tuple.Original), e.Tuple(tuple.Reply)}}
	f := &helped{gen: e.Gen(), number: number, who: clientOf(&flow), memory: helpedSize}
	f.purse = h.open(f.who)
	if !h.book(f.purse, f.memory, w.v.bounds.Memory) {
		h.release(f)
		h.starving.Add(1)
		if flow.Stream() {
			w.ct.Unhelp(ref) // or it would be read from its middle when there is memory again
		}
		return nil
	}
	f.s = stream.New(at, flow, w.v.bounds.Stream)
	if flow.Stream() {
		for d, side := range w.ct.TCPSides(ref) {
			dir := tuple.Direction(d)
			f.seq[d] = w.ct.Correction(ref, dir)
			switch {
			case f.seq[d] != (conntrack.Correction{}): // this is not its first session
				f.s.Begin(dir, side.End, stream.InMiddle)
				f.s.Resume(dir, f.seq[d].After)
			case side.Known:
				f.s.Begin(dir, side.End, stream.FromStart)
			}
			f.window[d], f.sack[d] = side.Window, side.SACK
		}
		f.awaits[ref.Dir] = packet.Ack(p)
	}
	old := h.add(ref.Slot, f)
	if old != f {
		h.release(f)
	}
	if now := w.ct.HelperOf(ref); now != number { // a reload was faster
		h.change(old, now)
	}
	return old
}
