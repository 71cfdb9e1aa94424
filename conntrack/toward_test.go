package conntrack

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestSocketsTowardAHostAreCounted: whatever ports the host uses, and only while the
// flow lives.
func TestSocketsTowardAHostAreCounted(t *testing.T) {
	table := newTable(t, Config{Max: 100_000})
	w := table.Worker(0)
	w.Begin(start)
	var refs []Ref
	for i := range 3 {
		p := proposal(flowTuple(tuple.UDP, i))
		p.Original.Dst, p.Reply.Src = flowTuple(tuple.UDP, 0).Dst, flowTuple(tuple.UDP, 0).Dst
		p.Original.DstPort, p.Reply.SrcPort = uint16(7000+i), uint16(7000+i)
		p.Reply.Dst, p.Reply.DstPort = flowTuple(tuple.UDP, 9).Src, 6000
		refs = append(refs, mustAdmit(t, w, p, data, start))
	}
	asked := table.Entry(refs[0].Slot).Tuple(tuple.Reply)
	asked.SrcPort = 1
	other := asked
	other.DstPort++
	for left := len(refs); left >= 0; left-- {
		if got := table.Toward(&asked); got != left {
			t.Errorf("%d flows of the socket, want %d", got, left)
		}
		if got := table.Toward(&other); got != 0 {
			t.Errorf("%d flows of the next socket, want none", got)
		}
		if left > 0 {
			w.Kill(refs[left-1])
		}
	}
}

func TestSocketsAreNotCountedUnlessWanted(t *testing.T) {
	table := newTable(t, Config{Max: 1000, Sockets: SocketsUncounted})
	w := table.Worker(0)
	w.Begin(start)
	ref := mustAdmit(t, w, proposal(flowTuple(tuple.UDP, 1)), data, start)
	asked := table.Entry(ref.Slot).Tuple(tuple.Reply)
	if n := table.Toward(&asked); n != 0 {
		t.Errorf("%d flows of the socket are known", n)
	}
	w.Kill(ref)
	for _, err := range table.Check(start) {
		t.Error(err)
	}
}

// TestExpectationsThatNothingMetAreTold: of all others who met them knows.
func TestExpectationsThatNothingMetAreTold(t *testing.T) {
	table := newTable(t, Config{Max: 1000})
	over := map[uint16]int{}
	table.OnExpectEnd(func(x *Over, _ Tick) { over[x.Tuple.DstPort]++ })
	w := table.Worker(0)
	w.Begin(start)
	master := mustAdmit(t, w, proposal(flowTuple(tuple.TCP, 1)), syn, start)
	announce := func(port uint16, flags ExpectFlags, timeout Tick) tuple.Tuple {
		k := flowTuple(tuple.UDP, 2)
		k.DstPort = port
		x := Expectation{Tuple: k, Mask: AnyMask(), Flags: flags}
		if err := w.Expect(master, &x, ExpectPolicy{Timeout: timeout}); err != nil {
			t.Fatal(err)
		}
		return k
	}
	var x Announced
	met := announce(1, 0, 1000)
	if !w.Expected(&met, &x) {
		t.Fatal("it was not met")
	}
	announce(2, 0, 1000)
	announce(2, 0, 1000) // replaces the first one
	announce(3, 0, 10)
	stays := announce(4, ExpectPermanent, 1000)
	if !w.Expected(&stays, &x) {
		t.Fatal("the permanent one was not met")
	}
	now := start
	w.Begin(now + 200) // past the deadline of the third one
	w.Kill(master)
	for port, want := range []int{0, 0, 2, 1, 1} {
		if got := over[uint16(port)]; got != want {
			t.Errorf("the end of expectation %d was told %d times, want %d", port, got, want)
		}
	}
}
