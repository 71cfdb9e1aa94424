//go:build netns

package kernel

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inNewNamespace moves the test's thread into a namespace of its own. The
// thread, and the namespace with it, end with the test.
func inNewNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("new network namespace: %v (run as root)", err)
	}
	t.Cleanup(func() { ns.Close() })
}

// waitFor takes snapshots at each signal until ok likes one.
func waitFor(t *testing.T, w *Watcher, what string, ok func(Snapshot) bool) Snapshot {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		s, err := w.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		select {
		case <-w.Changes():
		case <-deadline:
			t.Fatalf("%s: never seen; last snapshot %+v", what, s)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatcherFollowsAnInterfaceFromBirthToDeath(t *testing.T) {
	inNewNamespace(t)
	w, err := Watch()
	must(t, err)
	defer w.Close()

	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0", MTU: 1400}, PeerName: "a1"}
	must(t, netlink.LinkAdd(veth))
	s := waitFor(t, w, "new link", func(s Snapshot) bool { _, ok := s.Interfaces["a0"]; return ok })
	if a0 := s.Interfaces["a0"]; a0.MTU != 1400 || a0.MAC == [6]byte{} || a0.Up {
		t.Errorf("fresh veth is %+v, want MTU 1400, a MAC, down", a0)
	}

	a0, err := netlink.LinkByName("a0")
	must(t, err)
	a1, err := netlink.LinkByName("a1")
	must(t, err)
	must(t, netlink.LinkSetUp(a0))
	must(t, netlink.LinkSetUp(a1))
	waitFor(t, w, "link up", func(s Snapshot) bool { return s.Interfaces["a0"].Up })

	prefix := netip.MustParsePrefix("192.0.2.2/24")
	addr, err := netlink.ParseAddr(prefix.String())
	must(t, err)
	must(t, netlink.AddrAdd(a0, addr))
	waitFor(t, w, "address and on-link route", func(s Snapshot) bool {
		i := s.Interfaces["a0"]
		return slices.Contains(i.Addresses, prefix) &&
			slices.Contains(s.RoutesOf(i.Index), Route{Prefix: prefix.Masked(), Index: i.Index})
	})

	hop := netip.MustParseAddr("192.0.2.1")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: a0.Attrs().Index, Gw: hop.AsSlice(), Priority: 50}))
	waitFor(t, w, "default route", func(s Snapshot) bool {
		return slices.Contains(s.Routes, Route{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: hop, Index: a0.Attrs().Index, Metric: 50})
	})

	six := netip.MustParsePrefix("2001:db8::2/64")
	addr6, err := netlink.ParseAddr(six.String())
	must(t, err)
	must(t, netlink.AddrAdd(a0, addr6))
	waitFor(t, w, "IPv6 address and route", func(s Snapshot) bool {
		i := s.Interfaces["a0"]
		return slices.Contains(i.Addresses, six) &&
			slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Prefix == six.Masked() && r.Index == i.Index })
	})

	must(t, netlink.AddrDel(a0, addr))
	waitFor(t, w, "address gone, default route with it", func(s Snapshot) bool {
		return !slices.Contains(s.Interfaces["a0"].Addresses, prefix) &&
			!slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Via == hop })
	})

	must(t, netlink.LinkDel(a0))
	waitFor(t, w, "link gone", func(s Snapshot) bool { _, ok := s.Interfaces["a0"]; return !ok })
}
