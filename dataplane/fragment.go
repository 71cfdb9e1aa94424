package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/frag"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/rules"
)

// ofFragment maps why a fragment was dropped to a Reason.
var ofFragment = [frag.NumReasons]Reason{
	frag.None:      None,
	frag.Overlap:   FragmentOverlap,
	frag.Duplicate: FragmentDuplicate,
	frag.Limit:     FragmentLimit,
	frag.Orphan:    FragmentOrphan,
	frag.Timeout:   FragmentTimeout,
}

// fragment takes note of a fragment. It reports true for one that is looked up
// like a whole packet: the first of its datagram. Later ones follow it, or wait
// for it.
func (w *Worker) fragment(p *packet.Packet, r role) bool {
	if w.v.prog.Len(rules.Pre) > 0 {
		var d rules.Decision
		k := w.key(p, r, rules.New)
		if w.v.prog.Pre(&k, &d); d.Tracking == rules.NoTrack {
			return true // each on its own
		}
	}
	switch v := w.e.frags.Track(p, p.In, w.now); v.Action {
	case frag.First:
		return true
	case frag.Follow:
		w.follow(p, v.Ref, r)
	case frag.Hold:
		count(&w.counter.held, 1)
	default:
		w.drop(ofFragment[v.Reason])
	}
	return false
}

// learn tells the fragments of a datagram where their first one went, and sends
// those that waited for it. key and t are of the first fragment as received.
func (w *Worker) learn(key frag.Key, t *tuple.Tuple, r role) {
	ref := w.ct.Find(t)
	if !ref.Found() {
		n := uint64(w.e.frags.Refuse(key))
		w.drops[FragmentOrphan].Add(n)
		count(&w.counter.resumed, n)
		return
	}
	word := fragmentRef(ref, w.e.table.Entry(ref.Slot).Gen())
	first := w.e.frags.Learn(key, word)
	for h := first; h != nil; h = h.Next {
		count(&w.counter.resumed, 1)
		w.follow(&h.Packet, word, r)
	}
	if first != nil {
		w.flush() // the frames are in the list's memory
		w.e.frags.Free(first)
	}
}

// follow forwards a later fragment as its first one was.
func (w *Worker) follow(p *packet.Packet, word uint64, r role) {
	ref, gen := refOfFragment(word)
	e := w.e.table.Entry(ref.Slot)
	if e.Gen()&fragmentGen != gen || e.Status()&conntrack.Dying != 0 {
		w.drop(FragmentOrphan) // the flow ended between two fragments
		return
	}
	w.forward(p, e, ref, r)
}

// fragmentGen is as much of an entry's generation as a fragment's word holds.
const fragmentGen = 1<<31 - 1

func fragmentRef(ref conntrack.Ref, gen uint32) uint64 {
	return uint64(ref.Slot) | uint64(gen&fragmentGen)<<32 | uint64(ref.Dir)<<63
}

func refOfFragment(word uint64) (conntrack.Ref, uint32) {
	return conntrack.Ref{Slot: uint32(word), Dir: tuple.Direction(word >> 63)}, uint32(word>>32) & fragmentGen
}
