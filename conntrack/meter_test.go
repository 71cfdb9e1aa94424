package conntrack

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
)

// measured is a Reading and whose it is.
type measured struct {
	Reading
	flow Flow
}

// pass returns the readings by source port.
func pass(m *Meter) map[uint16]measured {
	all := map[uint16]measured{}
	m.Pass(func(r *Reading) {
		x := measured{Reading: *r}
		r.Copy(&x.flow)
		all[x.flow.Tuple[tuple.Original].SrcPort] = x
	})
	return all
}

func TestMeterTellsWhatWasCarriedSinceTheLastPass(t *testing.T) {
	for _, proto := range []uint8{tuple.UDP, tuple.TCP} {
		w := newWorker(t, Config{Max: 1000})
		first := syn
		if proto == tuple.UDP {
			first = data
		}
		quiet := mustAdmit(t, w, proposal(flowTuple(proto, 1)), first, start)
		loud := mustAdmit(t, w, proposal(flowTuple(proto, 2)), first, start)
		m := w.t.NewMeter()
		if all := pass(m); len(all) != 2 || !all[1].Began || all[1].Packets != 1 || all[1].Bytes[tuple.Original] != uint64(first.Bytes) {
			t.Fatalf("first pass: %+v; want two flows that began, a packet each", all)
		}
		for range 3 {
			w.Track(loud, first, start)
		}
		w.Track(Ref{loud.Slot, tuple.Reply}, &Segment{Bytes: 70, Flags: SYN | ACK, Window: 1000, Seq: 5, Ack: 1001}, start)
		all := pass(m)
		if r := all[1]; r.Began || r.Packets != 0 || r.Bytes != [2]uint64{} {
			t.Errorf("%d: the flow without packets: %+v", proto, r)
		}
		if r := all[2]; r.Began || r.Packets != 4 || r.Bytes != [2]uint64{3 * uint64(first.Bytes), 70} || r.Total != 4*uint64(first.Bytes)+70 {
			t.Errorf("%d: the flow with four packets: %+v", proto, r)
		}
		if addr, zone, ok := w.t.Client(all[2].Client); !ok || zone != 0 || addr != all[2].flow.Tuple[tuple.Original].Src.Netip() {
			t.Errorf("client %v in zone %d, %v", addr, zone, ok)
		}

		w.End(quiet, Unspecified)
		for range 4 { // until its slot is used again
			w.Begin(start)
		}
		mustAdmit(t, w, proposal(flowTuple(proto, 3)), first, start)
		all = pass(m)
		if r, ok := all[3]; !ok || !r.Began || r.Packets != 1 || len(all) != 2 {
			t.Errorf("%d: after one flow took the place of another: %+v", proto, all)
		}
	}
}

func BenchmarkMeter(b *testing.B) {
	w := newWorker(b, Config{Max: 1 << 20})
	establish(b, w, tuple.UDP, flowRange{to: 1_000_000})
	m, n := w.t.NewMeter(), 0
	for b.Loop() {
		m.Pass(func(r *Reading) { n++ })
	}
	if n != b.N*1_000_000 {
		b.Errorf("%d readings of %d passes", n, b.N)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ns/flow")
}

// TestMeterAndCensusBesideWorkers has flows begin, carry packets and end while they are
// counted: no reading is absurd, and at the end all agree.
func TestMeterAndCensusBesideWorkers(t *testing.T) {
	w := newWorker(t, Config{Max: 4096})
	stop, done := make(chan struct{}), make(chan struct{})
	m := w.t.NewMeter()
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			m.Pass(func(r *Reading) {
				if r.Packets > 1<<20 || r.Bytes[0]+r.Bytes[1] > 1<<30 || r.Total > 1<<30 {
					t.Errorf("%+v", r)
				}
			})
			c, n := w.t.Census(), 0
			c.Each(func(_, _ string, flows int) { n += flows })
			if n > 4096 {
				t.Errorf("%d flows of 4096", n)
			}
		}
	}()
	const flows = 200
	for round := range Tick(300) {
		now := start + round
		w.Begin(now)
		for i := range flows {
			k := flowTuple(tuple.UDP, i)
			if r := w.Find(&k); !r.Found() {
				mustAdmit(t, w, proposal(k), data, now)
			} else if w.Track(r, data, now); (int(round)+i)%50 == 0 {
				w.End(r, Unspecified)
			}
		}
	}
	close(stop)
	<-done
	left, n := 0, 0
	m.Pass(func(*Reading) { left++ })
	c := w.t.Census()
	c.Each(func(_, _ string, flows int) { n += flows })
	if left != w.t.Len() || n != left {
		t.Errorf("%d flows: the meter sees %d, the census %d", w.t.Len(), left, n)
	}
}
