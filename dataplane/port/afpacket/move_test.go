//go:build netns

package afpacket

import (
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/internal/nstest"
)

// duplicates returns descriptors as another process gets them.
func duplicates(t *testing.T, fds []int) (all []int) {
	t.Helper()
	for _, fd := range fds {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// numbered returns a frame with a number, which number reads.
func numbered(n network, t *testing.T, number, size int) []byte {
	f := frame(n.g0.MAC(t), size)
	f[20], f[21] = byte(number>>8), byte(number)
	return f
}

func number(p *packet.Packet) int {
	f := p.Frame()
	return int(f[20])<<8 | int(f[21])
}

// take receives so many frames in batches, and wants them to be numbered from first on.
func take(t *testing.T, p *Port, first, count int) {
	t.Helper()
	var pkts [7]packet.Packet
	q := p.Queue(0)
	for got := 0; got < count; {
		for i := range recv(t, q, pkts[:min(len(pkts), count-got)]) {
			if is := number(&pkts[i]); is != first+got {
				t.Fatalf("frame %d came in place of %d", is, first+got)
			}
			got++
		}
		q.Release()
	}
}

// Frames that arrive while nobody receives wait for the successor, each once and in their
// order, long ones as well; with a successor that ends, they wait for the predecessor.
func TestSuccessorReceivesFromWhereThePredecessorStopped(t *testing.T) {
	n := newNetwork(t, 1)
	n.mtu(t, 9000)
	cfg := Config{Ifname: n.g0.Name, Netns: n.g0.Netns, Slots: 64}
	old := open(t, n.g0, cfg)
	host := newRaw(t, n.c0)
	sent := 0
	send := func(count int) {
		for range count {
			size := 100
			if sent%5 == 0 {
				size = 5000
			}
			host.send(t, numbered(n, t, sent, size))
			sent++
		}
	}
	send(50)
	take(t, old, 0, 40)
	next, err := Adopt(cfg, duplicates(t, old.Descriptors()))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	send(20) // beyond the end of the ring
	if err := next.Resume(old.Rests()); err != nil {
		t.Fatal(err)
	}
	if got := next.Queue(0).Stats().RxFrames; got != 40 {
		t.Errorf("the successor counts from %d frames, want 40", got)
	}
	take(t, next, 40, 25)
	old.Strayed()
	take(t, old, 65, 5)
	next.Queue(0)
	old.Strayed()
	if got := old.Queue(0).Recv(make([]packet.Packet, 1)); got != 0 {
		t.Fatal("a frame came twice")
	}
	send(30)
	take(t, old, 70, 30)
	if st := old.Queue(0).Stats(); st.RxRingDrops+st.RxTruncated != 0 {
		t.Errorf("frames were lost: %+v", st)
	}
}

// Whoever asks the kernel how many frames found no place clears the count there: until the
// successor goes on the predecessor does, and from then on nobody but the successor,
// however often both are asked.
func TestFramesThatFindNoPlaceDuringAnUpgradeAreCountedOnce(t *testing.T) {
	n := newNetwork(t, 1)
	cfg := Config{Ifname: n.g0.Name, Netns: n.g0.Netns, Slots: 64}
	old := open(t, n.g0, cfg)
	host := newRaw(t, n.c0)
	send := func(count int) {
		for range count {
			host.send(t, frame(n.g0.MAC(t), 100))
		}
	}
	ringDrops := func(p *Port) uint64 { return p.Queue(0).Stats().RxRingDrops }
	wantCounted := func(by string, p, other *Port, want uint64) {
		t.Helper()
		nstest.Eventually(t, by+" has counted them all", func() bool {
			ringDrops(other) // which reads first
			return ringDrops(p) == want
		})
	}
	adopt := func() *Port {
		next, err := Adopt(cfg, duplicates(t, old.Descriptors()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { next.Close() })
		return next
	}
	send(70)
	failed := adopt()
	wantCounted("the predecessor", old, failed, 6)
	old.Rests()
	send(10) // while packets wait for a successor that ends
	old.Strayed()
	wantCounted("the predecessor that goes on", old, failed, 16)

	next := adopt()
	rests := old.Rests()
	send(20)
	if err := next.Resume(rests); err != nil {
		t.Fatal(err)
	}
	wantCounted("the successor", next, old, 36)
	if got := ringDrops(old); got != 16 {
		t.Errorf("the predecessor counts %d, had %d when it stopped", got, 16)
	}
}

func TestAdoptRefusesOtherSockets(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{Slots: 64})
	for claim, tt := range map[string]struct {
		cfg Config
		fds []int
	}{
		"of another interface":             {Config{Ifname: n.g1.Name, Slots: 64}, p.Descriptors()},
		"of another ring":                  {Config{Ifname: n.g0.Name, Slots: 128}, p.Descriptors()},
		"that are none":                    {Config{Ifname: n.g0.Name, Slots: 64}, []int{0}},
		"of no interface there":            {Config{Ifname: "none0", Slots: 64}, p.Descriptors()},
		"of another ring for large frames": {Config{Ifname: n.g0.Name, Slots: 64}, []int{p.queues[0].rx.fd, p.queues[0].rx.fd}},
		"of too many queues":               {Config{Ifname: n.g0.Name, Slots: 64}, append(p.Descriptors(), p.queues[0].rx.fd)},
	} {
		tt.cfg.Netns = n.g0.Netns
		if q, err := Adopt(tt.cfg, duplicates(t, tt.fds)); err == nil {
			t.Errorf("sockets %s were taken", claim)
			q.Close()
		}
	}
	rest := p.Rests()
	rest[0].Next = 64
	refused := p.Resume(rest) != nil
	rest[0].Next, rest[0].Large = 0, largeLen
	if !refused || p.Resume(rest) == nil || p.Resume(nil) == nil {
		t.Error("a slot beyond the ring, or too few queues, were taken")
	}
	newRaw(t, n.c0).send(t, frame(n.g0.MAC(t), 100))
	nstest.Eventually(t, "the port still receives", func() bool { return p.Queue(0).Recv(make([]packet.Packet, 1)) == 1 })
}
