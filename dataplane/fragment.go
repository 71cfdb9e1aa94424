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
// like a whole packet: the first of its datagram, or the last to come of one that
// must be seen whole: then *p is the whole. Later ones follow their first, or wait
// for it.
func (w *Worker) fragment(p *packet.Packet, r role) bool {
	zone := uint16(0)
	if w.v.prog.Len(rules.Pre) > 0 {
		d := rules.Decision{Page: w.page, Purpose: rules.Ask}
		k := w.v.key(p, r, rules.New)
		if w.v.prog.Pre(&k, &d); d.Tracking == rules.NoTrack {
			return true // each on its own
		}
		zone = d.ZoneOf(tuple.Original)
	}
	v := w.e.frags.Track(p, p.In, w.now)
	if v.Action == frag.First && w.mustSeeWhole(p, zone) {
		v = w.e.frags.Collect(p, p.In)
	}
	switch v.Action {
	case frag.First:
		return true
	case frag.Whole:
		return w.join(p, v.Held)
	case frag.Follow:
		w.follow(p, v.Ref, r)
	case frag.Hold:
		count(&w.counter.held, 1)
		if w.trace != nil {
			w.trace.held()
		}
	default:
		w.drop(ofFragment[v.Reason])
	}
	return false
}

// mustSeeWhole reports whether the datagram with first fragment p has to be put
// together: an SCTP packet, whose CRC32c covers all of it and changes with its
// ports, or one of a flow whose helper reads the payload.
func (w *Worker) mustSeeWhole(p *packet.Packet, zone uint16) bool {
	if p.Tuple.Proto == tuple.SCTP {
		return true
	}
	t := p.Tuple
	t.Zone = zone
	ref := w.ct.Find(&t)
	if !ref.Found() {
		return w.mayGetHelper(&t)
	}
	return w.e.table.Entry(ref.Slot).Status()&conntrack.Helper != 0
}

// mayGetHelper reports whether the flow that a packet with tuple t begins could have a
// helper. Nothing is lost when it turns out to have none.
func (w *Worker) mayGetHelper(t *tuple.Tuple) bool {
	if t.Proto != tuple.UDP && t.Proto != tuple.TCP || w.e.helpers.set == nil {
		return false
	}
	return w.v.helps || w.e.cfg.Helper != nil && w.e.cfg.Helper(*t) != 0 || w.ct.Awaited(t)
}

// join makes *p, the fragment in hand, the packet that list is: all fragments of a
// datagram. The others were held.
func (w *Worker) join(p *packet.Packet, list *frag.Held) bool {
	n := uint64(0)
	for range list.All() {
		n++
	}
	count(&w.counter.resumed, n-1)
	count(&w.counter.joined, n-1)
	if w.trace != nil {
		w.trace.joined(n - 1)
	}
	f := packet.Join(p, list.All())
	w.e.frags.Free(list)
	if f != packet.OK {
		w.drop(ofFault[f])
		return false
	}
	return true
}

// learn tells the fragments of a datagram where their first one went, and sends
// those that waited for it. key and t are of the first fragment as received.
func (w *Worker) learn(key frag.Key, t *tuple.Tuple, r role) {
	ref := w.ct.Find(t)
	if !ref.Found() {
		n := uint64(w.e.frags.Refuse(key))
		w.drops[FragmentOrphan].Add(n)
		if w.trace != nil {
			w.trace.orphaned(n)
		}
		count(&w.counter.resumed, n)
		return
	}
	word := fragmentRef(ref, w.e.table.Entry(ref.Slot).Gen())
	first := w.e.frags.Learn(key, word)
	for h := first; h != nil; h = h.Next {
		count(&w.counter.resumed, 1)
		if w.trace != nil {
			w.trace.next(&h.Packet, r)
		}
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
	if w.trace != nil {
		w.trace.found(ref)
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
