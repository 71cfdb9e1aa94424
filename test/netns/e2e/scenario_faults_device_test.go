//go:build netns

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane"
	"example.com/culvert/test/netns"
)

// cable is a link between two devices whose frames the test carries from one end to the
// other: as long as it does not, the queue of the device that sends fills up, and the kernel
// has no buffers for more (ENOBUFS).
type cable struct {
	near, far *os.File
	pause     sync.Mutex // held: nothing is carried from near to far
}

// cableRoom is how many frames the device at each end of a cable holds.
const cableRoom = 64

// layCable makes two devices of one name each, in two hosts.
func layCable(t *testing.T, near *netns.Host, nearName string, far *netns.Host, farName string) *cable {
	t.Helper()
	c := &cable{near: openTAP(t, near, nearName), far: openTAP(t, far, farName)}
	var carrying sync.WaitGroup
	carrying.Go(func() { relay(c.far, c.near, &c.pause) })
	carrying.Go(func() { relay(c.near, c.far, new(sync.Mutex)) })
	t.Cleanup(func() {
		c.near.Close()
		c.far.Close()
		carrying.Wait()
	})
	return c
}

// openTAP makes an Ethernet device that takes large frames as they are, and sets it up.
func openTAP(t *testing.T, host *netns.Host, name string) *os.File {
	t.Helper()
	fd := -1
	must(t, host.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return errors.Join(
			unix.IoctlIfreq(fd, unix.TUNSETIFF, req),
			unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6),
		)
	}))
	nl, own := host.Netlink(), ifname(t, host, name)
	must(t, errors.Join(nl.LinkSetTxQLen(own, cableRoom), nl.LinkSetUp(own)))
	return os.NewFile(uintptr(fd), name)
}

// relay takes frames, with what they say of offloads, from one device to another until one
// of both is closed. It writes none while another holds pause.
func relay(to io.Writer, from io.Reader, pause *sync.Mutex) {
	for b := make([]byte, 1<<17); ; {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		pause.Lock()
		_, _ = to.Write(b[:n]) // what does not get in is lost, as on any link
		pause.Unlock()
	}
}

// TestTrafficOutlivesADeviceWithoutRoom has the device at the outside take nothing for a while
// until the kernel refuses what is sent to it, under streams and connections of both families:
// each datagram that is lost is counted, and all go on when there is room again.
func TestTrafficOutlivesADeviceWithoutRoom(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		h.serveTransfers(t)
		must(t, h.gw.Netlink().LinkDel(ifname(t, h.gw.Host, "wan0")))
		must(t, h.gw.Process().WaitOutput(t.Context(), `"interface let go" interface=wan0`))
		c := layCable(t, h.gw.Host, "wan0", h.router, "up0")
		h.restore(t, wanLink)
		_, err := h.gw.Ctl(t.Context(), "status", "--wait", "10s")
		must(t, err)
		h.outlives(t, &fault{loss: counted, strike: func(t *testing.T, s *steadily) {
			refused := func() int {
				return s.metric(t, `culvert_dropped_packets_total{reason="`+dataplane.EgressFull.String()+`"}`)
			}
			c.pause.Lock()
			until(t, "the device refuses frames, and that is counted", func() bool { return refused() > 2*cableRoom })
			c.pause.Unlock()
			s.recover(t)
			before := refused()
			s.recover(t)
			if n := refused() - before; n > 0 {
				t.Errorf("%d frames more are refused when there is room again", n)
			}
		}}, "")
	})
}

// TestTrafficPassesWhileTheBootClockWraps starts the gateway on a machine that seems to have
// been up, and asleep most of it, for 497 days less five seconds: the 32 bits of the table's
// ticks begin anew while flows live. They go on, and others end in their time.
func TestTrafficPassesWhileTheBootClockWraps(t *testing.T) {
	const wrap = 1 << 32 / 100 // seconds
	command := []string{"sh", "-c", fmt.Sprintf(`exec unshare --time --boottime $((%d - 5 - $(cut -d. -f1 /proc/uptime))) "$@"`, wrap), "sh", os.Getenv(netns.BinaryEnv), "run"}
	onlyCulvert(t, setup{command: command, config: "[conntrack]\ntimeouts = { udp = \"3s\" }\n"}, func(t *testing.T, h *house) {
		h.serveTransfers(t)
		clock := func() time.Duration {
			var ts unix.Timespec
			must(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts))
			return time.Duration(ts.Nano()) + h.bootOffset(t)
		}
		h.outlives(t, &fault{loss: counted, strike: func(t *testing.T, s *steadily) {
			d := bindUDP(t, s.second, at(ipv4.second, 0))
			idle := func() bool {
				return s.flowCount(t, func(f netns.Flow) bool {
					return f.Orig.Src.Port() == d.port() && f.Orig.Dst == at(ipv4.server, countPort)
				}) > 0
			}
			_, err := d.WriteToUDPAddrPort([]byte("?"), at(ipv4.server, countPort))
			must(t, err)
			until(t, "the flow that nobody answers is listed", idle)
			if began := clock(); began > wrap*time.Second {
				t.Fatalf("the traffic began %v after the clock had wrapped", began-wrap*time.Second)
			}
			until(t, "the clock wraps", func() bool { return clock() > wrap*time.Second+time.Second })
			until(t, "the flow that nobody answers has ended", func() bool { return !idle() })
		}}, "")
		if out, err := h.gw.Ctl(t.Context(), "debug", "check"); err != nil {
			t.Errorf("debug check: %v\n%s", err, out)
		}
	})
}

// bootOffset is how much later the boot clock of the gateway is than the test's.
func (h *house) bootOffset(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", h.gw.Process().Pid()))
	must(t, err)
	for line := range bytes.Lines(text) {
		var s, ns int64
		if n, _ := fmt.Sscanf(string(line), "boottime %d %d", &s, &ns); n == 2 {
			return time.Duration(s)*time.Second + time.Duration(ns)
		}
	}
	t.Fatalf("no offset of the boot clock in %q", text)
	return 0
}
