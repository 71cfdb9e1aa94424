package dataplane

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/registry"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
)

// BenchmarkMixed is both directions of UDP and TCP of so many flows each, at the same
// time; four packets of a step of 124 begin a flow, and as many flows end.
func BenchmarkMixed(b *testing.B) {
	for _, size := range benchSizes {
		if size.flows > 1<<20 || !room(b, size.flows) {
			continue
		}
		var m *mixture // one for all rounds
		b.Run("flows="+size.name, func(run *testing.B) {
			if m == nil {
				m = newMixture(b, size.flows)
			}
			steps := (run.N + mixedStep - 1) / mixedStep
			watch := newStopwatch(run)
			for range steps {
				m.step()
			}
			watch.stop()
			watch.report(steps * mixedStep)
		})
		if m != nil {
			m.close()
		}
	}
}

const (
	mixedOf   = 30 // packets of each protocol that a port gives in a step
	mixedNew  = 2  // flows of each protocol that begin in a step
	mixedStep = 4*mixedOf + 2*mixedNew
	mixedIdle = 4 * time.Second // of flows without an answer, and longer than all take to begin
)

// mixture is the traffic of BenchmarkMixed.
type mixture struct {
	*world
	udp, tcp, answers, data *traffic
	fresh                   int // flows begun in all
}

func newMixture(t testing.TB, flows int) *mixture {
	cfg := conntrack.Config{Max: 2*flows + 1<<20, Timeouts: conntrack.Timeouts{UDP: mixedIdle}}
	cfg.Timeouts.TCP[conntrack.SynSent] = mixedIdle
	x := newUDPWorld(t, flows, bulkConfig{table: cfg})
	m := &mixture{world: x, fresh: flows}
	m.udp, m.answers = x.traffic(tuple.Original, benchUDP), x.traffic(tuple.Reply, benchUDP)
	x.shakeHands()
	x.there(2 * flows)
	m.tcp, m.data = x.traffic(tuple.Original, benchData), x.traffic(tuple.Reply, benchData)
	m.load(x.lan, m.udp, m.tcp, 2*mixedNew, m.begin)
	m.load(x.wan, m.answers, m.data, 0, func([][]byte) {})
	return m
}

// load gives a port packets of two kinds of traffic, and some that more makes.
func (m *mixture) load(p *bulk, one, two *traffic, n int, more func([][]byte)) {
	frames := append(one.frames[:mixedOf:mixedOf], two.frames[:mixedOf]...)
	frames = append(frames, append(batchOf(benchUDP)[:n/2], batchOf(benchSYN)[:n/2]...)...)
	p.load(frames, func(frames [][]byte) {
		one.next(frames[:mixedOf])
		two.next(frames[mixedOf : 2*mixedOf])
		more(frames[2*mixedOf:])
	})
}

// begin makes frames the first packets of flows.
func (m *mixture) begin(frames [][]byte) {
	for i, f := range frames {
		fl := flowOf(m.fresh % (1 << 24))
		tr := m.udp
		if i >= mixedNew {
			tr = m.tcp
		}
		stamp(f, headerSum(f[14:]), fl.client, fl.server, fl.port, tr.server)
		m.fresh++
	}
}

// BenchmarkFragments is established flows whose datagrams come in two fragments, in
// order. One op is one fragment.
func BenchmarkFragments(b *testing.B) {
	var x *world
	var pieces [2][]byte
	b.Run("udp/flows=1k", func(run *testing.B) {
		if x == nil {
			x = newUDPWorld(b, 1<<10, bulkConfig{})
			copy(pieces[:], fragmentsOf(noSum(udp("10.0.0.5:1", "198.51.100.7:53", length(1400))), 1024))
		}
		var frames [][]byte
		for range Batch / 2 {
			for _, p := range pieces {
				frames = append(frames, batchOf(p)[0])
			}
		}
		sums, at := [2]uint32{headerSum(pieces[0]), headerSum(pieces[1])}, 0
		x.wan.idle = true
		x.lan.load(frames, func(frames [][]byte) {
			for i, f := range frames {
				fl := &x.flows[(at+i/2)%len(x.flows)]
				stamp(f, sums[i%2], fl.client, fl.server, fl.port, 53)
			}
			at += Batch / 2
		})
		watch := newStopwatch(run)
		for range batches(run) {
			x.step()
		}
		watch.stop()
		watch.report(batches(run) * Batch)
	})
	if x != nil {
		x.close()
	}
}

// BenchmarkHelpers is connections and datagrams that a helper reads: lines of an FTP
// control connection and their answers, which it leaves as they are, and requests of a
// phone, of which it changes the addresses. What the same costs without a helper is
// beside it.
func BenchmarkHelpers(b *testing.B) {
	line := func(text string) []byte {
		return tcp("10.0.0.5:1", "198.51.100.7:21", flags(packet.ACK|packet.PSH), seq(1, 1), body(text))
	}
	for _, with := range []string{"none", "ftp"} {
		b.Run("ftp/helper="+with, func(run *testing.B) {
			x := newWorld(run, 1<<10, helperFor(run, with, 21))
			defer x.close()
			x.server = 21
			x.shakeHands()
			ways := [...]*traffic{x.traffic(tuple.Original, line("NOOP\r\n")), x.traffic(tuple.Reply, line("200 \r\n"))}
			watch := newStopwatch(run)
			for i := range batches(run) {
				x.batch(ways[i%2])
			}
			watch.stop()
			watch.report(batches(run) * Batch)
		})
	}
	request := udp("10.0.0.5:5060", "198.51.100.7:5060", body("OPTIONS sip:proxy.example.org SIP/2.0\r\n"+
		"Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1\r\nFrom: <sip:a@example.org>;tag=1\r\nTo: <sip:proxy.example.org>\r\n"+
		"Call-ID: 1@10.0.0.5\r\nCSeq: 1 OPTIONS\r\nContact: <sip:a@10.0.0.5:5060>\r\nContent-Length: 0\r\n\r\n"))
	for _, with := range []string{"none", "sip"} {
		b.Run("sip/helper="+with, func(run *testing.B) {
			x := newWorld(run, 1, helperFor(run, with, 5060))
			defer x.close()
			x.lan.load(batchOf(request), nil)
			x.step()
			watch := newStopwatch(run)
			for range batches(run) {
				x.step()
			}
			watch.stop()
			watch.report(batches(run) * Batch)
			if s := x.e.HelperStats(); with != "none" && s.Edited < uint64(run.N) {
				run.Errorf("%d of %d requests were changed", s.Edited, run.N)
			}
		})
	}
}

// helperFor configures an engine in which flows to a port have a helper.
func helperFor(t testing.TB, name string, port uint16) bulkConfig {
	cfg := bulkConfig{table: conntrack.Config{Max: 1 << 12}}
	if name == "none" {
		return cfg
	}
	set := registry.New()
	number, err := set.Number(name, alg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.table.HelperName = set.Name
	cfg.engine.Helpers = set
	cfg.engine.Helper = func(k tuple.Tuple) uint32 {
		if k.DstPort == port {
			return number
		}
		return 0
	}
	return cfg
}

// BenchmarkPortSearch is first packets to one server while so many of the ports of one
// address are in use: some flows end, uncounted, then as many others begin.
func BenchmarkPortSearch(b *testing.B) {
	for _, k := range []int{0, 2, 5} {
		k := kinds[k]
		for _, use := range []float64{50, 90, 99, 99.9} {
			b.Run(fmt.Sprintf("mapping=%s/use=%v%%", strings.ReplaceAll(k.name, ", ", "+"), use), func(run *testing.B) {
				searchPorts(run, k.mapping, k.filtering, use)
			})
		}
	}
}

func searchPorts(b *testing.B, mapping, filtering nat.Behaviour, use float64) {
	const together = 32 // flows
	ports, all := portsToFill()
	c := newCrowd(b, mapping, filtering, func(s *nat.Source) { s.Ports = ports })
	live := make([]uint32, int(float64(all)*use/100))
	for i := range live {
		live[i] = uint32(i)
	}
	if n := c.beginAll(0, uint32(len(live))); n != len(live) {
		b.Fatalf("%d flows left, want %d", n, len(live))
	}
	frames := batchOf(udp("10.0.0.5:1", "198.51.100.7:53", length(18)))[:together]
	rnd := rand.New(rand.NewPCG(1, 1))
	fresh, took, begun := uint32(len(live)), time.Duration(0), 0
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for ; begun < b.N; begun += together {
		for range together {
			i := rnd.IntN(len(live))
			c.end(live[i])
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
		}
		for _, f := range frames {
			aim(f, fresh, c.dst)
			live = append(live, fresh)
			fresh++
		}
		sent := c.wan.sent
		c.lan.load(frames, nil)
		before := threadTime()
		c.w.Step(c.now)
		took += threadTime() - before
		c.lan.idle = true
		if n := c.wan.sent - sent; n != together {
			b.Fatalf("%d flows left, want %d: dropped %v", n, together, c.e.Stats().Dropped)
		}
	}
	b.ReportMetric(float64(took)/float64(begun), "cpu-ns/op")
	b.ReportMetric(0, "ns/op") // most of that is flows that end
}
