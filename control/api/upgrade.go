package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

// UpgradeRequest asks for an upgrade. An empty Binary means the file that the gateway was
// started from, which may be another one by now.
type UpgradeRequest struct {
	Binary string `json:"binary,omitempty"` // absolute path
}

// UpgradeResult says what the new process has taken over.
type UpgradeResult struct {
	Before string `json:"before"` // version of the process that ends
	After  string `json:"after"`  // of the one that goes on
	PID    int    `json:"pid"`    // of the one that goes on

	Pause        float64 `json:"pause_ms"` // for which packets waited in the kernel, milliseconds
	Prepared     float64 `json:"prepared_ms"`
	Flows        int     `json:"flows"`
	Expectations int     `json:"expectations"`
	Ports        int     `json:"ports"` // that are kept for who had them
	Lost         int     `json:"lost"`  // flows, expectations and ports that could not be taken over
}

// upgrade answers when the new process is at work, or why it is not.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) error {
	var request UpgradeRequest
	if err := readJSON(r, &request); err != nil {
		return err
	}
	if err := mayNameFile(r, request.Binary); err != nil {
		return err
	}
	result, err := s.backend.Upgrade(r.Context(), request)
	if err != nil {
		return err
	}
	w.Header().Set("Connection", "close") // the next request is for the new process
	writeJSON(w, http.StatusOK, result)
	return nil
}

// Upgrade has another process go on in place of the gateway's. ErrRefused: it was rolled
// back, and the gateway goes on as it was, or another upgrade came first.
func (c *Client) Upgrade(ctx context.Context, r UpgradeRequest) (result UpgradeResult, err error) {
	return result, c.call(ctx, http.MethodPost, "/v1/upgrade", r, &result)
}

// ErrUnderWay is the error of Hold when commands do not end.
var ErrUnderWay = errors.New("commands are under way that change flows; try again")

// holdWait is how long Hold waits for commands to end.
const holdWait = time.Second

// Hold keeps requests that change something waiting, those that have begun excepted:
// it waits for them. What they would change is about to be another process's.
func (s *Server) Hold() error {
	for deadline := time.Now().Add(holdWait); !s.gate.TryLock(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return ErrUnderWay
		}
	}
	return nil
}

// Let lets requests go on that Hold has kept.
func (s *Server) Let() { s.gate.Unlock() }

// Dismiss refuses the requests that Hold has kept: their clients ask the new process.
func (s *Server) Dismiss() {
	s.left.Store(true)
	s.gate.Unlock()
}

// pass waits while requests are held that change something, unless it is the upgrade.
func (s *Server) pass(rt *route, r *http.Request) (done func(), err error) {
	if r.Method == http.MethodGet || rt.name == "upgrade" {
		return func() {}, nil
	}
	s.gate.RLock()
	if s.left.Load() {
		s.gate.RUnlock()
		return nil, fmt.Errorf("%w: another process goes on in place of this one; ask again", ErrNotRunning)
	}
	return s.gate.RUnlock, nil
}

// Pausable is a listener that can be left to another process that has it, too.
type Pausable struct {
	net.Listener
	accepting sync.Mutex // held by who waits for a connection, one at a time

	mu     sync.Mutex    // guards what follows
	paused chan struct{} // closed when it goes on; nil: it is not paused
	closed bool
}

// NewPausable makes a listener pausable. A nil one stays nil.
func NewPausable(l net.Listener) net.Listener {
	if l == nil {
		return nil
	}
	return &Pausable{Listener: l}
}

// Accept implements net.Listener.
func (p *Pausable) Accept() (net.Conn, error) {
	for {
		p.accepting.Lock()
		c, err := p.Listener.Accept()
		p.accepting.Unlock()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
		p.mu.Lock()
		wait := p.paused
		p.mu.Unlock()
		if wait != nil {
			<-wait
		}
	}
}

// Pause has connections wait in the kernel: when it returns, none is accepted any more.
func (p *Pausable) Pause() error {
	p.mu.Lock()
	if p.paused == nil && !p.closed {
		p.paused = make(chan struct{})
	}
	err := p.deadline(time.Unix(1, 0))
	p.mu.Unlock()
	if err == nil {
		p.settle()
	}
	return err
}

// settle returns when who waited for a connection does no more, or has one.
func (p *Pausable) settle() {
	p.accepting.Lock()
	defer p.accepting.Unlock()
}

// Resume ends a pause.
func (p *Pausable) Resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.deadline(time.Time{})
	p.resumeLocked()
	return err
}

func (p *Pausable) resumeLocked() {
	if p.paused != nil {
		close(p.paused)
		p.paused = nil
	}
}

func (p *Pausable) deadline(t time.Time) error {
	d, ok := p.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return fmt.Errorf("listener %v: %w", p.Addr(), errors.ErrUnsupported)
	}
	return d.SetDeadline(t)
}

// Close implements net.Listener.
func (p *Pausable) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	err := p.Listener.Close()
	p.resumeLocked()
	return err
}

// Keep has Close leave a socket file to the process that goes on.
func (p *Pausable) Keep(keep bool) {
	if l, ok := p.Listener.(*listener); ok {
		l.kept.Store(keep)
	}
}

// Descriptor returns that of a listener, which stays its own, and the inode of its socket
// file, 0 without one.
func (p *Pausable) Descriptor() (fd int, inode uint64, err error) {
	c, ok := p.Listener.(syscall.Conn)
	if !ok {
		return -1, 0, fmt.Errorf("listener %v: %w", p.Addr(), errors.ErrUnsupported)
	}
	if l, ok := p.Listener.(*listener); ok {
		inode = l.inode
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, 0, err
	}
	err = raw.Control(func(f uintptr) { fd = int(f) })
	return fd, inode, err
}

// AdoptListener returns a listener of another process by its descriptor, which belongs to
// it from here on. path and inode are those of a unix socket's file, which Close leaves
// alone until Keep says otherwise.
func AdoptListener(fd int, path string, inode uint64) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close() // it is duplicated
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over a listener: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
		one := &listener{UnixListener: u, path: path, inode: inode}
		one.kept.Store(true)
		return one, nil
	}
	return l, nil
}
