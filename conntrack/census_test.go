package conntrack

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// counted returns the states that have flows.
func counted(c *Census) map[string]int {
	all := map[string]int{}
	c.Each(func(proto, state string, flows int) {
		if flows > 0 {
			all[proto+" "+state] = flows
		}
	})
	return all
}

func TestCensusCountsFlowsByProtocolAndState(t *testing.T) {
	w := newWorker(t, Config{Max: 1000})
	want := map[string]int{}
	admit := func(name string, proto uint8, n int, s *Segment) (last Ref) {
		for i := range n {
			last = mustAdmit(t, w, proposal(flowTuple(proto, i)), s, start)
		}
		want[name] = n
		return last
	}
	tcp := admit("tcp SYN_SENT", tuple.TCP, 3, syn)
	w.Track(Ref{tcp.Slot, tuple.Reply}, &Segment{Bytes: 60, Flags: SYN | ACK, Window: 1000, Seq: 5, Ack: 1001}, start)
	want["tcp SYN_SENT"], want["tcp SYN_RECV"] = 2, 1
	udp := admit("udp UNREPLIED", tuple.UDP, 4, data)
	w.Track(Ref{udp.Slot, tuple.Reply}, data, start)
	want["udp UNREPLIED"], want["udp REPLIED"] = 3, 1
	w.Track(Ref{admit("gre UNREPLIED", tuple.GRE, 1, data).Slot, tuple.Reply}, data, start)
	gre := w.Find(&[]tuple.Tuple{flowTuple(tuple.GRE, 0)}[0])
	w.Track(gre, data, start)
	delete(want, "gre UNREPLIED")
	want["gre ASSURED"] = 1
	admit("other UNREPLIED", 89, 1, data)
	if _, c := w.Claim(proposal(flowTuple(tuple.UDPLite, 77)), start); c != Claimed { // its packet has not left
		t.Fatal(c)
	}
	defer w.Abort(w.Find(&[]tuple.Tuple{flowTuple(tuple.UDPLite, 77)}[0]))

	census := w.t.Census()
	got := counted(&census)
	for kind, n := range want {
		if got[kind] != n {
			t.Errorf("%s: %d flows, want %d", kind, got[kind], n)
		}
		delete(got, kind)
	}
	for kind, n := range got {
		t.Errorf("%s: %d flows, want none", kind, n)
	}
}

func TestCensusNamesEachStateOnce(t *testing.T) {
	seen := map[string]bool{}
	(&Census{}).Each(func(proto, state string, flows int) {
		if seen[proto+" "+state] || flows != 0 {
			t.Errorf("%s %s a second time, or with %d flows", proto, state, flows)
		}
		seen[proto+" "+state] = true
	})
	for _, want := range []string{"tcp ESTABLISHED", "sctp HEARTBEAT_SENT", "dccp TIMEWAIT", "icmpv6 REPLIED", "other ASSURED"} {
		if !seen[want] {
			t.Errorf("%s is missing", want)
		}
	}
}

func BenchmarkCensus(b *testing.B) {
	w := newWorker(b, Config{Max: 1 << 20})
	establish(b, w, tuple.UDP, flowRange{to: 1_000_000})
	var c Census
	for b.Loop() {
		c = w.t.Census()
	}
	if n := counted(&c)["udp REPLIED"] + counted(&c)["udp ASSURED"]; n != 1_000_000 {
		b.Errorf("%d flows", n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ns/flow")
}
