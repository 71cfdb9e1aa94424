//go:build netns

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"example.com/culvert/control/api"
	"example.com/culvert/test/netns"
)

// The gateway's addresses at its providers in two-uplinks.toml.
const (
	firstUplink  = "203.0.113.2"
	secondUplink = "192.0.2.2"
)

// office is the network around two-uplinks.toml:
//
//	first   192.168.1.5 --- lan0 [gateway] isp1 --- provider1 --- far 198.51.100.1
//	web     192.168.1.10 -/           |    isp2 --- provider2 --/
//	visitor 192.168.2.5 --- guest0 ---/
//
// The providers drop packets whose source is not theirs. Edits replace parts of the
// file, each by the next.
func office(t *testing.T, edits ...string) *house {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "configs", "two-uplinks.toml"))
	must(t, err)
	file := strings.NewReplacer(edits...).Replace(string(text))
	one := func(host, addr, via string) netns.End {
		return netns.End{Host: host, If: "eth0", Addrs: []string{addr}, Via: []string{via}}
	}
	lab := netns.ForTest(t, netns.Topology{
		Prefix: "cve2e",
		Links: []netns.Link{
			{Ends: []netns.End{one("first", "192.168.1.5/24", "192.168.1.1"), one("web", "192.168.1.10/24", "192.168.1.1"), {Host: "gateway", If: "lan0"}}},
			{Ends: []netns.End{one("visitor", "192.168.2.5/24", "192.168.2.1"), {Host: "gateway", If: "guest0"}}},
			{Ends: []netns.End{{Host: "provider1", If: "down0", Addrs: []string{"203.0.113.1/24"}}, {Host: "gateway", If: "isp1"}}},
			{Ends: []netns.End{{Host: "provider2", If: "down0", Addrs: []string{"192.0.2.1/24"}}, {Host: "gateway", If: "isp2"}}},
			{Ends: []netns.End{
				{Host: "provider1", If: "up0", Addrs: []string{"198.51.100.11/24"}},
				{Host: "provider2", If: "up0", Addrs: []string{"198.51.100.12/24"}},
				{Host: "far", If: "eth0", Addrs: []string{"198.51.100.1/24"}, Routes: []netns.Route{
					{To: "203.0.113.0/24", Via: "198.51.100.11"}, {To: "192.0.2.0/24", Via: "198.51.100.12"}}},
			}},
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: netns.Culvert, Config: file},
	})
	for _, provider := range []string{"provider1", "provider2"} {
		must(t, lab.Host(provider).Sysctl("net.ipv4.conf.all.rp_filter", "1"))
		carry(t, lab.Host(provider), "1")
	}
	h := &house{Lab: lab, gw: lab.Gateway()}
	t.Cleanup(func() { h.noDefect(t) })
	return h
}

// carry has a provider forward packets ("1") or lose them silently ("0").
func carry(t *testing.T, provider *netns.Host, on string) {
	t.Helper()
	must(t, provider.Sysctl("net.ipv4.ip_forward", on))
}

// uplinkIs waits until the gateway finds an uplink up or down.
func (h *house) uplinkIs(t *testing.T, name, state string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		for _, i := range h.status(t).Interfaces {
			if i.Name == name && i.Uplink != nil && i.Uplink.State == state {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not become %s: %+v", name, state, h.status(t).Interfaces)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// spread sends a datagram on each of n new flows of a host and returns how many the
// far server sees from each address.
func (h *house) spread(t *testing.T, host, from string, n int) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for range n {
		s := bindUDP(t, h.Host(host), at(parse(from), 0))
		seen[s.ask(t, at(parse("198.51.100.1"), 5300), "who am I?").Addr().String()]++
		s.Close()
	}
	return seen
}

// introduced tells a client whom the server sees, and goes on as bulkService.
func introduced(c net.Conn) {
	if _, err := fmt.Fprintf(c, "%s\n", c.RemoteAddr()); err == nil {
		bulkService(c)
	}
}

// introduce connects to a server of introduced and returns the address that it sees.
func introduce(t *testing.T, host *netns.Host, from string, to netip.AddrPort) (net.Conn, string) {
	t.Helper()
	c := dial(t, host, at(parse(from), 0), to)
	var line bytes.Buffer
	for b := make([]byte, 1); b[0] != '\n'; line.Write(b) {
		_, err := io.ReadFull(c, b)
		must(t, err)
	}
	seen, err := netip.ParseAddrPort(strings.TrimSpace(line.String()))
	must(t, err)
	return c, seen.Addr().String()
}

func TestTwoUplinks(t *testing.T) {
	h := office(t)
	far, first := h.Host("far"), h.Host("first")
	serveUDP(t, far, at(parse("198.51.100.1"), 5300))
	bulk := at(parse("198.51.100.1"), 5301)
	serveTCP(t, far, bulk, introduced)
	serveTCP(t, h.Host("web"), at(parse("192.168.1.10"), 8443), greet)

	t.Run("flows share the uplinks by weight", func(t *testing.T) {
		const flows = 300
		seen := h.spread(t, "first", "192.168.1.5", flows)
		if n := seen[firstUplink]; n < flows*56/100 || n > flows*77/100 || n+seen[secondUplink] != flows {
			t.Errorf("weights 2 and 1 share %d flows %v", flows, seen)
		}
	})
	t.Run("guests take their own", func(t *testing.T) {
		if seen := h.spread(t, "visitor", "192.168.2.5", 20); seen[secondUplink] != 20 {
			t.Errorf("guests are seen as %v", seen)
		}
	})
	t.Run("a forwarded port answers by the uplink that was asked", func(t *testing.T) {
		for _, own := range []string{firstUplink, secondUplink} {
			for range 5 {
				talk(t, far, at(parse("198.51.100.1"), 0), at(parse(own), 443))
			}
		}
	})
	t.Run("when one fails, its flows end and the others go on", func(t *testing.T) { h.failOver(t, first, bulk) })
	t.Run("when it is back, new flows take it", func(t *testing.T) {
		staying, by := introduce(t, first, "192.168.1.5", bulk)
		if by != firstUplink {
			t.Fatalf("a connection left by %s", by)
		}
		carry(t, h.Host("provider2"), "1")
		h.uplinkIs(t, "isp2", api.StateUp)
		if seen := h.spread(t, "first", "192.168.1.5", 60); seen[firstUplink] == 0 || seen[secondUplink] == 0 {
			t.Errorf("with both uplinks flows are seen as %v", seen)
		}
		must(t, transfer(staying, upload, 1<<20, patience))
	})
}

// failOver has connections of both uplinks busy, and one idle, when the second
// provider begins to lose packets.
func (h *house) failOver(t *testing.T, first *netns.Host, bulk netip.AddrPort) {
	conns := map[string][]net.Conn{}
	for tries := 0; len(conns[firstUplink]) < 3 || len(conns[secondUplink]) < 3; tries++ {
		if tries == 100 {
			t.Fatalf("100 connections do not take both uplinks")
		}
		c, by := introduce(t, first, "192.168.1.5", bulk)
		conns[by] = append(conns[by], c)
	}
	idle := conns[secondUplink][0]
	type end struct {
		err error
		at  time.Time
	}
	over := make(chan struct{})
	busy := func(cs []net.Conn) chan end {
		ends := make(chan end, len(cs))
		for _, c := range cs {
			go func() {
				for {
					if err := transfer(c, download, 1<<20, patience); err != nil {
						ends <- end{err, time.Now()}
						return
					}
					select {
					case <-over:
						ends <- end{nil, time.Now()}
						return
					default:
					}
				}
			}()
		}
		return ends
	}
	staying, ending := busy(conns[firstUplink]), busy(conns[secondUplink][1:])
	carry(t, h.Host("provider2"), "0")
	failed := time.Now()
	_, err := idle.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the idle connection of the dead uplink ends with %v, want %v", err, syscall.ECONNRESET)
	}
	told := time.Now()
	h.uplinkIs(t, "isp2", api.StateDown)
	for range len(conns[secondUplink]) - 1 {
		e := <-ending
		if !errors.Is(e.err, syscall.ECONNRESET) {
			t.Errorf("a busy connection of the dead uplink ends with %v, want %v", e.err, syscall.ECONNRESET)
		}
		if e.at.After(told) {
			told = e.at
		}
	}
	// Three rounds of 500 ms, one that may just have begun, and a second for the rest.
	if took := told.Sub(failed); took > 3*time.Second {
		t.Errorf("the last host was told %v after the failure", took)
	} else {
		t.Logf("fail-over: the first host was told %v after the failure, the last %v", told.Sub(failed), took)
	}
	for _, host := range []struct{ name, addr string }{{"first", "192.168.1.5"}, {"visitor", "192.168.2.5"}} {
		if seen := h.spread(t, host.name, host.addr, 20); seen[firstUplink] != 20 {
			t.Errorf("without the second uplink %s is seen as %v", host.name, seen)
		}
	}
	if flows := h.flowCount(t, func(f netns.Flow) bool { return f.Reply.Dst.Addr() == parse(secondUplink) && f.Proto == "tcp" }); flows != 0 {
		t.Errorf("%d connections of the dead uplink are left", flows)
	}
	close(over)
	for range conns[firstUplink] {
		if e := <-staying; e.err != nil {
			t.Errorf("a connection of the other uplink: %v", e.err)
		}
	}
}

// TestUplinkChecks has the routers fail in the ways that each kind of check finds.
func TestUplinkChecks(t *testing.T) {
	const ping = `ping = ["198.51.100.1", "198.51.100.53"], every = "500ms"`
	provider2 := func(h *house, t *testing.T, change func(netlink.Link) error) {
		link, err := h.Host("provider2").Netlink().LinkByName("down0")
		must(t, err)
		must(t, change(link))
	}
	for _, tt := range []struct {
		claim, check string
		fail, mend   func(t *testing.T, h *house)
	}{
		{"a host behind the router takes no connection", `tcp = "198.51.100.1:5302", every = "300ms"`,
			func(t *testing.T, h *house) { carry(t, h.Host("provider2"), "0") },
			func(t *testing.T, h *house) { carry(t, h.Host("provider2"), "1") }},
		{"the router does not answer ARP", `neighbour = true, every = "300ms"`,
			func(t *testing.T, h *house) { provider2(h, t, h.Host("provider2").Netlink().LinkSetARPOff) },
			func(t *testing.T, h *house) { provider2(h, t, h.Host("provider2").Netlink().LinkSetARPOn) }},
		{"the cable is pulled", `ping = "198.51.100.1", every = "1h"`, // long before a round would fail
			func(t *testing.T, h *house) { provider2(h, t, h.Host("provider2").Netlink().LinkSetDown) },
			func(t *testing.T, h *house) { provider2(h, t, h.Host("provider2").Netlink().LinkSetUp) }},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			h := office(t, ping, tt.check)
			far := at(parse("198.51.100.1"), 5303)
			serveTCP(t, h.Host("far"), at(parse("198.51.100.1"), 5302), greet)
			serveTCP(t, h.Host("far"), far, introduced)
			guest, by := introduce(t, h.Host("visitor"), "192.168.2.5", far)
			if by != secondUplink {
				t.Fatalf("a guest left by %s", by)
			}
			tt.fail(t, h)
			failed := time.Now()
			if _, err := guest.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the guest's connection ends with %v, want %v", err, syscall.ECONNRESET)
			}
			t.Logf("the guest was told %v after the failure", time.Since(failed))
			if _, by := introduce(t, h.Host("visitor"), "192.168.2.5", far); by != firstUplink {
				t.Errorf("the guest's next connection leaves by %s", by)
			}
			tt.mend(t, h)
			until(t, "the uplink is used again", func() bool {
				_, by := introduce(t, h.Host("visitor"), "192.168.2.5", far)
				return by == secondUplink
			})
		})
	}
}

// TestAddressChangeEndsFlowsWithNotice replaces the address that flows are masqueraded
// to. (netfilter would end them silently, and their hosts wait for their own timers.)
func TestAddressChangeEndsFlowsWithNotice(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		service := at(ipv4.server, 7040)
		serveTCP(t, h.server, service, greet)
		serveUDP(t, h.server, service)
		serveTCP(t, h.server, at(ipv6.server, 7041), greet)
		tcp := talk(t, h.first, at(ipv4.first, 0), service)
		udp := connectUDP(t, h.second, at(ipv4.second, 0), service)
		six := talk(t, h.first, at(ipv6.first, 0), at(ipv6.server, 7041))
		_, err := udp.Write([]byte("who am I?"))
		must(t, err)
		_, err = udp.Read(make([]byte, 100))
		must(t, err)

		wire := capture(t, h.router, "up0")
		h.readdress(t, "203.0.113.1/24", "203.0.113.77/24")
		began := time.Now()
		if _, err := tcp.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an idle connection ends with %v, want %v", err, syscall.ECONNRESET)
		}
		t.Logf("the host of an idle connection was told %v after the change", time.Since(began))
		if err := udp.readError(t); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a datagram socket is told %v, want %v", err, syscall.ECONNREFUSED)
		}
		six.say(t, "the other family goes on")
		if again := talk(t, h.first, at(ipv4.first, 0), service); again.seen.Addr() != parse("203.0.113.77") {
			t.Errorf("a new connection is seen as %v", again.seen)
		}
		must(t, wire.Close())
		for _, g := range wire.Frames() {
			if ip := g.NetworkLayer(); ip != nil && !g.Outgoing && ip.NetworkFlow().Src().String() == "203.0.113.1" {
				t.Errorf("this left with the old address:\n%v", g.Packet)
			}
		}
	})
}

// readdress gives the gateway's outside interface another address in place of one.
func (h *house) readdress(t *testing.T, from, to string) {
	t.Helper()
	must(t, h.gw.Sysctl("net.ipv4.conf.all.promote_secondaries", "1")) // or the second one goes with the first
	link, err := h.gw.Netlink().LinkByName("wan0")
	must(t, err)
	for _, change := range []struct {
		addr string
		do   func(netlink.Link, *netlink.Addr) error
	}{{to, h.gw.Netlink().AddrAdd}, {from, h.gw.Netlink().AddrDel}} {
		a, err := netlink.ParseAddr(change.addr)
		must(t, err)
		must(t, change.do(link, a))
	}
}
