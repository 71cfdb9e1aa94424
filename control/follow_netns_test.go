//go:build netns

package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"example.com/culvert/control/api"
	"example.com/culvert/rules/config"
)

// inNewNamespace moves the test's thread into a namespace of its own, which ends
// with the test.
func inNewNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("new network namespace: %v (run as root)", err)
	}
	t.Cleanup(func() { ns.Close() })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addVeth makes an interface that is up, with the given addresses. Its peer has
// the same name with -peer.
func addVeth(t *testing.T, name string, addresses ...string) netlink.Link {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}))
	for _, n := range []string{name, name + "-peer"} {
		l, err := netlink.LinkByName(n)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
	}
	l, err := netlink.LinkByName(name)
	must(t, err)
	for _, a := range addresses {
		addAddress(t, l, a)
	}
	return l
}

func addAddress(t *testing.T, l netlink.Link, prefix string) {
	t.Helper()
	a, err := netlink.ParseAddr(prefix)
	must(t, err)
	must(t, netlink.AddrAdd(l, a))
}

// startIn runs a gateway in the namespace of the test's thread.
func startIn(t *testing.T, cfg *config.Config) *Gateway {
	t.Helper()
	cfg.Gateway.Workers = 1
	g, err := New(cfg, Options{
		Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
		Socket: filepath.Join(t.TempDir(), "culvert.sock"),
	})
	must(t, err)
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	must(t, g.Start(t.Context()))
	return g
}

// served returns the interface called name as the status shows it.
func served(g *Gateway, name string) (api.Interface, bool) {
	all := g.Status().Interfaces
	i := slices.IndexFunc(all, func(i api.Interface) bool { return i.Name == name })
	if i < 0 {
		return api.Interface{}, false
	}
	return all[i], true
}

func TestGatewayFollowsItsInterfaces(t *testing.T) {
	inNewNamespace(t)
	addVeth(t, "lan0", "10.0.0.1/24")
	wan := addVeth(t, "wan0", "203.0.113.1/24")
	g := startIn(t, config.Quick([]string{"lan0"}, []string{"wan0"}))

	addAddress(t, wan, "198.51.100.7/24")
	eventually(t, "new address is served", func() bool {
		i, _ := served(g, "wan0")
		return slices.Contains(i.Addresses, "198.51.100.7/24")
	})
	hop := netip.MustParseAddr("203.0.113.254")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: wan.Attrs().Index, Gw: hop.AsSlice()}))
	eventually(t, "new next hop is used", func() bool {
		i, _ := served(g, "wan0")
		return slices.Contains(i.NextHops, hop.String())
	})
	must(t, netlink.LinkSetMTU(wan, 1400))
	eventually(t, "new MTU is used", func() bool { i, _ := served(g, "wan0"); return i.MTU == 1400 })

	must(t, netlink.LinkSetDown(wan))
	eventually(t, "interface is down", func() bool { i, _ := served(g, "wan0"); return i.State == api.StateDown })
	must(t, netlink.LinkSetUp(wan))
	eventually(t, "interface is up again", func() bool { i, _ := served(g, "wan0"); return i.State == api.StateUp })

	must(t, netlink.LinkDel(wan))
	eventually(t, "deleted interface is absent", func() bool {
		i, _ := served(g, "wan0")
		return i.State == api.StateAbsent && !g.Status().Ready
	})
	addVeth(t, "wan0", "203.0.113.2/24")
	eventually(t, "interface is taken again when it comes back", func() bool {
		i, _ := served(g, "wan0")
		return i.State == api.StateUp && slices.Contains(i.Addresses, "203.0.113.2/24") && g.Status().Ready
	})
}

func TestPatternTakesInterfacesAsTheyComeAndGo(t *testing.T) {
	inNewNamespace(t)
	addVeth(t, "wan0", "203.0.113.1/24")
	g := startIn(t, config.Quick([]string{"pod*"}, []string{"wan0"}))
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod1"}, PeerName: "c1"}))
	eventually(t, "new interface is served", func() bool { i, ok := served(g, "pod1"); return ok && i.Area == "lan" })
	l, err := netlink.LinkByName("pod1")
	must(t, err)
	must(t, netlink.LinkDel(l))
	eventually(t, "deleted interface is forgotten", func() bool { _, ok := served(g, "pod1"); return !ok })
	if st := g.Status(); !st.Ready {
		t.Errorf("a pattern that fits nothing keeps the gateway from being ready: %v", st.Waiting)
	}
}

func TestWidestPatternTakesNeitherLoopbackNorWhatTheGatewayMakes(t *testing.T) {
	inNewNamespace(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	addVeth(t, "wan0", "203.0.113.1/24")
	cfg := config.Quick([]string{"*"}, []string{"wan0"})
	cfg.Host.Enabled = true
	cfg.Interfaces = append(cfg.Interfaces, config.Interface{Name: "tun0", Area: "guest", Driver: config.TUN,
		AddressFrom: config.Static, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}})
	g := startIn(t, cfg)
	addVeth(t, "lan0", "10.0.0.1/24") // has all be looked at again, with TAPs and TUN there
	eventually(t, "new interface is served", func() bool { _, ok := served(g, "lan0"); return ok })
	var got []string
	for _, i := range g.Status().Interfaces {
		got = append(got, i.Name)
	}
	slices.Sort(got)
	if want := []string{"lan0", "lan0-peer", "tun0", "wan0", "wan0-peer"}; !slices.Equal(got, want) {
		t.Errorf("serves %v, want %v", got, want)
	}
}

func TestInterfacesHearEveryGroupOfNeighbourDiscovery(t *testing.T) {
	inNewNamespace(t)
	addVeth(t, "trunk")
	addVeth(t, "wan0", "203.0.113.1/24")
	cfg := config.Quick([]string{"trunk"}, []string{"wan0"})
	cfg.Interfaces = append(cfg.Interfaces, config.Interface{Name: "trunk.7", Area: "guest", Parent: "trunk", VLAN: 7,
		AddressFrom: config.Static, Addresses: []netip.Prefix{netip.MustParsePrefix("fd00:7::1/64")}})
	g := startIn(t, cfg)
	allmulti := func(name string) int {
		out, err := exec.Command("ip", "-d", "-j", "link", "show", name).Output()
		must(t, err)
		var links []struct{ Allmulti int }
		must(t, json.Unmarshal(out, &links))
		return links[0].Allmulti
	}
	for _, name := range []string{"trunk", "wan0"} { // trunk.7 hears by its parent
		if got := allmulti(name); got != 1 {
			t.Errorf("%s is in all groups %d times, want once", name, got)
		}
	}
	must(t, g.RemoveInterface(t.Context(), "wan0"))
	if got := allmulti("wan0"); got != 0 {
		t.Errorf("wan0 is still in all groups %d times", got)
	}
}

func TestRemovedInterfaceIsTheKernelsAgain(t *testing.T) {
	inNewNamespace(t)
	addVeth(t, "lan0", "10.0.0.1/24")
	addVeth(t, "wan0", "203.0.113.1/24")
	cfg := config.Quick([]string{"lan0"}, []string{"wan0"})
	g := startIn(t, cfg)
	must(t, g.RemoveInterface(t.Context(), "lan0"))
	if _, ok := served(g, "lan0"); ok {
		t.Error("lan0 is served after its removal")
	}
	must(t, g.AddInterface(t.Context(), api.InterfaceSpec{Name: "lan0", Area: "lan"}))
	if i, ok := served(g, "lan0"); !ok || i.State != api.StateUp {
		t.Errorf("lan0 after it was added again: %+v", i)
	}
}

func TestMissingInterfaceRefusesTheStartAndLeavesNothing(t *testing.T) {
	inNewNamespace(t)
	addVeth(t, "lan0", "10.0.0.1/24")
	socket := filepath.Join(t.TempDir(), "culvert.sock")
	g, err := New(config.Quick([]string{"lan0"}, []string{"wan0"}), Options{Socket: socket})
	must(t, err)
	if err := g.Start(t.Context()); !errors.Is(err, ErrAbsent) {
		t.Errorf("start without wan0: %v, want %v", err, ErrAbsent)
	}
	if _, err := api.NewClient(socket).Status(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("socket after the refusal: %v, want %v", err, api.ErrNotRunning)
	}
}
