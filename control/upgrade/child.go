package upgrade

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Variable is the one of the environment that tells a process that it is to take over, and
// by which descriptor it hears of that.
const Variable = "CULVERT_UPGRADE"

// childFD is the descriptor: the first one behind the standard ones.
const childFD = 3

// Child is the new process, as the old one has it. Nobody waits for it before Kill, so its
// number is nobody else's.
type Child struct {
	*Conn
	process *os.Process
}

// Start runs a program that is to take over, with the standard files of this process and,
// if it is not root's, the capabilities that this one has. The calling thread's
// namespaces are its own. It has a process group of its own, which whatever it starts
// belongs to.
func Start(binary string, args []string, ambient []uintptr) (*Child, error) {
	ours, theirs, err := Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	f := os.NewFile(uintptr(theirs.fd), "upgrade")
	theirs.fd = -1
	defer f.Close()
	pidfd := -1
	p, err := os.StartProcess(binary, append([]string{args[0]}, args[1:]...), &os.ProcAttr{
		Env: environment(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, f},
		Sys: &syscall.SysProcAttr{AmbientCaps: ambient, Setpgid: true, PidFD: &pidfd},
	})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the new process: %w", err)
	}
	if pidfd >= 0 {
		ours.Watch(pidfd)
	}
	return &Child{Conn: ours, process: p}, nil
}

// environment is ours, but for what is about this process alone.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, Variable+"=") || strings.HasPrefix(v, "WATCHDOG_PID=") || strings.HasPrefix(v, "LISTEN_PID=")
	})
	return append(env, fmt.Sprintf("%s=%d", Variable, childFD))
}

// PID returns the number of the process.
func (c *Child) PID() int { return c.process.Pid }

// How long a killed process may take to end, which holds no lock of ours, and then those
// that it has started.
const (
	killWait   = 10 * time.Second
	othersWait = time.Second
)

// Kill ends the process with all that it has started in its group, and waits until they
// are gone. It reports false when one of them has not let go of its end of the connection:
// then it may still use what it was given.
func (c *Child) Kill() bool {
	_ = unix.Kill(-c.PID(), unix.SIGKILL)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = c.process.Wait()
	}()
	defer c.Conn.Close()
	select {
	case <-ended:
		return c.hungUp(time.Now().Add(othersWait))
	case <-time.After(killWait):
		return false
	}
}

// hungUp waits until nobody has the other end any more.
func (c *Conn) hungUp(until time.Time) bool {
	fds := []unix.PollFd{{Fd: int32(c.fd)}} // POLLHUP is always told
	n, err := poll(fds, until)
	return err == nil && n > 0
}

// Predecessor returns the connection to the process that this one is to take over from,
// nil if there is none. It is asked once, before anything else opens files.
func Predecessor() (*Conn, error) {
	text, ok := os.LookupEnv(Variable)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(Variable)
	fd, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("%s=%q: no descriptor", Variable, text)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, fmt.Errorf("%s=%q: this is how a gateway starts its successor: unset it", Variable, text)
	}
	unix.CloseOnExec(fd)
	c := &Conn{fd: fd}
	if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
		c.group, _ = unix.Getpgid(int(cred.Pid)) // an error: it has ended, which is told
	}
	if pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
		c.Watch(pidfd)
	}
	return c, nil
}

// Join has this process be in the process group that the predecessor has: signals to all of
// that group, as a terminal sends them, are for it, too. It does nothing when that is gone.
func (c *Conn) Join() {
	if c.group > 0 {
		_ = unix.Setpgid(0, c.group)
	}
}

// Fail tells the predecessor why this process cannot go on, if there is one, and returns
// err.
func (c *Conn) Fail(err error) error {
	if c != nil {
		_ = c.Send(KindFailed, FailedError{Why: err.Error()}) // it sees our end
		c.Close()
	}
	return err
}
