//go:build netns

package e2e

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"example.com/culvert/test/netns"
)

// fault is something that goes wrong while traffic is steady.
type fault struct {
	claim string
	size  int // bytes of a datagram, 0: few
	// strike makes the fault, waits until the gateway has said so, and ends it. What is
	// in the network afterwards is what was there before.
	strike func(t *testing.T, s *steadily)
	loss   loss
	fate   fate
	kernel bool // netfilter can meet it, too
}

// fate is what becomes of connections that are open. New ones always work afterwards.
type fate uint8

const (
	stays fate = iota
	ends       // with notice
	isCut      // flows end, and nobody is left to be told: a segment may pick the connection up
)

// loss says which datagrams may be lost.
type loss uint8

const (
	none      loss = iota
	counted        // as many as the gateway has counted
	elsewhere      // as many as were sent while the fault lasted: the gateway never saw them, or sent them
)

// slack is for how long after its end a fault may cost datagrams: neighbours are asked
// for, and what the kernel says is followed.
const slack = 2 * time.Second

// TestTrafficOutlivesFaults has the network and the machine around the gateway fail,
// one thing after the other. Streams and connections go on by themselves, what was lost
// is known, and the gateway says what happened.
func TestTrafficOutlivesFaults(t *testing.T) {
	disk := logDisk(t)
	eachGateway(t, setup{config: logsOn(disk)}, func(t *testing.T, h *house) {
		h.serveTransfers(t)
		serveUDP(t, h.server, at(ipv4.server, echoPort))
		for _, x := range slices.Concat(networkFaults, processFaults) {
			if x.kernel || h.gw.Kind() == netns.Culvert {
				t.Run(x.claim, func(t *testing.T) { h.outlives(t, &x, disk) })
			}
		}
	})
}

// outlives has a fault happen to steady traffic.
func (h *house) outlives(t *testing.T, x *fault, disk string) {
	before := h.tolls(t) // the first datagrams may meet neighbours that nobody knows
	s := h.goOn(t, x.size)
	s.disk = disk
	began := time.Now()
	x.strike(t, s)
	s.recover(t)
	lasted := time.Since(began)
	for _, c := range s.transfers {
		switch x.fate {
		case stays:
			c.goesOn(t)
			continue
		case ends:
			c.ended(t)
		}
		startTransfers(t, h.first, c.f).goesOn(t)
	}
	known := 0
	for _, f := range s.streams {
		l := f.settle(t)
		t.Logf("%s: %v; the fault took %v", f.f.name, l, lasted.Round(time.Millisecond))
		if x.loss == none && l.lost() > 0 {
			t.Errorf("%s: %v, want none lost", f.f.name, l)
		}
		if most := int((lasted + slack).Seconds() * streamRate); l.longest > most {
			t.Errorf("%s: %v, want at most %d in a row: those of the fault", f.f.name, l, most)
		}
		known += l.lost()
	}
	if x.loss == counted && h.gw.Kind() == netns.Culvert {
		if n := before.grown(h.tolls(t)); known > n {
			t.Errorf("%d datagrams are lost, and the gateway has counted %d packets", known, n)
		}
	}
}

// tolls is what a gateway has counted as lost, by where.
type tolls map[string]uint64

func (h *house) tolls(t *testing.T) tolls {
	t.Helper()
	if h.gw.Kind() == netns.Kernel {
		return nil
	}
	st := h.status(t)
	all := tolls{"": st.Dropped}
	for _, i := range st.Interfaces {
		all[i.Name] = i.Counters.RxRingDropped + i.Counters.RxTruncated
	}
	return all
}

// grown returns how much has come since. A new interface counts from zero.
func (before tolls) grown(now tolls) (n int) {
	for name, lost := range now {
		if was := before[name]; was <= lost {
			lost -= was
		}
		n += int(lost)
	}
	return n
}

// says waits until the gateway logs something, behind what was waited for before. The
// kernel is silent.
func (s *steadily) says(t *testing.T, text string) {
	t.Helper()
	if s.gw.Kind() == netns.Kernel {
		return
	}
	until(t, "the gateway logs "+text, func() bool {
		at := strings.Index(s.gw.Process().Output()[s.read:], text)
		if at >= 0 {
			s.read += at + len(text)
		}
		return at >= 0
	})
}

// troubles waits until the status has a trouble.
func (h *house) troubles(t *testing.T, text string) {
	t.Helper()
	if h.gw.Kind() == netns.Culvert {
		until(t, "status says "+text, func() bool {
			out, _ := h.gw.Ctl(t.Context(), "status") // an error: it is not ready, which is a trouble
			return strings.Contains(out, "\ntrouble: ") && strings.Contains(out, text)
		})
	}
}

// Links of the topology that faults happen to.
const (
	lanLink = iota
	guestLink
	wanLink
)

// restore gives the ends of a link what they had at first.
func (h *house) restore(t *testing.T, link int) {
	t.Helper()
	plain := setup{}
	topology := plain.topology(h.gw.Kind())
	for _, end := range topology.Links[link].Ends {
		must(t, h.Configure(t.Context(), end))
	}
}

// ifname finds an interface of a host.
func ifname(t *testing.T, host *netns.Host, name string) netlink.Link {
	t.Helper()
	l, err := host.Netlink().LinkByName(name)
	must(t, err)
	return l
}

var networkFaults = []fault{
	{claim: "the outside interface goes down and comes up", loss: counted, kernel: true, strike: func(t *testing.T, s *steadily) { s.flap(t, "wan0", wanLink) }},
	{claim: "the inside interface goes down and comes up", loss: elsewhere, kernel: true, strike: func(t *testing.T, s *steadily) { s.flap(t, "lan0", lanLink) }},
	{claim: "the outside interface is deleted and made anew", loss: elsewhere, fate: ends, strike: func(t *testing.T, s *steadily) {
		h := s.house
		must(t, h.gw.Netlink().LinkDel(ifname(t, h.gw.Host, "wan0")))
		s.says(t, `"interface changed" interface=wan0 state=absent`)
		h.troubles(t, "interface wan0 is absent")
		h.exec(t, h.gw.Host, "ip", "link", "add", "wan0", "type", "veth", "peer", "name", "up0", "netns", h.router.Namespace())
		h.exec(t, h.gw.Host, "ip", "link", "set", "wan0", "up")
		h.exec(t, h.router, "ip", "link", "set", "up0", "up")
		h.restore(t, wanLink)
	}},
	{claim: "the inside interface is deleted and made anew with another address of its own", loss: elsewhere, fate: isCut, strike: func(t *testing.T, s *steadily) {
		h := s.house
		must(t, h.gw.Netlink().LinkDel(ifname(t, h.gw.Host, "lan0")))
		s.says(t, `"interface changed" interface=lan0 state=absent`)
		h.troubles(t, "interface lan0 is absent")
		bridge := strings.TrimSuffix(h.first.Namespace(), h.first.Name()) + "switch0"
		h.exec(t, h.gw.Host, "ip", "link", "add", "lan0", "type", "veth", "peer", "name", "port9", "netns", bridge)
		h.exec(t, h.gw.Host, "ip", "-n", bridge, "link", "set", "port9", "master", "br0", "up")
		h.exec(t, h.gw.Host, "ip", "link", "set", "lan0", "up")
		h.restore(t, lanLink)
	}},
	{claim: "the outside MTU becomes smaller", size: 1400, loss: counted, kernel: true, strike: func(t *testing.T, s *steadily) {
		h := s.house
		for _, mtu := range []int{1300, 1500} {
			must(t, h.router.Netlink().LinkSetMTU(ifname(t, h.router, "up0"), mtu))
			must(t, h.gw.Netlink().LinkSetMTU(ifname(t, h.gw.Host, "wan0"), mtu))
			s.says(t, fmt.Sprintf("interface=wan0 mtu=%d", mtu))
			s.recover(t)
		}
	}},
	{claim: "the outside addresses change, and change back", loss: elsewhere, fate: ends, strike: func(t *testing.T, s *steadily) {
		for _, back := range []bool{false, true} {
			for _, f := range families {
				old, next := f.outside, near(f.outside, 34)
				if back {
					old, next = next, old
				}
				s.moveOutside(t, f, old, next)
			}
		}
	}},
	{claim: "the router is gone for a while and comes back as another machine", loss: elsewhere, kernel: true, strike: func(t *testing.T, s *steadily) {
		h := s.house
		must(t, h.router.Sysctl("net.ipv4.conf.up0.arp_notify", "1")) // as failover pairs do
		must(t, h.router.Sysctl("net.ipv6.conf.up0.ndisc_notify", "1"))
		nl, up := h.router.Netlink(), ifname(t, h.router, "up0")
		must(t, nl.LinkSetARPOff(up))
		must(t, nl.LinkSetHardwareAddr(up, randomMAC()))
		lasts(200 * time.Millisecond)
		must(t, nl.LinkSetARPOn(up))
		must(t, nl.LinkSetHardwareAddr(up, randomMAC()))
	}},
	{claim: "a host is gone for a while and comes back as another machine", loss: elsewhere, kernel: true, strike: func(t *testing.T, s *steadily) {
		h := s.house
		nl, eth := h.first.Netlink(), ifname(t, h.first, "eth0")
		must(t, nl.LinkSetDown(eth))
		must(t, nl.LinkSetHardwareAddr(eth, randomMAC()))
		must(t, nl.LinkSetUp(eth))
		h.restore(t, lanLink)
	}},
}

// flap takes an interface of the gateway down and up.
func (s *steadily) flap(t *testing.T, name string, link int) {
	t.Helper()
	h := s.house
	must(t, h.gw.Netlink().LinkSetDown(ifname(t, h.gw.Host, name)))
	s.says(t, `"interface changed" interface=`+name+` state=down`)
	h.troubles(t, "interface "+name+" is down")
	must(t, h.gw.Netlink().LinkSetUp(ifname(t, h.gw.Host, name)))
	s.says(t, `"interface changed" interface=`+name+` state=up`)
	h.restore(t, link)
}

// moveOutside takes an outside address away and gives another.
func (s *steadily) moveOutside(t *testing.T, f *family, old, next netip.Addr) {
	t.Helper()
	h := s.house
	must(t, h.gw.Netlink().AddrDel(ifname(t, h.gw.Host, "wan0"), &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(old, f.bits))}))
	must(t, h.Configure(t.Context(), netns.End{Host: "gateway", If: "wan0", Addrs: []string{own(f, next)}, Via: []string{f.up.String()}}))
	s.says(t, `"addresses lost" addresses=1`)
}

func (h *house) exec(t *testing.T, host *netns.Host, args ...string) string {
	t.Helper()
	out, err := host.Exec(t.Context(), args...)
	must(t, err)
	return out
}

// randomMAC is one of a station, locally administered.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac
}

// lasts is how long a fault lasts that only time ends.
func lasts(d time.Duration) { <-time.After(d) }

// TestTUNThatSomebodyDeletesIsMadeAnew: the gateway made it, in a namespace that it does
// not follow.
func TestTUNThatSomebodyDeletesIsMadeAnew(t *testing.T) {
	for _, kind := range netns.Kinds() {
		if kind != netns.Culvert {
			continue
		}
		lab := netns.ForTest(t, bulkTopology(kind, tun, veth))
		client := lab.Host("client")
		service := at(ipv4.server, echoPort)
		serveUDP(t, lab.Host("server"), service)
		bindUDP(t, client, at(ipv4.first, 0)).ask(t, service, "before")
		must(t, client.Netlink().LinkDel(ifname(t, client, "eth0")))
		gateway := lab.Gateway().Process()
		must(t, gateway.WaitOutput(t.Context(), `"interface left out" interface=`))
		until(t, "a datagram is answered", func() bool {
			pc, err := client.ListenPacket("udp", at(ipv4.first, 0).String())
			if err != nil {
				return false // the address is not back
			}
			defer pc.Close()
			if _, err := pc.WriteTo([]byte("after"), net.UDPAddrFromAddrPort(service)); err != nil {
				return false
			}
			must(t, pc.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
			_, _, err = pc.ReadFrom(make([]byte, 64))
			return err == nil
		})
		if n := strings.Count(gateway.Output(), `"interface taken" interface=`); n != 3 {
			t.Errorf("interfaces were taken %d times, want twice and once more:\n%s", n, gateway.Output())
		}
	}
}
