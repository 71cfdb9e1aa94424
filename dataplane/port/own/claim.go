package own

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrOwned is wrapped by Take's error when another process owns the interface.
// Both would forward every frame.
var ErrOwned = errors.New("another gateway serves it; stop that one, or leave the interface to it")

// claimRanks is how many owners of one interface a process may have: two, while
// it replaces one by the other.
const claimRanks = 2

// claim keeps other processes off an interface for as long as this one lives: a
// listening socket with an abstract name, which is of its network namespace and
// ends with the process, kill -9 included. Any local process can take the name to
// keep the gateway from starting, and nothing else. It runs inside the namespace.
func (o *Owner) claim() error {
	for rank := range claimRanks {
		name := &unix.SockaddrUnix{Name: fmt.Sprintf("@culvert/own/%d/%d", o.cfg.Ifindex, rank)}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("claim: %w", err)
		}
		switch {
		case o.claimed >= 0: // only look whether somebody is there
			err = byOther(fd, name)
		case unix.Bind(fd, name) != nil:
			err = byOther(fd, name)
		default:
			if err = unix.Listen(fd, unix.SOMAXCONN); err == nil {
				o.claimed = fd
				continue
			}
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	if o.claimed < 0 {
		return fmt.Errorf("claim: this process has %d owners of the interface already", claimRanks)
	}
	return nil
}

// byOther reports ErrOwned when another process holds name. Who holds it without
// listening is about to.
func byOther(fd int, name *unix.SockaddrUnix) error {
	if unix.Connect(fd, name) != nil {
		if errors.Is(unix.Bind(fd, name), unix.EADDRINUSE) {
			return ErrOwned
		}
		return nil // nobody has it; closing fd gives it back
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	if int(peer.Pid) == os.Getpid() {
		return nil
	}
	return fmt.Errorf("process %d: %w", peer.Pid, ErrOwned)
}

// unclaim ends the claim. o.mu must be held, or o not yet shared.
func (o *Owner) unclaim() {
	if o.claimed >= 0 {
		unix.Close(o.claimed)
		o.claimed = -1
	}
}
