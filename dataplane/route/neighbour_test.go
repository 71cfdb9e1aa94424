package route

import (
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

const second = int64(time.Second)

var (
	macA = [6]byte{2, 0, 0, 0, 0, 0xa}
	macB = [6]byte{2, 0, 0, 0, 0, 0xb}
	host = addr("10.0.0.5")

	asker Asker = 7
)

// reach makes (port, a) reachable at mac and returns its hint.
func reach(t *testing.T, n *Neighbours, port uint16, a tuple.Addr, mac [6]byte, now int64) Hint {
	t.Helper()
	if _, st, _ := n.Ask(port, a, asker, now); st == Unknown {
		t.Fatalf("no room for %v", a)
	}
	i, ok := n.Learn(port, a, mac, now)
	if !ok {
		t.Fatalf("%v was asked for, but its answer is ignored", a)
	}
	h, st, _ := n.Find(port, a, now)
	if st != Reachable || h.Slot() != i {
		t.Fatalf("%v is %v in slot %d after its answer, want reachable in slot %d", a, st, h.Slot(), i)
	}
	return h
}

func wantHit(t *testing.T, n *Neighbours, h Hint, port uint16, mac [6]byte) {
	t.Helper()
	gotPort, gotMAC, ok := n.Get(h)
	if !ok || gotPort != port || gotMAC != mac {
		t.Errorf("hint %#x stands for port %d, %x (%v), want port %d, %x", h, gotPort, gotMAC, ok, port, mac)
	}
}

func wantMiss(t *testing.T, n *Neighbours, h Hint, after string) {
	t.Helper()
	if port, mac, ok := n.Get(h); ok {
		t.Errorf("hint %#x still stands for port %d, %x after %s", h, port, mac, after)
	}
}

func TestHintIsValidUntilSomethingChanges(t *testing.T) {
	tests := []struct {
		claim  string
		change func(n *Neighbours)
		valid  bool
	}{
		{"nothing happens", func(*Neighbours) {}, true},
		{"the same answer again", func(n *Neighbours) { n.Learn(1, host, macA, 9) }, true},
		{"another neighbour fails", func(n *Neighbours) { n.Ask(1, addr("10.0.0.6"), asker, 0); n.Fail(1, addr("10.0.0.6")) }, true},
		{"another port goes away", func(n *Neighbours) { n.Forget(2) }, true},
		{"the neighbour moved", func(n *Neighbours) { n.Learn(1, host, macB, 9) }, false},
		{"the neighbour failed", func(n *Neighbours) { n.Fail(1, host) }, false},
		{"it failed and came back", func(n *Neighbours) { n.Fail(1, host); n.Ask(1, host, asker, 9); n.Learn(1, host, macA, 9) }, false},
		{"routes changed", func(n *Neighbours) { n.Invalidate() }, false},
		{"its port went away", func(n *Neighbours) { n.Forget(1) }, false},
		{"its port went away and came back", func(n *Neighbours) { n.Forget(1); n.Ask(1, host, asker, 9); n.Learn(1, host, macA, 9) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			n := NewNeighbours(8)
			h := reach(t, n, 1, host, macA, 0)
			wantHit(t, n, h, 1, macA)
			tt.change(n)
			if tt.valid {
				wantHit(t, n, h, 1, macA)
			} else {
				wantMiss(t, n, h, tt.claim)
			}
		})
	}
}

func TestHintOfAStaticNeighbourIsValidUntilItsAddressChanges(t *testing.T) {
	n := NewNeighbours(8)
	n.Static(1, host, macA)
	h, _, _ := n.Find(1, host, 0)
	n.Static(1, host, macA)
	wantHit(t, n, h, 1, macA)
	n.Static(1, host, macB)
	wantMiss(t, n, h, "another address")
	h, _, _ = n.Find(1, host, 0)
	wantHit(t, n, h, 1, macB)
}

func TestHintsThatNeverWere(t *testing.T) {
	n := NewNeighbours(2)
	h, st, fresh := n.Ask(1, host, asker, 0)
	if st != Incomplete || !fresh {
		t.Fatalf("new neighbour is %v, fresh %v; want incomplete, to be asked for", st, fresh)
	}
	for _, h := range []Hint{0, h, h | 1, 0xffffffff, 7<<16 | 1} {
		wantMiss(t, n, h, "nothing")
	}
}

func TestHostIsAlwaysReachable(t *testing.T) {
	n := NewNeighbours(1)
	for range 3 {
		wantHit(t, n, n.HostHint(), HostPort, [6]byte{})
		old := n.HostHint()
		n.Invalidate()
		wantMiss(t, n, old, "Invalidate")
	}
}

func TestTagNeverBecomesZero(t *testing.T) {
	n := NewNeighbours(1)
	for range 1<<16 + 2 {
		n.Invalidate()
		if uint16(n.HostHint()) == 0 {
			t.Fatal("tag 0 would make the host unreachable")
		}
	}
}

func TestQuestionsAreRepeated(t *testing.T) {
	n := NewNeighbours(8)
	steps := []struct {
		claim string
		now   int64
		do    func()
		fresh bool
		state State
	}{
		{"the first packet asks", 0, nil, true, Incomplete},
		{"the next ones do not", second / 2, nil, false, Incomplete},
		{"a second later one asks again: the question may be lost", second, nil, true, Incomplete},
		{"and then no more", second + second/2, nil, false, Incomplete},
		{"nobody asks for what is known", 9 * second, func() { n.Learn(1, host, macA, 2*second) }, false, Reachable},
		{"after a failure the next packet asks at once", 9 * second, func() { n.Fail(1, host) }, true, Incomplete},
		{"but not the one after it", 9*second + 1, nil, false, Incomplete},
	}
	for _, s := range steps {
		if s.do != nil {
			s.do()
		}
		if _, st, fresh := n.Ask(1, host, asker, s.now); fresh != s.fresh || st != s.state {
			t.Errorf("%s: state %v, ask %v; want %v, %v", s.claim, st, fresh, s.state, s.fresh)
		}
	}
}

func TestLearnIgnoresStrangers(t *testing.T) {
	n := NewNeighbours(8)
	if _, ok := n.Learn(1, host, macA, 0); ok || len(n.all()) != 0 {
		t.Errorf("an address nobody asked for is taken: %v", n.all())
	}
	n.Static(1, host, macA)
	if _, ok := n.Learn(1, host, macB, 0); ok || n.all()[0].MAC != macA {
		t.Errorf("an announcement replaces what the user fixed: %v", n.all())
	}
	if _, ok := n.Fail(1, host); ok || n.all()[0].State != Reachable {
		t.Errorf("a fixed neighbour fails: %v", n.all())
	}
}

// full returns a table of size neighbours 10.0.1.x on port 1, all reachable, and their hints.
func full(t *testing.T, size int) (*Neighbours, []Hint) {
	t.Helper()
	n := NewNeighbours(size)
	hints := make([]Hint, size)
	for i := range hints {
		hints[i] = reach(t, n, 1, tuple.AddrFrom4([4]byte{10, 0, 1, byte(i)}), macA, 0)
	}
	return n, hints
}

func TestFullTableReplacesFailedThenIdleNeighbours(t *testing.T) {
	n, hints := full(t, 4)
	if _, st, _ := n.Ask(2, host, asker, 0); st != Unknown {
		t.Fatal("a neighbour in use was replaced")
	}
	for i := range hints[:3] {
		n.Get(hints[i])
	}
	if _, st, _ := n.Ask(2, host, asker, idleFor); st == Unknown {
		t.Fatal("an idle neighbour was not replaced")
	}
	for i, h := range hints[:3] {
		if _, _, ok := n.Get(h); !ok {
			t.Errorf("neighbour %d in use was replaced before the idle one", i)
		}
	}
	wantMiss(t, n, hints[3], "its slot was reused")

	n, hints = full(t, 4)
	for _, h := range hints {
		n.Get(h)
	}
	n.Fail(1, tuple.AddrFrom4([4]byte{10, 0, 1, 2}))
	n.Ask(2, host, asker, 0)
	if got := len(n.all()); got != 4 {
		t.Errorf("%d neighbours in a table of 4", got)
	}
	for _, k := range n.all() {
		if k.State == Failed {
			t.Error("the failed neighbour was not the first to go")
		}
	}
}

func TestOpenQuestionsKeepTheirSlotForAWhile(t *testing.T) {
	n := NewNeighbours(2)
	n.Ask(1, addr("10.0.0.1"), asker, 0)
	n.Ask(1, addr("10.0.0.2"), asker, 0)
	if _, st, _ := n.Ask(1, host, asker, giveUp-1); st != Unknown {
		t.Error("a neighbour that may still answer lost its slot")
	}
	if _, st, _ := n.Ask(1, host, asker, giveUp); st == Unknown {
		t.Error("a question that nobody answers keeps its slot for ever")
	}
}

func TestStaticNeighboursAreNeverReplaced(t *testing.T) {
	n := NewNeighbours(1)
	if !n.Static(1, tuple.Addr{}, [6]byte{}) {
		t.Fatal("no room for the first")
	}
	h, _, _ := n.Find(1, tuple.Addr{}, 0)
	if _, st, _ := n.Ask(2, host, asker, 100*second); st != Unknown {
		t.Error("a static neighbour was replaced")
	}
	wantHit(t, n, h, 1, [6]byte{})
	if n.Static(2, tuple.Addr{}, [6]byte{}) {
		t.Error("two static neighbours in one slot")
	}
}

func TestForgottenSlotsAreUsedAgain(t *testing.T) {
	n, _ := full(t, 4)
	n.Forget(1)
	if got := n.all(); len(got) != 0 {
		t.Fatalf("still known: %v", got)
	}
	for i := range 4 {
		reach(t, n, 2, tuple.AddrFrom4([4]byte{10, 0, 2, byte(i)}), macB, 0)
	}
}

func TestUpkeepAsksForOldNeighboursInUse(t *testing.T) {
	n := NewNeighbours(8)
	h := reach(t, n, 1, host, macA, 10*second)
	reach(t, n, 1, addr("10.0.0.6"), macA, 10*second)
	n.Static(2, tuple.Addr{}, [6]byte{})
	asked := func(before int64) (all []tuple.Addr) {
		n.Upkeep(before, func(port uint16, a tuple.Addr) { all = append(all, a) })
		return all
	}
	if got := asked(10 * second); len(got) != 0 {
		t.Errorf("asked for %v, confirmed a moment ago", got)
	}
	asked(11 * second) // clears used
	n.Get(h)
	if got := asked(11 * second); len(got) != 1 || got[0] != host {
		t.Errorf("asked for %v, want %v alone: the other is idle", got, host)
	}
}

// TestHintNeverMixesNeighbours has readers hold hints while their slots change
// owner all the time: whatever a hint gives must be a pair that was once stored.
func TestHintNeverMixesNeighbours(t *testing.T) {
	const rounds = 20000
	n := NewNeighbours(2)
	macOf := func(port uint16) [6]byte { return [6]byte{2, 0, 0, 0, 0, byte(port)} }
	hints := make(chan Hint, 64)
	var readers sync.WaitGroup
	for range 2 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for h := range hints {
				for range 20 {
					port, mac, ok := n.Get(h)
					if !ok {
						break
					}
					if mac != macOf(port) {
						t.Errorf("hint %#x mixes port %d with %x", h, port, mac)
						return
					}
				}
			}
		}()
	}
	for i := range rounds {
		port := uint16(1 + i%5)
		a := tuple.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		now := int64(i) * second
		if _, st, _ := n.Ask(port, a, asker, now); st == Unknown {
			continue
		}
		_, ok := n.Learn(port, a, macOf(port), now)
		if !ok {
			t.Fatal("lost")
		}
		h, _, _ := n.Find(port, a, now)
		select {
		case hints <- h:
		default:
		}
		switch i % 7 {
		case 0:
			n.Fail(port, a)
		case 1:
			n.Invalidate()
		case 2:
			n.Forget(port)
		}
	}
	close(hints)
	readers.Wait()
}

func TestGetDoesNotAllocate(t *testing.T) {
	n := NewNeighbours(8)
	h := reach(t, n, 1, host, macA, 0)
	if got := testing.AllocsPerRun(100, func() { n.Get(h) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

// Get reads the word, then the port, then the word again: the word must change
// before the port does.
func TestReclaimedSlotIsInvalidBeforeItHasAnotherOwner(t *testing.T) {
	n, hints := full(t, 1)
	n.mu.Lock()
	n.takeLocked(0)
	_, ok := n.takeLocked(idleFor)
	n.mu.Unlock()
	if !ok {
		t.Fatal("the idle neighbour was not reclaimed")
	}
	wantMiss(t, n, hints[0], "its slot was reclaimed")
}

// neighbour is a copy of one entry.
type neighbour struct {
	Port  uint16
	Addr  tuple.Addr
	MAC   [6]byte
	State State
}

// all returns a copy of every entry, in no order.
func (n *Neighbours) all() []neighbour {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]neighbour, 0, len(n.index))
	for k, i := range n.index {
		all = append(all, neighbour{Port: k.port, Addr: k.addr, MAC: n.slots[i].mac, State: n.slots[i].state})
	}
	return all
}
