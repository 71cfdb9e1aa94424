package conntrack

import (
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// tcpTable is the state table as netfilter's documentation of its behaviour
// gives it, one column per old state.
const tcpTable = `
                NO SS SR ES FW CW LA TW CL S2
original SYN    SS SS IG IG IG IG IG SS SS S2
original SYNACK IV IV SR IV IV IV IV IV IV SR
original FIN    IV IV FW FW LA LA LA TW CL IV
original ACK    ES IV ES ES CW CW TW TW CL IV
original RST    IV CL CL CL CL CL CL CL CL CL
original none   IV IV IV IV IV IV IV IV IV IV
reply    SYN    IV S2 IV IV IV IV IV SS IV S2
reply    SYNACK IV SR IG IG IG IG IG IG IG SR
reply    FIN    IV IV FW FW LA LA LA TW CL IV
reply    ACK    IV IG SR ES CW CW TW TW CL IG
reply    RST    IV CL CL CL CL CL CL CL CL CL
reply    none   IV IV IV IV IV IV IV IV IV IV`

var stateCodes = map[string]State{
	"NO": None, "SS": SynSent, "SR": SynRecv, "ES": Established, "FW": FinWait,
	"CW": CloseWait, "LA": LastAck, "TW": TimeWait, "CL": Closed, "S2": SynSent2,
}

var classCodes = map[string]tcpClass{
	"SYN": segSYN, "SYNACK": segSYNACK, "FIN": segFIN, "ACK": segACK, "RST": segRST, "none": segNone,
}

func TestTCPCells(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(tcpTable), "\n")
	columns := strings.Fields(lines[0])
	cells := 0
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		d := tuple.Original
		if words[0] == "reply" {
			d = tuple.Reply
		}
		for i, cell := range words[2:] {
			want, isState := stateCodes[cell]
			want = to(want)
			if !isState {
				want = map[string]State{"IV": invalid, "IG": ignore}[cell]
			}
			if got := tcpNext[d][classCodes[words[1]]][stateCodes[columns[i]]]; got != want {
				t.Errorf("%v %s in %s = %d, want %s", d, words[1], columns[i], got, cell)
			}
			cells++
		}
	}
	if want := int(tuple.NumDirections) * int(numClasses) * int(numTCPStates); cells != want {
		t.Errorf("the table has %d cells, the tracker %d", cells, want)
	}
}

func TestTCPClass(t *testing.T) {
	for flags := range 256 {
		f := uint8(flags)
		want := segNone
		switch { // in the order of precedence
		case f&RST != 0:
			want = segRST
		case f&SYN != 0 && f&ACK != 0:
			want = segSYNACK
		case f&SYN != 0:
			want = segSYN
		case f&FIN != 0:
			want = segFIN
		case f&ACK != 0:
			want = segACK
		}
		if got := classify(f); got != want {
			t.Errorf("flags %#x: class %d, want %d", f, got, want)
		}
	}
}

func TestTCPFlags(t *testing.T) {
	tests := []struct {
		name  string
		flags uint8
		want  bool
	}{
		{"null scan", 0, false},
		{"xmas scan", FIN | PSH | URG, false},
		{"fin without ack", FIN, false},
		{"syn and fin", SYN | FIN, false},
		{"syn and rst", SYN | RST, false},
		{"push alone", PSH, false},
		{"ack", ACK, true},
		{"ack with congestion bits", ACK | ECE | CWR | PSH, true},
		{"syn with ecn setup", SYN | ECE | CWR, true},
		{"rst with ack", RST | ACK, true},
		{"fin ack with urgent data", FIN | ACK | URG, true},
	}
	for _, tt := range tests {
		if got := legal(tt.flags); got != tt.want {
			t.Errorf("%s: legal = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// wire is a TCP flow under test that speaks in relative sequence numbers.
type wire struct {
	t   *testing.T
	w   *Worker
	r   Ref
	p   *Proposal
	now Tick
}

const (
	origISN  = uint32(1<<32 - 100) // sequence numbers wrap soon
	replyISN = uint32(7000)
)

// send tracks a segment; seq and ack count from the initial numbers.
func (x *wire) send(d tuple.Direction, flags uint8, seq, ack, payload uint32) Verdict {
	s := Segment{Bytes: 40 + payload, Flags: flags, Seq: origISN + seq, Ack: replyISN + ack, Payload: payload, Window: 1000}
	if d == tuple.Reply {
		s.Seq, s.Ack = replyISN+seq, origISN+ack
	}
	if flags&ACK == 0 {
		s.Ack = 0
	}
	return x.track(d, &s)
}

func (x *wire) track(d tuple.Direction, s *Segment) Verdict {
	if !x.r.Found() {
		r, c := x.w.Claim(x.p, x.now)
		if c != Claimed {
			x.t.Fatalf("claim: %v", c)
		}
		v := x.w.Track(r, s, x.now)
		if v == Accept {
			x.w.Confirm(r, x.now)
			x.r = r
		} else {
			x.w.Abort(r)
		}
		return v
	}
	return x.w.Track(Ref{x.r.Slot, d}, s, x.now)
}

// state returns the flow's state, or GONE.
func (x *wire) state() string {
	if !x.w.Find(&x.p.Original).Found() {
		return "GONE"
	}
	return x.w.Entry(x.r.Slot).State().String()
}

func newWire(t *testing.T, cfg Config) *wire {
	cfg.Max = 10
	return &wire{t: t, w: newWorker(t, cfg), p: proposal(flowTuple(tuple.TCP, 1)), now: start}
}

// established returns a flow after its handshake.
func established(t *testing.T, cfg Config) *wire {
	x := newWire(t, cfg)
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.expect(tuple.Reply, SYN|ACK, 0, 1, 0, Accept, "SYN_RECV")
	x.expect(tuple.Original, ACK, 1, 1, 0, Accept, "ESTABLISHED")
	return x
}

func (x *wire) expect(d tuple.Direction, flags uint8, seq, ack, payload uint32, want Verdict, state string) {
	x.t.Helper()
	if got := x.send(d, flags, seq, ack, payload); got != want || x.state() != state {
		x.t.Errorf("%v flags %#x seq %d ack %d: %v in %s, want %v in %s", d, flags, seq, ack, got, x.state(), want, state)
	}
}

// timeout checks what the flow's idle time is.
func (x *wire) timeout(want time.Duration) {
	x.t.Helper()
	if got := x.w.Entry(x.r.Slot).Timeout().Duration(); got != want {
		x.t.Errorf("timeout %v in %s, want %v", got, x.state(), want)
	}
}

func TestTCPLife(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.timeout(120 * time.Second)
	x.expect(tuple.Reply, SYN|ACK, 0, 1, 0, Accept, "SYN_RECV")
	x.timeout(60 * time.Second)
	if x.w.Entry(x.r.Slot).Status()&Assured != 0 {
		t.Error("assured before the handshake is complete")
	}
	x.expect(tuple.Original, ACK, 1, 1, 0, Accept, "ESTABLISHED")
	x.timeout(5 * 24 * time.Hour)
	if x.w.Entry(x.r.Slot).Status()&Assured == 0 {
		t.Error("not assured after the handshake")
	}
	x.expect(tuple.Original, ACK|PSH, 1, 1, 200, Accept, "ESTABLISHED")
	x.timeout(300 * time.Second) // unacknowledged
	x.expect(tuple.Reply, ACK, 1, 201, 0, Accept, "ESTABLISHED")
	x.timeout(5 * 24 * time.Hour)
	x.expect(tuple.Original, FIN|ACK, 201, 1, 0, Accept, "FIN_WAIT")
	x.timeout(120 * time.Second)
	x.expect(tuple.Reply, ACK, 1, 202, 0, Accept, "CLOSE_WAIT")
	x.timeout(60 * time.Second)
	x.expect(tuple.Reply, FIN|ACK, 1, 202, 0, Accept, "LAST_ACK")
	x.timeout(30 * time.Second)
	x.expect(tuple.Original, ACK, 202, 2, 0, Accept, "TIME_WAIT")
	x.timeout(120 * time.Second)
	e := x.w.Entry(x.r.Slot)
	if e.Packets(0) != 5 || e.Packets(1) != 4 || e.Bytes(0) != 400 || e.Bytes(1) != 160 {
		t.Errorf("packets %d/%d bytes %d/%d, want 5/4 400/160", e.Packets(0), e.Packets(1), e.Bytes(0), e.Bytes(1))
	}
	x.expect(tuple.Original, SYN, 900, 0, 0, Restart, "GONE")
}

func TestTCPTimeoutsOfTheRFCProfile(t *testing.T) {
	x := established(t, Config{Profile: RFC})
	x.timeout(2*time.Hour + 4*time.Minute)
	x.expect(tuple.Original, RST, 1, 0, 0, Accept, "CLOSE")
	x.timeout(4 * time.Minute)
}

func TestTCPSimultaneousOpen(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.expect(tuple.Reply, SYN, 0, 0, 0, Accept, "SYN_SENT2")
	x.expect(tuple.Original, SYN|ACK, 0, 1, 0, Accept, "SYN_RECV")
	x.expect(tuple.Original, ACK, 1, 1, 10, Accept, "ESTABLISHED")
}

func TestSYNRetransmitDoesNotRefresh(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.now += 119 * second
	x.w.Begin(x.now)
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	if got := x.w.Entry(x.r.Slot).Packets(tuple.Original); got != 2 {
		t.Errorf("%d packets counted, want 2", got)
	}
	x.w.Begin(x.now + second)
	if x.state() != "GONE" {
		t.Error("a retransmitted SYN kept the flow alive")
	}
}

func TestRSTEndsAnUnansweredFlow(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.expect(tuple.Reply, RST|ACK, 0, 1, 0, Accept, "GONE")
}

func TestRST(t *testing.T) {
	tests := []struct {
		name  string
		cfg   Config
		seq   uint32 // of a RST from the reply side that the original side expects at 101
		want  Verdict
		state string
	}{
		{"exact ends the flow", Config{}, 101, Accept, "CLOSE"},
		{"behind is invalid", Config{}, 50, InvalidRST, "ESTABLISHED"},
		{"behind passes the window check if wanted", Config{IgnoreInvalidRST: true}, 50, Accept, "ESTABLISHED"},
		{"inside the window waits for the challenge ack", Config{}, 300, Accept, "ESTABLISHED"},
		{"beyond the window is invalid", Config{}, 90000, InvalidSeq, "ESTABLISHED"},
		{"beyond the window passes in liberal mode", Config{Window: Liberal}, 90000, Accept, "ESTABLISHED"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := established(t, tt.cfg)
			x.expect(tuple.Reply, ACK, 1, 1, 100, Accept, "ESTABLISHED")
			x.expect(tuple.Original, ACK, 1, 101, 0, Accept, "ESTABLISHED")
			x.expect(tuple.Reply, RST, tt.seq, 0, 0, tt.want, tt.state)
		})
	}
}

func TestPickup(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, ACK, 500, 600, 10, Accept, "ESTABLISHED")
	x.timeout(300 * time.Second)
	x.expect(tuple.Reply, ACK, 600, 510, 5000, Accept, "ESTABLISHED") // no window is known
	x.expect(tuple.Original, ACK, 510, 5600, 0, Accept, "ESTABLISHED")
	x.timeout(5 * 24 * time.Hour)

	strict := newWire(t, Config{Pickup: Strict})
	if got := strict.send(tuple.Original, ACK, 500, 600, 10); got != InvalidPickup {
		t.Errorf("bare ACK: %v, want %v", got, InvalidPickup)
	}
}

func TestAdmissible(t *testing.T) {
	icmp := func(proto, typ uint8) tuple.Tuple {
		k := flowTuple(proto, 1)
		k.DstPort = uint16(typ) << 8
		return k
	}
	empty6 := flowTuple(59, 1)
	empty6.Family = tuple.IPv6
	tests := []struct {
		name string
		k    tuple.Tuple
		f    uint8
		want Verdict
	}{
		{"syn", flowTuple(tuple.TCP, 1), SYN, Accept},
		{"bare ack is picked up", flowTuple(tuple.TCP, 1), ACK, Accept},
		{"syn ack answers nothing", flowTuple(tuple.TCP, 1), SYN | ACK, InvalidState},
		{"rst ends nothing", flowTuple(tuple.TCP, 1), RST, InvalidState},
		{"fin ends nothing", flowTuple(tuple.TCP, 1), FIN | ACK, InvalidState},
		{"null scan", flowTuple(tuple.TCP, 1), 0, InvalidFlags},
		{"udp", flowTuple(tuple.UDP, 1), 0, Accept},
		{"esp", flowTuple(50, 1), 0, Accept},
		{"authentication header", flowTuple(51, 1), 0, Accept},
		{"any protocol", flowTuple(253, 1), 0, Accept},
		{"protocol 59 of IPv4", flowTuple(59, 1), 0, Accept},
		{"an IPv6 packet without content", empty6, 0, InvalidType},
		{"echo request", icmp(tuple.ICMP, 8), 0, Accept},
		{"echo reply", icmp(tuple.ICMP, 0), 0, InvalidType},
		{"timestamp request", icmp(tuple.ICMP, 13), 0, Accept},
		{"unreachable", icmp(tuple.ICMP, 3), 0, InvalidType},
		{"icmpv6 echo request", icmp(tuple.ICMPv6, 128), 0, Accept},
		{"icmpv6 echo reply", icmp(tuple.ICMPv6, 129), 0, InvalidType},
	}
	w := newWorker(t, Config{Max: 10})
	for _, tt := range tests {
		if got := w.Admissible(&tt.k, &Segment{Flags: tt.f}); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A host restarts and opens the same connection again while the old one is
// still there; the entry must not be in the way.
func TestPeersOutOfSync(t *testing.T) {
	t.Run("the rst that answers the challenge ack ends the entry", func(t *testing.T) {
		x := established(t, Config{})
		x.expect(tuple.Original, SYN, 50000, 0, 0, Ignore, "ESTABLISHED")
		x.expect(tuple.Reply, ACK, 1, 1, 0, Accept, "ESTABLISHED") // challenge ACK (RFC 5961 4)
		x.expect(tuple.Original, RST, 1, 0, 0, Accept, "CLOSE")
		x.expect(tuple.Original, SYN, 50000, 0, 0, Restart, "GONE")
	})
	t.Run("a syn ack to an ignored syn moves the entry to the new connection", func(t *testing.T) {
		x := established(t, Config{})
		x.expect(tuple.Original, SYN, 50000, 0, 0, Ignore, "ESTABLISHED")
		x.expect(tuple.Reply, SYN|ACK, 90000, 50001, 0, Accept, "SYN_RECV")
		x.expect(tuple.Original, ACK, 50001, 90001, 0, Accept, "ESTABLISHED")
	})
	t.Run("the rst of a refused ignored syn ends the entry", func(t *testing.T) {
		x := established(t, Config{})
		x.expect(tuple.Original, SYN, 50000, 0, 0, Ignore, "ESTABLISHED")
		x.expect(tuple.Reply, RST|ACK, 0, 50001, 0, Accept, "CLOSE")
	})
}

func TestWindow(t *testing.T) {
	tests := []struct {
		name              string
		d                 tuple.Direction
		seq, ack, payload uint32
		want              Verdict
	}{
		{"data in the window", tuple.Original, 1, 1, 1000, Accept},
		{"a keep-alive one byte behind", tuple.Original, 0, 1, 0, Accept},
		{"data far beyond the window", tuple.Original, 80001, 1, 10, InvalidSeq},
		{"data just beyond the window is only ignored", tuple.Original, 1002, 1, 1, Ignore},
		{"acknowledges what was never sent", tuple.Original, 1, 500, 0, InvalidAck},
		{"very old data", tuple.Original, 1<<32 - 5000, 1, 10, Ignore},
		{"a reply in its window", tuple.Reply, 1, 1, 1000, Accept},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := established(t, Config{})
			x.expect(tt.d, ACK, tt.seq, tt.ack, tt.payload, tt.want, "ESTABLISHED")
		})
	}
}

func TestWindowScaleNeedsBothSides(t *testing.T) {
	for _, both := range []struct {
		name  string
		reply uint8
		want  Verdict
	}{{"offered by both", OptWindowScale, Accept}, {"offered by one", 0, InvalidSeq}} {
		t.Run(both.name, func(t *testing.T) {
			x := newWire(t, Config{})
			x.track(tuple.Original, &Segment{Flags: SYN, Seq: 100, Window: 1000, Options: OptWindowScale, WindowScale: 7})
			x.track(tuple.Reply, &Segment{Flags: SYN | ACK, Seq: 200, Ack: 101, Window: 1000, Options: both.reply, WindowScale: 7})
			x.track(tuple.Original, &Segment{Flags: ACK, Seq: 101, Ack: 201, Window: 1000})
			if got := x.track(tuple.Reply, &Segment{Flags: ACK, Seq: 201 + 100_000, Ack: 101, Window: 1000, Payload: 1000}); got != both.want {
				t.Errorf("a segment 100 kB ahead: %v, want %v", got, both.want)
			}
		})
	}
}

func TestThreeRetransmissionsShortenTheTimeout(t *testing.T) {
	x := established(t, Config{Timeouts: Timeouts{TCPRetrans: 100 * time.Second}})
	for range 5 {
		x.expect(tuple.Original, ACK, 1, 1, 100, Accept, "ESTABLISHED")
	}
	x.timeout(100 * time.Second)
}
