// Package privilege says whether this process may run a gateway on this kernel,
// and gives up what a gateway does not need.
//
// A gateway needs CAP_NET_ADMIN (addresses, TUN, socket buffers), CAP_NET_RAW
// (packet sockets) and CAP_BPF (the TCX programs that own interfaces;
// CAP_SYS_ADMIN includes it). Interfaces in other namespaces need
// CAP_SYS_ADMIN for setns(2).
package privilege

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Errors that the functions here wrap.
var (
	ErrKernel       = errors.New("kernel too old")
	ErrCapabilities = errors.New("capabilities missing")
)

// The oldest kernel a gateway runs on: TCX links came with Linux 6.6.
const (
	minMajor = 6
	minMinor = 6
)

// Capability is a Linux capability, by its number.
type Capability uint

// What a gateway needs.
const (
	NetAdmin Capability = unix.CAP_NET_ADMIN
	NetRaw   Capability = unix.CAP_NET_RAW
	SysAdmin Capability = unix.CAP_SYS_ADMIN
	BPF      Capability = unix.CAP_BPF
)

var names = map[Capability]string{
	NetAdmin: "CAP_NET_ADMIN", NetRaw: "CAP_NET_RAW", SysAdmin: "CAP_SYS_ADMIN", BPF: "CAP_BPF",
}

func (c Capability) String() string {
	if name, ok := names[c]; ok {
		return name
	}
	return fmt.Sprintf("capability %d", uint(c))
}

// CheckKernel reports an error that wraps ErrKernel when the running kernel is
// too old to own an interface.
func CheckKernel() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("kernel version: %w", err)
	}
	return checkRelease(unix.ByteSliceToString(u.Release[:]))
}

func checkRelease(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel version %q: %w", release, err)
	}
	if major > minMajor || major == minMajor && minor >= minMinor {
		return nil
	}
	return fmt.Errorf("%w: this is Linux %s; owning interfaces needs TCX, which came with Linux %d.%d",
		ErrKernel, release, minMajor, minMinor)
}

// set is the effective capability set of a thread, a bit for each.
type set uint64

func (s set) has(c Capability) bool { return s&(1<<c) != 0 }

// Check reports an error that wraps ErrCapabilities and names what is missing
// when the calling thread lacks a wanted capability.
func Check(want ...Capability) error {
	have, err := effective()
	if err != nil {
		return err
	}
	return check(have, want)
}

func check(have set, want []Capability) error {
	var missing []string
	for _, c := range want {
		if have.has(c) || c == BPF && have.has(SysAdmin) {
			continue
		}
		missing = append(missing, c.String())
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s; run as root, or give the binary or the service these capabilities",
		ErrCapabilities, strings.Join(missing, ", "))
}

func effective() (set, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("own capabilities: %w", err)
	}
	return set(data[0].Effective) | set(data[1].Effective)<<32, nil
}

// Drop gives up every capability of the whole process but those to keep, for
// good: where it may (CAP_SETPCAP, which root has), also for programs that it starts as
// root. What it does not have it does not gain. The error wraps errors.ErrUnsupported in
// binaries that were linked with cgo, whose threads Go cannot reach.
func Drop(keep ...Capability) error {
	have, err := effective()
	if err != nil {
		return err
	}
	left := have.only(keep)
	if have.has(unix.CAP_SETPCAP) {
		if err := bound(left); err != nil {
			return fmt.Errorf("bound capabilities of other programs: %w", err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		word := uint32(left >> (32 * i))
		data[i] = unix.CapUserData{Effective: word, Permitted: word}
	}
	if err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0]))); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// bound takes what is not in left out of the bounding set, which is what a program
// of root's gets when it is started.
func bound(left set) error {
	for c := Capability(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel knows no more
		}
		if err != nil {
			return err
		}
		if has == 0 || left.has(c) {
			continue
		}
		if err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c)); err != nil {
			return err
		}
	}
}

// allThreads makes a system call in every thread of the process. It keeps none of its
// arguments.
//
//go:uintptrescapes
func allThreads(call, a, b uintptr) error {
	switch _, _, errno := syscall.AllThreadsSyscall(call, a, b, 0); errno {
	case 0:
		return nil
	case unix.ENOTSUP:
		return fmt.Errorf("%w: the binary was linked with cgo, build it with CGO_ENABLED=0", errors.ErrUnsupported)
	default:
		return errno
	}
}

// Inheritable returns the capabilities of a gateway that the calling thread has and that
// a program which it starts does not get by itself: none of root's.
func Inheritable() (all []uintptr) {
	have, err := effective()
	if err != nil || os.Geteuid() == 0 {
		return nil
	}
	for _, c := range []Capability{NetAdmin, NetRaw, SysAdmin, BPF} {
		if have.has(c) {
			all = append(all, uintptr(c))
		}
	}
	return all
}

// only returns s without what is not in keep.
func (s set) only(keep []Capability) set {
	var wanted set
	for _, c := range keep {
		wanted |= 1 << c
	}
	if s.has(SysAdmin) && !s.has(BPF) && wanted.has(BPF) {
		wanted |= 1 << SysAdmin // stands for CAP_BPF here
	}
	return s & wanted
}
