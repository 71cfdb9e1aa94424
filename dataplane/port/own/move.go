package own

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Estate describes an owned interface for another process: the descriptors that belong to
// it are handed over beside it, in the order of its links, then its counters, its claim,
// and its guard if it has one.
type Estate struct {
	Links  []string // names of the programs
	OnExit OnExit
	Pins   string // directory of the pins, "" without Hold
}

// ErrEstate is wrapped by Adopt's error for an estate that cannot be taken over as it is.
var ErrEstate = errors.New("the interface is owned in another way than configured: that needs a restart")

// Estate returns what another process needs to go on with the interface, and the
// descriptors, which stay the owner's. Nothing of it ends while either process has it.
func (o *Owner) Estate() (e Estate, fds []int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counters == nil || o.claimed < 0 {
		return e, nil, errClosed
	}
	e = Estate{OnExit: o.cfg.OnExit, Pins: o.pins}
	for _, l := range o.links {
		f, ok := l.link.(interface{ FD() int })
		if !ok {
			return e, nil, fmt.Errorf("link of %s program: no descriptor", l.name)
		}
		e.Links, fds = append(e.Links, l.name), append(fds, f.FD())
	}
	fds = append(fds, o.counters.FD(), o.claimed)
	if o.guard >= 0 {
		fds = append(fds, o.guard)
	}
	return e, fds, nil
}

// Descriptors returns how many descriptors belong to the estate.
func (e *Estate) Descriptors() int {
	n := len(e.Links) + 2
	if e.Pins != "" {
		n++
	}
	return n
}

// Adopt is Take for an interface that another process owns and hands over. The
// descriptors belong to the owner from here on, also when there is an error, which wraps
// ErrEstate when cfg wants another kind of ownership.
func Adopt(cfg Config, e *Estate, fds []int) (*Owner, error) {
	o := &Owner{cfg: cfg, claimed: -1, guard: -1}
	rest := fds
	err := o.adopt(e, &rest)
	if err == nil {
		return o, nil
	}
	for _, fd := range rest {
		unix.Close(fd)
	}
	o.Close() // not Release: the other process may go on
	return nil, fmt.Errorf("take over interface %d: %w", cfg.Ifindex, err)
}

// adopt takes descriptors from rest.
func (o *Owner) adopt(e *Estate, rest *[]int) error {
	wanted := 2
	if o.cfg.Host != nil {
		wanted = 4
	}
	if e.OnExit != o.cfg.OnExit || (e.Pins != "") != (o.cfg.OnExit == Hold) || len(e.Links) != wanted || len(*rest) != e.Descriptors() {
		return ErrEstate
	}
	next := func() int {
		fd := (*rest)[0]
		*rest = (*rest)[1:]
		return fd
	}
	for _, name := range e.Links {
		l, err := link.NewFromFD(next())
		if err != nil {
			return fmt.Errorf("link of %s program: %w", name, err)
		}
		o.links = append(o.links, owned{name, l})
	}
	var err error
	if o.counters, err = ebpf.NewMapFromFD(next()); err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	o.claimed = next()
	if e.Pins != "" {
		o.guard, o.pins = next(), e.Pins
	}
	return nil
}

// Reclaim makes this process the one that has the interface in the eyes of others: the
// claim is its own after Adopt, and again when the other process has ended.
func (o *Owner) Reclaim() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.claimed < 0 {
		return errClosed
	}
	if err := unix.Listen(o.claimed, unix.SOMAXCONN); err != nil { // notes who calls it
		return fmt.Errorf("claim: %w", err)
	}
	return nil
}
