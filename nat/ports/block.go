package ports

import (
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// A block is a range of ports of one external address, the same for all
// protocols, that one client has as long as it uses one of them. There are two
// leases about it: kindBlock says whose it is, kindBlocks, once for each block of
// a client, what it has. Both count the ports in use.
//
// Blocks of different sizes may be in use at once, of several rules or while flows
// of old rules live on: a block begins only where no other one has a port.

// blockKeys returns both leases for the block that a flow's port is in.
func blockKeys(f *Flow, power uint8, block, blocks *key) (owner, which Endpoint) {
	n := f.External.Port >> power
	who := client(f.Inside.Addr)
	*block = key{addr: f.External.Addr, port: n, otherPort: uint16(power), zone: f.External.Zone, kind: kindBlock}
	*blocks = key{addr: who, port: uint16(power), zone: f.Inside.Zone, kind: kindBlocks}
	return Endpoint{Addr: who, Zone: f.Inside.Zone}, Endpoint{f.External.Addr, n, f.External.Zone}
}

// enterBlock counts a port of a flow in its block, which becomes its client's if
// it is free and the client may have one more.
func (s *Set) enterBlock(f *Flow, t *Terms, packed terms, now Tick) Outcome {
	var block, blocks key
	who, which := blockKeys(f, packed.block(), &block, &blocks)
	switch s.take(&block, &who, t.Rule, packed, now) {
	case taken:
		return Busy
	case noRoom:
		return Full
	}
	out := s.takeBlock(&blocks, &which, t)
	if out != Granted {
		s.release(&block, &who, forget, now)
	}
	return out
}

// takeBlock notes one more port in a block of a client.
func (s *Set) takeBlock(k *key, v *Endpoint, t *Terms) Outcome {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	l, n := s.findBlock(c, k, v)
	switch {
	case l != nil:
		l.refs++
	case n >= int(t.MaxBlocks):
		return BlocksReached
	case s.make(c, k, v, t.Rule, 0) == nil:
		return Full
	}
	return Granted
}

// findBlock returns the lease that says that a client has block v, nil if he does not
// have it; then n is how many he has.
func (s *Set) findBlock(c chain, k *key, v *Endpoint) (l *lease, n int) {
	l, at := s.find(c, k, 0)
	for l != nil && l.value != *v {
		n++
		l, at = s.find(c, k, at)
	}
	return l, n
}

// leaveBlock is the inverse of enterBlock.
func (s *Set) leaveBlock(f *Flow, packed terms, how resting, now Tick) {
	var block, blocks key
	who, which := blockKeys(f, packed.block(), &block, &blocks)
	s.release(&blocks, &which, forget, now)
	s.release(&block, &who, how, now)
}

// claimBlock makes the ports of a new block those of nobody else, and reports
// whether they were.
func (s *Set) claimBlock(k *key) bool {
	sp := s.spaces.of(k.space())
	if sp == nil {
		return true // too many spaces to know
	}
	sp.claims.Lock()
	defer sp.claims.Unlock()
	free := s.blockFree(k)
	if free {
		eachPort(k, sp.taken.Add)
	}
	return free
}

// blockFree reports whether no block has a port of one.
func (s *Set) blockFree(k *key) bool {
	free, taken := true, s.BlocksOf(Endpoint{Addr: k.addr, Zone: k.zone})
	if taken != nil {
		eachPort(k, func(port uint16) bool {
			free = free && !taken.Has(port)
			return free
		})
	}
	return free
}

// unclaimBlock is the inverse of claimBlock.
func (s *Set) unclaimBlock(k *key) {
	if sp := s.spaces.get(k.space()); sp != nil {
		eachPort(k, sp.taken.Remove)
	}
}

// Block is a block of a client.
type Block struct {
	Addr  tuple.Addr // external
	Ports nat.PortRange
}

// MaxBlocks is the most blocks a client may have.
const MaxBlocks = 16

// Blocks writes the blocks that the client of a flow has, those that fit, and
// returns how many.
func (s *Set) Blocks(f *Flow, t *Terms, fits Fits, to *[MaxBlocks]Block) (n int) {
	var block, blocks key
	p := power(t.BlockSize)
	blockKeys(f, p, &block, &blocks)
	c := s.open(&blocks)
	defer c.sh.mu.Unlock()
	for l, at := s.find(c, &blocks, 0); l != nil && n < MaxBlocks; l, at = s.find(c, &blocks, at) {
		first := l.value.Port << p
		if l.value.Zone != f.External.Zone || !fits.Source.AllowsAddr(l.value.Addr, fits.Egress) {
			continue
		}
		to[n] = Block{l.value.Addr, nat.PortRange{First: max(first, 1), Last: first + t.BlockSize - 1}}
		n++
	}
	return n
}

// eachPort calls f for the ports of a block.
func eachPort(k *key, f func(uint16) bool) {
	p := k.otherPort
	first := int(k.port) << p
	for port := first; port < first+1<<p; port++ {
		f(uint16(port))
	}
}

// What an Event is about.
const (
	BlockAllocated EventKind = iota
	BlockReleased
)

// EventKind says what happened to a block.
type EventKind uint8

var eventNames = [...]string{BlockAllocated: "allocated", BlockReleased: "released"}

func (k EventKind) String() string { return eventNames[k] }

// Event tells that a block has become a client's or is so no more. It is what
// has to be kept to say who had a port, instead of a line for each flow
// (RFC 6888 REQ-14).
type Event struct {
	Kind   EventKind
	Client tuple.Addr // for IPv6 the /64
	Zone   uint16
	Block
}

// events hands what happens to whoever reads it, and never waits: what finds no
// room is counted.
type events struct {
	to   chan Event
	lost atomic.Uint64
}

const eventRoom = 4096

func (e *events) init() { e.to = make(chan Event, eventRoom) }

func (e *events) tell(k EventKind, l *lease) {
	p := l.key.otherPort
	first := l.key.port << p
	select {
	case e.to <- Event{k, l.value.Addr, l.value.Zone, Block{l.key.addr, nat.PortRange{First: first, Last: first + 1<<p - 1}}}:
	default:
		e.lost.Add(1)
	}
}

// Events returns what becomes of blocks, in the order in which it does for each
// of them. Somebody should read it.
func (s *Set) Events() <-chan Event { return s.events.to }

// Lost returns how many Events found no room.
func (s *Set) Lost() uint64 { return s.events.lost.Load() }
