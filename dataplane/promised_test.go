package dataplane

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// Calls of these tests: a client announces a socket to a server, which sends to it from
// socket 7000, and which the client sends to from the announced one.

// hearOf has the server announce where it wants to be sent to, if it does at all.
func (l *lab) hearOf(socket string) {
	l.Helper()
	if socket != "" {
		l.send("wan", udp("198.51.100.7:5000", "203.0.113.1:40000", body("@"+socket+"\n")))
		l.ports["lan"].TakeFrames()
	}
}

// speak has both ends of a call of the client's socket 6000 send, the client first, and
// expects that outside it is told.
func (l *lab) speak(told string) {
	l.Helper()
	l.send("lan", udp("10.0.0.5:6000", "198.51.100.7:7000"))
	l.want("wan", "udp "+told+" > 198.51.100.7:7000 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:7000", told))
	l.want("lan", "udp 198.51.100.7:7000 > 10.0.0.5:6000 ttl 63 len 0")
}

// told has the client announce its socket 6000 and returns how the server knows it.
func (l *lab) told() string {
	l.Helper()
	said := strings.TrimSpace(l.say("@10.0.0.5:6000\n"))
	if strings.HasPrefix(said, "!") {
		l.Fatalf("the announcement is refused: %s", said)
	}
	return said
}

// eachCall runs a test under every mapping, without and with a quota, with a client that
// has its own port outside or another one, and a server that announces a socket or does
// not.
func eachCall(t *testing.T, f func(t *testing.T, l *lab, heard string)) {
	for i := range len(kinds) * 8 {
		k, quota, moved, heard := kinds[i/8], i>>2&1*3, i>>1&1 != 0, []string{"", "198.51.100.7:7000"}[i&1]
		t.Run(fmt.Sprintf("%s/quota=%d/moved=%v/heard=%v", k.name, quota, moved, heard != ""), func(t *testing.T) {
			l := parrotLab(t, labConfig{rules: func(s *rules.Spec) {
				narrow(k.mapping, k.filtering, 0, 0)(s)
				s.Lists[rules.Snat][0].Src.PortsPerClient = uint32(quota)
			}}, alg.Options{})
			if moved {
				l.send("lan", udp("10.0.0.6:6000", "198.51.100.7:7001"))
				l.take("wan")
			}
			f(t, l, heard)
		})
	}
}

// TestPhoneThatSpeaksFirstHasTheAnnouncedPort: whoever speaks first, a call's media leave
// from where the other end was told to send to.
func TestPhoneThatSpeaksFirstHasTheAnnouncedPort(t *testing.T) {
	eachCall(t, func(t *testing.T, l *lab, heard string) {
		told := l.told()
		l.hearOf(heard)
		l.speak(told)
	})
}

// TestPhoneThatSpokeFirstIsAnnouncedAsBefore: while its flow lives, the announcement is
// over or not, the socket keeps its port.
func TestPhoneThatSpokeFirstIsAnnouncedAsBefore(t *testing.T) {
	eachCall(t, func(t *testing.T, l *lab, heard string) {
		told := l.told()
		l.hearOf(heard)
		l.speak(told)
		if got := l.told(); got != told {
			t.Errorf("while it is expected the socket is announced as %s, was %s", got, told)
		}
		l.table.FlushExpect()
		if got := l.told(); got != told {
			t.Errorf("when nothing is expected any more the socket is announced as %s, was %s", got, told)
		}
		l.speak(told)
		l.table.FlushExpect()
		l.speak(told)
	})
}

// TestPortOfPhoneThatSpokeFirstIsNobodyElses: what its flow holds keeps others from the
// port towards the server, and ends with it.
func TestPortOfPhoneThatSpokeFirstIsNobodyElses(t *testing.T) {
	eachCall(t, func(t *testing.T, l *lab, heard string) {
		told := l.told()
		l.hearOf(heard)
		l.speak(told)
		l.table.FlushExpect()
		_, port, _ := strings.Cut(told, ":")
		l.send("lan", udp("10.0.0.7:"+port, "198.51.100.7:7002"))
		if got := describe(l.take("wan"), l.ports["wan"].Info().Link); strings.HasPrefix(got, "udp "+told+" ") {
			t.Errorf("another host's flow leaves as %s", got)
		}
		l.table.Flush()
		l.step()
		if n := l.e.leases.Len(); n != 0 {
			t.Errorf("at the end %d leases are left", n)
		}
	})
}

// TestPhoneThatSpokeFirstIsAnnouncedToAnybodyAsBefore: promises to anybody are kept by
// flows with anyone.
func TestPhoneThatSpokeFirstIsAnnouncedToAnybodyAsBefore(t *testing.T) {
	l := newLab(t, labConfig{})
	terms := ports.Terms{}
	use := terms.Announced(ports.LinuxOnly)
	f := ports.Flow{Proto: tuple.UDP, Inside: ports.Endpoint{Addr: addr("10.0.0.5"), Port: 6000},
		External: ports.Endpoint{Addr: addr("203.0.113.1"), Port: 6006}}
	fits := ports.Fits{Source: &masqueraded, Egress: addr("203.0.113.1")}
	if out, _, fresh := l.e.leases.Promise(&f, use, &terms, fits, 1); out != ports.Granted || !fresh {
		t.Fatalf("promised: %v, for the first time: %v", out, fresh)
	}
	l.speak("203.0.113.1:6006")
	l.e.leases.Release(&f, use, 1)
	l.send("lan", udp("10.0.0.7:6006", "198.51.100.9:7002"))
	if got := describe(l.take("wan"), l.ports["wan"].Info().Link); strings.HasPrefix(got, "udp 203.0.113.1:6006 ") {
		t.Errorf("another host's flow leaves as %s, which anybody was told of", got)
	}
	if out, _, fresh := l.e.leases.Promise(&f, use, &terms, fits, 1); out != ports.Granted || fresh {
		t.Errorf("promised again: %v, for the first time: %v; want that the flow has kept it", out, fresh)
	}
	l.e.leases.Release(&f, use, 1)
}

// TestExplainKnowsAnnouncedPorts: explain says of the first packet of a call what becomes
// of it.
func TestExplainKnowsAnnouncedPorts(t *testing.T) {
	eachCall(t, func(t *testing.T, l *lab, heard string) {
		told := l.told()
		l.hearOf(heard)
		x, err := l.e.Explain(&Probe{In: lanID, Tuple: tuple.Tuple{Src: addr("10.0.0.5"), SrcPort: 6000, Dst: addr("198.51.100.7"), DstPort: 7000,
			Proto: tuple.UDP, Family: tuple.IPv4}})
		if err != nil {
			t.Fatal(err)
		}
		if got := sourceText(&x.Leaves); got != told {
			t.Errorf("it leaves from %s, want %s", got, told)
		}
		l.speak(told)
	})
}

// twoLab is a parrotLab with two workers: what comes from outside is the second one's.
func twoLab(t *testing.T, mapping, filtering nat.Behaviour) *lab {
	set, give := helperAt(t, 5000, parrot{}, alg.Options{})
	l := newLab(t, labConfig{
		rules:  narrow(mapping, filtering, 0, 0),
		table:  func(c *conntrack.Config) { c.Workers, c.HelperName = 2, set.Name },
		engine: func(c *Config) { c.Helpers, c.Helper = set, give },
		ports: func(_ *State, o map[string]mem.Options) {
			o["wan"] = mem.Options{Queues: 2, Steer: func([]byte) int { return 1 }}
		},
	})
	l.unwatched() // workers take turns by hand
	return l
}

// spoken expects that what both ends of a call have sent has arrived, and that the
// client's socket is announced as before when nothing is expected any more.
func (l *lab) spoken(told string) {
	l.Helper()
	l.want("wan", "udp "+told+" > 198.51.100.7:7000 ttl 63 len 0")
	l.want("lan", "udp 198.51.100.7:7000 > 10.0.0.5:6000 ttl 63 len 0")
	checkLeases(l, l.e)
	l.table.FlushExpect()
	if got := l.told(); got != told {
		l.Errorf("the socket is announced as %s, was %s", got, told)
	}
}

// TestLostRaceForAnAnnouncedFlowLeavesThePortPromised: packets of both ends are looked up
// before there is a flow, and either one makes it.
func TestLostRaceForAnAnnouncedFlowLeavesThePortPromised(t *testing.T) {
	for _, k := range kinds {
		for _, late := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/late=%d", k.name, late), func(t *testing.T) {
				l := twoLab(t, k.mapping, k.filtering)
				told := l.told()
				l.inject("lan", mem.Frame{Data: l.frame("lan", udp("10.0.0.5:6000", "198.51.100.7:7000"))})
				l.inject("wan", mem.Frame{Data: l.frame("wan", udp("198.51.100.7:7000", told))})
				l.lateBy(l.e.Worker(late), func() {
					winner := l.e.Worker(1 - late)
					for winner.Step(l.now) > 0 {
					}
				})
				if s := l.table.Stats(); s.ClashResolve != 1 {
					t.Errorf("%d clashes, want 1: there was no race", s.ClashResolve)
				}
				l.spoken(told)
			})
		}
	}
}

// lateBy has a worker look up the packet that waits for it, and go on with it after f.
func (l *lab) lateBy(w *Worker, f func()) {
	l.Helper()
	w.begin(l.now)
	for _, src := range w.v.sources[w.index] {
		if src.q.Recv(w.pkts[:]) == 0 {
			continue
		}
		p := &w.pkts[0]
		p.In = src.id
		if !w.receive(p, w.v.portOf(src.id), roleWire) {
			l.Fatal("the packet was refused")
		}
		count(&w.counter.received, 1)
		f()
		w.consider()
		w.admit(p, roleWire)
		w.flush()
		src.q.Release()
		w.park()
		return
	}
	l.Fatal("no packet waits")
}

// TestBothEndsOfACallMaySpeakAtOnce is the same with workers that really run at once.
func TestBothEndsOfACallMaySpeakAtOnce(t *testing.T) {
	outbound := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 6000, DstPort: 7000, Proto: tuple.UDP, Family: tuple.IPv4}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			l := twoLab(t, k.mapping, k.filtering)
			for range 200 {
				told := l.told()
				l.inject("lan", mem.Frame{Data: l.frame("lan", udp("10.0.0.5:6000", "198.51.100.7:7000"))})
				l.inject("wan", mem.Frame{Data: l.frame("wan", udp("198.51.100.7:7000", told))})
				var both sync.WaitGroup
				for _, w := range []*Worker{l.w, l.e.Worker(1)} {
					both.Go(func() {
						for w.Step(l.now) > 0 {
						}
						w.park()
					})
				}
				both.Wait()
				if l.spoken(told); t.Failed() {
					return
				}
				l.table.FlushExpect()
				ended := l.table.DeleteIf(func(f *conntrack.Flow) bool {
					return f.Tuple[tuple.Original] == outbound || f.Tuple[tuple.Reply].Src == outbound.Src
				})
				if ended != 1 {
					t.Fatalf("%d flows of media, want 1", ended)
				}
				l.now += int64(50 * time.Millisecond)
			}
		})
	}
}
