package ports

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

func addr(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }

func at(s string) Endpoint {
	a := netip.MustParseAddrPort(s)
	return Endpoint{Addr: tuple.AddrFrom(a.Addr()), Port: a.Port()}
}

func newSet(t testing.TB, flows int) *Set {
	t.Helper()
	s, err := New(flows, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range s.Check() {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// model decides about flows by looking at all others, one by one.
type model struct {
	flows []modelFlow
	kept  []keptPort
}

type modelFlow struct {
	Flow
	use Use
}

// keptPort is what a flow leaves behind: nobody else may have it until then.
type keptPort struct {
	what   string
	inside Endpoint // nobody: a port that was shared
	until  Tick
}

func (m modelFlow) mapping() int   { return int(m.use-useOut) / 3 } // 0 independent, 1 by address, 2 by address and port
func (m modelFlow) filtering() int { return int(m.use-useOut) % 3 }
func (m modelFlow) alone() bool    { return m.mapping() == 0 || m.filtering() == 0 }
func (m modelFlow) pinned() bool   { return m.filtering() == 1 }
func (m modelFlow) tied() bool     { return m.mapping() != 0 && m.filtering() == 2 }

// claims are the names of what a flow keeps others from, when it has ended, too.
func (m modelFlow) claims() map[string]Endpoint {
	c := map[string]Endpoint{}
	if m.alone() {
		c[fmt.Sprint("port ", m.Proto, m.External)] = m.Inside
	} else {
		c[fmt.Sprint("port ", m.Proto, m.External)] = Endpoint{}
	}
	if m.pinned() {
		c[fmt.Sprint("pin ", m.Proto, m.External, m.Remote.Addr)] = m.Inside
	}
	if m.tied() {
		c[fmt.Sprint("tie ", m.Proto, m.External, m.Remote)] = m.Inside
	}
	return c
}

func (m *model) take(f modelFlow, now Tick) (Outcome, Endpoint) {
	for what, inside := range f.claims() {
		held := false
		for _, g := range m.flows {
			if other, ok := g.claims()[what]; ok {
				held = true
				if other != inside {
					return Busy, Endpoint{}
				}
			}
		}
		for _, k := range m.kept {
			if !held && k.what == what && int32(now-k.until) < 0 && k.inside.Addr != inside.Addr {
				return Busy, Endpoint{}
			}
		}
	}
	for _, g := range m.flows {
		if g.Proto != f.Proto || g.Inside != f.Inside || g.External != f.External || f.mapping() == 0 || g.mapping() == 0 {
			continue
		}
		if f.mapping() != g.mapping() || f.Remote.Addr != g.Remote.Addr || f.mapping() == 2 && f.Remote.Port != g.Remote.Port {
			return Busy, Endpoint{} // a port that this endpoint has for somebody else
		}
	}
	for _, g := range m.flows {
		if g.Proto != f.Proto || g.Inside != f.Inside || g.External == f.External || f.mapping() != g.mapping() || f.mapping() == 2 ||
			f.mapping() == 1 && f.Remote.Addr != g.Remote.Addr {
			continue
		}
		return Elsewhere, g.External
	}
	m.flows = append(m.flows, f)
	for what, inside := range f.claims() {
		for i := range m.kept {
			if m.kept[i].what == what && m.kept[i].inside.Addr == inside.Addr {
				m.kept[i].until = now
			}
		}
	}
	return Granted, Endpoint{}
}

func (m *model) release(i int, hold Tick, now Tick) {
	f := m.flows[i]
	m.flows = append(m.flows[:i], m.flows[i+1:]...)
	for what, inside := range f.claims() {
		last := true
		for _, g := range m.flows {
			if _, ok := g.claims()[what]; ok {
				last = false
			}
		}
		if last && hold > 0 {
			m.kept = append(m.kept, keptPort{what, inside, now + hold})
		}
	}
}

// inbound says whom a packet from outside reaches.
func (m *model) inbound(f Flow) (Endpoint, bool) {
	for _, g := range m.flows {
		if g.Proto != f.Proto || g.External != f.External {
			continue
		}
		if g.filtering() == 0 || g.pinned() && g.Remote.Addr == f.Remote.Addr {
			return g.Inside, true
		}
	}
	return Endpoint{}, false
}

// world is where the flows of a test live: small, so that they meet.
type world struct {
	rnd    *rand.Rand
	source *nat.Source
}

func newWorld(seed uint64) *world {
	return &world{rand.New(rand.NewPCG(seed, 7)), &nat.Source{Addrs: []nat.AddrRange{{First: addr("203.0.113.1"), Last: addr("203.0.113.2")}}}}
}

func (w *world) flow() Flow {
	return Flow{
		Proto:    []uint8{tuple.TCP, tuple.UDP}[w.rnd.IntN(2)],
		Inside:   at(fmt.Sprintf("10.0.0.%d:%d", 1+w.rnd.IntN(3), 1000+w.rnd.IntN(3))),
		External: at(fmt.Sprintf("203.0.113.%d:%d", 1+w.rnd.IntN(2), 1000+w.rnd.IntN(4))),
		Remote:   at(fmt.Sprintf("198.51.100.%d:%d", 1+w.rnd.IntN(3), 80+w.rnd.IntN(2))),
	}
}

// TestLeasesAgreeWithFlows takes and releases at random and compares every answer
// with that of a model which knows flows only.
func TestLeasesAgreeWithFlows(t *testing.T) {
	for _, tt := range []struct {
		claim string
		hold  time.Duration
		uses  func(w *world) Use // of the mapping; the filtering goes with the inside port
	}{
		{"endpoint-independent only", 0, func(*world) Use { return 0 }},
		{"by address and port only", 0, func(*world) Use { return 6 }},
		{"all mappings at once", 0, func(w *world) Use { return Use(3 * w.rnd.IntN(3)) }},
		{"all mappings, ports kept", 3 * time.Second, func(w *world) Use { return Use(3 * w.rnd.IntN(3)) }},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			w, m, now := newWorld(1), &model{}, Tick(1<<32-2000) // the clock wraps around
			s := newSet(t, 64)
			fits := Fits{Source: w.source}
			outcomes := map[Outcome]int{}
			for i := range 20000 {
				now += Tick(w.rnd.IntN(20))
				s.Sweep(now)
				switch w.rnd.IntN(5) {
				case 0, 1:
					f := modelFlow{w.flow(), useOut + tt.uses(w)}
					f.use += Use(f.Inside.Port % 3)
					terms := termsOf(f.use, tt.hold)
					got, gotAt := s.Take(&f.Flow, f.use, &terms, fits, now)
					want, wantAt := m.take(f, now)
					if got != want || got == Elsewhere && terms.Mapping == nat.EndpointIndependent && gotAt != wantAt {
						t.Fatalf("step %d: %+v use %d: got %v %v, want %v %v", i, f.Flow, f.use, got, gotAt, want, wantAt)
					}
					outcomes[got]++
				case 2, 3:
					if len(m.flows) > 0 {
						n := w.rnd.IntN(len(m.flows))
						f := m.flows[n]
						s.Release(&f.Flow, f.use, now)
						m.release(n, Ticks(tt.hold), now)
					}
				case 4:
					f := w.flow()
					got, ok := s.Inbound(&f)
					want, wantOK := m.inbound(f)
					if ok != wantOK || ok && got.Inside != want {
						t.Fatalf("step %d: packet %v > %v: got %v %v, want %v %v", i, f.Remote, f.External, got.Inside, ok, want, wantOK)
					}
				}
				if len(m.flows) > 24 {
					n := w.rnd.IntN(len(m.flows))
					f := m.flows[n]
					s.Release(&f.Flow, f.use, now)
					m.release(n, Ticks(tt.hold), now)
				}
			}
			if outcomes[Granted] < 1000 || outcomes[Busy] < 100 {
				t.Errorf("too little happened: %v", outcomes)
			}
			for _, f := range m.flows {
				s.Release(&f.Flow, f.use, now)
			}
			for range 300 { // every pass ends what is over
				now += TicksPerSecond
				s.Sweep(now)
			}
			if n := s.Len(); n != 0 {
				t.Errorf("%d leases of no flow", n)
			}
			for _, sp := range s.Spaces() {
				if used, kept := sp.Used(); used != 0 || kept != 0 {
					t.Errorf("%v proto %d: %d ports used, %d kept, of no flow", sp.Addr, sp.Proto, used, kept)
				}
			}
		})
	}
}

func termsOf(u Use, hold time.Duration) Terms {
	return Terms{Mapping: nat.EndpointIndependent + nat.Behaviour(u-useOut)/3, Filtering: nat.EndpointIndependent + nat.Behaviour(u-useOut)%3, Hold: hold}
}

// TestLeasesHoldUnderRaces has goroutines take and release at once. What they
// hold at any time must not contradict, and nothing remains.
func TestLeasesHoldUnderRaces(t *testing.T) {
	s := newSet(t, 4096)
	var mu sync.Mutex
	owners := map[string]map[Endpoint]int{} // what is whose, and how many flows say so
	change := func(f modelFlow, by int) {
		mu.Lock()
		defer mu.Unlock()
		for what, inside := range f.claims() {
			if owners[what] == nil {
				owners[what] = map[Endpoint]int{}
			}
			owners[what][inside] += by
			holders := 0
			for _, n := range owners[what] {
				if n > 0 {
					holders++
				}
			}
			if holders > 1 {
				t.Errorf("%s is of several: %v", what, owners[what])
			}
		}
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			w := newWorld(uint64(g))
			var mine []modelFlow
			for i := range 20000 {
				s.Sweep(Tick(i))
				if w.rnd.IntN(2) == 0 && len(mine) < 6 {
					f := modelFlow{w.flow(), useOut + Use(w.rnd.IntN(9))}
					terms := termsOf(f.use, 0)
					if out, _ := s.Take(&f.Flow, f.use, &terms, Fits{Source: w.source}, Tick(i)); out == Granted {
						change(f, 1)
						mine = append(mine, f)
					}
				} else if len(mine) > 0 {
					n := w.rnd.IntN(len(mine))
					f := mine[n]
					mine = append(mine[:n], mine[n+1:]...)
					change(f, -1)
					s.Release(&f.Flow, f.use, Tick(i))
				}
			}
			for _, f := range mine {
				change(f, -1)
				s.Release(&f.Flow, f.use, 0)
			}
		})
	}
	wg.Wait()
	if n := s.Len(); n != 0 {
		t.Errorf("%d leases of no flow", n)
	}
}
