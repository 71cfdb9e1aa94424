package conntrack

import (
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// sctpCells is what each chunk makes of each state, by the states' initials; a
// dot leaves the state alone, a dash is invalid.
const sctpCells = `
                    NO CL CW CE ES SS SR SA HS
orig init           CL .  .  .  .  CL CL .  CW
orig init-ack       CL .  .  .  .  .  .  .  CL
orig heartbeat      HS .  .  .  .  .  .  .  .
orig heartbeat-ack  CL .  .  .  .  .  .  .  .
orig abort          CL .  CL CL CL CL CL CL CL
orig shutdown       CL .  .  .  SS .  .  .  CL
orig shutdown-ack   SA .  .  .  .  SA SA .  SA
orig error          CL .  .  .  .  .  .  .  CL
orig cookie-echo    CL .  CE .  .  .  .  .  CL
orig cookie-ack     CL .  .  ES .  .  .  .  CL
orig complete       CL .  .  .  .  .  .  CL CL
reply init          -  .  .  .  .  .  .  .  -
reply init-ack      -  CW .  .  .  .  .  .  -
reply heartbeat     -  .  .  .  .  .  .  .  .
reply heartbeat-ack -  .  .  .  .  .  .  .  ES
reply abort         -  .  CL CL CL CL CL CL -
reply shutdown      -  .  .  .  SR .  .  .  -
reply shutdown-ack  -  .  .  .  .  SA SA .  -
reply error         -  .  .  CL .  .  .  .  -
reply cookie-echo   -  .  CE .  .  .  .  .  -
reply cookie-ack    -  .  .  ES .  .  .  .  -
reply complete      -  .  .  .  .  .  .  CL -
`

var sctpChunkNames = map[string]uint8{
	"init": ChunkInit, "init-ack": ChunkInitAck, "heartbeat": ChunkHeartbeat, "heartbeat-ack": ChunkHeartbeatAck,
	"abort": ChunkAbort, "shutdown": ChunkShutdown, "shutdown-ack": ChunkShutdownAck, "error": ChunkError,
	"cookie-echo": ChunkCookieEcho, "cookie-ack": ChunkCookieAck, "complete": ChunkShutdownComplete,
}

var sctpInitials = map[string]State{
	"NO": None, "-": None, "CL": SCTPClosed, "CW": SCTPCookieWait, "CE": SCTPCookieEchoed, "ES": SCTPEstablished,
	"SS": SCTPShutdownSent, "SR": SCTPShutdownRecd, "SA": SCTPShutdownAckSent, "HS": SCTPHeartbeatSent,
}

func TestEveryCellOfTheSCTPTable(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(sctpCells), "\n")
	states := strings.Fields(lines[0])
	cells := 0
	for _, line := range lines[1:] {
		row := strings.Fields(line)
		d := tuple.Original
		if row[0] == "reply" {
			d = tuple.Reply
		}
		for i, cell := range row[2:] {
			from := sctpInitials[states[i]]
			want := sctpInitials[cell]
			if cell == "." {
				want = from
			}
			if got := sctpStep(d, sctpChunkNames[row[1]], from); got != want {
				t.Errorf("%s %s in %v = %v, want %v", row[0], row[1], from, got, want)
			}
			cells++
		}
	}
	if cells != 2*11*9 {
		t.Errorf("%d cells tested, want %d", cells, 2*11*9)
	}
}

// sctpSegment is a packet of an association.
func sctpSegment(tag, initTag uint32, kinds ...uint8) *Segment {
	s := &Segment{Bytes: 100}
	s.SCTP.Tag, s.SCTP.InitTag = tag, initTag
	for _, kind := range kinds {
		if !s.SCTP.Add(kind, 0) {
			s.SCTP = SCTPChunks{} // as the engine tells of a broken packet
			break
		}
	}
	return s
}

const (
	clientTag = 0x11111111 // what the server puts in its packets
	serverTag = 0x22222222
	chunkSack = 3
)

// sctpPacketCase is one packet of a script and what becomes of it.
type sctpPacketCase struct {
	name    string
	dir     tuple.Direction
	s       *Segment
	verdict Verdict
	state   State
	timeout time.Duration
}

var sctpHandshake = []sctpPacketCase{
	{"INIT opens", tuple.Original, sctpSegment(0, clientTag, ChunkInit), Accept, SCTPClosed, 10 * time.Second},
	{"INIT ACK waits for the cookie", tuple.Reply, sctpSegment(clientTag, serverTag, ChunkInitAck), Accept, SCTPCookieWait, 3 * time.Second},
	{"the cookie may carry data", tuple.Original, sctpSegment(serverTag, 0, ChunkCookieEcho, chunkData), Accept, SCTPCookieEchoed, 3 * time.Second},
	{"COOKIE ACK establishes", tuple.Reply, sctpSegment(clientTag, 0, ChunkCookieAck, chunkSack), Accept, SCTPEstablished, 210 * time.Second},
}

// runSCTP takes the handshake and then a script through a table.
func runSCTP(t *testing.T, script ...sctpPacketCase) *Worker {
	t.Helper()
	w := newWorker(t, Config{Max: 10})
	p := proposal(flowTuple(tuple.SCTP, 1))
	if v := w.Admissible(&p.Original, sctpHandshake[0].s); v != Accept {
		t.Fatalf("INIT may not begin a flow: %v", v)
	}
	r, _ := w.Claim(p, start)
	for i, x := range append(sctpHandshake[:len(sctpHandshake):len(sctpHandshake)], script...) {
		if got := w.Track(Ref{r.Slot, x.dir}, x.s, start+Tick(i)); got != x.verdict {
			t.Errorf("%s: %v, want %v", x.name, got, x.verdict)
		}
		w.Confirm(r, start)
		e := w.Entry(r.Slot)
		if e.State() != x.state || e.Timeout().Duration() != x.timeout {
			t.Errorf("%s: %v for %v, want %v for %v", x.name, e.State(), e.Timeout().Duration(), x.state, x.timeout)
		}
	}
	return w
}

func TestSCTPAssociation(t *testing.T) {
	const est, shut = 210 * time.Second, 3 * time.Second
	reflected := sctpSegment(clientTag, 0)
	reflected.SCTP.Add(ChunkAbort, 1)
	tests := []struct {
		name   string
		script []sctpPacketCase
	}{
		{"orderly end by the client", []sctpPacketCase{
			{"data", tuple.Original, sctpSegment(serverTag, 0, chunkData, chunkData), Accept, SCTPEstablished, est},
			{"shutdown", tuple.Original, sctpSegment(serverTag, 0, ChunkShutdown), Accept, SCTPShutdownSent, shut},
			{"shutdown ack", tuple.Reply, sctpSegment(clientTag, 0, ChunkShutdownAck), Accept, SCTPShutdownAckSent, shut},
			{"shutdown complete", tuple.Original, sctpSegment(serverTag, 0, ChunkShutdownComplete), Accept, SCTPClosed, 10 * time.Second},
		}},
		{"shutdown by the server", []sctpPacketCase{
			{"shutdown", tuple.Reply, sctpSegment(clientTag, 0, ChunkShutdown), Accept, SCTPShutdownRecd, shut},
		}},
		{"tags", []sctpPacketCase{
			{"data with a wrong tag", tuple.Original, sctpSegment(7, 0, chunkData), InvalidTag, SCTPEstablished, est},
			{"data with the other side's tag", tuple.Original, sctpSegment(clientTag, 0, chunkData), InvalidTag, SCTPEstablished, est},
			{"INIT with a tag", tuple.Original, sctpSegment(7, 9, ChunkInit), InvalidTag, SCTPEstablished, est},
			{"blind ABORT", tuple.Reply, sctpSegment(7, 0, ChunkAbort), InvalidTag, SCTPEstablished, est},
			{"ABORT that reflects without saying so", tuple.Original, sctpSegment(clientTag, 0, ChunkAbort), InvalidTag, SCTPEstablished, est},
			{"ABORT that reflects the tag", tuple.Original, reflected, Accept, SCTPClosed, 10 * time.Second},
		}},
		{"bundles", []sctpPacketCase{
			{"INIT is alone", tuple.Original, sctpSegment(0, 9, ChunkInit, chunkData), InvalidState, SCTPEstablished, est},
			{"the cookie comes first", tuple.Original, sctpSegment(serverTag, 0, ChunkHeartbeat, ChunkCookieEcho), InvalidState, SCTPEstablished, est},
			{"no chunks", tuple.Original, sctpSegment(serverTag, 0), InvalidState, SCTPEstablished, est},
			{"heartbeat with a wrong tag beside what is no data", tuple.Original, sctpSegment(77, 0, ChunkHeartbeat, 3), Accept, SCTPEstablished, est},
			{"heartbeat with data", tuple.Original, sctpSegment(serverTag, 0, ChunkHeartbeat, chunkData), Accept, SCTPEstablished, est},
		}},
		{"a restart is believed when the other side answers the heartbeat", []sctpPacketCase{
			{"answer that nobody asked for", tuple.Reply, sctpSegment(8, 0, ChunkHeartbeatAck), InvalidTag, SCTPEstablished, est},
			{"heartbeat with a new tag", tuple.Original, sctpSegment(9, 0, ChunkHeartbeat), Accept, SCTPEstablished, est},
			{"its answer", tuple.Reply, sctpSegment(8, 0, ChunkHeartbeatAck), Accept, SCTPEstablished, est},
			{"data to the new tag", tuple.Reply, sctpSegment(8, 0, chunkData), Accept, SCTPEstablished, est},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { runSCTP(t, tt.script...) })
	}
}

func TestSCTPAssociationIsAssured(t *testing.T) {
	w := runSCTP(t)
	w.t.Dump(func(f *Flow) bool {
		if f.Status != Confirmed|SeenReply|Assured || f.State != SCTPEstablished || f.Packets != [2]uint64{2, 2} {
			t.Errorf("%v %v %v packets", f.Status, f.State, f.Packets)
		}
		return true
	})
}

func TestSCTPInitDoesNotRefresh(t *testing.T) {
	w := newWorker(t, Config{Max: 10})
	p := proposal(flowTuple(tuple.SCTP, 1))
	r := mustAdmit(t, w, p, sctpHandshake[0].s, start)
	if v := w.Track(r, sctpHandshake[0].s, w.now+5*second); v != Accept {
		t.Fatal(v)
	}
	w.Begin(w.now + 10*second)
	if w.Find(&p.Original).Found() {
		t.Error("a retransmitted INIT kept the entry")
	}
}

func TestSCTPPathBeginsWithHeartbeat(t *testing.T) {
	w := newWorker(t, Config{Max: 10})
	p := proposal(flowTuple(tuple.SCTP, 1))
	r := mustAdmit(t, w, p, sctpSegment(serverTag, 0, ChunkHeartbeat), start)
	e := w.Entry(r.Slot)
	if e.State() != SCTPHeartbeatSent || e.Timeout() != 30*second {
		t.Errorf("%v for %v", e.State(), e.Timeout().Duration())
	}
	if v := w.Track(Ref{r.Slot, tuple.Reply}, sctpSegment(clientTag, 0, ChunkHeartbeatAck), start); v != Accept || e.State() != SCTPEstablished {
		t.Errorf("%v, %v", v, e.State())
	}
	if v := w.Track(r, sctpSegment(serverTag, 0, chunkData), start); v != Accept {
		t.Errorf("data on the new path: %v", v)
	}
}

func TestWhatMayBeginAnSCTPFlow(t *testing.T) {
	tests := []struct {
		name string
		s    *Segment
		want Verdict
	}{
		{"init", sctpSegment(0, clientTag, ChunkInit), Accept},
		{"shutdown ack out of the blue", sctpSegment(7, 0, ChunkShutdownAck), Accept},
		{"data", sctpSegment(7, 0, chunkData), InvalidState},
		{"cookie with data", sctpSegment(7, 0, ChunkCookieEcho, chunkData), InvalidState},
		{"nothing", sctpSegment(7, 0), InvalidState},
		{"an end out of the blue is discarded", sctpSegment(7, 0, ChunkShutdownComplete), InvalidState},
		{"so is a cookie's answer", sctpSegment(7, 0, ChunkCookieAck), InvalidState},
		{"a heartbeat tells the tag of the cookie before it", sctpSegment(7, 0, ChunkCookieEcho, ChunkHeartbeat), Accept},
		{"a cookie behind something else", sctpSegment(7, 0, ChunkHeartbeat, ChunkCookieEcho), InvalidState},
	}
	w := newWorker(t, Config{Max: 10})
	k := flowTuple(tuple.SCTP, 1)
	for _, tt := range tests {
		if got := w.Admissible(&k, tt.s); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzSCTP(f *testing.F) {
	f.Add([]byte{0, 1, 0x82, 2, 0, 10, 0x81, 11, 0, 7}) // handshake and shutdown
	f.Add([]byte{2, 4, 0x81, 5, 0, 4, 0x80, 5})         // heartbeats
	f.Fuzz(func(t *testing.T, ops []byte) {
		var c sctpConn
		for i := 0; i+1 < len(ops); i += 2 {
			d := tuple.Direction(ops[i] >> 7)
			s := sctpSegment(uint32(ops[i]&3), uint32(ops[i]>>2&3), ops[i+1]&0x0f)
			if ops[i]&0x40 != 0 {
				s.SCTP.Add(ops[i+1]>>4, ops[i]>>5&1)
			}
			next := c
			r := next.advance(d, &s.SCTP, Confirmed)
			if r.verdict != Accept {
				continue
			}
			c = next
			if c.state == None || !c.state.fits(tuple.SCTP) {
				t.Fatalf("accepted in state %v", c.state)
			}
			var e Entry
			var back sctpConn
			packed := c.store(&e)
			e.half[0].tuple.Proto = tuple.SCTP
			if back.load(&e, packed); back != c {
				t.Fatalf("stored %+v, loaded %+v", c, back)
			}
		}
	})
}
