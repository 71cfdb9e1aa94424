package conntrack

import (
	"runtime"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// TestCauseReachesTheSubscribers ends more flows than the ring has room for.
func TestCauseReachesTheSubscribers(t *testing.T) {
	const flows, ring = 20, 4
	table := newTable(t, Config{Max: 100, EventRing: ring})
	sub := table.Subscribe(flows, DestroyEvents)
	w := table.Worker(0)
	w.Begin(start)
	table.events.mu.Lock() // nothing is delivered
	for i := range flows {
		r := mustAdmit(t, w, proposal(flowTuple(tuple.UDP, i)), data, start)
		if why := Cause(i % NumCauses); !w.End(r, why) || w.End(r, why) {
			t.Fatal("End of a flow that goes on says that it did not, or the second one that it did")
		}
	}
	table.events.mu.Unlock()
	for now := start + 1; len(listed(table.DumpDying)) > 0; now++ {
		w.Begin(now)
		runtime.Gosched()
	}
	for i := range flows {
		if e := <-sub.Events(); e.Cause != Cause(i%NumCauses) || e.Change != 0 {
			t.Errorf("event %d: cause %v, change %d; want %v, 0", i, e.Cause, e.Change, Cause(i%NumCauses))
		}
	}
	if n := len(w.causes); n != 0 {
		t.Errorf("%d causes are kept of events that were told", n)
	}
}

func TestIDOfAWorkerIsTheFlows(t *testing.T) {
	table := newTable(t, Config{Max: 100})
	w := table.Worker(0)
	w.Begin(start)
	r := mustAdmit(t, w, proposal(flowTuple(tuple.UDP, 1)), data, start)
	table.Dump(func(f *Flow) bool {
		if got := w.ID(r.Slot); got != f.ID {
			t.Errorf("id %#x, want %#x", got, f.ID)
		}
		return true
	})
}

func TestTCPEdgeIsInTheNumbersOfTheReceiver(t *testing.T) {
	x := established(t, Config{})
	at := func(d tuple.Direction, want TCPEdge) {
		t.Helper()
		if got, ok := x.w.TCPEdge(x.r.Slot, d); !ok || got != want {
			t.Errorf("%v: %+v (%v), want %+v", d, got, ok, want)
		}
	}
	x.expect(tuple.Reply, ACK, 1, 1, 100, Accept, "ESTABLISHED")
	at(tuple.Reply, TCPEdge{Next: replyISN + 101, Acked: replyISN + 1, Ack: origISN + 1})
	at(tuple.Original, TCPEdge{Next: origISN + 1, Acked: origISN + 1, Ack: replyISN + 101})
	// A helper has made 10 bytes more of what the server sent from 50 on.
	x.w.SetCorrection(x.r, tuple.Reply, Correction{Pos: replyISN + 50, Before: 0, After: 10})
	at(tuple.Reply, TCPEdge{Next: replyISN + 111, Acked: replyISN + 1, Ack: origISN + 1})
	x.expect(tuple.Original, RST|ACK, 1, 101, 0, Accept, "CLOSE")
	if _, ok := x.w.TCPEdge(x.r.Slot, tuple.Reply); ok {
		t.Error("a connection that is over goes on")
	}
}
