package conntrack

import (
	"errors"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// insertion is a flow that a command makes, for a minute.
func insertion(k tuple.Tuple) *Insertion {
	in := &Insertion{Proposal: *proposal(k), Lives: 60 * second}
	if k.Proto == tuple.TCP {
		in.State = Established
	}
	return in
}

func TestInsertedFlowIsThereAtOnce(t *testing.T) {
	table := newTable(t, Config{Max: 100, Workers: 1})
	w := table.Worker(0)
	w.Begin(start)
	sub := table.Subscribe(10, NewEvents)
	defer sub.Close()
	in := insertion(flowTuple(tuple.TCP, 1))
	in.Reply.DstPort = 60000
	in.Status = SrcNAT | SeenReply | Assured
	in.Mark, in.Labels = 9, [2]uint64{4, 0}
	if err := table.Insert(in); err != nil {
		t.Fatal(err)
	}
	for _, k := range []tuple.Tuple{in.Original, in.Reply} {
		if !w.Find(&k).Found() {
			t.Errorf("packets of %v do not find it", k)
		}
	}
	f, err := table.Get(in.Original)
	if err != nil {
		t.Fatal(err)
	}
	if f.State != Established || f.Mark != 9 || f.Labels != in.Labels || f.Timeout != time.Minute ||
		!f.Status.Has(Confirmed|SrcNAT|SeenReply|Assured) {
		t.Errorf("the flow is %+v", f)
	}
	if e := <-sub.Events(); e.Type != EventNew || e.Flow.Tuple[tuple.Reply] != in.Reply {
		t.Errorf("event %v of %v", e.Type, e.Flow.Tuple)
	}
}

func TestInsertedTCPFlowIsNotHeldToWindows(t *testing.T) {
	w := newWorker(t, Config{Max: 100, Workers: 1})
	in := insertion(flowTuple(tuple.TCP, 1))
	if err := w.t.Insert(in); err != nil {
		t.Fatal(err)
	}
	for i, k := range []tuple.Tuple{in.Original, in.Reply, in.Original, in.Reply} {
		seg := &Segment{Bytes: 100, Flags: ACK, Seq: uint32(i) * 1e9, Ack: uint32(i) * 7e8, Window: 1}
		if v := w.Track(w.Find(&k), seg, start); v != Accept {
			t.Errorf("segment %d: %v", i, v)
		}
	}
}

func TestInsertedSCTPFlowHasItsTags(t *testing.T) {
	w := newWorker(t, Config{Max: 100, Workers: 1})
	in := insertion(flowTuple(tuple.SCTP, 1))
	in.State, in.Tags = SCTPEstablished, [2]uint32{11, 22}
	if err := w.t.Insert(in); err != nil {
		t.Fatal(err)
	}
	f, _ := w.t.Get(in.Original)
	if f.State != SCTPEstablished || f.Tags != in.Tags {
		t.Errorf("state %v, tags %v", f.State, f.Tags)
	}
	ref := w.Find(&in.Original)
	if v := w.Track(ref, sctpSegment(11, 0, ChunkShutdown), start); v != Accept {
		t.Errorf("with the tag: %v", v)
	}
	if v := w.Track(ref, sctpSegment(12, 0, ChunkShutdown), start); v != InvalidTag {
		t.Errorf("with another tag: %v", v)
	}
}

func TestInsertedFlowTakesBothTuplesOrNone(t *testing.T) {
	w := newWorker(t, Config{Max: 100, Workers: 1})
	in := insertion(flowTuple(tuple.UDP, 1))
	in.Reply.DstPort = 60000
	if err := w.t.Insert(in); err != nil {
		t.Fatal(err)
	}
	sameOriginal := insertion(in.Original)
	sameReply := insertion(flowTuple(tuple.UDP, 2))
	sameReply.Reply = in.Reply
	for _, second := range []*Insertion{sameOriginal, sameReply} {
		if err := w.t.Insert(second); !errors.Is(err, ErrExists) {
			t.Errorf("%v: %v", second.Original, err)
		}
	}
	if w.t.Len() != 1 {
		t.Errorf("%d flows", w.t.Len())
	}
}

func TestInsertedFlowEndsWhenItsTimeIsOver(t *testing.T) {
	w := newWorker(t, Config{Max: 100, Workers: 1})
	in := insertion(flowTuple(tuple.TCP, 1)) // a state that lasts for days
	if err := w.t.Insert(in); err != nil {
		t.Fatal(err)
	}
	now := start
	w.Begin(now + 59*second)
	if !w.t.Has(in.Original) {
		t.Error("gone before its time")
	}
	w.Begin(now + 61*second)
	if w.t.Has(in.Original) {
		t.Error("still there")
	}
}

func TestInsertionIsRefused(t *testing.T) {
	w := newWorker(t, Config{Max: 1, Workers: 1, Profile: RFC})
	in := insertion(flowTuple(tuple.UDP, 1))
	in.State = Established
	if err := w.t.Insert(in); !errors.Is(err, ErrState) {
		t.Errorf("state of another protocol: %v", err)
	}
	in.State = None
	if err := w.t.Insert(in); err != nil {
		t.Fatal(err)
	}
	if err := w.t.Insert(insertion(flowTuple(tuple.UDP, 2))); !errors.Is(err, ErrNoMemory) {
		t.Errorf("full table: %v", err)
	}
}

// TestInsertedSlotsAreUsedAgain makes and ends more flows by command than the table
// has slots.
func TestInsertedSlotsAreUsedAgain(t *testing.T) {
	w := newWorker(t, Config{Max: 10, Workers: 1})
	for i := range 20_000 {
		in := insertion(flowTuple(tuple.UDP, 1))
		if err := w.t.Insert(in); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		if err := w.t.Insert(in); !errors.Is(err, ErrExists) {
			t.Fatalf("flow %d again: %v", i, err)
		}
		if err := w.t.Delete(in.Original); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		w.Begin(start)
	}
}
