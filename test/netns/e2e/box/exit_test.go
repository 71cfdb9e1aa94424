//go:build netns

package box

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// kill ends the gateway as a crash would.
func kill(t *testing.T, gw *netns.Gateway) {
	t.Helper()
	p := gw.Process()
	must(t, p.Signal(unix.SIGKILL))
	<-p.Done()
}

// leaky makes the gateway's kernel forward and answer, so that whatever gets past
// the gateway shows.
func leaky(t *testing.T, gw *netns.Gateway) {
	t.Helper()
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		must(t, gw.Sysctl(key, "1"))
	}
	echo(t, gw.Host, "[::]:2222")
}

// programs counts the TCX programs on an interface of a host, both directions.
func programs(t *testing.T, h *netns.Host, ifname string) int {
	t.Helper()
	n := 0
	must(t, h.Do(func() error {
		l, err := h.Netlink().LinkByName(ifname)
		if err != nil {
			return err
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			q, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: at})
			if err != nil {
				return err
			}
			n += len(q.Programs)
		}
		return nil
	}))
	return n
}

// taps returns the TAPs that a gateway has made on a host.
func taps(t *testing.T, h *netns.Host) (names []string) {
	t.Helper()
	links, err := h.Netlink().LinkList()
	must(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "culvert") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// released checks that nothing of a gateway is left on its interfaces, and that
// the kernel uses them again: on both sides and for both families.
func released(t *testing.T, lab *netns.Lab) {
	t.Helper()
	gw := lab.Gateway()
	// What a process had is freed a moment after its death is known.
	eventually(t, "no program and no TAP is left", func() bool {
		return programs(t, gw.Host, "lan0")+programs(t, gw.Host, "wan0") == 0 && len(taps(t, gw.Host)) == 0
	})
	for _, ifname := range []string{"lan0", "wan0"} {
		l, err := gw.Netlink().LinkByName(ifname)
		must(t, err)
		if a := l.Attrs(); a.Promisc != 0 || a.Allmulti != 0 {
			t.Errorf("%s: promiscuity %d, allmulticast %d after the end", ifname, a.Promisc, a.Allmulti)
		}
	}
	for _, tt := range []struct{ host, address string }{
		{"client", "10.0.0.1"}, {"client", "fd00:a::1"}, {"server", "203.0.113.1"}, {"server", "2001:db8::1"},
	} {
		h, a := lab.Host(tt.host), netip.MustParseAddr(tt.address)
		exec(t, h, "ping", "-c", "1", "-W", "5", tt.address)
		alive(t, dial(t, h, "", netip.AddrPortFrom(a, 2222).String()))
		refused(t, h, netip.AddrPortFrom(a, 2223).String())
	}
}

func TestKilledGatewayReleasesItsInterfaces(t *testing.T) {
	for _, tt := range []struct{ name, config string }{
		{"without host", boxConfig},
		{"with host", boxConfig + withKernel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lab := netns.ForTest(t, boxTopology(tt.config))
			gw := lab.Gateway()
			leaky(t, gw)
			if n := programs(t, gw.Host, "wan0"); n != 2 {
				t.Errorf("wan0 has %d programs while it is owned, want 2", n)
			}
			kill(t, gw)
			released(t, lab)
		})
	}
}

func TestHeldInterfacesLeakNothing(t *testing.T) {
	for _, tt := range []struct{ name, config string }{
		{"without host", boxConfig},
		{"with host", boxConfig + withKernel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lab := netns.ForTest(t, boxTopology(strings.Replace(tt.config, "[gateway]", "[gateway]\non_exit = \"hold\"", 1)))
			gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
			exec(t, gw.Host, gw.Binary(), "release") // what a gateway of another network has left
			leaky(t, gw)
			echo(t, server, "[::]:7")
			four, six := dial(t, client, "", "203.0.113.9:7"), dial(t, client, "", "[2001:db8::9]:7")
			alive(t, four)
			alive(t, six)

			inside, outside := capture(t, client, "eth0"), capture(t, server, "eth0")
			kill(t, gw)
			traffic := func() {
				unheard(t, client, "203.0.113.9:7")
				unheard(t, client, "[2001:db8::9]:7")
				unheard(t, client, "10.0.0.1:2222")
				unheard(t, client, "10.0.0.1:2223")
				unheard(t, server, "203.0.113.1:2222")
				unheard(t, server, "[2001:db8::1]:2223")
				if !strings.Contains(tt.config, withKernel) { // else it waits for its neighbour, and goes on after the restart
					unheard(t, gw.Host, "203.0.113.9:7")
				}
				for _, c := range []interface{ Write([]byte) (int, error) }{four, six} {
					_, err := c.Write([]byte("x")) // segments of connections that the kernel knows nothing of
					must(t, err)
				}
			}
			traffic()
			must(t, gw.Start(t.Context()))
			none(t, inside, "a reset came inside", reset)
			none(t, outside, "the outside got what the gateway did not send", func(f netns.Frame) bool {
				a := source(f)
				return reset(f) || received(f) && (netip.MustParsePrefix("10.0.0.0/24").Contains(a) || netip.MustParsePrefix("fd00:a::/64").Contains(a))
			})
			for _, ifname := range []string{"lan0", "wan0"} {
				if n := programs(t, gw.Host, ifname); n != 2 {
					t.Errorf("%s has %d programs after the restart, want 2: the held ones are adopted", ifname, n)
				}
			}
			alive(t, dial(t, client, "", "203.0.113.9:7"))
			alive(t, dial(t, client, "", "[2001:db8::9]:7"))
			if strings.Contains(tt.config, withKernel) {
				alive(t, dial(t, client, "", "10.0.0.1:2222"))
			}

			if out := exec(t, gw.Host, gw.Binary(), "release"); !strings.HasPrefix(out, "0 ") {
				t.Errorf("culvert release beside the running gateway says %q, want that it released nothing", out)
			}
			must(t, gw.Stop()) // hold is for every end
			unheard(t, client, "10.0.0.1:2222")
			if out := exec(t, gw.Host, gw.Binary(), "release"); !strings.HasPrefix(out, "2 ") {
				t.Errorf("culvert release says %q, want that it released 2 interfaces", out)
			}
			released(t, lab)
		})
	}
}

// What a snapshot had goes on after a crash: a gateway that takes no connection in its
// middle passes both directions of it again, whichever speaks first, in the transfer
// that was under way, too.
func TestKilledGatewayGoesOnFromItsSnapshot(t *testing.T) {
	lab := netns.ForTest(t, boxTopology(strings.Replace(boxConfig, "[gateway]", "[conntrack]\ntcp_loose = false\n[gateway]\non_exit = \"hold\"", 1)))
	gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
	echo(t, server, "[::]:7")
	idle4, idle6 := dial(t, client, "", "203.0.113.9:7"), dial(t, client, "", "[2001:db8::9]:7")
	lost, busy := dial(t, client, "", "203.0.113.9:7"), dial(t, client, "", "203.0.113.9:7")
	for _, c := range []net.Conn{idle4, idle6, lost, busy} {
		alive(t, c)
	}
	file := filepath.Join(lab.Dir(), "flows.snapshot")
	exec(t, gw.Host, gw.Binary(), "conntrack", "-D", "-p", "tcp", "--orig-port-src", strconv.Itoa(lost.LocalAddr().(*net.TCPAddr).Port), "--socket", gw.Socket())
	if out := exec(t, gw.Host, gw.Binary(), "snapshot", "save", file, "--socket", gw.Socket()); !strings.HasPrefix(out, "saved 3 flows, ") {
		t.Fatalf("culvert snapshot save says %q, want three flows", out)
	}
	const before, all = 4 << 20, 24 << 20 // by far more than a window
	must(t, busy.SetDeadline(time.Now().Add(2*patience)))
	sent, got := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(busy, sent), rand.NewChaCha8([32]byte{1}), all)
		failed <- err
	}()
	_, err := io.CopyN(got, busy, before)
	must(t, err)
	kill(t, gw)
	must(t, gw.Start(t.Context()))
	if out := exec(t, gw.Host, gw.Binary(), "snapshot", "restore", file, "--socket", gw.Socket()); !strings.HasPrefix(out, "restored 3 flows, ") {
		t.Errorf("culvert snapshot restore says %q, want three flows", out)
	}
	alive(t, idle4)
	alive(t, idle6)
	_, err = io.CopyN(got, busy, all-before)
	must(t, errors.Join(err, <-failed))
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("the transfer that was under way came back changed")
	}
	unanswered(t, lost)
	must(t, gw.Stop())
	exec(t, gw.Host, gw.Binary(), "release")
}

// unanswered checks that nothing comes back on a connection that the gateway does not
// know.
func unanswered(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(300*time.Millisecond)))
	_, _ = c.Write([]byte("anybody?"))
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%v to %v: %d bytes came back, want none: the gateway takes connections in their middle", c.LocalAddr(), c.RemoteAddr(), n)
	}
}

// The kernel of the gateway must not get at a single frame while the gateway
// starts again: pings and connections go on all the time.
func TestRestartAdoptsHeldInterfacesWithoutAGap(t *testing.T) {
	lab := netns.ForTest(t, boxTopology(strings.Replace(boxConfig, "[gateway]", "[gateway]\non_exit = \"hold\"", 1)))
	gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
	leaky(t, gw)
	inside, outside := capture(t, client, "eth0"), capture(t, server, "eth0")
	ctx, cancel := context.WithCancel(t.Context())
	knocking := make(chan struct{})
	go func() {
		defer close(knocking)
		for ctx.Err() == nil { // refused or accepted at once where the kernel is reachable
			for _, at := range []string{"203.0.113.1:2222", "203.0.113.1:2223", "[2001:db8::1]:2222"} {
				knock, done := context.WithTimeout(ctx, pollEvery)
				if c, err := server.Dial(knock, "tcp", at); err == nil {
					c.Close()
				}
				done()
			}
		}
	}()
	for range 3 {
		kill(t, gw)
		must(t, gw.Start(t.Context()))
	}
	cancel()
	<-knocking
	none(t, outside, "the outside got an answer", func(f netns.Frame) bool { return received(f) && f.TCP() != nil })
	none(t, inside, "the inside got an answer", reset)
	must(t, gw.Stop())
	exec(t, gw.Host, gw.Binary(), "release")
	released(t, lab)
}
