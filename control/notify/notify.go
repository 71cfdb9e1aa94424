// Package notify tells a service manager how the process is doing, by the
// datagram protocol of sd_notify(3).
//
// A manager that wants to be told puts the address of a unix datagram socket
// into NOTIFY_SOCKET: a path, or a name in the abstract namespace with a leading
// '@'. Each message is one datagram of VAR=value lines. With no manager listening
// everything here does nothing.
package notify

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier sends messages to one service manager. The zero Notifier has none
// and swallows every message. It is safe for concurrent use.
type Notifier struct {
	addr *net.UnixAddr
}

// FromEnvironment returns the notifier for NOTIFY_SOCKET of this process.
func FromEnvironment() Notifier { return To(os.Getenv("NOTIFY_SOCKET")) }

// To returns a notifier that sends to socket, a path or "@name". An empty socket
// gives the zero Notifier.
func To(socket string) Notifier {
	if socket == "" {
		return Notifier{}
	}
	return Notifier{addr: &net.UnixAddr{Name: socket, Net: "unixgram"}}
}

// Ready says that start-up or a reload is complete, with a status line for people.
func (n Notifier) Ready(status string) error { return n.send("READY=1\nSTATUS=" + status) }

// Reloading says that a reload has begun; Ready ends it. The time stamp is what
// systemd needs with Type=notify-reload.
func (n Notifier) Reloading() error {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return fmt.Errorf("service manager: monotonic clock: %w", err)
	}
	return n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(ts.Nano()/1000, 10))
}

// Main says that another process is the main one of the service from now on: this one
// may be believed for the last time.
func (n Notifier) Main(pid int) error { return n.send("MAINPID=" + strconv.Itoa(pid)) }

// Stopping says that the shutdown has begun.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Watchdog says that the process is alive.
func (n Notifier) Watchdog() error { return n.send("WATCHDOG=1") }

// patience is how long a manager that reads nothing may hold up who tells it something.
const patience = time.Second

func (n Notifier) send(message string) error {
	if n.addr == nil {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, n.addr)
	if err != nil {
		return fmt.Errorf("service manager at %s: %w", n.addr.Name, err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("service manager at %s: %w", n.addr.Name, err)
	}
	if _, err := conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("service manager at %s: %w", n.addr.Name, err)
	}
	return nil
}

// WatchdogInterval returns how often the service manager wants to hear Watchdog:
// half of WATCHDOG_USEC, as sd_watchdog_enabled(3) recommends. It is zero when
// nobody asked, or asked another process (WATCHDOG_PID).
func WatchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}
