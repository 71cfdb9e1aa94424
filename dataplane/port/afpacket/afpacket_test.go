//go:build netns

package afpacket

import (
	"encoding/json"
	"net"
	"os/exec"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/internal/nstest"
)

// network is client c0 - g0 gateway g1 - s0 server. Without addresses no kernel sends
// anything of its own, not even MLD reports; the gateway never has any.
type network struct {
	c0, g0, g1, s0 nstest.End
}

const (
	client4, client6 = "10.77.1.2", "2001:db8:1::2"
	server4, server6 = "10.77.2.2", "2001:db8:2::2"
)

func newNetwork(t testing.TB, queues int) network {
	t.Helper()
	c, g, s := nstest.Namespace(t, "c"), nstest.Namespace(t, "g"), nstest.Namespace(t, "s")
	n := network{
		c0: nstest.End{Netns: c, Name: "c0", Queues: queues}, g0: nstest.End{Netns: g, Name: "g0", Queues: queues},
		g1: nstest.End{Netns: g, Name: "g1", Queues: queues}, s0: nstest.End{Netns: s, Name: "s0", Queues: queues},
	}
	nstest.Veth(t, n.c0, n.g0)
	nstest.Veth(t, n.g1, n.s0)
	return n
}

// address gives client and server addresses, and routes by the gateway.
func (n network) address(t testing.TB) {
	t.Helper()
	n.c0.Address(t, client4+"/24", client6+"/64")
	n.s0.Address(t, server4+"/24", server6+"/64")
	n.c0.Via(t, "10.77.1.1", n.g0.MAC(t))
	n.c0.Via(t, "2001:db8:1::1", n.g0.MAC(t))
	n.s0.Via(t, "10.77.2.1", n.g1.MAC(t))
	n.s0.Via(t, "2001:db8:2::1", n.g1.MAC(t))
}

// open opens e as a port that ends with the test.
func open(t testing.TB, e nstest.End, cfg Config) *Port {
	t.Helper()
	cfg.Ifname, cfg.Netns = e.Name, e.Netns
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

func (n network) forward(t testing.TB, cfg Config) (a, b *Port) {
	t.Helper()
	a, b = open(t, n.g0, cfg), open(t, n.g1, cfg)
	nstest.Forward(t, nstest.Side{Port: a, Peer: [6]byte(n.c0.MAC(t))}, nstest.Side{Port: b, Peer: [6]byte(n.s0.MAC(t))})
	return a, b
}

func TestBulkTCPPassesWholeWithOffloadsOn(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		size int
	}{
		{"one queue", Config{}, 200 << 20},
		{"two queues by hash", Config{Queues: 2}, 100 << 20},
		{"two queues by CPU", Config{Queues: 2, Fanout: FanoutCPU}, 50 << 20},
		{"through the queueing discipline", Config{Qdisc: UseQdisc}, 50 << 20},
		{"through it with two queues", Config{Queues: 2, Qdisc: UseQdisc}, 10 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t, tt.cfg.Queues)
			n.address(t)
			a, b := n.forward(t, tt.cfg)
			size := tt.size
			t.Logf("IPv4 up   %5.1f Gbit/s", nstest.Transfer(t, n.c0.Netns, n.s0.Netns, server4, size))
			t.Logf("IPv6 up   %5.1f Gbit/s", nstest.Transfer(t, n.c0.Netns, n.s0.Netns, server6, size))
			t.Logf("IPv4 down %5.1f Gbit/s", nstest.Transfer(t, n.s0.Netns, n.c0.Netns, client4, size))
			t.Logf("IPv6 down %5.1f Gbit/s", nstest.Transfer(t, n.s0.Netns, n.c0.Netns, client6, size))
			for _, p := range []*Port{a, b} {
				var bytes uint64
				for i := range p.Info().NumQueues {
					st := p.Queue(i).Stats()
					t.Logf("%s queue %d: %+v", p.Info().Name, i, st)
					bytes += st.RxBytes
				}
				if bytes > uint64(3*size) { // two transfers, acknowledgements, some retransmissions
					t.Errorf("%s received %d bytes of %d: the queues see frames of each other", p.Info().Name, bytes, 2*size)
				}
			}
		})
	}
}

// raw is a packet socket of a host, for frames that no stack would send.
type raw struct {
	fd, index int
}

func newRaw(t testing.TB, e nstest.End) raw {
	t.Helper()
	r := raw{index: e.Index(t)}
	nstest.Do(t, e.Netns, func() (err error) {
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Ifindex: r.index, Protocol: all<<8 | all>>8})
	})
	t.Cleanup(func() { unix.Close(r.fd) })
	return r
}

func (r raw) send(t testing.TB, frame []byte) {
	t.Helper()
	if err := unix.Sendto(r.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: r.index}); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next frame that was not sent here, with its stripped tag (or -1).
func (r raw) receive(t testing.TB) (frame []byte, tag int) {
	t.Helper()
	for {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, 5000); n != 1 && err != unix.EINTR {
			t.Fatalf("no frame within 5 s (%v)", err)
		}
		buf, oob := make([]byte, 70000), make([]byte, 128)
		n, oobn, _, from, err := unix.Recvmsg(r.fd, buf, oob, unix.MSG_DONTWAIT)
		if err != nil {
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			t.Fatal(err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		tag = -1
		cmsgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, c := range cmsgs {
			status := uint32(c.Data[0]) | uint32(c.Data[1])<<8
			if status&unix.TP_STATUS_VLAN_VALID != 0 {
				tag = int(c.Data[16]) | int(c.Data[17])<<8
			}
		}
		return buf[:n], tag
	}
}

// frame returns an Ethernet frame of n bytes to dst, of an experimental type,
// with the given bytes between addresses and type.
func frame(dst net.HardwareAddr, n int, tag ...byte) []byte {
	f := make([]byte, 0, n)
	f = append(f, dst...)
	f = append(f, 2, 0, 0, 0, 0, 9)
	f = append(f, tag...)
	f = append(f, 0x88, 0xb5) // IEEE 802 local experimental
	for len(f) < n {
		f = append(f, byte(len(f)))
	}
	return f
}

// recv waits for the next batch.
func recv(t testing.TB, q port.Queue, pkts []packet.Packet) []packet.Packet {
	t.Helper()
	n := 0
	nstest.Eventually(t, "a frame arrived", func() bool {
		n = q.Recv(pkts)
		return n > 0
	})
	return pkts[:n]
}

func TestQueuesSeeEachFrameOnce(t *testing.T) {
	for f, name := range map[Fanout]string{FanoutSteer: "table", FanoutHash: "hash", FanoutCPU: "cpu", FanoutQM: "queue"} {
		n := newNetwork(t, 2)
		p := open(t, n.g0, Config{Queues: 2, Fanout: f})
		host := newRaw(t, n.c0)
		const total = 50
		for range total {
			host.send(t, frame(n.g0.MAC(t), 100))
		}
		pkts := make([]packet.Packet, total)
		got := 0
		nstest.Eventually(t, "all frames arrived", func() bool {
			got += p.Queue(0).Recv(pkts) + p.Queue(1).Recv(pkts)
			return got >= total
		})
		if again := p.Queue(0).Recv(pkts) + p.Queue(1).Recv(pkts); got+again != total {
			t.Errorf("fanout by %s: %d frames arrived, want %d", name, got+again, total)
		}
	}
}

func TestTagsComeStrippedAndLeaveInserted(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{})
	host := newRaw(t, n.c0)
	mac := n.g0.MAC(t)
	q := p.Queue(0)
	var pkts [4]packet.Packet
	for _, tt := range []struct {
		name string
		len  int
	}{
		{"a frame of the ring", 200},
		{"a frame longer than a slot", 3000},
	} {
		n.mtu(t, 4000)
		if _, err := p.Refresh(); err != nil {
			t.Fatal(err)
		}
		host.send(t, frame(mac, tt.len+4, 0x81, 0x00, 0x60, 0x2a)) // priority 3, VLAN 42
		in := &recv(t, q, pkts[:])[0]
		if !in.HasVLAN || in.VLAN != 0x602a {
			t.Errorf("%s: tag %v %#x, want true 0x602a", tt.name, in.HasVLAN, in.VLAN)
		}
		if got := in.Frame(); len(got) != tt.len || got[12] != 0x88 || got[13] != 0xb5 {
			t.Errorf("%s: %d bytes with type %x, want %d bytes without tag", tt.name, len(got), got[12:14], tt.len)
		}
		if in.Off < packet.Headroom {
			t.Errorf("%s: %d bytes of headroom, want %d", tt.name, in.Off, packet.Headroom)
		}
		in.VLAN = 0x2007
		before := string(in.Frame())
		if st := q.Send(in); st != port.Sent {
			t.Fatalf("%s: %v, want sent", tt.name, st)
		}
		if r := q.Flush(); r != [port.NumStatuses]uint32{} {
			t.Errorf("%s: refused %v", tt.name, r)
		}
		if string(in.Frame()) != before {
			t.Errorf("%s: Send changed the frame", tt.name)
		}
		q.Release()
		got, tag := host.receive(t)
		if tag != 0x2007 || len(got) != tt.len {
			t.Errorf("%s: left with tag %#x and %d bytes, want 0x2007 and %d", tt.name, tag, len(got), tt.len)
		}
		host.send(t, frame(mac, tt.len, 0x88, 0xa8, 0, 1)) // a service tag
		host.send(t, frame(mac, tt.len))
		in = &recv(t, q, pkts[:])[0]
		if in.HasVLAN {
			t.Errorf("%s: an untagged frame came with tag %#x", tt.name, in.VLAN)
		}
		q.Release()
	}
	if f := q.Stats().RxForeignTag; f != 2 {
		t.Errorf("frames with a foreign tag = %d, want 2", f)
	}
}

// mtu sets the MTU of the client's link.
func (n network) mtu(t testing.TB, mtu int) {
	t.Helper()
	for _, e := range []nstest.End{n.c0, n.g0} {
		e.Change(t, func(l netlink.Link) error { return netlink.LinkSetMTU(l, mtu) })
	}
}

func TestTaggedBulkTCPIsSegmentedRight(t *testing.T) {
	n := newNetwork(t, 1)
	n.address(t)
	a, b := open(t, n.g0, Config{}), open(t, n.g1, Config{})
	// The server's end sees VLAN 5 frames as its own: no VLAN device is needed to
	// check what left, a second forwarder takes the tag off again.
	far := nstest.Namespace(t, "far")
	f0, f1 := nstest.End{Netns: n.s0.Netns, Name: "f0"}, nstest.End{Netns: far, Name: "f1"}
	nstest.Veth(t, f0, f1)
	f1.Address(t, "10.77.3.2/24")
	f1.Via(t, "10.77.3.1", f0.MAC(t))
	c, d := open(t, n.s0, Config{}), open(t, f0, Config{})
	nstest.Forward(t, nstest.Side{Port: a, Peer: [6]byte(n.c0.MAC(t))}, nstest.Side{Port: b, Peer: [6]byte(n.s0.MAC(t)), VLAN: 5})
	nstest.Forward(t, nstest.Side{Port: c, Peer: [6]byte(n.g1.MAC(t)), VLAN: 6}, nstest.Side{Port: d, Peer: [6]byte(f1.MAC(t))})
	t.Logf("%.1f Gbit/s", nstest.Transfer(t, n.c0.Netns, far, "10.77.3.2", 200<<20))
}

func TestFullRingIsCounted(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{Slots: 64})
	host := newRaw(t, n.c0)
	for range 100 {
		host.send(t, frame(n.g0.MAC(t), 100))
	}
	q := p.Queue(0)
	var drops uint64
	nstest.Eventually(t, "the kernel counted its drops", func() bool {
		drops = q.Stats().RxRingDrops
		return drops >= 36
	})
	if drops != 36 {
		t.Errorf("100 frames into 64 slots: %d drops, want 36", drops)
	}
	pkts := make([]packet.Packet, 128)
	if got := q.Recv(pkts); got != 64 {
		t.Errorf("%d frames received, want 64", got)
	}
	if got := q.Recv(pkts); got != 0 {
		t.Errorf("%d frames received while all slots are lent", got)
	}
	q.Release()
	host.send(t, frame(n.g0.MAC(t), 100))
	recv(t, q, pkts)
}

func TestLongFramesWaitForRelease(t *testing.T) {
	n := newNetwork(t, 1)
	n.mtu(t, 9000)
	p := open(t, n.g0, Config{})
	host := newRaw(t, n.c0)
	const total = bigFrames + 3
	for i := range total {
		f := frame(n.g0.MAC(t), 5000)
		f[4999] = byte(i)
		host.send(t, f)
	}
	q := p.Queue(0)
	pkts := make([]packet.Packet, 64)
	for got := 0; got < total; {
		for _, in := range recv(t, q, pkts) {
			if f := in.Frame(); len(f) != 5000 || f[4999] != byte(got) {
				t.Fatalf("frame %d: %d bytes, mark %d", got, len(f), f[len(f)-1])
			}
			got++
		}
		q.Release()
	}
}

func TestLongFramesWithoutRoomAreCounted(t *testing.T) {
	n := newNetwork(t, 1)
	n.mtu(t, 9000)
	p := open(t, n.g0, Config{})
	if err := unix.SetsockoptInt(p.queues[0].rx.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	host := newRaw(t, n.c0)
	const total = 8
	for range total {
		host.send(t, frame(n.g0.MAC(t), 5000))
	}
	host.send(t, frame(n.g0.MAC(t), 60))
	q := p.Queue(0)
	pkts := make([]packet.Packet, 64)
	whole := 0
	for last := 0; last != 60; {
		for _, in := range recv(t, q, pkts) {
			if last = len(in.Frame()); last == 5000 {
				whole++
			}
		}
		q.Release()
	}
	if cut := int(q.Stats().RxTruncated); cut == 0 || whole == 0 || cut+whole != total {
		t.Errorf("%d whole and %d truncated of %d frames; want some of each", whole, cut, total)
	}
}

func TestFilterOfTheInterfaceIsOpenAsAskedUntilClose(t *testing.T) {
	for _, tt := range []struct {
		claim             string
		accept            Accept
		allmulti, promisc int
	}{
		{"own addresses only", AcceptOwn, 0, 0},
		{"every group", AcceptAllMulticast, 1, 0},
		{"everything", AcceptAll, 0, 1},
	} {
		n := newNetwork(t, 1)
		filter := func() (allmulti, promisc int) {
			var links []struct{ Allmulti, Promiscuity int }
			nstest.Do(t, n.g0.Netns, func() error {
				out, err := exec.Command("ip", "-d", "-j", "link", "show", n.g0.Name).Output()
				if err != nil {
					return err
				}
				return json.Unmarshal(out, &links)
			})
			return links[0].Allmulti, links[0].Promiscuity
		}
		p := open(t, n.g0, Config{Accept: tt.accept, Queues: 2})
		if a, pr := filter(); a != tt.allmulti || pr != tt.promisc {
			t.Errorf("%s: allmulti %d and promiscuity %d, want %d and %d", tt.claim, a, pr, tt.allmulti, tt.promisc)
		}
		for range 2 {
			if err := p.Widen(AcceptAll); err != nil {
				t.Error(err)
			}
		}
		if _, pr := filter(); pr != 1 {
			t.Errorf("%s, widened to everything: promiscuity %d, want 1", tt.claim, pr)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if a, pr := filter(); a+pr != 0 {
			t.Errorf("%s: allmulti %d and promiscuity %d after Close", tt.claim, a, pr)
		}
	}
}

func TestClosedPortStillCounts(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{})
	newRaw(t, n.c0).send(t, frame(n.g0.MAC(t), 60))
	q := p.Queue(0)
	recv(t, q, make([]packet.Packet, 1))
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := p.Queue(0).Stats().RxFrames; got != 1 {
		t.Errorf("%d frames counted, want 1", got)
	}
}

func TestFramesSentHereAreNotReceived(t *testing.T) {
	for _, queues := range []int{1, 2} {
		n := newNetwork(t, 1)
		p := open(t, n.g0, Config{Queues: queues, Qdisc: UseQdisc})
		far := newRaw(t, n.c0)
		f := frame(n.c0.MAC(t), 100)
		q := p.Queue(0)
		if st := q.Send(&packet.Packet{Mem: f, End: len(f)}); st != port.Sent {
			t.Fatal(st)
		}
		q.Flush()
		far.receive(t)
		pkts := make([]packet.Packet, 4)
		for i := range queues {
			if got := p.Queue(i).Recv(pkts); got != 0 {
				t.Errorf("of %d queues, number %d received %d frames that left", queues, i, got)
			}
		}
	}
}

func TestReinjectedFramesAreIgnored(t *testing.T) {
	g := nstest.Namespace(t, "g") // one namespace: between two, a veth clears marks
	x, y := nstest.End{Netns: g, Name: "x"}, nstest.End{Netns: g, Name: "y"}
	nstest.Veth(t, x, y)
	p := open(t, y, Config{})
	from := newRaw(t, x)
	if err := unix.SetsockoptInt(from.fd, unix.SOL_SOCKET, unix.SO_MARK, int(port.ReinjectMark)); err != nil {
		t.Fatal(err)
	}
	from.send(t, frame(y.MAC(t), 111))
	if err := unix.SetsockoptInt(from.fd, unix.SOL_SOCKET, unix.SO_MARK, 7); err != nil {
		t.Fatal(err)
	}
	from.send(t, frame(y.MAC(t), 222))
	pkts := make([]packet.Packet, 4)
	if in := recv(t, p.Queue(0), pkts); len(in) != 1 || len(in[0].Frame()) != 222 {
		t.Errorf("%d frames, the first of %d bytes; want one of 222", len(in), len(in[0].Frame()))
	}
}

func TestDeletedInterfaceIsDownAndQuiet(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{})
	q := p.Queue(0)
	n.g0.Delete(t)
	out := packet.Packet{Mem: make([]byte, packet.Headroom+3000), Off: packet.Headroom, End: packet.Headroom + 100}
	long := out
	long.End = packet.Headroom + 1500
	long.Offload = packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: 500, CsumStart: 34, CsumOffset: 16}
	for range 200 { // more than a ring holds
		for _, p := range []packet.Packet{out, out, long} {
			if st := q.Send(&p); st != port.Sent {
				t.Fatalf("before Refresh: %v, want sent", st)
			}
		}
		if r := q.Flush(); r[port.Down] != 3 {
			t.Fatalf("Flush refused %v, want 3 down", r)
		}
	}
	if info, err := p.Refresh(); err == nil || info.Up {
		t.Errorf("Refresh: up %v, error %v; want down and an error", info.Up, err)
	}
	if st := q.Send(&out); st != port.Down {
		t.Errorf("after Refresh: %v, want down", st)
	}
	pkts := make([]packet.Packet, 4)
	nstest.Eventually(t, "the descriptor is quiet", func() bool {
		q.Recv(pkts)
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}, 0)
		return n == 0
	})
}

func TestInterfaceWorksAgainWhenItComesUp(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{})
	q := p.Queue(0)
	host := newRaw(t, n.c0)
	pkts := make([]packet.Packet, 4)
	n.g0.Down(t)
	if info, err := p.Refresh(); err != nil || info.Up {
		t.Errorf("Refresh: up %v, error %v; want down, no error", info.Up, err)
	}
	out := packet.Packet{Mem: frame(n.c0.MAC(t), packet.Headroom+100), Off: 0, End: 100}
	if st := q.Send(&out); st != port.Down {
		t.Errorf("%v, want down", st)
	}
	n.g0.Up(t)
	if info, err := p.Refresh(); err != nil || !info.Up {
		t.Errorf("Refresh: up %v, error %v; want up", info.Up, err)
	}
	nstest.Eventually(t, "a frame arrived", func() bool {
		host.send(t, frame(n.g0.MAC(t), 77)) // lost while the peer has not seen the carrier yet
		return q.Recv(pkts) > 0
	})
	if got := len(pkts[0].Frame()); got != 77 {
		t.Errorf("%d bytes received, want 77", got)
	}
	q.Release()
	q.Send(&out)
	if r := q.Flush(); r != [port.NumStatuses]uint32{} {
		t.Errorf("refused %v after coming up", r)
	}
	if got, _ := host.receive(t); len(got) != 100 {
		t.Errorf("%d bytes left, want 100", len(got))
	}
}

func TestMalformedFramesAreRefusedAlone(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{})
	host := newRaw(t, n.c0)
	q := p.Queue(0)
	good := packet.Packet{Mem: frame(n.c0.MAC(t), 100), End: 100}
	bad := packet.Packet{Mem: frame(n.c0.MAC(t), 90), End: 90}
	bad.Offload = packet.Offload{Flags: packet.NeedsCsum, CsumStart: 500, CsumOffset: 16}
	for _, p := range []*packet.Packet{&good, &bad, &good} {
		if st := q.Send(p); st != port.Sent {
			t.Fatalf("%v, want sent", st)
		}
	}
	if r := q.Flush(); r != [port.NumStatuses]uint32{port.Unsupported: 1} {
		t.Errorf("refused %v, want one unsupported", r)
	}
	for range 2 {
		if got, _ := host.receive(t); len(got) != 100 {
			t.Errorf("%d bytes left, want 100", len(got))
		}
	}
	if st := q.Stats(); st.TxFrames != 2 || st.TxBytes != 200 || st.TxRefused != 1 {
		t.Errorf("%d frames, %d bytes, %d refused; want 2, 200, 1", st.TxFrames, st.TxBytes, st.TxRefused)
	}
}

func TestOrderHoldsAcrossBothWaysOut(t *testing.T) {
	n := newNetwork(t, 1)
	n.mtu(t, 9000)
	p := open(t, n.g0, Config{})
	host := newRaw(t, n.c0)
	q := p.Queue(0)
	var want []int
	for i := range 150 {
		size := 100 + i
		if i%5 == 0 {
			size += 4000
		}
		want = append(want, size)
		if st := q.Send(&packet.Packet{Mem: frame(n.c0.MAC(t), size), End: size}); st != port.Sent {
			t.Fatalf("frame %d: %v", i, st)
		}
	}
	q.Flush()
	for i, w := range want {
		if got, _ := host.receive(t); len(got) != w {
			t.Fatalf("frame %d has %d bytes, want %d", i, len(got), w)
		}
	}
}

// gso returns a TCP super-packet from the gateway to c0, without a valid checksum.
func (n network) gso(t testing.TB, size int) packet.Packet {
	mem := make([]byte, packet.Headroom+size)
	f := mem[packet.Headroom:]
	copy(f, frame(n.c0.MAC(t), 14))
	copy(f[12:], []byte{0x08, 0x00, 0x45, 0, byte((size - 14) >> 8), byte(size - 14), 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	f[34+12] = 5 << 4
	return packet.Packet{Mem: mem, Off: packet.Headroom, End: len(mem), Offload: packet.Offload{
		Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: 1000, HdrLen: 54, CsumStart: 34, CsumOffset: 16}}
}

// withoutTSO switches e's TCP segmentation off, as ethtool -K tso off does.
func withoutTSO(t testing.TB, e nstest.End) {
	t.Helper()
	const setTSO = 0x1f // ETHTOOL_STSO
	value := struct{ cmd, data uint32 }{cmd: setTSO}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], e.Name)
	nstest.Do(t, e.Netns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); e != 0 {
			return e
		}
		return nil
	})
}

func TestDeviceWithoutSegmentationGetsSegments(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{})
	host := newRaw(t, n.c0)
	q := p.Queue(0)
	withoutTSO(t, n.g0)
	for round := range enoughStrikes + 2 {
		out := n.gso(t, 54+3000)
		q.Send(&out)
		if r := q.Flush(); r != [port.NumStatuses]uint32{} {
			t.Fatalf("round %d: refused %v", round, r)
		}
		for range 3 {
			if got, _ := host.receive(t); len(got) != 1054 {
				t.Errorf("round %d: %d bytes, want a segment of 1054", round, len(got))
			}
		}
	}
	if !q.(*queue).bulk.soft(0) {
		t.Error("frames still try the device first")
	}
}

func TestForwardingAllocatesNothing(t *testing.T) {
	n := newNetwork(t, 1)
	n.mtu(t, 9000)
	p := open(t, n.g0, Config{})
	q := p.Queue(0)
	var pkts [64]packet.Packet
	small := packet.Packet{Mem: frame(n.c0.MAC(t), 100), End: 100}
	tagged := small
	tagged.HasVLAN = true
	long := packet.Packet{Mem: frame(n.c0.MAC(t), 5000), End: 5000}
	host := newRaw(t, n.c0)
	var in [2][]byte
	in[0], in[1] = frame(n.g0.MAC(t), 100), frame(n.g0.MAC(t), 5000)
	for i := range 200 {
		host.send(t, in[i%2])
	}
	got := 0
	allocs := testing.AllocsPerRun(100, func() {
		got += q.Recv(pkts[:2])
		q.Send(&small)
		q.Send(&long)
		q.Send(&tagged)
		q.Flush()
		q.Release()
	})
	if allocs != 0 {
		t.Errorf("%v allocations a batch, want 0", allocs)
	}
	if got < 150 {
		t.Errorf("only %d frames were received while counting", got)
	}
}

func TestSenderOfItsOwnReachesTheWire(t *testing.T) {
	n := newNetwork(t, 1)
	p := open(t, n.g0, Config{})
	host := newRaw(t, n.c0)
	s, err := p.NewSender()
	if err != nil {
		t.Fatal(err)
	}
	defer s.(port.Closer).Close()
	if st := s.Send(&packet.Packet{Mem: frame(n.c0.MAC(t), 60), End: 60}); st != port.Sent {
		t.Fatalf("%v, want sent", st)
	}
	s.Flush()
	if got, _ := host.receive(t); len(got) != 60 {
		t.Errorf("%d bytes left, want 60", len(got))
	}
}

func TestOpenRefusesWhatItCannotServe(t *testing.T) {
	g := nstest.Namespace(t, "g")
	for _, tt := range []struct{ name, ifname, netns string }{
		{"an interface that does not exist", "nowhere0", g},
		{"the loopback interface", "lo", g},
		{"a namespace that does not exist", "lo", "nowhere"},
	} {
		if p, err := Open(Config{Ifname: tt.ifname, Netns: tt.netns}); err == nil {
			p.Close()
			t.Errorf("%s was opened", tt.name)
		} else {
			t.Logf("%s: %v", tt.name, err)
		}
	}
}
