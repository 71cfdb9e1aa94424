package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultPrefix = "cvlab"
	// readyTimeout bounds each wait for something local: a carrier, a process
	// that ends, a gateway that starts. Loaded machines need seconds.
	readyTimeout = 20 * time.Second
)

// labs numbers the labs of this process, so that several can live side by side.
var labs atomic.Uint32

// Lab is a Topology that exists. Methods are safe for concurrent use.
type Lab struct {
	name  string // PREFIX-PID-N, what every namespace's name starts with
	dir   string
	log   func(format string, args ...any)
	hosts map[string]*Host
	order []*Host // bridges included, in the order they were made
	gw    *Gateway

	mu       sync.Mutex
	closers  []func() error // captures, run by Close in reverse order
	isClosed bool
}

// Build makes the network and starts its gateway. When it fails nothing is
// left behind. Close must be called in the end.
func Build(ctx context.Context, t Topology) (*Lab, error) {
	p, err := t.plan()
	if err != nil {
		return nil, err
	}
	prefix := t.Prefix
	if prefix == "" {
		prefix = defaultPrefix
	}
	if err := Sweep(prefix); err != nil {
		return nil, err
	}
	l := &Lab{
		name:  fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), labs.Add(1)),
		log:   t.Log,
		hosts: map[string]*Host{},
	}
	if l.log == nil {
		l.log = func(string, ...any) {}
	}
	if err := l.build(ctx, t, p); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// build is Build without the cleaning up.
func (l *Lab) build(ctx context.Context, t Topology, p *plan) error {
	l.dir = filepath.Join(os.TempDir(), l.name)
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return fmt.Errorf("lab folder: %w", err)
	}
	for _, name := range p.hosts {
		h, err := l.addHost(name)
		if err != nil {
			return err
		}
		l.hosts[name] = h
	}
	for i, lp := range p.links {
		if err := l.addLink(i, lp); err != nil {
			return fmt.Errorf("link %d: %w", i, err)
		}
	}
	for _, lp := range p.links {
		for _, ep := range lp.ends {
			if err := l.hosts[ep.host].address(ctx, ep); err != nil {
				return err
			}
		}
	}
	if t.Gateway == nil {
		return nil
	}
	l.gw = l.newGateway(*t.Gateway)
	return l.gw.Start(ctx)
}

// Host returns the host of that name. An unknown name is a mistake in the
// program and panics.
func (l *Lab) Host(name string) *Host {
	h := l.hosts[name]
	if h == nil {
		panic(fmt.Sprintf("netns: the topology has no host %q", name))
	}
	return h
}

// Gateway returns the gateway, nil if the topology declared none.
func (l *Lab) Gateway() *Gateway { return l.gw }

// Dir is a folder of the lab's own, removed by Close.
func (l *Lab) Dir() string { return l.dir }

// Expand replaces "${ns:HOST}" by the namespace of that host and "${dir}" by Dir.
func (l *Lab) Expand(text string) string {
	pairs := []string{"${dir}", l.dir}
	for name, h := range l.hosts {
		pairs = append(pairs, "${ns:"+name+"}", h.ns)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Configure addresses an interface that appeared after Build, like a TUN that
// the gateway opened in a client's namespace. It waits for the interface.
func (l *Lab) Configure(ctx context.Context, e End) error {
	ep, err := e.plan()
	if err != nil {
		return err
	}
	return l.Host(e.Host).address(ctx, ep)
}

// onClose has f called by Close, before the hosts go.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// Close removes everything. It may be called more than once; only the first
// call does something.
func (l *Lab) Close() error {
	l.mu.Lock()
	closers, again := l.closers, l.isClosed
	l.closers, l.isClosed = nil, true
	l.mu.Unlock()
	if again {
		return nil
	}
	var errs []error
	if l.gw != nil {
		errs = append(errs, l.gw.Stop())
	}
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	for i := len(l.order) - 1; i >= 0; i-- {
		errs = append(errs, l.order[i].close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}
