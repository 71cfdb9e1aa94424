package own

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/port/ns"
)

// ErrKernel is wrapped by Take's error on a kernel without TCX links.
var ErrKernel = errors.New("the kernel has no TCX links: Linux 6.6 or newer is needed")

// OnExit says what becomes of the interface when the process ends.
type OnExit uint8

// Values of OnExit.
const (
	Release OnExit = iota // the kernel has it back, also after kill -9
	Hold                  // it stays closed until the next Take, or ReleaseHeld
)

// HostPath is the way between the kernel's stack and the gateway.
type HostPath struct {
	TAP int // index of a TAP in the interface's namespace, up, whose descriptor the gateway serves
}

// Config says what to own.
type Config struct {
	Ifindex int    // of the interface, in Netns
	Netns   string // named namespace, "" for the process's own
	OnExit  OnExit
	PinDir  string    // Hold: directory for pinned links, default DefaultPinDir
	Host    *HostPath // nil: the kernel is cut off
}

// Owner is an owned interface. Its methods are safe for concurrent use.
type Owner struct {
	cfg Config

	mu       sync.Mutex // guards all below
	claimed  int        // socket that keeps other processes off, -1: none
	counters *ebpf.Map
	links    []owned
	pins     string // directory of this interface's pins, "" without Hold
	guard    int    // pins, open and locked against ReleaseHeld, -1 without Hold
}

// owned is one attached program.
type owned struct {
	name string // "ingress", "egress", "tap", "host": also the name of the pin
	link link.Link
}

// Take cuts the kernel off an interface. It needs CAP_BPF and CAP_NET_ADMIN (and
// CAP_SYS_ADMIN for another namespace, or to mount a BPF file system). From here on
// only packet sockets see what arrives. The error wraps ErrOwned when another process
// owns the interface, ErrKernel when the kernel is too old.
func Take(cfg Config) (*Owner, error) {
	o := &Owner{cfg: cfg, claimed: -1, guard: -1}
	if err := ns.Do(cfg.Netns, o.take); err != nil {
		o.Release()
		return nil, fmt.Errorf("own interface %d: %w", cfg.Ifindex, err)
	}
	return o, nil
}

// take runs on a thread inside the interface's namespace.
func (o *Owner) take() (err error) {
	if err := o.claim(); err != nil {
		return err
	}
	if o.counters, err = newCounters(); err != nil {
		return err
	}
	// Egress first: the kernel must not answer what it still receives.
	if err := o.attach("egress", o.cfg.Ifindex, ebpf.AttachTCXEgress, egress(o.counters, o.cfg.Host)); err != nil {
		return err
	}
	if err := o.attach("ingress", o.cfg.Ifindex, ebpf.AttachTCXIngress, ingress(o.counters)); err != nil {
		return err
	}
	if o.cfg.Host != nil {
		if err := o.attach("tap", o.cfg.Host.TAP, ebpf.AttachTCXEgress, ontoTAP(o.counters)); err != nil {
			return err
		}
		if err := o.attach("host", o.cfg.Host.TAP, ebpf.AttachTCXIngress, intoKernel(o.counters, o.cfg.Ifindex)); err != nil {
			return err
		}
	}
	if o.cfg.OnExit == Hold {
		return o.pin()
	}
	return o.dropHeld()
}

// attach puts prog in front of all others at a hook.
func (o *Owner) attach(name string, ifindex int, at ebpf.AttachType, prog asm.Instructions) error {
	p, err := load(name, at, prog)
	if err != nil {
		return err
	}
	defer p.Close() // the link keeps it
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: at, Anchor: link.Head()})
	if errors.Is(err, ebpf.ErrNotSupported) {
		if attached.Load() { // what looked for the reason had no room, either
			return fmt.Errorf("attach %s program to interface %d: %w", name, ifindex, unix.EMFILE)
		}
		return ErrKernel
	}
	if err != nil {
		return fmt.Errorf("attach %s program to interface %d: %w", name, ifindex, err)
	}
	attached.Store(true)
	o.links = append(o.links, owned{name, l})
	return nil
}

// attached: this process has attached a program once, so that the kernel can.
var attached atomic.Bool

// Stats are frames since Take.
type Stats struct {
	IngressDropped   uint64 // received, seen by the gateway only
	IngressPassed    uint64 // received by way of the host path
	EgressDropped    uint64 // the kernel wanted to send it
	EgressPassed     uint64 // sent by the gateway through the qdisc
	EgressRedirected uint64 // the kernel wanted to send it, the gateway has it
	HostRedirected   uint64 // given to the kernel
}

// Stats reads the counters.
func (o *Owner) Stats() (Stats, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counters == nil {
		return Stats{}, errClosed
	}
	var sums [numCounters]uint64
	for c := range sums {
		var perCPU []uint64
		if err := o.counters.Lookup(uint32(c), &perCPU); err != nil {
			return Stats{}, fmt.Errorf("read counters: %w", err)
		}
		for _, n := range perCPU {
			sums[c] += n
		}
	}
	return Stats{
		IngressDropped: sums[ingressDropped], IngressPassed: sums[ingressPassed],
		EgressDropped: sums[egressDropped], EgressPassed: sums[egressPassed], EgressRedirected: sums[egressRedirected],
		HostRedirected: sums[hostRedirected],
	}, nil
}

var errClosed = errors.New("interface is not owned any more")

// Close ends the ownership as Config.OnExit says: with Hold the interface stays closed.
func (o *Owner) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closeLocked()
}

func (o *Owner) closeLocked() error {
	var errs []error
	for _, l := range o.links {
		errs = append(errs, l.link.Close())
	}
	o.links = nil
	if o.counters != nil {
		errs = append(errs, o.counters.Close())
		o.counters = nil
	}
	if o.guard >= 0 {
		errs = append(errs, unix.Close(o.guard))
		o.guard = -1
	}
	o.unclaim()
	return errors.Join(errs...)
}

// Release gives the interface back to the kernel, with Hold too.
func (o *Owner) Release() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return errors.Join(o.unpinLocked(), o.closeLocked())
}
