package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// stopGrace is how long a process may take to end after SIGTERM.
	stopGrace = 5 * time.Second
	// pipeGrace is how long a daemon that a command left behind may hold the
	// command's stdout.
	pipeGrace = 200 * time.Millisecond
)

// spawner starts the commands of one host on one thread, which lives as long as
// the host: PDEATHSIG fires when the thread that forked dies. The thread has a
// mount namespace of its own in which /sys shows the host's devices.
type spawner struct {
	calls chan func()
}

func newSpawner(ns netns.NsHandle) (*spawner, error) {
	s := &spawner{calls: make(chan func())}
	entered := make(chan error, 1)
	onThread(func() {
		err := enterForExec(ns)
		entered <- err
		if err != nil {
			return
		}
		for call := range s.calls {
			call()
		}
	})
	if err := <-entered; err != nil {
		return nil, err
	}
	return s, nil
}

// enterForExec moves this thread into ns and gives it the /sys of ns, keeping
// the BPF file system of the machine.
func enterForExec(ns netns.NsHandle) error {
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	// Slave: unmounts outside still reach us, or removed namespaces would live on here.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	const bpffs = "/sys/fs/bpf"
	bpf, err := unix.Open(bpffs, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(bpf)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err == nil {
		// Absent where BPF has no file system; nothing needs it then.
		_ = unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d", bpf), bpffs, "", unix.MS_BIND, "")
	}
	return nil
}

// do runs f on the thread and waits for it.
func (s *spawner) do(f func()) {
	done := make(chan struct{})
	s.calls <- func() { defer close(done); f() }
	<-done
}

func (s *spawner) close() { close(s.calls) }

// Process is a command that runs inside a host.
type Process struct {
	cmd  *exec.Cmd
	out  string        // file with stdout and stderr, "" for Exec
	done chan struct{} // closed when the process has ended and err is set
	err  error
}

// Start starts a command inside the host, with stdout and stderr collected together. It is
// stopped when the lab closes, if not before.
func (h *Host) Start(args ...string) (*Process, error) {
	// A file and not a pipe: daemons that the command leaves behind keep writing.
	out, err := os.CreateTemp(h.lab.dir, h.name+"-*.out")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &Process{cmd: exec.Command(args[0], args[1:]...), out: out.Name(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := h.start(p); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.procs = append(h.procs, p)
	h.mu.Unlock()
	return p, nil
}

func (h *Host) start(p *Process) error {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = pipeGrace
	var err error
	h.exec.do(func() { err = p.cmd.Start() })
	if err != nil {
		return fmt.Errorf("host %s: start %s: %w", h.name, p.cmd.Path, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		if errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil
		}
		close(p.done)
	}()
	return nil
}

// Exec runs a command inside the host and returns its stdout. The error of a
// command that failed holds its stderr and wraps *exec.ExitError. The command is
// killed when ctx ends.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	return h.ExecInput(ctx, "", args...)
}

// ExecInput is Exec with text for the command's stdin.
func (h *Host) ExecInput(ctx context.Context, stdin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	p := &Process{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := h.start(p); err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill(unix.SIGKILL)
		<-p.done
		return stdout.String(), fmt.Errorf("host %s: %s: %w", h.name, strings.Join(args, " "), ctx.Err())
	}
	if p.err != nil {
		return stdout.String(), fmt.Errorf("host %s: %s: %w\n%s", h.name, strings.Join(args, " "), p.err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// Pid is the process id, also of the process group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output is what the process has written so far.
func (p *Process) Output() string {
	text, err := os.ReadFile(p.out)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// kill signals the process and its children.
func (p *Process) kill(sig syscall.Signal) { _ = unix.Kill(-p.Pid(), sig) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns what exec.Cmd.Wait did.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// WaitOutput waits until the output contains text.
func (p *Process) WaitOutput(ctx context.Context, text string) error {
	ended := errors.New("the process ended")
	err := poll(ctx, pollEvery, func() (bool, error) {
		over := false
		select {
		case <-p.done: // asked first, or its last words could be missed
			over = true
		default:
		}
		switch found := strings.Contains(p.Output(), text); {
		case found:
			return true, nil
		case over:
			return false, ended
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %q from %s: %w\n%s", text, p.cmd.Path, err, p.Output())
	}
	return nil
}

// Stop ends the process with SIGTERM and, when that does not help in time,
// SIGKILL, which is an error. How the process exited is not: ask Wait.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		p.kill(unix.SIGKILL) // children it may have left behind
		return nil
	default:
	}
	_ = p.Signal(unix.SIGTERM)
	late := time.NewTimer(stopGrace)
	defer late.Stop()
	select {
	case <-p.done:
		p.kill(unix.SIGKILL)
		return nil
	case <-late.C:
		p.kill(unix.SIGKILL)
		<-p.done
		return fmt.Errorf("%s (pid %d) did not end within %v of SIGTERM\n%s", p.cmd.Path, p.Pid(), stopGrace, p.Output())
	}
}
