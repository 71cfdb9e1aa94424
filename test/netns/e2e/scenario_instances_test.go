//go:build netns

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"

	"example.com/culvert/control/api"
	"example.com/culvert/test/netns"
)

// TestFourGatewaysSideBySide runs four houses with the same names and addresses
// at once: nothing of one is seen in another.
func TestFourGatewaysSideBySide(t *testing.T) {
	for _, kind := range netns.Kinds() {
		t.Run("gateway="+kind.String(), func(t *testing.T) {
			var houses []*house
			for range 4 {
				s := setup{}
				houses = append(houses, s.build(t, kind))
			}
			for i, h := range houses {
				for _, f := range families {
					serveTCP(t, h.server, at(f.server, 7030), greet)
					talk(t, h.first, at(f.first, uint16(31000+i)), at(f.server, 7030))
				}
			}
			for i, h := range houses {
				flows, err := h.gw.Flows(t.Context(), "-p", "tcp")
				must(t, err)
				for _, f := range flows {
					if f.Orig.Src.Port() != uint16(31000+i) {
						t.Errorf("gateway %d has the flow of another: %s", i, f.Line)
					}
				}
				if len(flows) != len(families) {
					t.Errorf("gateway %d has %d flows, want %d", i, len(flows), len(families))
				}
			}
		})
	}
}

// join makes a veth pair between the gateway and a host at run time, with
// addresses on the host's side and, if any are given, on the gateway's.
func join(t *testing.T, lab *netns.Lab, gw *netns.Host, name, host string, gateway, guest, via []string) {
	t.Helper()
	peer, err := vnetns.GetFromName(lab.Host(host).Namespace())
	must(t, err)
	defer peer.Close()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(peer))}
	nl := gw.Netlink()
	must(t, nl.LinkAdd(link))
	for _, end := range []struct {
		nl   *netlink.Handle
		name string
	}{{nl, name}, {lab.Host(host).Netlink(), "eth0"}} {
		l, err := end.nl.LinkByName(end.name)
		must(t, err)
		must(t, end.nl.LinkSetUp(l))
	}
	must(t, lab.Configure(t.Context(), netns.End{Host: gw.Name(), If: name, Addrs: gateway}))
	must(t, lab.Configure(t.Context(), netns.End{Host: host, If: "eth0", Addrs: guest, Via: via}))
}

// served waits until the gateway serves an interface, or does so no more.
func (h *house) served(t *testing.T, name string, want presence) {
	t.Helper()
	until(t, fmt.Sprintf("%s is %v", name, want), func() bool {
		out, err := h.gw.Ctl(t.Context(), "status", "-o", "json")
		if err != nil {
			return false // not ready: it has still to look at what has come
		}
		var st api.Status
		must(t, json.Unmarshal([]byte(out), &st))
		there := slices.ContainsFunc(st.Interfaces, func(i ifStatus) bool {
			return i.Name == name && i.State == "up" && len(i.Addresses) > 0
		})
		return there == (want == present)
	})
}

type presence uint8

const (
	absent presence = iota
	present
)

func (p presence) String() string { return [...]string{"gone", "served"}[p] }

// steady exchanges datagrams over an old flow, each of which has to arrive,
// until the returned function is called.
func (h *house) steady(t *testing.T, f *family) (stop func()) {
	t.Helper()
	service := at(f.server, 7031)
	serveUDP(t, h.server, service)
	d := connectUDP(t, h.first, at(f.first, 0), service)
	quit, done := make(chan struct{}), make(chan error, 1)
	go func() {
		buf := make([]byte, 256)
		for n := 0; ; n++ {
			select {
			case <-quit:
				done <- nil
				return
			default:
			}
			want := fmt.Sprintf("datagram %d", n)
			_ = d.SetDeadline(time.Now().Add(patience))
			if _, err := d.Write([]byte(want)); err != nil {
				done <- err
				return
			}
			got, err := d.Read(buf)
			if err != nil || !strings.HasSuffix(string(buf[:got]), "\n"+want) {
				done <- fmt.Errorf("datagram %d was lost: %q, %w", n, buf[:got], err)
				return
			}
		}
	}()
	return func() {
		t.Helper()
		close(quit)
		if err := <-done; err != nil {
			t.Errorf("while interfaces came and went: %v", err)
		}
	}
}

// TestInterfacesComeAndGo adds and removes interfaces of a running gateway by its
// own command, and has it take what fits a pattern. The others notice nothing.
func TestInterfacesComeAndGo(t *testing.T) {
	s := setup{
		hosts:  []string{"late", "later"},
		config: "\n[[interface]]\nname = \"veth*\"\narea = \"lan\"\n",
	}
	onlyCulvert(t, s, func(t *testing.T, h *house) {
		for _, f := range families {
			serveTCP(t, h.server, at(f.server, 7032), greet)
			defer h.steady(t, f)()
		}
		reaches := func(host, v4, v6 string) {
			t.Helper()
			for f, a := range map[*family]string{&ipv4: v4, &ipv6: v6} {
				c := talk(t, h.Host(host), at(netip.MustParseAddr(a), 0), at(f.server, 7032))
				if c.seen.Addr() != f.outside {
					t.Errorf("the server sees %v, want %v", c.seen, f.outside)
				}
			}
		}

		join(t, h.Lab, h.gw.Host, "extra0", "late", nil, []string{"10.7.0.5/24", "fd00:7::5/64"}, []string{"10.7.0.1", "fd00:7::1"})
		_, err := h.gw.Ctl(t.Context(), "interface", "add", "extra0", "--area", "guest", "--address", "10.7.0.1/24,fd00:7::1/64")
		must(t, err)
		h.served(t, "extra0", present)
		reaches("late", "10.7.0.5", "fd00:7::5")
		_, err = h.gw.Ctl(t.Context(), "interface", "remove", "extra0")
		must(t, err)
		h.served(t, "extra0", absent)

		join(t, h.Lab, h.gw.Host, "veth7", "later", []string{"10.8.0.1/24", "fd00:8::1/64"}, []string{"10.8.0.5/24", "fd00:8::5/64"}, []string{"10.8.0.1", "fd00:8::1"})
		h.served(t, "veth7", present)
		reaches("later", "10.8.0.5", "fd00:8::5")
		link, err := h.gw.Netlink().LinkByName("veth7")
		must(t, err)
		must(t, h.gw.Netlink().LinkDel(link))
		h.served(t, "veth7", absent)
	})
}
