//go:build netns

package own

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/afpacket"
	"example.com/culvert/dataplane/port/internal/nstest"
	"example.com/culvert/dataplane/port/tun"
)

// TestMain is also the process that some tests kill: it takes an interface, says so, and waits.
func TestMain(m *testing.M) {
	if os.Getenv("OWN_TEST_NETNS") == "" {
		os.Exit(m.Run())
	}
	index, _ := strconv.Atoi(os.Getenv("OWN_TEST_IFINDEX"))
	exit, _ := strconv.Atoi(os.Getenv("OWN_TEST_ON_EXIT"))
	_, err := Take(Config{
		Ifindex: index, Netns: os.Getenv("OWN_TEST_NETNS"),
		OnExit: OnExit(exit), PinDir: os.Getenv("OWN_TEST_PINS"),
	})
	fmt.Println("taken:", err)
	select {}
}

// wire is a veth pair between a peer and the gateway, whose kernel has addresses and a listener.
type wire struct {
	peer, gate nstest.End
	listener   net.Listener
	tap        *afpacket.Port // of the gateway: sends fences
	eye        int            // packet socket of the peer
}

const (
	gate4, gate6 = "10.78.0.1", "2001:db8:78::1"
	peer4, peer6 = "10.78.0.2", "2001:db8:78::2"
)

func newWire(t *testing.T) wire {
	t.Helper()
	p, g := nstest.Namespace(t, "p"), nstest.Namespace(t, "g")
	w := wire{peer: nstest.End{Netns: p, Name: "p0"}, gate: nstest.End{Netns: g, Name: "g0"}}
	nstest.Veth(t, w.peer, w.gate)
	w.peer.Address(t, peer4+"/24", peer6+"/64")
	w.gate.Address(t, gate4+"/24", gate6+"/64")
	w.peer.Via(t, gate4, w.gate.MAC(t))
	w.peer.Via(t, gate6, w.gate.MAC(t))
	w.gate.Via(t, peer4, w.peer.MAC(t))
	w.gate.Via(t, peer6, w.peer.MAC(t))
	nstest.Do(t, g, func() (err error) {
		w.listener, err = net.Listen("tcp", ":0")
		return err
	})
	t.Cleanup(func() { w.listener.Close() })
	var err error
	if w.tap, err = afpacket.Open(afpacket.Config{Ifname: "g0", Netns: g}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.tap.Close() })
	nstest.Do(t, p, func() (err error) {
		all := uint16(unix.ETH_P_ALL)
		if w.eye, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.eye, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		return unix.Bind(w.eye, &unix.SockaddrLinklayer{Ifindex: w.peer.Index(t), Protocol: all<<8 | all>>8})
	})
	t.Cleanup(func() { unix.Close(w.eye) })
	return w
}

const fenceType = 0x88b5 // IEEE 802 local experimental

// answers returns the frames that reached the peer up to now. The kernel's answers are made while
// the question is sent, so a frame sent behind it marks the end.
func (w wire) answers(t *testing.T) (frames []string) {
	t.Helper()
	info := w.tap.Info()
	fence := append(append(append([]byte(nil), w.peer.MAC(t)...), info.MAC[:]...), fenceType>>8, fenceType&0xff)
	fence = append(fence, make([]byte, 46)...)
	q := w.tap.Queue(0)
	q.Send(&packet.Packet{Mem: fence, End: len(fence)})
	if r := q.Flush(); r != [port.NumStatuses]uint32{} {
		t.Fatalf("fence refused: %v", r)
	}
	buf := make([]byte, 70000)
	for {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.eye), Events: unix.POLLIN}}, 5000); n != 1 && err != unix.EINTR {
			t.Fatalf("no fence within 5 s (%v)", err)
		}
		n, err := unix.Read(w.eye, buf)
		if err != nil {
			continue
		}
		if binary.BigEndian.Uint16(buf[12:]) == fenceType {
			return frames
		}
		frames = append(frames, fmt.Sprintf("%x", buf[:min(n, 60)]))
	}
}

// ask sends everything a kernel answers, each to each of the gateway's addresses.
func (w wire) ask(t *testing.T) {
	t.Helper()
	p := w.peer.MAC(t)
	arp := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, p...)
	arp = append(arp, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	arp = append(append(arp, p...), net.ParseIP(peer4).To4()...)
	arp = append(append(arp, 0, 0, 0, 0, 0, 0), net.ParseIP(gate4).To4()...)
	if err := unix.Sendto(w.eye, arp, 0, &unix.SockaddrLinklayer{Ifindex: w.peer.Index(t)}); err != nil {
		t.Fatal(err)
	}
	_, open, _ := net.SplitHostPort(w.listener.Addr().String())
	for _, host := range []string{gate4, gate6} {
		for _, tcp := range []string{open, "9"} { // one with a listener, one closed
			nstest.Do(t, w.peer.Netns, func() error { return syn(net.ParseIP(host), tcp) })
		}
		s := nstest.Socket(t, w.peer.Netns, "")
		if _, err := s.WriteTo([]byte("knock"), &net.UDPAddr{IP: net.ParseIP(host), Port: 9}); err != nil {
			t.Fatal(err)
		}
		nstest.Do(t, w.peer.Netns, func() error { return ping(net.ParseIP(host)) })
	}
}

// syn starts a connection and does not wait for it.
func syn(ip net.IP, tcp string) error {
	family, sa := unix.AF_INET6, unix.Sockaddr(nil)
	n, _ := strconv.Atoi(tcp)
	if v4 := ip.To4(); v4 != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: n, Addr: [4]byte(v4)}
	} else {
		sa = &unix.SockaddrInet6{Port: n, Addr: [16]byte(ip)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != unix.EINPROGRESS && err != unix.ECONNREFUSED {
		return fmt.Errorf("connect to %v: %w", ip, err)
	}
	return nil
}

func ping(ip net.IP) error {
	network, typ := "ip4:icmp", byte(8)
	if ip.To4() == nil {
		network, typ = "ip6:ipv6-icmp", 128
	}
	c, err := net.Dial(network, ip.String())
	if err != nil {
		return err
	}
	defer c.Close()
	echo := []byte{typ, 0, 0, 0, 0, 1, 0, 1}
	if network == "ip4:icmp" {
		binary.BigEndian.PutUint16(echo[2:], ^uint16(0x0802))
	}
	_, err = c.Write(echo)
	return err
}

func (w wire) address() string { return w.listener.Addr().String() }

func (w wire) dial(host string) error {
	_, p, _ := net.SplitHostPort(w.address())
	return nstest.Dial(w.peer.Netns, net.JoinHostPort(host, p), 300*time.Millisecond)
}

// mustAnswer fails unless the gateway's kernel accepts connections.
func (w wire) mustAnswer(t *testing.T) {
	t.Helper()
	nstest.Eventually(t, "the kernel answers", func() bool { return w.dial(gate4) == nil && w.dial(gate6) == nil })
}

func (w wire) take(t *testing.T, cfg Config) *Owner {
	t.Helper()
	cfg.Ifindex, cfg.Netns = w.gate.Index(t), w.gate.Netns
	o, err := Take(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Release() })
	return o
}

func TestKernelIsSilentOnAnOwnedInterface(t *testing.T) {
	w := newWire(t)
	w.mustAnswer(t)
	w.answers(t)
	w.ask(t)
	if got := w.answers(t); len(got) < 6 {
		t.Fatalf("before: %d answers, the questions do not test anything", len(got))
	}
	o := w.take(t, Config{})
	drain(w.tap.Queue(0))
	w.answers(t) // what the kernel sent just before
	w.ask(t)
	s := nstest.Socket(t, w.gate.Netns, "") // what the box sends of its own must not leave either
	s.WriteTo([]byte("from the box"), &net.UDPAddr{IP: net.ParseIP(peer4), Port: 9})
	s.WriteTo([]byte("from the box"), &net.UDPAddr{IP: net.ParseIP(peer6), Port: 9})
	if got := w.answers(t); len(got) != 0 {
		t.Errorf("the kernel sent %d frames from an owned interface: %v", len(got), got)
	}
	if n := drain(w.tap.Queue(0)); n < 9 {
		t.Errorf("the packet socket saw %d frames of the questions, want all 9", n)
	}
	st, err := o.Stats()
	if err != nil || st.IngressDropped < 9 || st.EgressDropped < 2 || st.IngressPassed != 0 {
		t.Errorf("counters %+v (%v); want at least 9 dropped at ingress and 2 (and MLD reports) at egress", st, err)
	}
	if err := o.Release(); err != nil {
		t.Error(err)
	}
	w.mustAnswer(t)
	if _, err := o.Stats(); err == nil {
		t.Error("Stats of a released interface gave no error")
	}
}

// drain receives what is there and returns the number of frames.
func drain(q port.Queue) (n int) {
	var pkts [64]packet.Packet
	for {
		k := q.Recv(pkts[:])
		q.Release()
		if k == 0 {
			return n
		}
		n += k
	}
}

func TestFramesThroughTheQdiscCarryTheMark(t *testing.T) {
	w := newWire(t)
	o := w.take(t, Config{})
	var err error
	if w.tap, err = afpacket.Open(afpacket.Config{Ifname: "g0", Netns: w.gate.Netns, Qdisc: afpacket.UseQdisc}); err != nil {
		t.Fatal(err)
	}
	defer w.tap.Close()
	w.answers(t) // fails unless its fence arrives
	if st, _ := o.Stats(); st.EgressPassed != 1 {
		t.Errorf("%d frames passed at egress, want the fence", st.EgressPassed)
	}
}

func TestHostPathLeadsThroughTheGateway(t *testing.T) {
	w := newWire(t)
	tap, err := tun.OpenTAP(tun.Config{Name: "tap0", Netns: w.gate.Netns})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	o := w.take(t, Config{Host: &HostPath{TAP: tap.Info().Index}})
	if err := w.dial(gate4); !nstest.TimedOut(err) {
		t.Errorf("the kernel is reachable around the gateway: %v", err)
	}
	nstest.Relay(t, w.tap, tap)
	w.mustAnswer(t)
	const size = 100 << 20
	for _, a := range []struct{ from, to, address string }{
		{w.peer.Netns, w.gate.Netns, gate4}, {w.peer.Netns, w.gate.Netns, gate6},
		{w.gate.Netns, w.peer.Netns, peer4}, {w.gate.Netns, w.peer.Netns, peer6},
	} {
		t.Logf("to %s: %.1f Gbit/s", a.address, nstest.Transfer(t, a.from, a.to, a.address, size))
	}
	st, err := o.Stats()
	if err != nil || st.EgressDropped != 0 || st.IngressPassed == 0 || st.IngressPassed != st.HostRedirected || st.EgressRedirected == 0 {
		t.Errorf("counters %+v (%v)", st, err)
	}
}

// victim is a process that owns the gateway's interface, to be killed.
func (w wire) victim(t *testing.T, e OnExit, pins string) *exec.Cmd {
	t.Helper()
	cmd, said := w.start(t, e, pins, 0)
	if said != "taken: <nil>\n" {
		t.Fatalf("victim: %s", said)
	}
	return cmd
}

// start starts such a process, with namespaces of its own by flags, and returns what it says.
func (w wire) start(t *testing.T, e OnExit, pins string, flags uintptr) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags}
	cmd.Env = append(os.Environ(), "OWN_TEST_NETNS="+w.gate.Netns, "OWN_TEST_PINS="+pins,
		fmt.Sprintf("OWN_TEST_IFINDEX=%d", w.gate.Index(t)), fmt.Sprintf("OWN_TEST_ON_EXIT=%d", e))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	said, _ := bufio.NewReader(out).ReadString('\n')
	return cmd, said
}

func TestKillLeavesNothingBehindWithRelease(t *testing.T) {
	w := newWire(t)
	v := w.victim(t, Release, "")
	if err := w.dial(gate4); !nstest.TimedOut(err) {
		t.Fatalf("an owned interface answers: %v", err)
	}
	v.Process.Kill()
	v.Wait()
	w.mustAnswer(t)
}

// pinDir is a BPF file system for a test.
func pinDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestHoldOutlivesTheProcessAndIsAdoptedWithoutAGap(t *testing.T) {
	w := newWire(t)
	pins := pinDir(t)
	v := w.victim(t, Hold, pins)
	w.answers(t)
	v.Process.Kill()
	v.Wait()
	w.ask(t)
	if got := w.answers(t); len(got) != 0 {
		t.Fatalf("a held interface sent %d frames after kill -9", len(got))
	}
	stop, flooded := make(chan struct{}), make(chan struct{})
	go func() { // SYNs all the time
		defer close(flooded)
		for {
			select {
			case <-stop:
				return
			default:
				nstest.Do(t, w.peer.Netns, func() error { return syn(net.ParseIP(gate4), "9") })
			}
		}
	}()
	var last *Owner
	for range 20 {
		o := w.take(t, Config{OnExit: Hold, PinDir: pins})
		if last != nil {
			last.Close()
		}
		last = o
	}
	close(stop)
	<-flooded
	if got := w.answers(t); len(got) != 0 {
		t.Errorf("%d frames leaked while one owner took over from the other", len(got))
	}
	if n, err := ReleaseHeld(pins); n != 0 || err != nil {
		t.Errorf("ReleaseHeld beside an owner = %d, %v; want that it leaves the interface alone", n, err)
	}
	last.Close()
	if err := w.dial(gate4); !nstest.TimedOut(err) {
		t.Errorf("Close of a holding owner opened the interface: %v", err)
	}
	if n, err := ReleaseHeld(pins); n != 1 || err != nil {
		t.Errorf("ReleaseHeld = %d, %v; want 1 interface", n, err)
	}
	w.mustAnswer(t)
	if left, _ := filepath.Glob(pins + "/*-*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A file system that the process mounts in a mount namespace of its own takes the pins with
// it when it ends: that is no hold. One that is there already does not.
func TestHoldThatWouldEndWithTheProcessIsRefused(t *testing.T) {
	w := newWire(t)
	pins := pinDir(t)
	if _, said := w.start(t, Hold, pins, unix.CLONE_NEWNS); !strings.Contains(said, "ends with this process") {
		t.Errorf("alone with its mounts: %q", said)
	}
	w.mustAnswer(t)
	w.take(t, Config{OnExit: Hold, PinDir: pins}).Close()
	v, said := w.start(t, Hold, pins, unix.CLONE_NEWNS)
	if said != "taken: <nil>\n" {
		t.Fatalf("with a file system that was there: %q", said)
	}
	w.answers(t)
	v.Process.Kill()
	v.Wait()
	w.ask(t)
	if got := w.answers(t); len(got) != 0 {
		t.Errorf("a held interface sent %d frames after kill -9", len(got))
	}
	if n, err := ReleaseHeld(pins); n != 1 || err != nil {
		t.Errorf("ReleaseHeld = %d, %v; want 1 interface", n, err)
	}
}

func TestTakeWithReleaseEndsWhatWasHeld(t *testing.T) {
	w := newWire(t)
	pins := pinDir(t)
	w.take(t, Config{OnExit: Hold, PinDir: pins}).Close()
	w.answers(t) // what the kernel sent just before
	o := w.take(t, Config{OnExit: Release, PinDir: pins})
	w.ask(t)
	if got := w.answers(t); len(got) != 0 {
		t.Errorf("%d frames leaked", len(got))
	}
	o.Close()
	w.mustAnswer(t)
}

func TestTakeOfNothingSaysWhat(t *testing.T) {
	_, err := Take(Config{Ifindex: 4711, Netns: nstest.Namespace(t, "g")})
	if err == nil {
		t.Fatal("an interface that does not exist was taken")
	}
	t.Log(err)
}
