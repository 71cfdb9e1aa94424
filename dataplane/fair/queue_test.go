package fair

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// held is a place in the slow twin.
type held struct {
	owner  Owner
	value  uint32
	handle Handle
}

// twin is a Queue that can be read at a glance: places in the order they were given.
type twin []held

func (tw twin) count(o Owner) (n int) {
	for _, p := range tw {
		if p.owner == o {
			n++
		}
	}
	return n
}

func (tw twin) most() (n int) {
	for _, p := range tw {
		n = max(n, tw.count(p.owner))
	}
	return n
}

func (tw twin) oldest(o Owner) Handle {
	i := slices.IndexFunc(tw, func(p held) bool { return p.owner == o })
	if i < 0 {
		return 0
	}
	return tw[i].handle
}

func TestQueueAgreesWithItsTwin(t *testing.T) {
	const capacity, owners = 12, 7
	rnd := rand.New(rand.NewPCG(1, 2))
	q := New(capacity)
	var tw twin
	for step := range 20000 {
		if remove := q.Full() || len(tw) > 0 && rnd.IntN(2) == 0; remove {
			i := rnd.IntN(len(tw))
			q.Remove(tw[i].handle)
			tw = slices.Delete(tw, i, i+1)
		} else {
			o, v := Owner(rnd.IntN(owners)*8), rnd.Uint32() // multiples: they share buckets
			tw = append(tw, held{o, v, q.Add(o, v)})
		}
		if q.Len() != len(tw) || q.Full() != (len(tw) == capacity) {
			t.Fatalf("step %d: %d places held, full %v; want %d", step, q.Len(), q.Full(), len(tw))
		}
		for i := range owners {
			o := Owner(i * 8)
			if got, want := q.Count(o), tw.count(o); got != want {
				t.Fatalf("step %d: owner %d holds %d, want %d", step, o, got, want)
			}
			if got, want := q.Oldest(o), tw.oldest(o); got != want {
				t.Fatalf("step %d: oldest place of %d is %d, want %d", step, o, got, want)
			}
		}
		if o, n := q.Heaviest(); n != tw.most() || tw.count(o) != n {
			t.Fatalf("step %d: heaviest is %d with %d, it holds %d and the most is %d", step, o, n, tw.count(o), tw.most())
		}
		for _, p := range tw {
			if q.Value(p.handle) != p.value || q.Owner(p.handle) != p.owner {
				t.Fatalf("step %d: place %d changed", step, p.handle)
			}
		}
	}
}

func TestAmongEqualsTheLongestHeldPlaceGoes(t *testing.T) {
	q := New(4)
	for o := range Owner(4) {
		q.Add(o, uint32(o))
	}
	for want := range Owner(4) {
		o, _ := q.Heaviest()
		if o != want {
			t.Errorf("heaviest is %d, want %d: it came first", o, want)
		}
		q.Remove(q.Oldest(o))
		q.Add(o+4, 0)
	}
}

func TestWhoeverWantsLessThanAnEqualShareGetsIt(t *testing.T) {
	q := New(16)
	ask := func(o Owner) {
		if q.Full() {
			most, _ := q.Heaviest()
			q.Remove(q.Oldest(most))
		}
		q.Add(o, 0)
	}
	for i := range 1000 {
		ask(1)
		ask(2)
		if i < 5 {
			ask(3)
		}
	}
	if n := q.Count(3); n != 5 {
		t.Errorf("the modest owner holds %d, want its 5", n)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	q := New(8)
	o := Owner(0)
	if got := testing.AllocsPerRun(100, func() {
		o++
		q.Remove(q.Add(o, 1))
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
