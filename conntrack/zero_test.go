package conntrack

import (
	"sync"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func (t *Table) zeroAll() (packets, bytes uint64) {
	t.ZeroFrom(0, func(*Flow) bool { return true }, func(f *Flow) bool {
		packets, bytes = packets+f.Packets[0], bytes+f.Bytes[0]
		return true
	})
	return packets, bytes
}

func TestZeroedCountersBeginAnew(t *testing.T) {
	w := newWorker(t, Config{Max: 10, Workers: 1})
	p := proposal(flowTuple(tuple.UDP, 1))
	r := mustAdmit(t, w, p, data, start)
	for i, more := range []int{1, 0, 3} {
		packets, bytes := w.t.zeroAll()
		if packets != uint64(more) || bytes != uint64(100*more) {
			t.Errorf("reading %d: %d packets, %d bytes, want %d and %d", i, packets, bytes, more, 100*more)
		}
		if f, _ := w.t.Get(p.Original); f.Packets[0] != 0 {
			t.Errorf("after reading %d the flow has %d packets", i, f.Packets[0])
		}
		if i == 1 {
			for range 3 {
				w.Track(r, data, start)
			}
		}
	}
}

func TestZeroedCountersAreNotThoseOfTheNextFlow(t *testing.T) {
	w := newWorker(t, Config{Max: 10, Workers: 1})
	for i := range 5000 { // until slots are used again
		p := proposal(flowTuple(tuple.UDP, i))
		mustAdmit(t, w, p, data, start)
		if packets, _ := w.t.zeroAll(); packets != 1 {
			t.Fatalf("flow %d began with %d packets", i, packets)
		}
		if err := w.t.Delete(p.Original); err != nil {
			t.Fatal(err)
		}
		w.Begin(start)
	}
}

func TestDestroyTellsPacketsSinceTheyWereZeroed(t *testing.T) {
	w := newWorker(t, Config{Max: 10, Workers: 1})
	sub := w.t.Subscribe(10, DestroyEvents)
	defer sub.Close()
	p := proposal(flowTuple(tuple.UDP, 1))
	r := mustAdmit(t, w, p, data, start)
	w.t.zeroAll()
	w.Track(r, data, start)
	w.Track(r, data, start)
	w.Kill(r)
	if e := <-sub.Events(); e.Flow.Packets[0] != 2 {
		t.Errorf("%d packets, want 2", e.Flow.Packets[0])
	}
}

// TestEveryPacketIsToldOnce has two readers zero the counters of a flow that is in use.
func TestEveryPacketIsToldOnce(t *testing.T) {
	w := newWorker(t, Config{Max: 10, Workers: 1})
	r := mustAdmit(t, w, proposal(flowTuple(tuple.UDP, 1)), data, start)
	const packets = 100_000
	done := make(chan struct{})
	var told [2]uint64
	var readers sync.WaitGroup
	for i := range told {
		readers.Go(func() {
			for last := false; !last; {
				select {
				case <-done:
					last = true
				default:
				}
				n, _ := w.t.zeroAll()
				told[i] += n
			}
		})
	}
	for range packets {
		w.Track(r, data, start)
	}
	close(done)
	readers.Wait()
	if sum := told[0] + told[1]; sum != packets+1 {
		t.Errorf("%d packets were told, want %d", sum, packets+1)
	}
}
