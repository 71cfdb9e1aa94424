package dataplane

import (
	"example.com/culvert/alg"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// SavedHelp is what a helper knows of a flow, as another process goes on with it.
type SavedHelp struct {
	Slot, Gen uint32 // of the flow
	Helper    uint32 // its number; 0: it has none any more, but what it has changed
	Session   *stream.Saved
	Window    [tuple.NumDirections]uint16
	SACK      [tuple.NumDirections]bool
	Spent     int   // announcements in the second
	Charged   int64 // of the boot clock
}

// Help returns what helpers know of flows. Workers have stopped, and what it returns is
// valid until they go on.
func (h *HandOver) Help() (all []SavedHelp) {
	for i := range h.e.helpers.shards {
		sh := &h.e.helpers.shards[i]
		sh.mu.Lock()
		for slot, f := range sh.flows {
			if e := h.e.table.Entry(slot); e.Gen() == f.gen && e.Status()&conntrack.Dying == 0 {
				all = append(all, f.save(slot))
			}
		}
		sh.mu.Unlock()
	}
	return all
}

func (f *helped) save(slot uint32) SavedHelp {
	f.mu.Lock()
	defer f.mu.Unlock()
	return SavedHelp{Slot: slot, Gen: f.gen, Helper: f.number, Session: f.s.Save(), Window: f.window, SACK: f.sack,
		Spent: f.spent, Charged: f.charged}
}

// Help has the helper of a flow that was taken go on with what it knows. By the rules in
// force the flow may have another one, or none: then what it has changed goes on. It is
// for the last round, after its flows.
func (k *TakeOver) Help(s *SavedHelp) {
	if all, _ := k.e.table.Slots(); s.Slot == 0 || s.Slot > all || s.Session == nil {
		k.count(conntrack.ErrTorn)
		return
	}
	e := k.e.table.Entry(s.Slot)
	if e.Gen() != s.Gen || e.Status()&(conntrack.Confirmed|conntrack.Dying) != conntrack.Confirmed {
		return // it was not taken, which is counted
	}
	h := &k.e.helpers
	if h.set == nil {
		k.count(conntrack.ErrTorn)
		return
	}
	flow := alg.Flow{Tuple: [tuple.NumDirections]tuple.Tuple{e.Tuple(tuple.Original), e.Tuple(tuple.Reply)}}
	number := k.e.table.HelperAt(s.Slot)
	at := h.set.Get(number)
	if at != nil && at.Spec.Name != k.nameOf(s.Helper) {
		at = nil
	}
	session, err := stream.Resume(at, flow, k.v.bounds.Stream, s.Session)
	if err != nil {
		k.count(conntrack.ErrTorn)
		return
	}
	f := &helped{gen: s.Gen, number: number, who: clientOf(&flow), memory: helpedSize, s: session,
		window: s.Window, sack: s.SACK, spent: s.Spent, charged: s.Charged}
	f.purse = h.open(f.who)
	h.book(f.purse, f.memory, 0)
	for d := range f.seq {
		pos, before, after := session.Shift(tuple.Direction(d))
		f.seq[d] = conntrack.Correction{Pos: pos, Before: before, After: after}
	}
	h.add(s.Slot, f)
	f.mu.Lock()
	h.settleLocked(f, 1<<62) // it was within the bounds before
	f.mu.Unlock()
}
