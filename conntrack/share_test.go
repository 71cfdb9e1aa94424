package conntrack

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// clientFlow is the i-th flow of a client.
func clientFlow(client byte, i int) *Proposal {
	k := flowTuple(tuple.UDP, i)
	k.Src = tuple.AddrFrom4([4]byte{10, 0, client, 1})
	k.DstPort = uint16(1 + i>>16)
	return proposal(k)
}

// try admits a flow if there is room and says what the claim came to.
func try(w *Worker, p *Proposal) Claim {
	r, c := w.Claim(p, w.now)
	if c == Claimed {
		w.Track(r, data, w.now)
		w.Confirm(r, w.now)
	}
	return c
}

// flood admits flows of a client, n of them, as time goes by, and returns how
// often each outcome occurred.
func flood(w *Worker, client byte, n int) (outcomes [numClaims]int) {
	for i := range n {
		if i%20 == 0 {
			w.Begin(w.now + 1)
		}
		outcomes[try(w, clientFlow(client, i))]++
	}
	return outcomes
}

// connect is flood with flows that are answered at once, and for good.
func connect(w *Worker, client byte, n int) (outcomes [numClaims]int) {
	for i := range n {
		if i%20 == 0 {
			w.Begin(w.now + 1)
		}
		p := clientFlow(client, i)
		outcomes[try(w, p)]++
		if r := w.Find(&p.Original); r.Found() {
			w.answer(r.Slot, SeenReply|Assured)
		}
	}
	return outcomes
}

// has counts the flows of a client.
func has(w *Worker, client byte) (n int) {
	w.t.Dump(func(f *Flow) bool {
		if f.Tuple[0].Src == tuple.AddrFrom4([4]byte{10, 0, client, 1}) {
			n++
		}
		return true
	})
	return n
}

func TestFloodOfOneClientTakesNothingFromOthers(t *testing.T) {
	w := newWorker(t, Config{Max: 1000})
	flood(w, 1, 30)
	flood(w, 2, 5000)
	if n := has(w, 1); n != 30 {
		t.Errorf("%d of 30 flows survive another client's flood", n)
	}
	if got := flood(w, 1, 60); got[Claimed] != 30 || got[OriginalTaken] != 30 {
		t.Errorf("in the full table: %d new flows of 30", got[Claimed])
	}
	if n := has(w, 1); n != 60 {
		t.Errorf("%d flows, want 60", n)
	}
	if s := w.t.Stats(); w.t.Len() != 1000 || s.EarlyDrop == 0 {
		t.Errorf("%d flows, %d dropped early", w.t.Len(), s.EarlyDrop)
	}
}

func TestClientsAboveTheirShareAreRefusedBeforeAnythingOfOthersEnds(t *testing.T) {
	w := newWorker(t, Config{Max: 100, Shares: Shares{Floor: 1}})
	assured := func(client byte, n int) {
		for i := range n {
			r := mustAdmit(t, w, clientFlow(client, i), data, w.now)
			w.assure(r.Slot)
		}
	}
	assured(1, 90)
	flood(w, 2, 10)
	w.Begin(w.now + 1)
	if c := try(w, clientFlow(1, 500)); c != ClientFull {
		t.Errorf("the largest holder wants more: %v, want %v", c, ClientFull)
	}
	if n := has(w, 2); n != 10 {
		t.Errorf("%d of 10 flows left", n)
	}
	if s := w.t.Stats(); s.ClientFull != 1 || s.TableFull != 0 || s.Drop != 1 {
		t.Errorf("counted %+v", s)
	}
}

func TestRFCLeavesRoomForSmallClients(t *testing.T) {
	w := newWorker(t, Config{Max: 1000, Profile: RFC})
	flood(w, 1, 5)
	got := flood(w, 2, 2000)
	if got[Claimed] < 880 || got[Claimed] > 930 || got[ClientFull] != 2000-got[Claimed] {
		t.Errorf("the largest holder got %d flows and was refused %d times", got[Claimed], got[ClientFull])
	}
	if got := connect(w, 3, 50); got[Claimed] != 50 {
		t.Errorf("a newcomer got %d of 50 connections", got[Claimed])
	}
	if s := w.t.Stats(); s.EarlyDrop != 0 || has(w, 1) != 5 {
		t.Error("a live flow was ended")
	}
}

// TestAClientThatIsAloneLeavesRoom fills a table from one client before there is
// another: early drop makes room for that one in profile linux, the last tenth is
// his in profile rfc.
func TestAClientThatIsAloneLeavesRoom(t *testing.T) {
	shares := Shares{HalfOpen: 10000, Rate: 10000}
	w := newWorker(t, Config{Max: 1000, Profile: RFC, Shares: shares})
	if got := flood(w, 1, 1001); got[Claimed] != 900 || got[ClientFull] != 101 {
		t.Errorf("rfc, alone: %d flows, %d refused for the client's share", got[Claimed], got[ClientFull])
	}
	if got := connect(w, 2, 100); got[Claimed] < 90 { // his share is computed while he comes
		t.Errorf("rfc: the other one gets %d connections, want nearly 100", got[Claimed])
	}
	w = newWorker(t, Config{Max: 1000, Shares: shares})
	if got := flood(w, 1, 1000); got[Claimed] != 1000 {
		t.Errorf("linux, alone: %d flows, want the whole table", got[Claimed])
	}
	if got := flood(w, 2, 100); got[Claimed] != 100 {
		t.Errorf("linux: the other one gets %d flows, want 100", got[Claimed])
	}
}

func TestHalfOpenFlowsAndRatesAreShared(t *testing.T) {
	// Client 1 has many flows that are assured; client 2 has fewer, but
	// half-open ones, which were answered once, and made them all at once.
	setUp := func(s Shares) *Worker {
		w := newWorker(t, Config{Max: 100, Profile: RFC, Shares: s})
		w.Begin(w.now + 3*secondTicks)
		for i := range 47 {
			w.assure(mustAdmit(t, w, clientFlow(1, i), data, w.now).Slot)
		}
		w.Begin(w.now + 3*secondTicks)
		for i := range 43 {
			w.answer(mustAdmit(t, w, clientFlow(2, i), data, w.now).Slot, SeenReply)
		}
		w.Begin(w.now + 1)
		return w
	}
	tests := []struct {
		name string
		s    Shares
		one  Claim
		two  Claim
	}{
		{"flows fit, nothing else is bounded", Shares{Floor: 1, HalfOpen: 1000, Rate: 1000}, Claimed, Claimed},
		{"half-open flows", Shares{Floor: 1, HalfOpen: 20, Rate: 1000}, Claimed, ClientFull},
		{"rate", Shares{Floor: 1, HalfOpen: 1000, Rate: 20}, Claimed, ClientFull},
		{"not below the floor", Shares{Floor: 50, HalfOpen: 20, Rate: 20}, Claimed, Claimed},
	}
	for _, tt := range tests {
		w := setUp(tt.s)
		if one := try(w, clientFlow(1, 900)); one != tt.one {
			t.Errorf("%s: the client with assured flows: %v, want %v", tt.name, one, tt.one)
		}
		if two := try(w, clientFlow(2, 900)); two != tt.two {
			t.Errorf("%s: the one with new ones: %v, want %v", tt.name, two, tt.two)
		}
	}
}

func TestAlarmsNameTheLargestHolders(t *testing.T) {
	w := newWorker(t, Config{Max: 1000})
	flood(w, 7, 100)
	flood(w, 8, 690)
	next := func() (a Alarm, ok bool) {
		w.Begin(w.now + 1)
		select {
		case a := <-w.t.Alarms():
			return a, true
		default:
			return Alarm{}, false
		}
	}
	if a, ok := next(); ok {
		t.Errorf("alarm %+v below 80 %%", a)
	}
	for i, want := range []int{80, 90, 95} {
		flood(w, byte(20+i), want*10-w.t.Len())
		a, ok := next()
		if !ok || a.Percent != want || a.Max != 1000 || a.Flows != want*10 {
			t.Fatalf("at %d %%: alarm %+v %v", want, a, ok)
		}
		first := Holder{netip.MustParseAddr("10.0.8.1"), 0, 690, 690}
		second := Holder{netip.MustParseAddr("10.0.7.1"), 0, 100, 100}
		if len(a.Holders) < 2 || a.Holders[0] != first || a.Holders[1] != second {
			t.Errorf("holders %v", a.Holders)
		}
		if a, ok := next(); ok {
			t.Errorf("told twice: %+v", a)
		}
	}
	if h := w.t.Holders(1); len(h) != 1 || h[0].Flows != 690 {
		t.Errorf("largest holder %v", h)
	}
	w.t.Flush()
	next()
	flood(w, 9, 801)
	if a, ok := next(); !ok || a.Percent != 80 {
		t.Errorf("after the table had drained: %+v %v", a, ok)
	}
	for range len(w.t.shares.alarms) {
		t.Error("an alarm waits that nobody should have told")
	}
}

func TestAClientIsAnIPv6Subnet(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	for _, src := range []string{"2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1"} {
		k := flowTuple(tuple.UDP, 1)
		k.Src, k.Dst, k.Family = tuple.AddrFrom(netip.MustParseAddr(src)), tuple.AddrFrom(netip.MustParseAddr("2001:db8:5::5")), tuple.IPv6
		if c := try(w, proposal(k)); c != Claimed {
			t.Fatal(c)
		}
	}
	got := w.t.Holders(10)
	if len(got) != 2 || got[0].Flows != 2 || got[0].Addr != netip.MustParseAddr("2001:db8::") {
		t.Errorf("holders %v", got)
	}
}

func TestMoreClientsThanRecords(t *testing.T) {
	w := newWorker(t, Config{Max: 4000})
	for i := range 4000 {
		k := flowTuple(tuple.UDP, 1)
		k.Src = tuple.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		if c := try(w, proposal(k)); c != Claimed {
			t.Fatal(c)
		}
	}
	w.t.Flush()
	if h := w.t.Holders(10); len(h) != 0 {
		t.Errorf("holders of an empty table: %v", h)
	}
}

// fairShare is the definition: whoever wants less than an equal part of what is
// left gets it.
func fairShare(wants []uint32, capacity uint64) float64 {
	slices.Sort(wants)
	rest := float64(capacity)
	for i, n := range wants {
		if equal := rest / float64(len(wants)-i); float64(n) > equal {
			return equal
		}
		rest -= float64(n)
	}
	return unlimited
}

func TestShareIsMaxMinFair(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var l levels
		wants := make([]uint32, 1+rng.IntN(50))
		total := uint64(0)
		for i := range wants {
			wants[i] = rng.Uint32N(1 << rng.IntN(20))
			l.add(wants[i])
			total += uint64(wants[i])
		}
		capacity := total * uint64(1+rng.IntN(12)) / 10
		want, got := fairShare(wants, capacity), float64(l.share(int(capacity)))
		if got > want*1.25+1 || got < want*0.75-1 {
			t.Fatalf("share of %d among %v: %v, want about %v", capacity, wants, got, want)
		}
	}
}

func TestPressureAllocatesNothing(t *testing.T) {
	w := newWorker(t, Config{Max: 500})
	flood(w, 1, 20)
	flood(w, 2, 1000)
	i := 1000
	p := clientFlow(2, i)
	n := testing.AllocsPerRun(200, func() {
		i++
		w.Begin(w.now + 1)
		p.Original.SrcPort, p.Reply.DstPort = uint16(i), uint16(i)
		if c := try(w, p); c != Claimed {
			t.Error(c)
		}
	})
	if n != 0 {
		t.Errorf("a claim in a full table allocates %v times", n)
	}
}

// TestHandshakeSurvivesAFloodOfManyClients: a table is full of what many clients have
// begun, each of them few flows. What another one, who has more than each of them, and
// such as nobody has heard of have begun just now stays while the flood goes on for as long
// as an answer takes; also when they are more than are counted one by one.
func TestHandshakeSurvivesAFloodOfManyClients(t *testing.T) {
	for _, sources := range []int{50, 200, 1 << 16} {
		w := newWorker(t, Config{Max: 4000})
		n := 0
		begin := func(count int) {
			for range count {
				k := flowTuple(tuple.UDP, n)
				k.Src = tuple.AddrFrom4([4]byte{10, 9, byte(n % sources >> 8), byte(n % sources)})
				k.DstPort = uint16(n >> 8)
				if n++; n%40 == 0 {
					w.Begin(w.now + 1)
				}
				try(w, proposal(k))
			}
		}
		for i := range 20 {
			w.assure(mustAdmit(t, w, clientFlow(1, i), data, w.now).Slot)
		}
		begin(20_000)
		for i := range 40 {
			if c := try(w, clientFlow(1, 1000+i)); c != Claimed {
				t.Errorf("%d sources: new flow %d of another client: %v", sources, i, c)
			}
			newcomer := byte(100 + i)
			if c := try(w, clientFlow(newcomer, 0)); c != Claimed {
				t.Errorf("%d sources: first flow of client %d: %v", sources, i, c)
			}
			begin(200)
			if got := has(w, newcomer); got != 1 {
				t.Errorf("%d sources: client %d has %d flows, want the one it has begun", sources, i, got)
			}
			if got := has(w, 1); got != 21+i {
				t.Fatalf("%d sources: the other client has %d flows, want %d", sources, got, 21+i)
			}
			k := clientFlow(1, 1000+i).Original
			if r := w.Find(&k); r.Found() {
				w.assure(r.Slot) // it was answered
			}
		}
	}
}

// TestRFCSparesTheLastOfATableForThoseWhoAreAnswered: many clients, each with fewer flows than
// all may have, begin what nobody answers for as long as they can, in a profile that ends
// nothing. A client with more flows than each of them, all answered, can begin others; one
// that nobody has heard of can, too, unless the flood has more sources than can be told apart.
func TestRFCSparesTheLastOfATableForThoseWhoAreAnswered(t *testing.T) {
	for _, tt := range []struct {
		sources   int
		newcomers Claim
	}{{50, Claimed}, {200, Claimed}, {400, Claimed}, {1 << 16, ClientFull}} {
		w := newWorker(t, Config{Max: 4000, Profile: RFC})
		const known, new = 1, 100
		if got := connect(w, known, 40); got[Claimed] != 40 {
			t.Fatalf("%d connections before the flood, want 40", got[Claimed])
		}
		refused := 0
		for n := range 40_000 {
			k := flowTuple(tuple.UDP, n)
			k.Src = tuple.AddrFrom4([4]byte{10, 9, byte(n % tt.sources >> 8), byte(n % tt.sources)})
			k.DstPort = uint16(n >> 8)
			if n%40 == 0 {
				w.Begin(w.now + 1)
			}
			if try(w, proposal(k)) != Claimed {
				refused++
			}
		}
		if left := w.t.cfg.Max - w.t.Len(); refused == 0 || left < 40 {
			t.Errorf("%d sources: room for %d flows is left, want for more; %d were refused", tt.sources, left, refused)
		}
		if c := try(w, clientFlow(new, 0)); c != tt.newcomers {
			t.Errorf("%d sources: a client that nobody knows: %v, want %v", tt.sources, c, tt.newcomers)
		}
		for i := range answeredMay {
			if c := try(w, clientFlow(known, 1000+i)); c != Claimed {
				t.Errorf("%d sources: flow %d at a time of a client that is answered: %v", tt.sources, i, c)
			}
		}
		if n := has(w, known); n != 40+answeredMay || w.t.Stats().EarlyDrop != 0 {
			t.Errorf("%d sources: a live flow was ended, %d of the client are left", tt.sources, n)
		}
	}
}

// TestTheLastPlacesAreForClientsThatAreAnswered: nearly all of a table of profile rfc is in
// use, and every client that comes has one flow.
func TestTheLastPlacesAreForClientsThatAreAnswered(t *testing.T) {
	const places = 1000
	w := newWorker(t, Config{Max: places, Profile: RFC})
	connect(w, 1, 4)
	for i := range 2 * places {
		k := flowTuple(tuple.UDP, i)
		k.Src = tuple.AddrFrom4([4]byte{10, 9, byte(i % 40), 1}) // few enough to be told apart
		try(w, proposal(k))
	}
	for i := 0; w.t.Len() < places*989/1000; i++ { // what they leave others take
		if c := try(w, clientFlow(byte(10+i%10), i)); c != Claimed {
			t.Fatalf("connection %d of others: %v", i, c)
		}
		w.answer(w.Find(&clientFlow(byte(10+i%10), i).Original).Slot, SeenReply|Assured)
	}
	for i := range 20 {
		if c := try(w, clientFlow(byte(200+i), 1)); c != TableFull {
			t.Fatalf("a newcomer with %d of %d places in use: %v, want %v", w.t.Len(), places, c, TableFull)
		}
	}
	for i := range 2 * answeredMay {
		want := Claimed
		if i >= answeredMay {
			want = ClientFull
		}
		if c := try(w, clientFlow(1, 1000+i)); c != want {
			t.Errorf("flow %d at a time of a client that is answered: %v, want %v", i, c, want)
		}
	}
	if w.t.Stats().EarlyDrop != 0 {
		t.Error("a live flow was ended")
	}
}

// TestWhatWaitsForAnAnswerIsCounted follows one flow of each kind.
func TestWhatWaitsForAnAnswerIsCounted(t *testing.T) {
	w := newWorker(t, Config{Max: 100})
	k := flowTuple(tuple.UDP, 1)
	r := mustAdmit(t, w, proposal(k), data, start)
	waits := func() uint32 { return w.t.clients.recs[w.t.owner[r.Slot]].waits() }
	want := func(what string, n uint32) {
		t.Helper()
		if got := waits(); got != n {
			t.Errorf("%s: %d wait, want %d", what, got, n)
		}
	}
	want("a datagram", 1)
	w.Track(Ref{Slot: r.Slot, Dir: tuple.Reply}, data, start)
	want("its answer", 0)
	w.Kill(r)
	r = mustAdmit(t, w, proposal(flowTuple(tuple.TCP, 2)), syn, start)
	want("a SYN", 1)
	w.Track(Ref{Slot: r.Slot, Dir: tuple.Reply}, &Segment{Flags: SYN | ACK, Seq: 5000, Ack: syn.Seq + 1, Window: 1000}, start)
	want("its answer, which anybody gets", 1)
	w.answer(r.Slot, Assured)
	want("a connection", 0)
	w.Kill(r)
	want("its end", 0)
}
