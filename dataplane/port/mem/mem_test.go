package mem

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// pair returns a connected pair that ends with the test.
func pair(t testing.TB, opt Options) (a, b *Port) {
	t.Helper()
	a, b, err := Pair("t", opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// frame returns a packet with an Ethernet frame of n bytes, the last of which is tag.
func frame(n int, tag byte) packet.Packet {
	mem := make([]byte, packet.Headroom+n)
	mem[len(mem)-1] = tag
	return packet.Packet{Mem: mem, Off: packet.Headroom, End: len(mem)}
}

func tags(pkts []packet.Packet) string {
	var s []byte
	for i := range pkts {
		s = append(s, pkts[i].Mem[pkts[i].End-1])
	}
	return string(s)
}

func readable(t *testing.T, fd int) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

func TestFramesCrossInOrderWithTheirMetadata(t *testing.T) {
	a, b := pair(t, Options{GSO: port.WithGSO, MTU: 9000})
	out, in := a.Queue(0), b.Queue(0)
	var sent []packet.Packet
	for i := range 100 {
		p := frame(60+i, byte(i))
		p.Offload = packet.Offload{Flags: packet.NeedsCsum, CsumStart: 34, CsumOffset: 16}
		p.VLAN, p.HasVLAN = uint16(i), i%2 == 1
		sent = append(sent, p)
		if st := out.Send(&p); st != port.Sent {
			t.Fatalf("frame %d: %v, want sent", i, st)
		}
	}
	if refused := out.Flush(); refused != [port.NumStatuses]uint32{} {
		t.Fatalf("refused %v, want none", refused)
	}
	got := make([]packet.Packet, 128)
	n := in.Recv(got)
	if n != len(sent) {
		t.Fatalf("%d frames arrived, want %d", n, len(sent))
	}
	for i, p := range got[:n] {
		w := &sent[i]
		if !bytes.Equal(p.Frame(), w.Frame()) || p.Offload != w.Offload || p.VLAN != w.VLAN || p.HasVLAN != w.HasVLAN {
			t.Errorf("frame %d differs from what was sent", i)
		}
		if p.Off < packet.Headroom {
			t.Errorf("frame %d has %d bytes of headroom, want %d", i, p.Off, packet.Headroom)
		}
	}
}

func TestDescriptorIsReadableWhileFramesWait(t *testing.T) {
	a, b := pair(t, Options{})
	in := b.Queue(0)
	pkts := make([]packet.Packet, 1)
	if readable(t, in.FD()) {
		t.Error("an empty queue polls readable")
	}
	for i := range 2 {
		p := frame(60, byte(i))
		a.Queue(0).Send(&p)
	}
	a.Queue(0).Flush()
	for i := range 2 {
		if !readable(t, in.FD()) {
			t.Errorf("a queue with %d frames does not poll readable", 2-i)
		}
		in.Recv(pkts)
	}
	if readable(t, in.FD()) {
		t.Error("a drained queue polls readable")
	}
}

func TestQueueRefusesWhatItCannotHoldUntilRelease(t *testing.T) {
	a, b := pair(t, Options{Depth: 4})
	out, in := a.Queue(0), b.Queue(0)
	send := func(n int) uint32 {
		for range n {
			p := frame(60, 0)
			out.Send(&p)
		}
		refused := out.Flush()
		return refused[port.Full]
	}
	if r := send(6); r != 2 {
		t.Errorf("depth 4: %d of 6 frames refused, want 2", r)
	}
	pkts := make([]packet.Packet, 8)
	if n := in.Recv(pkts); n != 4 {
		t.Fatalf("%d frames arrived, want 4", n)
	}
	if r := send(1); r != 1 {
		t.Error("a queue whose memory is lent took a frame")
	}
	in.Release()
	if r := send(4); r != 0 {
		t.Errorf("after Release %d of 4 frames refused, want 0", r)
	}
	if d := in.Stats().RxRingDrops; d != 3 {
		t.Errorf("ring drops = %d, want 3", d)
	}
}

func TestSendChecksWhatTheKernelWouldNot(t *testing.T) {
	tcp := packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv4, CsumStart: 34, CsumOffset: 16}
	gso := func(size uint16) packet.Offload { o := tcp; o.GSOSize = size; return o }
	for _, tt := range []struct {
		name string
		opt  Options
		len  int
		off  packet.Offload
		want port.Status
	}{
		{"frame of exactly the MTU is sent", Options{}, 1514, packet.Offload{}, port.Sent},
		{"frame of one byte more is too big", Options{}, 1515, packet.Offload{}, port.TooBig},
		{"IP link has no link-layer header", Options{Link: packet.LinkIP}, 1501, packet.Offload{}, port.TooBig},
		{"super-packet whose segments fit is sent", Options{GSO: port.WithGSO}, 30000, gso(1460), port.Sent},
		{"super-packet whose segments exceed the MTU is too big", Options{GSO: port.WithGSO}, 30000, gso(1461), port.TooBig},
		{"port without offloads takes no super-packet", Options{}, 1000, gso(100), port.Unsupported},
		{"port without offloads takes no partial checksum", Options{}, 1000, packet.Offload{Flags: packet.NeedsCsum}, port.Unsupported},
		{"verified checksum needs no offload", Options{}, 1000, packet.Offload{Flags: packet.DataValid}, port.Sent},
	} {
		a, _ := pair(t, tt.opt)
		p := frame(tt.len, 0)
		p.Offload = tt.off
		if tt.len > 46 {
			p.Mem[p.Off+34+12] = 5 << 4
		}
		if got := a.Queue(0).Send(&p); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestSinglePortInjectsAndTakes(t *testing.T) {
	p, err := New("x", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if st := p.Inject([]byte("hello, port"), packet.Offload{}); st != port.Sent {
		t.Fatalf("Inject: %v", st)
	}
	pkts := make([]packet.Packet, 4)
	q := p.Queue(0)
	if n := q.Recv(pkts); n != 1 || string(pkts[0].Frame()) != "hello, port" {
		t.Fatalf("%d frames, want the injected one", n)
	}
	q.Send(&pkts[0])
	if got := p.Take(); len(got) != 0 {
		t.Fatalf("%d frames left before Flush", len(got))
	}
	q.Flush()
	if got := p.Take(); len(got) != 1 || string(got[0]) != "hello, port" {
		t.Fatalf("Take = %q, want the frame", got)
	}
}

func TestDownPortLosesAndRefuses(t *testing.T) {
	a, b := pair(t, Options{})
	p := frame(60, 0)
	b.SetDown()
	if st := a.Queue(0).Send(&p); st != port.Sent {
		t.Errorf("sender whose peer is down: %v, want sent", st)
	}
	a.Queue(0).Flush()
	if n := b.Queue(0).Recv(make([]packet.Packet, 1)); n != 0 {
		t.Error("a frame arrived at a port that is down")
	}
	if st := b.Queue(0).Send(&p); st != port.Down {
		t.Errorf("sending on a port that is down: %v, want down", st)
	}
}

func TestImpairmentsFollowTheirSeed(t *testing.T) {
	run := func(seed uint64) string {
		a, b := pair(t, Options{Impair: Impair(seed, Rates{Drop: .1, Duplicate: .1, Swap: .1})})
		for i := range 60 {
			p := frame(60, byte('0'+i))
			a.Queue(0).Send(&p)
		}
		a.Queue(0).Flush()
		pkts := make([]packet.Packet, 128)
		return tags(pkts[:b.Queue(0).Recv(pkts)])
	}
	first := run(1)
	if again := run(1); again != first {
		t.Errorf("same seed: %q, then %q", first, again)
	}
	if other := run(2); other == first {
		t.Errorf("another seed gave the same fates: %q", other)
	}
	for _, tt := range []struct {
		fate Fate
		want string
	}{{Pass, "abc"}, {Drop, "ac"}, {Duplicate, "abbc"}, {Swap, "bac"}} {
		n := 0
		a, b := pair(t, Options{Impair: func([]byte) Fate {
			if n++; n == 2 {
				return tt.fate
			}
			return Pass
		}})
		for _, c := range []byte("abc") {
			p := frame(60, c)
			a.Queue(0).Send(&p)
		}
		a.Queue(0).Flush()
		pkts := make([]packet.Packet, 8)
		if got := tags(pkts[:b.Queue(0).Recv(pkts)]); got != tt.want {
			t.Errorf("fate %d of the second frame: %q arrived, want %q", tt.fate, got, tt.want)
		}
	}
}

func TestLinkKindFollowsTheDestination(t *testing.T) {
	p, err := New("x", Options{MAC: [6]byte{2, 0, 0, 0, 0, 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, tt := range []struct {
		dst  [6]byte
		want uint8
	}{
		{[6]byte{2, 0, 0, 0, 0, 1}, unix.PACKET_HOST},
		{[6]byte{2, 0, 0, 0, 0, 2}, unix.PACKET_OTHERHOST},
		{[6]byte{255, 255, 255, 255, 255, 255}, unix.PACKET_BROADCAST},
		{[6]byte{0x33, 0x33, 0, 0, 0, 1}, unix.PACKET_MULTICAST},
	} {
		p.Inject(append(tt.dst[:], make([]byte, 54)...), packet.Offload{})
		pkts := make([]packet.Packet, 1)
		p.Queue(0).Recv(pkts)
		p.Queue(0).Release()
		if pkts[0].LinkKind != tt.want {
			t.Errorf("destination %x: link kind %d, want %d", tt.dst, pkts[0].LinkKind, tt.want)
		}
	}
}

func TestTwoGoroutinesMayShareAWire(t *testing.T) {
	a, b := pair(t, Options{Depth: 64})
	const total = 5000
	done := make(chan error)
	go func() {
		for i := 0; i < total; {
			p := frame(64, byte(i))
			a.Queue(0).Send(&p)
			if r := a.Queue(0).Flush(); r[port.Full] == 0 {
				i++
			}
		}
		done <- nil
	}()
	go func() {
		pkts := make([]packet.Packet, 16)
		in := b.Queue(0)
		for got := 0; got < total; {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(in.FD()), Events: unix.POLLIN}}, 5000); err != nil && err != unix.EINTR {
				done <- err
				return
			}
			n := in.Recv(pkts)
			for i := range pkts[:n] {
				if tag := pkts[i].Mem[pkts[i].End-1]; tag != byte(got+i) {
					done <- fmt.Errorf("frame %d carries tag %d", got+i, tag)
					return
				}
			}
			got += n
			in.Release()
		}
		done <- nil
	}()
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestForwardingAllocatesNothing(t *testing.T) {
	a, b := pair(t, Options{Wake: WakeNone})
	in, back := a.Queue(0), b.Queue(0)
	p := frame(60, 0)
	pkts := make([]packet.Packet, 4)
	cycle := func() {
		in.Send(&p)
		in.Flush()
		back.Recv(pkts)
		back.Release()
	}
	for range 1024 {
		cycle() // slots grow to their size
	}
	if n := testing.AllocsPerRun(2000, cycle); n != 0 {
		t.Errorf("%v allocations a frame, want 0", n)
	}
}
