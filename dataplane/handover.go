package dataplane

import (
	"errors"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// HandOver is how an engine gives its flows to that of another process (TakeOver): in
// rounds while its workers run, each with what has changed since the one before, and in a
// last one when they have stopped. Nothing of the engine changes, so that it can go on.
// One goroutine at a time may use it.
type HandOver struct {
	e     *Engine
	table *conntrack.HandOver
	since ports.Tick // kept ports are sent that have been kept since then
	begun bool
}

// HandOver begins to hand over the flows of e.
func (e *Engine) HandOver() *HandOver { return &HandOver{e: e, table: e.table.HandOver()} }

// Round calls ended with slots whose flows were sent and are there no more, flow with
// flows that have changed, and kept with ports that have since been kept for who had
// them. What they get is valid until they return.
func (h *HandOver) Round(ended func(slot uint32), flow func(*conntrack.Saved), kept func(*ports.Saved)) {
	from, now := h.since, ports.Tick(tickAt(h.e.Now()))
	h.table.Round(ended, flow)
	h.e.leases.EachKept(func(l *ports.Saved) bool {
		if !h.begun || l.KeptSince(from) {
			kept(l)
		}
		return true
	})
	h.since, h.begun = now-1, true
}

// Again has the next round send the flow in a slot, which the other side could not take.
func (h *HandOver) Again(slot uint32) { h.table.Again(slot) }

// Expects returns the expectations.
func (h *HandOver) Expects() []conntrack.SavedExpect { return h.e.table.SaveExpects() }

// Names returns what the numbers in flows mean, as in an Image.
func (h *HandOver) Names() (policies []conntrack.Timeouts, helpers []string) {
	im := h.e.Image()
	return im.Policies, im.Helpers
}

// Legacy is what an engine leaves to its successor besides flows.
type Legacy struct {
	Stats      map[string]uint64 // counters of Stats by name
	Dropped    map[string]uint64 // by Reason
	Ended      map[string]uint64 // by cause
	Table      conntrack.Tally
	Rules      map[uint32]rules.Traffic // by id
	Counters   map[string]rules.Traffic // that rules name
	Neighbours []Neighbour
}

// Neighbour is what is known of a neighbour.
type Neighbour struct {
	Port string // its name
	route.Known
}

// Legacy returns what e leaves to a successor. Its workers have stopped: the packets
// that they hold are counted as dropped for HandedOver.
func (e *Engine) Legacy() *Legacy {
	s := e.Stats()
	s.Dropped[HandedOver] += s.Waiting
	s.Waiting = 0
	l := &Legacy{
		Stats: make(map[string]uint64), Dropped: make(map[string]uint64), Ended: make(map[string]uint64),
		Table: e.table.Tally(), Rules: make(map[uint32]rules.Traffic), Counters: make(map[string]rules.Traffic),
	}
	for name, n := range s.named() {
		l.Stats[name] = *n
	}
	for _, r := range Reasons() {
		l.Dropped[r.String()] = s.Dropped[r]
	}
	for why := range conntrack.NumCauses {
		l.Ended[conntrack.Cause(why).String()] = s.Ended[why]
	}
	v := e.view.Load()
	for _, r := range v.prog.Rules() {
		l.Rules[r.ID] = v.ledger.Hits(r)
	}
	v.ledger.Counters(func(name string, t rules.Traffic) { l.Counters[name] = t })
	for _, n := range e.neigh.Known() {
		if p := v.portOf(n.Port); p != nil {
			l.Neighbours = append(l.Neighbours, Neighbour{p.name, n})
		}
	}
	return l
}

// named returns the counters that outlive an engine by name.
func (s *Stats) named() map[string]*uint64 {
	return map[string]*uint64{
		"received": &s.Received, "forwarded": &s.Forwarded, "delivered": &s.Delivered, "originated": &s.Originated,
		"unanswered": &s.Unanswered, "noticed": &s.Noticed, "joined": &s.Joined, "held": &s.Held, "bytes": &s.Bytes,
	}
}

// TakeOver takes the flows of another process's engine, before this one starts. One
// goroutine at a time may use it.
type TakeOver struct {
	restoring
	table *conntrack.TakeOver
}

// TakeOver begins to take flows over, whose numbers mean what policies and helpers say.
// The engine has its first State and has not started.
func (e *Engine) TakeOver(policies []conntrack.Timeouts, helpers []string) (*TakeOver, error) {
	now := tickAt(e.Now())
	table, err := e.table.TakeOver(policies, now)
	if err != nil {
		return nil, err
	}
	v := e.view.Load()
	im := &Image{Origin: conntrack.Origin{Policies: policies}, Helpers: helpers}
	return &TakeOver{restoring{e: e, v: v, im: im, now: now, court: e.newCourt(v)}, table}, nil
}

// Begin begins a round: time has passed, and there may be more policies and helpers.
func (k *TakeOver) Begin(policies []conntrack.Timeouts, helpers []string) error {
	k.now = tickAt(k.e.Now())
	k.table.At(k.now)
	k.im.Helpers = helpers
	return k.table.Policies(policies)
}

// End ends the flow in a slot, if there is one.
func (k *TakeOver) End(slot uint32) { k.table.End(slot) }

// Vacate ends the flow that was in the slot of s before, if it is another one. It is
// called for all flows of a round before any is taken: one may have the tuple or the port
// of another one's predecessor.
func (k *TakeOver) Vacate(s *conntrack.Saved) {
	if k.table.Verify(s) == nil && !k.table.Has(s) {
		k.table.End(s.Slot())
	}
}

// Flow takes a flow, and reports whether it could.
func (k *TakeOver) Flow(s *conntrack.Saved) bool {
	if err := k.table.Verify(s); err != nil {
		k.count(err)
		return false
	}
	if k.table.Has(s) {
		return k.counted(k.table.Flow(s, k.helperOf(s)))
	}
	original, reply, use := s.Tuple(tuple.Original), s.Tuple(tuple.Reply), ports.Use(s.Holds())
	ends := ports.Of(&original, &reply, use)
	if !k.take(&ends, use, s.Rule()) {
		return false
	}
	if !k.counted(k.table.Flow(s, k.helperOf(s))) {
		if use != ports.NoUse {
			k.e.leases.Abandon(&ends, use, ports.Tick(k.now))
		}
		return false
	}
	if original.Proto == tuple.GRE && original.SrcPort|original.DstPort != 0 {
		k.e.calls.add(original)
		k.e.calls.add(reply)
	}
	return true
}

// counted counts what err says, and reports whether there is none.
func (k *TakeOver) counted(err error) bool {
	if err != nil {
		k.count(err)
	}
	return err == nil
}

// Expect takes an expectation with what it promises, after the flows of the last round.
func (k *TakeOver) Expect(s *conntrack.SavedExpect) {
	k.expectBy(s, k.table.Expect)
}

// Kept takes a port that is kept for who had it, unless it is there.
func (k *TakeOver) Kept(l *ports.Saved) {
	switch err := k.e.leases.Keep(l, 0, ports.Tick(k.now)); {
	case err == nil:
		k.did.Ports++
	case !errors.Is(err, ports.ErrOver):
		k.count(err)
	}
}

// Restart forgets what could not be taken: who sends it again will say.
func (k *TakeOver) Restart() { k.did = Restored{} }

// Finish ends the taking over: counters go on from those of l, and its neighbours need
// not be asked for. It returns what became of the last round, and how many flows there are.
func (k *TakeOver) Finish(l *Legacy) Restored {
	e := k.e
	k.table.Finish(&l.Table)
	w := e.workers[0]
	var s Stats
	for name, n := range s.named() {
		*n = l.Stats[name]
	}
	c := &w.counter
	c.received.Store(s.Received)
	c.forwarded.Store(s.Forwarded)
	c.delivered.Store(s.Delivered)
	c.originated.Store(s.Originated)
	c.noticed.Store(s.Noticed)
	c.joined.Store(s.Joined)
	c.held.Store(s.Held)
	c.resumed.Store(s.Held) // or dropped
	c.bytes.Store(s.Bytes)
	e.icmp.denied.Store(s.Unanswered)
	for _, r := range Reasons() {
		w.drops[r].Store(l.Dropped[r.String()])
	}
	for why := range conntrack.NumCauses {
		w.ended[why].Store(l.Ended[conntrack.Cause(why).String()])
	}
	v := e.view.Load()
	v.ledger.Inherit(l.Rules, l.Counters)
	for i := range l.Neighbours {
		n := &l.Neighbours[i]
		for id, p := range v.ports {
			if p != nil && p.name == n.Port {
				n.Known.Port = uint16(id)
				e.neigh.Adopt(&n.Known)
			}
		}
	}
	k.did.Flows = e.table.Len()
	return k.did
}
