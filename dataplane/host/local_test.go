package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// echo builds a ping of client4 for dst.
func echo(t testing.TB, dst netip.Addr) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: client4.AsSlice(), DstIP: dst.AsSlice()}
	return serialize(t, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 7, Seq: 1},
		gopacket.Payload("hello"))
}

func tcpTo(t testing.TB, dst netip.Addr, port uint16, change func(*layers.TCP)) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: client4.AsSlice(), DstIP: dst.AsSlice()}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: layers.TCPPort(port), Seq: 1000, SYN: true, Window: 65000}
	change(tcp)
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, ip, tcp)
}

// send gives the host an IP packet and returns what the host port has then.
func (b *bench) send(ip []byte, off packet.Offload) []gopacket.Packet {
	b.t.Helper()
	if !b.DeliverLocal(ip, off) {
		b.t.Fatal("local ring is full")
	}
	b.Poll()
	return b.emitted()
}

func (b *bench) emitted() []gopacket.Packet {
	q := b.Port().Queue(0)
	var out []gopacket.Packet
	pkts := make([]packet.Packet, 8)
	for {
		n := q.Recv(pkts)
		if n == 0 {
			return out
		}
		for i := range pkts[:n] {
			first := gopacket.LayerType(layers.LayerTypeIPv4)
			if pkts[i].Frame()[0]>>4 == 6 {
				first = layers.LayerTypeIPv6
			}
			if pkts[i].Link != packet.LinkIP || pkts[i].Off < packet.Headroom {
				b.t.Errorf("frame at %d of kind %v", pkts[i].Off, pkts[i].Link)
			}
			out = append(out, gopacket.NewPacket(bytes.Clone(pkts[i].Frame()), first, gopacket.Default))
		}
		q.Release()
	}
}

func TestPingIsAnsweredThroughTheHostPort(t *testing.T) {
	b := newBench(t, Config{})
	got := b.send(echo(t, gateway4.Addr()), packet.Offload{})
	if len(got) != 1 {
		t.Fatalf("%d packets, want an answer", len(got))
	}
	icmp, _ := got[0].Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if icmp == nil || icmp.TypeCode.Type() != layers.ICMPv4TypeEchoReply || icmp.Id != 7 || string(icmp.Payload) != "hello" {
		t.Errorf("answer is %v", got[0])
	}
	if frames := b.wire.take(); len(frames) != 0 {
		t.Errorf("answer went out of the port: %v", frames)
	}
}

func TestOnlyOwnAddressesAreServed(t *testing.T) {
	b := newBench(t, Config{})
	pool := netip.MustParseAddr("10.0.0.200")
	if err := b.SetAddresses(lan, []netip.Prefix{gateway4}, []netip.Addr{pool}); err != nil {
		t.Fatal(err)
	}
	if got := b.send(echo(t, pool), packet.Offload{}); len(got) != 0 {
		t.Errorf("proxied address answers a ping: %v", got)
	}
	if err := b.SetAddresses(lan, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := b.send(echo(t, gateway4.Addr()), packet.Offload{}); len(got) != 0 {
		t.Errorf("removed address answers a ping: %v", got)
	}
}

func TestClosedPortsAreReset(t *testing.T) {
	b := newBench(t, Config{})
	b.DeliverLocal(tcpTo(t, gateway4.Addr(), 81, func(*layers.TCP) {}), packet.Offload{})
	b.Poll()
	var got []gopacket.Packet
	eventually(t, "a reset", func() bool { got = b.emitted(); return len(got) > 0 })
	if tcp, _ := got[0].Layer(layers.LayerTypeTCP).(*layers.TCP); tcp == nil || !tcp.RST || tcp.Ack != 1001 {
		t.Errorf("answer is %v, want a reset", got[0])
	}
}

func TestChecksums(t *testing.T) {
	syn := func(broken func([]byte)) []byte {
		p := tcpTo(t, gateway4.Addr(), 80, func(*layers.TCP) {})
		broken(p)
		return p
	}
	partial := packet.Offload{Flags: packet.NeedsCsum, CsumStart: 20, CsumOffset: 16}
	for _, tt := range []struct {
		name   string
		packet []byte
		off    packet.Offload
		answer bool
	}{
		{"complete", syn(func([]byte) {}), packet.Offload{}, true},
		{"wrong", syn(func(p []byte) { p[36] ^= 1 }), packet.Offload{}, false},
		{"partial", syn(func(p []byte) { p[36] ^= 1 }), partial, true},
		{"verified by the device", syn(func(p []byte) { p[36] ^= 1 }), packet.Offload{Flags: packet.DataValid}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, Config{})
			l, err := b.Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			got := b.send(tt.packet, tt.off)
			if !tt.answer {
				if n := b.stack.Stats().TCP.ChecksumErrors.Value(); n != 1 || len(got) != 0 {
					t.Errorf("%d checksum errors and answers %v, want 1 and none", n, got)
				}
				return
			}
			eventually(t, "an answer", func() bool { got = append(got, b.emitted()...); return len(got) > 0 })
			if tcp, _ := got[0].Layer(layers.LayerTypeTCP).(*layers.TCP); tcp == nil || !tcp.SYN || !tcp.ACK {
				t.Errorf("answer is %v, want SYN-ACK", got[0])
			}
		})
	}
}

func TestUDPSegmentsKeepTheirSize(t *testing.T) {
	b := newBench(t, Config{})
	c, err := b.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	payload := strings.Repeat("a", 100) + strings.Repeat("b", 100) + "c"
	datagram := func(ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	}) []byte {
		udp := &layers.UDP{SrcPort: 4000, DstPort: 53}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return serialize(t, ip, udp, gopacket.Payload(payload))
	}
	for _, ip := range [][]byte{
		datagram(&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: client4.AsSlice(), DstIP: gateway4.Addr().AsSlice()}),
		datagram(&layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: client6.AsSlice(), DstIP: gateway6.Addr().AsSlice()}),
	} {
		start := uint16(len(ip) - len(payload) - 8)
		b.send(ip, packet.Offload{Flags: packet.NeedsCsum, GSOType: packet.GSOUDPL4, GSOSize: 100, CsumStart: start, CsumOffset: 6})
		for _, want := range []string{strings.Repeat("a", 100), strings.Repeat("b", 100), "c"} {
			buf := make([]byte, 1000)
			n, _, err := c.ReadFrom(buf)
			if err != nil || string(buf[:n]) != want {
				t.Fatalf("read %q (%v), want %q", buf[:n], err, want)
			}
		}
	}
}

func TestFullLocalRingRefusesAndCounts(t *testing.T) {
	b := newBench(t, Config{QueueLen: 64})
	ping := echo(t, gateway4.Addr())
	for b.DeliverLocal(ping, packet.Offload{}) {
	}
	s := b.Stats()
	if s.LocalFull != 1 {
		t.Errorf("LocalFull = %d, want 1", s.LocalFull)
	}
	p := packet.Packet{Mem: ping, End: len(ping)}
	if got := b.Port().Queue(0).Send(&p); got != port.Full {
		t.Errorf("Send = %v, want Full", got)
	}
	b.Poll()
	if b.DeliverLocal(ping, packet.Offload{}); b.Poll() != 1 {
		t.Error("ring stays full")
	}
	if got := b.Stats().TxFull; got != 1 {
		t.Errorf("TxFull = %d, want 1 answer that found no room", got)
	}
}

func TestHostPortWakesItsWorkerOnce(t *testing.T) {
	b := newBench(t, Config{})
	q := b.Port().Queue(0)
	readable := func() bool {
		fds := []unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n == 1
	}
	pkts := make([]packet.Packet, 4)
	for range 3 {
		if readable() {
			t.Fatal("descriptor of an empty queue is readable")
		}
		b.DeliverLocal(echo(t, gateway4.Addr()), packet.Offload{})
		b.DeliverLocal(echo(t, gateway4.Addr()), packet.Offload{})
		b.Poll()
		if !readable() {
			t.Fatal("descriptor of a queue with packets is not readable")
		}
		if n := q.Recv(pkts); n != 2 {
			t.Fatalf("Recv = %d, want 2", n)
		}
		q.Release()
		if n := q.Recv(pkts); n != 0 {
			t.Fatalf("Recv = %d, want 0", n)
		}
	}
	if s := q.Stats(); s.RxFrames != 6 {
		t.Errorf("RxFrames = %d, want 6", s.RxFrames)
	}
}

// joined is two hosts whose host ports are wired to each other, as an engine that forwards everything.
type joined struct{ a, b *Host }

func join(t testing.TB) joined {
	t.Helper()
	open := func(p string, addrs ...string) *Host {
		h, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.AddPort(1, port.Info{Name: p, MAC: ourMAC, MTU: 1500}, &wire{}, func(Neighbour) {}); err != nil {
			t.Fatal(err)
		}
		var local []netip.Prefix
		for _, a := range addrs {
			local = append(local, netip.MustParsePrefix(a))
		}
		if err := h.SetAddresses(1, local, nil); err != nil {
			t.Fatal(err)
		}
		return h
	}
	j := joined{open("a", "10.0.0.1/24", "2001:db8::1/64"), open("b", "10.0.0.2/24", "2001:db8::2/64")}
	quit, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	carry := func(from, to port.Queue) {
		pkts := make([]packet.Packet, 64)
		for {
			n := from.Recv(pkts)
			for i := range pkts[:n] {
				to.Send(&pkts[i])
			}
			from.Release()
			if n > 0 {
				continue
			}
			fds := []unix.PollFd{{Fd: int32(from.FD()), Events: unix.POLLIN}, {Fd: int32(quit), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) || fds[1].Revents != 0 {
				return
			}
		}
	}
	qa, qb := j.a.Port().Queue(0), j.b.Port().Queue(0)
	wg.Go(func() { carry(qa, qb) })
	wg.Go(func() { carry(qb, qa) })
	t.Cleanup(func() {
		unix.Write(quit, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		wg.Wait()
		unix.Close(quit)
		j.a.Close()
		j.b.Close()
	})
	return j
}

func TestTransfer(t *testing.T) {
	for _, tt := range []struct{ network, listen, dial string }{
		{"tcp4", "10.0.0.2:80", "10.0.0.2:80"},
		{"tcp6", "[2001:db8::2]:80", "[2001:db8::2]:80"},
		{"tcp", ":80", "10.0.0.2:80"},
		{"tcp", ":80", "[2001:db8::2]:80"},
	} {
		t.Run(tt.network+" "+tt.listen+" "+tt.dial, func(t *testing.T) {
			j := join(t)
			l, err := j.b.Listen(tt.network, tt.listen)
			if err != nil {
				t.Fatal(err)
			}
			sent, got := sha256.New(), sha256.New()
			var wg sync.WaitGroup
			wg.Go(func() {
				c, err := l.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				if _, err := io.Copy(got, c); err != nil {
					t.Error(err)
				}
			})
			c, err := j.a.Dial(context.Background(), tt.network, tt.dial)
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 1<<20)
			cha := rand.NewChaCha8([32]byte{1})
			for range 16 {
				cha.Read(data)
				sent.Write(data)
				if _, err := c.Write(data); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
			wg.Wait()
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				t.Error("received something else than was sent")
			}
			l.Close()
		})
	}
}

func TestDatagrams(t *testing.T) {
	j := join(t)
	s, err := j.b.ListenPacket("udp", "10.0.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := j.a.Dial(context.Background(), "udp", "10.0.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := s.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "question" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if a := from.(*net.UDPAddr).AddrPort(); a.Addr() != gateway4.Addr() || a.Port() < dialPortMin {
		t.Errorf("question comes from %v", a)
	}
}

func TestDialPrefersTheConfiguredSource(t *testing.T) {
	second := netip.MustParsePrefix("192.0.2.1/24")
	h, err := New(Config{Pump: PumpManual, Source: func(netip.Addr) netip.Addr { return second.Addr() }})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.AddPort(1, port.Info{MAC: ourMAC, MTU: 1500}, &wire{}, func(Neighbour) {}); err != nil {
		t.Fatal(err)
	}
	if err := h.SetAddresses(1, []netip.Prefix{gateway4, second}, nil); err != nil {
		t.Fatal(err)
	}
	c, err := h.Dial(context.Background(), "udp", "10.0.0.9:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); got != second.Addr() {
		t.Errorf("source is %v, want %v", got, second.Addr())
	}
}

func TestOwns(t *testing.T) {
	j := join(t)
	own4, own6 := tuple.AddrFrom(netip.MustParseAddr("10.0.0.2")), tuple.AddrFrom(netip.MustParseAddr("2001:db8::2"))
	other := tuple.AddrFrom(netip.MustParseAddr("10.0.0.3"))
	want := func(when string, want bool, proto uint8, a tuple.Addr, port uint16) {
		t.Helper()
		if got := j.b.Owns(proto, a, port); got != want {
			t.Errorf("%s: Owns(%s, %v, %d) = %v, want %v", when, tuple.ProtoName(proto), a, port, got, want)
		}
	}
	want("before", false, tuple.TCP, own4, 80)
	all, err := j.b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	one, err := j.b.Listen("tcp", "10.0.0.2:81")
	if err != nil {
		t.Fatal(err)
	}
	want("listener on all", true, tuple.TCP, own4, 80)
	want("listener on all", true, tuple.TCP, own6, 80)
	want("listener on all", false, tuple.UDP, own4, 80)
	want("listener on one", true, tuple.TCP, own4, 81)
	want("listener on one", false, tuple.TCP, other, 81)
	want("listener on one", false, tuple.TCP, own6, 81)

	c, err := j.a.Dial(context.Background(), "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	from := c.LocalAddr().(*net.TCPAddr).AddrPort()
	if !j.a.Owns(tuple.TCP, tuple.AddrFrom(from.Addr()), from.Port()) {
		t.Errorf("dialing host does not own %v", from)
	}
	s, err := all.Accept()
	if err != nil {
		t.Fatal(err)
	}
	all.Close()
	one.Close()
	want("listener closed, connection open", false, tuple.TCP, own4, 80)
	want("listener closed", false, tuple.TCP, own4, 81)
	if _, err := all.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept on a closed listener: %v, want %v", err, net.ErrClosed)
	}
	c.Close() // first, so this side waits out TIME-WAIT
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("Read = %v, want EOF", err)
	}
	s.Close()
	if !j.a.Owns(tuple.TCP, tuple.AddrFrom(from.Addr()), from.Port()) {
		t.Error("port in TIME-WAIT is not owned: the kernel would reset the peer")
	}
}

func TestRefusedAddresses(t *testing.T) {
	b := newBench(t, Config{})
	for _, tt := range []struct{ network, addr, want string }{
		{"tcp", "example.org:80", "numeric"},
		{"tcp4", "[2001:db8::1]:80", "family"},
		{"udp", ":53", "unknown network"},
		{"sctp", ":80", "unknown network"},
		{"tcp", "203.0.113.9:80", "not an address of the gateway"},
	} {
		_, err := b.Listen(tt.network, tt.addr)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Listen(%s, %s): %v, want an error with %q", tt.network, tt.addr, err, tt.want)
		}
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	j := join(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := j.a.Dial(ctx, "tcp", "10.0.0.77:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v, want %v", err, context.Canceled)
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	files := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	before, fds := runtime.NumGoroutine(), files()
	for range 5 {
		h, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.AddPort(1, port.Info{MAC: ourMAC, MTU: 1500}, &wire{}, func(Neighbour) {}); err != nil {
			t.Fatal(err)
		}
		if err := h.SetAddresses(1, []netip.Prefix{gateway4}, nil); err != nil {
			t.Fatal(err)
		}
		l, err := h.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan error)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		h.Resolve(1, client4)
		h.Close()
		h.Close()
		if err := <-accepted; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v, want %v", err, net.ErrClosed)
		}
		if _, err := h.Listen("tcp", ":80"); !errors.Is(err, ErrClosed) {
			t.Errorf("Listen after Close: %v, want %v", err, ErrClosed)
		}
		if h.DeliverLocal(echo(t, gateway4.Addr()), packet.Offload{}) {
			t.Error("a closed host takes packets")
		}
	}
	eventually(t, "all goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
	if got := files(); got > fds {
		t.Errorf("%d descriptors open, %d before", got, fds)
	}
}

func BenchmarkTransfer(b *testing.B) {
	j := join(b)
	l, err := j.b.Listen("tcp", ":80")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err == nil {
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := j.a.Dial(ctx, "tcp", "10.0.0.2:80")
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 64<<10)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := c.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
}

// FuzzLocal gives netstack what the engine would never deliver.
func FuzzLocal(f *testing.F) {
	f.Add(echo(f, gateway4.Addr()), uint8(0), uint16(0), uint16(0))
	f.Add(tcpTo(f, gateway4.Addr(), 80, func(*layers.TCP) {}), packet.NeedsCsum, uint16(20), uint16(0))
	f.Add(echo(f, gateway4.Addr()), packet.NeedsCsum, uint16(20), uint16(10))
	b := newBench(f, Config{})
	l, err := b.Listen("tcp", ":80")
	if err != nil {
		f.Fatal(err)
	}
	defer l.Close()
	f.Fuzz(func(t *testing.T, ip []byte, flags uint8, start, size uint16) {
		off := packet.Offload{Flags: flags, CsumStart: start, GSOSize: size}
		if size > 0 {
			off.GSOType = packet.GSOUDPL4
		}
		b.DeliverLocal(ip, off)
		b.Poll()
		b.emitted()
	})
}
