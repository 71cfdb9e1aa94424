package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// groups are the netlink multicast groups whose messages mean "look again".
const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
	unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// maxDumpAttempts bounds the retries of a dump that a concurrent change interrupted.
const maxDumpAttempts = 10

// Watcher reads one network namespace. Snapshot may be called by one goroutine
// at a time; the rest is safe for concurrent use.
type Watcher struct {
	handle  *netlink.Handle
	events  *os.File
	changes chan struct{}
	done    chan struct{}
}

// Watch begins to watch the namespace of the calling thread. Changes that happen
// after Watch returned are signalled.
func Watch() (*Watcher, error) {
	// NewHandleAt would enter the namespace again, for which CAP_SYS_ADMIN is needed.
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	events, err := openEvents()
	if err != nil {
		handle.Close()
		return nil, err
	}
	w := &Watcher{handle: handle, events: events, changes: make(chan struct{}, 1), done: make(chan struct{})}
	go w.listen()
	return w, nil
}

func openEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink event socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to netlink events: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// listen turns messages into signals. An overrun (ENOBUFS) is a signal as well.
func (w *Watcher) listen() {
	defer close(w.done)
	buf := make([]byte, 64<<10)
	for {
		_, err := w.events.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return // closed
		}
		select {
		case w.changes <- struct{}{}:
		default: // one signal waits already
		}
	}
}

// Changes delivers a value after anything changed. Several changes may share one.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// Snapshot reads the present state.
func (w *Watcher) Snapshot() (Snapshot, error) {
	links, err := dump(w.handle.LinkList)
	if err != nil {
		return Snapshot{}, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return w.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return Snapshot{}, fmt.Errorf("list addresses: %w", err)
	}
	s := Snapshot{Interfaces: make(map[string]Interface, len(links))}
	names := make(map[int]string, len(links))
	for _, link := range links {
		i := interfaceFrom(link)
		s.Interfaces[i.Name] = i
		names[i.Index] = i.Name
	}
	slices.SortStableFunc(addrs, func(a, b netlink.Addr) int { return cmp.Compare(deprecated(a), deprecated(b)) })
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		i, known := s.Interfaces[names[a.LinkIndex]]
		prefix, ok := prefixFrom(a.IPNet)
		if !known || !ok {
			continue
		}
		i.Addresses = append(i.Addresses, prefix)
		s.Interfaces[i.Name] = i
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if s.Routes, err = w.appendRoutes(s.Routes, family); err != nil {
			return Snapshot{}, err
		}
	}
	slices.SortFunc(s.Routes, compareRoutes)
	return s, nil
}

// deprecated sorts addresses that must not start new flows behind the others.
func deprecated(a netlink.Addr) int { return a.Flags & unix.IFA_F_DEPRECATED }

func (w *Watcher) appendRoutes(to []Route, family int) ([]Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		main := &netlink.Route{Table: unix.RT_TABLE_MAIN}
		return w.handle.RouteListFiltered(family, main, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		r.Family = family
		if ours, ok := routeFrom(r); ok {
			to = append(to, ours)
		}
	}
	return to, nil
}

// dump runs list until no change interrupts it. A namespace that never rests
// gets what the last attempt saw: the next signal corrects it.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range maxDumpAttempts {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil
}

// Close ends the watcher. Its channel stays open and silent.
func (w *Watcher) Close() error {
	err := w.events.Close()
	<-w.done
	w.handle.Close()
	return err
}
