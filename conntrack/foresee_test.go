package conntrack

import (
	"math/rand/v2"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestForeseenClaimsAreThoseThatWereMade: whatever a lookup has prepared, an entry is found
// by the tuples that it was claimed with.
func TestForeseenClaimsAreThoseThatWereMade(t *testing.T) {
	const flows = 4000
	w := newWorker(t, Config{Max: 2 * flows})
	outside := []tuple.Addr{tuple.AddrFrom4([4]byte{203, 0, 113, 1}), tuple.AddrFrom4([4]byte{203, 0, 113, 2})}
	rnd := rand.New(rand.NewPCG(1, 2))
	right := 0
	for done, now := 0, start; done < flows; now++ {
		w.Begin(now)
		keys, refs := make([]tuple.Tuple, 1+rnd.IntN(MaxBatch)), make([]Ref, MaxBatch)
		for i := range keys {
			if keys[i] = flowTuple(tuple.UDP, done+i); rnd.IntN(8) == 0 {
				keys[i] = flowTuple(tuple.UDP, rnd.IntN(done+1)) // a live one, or another one's twin
			}
		}
		done += len(keys)
		w.Lookup(keys, refs)
		at := outside[rnd.IntN(len(outside))]
		if rnd.IntN(4) == 0 {
			rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		}
		for i := range keys {
			p := proposal(keys[i])
			switch rnd.IntN(8) {
			case 0:
				continue // a packet that is dropped
			case 1: // not translated
			case 2:
				p.Original.Zone = 7 // as a rule says
				p.Reply.Zone = 7
			case 3:
				p.Reply.Dst, p.Reply.DstPort = at, uint16(rnd.IntN(1<<16))
			default:
				p.Reply.Dst = at
			}
			r, c := w.Claim(p, now)
			if c != Claimed {
				continue
			}
			w.Track(r, data, now)
			w.Confirm(r, now)
			if o, a := w.Find(&p.Original), w.Find(&p.Reply); o != r || a != (Ref{r.Slot, tuple.Reply}) {
				t.Fatalf("%v, %v: found %v and %v, want slot %d", p.Original, p.Reply, o, a, r.Slot)
			}
		}
		right += w.ahead.right
	}
	if right == 0 {
		t.Error("no guess was right")
	}
	for _, err := range w.t.Check(start) {
		t.Error(err)
	}
}

// TestNobodyForeseesWhatIsNotClaimed: packets that are dropped cost guesses for one batch
// in some.
func TestNobodyForeseesWhatIsNotClaimed(t *testing.T) {
	w := newWorker(t, Config{Max: 1000})
	keys, refs := make([]tuple.Tuple, 8), make([]Ref, 8)
	for i := range keys {
		keys[i] = flowTuple(tuple.UDP, i)
	}
	guesses := 0
	for range 5 * (1 + foresightPause) {
		w.Lookup(keys, refs)
		if w.ahead.n > 0 {
			guesses++
		}
	}
	if guesses != 5 {
		t.Errorf("%d lookups were followed by guesses, want 5", guesses)
	}
	if _, c := w.Claim(proposal(keys[3]), start); c != Claimed {
		t.Fatal(c)
	}
}
