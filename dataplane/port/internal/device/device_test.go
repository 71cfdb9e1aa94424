package device

import (
	"errors"
	"math"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/port"
)

// loopback is a device that is everywhere.
func loopback(t *testing.T) *Device {
	t.Helper()
	d := new(Device)
	lo, err := netlink.LinkByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	a := *lo.Attrs()
	a.Flags |= 1 // up, whatever this machine does with it
	d.Set(port.Info{Index: a.Index}, &a)
	return d
}

func TestInterfaceStaysAsItWasWithoutDescriptorsToAskAfterIt(t *testing.T) {
	d := loopback(t)
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	none := most
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	info, err := d.Refresh()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) || errors.Is(err, port.ErrGone) {
		t.Errorf("Refresh: %v, want %v", err, unix.EMFILE)
	}
	if !info.Up || !d.Up() || info.Name != "lo" {
		t.Errorf("up %v for the control path and %v for packets, want both", info.Up, d.Up())
	}
}

func TestInterfaceThatIsNotThereIsGone(t *testing.T) {
	d := loopback(t)
	d.info.Index = math.MaxInt32
	if info, err := d.Refresh(); !errors.Is(err, port.ErrGone) || info.Up || d.Up() {
		t.Errorf("Refresh: up %v, error %v; want gone", info.Up, err)
	}
	d = loopback(t)
	d.info.Netns = "/nowhere/at/all"
	if info, err := d.Refresh(); !errors.Is(err, port.ErrGone) || info.Up {
		t.Errorf("Refresh in a namespace that is gone: up %v, error %v; want gone", info.Up, err)
	}
}
