package host

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"example.com/culvert/conntrack/tuple"
)

// Ports from which Dial connects. They lie above those that Linux takes by
// itself (ip_local_port_range, 32768 to 60999), so that a socket of the
// gateway's kernel does not meet them, and a counter for each is all that Owns needs.
const (
	dialPortMin = 61000
	dialPortMax = 65535
)

// lingerSweep is how often closed connections are looked at.
const lingerSweep = time.Second

// owner is a local address of in-process sockets. A listener on all addresses has any4 or any6.
type owner struct {
	addr  tuple.Addr
	port  uint16
	proto uint8
}

var (
	any4 = tuple.AddrFrom4([4]byte{})
	any6 = tuple.Addr{}
)

// services knows which local ports in-process sockets use.
type services struct {
	host      *Host
	listening atomic.Pointer[map[owner]int] // number of uses; copied on change
	dialed    [2][dialPortMax - dialPortMin + 1]atomic.Int32

	mu        sync.Mutex // guards changes of listening and what follows
	listeners map[*listener]struct{}
	lingering []lingerer
	timer     tcpip.Timer // armed when lingering is not empty
	closed    bool
}

// lingerer is a closed connection that netstack still has.
type lingerer struct {
	ep  tcpip.Endpoint
	use *use
}

func (s *services) init(h *Host) {
	s.host = h
	s.listening.Store(&map[owner]int{})
	s.listeners = make(map[*listener]struct{})
}

// Owns reports whether an in-process socket takes packets to a local address and port:
// a listener, or a socket of Dial (by its port alone). Connections that a listener has
// accepted don't count: the engine knows where they began. It takes no lock and does
// not allocate.
func (h *Host) Owns(proto uint8, addr tuple.Addr, port uint16) bool {
	s := &h.services
	if n := s.dial(proto, port); n != nil && n.Load() > 0 {
		return true
	}
	m := *s.listening.Load()
	if len(m) == 0 {
		return false
	}
	o := owner{addr: addr, port: port, proto: proto}
	if m[o] > 0 {
		return true
	}
	o.addr = any6
	if addr.Is4() {
		o.addr = any4
	}
	return m[o] > 0
}

// dial returns the counter of a port in Dial's range, nil for others.
func (s *services) dial(proto uint8, port uint16) *atomic.Int32 {
	if port < dialPortMin {
		return nil
	}
	switch proto {
	case tuple.TCP:
		return &s.dialed[0][port-dialPortMin]
	case tuple.UDP:
		return &s.dialed[1][port-dialPortMin]
	}
	return nil
}

// use is a hold on owners, of one socket.
type use struct {
	s      *services
	owners []owner
}

// open takes hold of owners. The zero address in the range of Dial means the port alone.
func (s *services) open(owners []owner) *use {
	s.count(owners, 1)
	return &use{s: s, owners: owners}
}

func (u *use) drop() { u.s.count(u.owners, -1) }

// count adds n to the uses of owners.
func (s *services) count(owners []owner, n int) {
	if len(owners) == 1 && owners[0].addr == any6 {
		if c := s.dial(owners[0].proto, owners[0].port); c != nil {
			c.Add(int32(n))
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := maps.Clone(*s.listening.Load())
	for _, o := range owners {
		if m[o] += n; m[o] == 0 {
			delete(m, o)
		}
	}
	s.listening.Store(&m)
}

// linger drops u once netstack has finished with the closed connection ep.
func (s *services) linger(ep tcpip.Endpoint, u *use) {
	if finished(ep) {
		u.drop()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lingering = append(s.lingering, lingerer{ep, u})
	s.armLocked()
}

func finished(ep tcpip.Endpoint) bool {
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateClose, tcp.StateError, tcp.StateInitial, tcp.StateBound:
		return true
	}
	return false
}

func (s *services) armLocked() {
	if s.timer == nil && !s.closed {
		s.timer = s.host.clock.AfterFunc(lingerSweep, s.sweep)
	}
}

func (s *services) sweep() {
	var gone []*use
	s.mu.Lock()
	s.timer = nil
	keep := s.lingering[:0]
	for _, l := range s.lingering {
		if finished(l.ep) {
			gone = append(gone, l.use)
		} else {
			keep = append(keep, l)
		}
	}
	clear(s.lingering[len(keep):])
	s.lingering = keep
	if len(keep) > 0 {
		s.armLocked()
	}
	s.mu.Unlock()
	for _, u := range gone {
		u.drop()
	}
}

func (s *services) track(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners[l] = struct{}{}
}

func (s *services) untrack(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// close ends all listeners; connections end with the stack.
func (s *services) close() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	open := make([]*listener, 0, len(s.listeners))
	for l := range s.listeners {
		open = append(open, l)
	}
	s.mu.Unlock()
	for _, l := range open {
		l.Close()
	}
}
