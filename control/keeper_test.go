package control

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/upgrade"
	"example.com/culvert/internal/keep"
)

// stateFolder returns a folder for flows on a tmpfs.
func stateFolder(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("/dev/shm", "culvert-state-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	return filepath.Join(root, "state")
}

// keeping returns a gateway that keeps flows in a folder.
func keeping(t *testing.T, root string) *bench {
	t.Helper()
	return keepingAt(t, root, "203.0.113.1")
}

// keepingAt returns one with another address outside.
func keepingAt(t *testing.T, root, outside string) *bench {
	t.Helper()
	b := newBench(t, masqueradingAt(outside), Options{State: root}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func masqueradingAt(outside string) string {
	return strings.Replace(masquerading, "203.0.113.1/", outside+"/", 1) + "\n[conntrack]\nmax = 1000\n"
}

// killed returns the folder as it would be if the gateway that uses it were killed now.
func killed(t *testing.T, root string) string {
	t.Helper()
	copied := stateFolder(t)
	if err := os.CopyFS(copied, os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	return copied
}

func wantRecalled(t *testing.T, b *bench, want api.RestoreResult) {
	t.Helper()
	got := b.Status().Recalled
	if got == nil || got.RestoreResult != want || got.Refused != "" {
		t.Errorf("taken over: %+v, want %+v", got, want)
	}
}

func TestFlowsOfAKilledGatewayAreTakenOver(t *testing.T) {
	root := stateFolder(t)
	one := keeping(t, root)
	wantRecalled(t, one, api.RestoreResult{})
	one.send(t, 40000)
	one.received(t)
	one.send(t, 40001)
	one.received(t)
	was := flowsOf(one)

	two := keeping(t, killed(t, root))
	wantRecalled(t, two, api.RestoreResult{Flows: 2})
	is := flowsOf(two)
	for i := range was {
		if is[i].Tuple != was[i].Tuple || is[i].Rule != was[i].Rule || is[i].Packets != was[i].Packets || is[i].Status != was[i].Status {
			t.Errorf("the flow is %+v, was %+v", is[i], was[i])
		}
	}
	two.send(t, 40000)
	two.received(t)
	if n := two.Table().Len(); n != 2 {
		t.Errorf("%d flows after a packet of one of two", n)
	}
}

// Flows that need an address end with the address, though it was lost while no gateway ran;
// those of an address that came while one ran go on.
func TestAddressLostWhileNobodyRanEndsItsFlows(t *testing.T) {
	root := stateFolder(t)
	one := keeping(t, root)
	one.send(t, 40000)
	one.received(t)
	moved := keepingAt(t, killed(t, root), "203.0.113.2")
	wantEnded(t, moved)

	if err := one.Reload(parse(t, masqueradingAt("203.0.113.2"))); err != nil {
		t.Fatal(err)
	}
	one.send(t, 40001)
	if from := one.received(t); from != netip.MustParseAddr("203.0.113.2") {
		t.Errorf("it comes from %v", from)
	}
	same := keepingAt(t, killed(t, root), "203.0.113.2")
	if n := same.Table().Len(); n != 1 {
		t.Errorf("%d flows with the same address, want 1", n)
	}
	wantEnded(t, keeping(t, killed(t, root)))
}

// wantEnded wants a gateway that has ended the one flow that was left, because of its
// address, and forwards packets of its host anew.
func wantEnded(t *testing.T, b *bench) {
	t.Helper()
	wantRecalled(t, b, api.RestoreResult{Flows: 1})
	if n := b.Table().Len(); n != 0 {
		t.Errorf("%d flows are left, want none", n)
	}
	if n := b.Engine().Stats().Ended[conntrack.AddressLost]; n != 1 {
		t.Errorf("%d flows have ended with their address, want 1", n)
	}
	b.send(t, 40000)
	b.received(t)
}

// A restart is nothing else: flows go on.
func TestFlowsOfAGatewayThatWasStoppedAreTakenOver(t *testing.T) {
	root := stateFolder(t)
	one := keeping(t, root)
	one.send(t, 40000)
	one.received(t)
	if err := one.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRecalled(t, keeping(t, root), api.RestoreResult{Flows: 1})
}

// A process that has handed over may take long to end, and the one that goes on may be
// killed meanwhile.
func TestRestartDoesNotWaitForAProcessThatHasHandedOver(t *testing.T) {
	root := stateFolder(t)
	one := keeping(t, root)
	one.send(t, 40000)
	one.received(t)
	started := make(chan error, 1)
	var two *bench
	succeededBy(t, one, func(c *upgrade.Conn) {
		two = heirOf(t, one, c, masquerading+"\n[conntrack]\nmax = 1000\n")
		two.opts.State = root
		started <- two.Start(t.Context())
	})
	if _, err := one.Upgrade(t.Context(), api.UpgradeRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	one.pressure.mu.RLock() // somebody counts its flows, and it cannot end
	ended := make(chan error, 1)
	go func() { ended <- one.Close(t.Context()) }()
	if err := two.Close(t.Context()); err != nil {
		t.Error(err)
	}
	three := newBench(t, masquerading+"\n[conntrack]\nmax = 1000\n", Options{State: root}, "lan0", "wan0")
	err := three.Start(t.Context())
	one.pressure.mu.RUnlock()
	if err != nil {
		t.Fatalf("the restart: %v", err)
	}
	wantRecalled(t, three, api.RestoreResult{Flows: 1})
	if err := <-ended; err != nil {
		t.Errorf("the process that has handed over ends with %v", err)
	}
	if folders, err := filepath.Glob(filepath.Join(root, "flows.*")); err != nil || len(folders) != 1 {
		t.Errorf("%q are there, %v; want that of the last process", folders, err)
	}
}

func TestFolderOfARunningGatewayIsRefused(t *testing.T) {
	root := stateFolder(t)
	keeping(t, root)
	b := newBench(t, masquerading, Options{State: root}, "lan0", "wan0")
	if err := b.Start(t.Context()); !errors.Is(err, keep.ErrBusy) {
		t.Errorf("a second gateway starts with %v, want %v", err, keep.ErrBusy)
	}
}

// What another boot left, or a program that keeps flows in another way, or what is no
// table at all, is not read, and the gateway says so.
func TestForeignFlowsAreNotRead(t *testing.T) {
	root := stateFolder(t)
	one := keeping(t, root)
	one.send(t, 40000)
	one.received(t)
	for _, tt := range []struct {
		name  string
		spoil func(folder string) error
		why   string
	}{
		{"another boot", edit("header.json", `"boot":"`, `"boot":"x`), "another boot"},
		{"another layout", edit("header.json", `"layout":"`, `"layout":"x`), "in another way"},
		{"another version", edit("header.json", `"version":1,`, `"version":2,`), "in another way"},
		{"no header", edit("header.json", `{`, ``), "header.json"},
		{"a part of a record", func(folder string) error { return os.Truncate(filepath.Join(folder, "entries"), 1000) }, "entries"},
		{"fewer flows than times", func(folder string) error { return os.Truncate(filepath.Join(folder, "entries"), 0) }, "flows"},
		{"no ports", func(folder string) error { return os.Remove(filepath.Join(folder, "leases")) }, "leases"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			copied := killed(t, root)
			folders, err := filepath.Glob(filepath.Join(copied, "flows.*"))
			if err != nil || len(folders) != 1 {
				t.Fatalf("%q, %v", folders, err)
			}
			if err := tt.spoil(folders[0]); err != nil {
				t.Fatal(err)
			}
			two := keeping(t, copied)
			r := two.Status().Recalled
			if r == nil || !strings.Contains(r.Refused, tt.why) || r.RestoreResult != (api.RestoreResult{}) {
				t.Errorf("taken over: %+v, want nothing, and why: %q", r, tt.why)
			}
			if n := two.Table().Len(); n != 0 {
				t.Errorf("%d flows are there", n)
			}
		})
	}
}

// edit replaces the first occurrence of a text in a file of a folder.
func edit(name, from, to string) func(string) error {
	return func(folder string) error {
		path := filepath.Join(folder, name)
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), from) {
			return errors.Join(err, errors.New("there is no "+from))
		}
		return os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600)
	}
}
