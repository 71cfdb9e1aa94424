package dataplane

import (
	"testing"
	"time"

	"example.com/culvert/conntrack"
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
			var x *world // one for all rounds
			for i, name := range st.names {
				if name == "" {
					continue
				}
				b.Run(name+"/flows="+size.name, func(run *testing.B) {
					if x == nil {
						x = st.make(b, size.flows, bulkConfig{})
					}
					ways, more := x.ways(st.packet, 1+i), x.ways(st.packet, 1+i)
					turn := 0
					measureWalk(run, func() {
						x.batch(ways[turn%len(ways)])
						turn++
					}, func() {
						x.receive(more[turn%len(ways)])
						turn++
					})
				})
			}
			if x != nil {
				x.close()
			}
		}
	}
}

// ways returns traffic of packets like ip out, and with two of them back, too.
func (x *world) ways(ip []byte, n int) []*traffic {
	return []*traffic{x.traffic(tuple.Original, ip), x.traffic(tuple.Reply, ip)}[:n]
}

// BenchmarkStages is the cost of each stage of the walk, taken one after the other over
// the same batches, with one look at the clock between two of them. Receive is what a bulk
// port takes to give a packet, and no part of the walk.
func BenchmarkStages(b *testing.B) {
	for _, size := range benchSizes {
		if !room(b, size.flows) || size.flows > 4<<20 {
			continue
		}
		var x *world
		b.Run("udp/flows="+size.name, func(run *testing.B) {
			if x == nil {
				x = newUDPWorld(b, size.flows, bulkConfig{})
			}
			s := newStages(x)
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
		if x != nil {
			x.close()
		}
	}
}

var stageNames = [...]string{"receive", "parse", "lookup", "track", "route", "translate", "transmit"}

// stages takes batches of a world through the stages of the walk.
type stages struct {
	x    *world
	took [len(stageNames)]time.Duration
	last time.Time
	pkts []packet.Packet
	keys [Batch]tuple.Tuple
	refs [Batch]conntrack.Ref
	macs [Batch][6]byte
}

func newStages(x *world) *stages {
	tr := x.traffic(tuple.Original, benchUDP)
	x.wan.idle = true
	x.lan.load(tr.frames, tr.next)
	return &stages{x: x, pkts: make([]packet.Packet, Batch)}
}

// lap ends stage i.
func (s *stages) lap(i int) {
	now := time.Now()
	s.took[i] += now.Sub(s.last)
	s.last = now
}

func (s *stages) batch() {
	x, w := s.x, s.x.w
	x.now += batchTime
	tick := tickAt(x.now)
	s.last = time.Now()
	pkts := s.pkts[:x.lan.Recv(s.pkts)]
	s.lap(0)
	for i := range pkts {
		if fault := packet.Parse(&pkts[i]); fault != packet.OK {
			x.Fatal(fault)
		}
		s.keys[i] = pkts[i].Tuple
	}
	s.lap(1)
	w.ct.Begin(tick)
	w.ct.Lookup(s.keys[:len(pkts)], s.refs[:])
	s.lap(2)
	for i := range pkts {
		var seg conntrack.Segment
		segmentOf(&pkts[i], &seg)
		if v := w.ct.Track(s.refs[i], &seg, tick); v.Invalid() {
			x.Fatal(v)
		}
	}
	s.lap(3)
	eg := x.e.view.Load().portOf(wanID)
	for i := range pkts {
		e := x.e.table.Entry(s.refs[i].Slot)
		out, mac, ok := x.e.neigh.Get(route.Hint(e.Hint(tuple.Original)))
		if !ok || out != wanID || pkts[i].WireLen() > eg.mtu {
			x.Fatal("no next hop is known, or the packet is too long")
		}
		s.macs[i] = mac
	}
	s.lap(4)
	for i := range pkts {
		other := x.e.table.Entry(s.refs[i].Slot).Tuple(tuple.Reply)
		to, _ := other.Inverse()
		packet.DecrementTTL(&pkts[i])
		packet.Translate(&pkts[i], &to)
	}
	s.lap(5)
	for i := range pkts {
		packet.SetLink(&pkts[i], eg.link, s.macs[i], eg.mac)
		x.wan.Send(&pkts[i])
	}
	s.lap(6)
}
