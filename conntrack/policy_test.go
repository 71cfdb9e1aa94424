package conntrack

import (
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

func TestRuleOverridesTimeoutsByState(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	slow := Timeouts{UDP: 45 * time.Second, UDPStream: time.Hour}
	slow.TCP[SynSent] = 7 * time.Second
	n, err := w.t.Policy(slow)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := w.t.Policy(slow); again != n || n == 0 {
		t.Errorf("the same timeouts have numbers %d and %d", n, again)
	}
	if plain, _ := w.t.Policy(Timeouts{}); plain != 0 {
		t.Errorf("the table's own timeouts have number %d", plain)
	}
	p := proposal(flowTuple(tuple.UDP, 1))
	p.Policy = n
	r := mustAdmit(t, w, p, data, start)
	e := w.Entry(r.Slot)
	if got := e.Timeout(); got != 45*second {
		t.Errorf("before an answer: %v", got.Duration())
	}
	w.Track(Ref{r.Slot, tuple.Reply}, data, start)
	w.Track(r, data, w.now+3*second)
	if got := e.Timeout(); got != 3600*second {
		t.Errorf("as a stream: %v", got.Duration())
	}
	p = proposal(flowTuple(tuple.TCP, 1))
	p.Policy = n
	r = mustAdmit(t, w, p, syn, start)
	if got := w.Entry(r.Slot).Timeout(); got != 7*second {
		t.Errorf("SYN_SENT: %v", got.Duration())
	}
	w.Track(Ref{r.Slot, tuple.Reply}, &Segment{Flags: SYN | ACK, Seq: 5000, Ack: 1001, Window: 1000}, start)
	if got := w.Entry(r.Slot).Timeout(); got != 60*second {
		t.Errorf("SYN_RECV, which the rule leaves alone: %v", got.Duration())
	}
}

func TestFixedTimeoutRunsOn(t *testing.T) {
	for _, proto := range []uint8{tuple.UDP, tuple.TCP} {
		w := newWorker(t, Config{Max: 10})
		p := proposal(flowTuple(proto, 1))
		p.Status, p.Timeout = FixedTimeout, 5*second
		r := mustAdmit(t, w, p, syn, start)
		w.Track(r, syn, w.now+4*second)
		if f, _ := w.t.Get(p.Original); !f.Status.Has(FixedTimeout) {
			t.Errorf("protocol %d: status %v", proto, f.Status)
		}
		w.Begin(w.now + 5*second)
		if w.Find(&p.Original).Found() {
			t.Errorf("protocol %d: a packet refreshed a fixed timeout", proto)
		}
	}
}

func TestHelperIsNamed(t *testing.T) {
	w := newWorker(t, Config{Max: 10, HelperName: func(n uint32) string { return map[uint32]string{3: "ftp"}[n] }})
	p := proposal(flowTuple(tuple.TCP, 1))
	p.Helper = 3
	mustAdmit(t, w, p, syn, start)
	if f, err := w.t.Get(p.Original); err != nil || f.Helper != "ftp" || !f.Status.Has(Helper) {
		t.Errorf("helper %q status %v, %v", f.Helper, f.Status, err)
	}
}

func TestZoneOfOneDirection(t *testing.T) {
	w := newWorker(t, Config{Max: 10})
	p := proposal(flowTuple(tuple.UDP, 1))
	p.Original.Zone = 9
	mustAdmit(t, w, p, data, start)
	for d, k := range []tuple.Tuple{p.Original, p.Reply} {
		if r := w.Find(&k); !r.Found() || int(r.Dir) != d {
			t.Errorf("direction %d is not found in zone %d", d, k.Zone)
		}
		k.Zone ^= 9
		if w.Find(&k).Found() {
			t.Errorf("direction %d is found in zone %d", d, k.Zone)
		}
	}
	same := proposal(flowTuple(tuple.UDP, 1))
	same.Original.Zone = 5
	if _, c := w.Claim(same, start); c != ReplyTaken {
		t.Errorf("two zones that share the reply direction: %v, want %v", c, ReplyTaken)
	}
}
