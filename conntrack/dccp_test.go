package conntrack

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func TestDCCPConnection(t *testing.T) {
	type step struct {
		dir  tuple.Direction
		kind uint8
		want State // None: invalid
	}
	const o, r = tuple.Original, tuple.Reply
	up := []step{{o, DCCPRequest, DCCPRequested}, {r, DCCPResponse, DCCPResponded}, {o, DCCPAck, DCCPPartOpen}, {r, DCCPDataAck, DCCPOpen}}
	tests := []struct {
		name   string
		script []step
	}{
		{"the server asks the client to close", append(up[:4:4],
			step{r, DCCPCloseReq, DCCPCloseRequested}, step{o, DCCPClose, DCCPClosing}, step{r, DCCPReset, DCCPTimeWait}, step{o, DCCPRequest, DCCPRequested})},
		{"the client closes", append(up[:4:4], step{o, DCCPClose, DCCPClosing}, step{r, DCCPReset, DCCPTimeWait})},
		{"only the server may send a close request", append(up[:4:4], step{o, DCCPCloseReq, None})},
		{"only the client may send a request", append(up[:1:1], step{r, DCCPRequest, None})},
		{"the client sends no data before it has acknowledged", append(up[:2:2], step{o, DCCPData, None})},
		{"a request is repeated because its response was lost", append(up[:2:2], step{o, DCCPRequest, DCCPResponded}, step{r, DCCPResponse, DCCPResponded}, step{o, DCCPAck, DCCPPartOpen})},
		{"a response is repeated because its acknowledgement was lost", append(up[:3:3], step{r, DCCPResponse, DCCPPartOpen}, step{o, DCCPAck, DCCPPartOpen})},
		{"a late request moves nothing", append(up[:4:4], step{o, DCCPRequest, DCCPOpen})},
		{"a refused request", append(up[:1:1], step{r, DCCPReset, DCCPTimeWait})},
		{"sync moves nothing", append(up[:4:4], step{o, DCCPSync, DCCPOpen}, step{r, DCCPSyncAck, DCCPOpen})},
		{"an unknown type", append(up[:1:1], step{r, 12, None})},
	}
	for _, tt := range tests {
		w := newWorker(t, Config{Max: 10})
		p := proposal(flowTuple(tuple.DCCP, 1))
		ref, _ := w.Claim(p, start)
		for i, x := range tt.script {
			v := w.Track(Ref{ref.Slot, x.dir}, &Segment{Bytes: 50, DCCPType: x.kind}, start)
			w.Confirm(ref, start)
			e := w.Entry(ref.Slot)
			if x.want == None {
				if v != InvalidState {
					t.Errorf("%s: step %d: %v, want %v", tt.name, i, v, InvalidState)
				}
				continue
			}
			if v != Accept || e.State() != x.want || e.Timeout() != w.t.idle.dccp[x.want-dccpBase] {
				t.Errorf("%s: step %d: %v, %v for %v", tt.name, i, v, e.State(), e.Timeout().Duration())
			}
			if open := e.Status().Has(Assured); x.want == DCCPOpen && !open {
				t.Errorf("%s: step %d: open, but not assured", tt.name, i)
			}
		}
	}
}

func TestWhatMayBeginADCCPFlow(t *testing.T) {
	k := flowTuple(tuple.DCCP, 1)
	for _, tt := range []struct {
		name   string
		pickup Pickup
		kind   uint8
		want   Verdict
	}{
		{"request", Strict, DCCPRequest, Accept},
		{"data of a connection that is up", Loose, DCCPDataAck, Accept},
		{"the same, strict", Strict, DCCPDataAck, InvalidPickup},
		{"a response", Loose, DCCPResponse, InvalidPickup},
		{"an unknown type", Loose, 15, InvalidPickup},
	} {
		w := newWorker(t, Config{Max: 10, Pickup: tt.pickup})
		if got := w.Admissible(&k, &Segment{DCCPType: tt.kind}); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// FuzzDCCP takes packets of any type, also of none, through a table with one
// flow: a packet is invalid and moves nothing, or leads to a state of DCCP.
func FuzzDCCP(f *testing.F) {
	const reply = 0x80
	f.Add([]byte{DCCPRequest, reply | DCCPResponse, DCCPAck, reply | DCCPDataAck, reply | DCCPCloseReq, DCCPClose, reply | DCCPReset, DCCPRequest})
	f.Add([]byte{DCCPAck, reply | DCCPReset, DCCPSync, 12})
	f.Fuzz(func(t *testing.T, packets []byte) {
		w := newWorker(t, Config{Max: 10})
		p := proposal(flowTuple(tuple.DCCP, 1))
		first := &Segment{Bytes: 50, DCCPType: DCCPRequest}
		if len(packets) > 0 && w.Admissible(&p.Original, &Segment{DCCPType: packets[0]}) == Accept {
			first.DCCPType = packets[0]
		}
		ref := mustAdmit(t, w, p, first, start)
		e := w.Entry(ref.Slot)
		for _, b := range packets[:min(len(packets), 100)] {
			old := e.State()
			v := w.Track(Ref{ref.Slot, tuple.Direction(b >> 7)}, &Segment{Bytes: 50, DCCPType: b &^ reply}, start)
			switch now := e.State(); {
			case v != Accept && (v != InvalidState || now != old):
				t.Fatalf("%#x in %v: %v, then %v", b, old, v, now)
			case now == None || !now.fits(tuple.DCCP):
				t.Fatalf("%#x in %v: %v", b, old, now)
			case v == Accept && e.Timeout() != w.t.idle.dccp[now-dccpBase] && now != old:
				t.Fatalf("%#x in %v: %v for %v", b, old, now, e.Timeout().Duration())
			}
		}
	})
}
