package dataplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// successor returns a lab like l that has taken over its flows, and what became of
// them, which is the same whether l lives or was killed. The end of each lab checks that
// leases and flows agree.
func successor(l *lab, change func(*labConfig)) (*lab, Restored) {
	l.Helper()
	im := l.e.Image()
	next, did := inheritor(l, change, &im)
	if l.memory == nil {
		return next, did
	}
	again, same := inheritor(l, change, l.left())
	if same != did {
		l.Errorf("of a process that was killed %+v is restored, of one that lives %+v", same, did)
	}
	return again, same
}

// inheritor returns a lab like l with the flows of an image.
func inheritor(l *lab, change func(*labConfig), im *Image) (*lab, Restored) {
	l.Helper()
	cfg := l.cfg
	if change != nil {
		change(&cfg)
	}
	next := newLab(l.TB, cfg)
	next.now = l.now
	did, err := next.e.Restore(im)
	if err != nil {
		l.Fatal(err)
	}
	return next, did
}

// left returns what a successor finds if l is killed now.
func (l *lab) left() *Image {
	l.Helper()
	left := l.memory.Left()
	im, err := Remains(left.Array, left.Cut)
	if err != nil {
		l.Fatal(err)
	}
	if set := l.e.helpers.set; set != nil {
		im.Helpers = set.All()
	}
	return im
}

// Whatever the mapping and the filtering, a successor maps and filters the same
// sockets the same way: those of live flows, those let in, and those of new flows.
func TestSuccessorMapsAndFiltersAsBefore(t *testing.T) {
	for _, mapping := range append([]nat.Behaviour{nat.Linux}, behaviours...) {
		for _, filtering := range behaviours {
			if mapping == nat.Linux && filtering != nat.EndpointIndependent {
				continue
			}
			for name, fam := range families {
				t.Run(fmt.Sprintf("%v mapping, %v filtering, %s", mapping, filtering, name), func(t *testing.T) {
					limits := func(s *nat.Source) {
						s.Ports = nat.PortRange{First: 5000, Last: 5999}
						s.PortsPerClient, s.BlockSize, s.MaxBlocks = 100, 64, 2
					}
					rule := translate(mapping, filtering, limits)
					if mapping == nat.Linux {
						rule = translate(nat.Linux, nat.Linux, nil)
					}
					l := newLab(t, labConfig{kept: name == "ipv4", rules: rule})
					say := talkers["udp"]
					at := l.external(say, fam.client+":4000", fam.one+":53")
					l.external(say, fam.other+":4000", fam.one+":53") // the same port of another host
					in := l.reached(say, fam.one+":99", at)           // by its filtering
					before := l.flows()

					next, did := successor(l, nil)
					if did != (Restored{Flows: len(before)}) {
						t.Fatalf("restored %+v, want %d flows and no loss", did, len(before))
					}
					next.wantFlows(before...)
					if got := next.external(say, fam.client+":4000", fam.one+":53"); got != at {
						t.Errorf("the flow leaves from %q, want %q", got, at)
					}
					if got := next.reached(say, fam.one+":53", at); got != fam.client+":4000" {
						t.Errorf("its answer reaches %q", got)
					}
					if in != "" {
						if got := next.reached(say, fam.one+":99", at); got != in {
							t.Errorf("who was let in to %q now reaches %q", in, got)
						}
					}
					for _, from := range []string{fam.client + ":4000", fam.other + ":4000", fam.client + ":4001"} {
						for _, to := range []string{fam.one + ":54", fam.two + ":53"} {
							was, is := l.external(say, from, to), next.external(say, from, to)
							if mapping == nat.EndpointIndependent && !strings.HasSuffix(from, "4001") && was != is {
								t.Errorf("%s to %s leaves from %q, the predecessor takes %q", from, to, is, was)
							}
							if (was == "") != (is == "") {
								t.Errorf("%s to %s leaves from %q, the predecessor says %q", from, to, is, was)
							}
						}
					}
					for _, x := range []*lab{l, next} {
						x.ports["lan"].TakeFrames()
						x.ports["wan"].TakeFrames()
					}
				})
			}
		}
	}
}

func TestSuccessorKeepsPortsForTheirClients(t *testing.T) {
	hold := func(s *nat.Source) {
		s.HoldDown = 120 * time.Second
		s.Ports = nat.PortRange{First: 5000, Last: 5000}
	}
	say := talkers["udp"]
	l := newLab(t, labConfig{kept: true, rules: translate(nat.EndpointIndependent, nat.AddressDependent, hold)})
	l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	l.table.Flush()
	l.advance(100 * time.Second)
	next, did := successor(l, nil)
	if did != (Restored{Ports: 2}) { // the port, and the pin
		t.Fatalf("restored %+v, want the lease of the port and that of its filtering", did)
	}
	if got := next.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "" {
		t.Errorf("another client has the port at once: %s", got)
	}
	next.advance(18 * time.Second)
	if got := next.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "" {
		t.Errorf("another client has the port after 118 s: %s", got)
	}
	next.advance(4 * time.Second)
	if got := next.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "203.0.113.1:5000" {
		t.Errorf("nobody has the port after 122 s: %q", got)
	}
	next.ports["lan"].TakeFrames()
}

func TestSuccessorKnowsTheNumbersOfBothSides(t *testing.T) {
	l := parrotLab(t, labConfig{kept: true}, alg.Options{})
	l.talkTCP()
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.ports["lan"].TakeFrames()
	next, did := successor(l, nil)
	if did != (Restored{Flows: 1}) {
		t.Fatalf("restored %+v", did)
	}
	if f, _ := flowTo(next, 5000); f.Helper != "parrot" || f.State != conntrack.Established || f.Packets[tuple.Original] != 3 {
		t.Errorf("the flow has helper %q, state %v, %d packets", f.Helper, f.State, f.Packets[tuple.Original])
	}
	next.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501), body("a#b\n")))
	next.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 3")
	next.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 158)))
	next.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 110 ttl 63 len 0")
	next.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 9999))) // windows hold as before
	next.wantDrops(InvalidWindow)
}

// A flow that went on after it was saved goes on after it is restored: its numbers are
// beyond every window that was known.
func TestRestoredFlowMayHaveGoneOn(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:80", seq(100, 0)))
	l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:4000", flags(packet.SYN|packet.ACK), seq(500, 101)))
	l.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:80", flags(ackFlag), seq(101, 501)))
	l.ports["wan"].TakeFrames()
	l.ports["lan"].TakeFrames()
	im := l.e.Image()
	im.Moved = true
	next := newLab(t, l.cfg)
	next.now = l.now
	if did, err := next.e.Restore(&im); err != nil || did != (Restored{Flows: 1}) {
		t.Fatalf("restored %+v, %v", did, err)
	}
	const far = 100_000_000
	next.send("wan", tcp("198.51.100.7:80", "203.0.113.1:4000", flags(ackFlag), seq(501+far, 101+far), body("data")))
	next.want("lan", fmt.Sprintf("tcp 198.51.100.7:80 > 10.0.0.5:4000 A seq %d ack %d ttl 63 len 4", 501+far, 101+far))
	next.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:80", flags(ackFlag), seq(101+far, 505+far)))
	next.want("wan", fmt.Sprintf("tcp 203.0.113.1:4000 > 198.51.100.7:80 A seq %d ack %d ttl 63 len 0", 101+far, 505+far))
}

func TestSuccessorAwaitsWhatWasAnnounced(t *testing.T) {
	l := parrotLab(t, labConfig{kept: true}, alg.Options{})
	if got, want := l.say("&10.0.0.5:6000\n"), "203.0.113.1:6000\n"; got != want {
		t.Fatalf("the server was told %q, want %q", got, want)
	}
	l.advance(20 * time.Second)
	l.send("wan", udp("198.51.100.7:9000", "203.0.113.1:6000"))
	l.want("lan", "udp 198.51.100.7:9000 > 10.0.0.5:6000 ttl 63 len 0")
	next, did := successor(l, nil)
	if did != (Restored{Flows: 2, Expectations: 1}) {
		t.Fatalf("restored %+v, want the flow, the one that it announced, and the one that it awaits", did)
	}
	if f, _ := flowTo(next, 6000); f.Status&conntrack.Expected == 0 || f.Master.DstPort != 5000 {
		t.Errorf("the announced flow has master %v, status %v", f.Master, f.Status)
	}
	next.send("lan", udp("10.0.0.6:6001", "198.51.100.7:9000")) // the port is promised to another
	if got := describe(next.take("wan"), next.ports["wan"].Info().Link); strings.HasPrefix(got, "udp 203.0.113.1:6001 ") {
		t.Errorf("another host's flow left as %s", got)
	}
	next.send("wan", udp("198.51.100.7:9000", "203.0.113.1:6001"))
	next.want("lan", "udp 198.51.100.7:9000 > 10.0.0.5:6001 ttl 63 len 0")
	if f, _ := flowTo(next, 6001); f.Helper != "parrot" {
		t.Errorf("the second flow of the pair has helper %q", f.Helper)
	}
}

// A flow from inside that keeps what was promised for its socket does so for the
// successor, too, when the expectation is over.
func TestSuccessorKeepsPromises(t *testing.T) {
	l := parrotLab(t, labConfig{kept: true}, alg.Options{})
	l.say("@10.0.0.5:6000\n")
	l.send("lan", udp("10.0.0.5:6000", "198.51.100.7:7000"))
	l.want("wan", "udp 203.0.113.1:6000 > 198.51.100.7:7000 ttl 63 len 0")
	next, did := successor(l, nil)
	if did != (Restored{Flows: 2, Expectations: 1}) {
		t.Fatalf("restored %+v", did)
	}
	next.table.FlushExpect()
	next.send("lan", udp("10.0.0.6:6000", "198.51.100.7:7001"))
	if got := describe(next.take("wan"), next.ports["wan"].Info().Link); strings.HasPrefix(got, "udp 203.0.113.1:6000 ") {
		t.Errorf("another host's flow left as %s", got)
	}
}

func TestSuccessorWithoutTheHelperLeavesItsFlowsAlone(t *testing.T) {
	l := parrotLab(t, labConfig{kept: true}, alg.Options{})
	l.talkTCP()
	next, did := successor(l, func(c *labConfig) { c.engine, c.table = nil, nil })
	if did != (Restored{Flows: 1}) {
		t.Fatalf("restored %+v", did)
	}
	next.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501), body("a#b\n")))
	next.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 4")
}

// Flows end when they would have, also those whose time is over before somebody
// takes them over.
func TestSuccessorCountsIdleTimeOn(t *testing.T) {
	l := newLab(t, labConfig{kept: true})
	l.send("lan", udp("10.0.0.5:4000", "198.51.100.7:53"))
	l.advance(20 * time.Second)
	l.send("lan", udp("10.0.0.5:4001", "198.51.100.7:53"))
	l.ports["wan"].TakeFrames()
	im := l.e.Image()
	next := newLab(t, l.cfg)
	next.now = l.now + int64(15*time.Second) // 35 s after the first, 15 s after the second
	did, err := next.e.Restore(&im)
	if err != nil || did != (Restored{Flows: 1, Expired: 1}) {
		t.Fatalf("restored %+v, %v", did, err)
	}
	next.advance(13 * time.Second)
	if n := next.table.Len(); n != 1 {
		t.Fatalf("%d flows after 28 s, want 1", n)
	}
	next.advance(4 * time.Second)
	next.wantFlows()
	l.advance(40 * time.Second)
}

// Marks, labels, timeouts of rules and the choice of the port are there again, and
// the flow is one of the rules in force.
func TestSuccessorHasAllThatIsListed(t *testing.T) {
	l := newLab(t, labConfig{kept: true})
	l.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:80", seq(100, 0)))
	l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:4000", flags(packet.SYN|packet.ACK), seq(500, 101)))
	l.send("lan", tcp("10.0.0.5:4000", "198.51.100.7:80", flags(ackFlag), seq(101, 501)))
	l.ports["wan"].TakeFrames()
	l.ports["lan"].TakeFrames()
	was, _ := flowTo(l, 80)
	next, _ := successor(l, nil)
	is, ok := flowTo(next, 80)
	is.ID, is.Hint = was.ID, was.Hint // of the table, and of its engine
	if !ok || is != was {
		t.Errorf("the flow is\n\t%+v, was\n\t%+v", is, was)
	}
}

// What clashes with flows that are there already, or that nobody can make sense of,
// is left out and counted; the rest is restored.
func TestRestoreLeavesOutWhatDoesNotFit(t *testing.T) {
	l := newLab(t, labConfig{})
	for _, port := range []string{"4000", "4001", "4002"} {
		l.send("lan", udp("10.0.0.5:"+port, "198.51.100.7:53"))
	}
	l.ports["wan"].TakeFrames()
	im := l.e.Image()
	flows := im.Flows
	im.Flows = func(yield func(*conntrack.Saved) bool) {
		n := 0
		flows(func(s *conntrack.Saved) bool {
			if n++; n == 2 {
				s.Bytes()[8+64+36] ^= 0xff // the protocol in one direction
			}
			return yield(s)
		})
	}
	next := newLab(t, l.cfg)
	next.now = l.now
	next.send("lan", udp("10.0.0.5:4002", "198.51.100.7:53"))
	next.ports["wan"].TakeFrames()
	did, err := next.e.Restore(&im)
	if err != nil || did != (Restored{Flows: 1, Taken: 1, Torn: 1}) {
		t.Errorf("restored %+v, %v, want one flow, one that is taken and one that makes no sense", did, err)
	}
}

// A lease that another Set kept is believed only as far as it makes sense.
func TestKeptPortsThatMakeNoSenseAreRefused(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) { masquerade(s) }})
	im := l.e.Image()
	im.Kept = func(yield func(*ports.Saved) bool) {
		var nothing ports.Saved
		yield(&nothing)
	}
	if did, err := l.e.Restore(&im); err != nil || did != (Restored{Torn: 1}) {
		t.Errorf("restored %+v, %v", did, err)
	}
}
