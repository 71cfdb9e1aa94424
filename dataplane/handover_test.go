package dataplane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
)

// heir takes the flows of a lab over in rounds, as another process does.
type heir struct {
	*lab
	from *HandOver
	to   *TakeOver
}

func newHeir(l *lab) *heir {
	l.Helper()
	cfg := l.cfg
	key := l.table.Key()
	more := cfg.table
	cfg.table = func(c *conntrack.Config) {
		if more != nil {
			more(c)
		}
		c.Key = key
	}
	h := &heir{lab: newLab(l.TB, cfg), from: l.e.HandOver()}
	h.trace = nil // it counts from the beginning
	h.now = l.now
	policies, helpers := h.from.Names()
	var err error
	if h.to, err = h.e.TakeOver(policies, helpers); err != nil {
		l.Fatal(err)
	}
	return h
}

// round hands over what has changed.
func (h *heir) round(l *lab) {
	h.Helper()
	h.now = l.now
	policies, helpers := h.from.Names()
	if err := h.to.Begin(policies, helpers); err != nil {
		h.Fatal(err)
	}
	h.to.Restart()
	var flows []conntrack.Saved
	var kept []ports.Saved
	h.from.Round(h.to.End, func(s *conntrack.Saved) { flows = append(flows, *s) }, func(x *ports.Saved) { kept = append(kept, *x) })
	for i := range flows {
		h.to.Vacate(&flows[i])
	}
	for i := range flows {
		if !h.to.Flow(&flows[i]) {
			h.from.Again(flows[i].Slot())
		}
	}
	for i := range kept {
		h.to.Kept(&kept[i])
	}
}

// inherit is the last round.
func (h *heir) inherit(l *lab) Restored {
	h.Helper()
	h.round(l)
	expects := h.from.Expects()
	for i := range expects {
		h.to.Expect(&expects[i])
	}
	text, err := json.Marshal(h.from.Help())
	if err != nil {
		h.Fatal(err)
	}
	var help []SavedHelp
	if err := json.Unmarshal(text, &help); err != nil {
		h.Fatal(err)
	}
	for i := range help {
		h.to.Help(&help[i])
	}
	return h.to.Finish(l.e.Legacy())
}

// all returns the flows of a lab by their ids, without the hints of its engine.
func (l *lab) all() map[uint32]conntrack.Flow {
	flows := make(map[uint32]conntrack.Flow)
	l.table.Dump(func(f *conntrack.Flow) bool {
		one := *f
		one.Hint = [2]uint32{}
		flows[f.ID] = one
		return true
	})
	return flows
}

// wantSame compares the flows of two labs, ids included.
func (h *heir) wantSame(l *lab) {
	h.Helper()
	was, is := l.all(), h.all()
	for id, f := range was {
		if is[id] != f {
			h.Errorf("flow %08x is\n%+v, was\n%+v", id, is[id], f)
		}
	}
	if len(is) != len(was) {
		h.Errorf("%d flows, want %d", len(is), len(was))
	}
}

// Whatever happens between the rounds and while each is under way, the heir has in the end
// what there is, and nothing else: packets, ends, ports and slots that are used again.
func TestHeirHasWhatThereIsAfterTheLastRound(t *testing.T) {
	rules := map[string]labConfig{
		"mapping linux": {},
		"endpoint-independent mapping, few ports": {rules: translate(nat.EndpointIndependent, nat.AddressDependent, func(s *nat.Source) {
			s.Ports = nat.PortRange{First: 5000, Last: 5099}
			s.HoldDown = time.Second
		})},
	}
	for name, cfg := range rules {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				l := newLab(t, cfg)
				talk := func(packets int) {
					for range packets {
						say := talkers["udp"]
						if rnd.IntN(2) == 0 {
							say = talkers["tcp"]
						}
						from, to := fmt.Sprintf("10.0.0.%d:%d", 5+rnd.IntN(3), 4000+rnd.IntN(40)), fmt.Sprintf("198.51.100.%d:53", 7+rnd.IntN(3))
						switch at := l.external(say, from, to); {
						case at == "" || rnd.IntN(3) > 0:
						case rnd.IntN(2) == 0:
							l.send("wan", udp(to, at))
						default:
							l.table.DeleteIf(func(*conntrack.Flow) bool { return rnd.IntN(20) == 0 })
						}
						if rnd.IntN(20) == 0 {
							l.advance(time.Duration(rnd.IntN(5)) * time.Second)
						}
					}
					l.ports["lan"].TakeFrames()
					l.ports["wan"].TakeFrames()
				}
				talk(100)
				h := newHeir(l)
				for range 3 {
					h.round(l)
					talk(60)
				}
				did := h.inherit(l)
				h.wantSame(l)
				if did.Flows != l.table.Len() || did.Taken+did.Full+did.Torn+did.Expired != 0 {
					t.Errorf("seed %d: handed over %+v of %d flows", seed, did, l.table.Len())
				}
				if was, is := l.e.Stats(), h.e.Stats(); is.Received != was.Received || is.Dropped != was.Dropped || is.Forwarded != was.Forwarded {
					t.Errorf("seed %d: the counters are %+v, were %+v", seed, is, was)
				}
				if was, is := l.table.Stats(), h.table.Stats(); is != was {
					t.Errorf("seed %d: the counters of the table are %+v, were %+v", seed, is, was)
				}
				if at := h.external(talkers["udp"], "10.0.0.9:9", "198.51.100.7:53"); cfg.rules == nil && at != "203.0.113.1:9" {
					t.Errorf("seed %d: a new flow leaves from %q", seed, at)
				}
				h.ports["lan"].TakeFrames()
				h.ports["wan"].TakeFrames()
				if t.Failed() {
					return
				}
			}
		})
	}
}

// What a round could not take, because the flow that had its tuple before ended in the
// middle of the round, comes with the next one.
func TestFlowThatDidNotFitIsSentAgain(t *testing.T) {
	l := newLab(t, labConfig{})
	say := talkers["udp"]
	l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	l.external(say, "10.0.0.6:4001", "198.51.100.7:53")
	h := newHeir(l)
	h.round(l)
	var torn []conntrack.Saved
	l.table.Save(func(s *conntrack.Saved) bool { torn = append(torn, *s); return true })
	l.table.Flush()
	l.advance(time.Second) // the slots are free
	for range 3 {
		l.external(say, "10.0.0.7:1", "198.51.100.9:53") // and are used again
		l.external(say, "10.0.0.6:4001", "198.51.100.7:53")
		l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	}
	h.round(l)
	for i := range torn {
		h.to.Vacate(&torn[i])
	}
	for i := range torn { // as if the round had seen them still
		h.to.Flow(&torn[i])
		h.from.Again(torn[i].Slot())
	}
	h.inherit(l)
	h.wantSame(l)
}

func TestHeirAwaitsWhatWasAnnounced(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	if got, want := l.say("&10.0.0.5:6000\n"), "203.0.113.1:6000\n"; got != want {
		t.Fatalf("the server was told %q, want %q", got, want)
	}
	h := newHeir(l)
	h.round(l)
	l.send("wan", udp("198.51.100.7:9000", "203.0.113.1:6000"))
	l.want("lan", "udp 198.51.100.7:9000 > 10.0.0.5:6000 ttl 63 len 0")
	if did := h.inherit(l); did != (Restored{Flows: 2, Expectations: 1}) {
		t.Fatalf("handed over %+v, want the flow, the one that it announced, and the one that it awaits", did)
	}
	h.wantSame(l)
	h.send("wan", udp("198.51.100.7:9000", "203.0.113.1:6001"))
	h.want("lan", "udp 198.51.100.7:9000 > 10.0.0.5:6001 ttl 63 len 0")
}

func TestHeirKeepsPortsForTheirClients(t *testing.T) {
	say := talkers["udp"]
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.AddressDependent, func(s *nat.Source) {
		s.HoldDown = 120 * time.Second
		s.Ports = nat.PortRange{First: 5000, Last: 5000}
	})})
	l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	h := newHeir(l)
	h.round(l)
	l.advance(10 * time.Second)
	l.table.Flush() // between two rounds
	l.advance(100 * time.Second)
	h.inherit(l)
	h.advance(16 * time.Second)
	if got := h.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "" {
		t.Errorf("another client has the port after 116 s: %s", got)
	}
	h.advance(6 * time.Second)
	if got := h.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "203.0.113.1:5000" {
		t.Errorf("nobody has the port after 122 s: %q", got)
	}
	h.ports["lan"].TakeFrames()
	h.ports["wan"].TakeFrames()
}

// Neighbours need not be asked for again, and a packet that waited for one is counted.
func TestHeirKnowsTheNeighboursAndWhatWasLost(t *testing.T) {
	l := newLab(t, labConfig{cold: true})
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
	l.resolve(wanID, "203.0.113.254")
	l.step()
	l.want("wan", "udp 203.0.113.1:4000 > 198.51.100.7:53 ttl 63 len 0")
	l.send("lan", udp("10.0.0.5:4000", "203.0.113.7:53")) // waits
	h := newHeir(l)
	h.cfg.cold = true
	h.inherit(l)
	h.wantDrops(HandedOver)
	h.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
	h.want("wan", "udp 203.0.113.1:4000 > 198.51.100.7:53 ttl 63 len 0")
	l.advance(10 * time.Second) // it had not given up
	l.ports["lan"].TakeFrames()
}

// A connection is read on where the other engine stopped: in the middle of a command, half
// of which is held back, with its windows and with numbers that a helper has changed.
func TestHeirReadsOnInTheMiddleOfACommand(t *testing.T) {
	const client, to, seen = "10.0.0.5:40000", "198.51.100.7:21", "203.0.113.1:40000"
	const port = "PORT 10,0,0,5,195,80\r\n" // becomes PORT 203,0,113,1,195,80: three bytes more
	for cut := range len(port) {
		l := phonesLab(t)
		l.send("lan", tcp(client, to, seq(100, 0)))
		l.send("wan", tcp(to, seen, flags(synAck), seq(500, 101)))
		l.send("wan", tcp(to, seen, flags(ackFlag), seq(501, 101), body("220 ready\r\n")))
		l.send("lan", tcp(client, to, flags(ackFlag), seq(101, 512), body("USER ftp\r\n")))
		l.send("wan", tcp(to, seen, flags(ackFlag), seq(512, 111), body("230 fine\r\n")))
		l.send("lan", tcp(client, to, flags(ackFlag), seq(111, 522), body(port)))
		l.send("wan", tcp(to, seen, flags(ackFlag), seq(522, 136), body("200 fine\r\n")))
		if n := l.table.ExpectLen(); n != 1 {
			t.Fatalf("%d flows are expected of the first command", n)
		}
		if cut > 0 {
			l.send("lan", tcp(client, to, flags(ackFlag), seq(133, 532), body(port[:cut])))
		}
		l.ports["wan"].TakeFrames()
		l.ports["lan"].TakeFrames()

		h := newHeir(l)
		if did := h.inherit(l); did != (Restored{Flows: 1, Expectations: 1}) {
			t.Fatalf("handed over %+v", did)
		}
		h.wantSame(l)
		h.w.begin(h.now)
		ref := h.w.ct.Find(&tuple.Tuple{Family: tuple.IPv4, Proto: tuple.TCP, Src: tuple.AddrFrom(netip.MustParseAddr("10.0.0.5")), SrcPort: 40000,
			Dst: tuple.AddrFrom(netip.MustParseAddr("198.51.100.7")), DstPort: 21})
		for d, side := range h.w.ct.TCPSides(ref) {
			if !side.Known {
				t.Errorf("the history of direction %d does not count as known", d)
			}
		}
		h.w.park()
		h.table.FlushExpect()
		h.send("lan", tcp(client, to, flags(ackFlag), seq(133+uint32(cut), 532), body(port[cut:])))
		var text string
		for _, f := range h.ports["wan"].TakeFrames() {
			if at := bytes.Index(f.Data, []byte("PORT")); at >= 0 {
				text += string(f.Data[at:])
			}
		}
		if want := "PORT 203,0,113,1,195,80\r\n"; text != want {
			t.Errorf("cut after byte %d: the server gets %q, want %q", cut, text, want)
		}
		if n := h.table.ExpectLen(); n != 1 {
			t.Errorf("cut after byte %d: %d flows are expected", cut, n)
		}
		h.ports["lan"].TakeFrames()
		if t.Failed() {
			return
		}
	}
}
