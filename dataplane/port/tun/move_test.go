//go:build netns

package tun

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/internal/nstest"
)

// The interface stays as long as somebody has a queue of it, and what is sent into it
// reaches whoever receives.
func TestInterfaceOutlivesThePortThatMadeIt(t *testing.T) {
	for name, cfg := range map[string]Config{"with offloads": {}, "plain": {Offload: OffloadOff}} {
		t.Run(name, func(t *testing.T) {
			c := nstest.Namespace(t, "c")
			cfg.Name, cfg.Netns = "tun0", c
			old, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer old.Close()
			theirs := func() []int {
				fd, err := unix.FcntlInt(uintptr(old.Descriptors()[0]), unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				return []int{fd}
			}
			for claim, other := range map[string]Config{
				"another name":      {Name: "tun1", Netns: c, Offload: cfg.Offload},
				"another offload":   {Name: "tun0", Netns: c, Offload: OffloadOff - cfg.Offload},
				"another namespace": {Name: "tun0", Offload: cfg.Offload},
			} {
				if p, err := Adopt(other, theirs()); err == nil {
					t.Errorf("taken over with %s", claim)
					p.Close()
				}
			}
			next, err := Adopt(cfg, theirs())
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			if err := next.Resume(old.Rests()); err != nil {
				t.Fatal(err)
			}
			was := old.Info()
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			if is, err := next.Refresh(); err != nil || is != was {
				t.Errorf("the interface is %+v, %v; was %+v", is, err, was)
			}
			nstest.End{Netns: c, Name: "tun0"}.Address(t, client4+"/24")
			host := nstest.Socket(t, c, client4)
			if _, err := host.WriteTo([]byte("data"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.79.1.9:9"))); err != nil {
				t.Fatal(err)
			}
			var pkts [8]packet.Packet
			nstest.Eventually(t, "the packet arrived", func() bool {
				for i := range next.Queue(0).Recv(pkts[:]) {
					if f := pkts[i].Frame(); len(f) == 32 && string(f[28:]) == "data" {
						return true
					}
				}
				next.Queue(0).Release()
				return false
			})
		})
	}
}
