package dataplane

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
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

// A connection that a helper may have left, for what it said, must not find another one
// that believes what comes next to be its beginning.
func TestHeirReadsNoConnectionFromItsMiddle(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.talkTCP()
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.ports["lan"].TakeFrames()
	h := newHeir(l)
	h.round(l)
	h.inherit(l)
	f, ok := flowTo(h.lab, 5000)
	if !ok || f.Helper != "parrot" {
		t.Fatalf("the flow has helper %q", f.Helper)
	}
	h.w.begin(h.now)
	ref := h.w.ct.Find(&f.Tuple[0])
	for d, side := range h.w.ct.TCPSides(ref) {
		if side.Known {
			t.Errorf("the history of direction %d counts as known", d)
		}
	}
	h.w.park()
	h.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501)))
	h.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 0") // its numbers go on
}
