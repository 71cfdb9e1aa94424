//go:build netns

package afpacket

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/nstest"
)

// jumbo is a network whose frames may be as long as super-packets.
func jumbo(t *testing.T) network {
	t.Helper()
	n := newNetwork(t, 1)
	n.mtu(t, 65535)
	return n
}

// sizes of frames of the ring, of the socket's queue and of the ring for large ones.
var sizes = []int{100, 5000, largeFrom + 14, 60000}

func TestFramesOfAllSizesComeInTheirOrder(t *testing.T) {
	n := jumbo(t)
	for queues, batch := range map[int]int{1: 7, 2: 64, 3: 33} { // more of them than large ones may be lent
		p := open(t, n.g0, Config{Queues: queues, Slots: 64})
		host := newRaw(t, n.c0)
		r := rand.New(rand.NewPCG(7, 8))
		sent, got := 0, 0
		pkts := make([]packet.Packet, batch)
		for round := range 60 { // many times around each ring
			for range 20 {
				host.send(t, numbered(n, t, sent, sizes[r.IntN(len(sizes))]))
				sent++
			}
			for got < sent-round%3 { // some wait for the next round
				for i := range recv(t, p.Queue(0), pkts) {
					if is := number(&pkts[i]); is != got {
						t.Fatalf("%d queues: frame %d came in place of %d", queues, is, got)
					}
					got++
				}
				p.Queue(0).Release()
			}
		}
		if st := p.Queue(0).Stats(); st.RxRingDrops+st.RxTruncated != 0 {
			t.Errorf("%d queues: frames were lost: %+v", queues, st)
		}
	}
}

func TestLargeFramesHaveTheirOwnRing(t *testing.T) {
	n := jumbo(t)
	p := open(t, n.g0, Config{Slots: 64})
	q := p.queues[0]
	host := newRaw(t, n.c0)
	const total = largeLen + 5
	for i := range total {
		host.send(t, numbered(n, t, i, 30000))
	}
	host.send(t, numbered(n, t, total, 100))
	var st port.Stats
	nstest.Eventually(t, "the kernel counted its drops", func() bool {
		st = q.Stats()
		return st.RxRingDrops >= 5
	})
	if st.RxRingDrops != 5 {
		t.Errorf("%d large frames into %d slots: %d drops, want 5", total, largeLen, st.RxRingDrops)
	}
	var pkts [64]packet.Packet
	if got := q.Recv(pkts[:]); got != bigFrames {
		t.Errorf("%d frames at once, want %d: the small one came behind all the others", got, bigFrames)
	}
	for i := range bigFrames {
		if f := pkts[i].Frame(); len(f) != 30000 || number(&pkts[i]) != i || f[29999] != byte(29999&0xff) {
			t.Errorf("frame %d has %d bytes and number %d", i, len(f), number(&pkts[i]))
		}
	}
	q.Release()
	if got := q.Recv(pkts[:]); got != largeLen-bigFrames+1 || number(&pkts[got-1]) != total {
		t.Errorf("then %d frames, want %d and the small one", got, largeLen-bigFrames)
	}
	q.Release()
}

func TestAnySocketThatHasAFrameWakes(t *testing.T) {
	n := jumbo(t)
	q := open(t, n.g0, Config{}).queues[0]
	host := newRaw(t, n.c0)
	for _, size := range sizes {
		if readable(t, q.FD()) || readable(t, q.SecondFD()) {
			t.Fatal("readable while there is nothing")
		}
		host.send(t, frame(n.g0.MAC(t), size))
		nstest.Eventually(t, "one of both is readable", func() bool { return readable(t, q.FD()) || readable(t, q.SecondFD()) })
		recv(t, q, make([]packet.Packet, 1))
		q.Release()
	}
}

// Large frames that arrive while nobody receives wait for the successor, each once and
// among the others; with a successor that ends, they wait for the predecessor.
func TestLargeFramesAreHandedOverWithTheOthers(t *testing.T) {
	n := jumbo(t)
	cfg := Config{Ifname: n.g0.Name, Netns: n.g0.Netns, Slots: 64}
	old := open(t, n.g0, cfg)
	host := newRaw(t, n.c0)
	sent := 0
	send := func(count int) {
		for range count {
			host.send(t, numbered(n, t, sent, sizes[sent%len(sizes)]))
			sent++
		}
	}
	send(50)
	take(t, old, 0, 30)
	next, err := Adopt(cfg, duplicates(t, old.Descriptors()))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	send(20)
	if err := next.Resume(old.Rests()); err != nil {
		t.Fatal(err)
	}
	take(t, next, 30, 40)
	send(20)
	take(t, next, 70, 10)
	if !readable(t, next.queues[0].SecondFD()) {
		t.Error("large frames do not arrive in their own ring")
	}
	next.Close()
	old.Strayed()
	take(t, old, 80, 10)
	send(30)
	take(t, old, 90, 30)
	if st := old.Queue(0).Stats(); st.RxRingDrops+st.RxTruncated != 0 {
		t.Errorf("frames were lost: %+v", st)
	}
}

func readable(t *testing.T, fd int) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	if err != nil && err != unix.EINTR {
		t.Fatal(err)
	}
	return n == 1
}

// TestLargeFramesWaitForNoSmallOneAfterARollBack: the process that goes on after all reads
// its rings anew, of which only one has a frame.
func TestLargeFramesWaitForNoSmallOneAfterARollBack(t *testing.T) {
	n := jumbo(t)
	p := open(t, n.g0, Config{Slots: 64})
	p.Rests()
	p.Strayed()
	newRaw(t, n.c0).send(t, numbered(n, t, 0, 30000))
	q := p.queues[0]
	nstest.Eventually(t, "a large frame is there", func() bool { return readable(t, q.SecondFD()) })
	if got := q.Recv(make([]packet.Packet, 7)); got != 1 {
		t.Errorf("%d frames, want 1", got)
	}
}
