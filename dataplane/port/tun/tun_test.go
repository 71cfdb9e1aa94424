//go:build netns

package tun

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/afpacket"
	"example.com/culvert/dataplane/port/internal/nstest"
)

const (
	client4, client6 = "10.79.1.2", "2001:db8:1::2"
	server4, server6 = "10.79.2.2", "2001:db8:2::2"
)

var defaultRoutes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// open opens a TUN inside a namespace; it ends with the test.
func openTUN(t testing.TB, namespace, addr4, addr6 string, cfg Config) *Port {
	t.Helper()
	cfg.Name, cfg.Netns = "tun0", namespace
	cfg.Addresses = []netip.Prefix{netip.MustParsePrefix(addr4 + "/32"), netip.MustParsePrefix(addr6 + "/128")}
	cfg.Routes = defaultRoutes
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

// transfers sends size bytes both ways, over IPv4 and IPv6.
func transfers(t *testing.T, client, server string, size int) {
	t.Helper()
	t.Logf("IPv4 up   %5.1f Gbit/s", nstest.Transfer(t, client, server, server4, size))
	t.Logf("IPv6 up   %5.1f Gbit/s", nstest.Transfer(t, client, server, server6, size))
	t.Logf("IPv4 down %5.1f Gbit/s", nstest.Transfer(t, server, client, client4, size))
	t.Logf("IPv6 down %5.1f Gbit/s", nstest.Transfer(t, server, client, client6, size))
}

func TestBulkTCPBetweenTUNAndVeth(t *testing.T) {
	for _, tt := range []struct {
		name   string
		queues int
	}{{"one queue", 1}, {"two queues", 2}} {
		t.Run(tt.name, func(t *testing.T) {
			c, g, s := nstest.Namespace(t, "c"), nstest.Namespace(t, "g"), nstest.Namespace(t, "s")
			g0, s0 := nstest.End{Netns: g, Name: "g0"}, nstest.End{Netns: s, Name: "s0"}
			nstest.Veth(t, g0, s0)
			s0.Address(t, server4+"/24", server6+"/64")
			s0.Via(t, "10.79.2.1", g0.MAC(t))
			s0.Via(t, "2001:db8:2::1", g0.MAC(t))
			inside := openTUN(t, c, client4, client6, Config{Queues: tt.queues})
			outside, err := afpacket.Open(afpacket.Config{Ifname: "g0", Netns: g, Queues: tt.queues})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { outside.Close() })
			nstest.Forward(t, nstest.Side{Port: inside}, nstest.Side{Port: outside, Peer: [6]byte(s0.MAC(t))})
			transfers(t, c, s, 200<<20)
			st := inside.Queue(0).Stats()
			t.Logf("tun queue 0: %+v", st)
			if tt.queues == 1 && st.RxFrames > st.RxBytes/10000 {
				t.Errorf("%d frames for %d bytes: no super-packets", st.RxFrames, st.RxBytes)
			}
		})
	}
}

func TestBulkTCPBetweenTwoTUNs(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		size int
	}{
		{"with offloads", Config{}, 200 << 20},
		{"plain, opened by water", Config{Offload: OffloadOff}, 20 << 20},
		{"plain, two queues", Config{Offload: OffloadOff, Queues: 2}, 20 << 20},
		{"small MTU", Config{MTU: 1280}, 50 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, s := nstest.Namespace(t, "c"), nstest.Namespace(t, "s")
			a, b := openTUN(t, c, client4, client6, tt.cfg), openTUN(t, s, server4, server6, tt.cfg)
			refused := nstest.Forward(t, nstest.Side{Port: a}, nstest.Side{Port: b})
			transfers(t, c, s, tt.size)
			if n := refused.Load(); n != 0 {
				t.Errorf("%d frames refused, want none", n)
			}
		})
	}
}

func TestLargeUDPSendsStayWhole(t *testing.T) {
	c, s := nstest.Namespace(t, "c"), nstest.Namespace(t, "s")
	a, b := openTUN(t, c, client4, client6, Config{}), openTUN(t, s, server4, server6, Config{})
	nstest.Forward(t, nstest.Side{Port: a}, nstest.Side{Port: b})
	from, to := nstest.Socket(t, c, client4), nstest.Socket(t, s, server4)
	raw, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.WriteTo(make([]byte, 20500), to.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	for i, want := 0, 20500; want > 0; i++ {
		n, err := to.Read(buf)
		if err != nil || n != min(want, 1000) {
			t.Fatalf("datagram %d: %d bytes, %v; want %d", i, n, err, min(want, 1000))
		}
		want -= n
	}
	if n := a.Queue(0).Stats().RxFrames; n > 4 { // MLD reports may be among them
		t.Errorf("%d frames crossed for 21 datagrams, want one super-packet", n)
	}
}

func TestTagsAreStrippedAndInsertedByTAP(t *testing.T) {
	c := nstest.Namespace(t, "c")
	p, err := OpenTAP(Config{Name: "tap0", Netns: c})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if info := p.Info(); info.Driver != "tap" || info.Link != packet.LinkEthernet || info.MAC == [6]byte{} || !info.Up {
		t.Errorf("info %+v", info)
	}
	end := nstest.End{Netns: c, Name: "tap0"}
	var host int
	nstest.Do(t, c, func() (err error) {
		all := uint16(unix.ETH_P_ALL)
		if host, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(host, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(host, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		return unix.Bind(host, &unix.SockaddrLinklayer{Ifindex: end.Index(t), Protocol: all<<8 | all>>8})
	})
	defer unix.Close(host)
	out := append([]byte{2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 8, 0x81, 0x00, 0x20, 0x2a, 0x88, 0xb5}, make([]byte, 60)...)
	if err := unix.Sendto(host, out, 0, &unix.SockaddrLinklayer{Ifindex: end.Index(t)}); err != nil {
		t.Fatal(err)
	}
	q := p.Queue(0)
	var pkts [4]packet.Packet
	nstest.Eventually(t, "the frame arrived", func() bool { return q.Recv(pkts[:1]) == 1 })
	in := &pkts[0]
	if f := in.Frame(); !in.HasVLAN || in.VLAN != 0x202a || len(f) != len(out)-4 || f[0] != 2 || f[5] != 7 || f[12] != 0x88 {
		t.Errorf("tag %v %#x, frame %x", in.HasVLAN, in.VLAN, f)
	}
	in.VLAN = 0x0055
	if st := q.Send(in); st != port.Sent {
		t.Fatalf("%v, want sent", st)
	}
	buf, oob := make([]byte, 2000), make([]byte, 128)
	n, oobn, _, _, err := unix.Recvmsg(host, buf, oob, 0)
	if err != nil || n != len(out)-4 {
		t.Fatalf("%d bytes, %v; want %d without tag", n, err, len(out)-4)
	}
	cmsgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
	if len(cmsgs) != 1 || cmsgs[0].Data[16] != 0x55 {
		t.Errorf("no tag 0x55 in %v", cmsgs)
	}
}

func TestDeletedInterfaceIsDownAndQuiet(t *testing.T) {
	for name, offload := range map[string]Offload{"with offloads": OffloadOn, "plain": OffloadOff} {
		c := nstest.Namespace(t, "c")
		p := openTUN(t, c, client4, client6, Config{Offload: offload})
		q := p.Queue(0)
		sender, err := p.NewSender()
		if err != nil {
			t.Fatal(err)
		}
		defer sender.(port.Closer).Close()
		nstest.End{Netns: c, Name: "tun0"}.Delete(t)
		mem := make([]byte, 100)
		mem[packet.Headroom] = 0x45
		out := packet.Packet{Mem: mem, Off: packet.Headroom, End: len(mem)}
		if st := sender.Send(&out); st != port.Down {
			t.Errorf("%s: sender: %v, want down", name, st)
		}
		if st := q.Send(&out); st != port.Down {
			t.Errorf("%s: %v, want down", name, st)
		}
		if n := q.Recv(make([]packet.Packet, 1)); n != 0 {
			t.Errorf("%s: %d frames received", name, n)
		}
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}, 0); n != 0 {
			t.Errorf("%s: the descriptor is not quiet", name)
		}
		if !p.Gone() {
			t.Errorf("%s: it does not know that it is gone", name)
		}
		if info, err := p.Refresh(); err == nil || info.Up {
			t.Errorf("%s: Refresh: up %v, error %v", name, info.Up, err)
		}
		if _, err := p.NewSender(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: NewSender: %v, want closed", name, err)
		}
	}
}

func TestInterfaceWorksAgainWhenItComesUp(t *testing.T) {
	c := nstest.Namespace(t, "c")
	p := openTUN(t, c, client4, client6, Config{})
	end := nstest.End{Netns: c, Name: "tun0"}
	mem := make([]byte, 100)
	mem[packet.Headroom] = 0x45
	out := packet.Packet{Mem: mem, Off: packet.Headroom, End: len(mem)}
	end.Down(t)
	if st := p.Queue(0).Send(&out); st != port.Down {
		t.Errorf("%v, want down", st)
	}
	end.Up(t)
	if st := p.Queue(0).Send(&out); st != port.Sent {
		t.Errorf("%v, want sent", st)
	}
}

func TestInterfaceEndsWithThePort(t *testing.T) {
	c := nstest.Namespace(t, "c")
	for range 2 { // the second would find the first
		p, err := Open(Config{Name: "tun0", Netns: c})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Name: "tun0", Netns: c}); !errors.Is(err, os.ErrExist) {
			t.Errorf("opened twice: %v, want already exists", err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestForwardingAllocatesNothing(t *testing.T) {
	for name, offload := range map[string]Offload{"with offloads": OffloadOn, "plain": OffloadOff} {
		c := nstest.Namespace(t, "c")
		p := openTUN(t, c, client4, client6, Config{Offload: offload})
		q := p.Queue(0)
		host := nstest.Socket(t, c, client4)
		for range 200 {
			if _, err := host.WriteTo(make([]byte, 50), &net.UDPAddr{IP: net.ParseIP("192.0.2.1"), Port: 9}); err != nil {
				t.Fatal(err)
			}
		}
		var pkts [1]packet.Packet
		got := 0
		allocs := testing.AllocsPerRun(100, func() {
			n := q.Recv(pkts[:])
			got += n
			if n > 0 && pkts[0].Off < packet.Headroom {
				t.Errorf("%d bytes of headroom, want %d", pkts[0].Off, packet.Headroom)
			}
			for i := range pkts[:n] {
				q.Send(&pkts[i])
			}
			q.Flush()
			q.Release()
		})
		if allocs != 0 || got < 100 {
			t.Errorf("%s: %v allocations a frame in %d frames, want 0", name, allocs, got)
		}
	}
}
