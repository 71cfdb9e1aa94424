package conntrack

import (
	"unsafe"

	"example.com/culvert/conntrack/internal/prefetch"
	"example.com/culvert/conntrack/tuple"
)

// foresight is what a worker prepares for the claims that the packets of a batch may lead
// to which belong to no flow: the hashes of their tuples, side by side as those of a lookup,
// and the lines of the index that the claims will touch. What they are called by
// the other side nobody knows yet. The guess is that their sources change as that
// of the last flow did and keep their ports. A wrong one costs what it took to prepare;
// after a batch in which none was right there is none for some time.
type foresight struct {
	src    tuple.Addr // that the last flow left with, if family is not 0
	family uint8      // of src; 0: the last flow left with its own

	n, next   int // how many there are, and the first one that may still be claimed
	right     int // guesses
	pause     int // lookups
	originals [MaxBatch]tuple.Tuple
	replies   [MaxBatch]tuple.Tuple
	ho, hr    [MaxBatch]uint64 // their hashes
}

const (
	foresightPause = 16 // lookups without a guess after one of which none was right
	foresightReach = 8  // packets that may have begun no flow between two that did
)

// foresee prepares the claims of the packets of a lookup that found nothing.
func (w *Worker) foresee(keys []tuple.Tuple, refs []Ref) {
	f, x := &w.ahead, &w.t.index
	if f.n > 0 && f.right == 0 {
		f.pause = foresightPause
	}
	f.n, f.next, f.right = 0, 0, 0
	if f.pause > 0 {
		f.pause--
		return
	}
	n := 0
	for i := range keys {
		if refs[i].Slot == 0 && f.guess(&keys[i], &f.replies[n]) {
			f.originals[n].Set(&keys[i])
			f.ho[n] = w.hash[i]
			n++
		}
	}
	f.n = n
	x.key.tuples(f.hr[:n], f.replies[:n])
	lines := w.lines[:3*n]
	for i := range n {
		ho, hr := f.ho[i], f.hr[i]
		lines[3*i] = uintptr(unsafe.Pointer(&x.shards[x.shardOf(ho)]))
		lines[3*i+1] = uintptr(unsafe.Pointer(&x.shards[x.shardOf(hr)]))
		lines[3*i+2] = uintptr(unsafe.Pointer(&x.buckets[x.firstBucket(hr)]))
	}
	prefetch.Lines(lines)
}

// guess makes reply the reply tuple that a flow with an original one may have.
func (f *foresight) guess(original, reply *tuple.Tuple) bool {
	if !reply.Answer(original) {
		return false
	}
	if original.Family == f.family {
		reply.Dst = f.src
	}
	return true
}

// hashes returns the hashes of a proposal's tuples, and whether the lines of its claim are
// on their way.
func (w *Worker) hashes(p *Proposal) (ho, hr uint64, asked bool) {
	f, key := &w.ahead, &w.t.index.key
	for i := f.next; i < min(f.n, f.next+foresightReach); i++ {
		if !same(&f.originals[i], &p.Original) {
			continue
		}
		f.next = i + 1
		if same(&f.replies[i], &p.Reply) {
			f.right++
			return f.ho[i], f.hr[i], true
		}
		return f.ho[i], key.tuple(&p.Reply), false
	}
	return key.tuple(&p.Original), key.tuple(&p.Reply), false
}

// learn notes how the source of a flow has changed.
func (f *foresight) learn(p *Proposal) {
	f.family = 0
	if p.Reply.Dst != p.Original.Src {
		f.src, f.family = p.Reply.Dst, p.Original.Family
	}
}
