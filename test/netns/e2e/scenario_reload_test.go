//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"example.com/culvert/test/netns"
)

// closed is the house with one port closed, with notice.
var closed = setup{
	config: `
[[filter]]
proto = "tcp"
dport = 7021
action = "reject"
`,
	forward: `tcp dport 7021 reject with tcp reset`,
}

const reloads = 20

// TestReloadUnderTraffic swaps rules while a transfer runs. Each new connection
// meets the rules of the last reload, and the transfer suffers no damage.
func TestReloadUnderTraffic(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service, gate := at(f.server, 7020), at(f.server, 7021)
			serveTCP(t, h.server, service, bulkService)
			serveTCP(t, h.server, gate, greet)
			long := dial(t, h.first, at(f.first, 0), service)
			over, done := make(chan struct{}), make(chan error, 1)
			go func() {
				for {
					for _, way := range []byte{upload, download} {
						if err := transfer(long, way, 4<<20, patience); err != nil {
							done <- err
							return
						}
					}
					select {
					case <-over:
						done <- nil
						return
					default:
					}
				}
			}()
			for i := range reloads {
				rules, want := &setup{}, error(nil)
				if i%2 == 0 {
					rules, want = &closed, syscall.ECONNREFUSED
				}
				must(t, h.gw.Reload(t.Context(), rules.text(h.gw.Kind())))
				c, err := h.second.DialFrom(t.Context(), &net.TCPAddr{IP: f.second.AsSlice()}, "tcp", gate.String())
				if err == nil {
					c.Close()
				}
				if !errors.Is(err, want) {
					t.Fatalf("after reload %d a new connection gets %v, want %v", i+1, err, want)
				}
			}
			close(over)
			if err := <-done; err != nil {
				t.Errorf("the connection that was open all the time: %v", err)
			}
		})
	})
}

// TestBrokenFileIsRefused expects the place of the mistake, and that the old
// rules go on.
func TestBrokenFileIsRefused(t *testing.T) {
	onlyCulvert(t, closed, func(t *testing.T, h *house) {
		before := h.status(t)
		broken := filepath.Join(t.TempDir(), "broken.toml")
		for _, tt := range []struct{ name, text, want string }{
			{"an unknown key", "[gateway]\nicmp_rat = 5\n", broken + ":2:1: "},
			{"no TOML", "[gateway]\nworkers = = 5\n", broken + ":2:"},
			{"a rule about an area that is not there", closed.toml() + "\n[[filter]]\nin_area = \"lann\"\naction = \"drop\"\n", broken + ":"},
		} {
			must(t, os.WriteFile(broken, []byte(tt.text), 0o600))
			if _, err := h.gw.Ctl(t.Context(), "reload", "-c", broken); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: reload says %v, want %s...", tt.name, err, tt.want)
			}
		}
		if after := h.status(t); after.Generation != before.Generation || after.Rules != before.Rules {
			t.Errorf("generation %d with %d rules, want %d with %d as before", after.Generation, after.Rules, before.Generation, before.Rules)
		}
		refusedTCP(t, h.first, ipv4.first, at(ipv4.server, 7021))
		serveTCP(t, h.server, at(ipv4.server, 7022), greet)
		talk(t, h.first, at(ipv4.first, 0), at(ipv4.server, 7022))
	})
}

// refusedTCP expects a RST.
func refusedTCP(t *testing.T, host *netns.Host, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	c, err := host.DialFrom(t.Context(), &net.TCPAddr{IP: from.AsSlice()}, "tcp", to.String())
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling %v: %v, want connection refused", to, err)
	}
}

// TestOutsideAddressChanges takes the outside address away and gives another.
// What was masqueraded to the old one ends, for the answers have no way back.
func TestOutsideAddressChanges(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service := at(f.server, 7023)
			serveUDP(t, h.server, service)
			serveTCP(t, h.server, service, greet)
			events, err := h.gw.Events("-e", "DESTROY", "-f", f.name)
			must(t, err)
			h.awaitEvents(t, f, events)
			old := talk(t, h.first, at(f.first, 30023), service)
			if old.seen.Addr() != f.outside {
				t.Fatalf("the server sees %v, want %v", old.seen, f.outside)
			}

			next := near(f.outside, 33)
			nl := h.gw.Netlink()
			wan, err := nl.LinkByName("wan0")
			must(t, err)
			must(t, nl.AddrDel(wan, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(f.outside, f.bits))}))
			must(t, events.WaitOutput(t.Context(), fmt.Sprintf("src=%v dst=%v sport=30023 dport=7023", f.first, f.server)))
			must(t, h.Configure(t.Context(), netns.End{Host: "gateway", If: "wan0", Addrs: []string{own(f, next)}, Via: []string{f.up.String()}}))

			if h.gw.Kind() == netns.Culvert {
				until(t, "the new address is followed", func() bool {
					for _, i := range h.status(t).Interfaces {
						if i.Name == "wan0" && strings.Contains(strings.Join(i.Addresses, " "), own(f, next)) && strings.Contains(strings.Join(i.NextHops, " "), f.up.String()) {
							return true
						}
					}
					return false
				})
			}
			if seen := bindUDP(t, h.first, at(f.first, 0)).ask(t, service, "who am I now?"); seen.Addr() != next {
				t.Errorf("the server sees %v, want the new address %v", seen, next)
			}
			if n := h.flowCount(t, func(g netns.Flow) bool { return g.Proto == "tcp" && g.Reply.Dst.Addr() == f.outside }); n > 0 {
				t.Errorf("%d connections still use the address that is gone", n)
			}
		})
	})
}

// awaitEvents makes flows end until the listener has heard of one.
func (h *house) awaitEvents(t *testing.T, f *family, events *netns.Process) {
	t.Helper()
	p := openPing(t, h.first, f, f.first)
	seq := 0
	until(t, "the events are listened to", func() bool {
		seq++
		p.ping(t, f.server, 9, seq)
		if h.gw.Kind() == netns.Kernel {
			_, err := h.gw.Exec(t.Context(), "conntrack", "-F")
			must(t, err)
		} else {
			_, err := h.gw.Ctl(t.Context(), "conntrack", "-F")
			must(t, err)
		}
		return strings.Contains(events.Output(), "DESTROY")
	})
}

// TestNextHopChanges moves the default route to another router of the same link.
func TestNextHopChanges(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service := at(f.server, 7024)
			serveUDP(t, h.server, service)
			d := bindUDP(t, h.first, at(f.first, 0))
			d.ask(t, service, "by the first router")

			// The other router is the same one by another address: what counts is
			// which address the gateway asks for, and that the old may go.
			other := near(f.up, 44)
			must(t, h.Configure(t.Context(), netns.End{Host: "router", If: "up0", Addrs: []string{own(f, other)}}))
			wire := capture(t, h.router, "up0")
			must(t, h.Configure(t.Context(), netns.End{Host: "gateway", If: "wan0", Via: []string{other.String()}}))
			if h.gw.Kind() == netns.Culvert {
				until(t, "the next hop is followed", func() bool {
					for _, i := range h.status(t).Interfaces {
						if i.Name == "wan0" && strings.Contains(strings.Join(i.NextHops, " "), other.String()) {
							return true
						}
					}
					return false
				})
			}
			d.ask(t, service, "an old flow by the second router")
			bindUDP(t, h.first, at(f.first, 0)).ask(t, service, "a new one")
			_, err := wire.Wait(t.Context(), func(g netns.Frame) bool { return !g.Outgoing && asksFor(g, other) })
			must(t, err)
		})
	})
}

// asksFor reports whether a frame asks for the link-layer address of a.
func asksFor(g netns.Frame, a netip.Addr) bool {
	if arp, ok := g.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return arp.Operation == layers.ARPRequest && slices.Equal(arp.DstProtAddress, a.AsSlice())
	}
	ns, ok := g.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
	return ok && slices.Equal(ns.TargetAddress, a.AsSlice())
}

// TestRoutesAreFollowed has the kernel's routes come and go. Without one the
// sender is told, and with it packets arrive.
func TestRoutesAreFollowed(t *testing.T) {
	eachGateway(t, setup{outside: onlyTheServer}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			far := netip.PrefixFrom(f.nowhere(), f.nowhere().BitLen())
			must(t, h.Configure(t.Context(), netns.End{Host: "server", If: "eth0", Addrs: []string{far.String()}}))
			must(t, h.Configure(t.Context(), netns.End{Host: "router", If: "down0", Routes: []netns.Route{{To: far.String(), Via: f.server.String()}}}))
			service := at(far.Addr(), 7025)
			serveTCP(t, h.server, service, greet)
			attempt := func() error {
				c, err := h.first.DialFrom(t.Context(), net.TCPAddrFromAddrPort(at(f.first, 0)), "tcp", service.String())
				if err == nil {
					c.Close()
				}
				return err
			}
			noRoute := func() bool { return errors.Is(attempt(), syscall.ENETUNREACH) }
			if err := attempt(); !errors.Is(err, syscall.ENETUNREACH) {
				t.Fatalf("without a route: %v, want network is unreachable", err)
			}
			must(t, h.Configure(t.Context(), netns.End{Host: "gateway", If: "wan0", Routes: []netns.Route{{To: far.String(), Via: f.up.String()}}}))
			until(t, "the new route is followed", func() bool { return attempt() == nil })
			must(t, h.gw.Netlink().RouteDel(&netlink.Route{Dst: ipNet(far), Gw: f.up.AsSlice()}))
			until(t, "the lost route is not used any more", noRoute)
		})
	})
}
