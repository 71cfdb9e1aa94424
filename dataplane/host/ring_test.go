package host

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"example.com/culvert/dataplane/packet"
)

func TestRingKeepsRecordsWholeAndInOrder(t *testing.T) {
	r := newRing(0)
	rnd := rand.New(rand.NewPCG(1, 2))
	type record struct {
		id      uint16
		content []byte
	}
	var want []record
	check := func() {
		for len(want) > 0 {
			s, pos := r.read()
			if s == nil {
				t.Fatalf("ring is empty, want %d records", len(want))
			}
			w := want[0]
			want = want[1:]
			if got := r.content(pos, int(s.length)); s.id != w.id || !bytes.Equal(got, w.content) {
				t.Fatalf("record %d differs", w.id)
			}
		}
		r.release()
	}
	for i := range 5000 {
		b := make([]byte, 1+rnd.IntN(1<<(4+rnd.IntN(13))))
		b[0], b[len(b)-1] = byte(i), byte(i>>8)
		if !r.put(kindLocal, uint16(i), b, packet.Offload{}) {
			check()
			if !r.put(kindLocal, uint16(i), b, packet.Offload{}) {
				t.Fatalf("empty ring refuses %d bytes", len(b))
			}
		}
		want = append(want, record{uint16(i), b})
	}
	check()
}

func TestRingRefusesWhatDoesNotFit(t *testing.T) {
	r := newRing(0)
	if r.put(kindLocal, 0, make([]byte, maxBytes+1), packet.Offload{}) {
		t.Error("took a record longer than the ring")
	}
	if !r.put(kindLocal, 0, make([]byte, maxBytes), packet.Offload{}) {
		t.Error("refused the longest record")
	}
	if r.put(kindLocal, 0, nil, packet.Offload{}) {
		t.Error("took a record when full")
	}
	if got := r.full.Load(); got != 2 {
		t.Errorf("full = %d, want 2", got)
	}
}

func TestRingRecordsHaveHeadroomOfTheirOwn(t *testing.T) {
	r := newRing(0)
	r.put(kindLocal, 0, bytes.Repeat([]byte{1}, slotSize-packet.Headroom), packet.Offload{})
	r.put(kindLocal, 0, []byte{2}, packet.Offload{})
	_, first := r.read()
	s, pos := r.read()
	at := int(pos&r.mask)*slotSize + packet.Headroom
	clear(r.mem[at-packet.Headroom : at])
	if got := r.content(first, slotSize-packet.Headroom); got[len(got)-1] != 1 || s.length != 1 {
		t.Error("headroom of a record belongs to the one before it")
	}
}

func TestRingManyProducers(t *testing.T) {
	const producers, each = 4, 3000
	r := newRing(128)
	var wg sync.WaitGroup
	for id := range uint16(producers) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(id), 0))
			for i := uint32(0); i < each; {
				b := make([]byte, 4+rnd.IntN(4*slotSize))
				binary.NativeEndian.PutUint32(b, i)
				if r.put(kindLocal, id, b, packet.Offload{GSOSize: uint16(len(b))}) {
					i++
				}
			}
		})
	}
	var next [producers]uint32
	for total := 0; total < producers*each; {
		s, pos := r.read()
		if s == nil {
			continue
		}
		got := binary.NativeEndian.Uint32(r.content(pos, int(s.length)))
		if got != next[s.id] || s.off.GSOSize != uint16(s.length) {
			t.Fatalf("producer %d: record %d of %d bytes, want record %d of %d", s.id, got, s.length, next[s.id], s.off.GSOSize)
		}
		next[s.id]++
		total++
		r.release()
	}
	wg.Wait()
}

func TestDeliveryDoesNotAllocate(t *testing.T) {
	b := newBench(t, Config{})
	ip := make([]byte, 1500)
	if n := testing.AllocsPerRun(100, func() {
		b.DeliverLocal(ip, packet.Offload{})
		b.DeliverLink(lan, ip)
		b.Resolve(lan, client4)
		b.locals.read()
		b.locals.release()
		b.links.read()
		b.links.read()
		b.links.release()
	}); n != 0 {
		t.Errorf("%v allocations a packet, want 0", n)
	}
}

func TestRingsTellHowFullTheyAre(t *testing.T) {
	b := newBench(t, Config{QueueLen: 64})
	byName := func() map[RingName]RingLoad {
		all := map[RingName]RingLoad{}
		for _, r := range b.RingLoads() {
			all[r.Name] = r
		}
		return all
	}
	if !b.DeliverLink(lan, arpAnswer(t, theirMAC)) {
		t.Fatal("a frame was refused")
	}
	if got, want := byName()[RingLink], (RingLoad{RingLink, 1, 64}); got != want {
		t.Errorf("with one frame: %+v, want %+v", got, want)
	}
	ping := echo(t, gateway4.Addr())
	for b.DeliverLocal(ping, packet.Offload{}) {
	}
	if got := byName()[RingIn]; got.Used < got.Size/2 || got.Used > got.Size {
		t.Errorf("after a flood: %+v", got)
	}
	b.poll()
	for _, name := range []RingName{RingLink, RingQuestion} {
		if got := byName()[name]; got.Used != 0 {
			t.Errorf("after a turn: %+v", got)
		}
	}
}
