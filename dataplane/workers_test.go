package dataplane

import (
	"fmt"
	"sync"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// pair is a port with a queue for each of two workers.
type pair struct {
	*bulk
	second *bulk
}

func newPair(name string) *pair {
	p := &pair{newBulk(name, packet.LinkEthernet), newBulk(name, packet.LinkEthernet)}
	p.info.NumQueues = 2
	return p
}

func (p *pair) Queue(i int) port.Queue { return [...]*bulk{p.bulk, p.second}[i] }

// TestTwoWorkersGiveOneMapping has flows of the same few sockets begin on two
// workers at once, while commands end them. Every socket has one port at any time,
// every port one socket, and nothing is held at the end that no flow has.
func TestTwoWorkersGiveOneMapping(t *testing.T) {
	for _, f := range behaviours {
		t.Run(fmt.Sprintf("filtering %d", f), func(t *testing.T) {
			table, err := conntrack.New(conntrack.Config{Max: 1 << 14, Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			e, err := New(Config{Workers: 2, Table: table, Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			lan, wan := newPair("lan"), newPair("wan")
			l := &lab{TB: t}
			st := State{Ports: []PortConfig{
				{ID: lanID, Name: "lan", Port: lan, Addresses: prefixes("10.0.0.1/8")},
				{ID: wanID, Name: "wan", Port: wan, Addresses: prefixes("203.0.113.1/24")},
			}}
			st.Routes = l.routes(&st)
			st.Program = l.program(&st, func(s *rules.Spec) {
				translate(nat.EndpointIndependent, f, func(s *nat.Source) { s.PortsPerClient = 20 })(s)
			})
			if err := e.Apply(st); err != nil {
				t.Fatal(err)
			}
			e.neigh.Ask(wanID, addr("203.0.113.254"), 1, 0)
			e.NeighbourLearned(wanID, addr("203.0.113.254"), [6]byte{2, 9})

			const rounds, sockets = 400, 24
			var running sync.WaitGroup
			for i, in := range [...]*bulk{lan.bulk, lan.second} {
				running.Go(func() {
					w, n, now := e.Worker(i), uint32(i), int64(1e12)
					in.load(batchOf(udp("10.0.0.5:1", "198.51.100.7:53")), func(frames [][]byte) {
						for _, frame := range frames {
							n += 7
							aim(frame, n%sockets, 0xc6336400|n%13)
						}
					})
					for range rounds {
						now += 20000
						w.Step(now)
					}
					w.park()
				})
			}
			done := make(chan struct{})
			go func() {
				running.Wait()
				close(done)
			}()
			for range 100 { // the rest of the time flows stay
				table.Flush()
			}
			<-done
			if table.Len() == 0 {
				t.Error("no flow is left to look at")
			}
			oneMapping(t, table)
			checkLeases(t, e)
			if n := e.Stats().Dropped[Internal]; n != 0 {
				t.Errorf("%d packets met a defect", n)
			}
			e.Close()
			if err := table.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// oneMapping checks that sockets and external ports belong together one to one.
func oneMapping(t *testing.T, table *conntrack.Table) {
	t.Helper()
	port, socket := map[string]string{}, map[string]string{}
	table.Dump(func(f *conntrack.Flow) bool {
		in, out := fmt.Sprint(f.Tuple[0].Src, " ", f.Tuple[0].SrcPort), fmt.Sprint(f.Tuple[1].Dst, " ", f.Tuple[1].DstPort)
		if other, ok := port[in]; ok && other != out {
			t.Errorf("socket %s has ports %s and %s", in, other, out)
		}
		if other, ok := socket[out]; ok && other != in {
			t.Errorf("port %s has sockets %s and %s", out, other, in)
		}
		port[in], socket[out] = out, in
		return true
	})
}
