package dataplane

import (
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
)

// streams are what passes in established flows: with make's flows, packets that only go
// out, or go out and back in turns.
var streams = []struct {
	proto  string
	make   func(testing.TB, int, bulkConfig) *world
	packet []byte
	names  []string // of the benchmarks: out alone, both ways
	most   int      // flows: a handshake for each takes its time
}{
	{"udp", newUDPWorld, benchUDP, []string{"udp", "udp-both"}, 16 << 20},
	{"tcp", newTCPWorld, benchData, []string{"", "tcp"}, 4 << 20}, // windows close unless somebody answers
}

// BenchmarkPipeline is the whole walk of established flows: parse, look up, track,
// translate, hand to a port that forgets. Segments of TCP carry data.
func BenchmarkPipeline(b *testing.B) {
	for _, st := range streams {
		for _, size := range benchSizes {
			if size.flows > st.most || !room(b, size.flows) {
				continue
			}
			var ( // one for all rounds: sequence numbers go on
				x          *world
				ways, more []*traffic
				turn       int
			)
			for i, name := range st.names {
				if name == "" {
					continue
				}
				b.Run(name+"/flows="+size.name, func(run *testing.B) {
					if x == nil {
						x = st.make(b, size.flows, bulkConfig{})
						ways, more = x.ways(st.packet), x.ways(st.packet)
					}
					received := 0
					measureWalk(run, func() {
						x.batch(ways[turn%(1+i)])
						turn++
					}, func() {
						x.receive(more[received%(1+i)])
						received++
					})
				})
			}
			if x != nil {
				x.close()
			}
		}
	}
}

// ways returns traffic of packets like ip out and back.
func (x *world) ways(ip []byte) []*traffic {
	return []*traffic{x.traffic(tuple.Original, ip), x.traffic(tuple.Reply, ip)}
}

// BenchmarkStages is the cost of each stage of the express walk, taken one after the other
// over the same batches, with one look at the clock between two of them. Receive is what a
// bulk port takes to give a packet, and no part of the walk.
func BenchmarkStages(b *testing.B) {
	for _, st := range streams {
		for _, size := range benchSizes {
			if !room(b, size.flows) || size.flows > 4<<20 {
				continue
			}
			var s stages // for all rounds
			b.Run(st.proto+"/flows="+size.name, func(run *testing.B) {
				if s.x == nil {
					s.x = st.make(b, size.flows, bulkConfig{})
					s.ways = s.x.ways(st.packet)
				}
				clear(s.took[:])
				run.ReportAllocs()
				run.ResetTimer()
				for range batches(run) {
					s.batch()
				}
				run.StopTimer()
				for i, name := range stageNames {
					run.ReportMetric(float64(s.took[i])/float64(batches(run)*Batch), name+"-ns/op")
				}
			})
			if s.x != nil {
				s.x.close()
			}
		}
	}
}

var stageNames = [...]string{"receive", "parse", "lookup", "route", "track", "translate", "transmit"}

// stages takes batches of a world, out and back in turns, through the stages of express.
type stages struct {
	x    *world
	ways []*traffic
	turn int
	took [len(stageNames)]time.Duration
	last time.Time
	macs [Batch]uint64
}

// lap ends stage i.
func (s *stages) lap(i int) {
	now := time.Now()
	s.took[i] += now.Sub(s.last)
	s.last = now
}

func (s *stages) batch() {
	x, w := s.x, s.x.w
	tr := s.ways[s.turn%len(s.ways)]
	s.turn++
	x.now += batchTime
	in, out, to := uint16(lanID), uint16(wanID), x.wan
	if tr.dir == tuple.Reply {
		in, out, to = out, in, x.lan
	}
	s.last = time.Now()
	tr.load()
	pkts := w.pkts[:tr.port.Recv(w.pkts[:])]
	s.lap(0)
	for i := range pkts {
		p := &pkts[i]
		if p.In = in; !packet.ParsePlain(p) {
			x.Fatalf("%v is no plain packet", p.Tuple)
		}
		w.keys[i].Set(&p.Tuple)
	}
	s.lap(1)
	w.begin(x.now)
	w.ct.Lookup(w.keys[:len(pkts)], w.refs[:])
	s.lap(2)
	for i := range pkts {
		ref := w.refs[i]
		e := x.e.table.Entry(ref.Slot)
		back, known := x.e.neigh.Valid(route.Hint(e.Hint(ref.Dir.Other())))
		by, mac, ok := x.e.neigh.Next(route.Hint(e.Hint(ref.Dir)))
		if !ok || by != out || known && back != in || by != w.exit.id && !w.exitBy(by) {
			x.Fatal("no next hop is known, or another one")
		}
		s.macs[i] = mac
	}
	s.lap(3)
	for i := range pkts {
		if !w.trackPlain(&pkts[i], w.refs[i]) {
			x.Fatalf("%v changes its flow", pkts[i].Tuple)
		}
	}
	s.lap(4)
	for i := range pkts {
		ref := w.refs[i]
		packet.ForwardPlain(&pkts[i], x.e.table.Entry(ref.Slot).Opposite(ref.Dir), s.macs[i], w.exit.mac)
	}
	s.lap(5)
	for i := range pkts {
		to.Send(&pkts[i])
	}
	w.flush()
	s.lap(6)
}
