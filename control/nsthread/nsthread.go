// Package nsthread runs functions in a network namespace.
//
// A goroutine moves between threads and a thread has its own network namespace,
// so that "open a socket in namespace X" only means something on a thread that
// was locked first. A Thread is such a thread: it enters its namespace once and
// then runs what it is given, one function at a time. Sockets stay in the
// namespace they were created in, so their users need no Thread.
package nsthread

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"

	"example.com/culvert/dataplane/port/ns"
)

// ErrClosed is returned by Do after Close.
var ErrClosed = errors.New("namespace thread is closed")

// Thread runs functions in one network namespace. It is safe for concurrent use.
type Thread struct {
	calls chan call
	quit  chan struct{}
	done  chan struct{}
	ns    netns.NsHandle
}

type call struct {
	f     func() error
	reply chan error
}

// Current returns a Thread for the namespace of the calling thread. Lock the
// goroutine to its thread before, if the namespace is not the process's own.
func Current() (*Thread, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	return start(ns)
}

// Named returns a Thread for the namespace that ip-netns(8) calls name, or whose
// file it is if it has a slash. It needs CAP_SYS_ADMIN.
func Named(name string) (*Thread, error) {
	ns, err := netns.GetFromPath(ns.Path(name))
	if err != nil {
		return nil, fmt.Errorf("network namespace %q: %w (ip netns list shows the ones there are)", name, err)
	}
	return start(ns)
}

// start takes over ns.
func start(ns netns.NsHandle) (*Thread, error) {
	t := &Thread{calls: make(chan call), quit: make(chan struct{}), done: make(chan struct{}), ns: ns}
	entered := make(chan error)
	go t.run(entered)
	if err := <-entered; err != nil {
		<-t.done
		ns.Close()
		return nil, err
	}
	return t, nil
}

func (t *Thread) run(entered chan<- error) {
	defer close(t.done)
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := t.enter(); err != nil {
		entered <- err
		return
	}
	entered <- nil
	for {
		select {
		case c := <-t.calls:
			c.reply <- c.f()
		case <-t.quit:
			return
		}
	}
}

// enter moves the calling thread into the namespace, unless it is there already:
// the move needs CAP_SYS_ADMIN even when it leads nowhere.
func (t *Thread) enter() error {
	own, err := netns.Get()
	if err != nil {
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer own.Close()
	if own.Equal(t.ns) {
		return nil
	}
	if err := netns.Set(t.ns); err != nil {
		return fmt.Errorf("enter network namespace: %w (needs CAP_SYS_ADMIN)", err)
	}
	return nil
}

// Do runs f in the namespace and returns its error. Functions run one after
// another; f must not call Do. What f starts with go runs elsewhere.
func (t *Thread) Do(f func() error) error {
	c := call{f: f, reply: make(chan error, 1)}
	select {
	case t.calls <- c:
		return <-c.reply
	case <-t.done:
		return ErrClosed
	}
}

// Handle returns the namespace's descriptor, open until Close.
func (t *Thread) Handle() netns.NsHandle { return t.ns }

// Close ends the thread after the function that is running. It is called once.
func (t *Thread) Close() error {
	close(t.quit)
	<-t.done
	return t.ns.Close()
}
