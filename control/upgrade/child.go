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

// Child is the new process, as the old one has it.
type Child struct {
	*Conn
	process *os.Process
	ended   chan struct{}
}

// Start runs a program that is to take over, with the standard files of this process and,
// if it is not root's, the capabilities that this one has. The calling thread's
// namespaces are its own.
func Start(binary string, args []string, ambient []uintptr) (*Child, error) {
	ours, theirs, err := Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	f := os.NewFile(uintptr(theirs.fd), "upgrade")
	theirs.fd = -1
	defer f.Close()
	p, err := os.StartProcess(binary, append([]string{args[0]}, args[1:]...), &os.ProcAttr{
		Env: environment(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, f},
		Sys: &syscall.SysProcAttr{AmbientCaps: ambient},
	})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the new process: %w", err)
	}
	c := &Child{Conn: ours, process: p, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		_, _ = p.Wait()
	}()
	return c, nil
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

// killWait is how long a killed process may take to end: it holds no lock of ours.
const killWait = 10 * time.Second

// Kill ends the process and waits until it is gone. It reports false when it is not: then
// it may still use what it was given.
func (c *Child) Kill() bool {
	c.Conn.Close()
	_ = c.process.Kill() // it may have ended
	select {
	case <-c.ended:
		return true
	case <-time.After(killWait):
		return false
	}
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
	return &Conn{fd: fd}, nil
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
