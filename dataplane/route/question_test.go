package route

import (
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

const (
	scanner Asker = 1
	client  Asker = 2
)

// target is the i-th address of a scanned prefix.
func target(i int) tuple.Addr {
	return tuple.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
}

// openOn counts the open questions of a port.
func openOn(n *Neighbours, port uint16) (open int) {
	for _, k := range n.all() {
		if k.Port == port && k.State == Incomplete {
			open++
		}
	}
	return open
}

func TestAskerHasAShareOfThePort(t *testing.T) {
	n := NewNeighbours(1 << 14)
	granted := 0
	for i := range 10000 {
		if _, st, fresh := n.Ask(1, target(i), scanner, 0); fresh {
			granted++
		} else if st != Unknown {
			t.Fatalf("question %d is %v and not to be asked", i, st)
		}
	}
	if granted != openShare || openOn(n, 1) != openShare {
		t.Errorf("%d questions granted, %d open, want %d", granted, openOn(n, 1), openShare)
	}
	if _, st, fresh := n.Ask(1, host, client, 0); st != Incomplete || !fresh {
		t.Errorf("another client's question is %v (ask: %v)", st, fresh)
	}
	n.Fail(1, target(0))
	if _, _, fresh := n.Ask(1, target(20000), scanner, 0); !fresh {
		t.Error("a question that ended does not make room for the next")
	}
}

// TestScanNeverKeepsAClientFromItsNeighbours has a number of clients scan as fast as
// they can while another one now and then wants a neighbour that lives.
func TestScanNeverKeepsAClientFromItsNeighbours(t *testing.T) {
	for _, scanners := range []int{1, 7, 8, 9, 300} {
		n := NewNeighbours(1 << 12)
		asked := map[tuple.Addr]int64{}
		solicited, next := 0, 0
		for now := int64(0); now < 5*second; now += 2 * int64(time.Millisecond) {
			for a, at := range asked {
				if now-at >= 3*second {
					n.Fail(1, a)
					delete(asked, a)
				}
			}
			for range 50 {
				next++
				if _, _, fresh := n.Ask(1, target(next), Asker(100+next%scanners), now); fresh {
					asked[target(next)] = now
					solicited++
				}
			}
			if now%(100*int64(time.Millisecond)) != 0 {
				continue
			}
			a := tuple.AddrFrom4([4]byte{10, 9, byte(now / second), byte(now / int64(time.Millisecond) / 100)})
			if _, st, fresh := n.Ask(1, a, client, now); st != Incomplete || !fresh {
				t.Fatalf("%d scanners, %v: the client's question is %v", scanners, time.Duration(now), st)
			}
			reach(t, n, 1, a, macA, now)
		}
		if limit := int(6 * second / int64(askEvery)); solicited > limit {
			t.Errorf("%d scanners: %d questions in 5 s, want at most %d", scanners, solicited, limit)
		}
		if most := openOn(n, 1); most > maxOpen {
			t.Errorf("%d scanners: %d open questions, want at most %d", scanners, most, maxOpen)
		}
	}
}

func TestOldestQuestionOfTheHeaviestGivesWay(t *testing.T) {
	n := NewNeighbours(4)
	given := 0
	n.OnReplace(func() { given++ })
	for i := range 3 {
		n.Ask(1, target(i), scanner, int64(i))
	}
	n.Ask(1, target(3), client, 3)
	h, _, _ := n.Find(1, target(0), 3)
	w := n.Waits(h.Slot())
	if _, st, _ := n.Ask(1, target(4), scanner, 4); st != Unknown {
		t.Error("the heaviest asker took the place of another")
	}
	if _, st, _ := n.Ask(1, target(5), client, 5); st != Incomplete || given != 1 {
		t.Errorf("the lighter asker's question is %v, %d were given up, want 1", st, given)
	}
	if _, same := n.State(w); same {
		t.Error("packets that wait for the neighbour that was given up are not told")
	}
	for i, want := range []State{Unknown, Incomplete, Incomplete, Incomplete} {
		if _, st, _ := n.Find(1, target(i), 5); st != want {
			t.Errorf("question %d is %v, want %v", i, st, want)
		}
	}
	if _, st, _ := n.Ask(1, target(6), client, 6); st != Unknown {
		t.Error("equals take places from each other")
	}
}

func TestPortsDoNotShareQuestions(t *testing.T) {
	n := NewNeighbours(1 << 12)
	for i := range 2000 {
		n.Ask(1, target(i), Asker(100+i), 0)
	}
	for i := range openShare {
		if _, st, _ := n.Ask(2, target(i), client, 0); st != Incomplete {
			t.Fatalf("question %d on another port is %v", i, st)
		}
	}
	n.Forget(1)
	if got := openOn(n, 1); got != 0 {
		t.Errorf("%d questions are open on a port that went away", got)
	}
	if _, st, _ := n.Ask(1, host, client, 0); st != Incomplete {
		t.Errorf("after the port came back a question is %v", st)
	}
}

func TestScanTakesNoSlotFromNeighboursInUse(t *testing.T) {
	n, hints := full(t, 64)
	for now := int64(0); now < 60*second; now += second / 10 {
		for i := range hints[:32] {
			n.Get(hints[i])
		}
		for i := range 100 {
			if _, _, fresh := n.Ask(1, target(int(now/second*1000)+i), scanner, now); fresh {
				n.Fail(1, target(int(now/second*1000)+i))
			}
		}
	}
	for i, h := range hints[:32] {
		if _, _, ok := n.Get(h); !ok {
			t.Errorf("neighbour %d is in use and lost its slot to a scan", i)
		}
	}
}

func TestFailedNeighboursLoseTheirSlotFirst(t *testing.T) {
	n, hints := full(t, 8)
	n.Upkeep(1, func(uint16, tuple.Addr) {}) // clears used: all are idle
	n.Fail(1, tuple.AddrFrom4([4]byte{10, 0, 1, 6}))
	n.Fail(1, tuple.AddrFrom4([4]byte{10, 0, 1, 3}))
	n.Ask(1, tuple.AddrFrom4([4]byte{10, 0, 1, 6}), client, 0) // wanted again
	n.Ask(2, host, client, 0)
	for i, h := range hints {
		if _, _, ok := n.Get(h); ok != (i != 6 && i != 3) {
			t.Errorf("neighbour %d: valid %v", i, ok)
		}
	}
	if _, st, _ := n.Find(1, tuple.AddrFrom4([4]byte{10, 0, 1, 3}), 0); st != Unknown {
		t.Errorf("the failed neighbour is %v, want its slot taken", st)
	}
}

func TestQuestionsThatNobodyEndsAreGivenUp(t *testing.T) {
	n := NewNeighbours(1 << 10)
	for i := range openShare {
		n.Ask(1, target(i), client, 0)
	}
	n.Find(1, target(0), 2*second) // asked again: not the oldest any more
	if _, st, _ := n.Ask(1, host, client, giveUp-1); st != Unknown {
		t.Error("a question that may still be answered was given up")
	}
	if _, st, _ := n.Ask(1, host, client, giveUp); st != Incomplete {
		t.Errorf("an asker whose questions were lost has to wait for ever: %v", st)
	}
	if _, st, _ := n.Find(1, target(0), giveUp); st != Incomplete {
		t.Error("the question that was repeated lately was given up first")
	}
}
