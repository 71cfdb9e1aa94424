package ports

import (
	"sync"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// Space is the ports of one external address for one protocol, as the owner
// leases show them.
type Space struct {
	Addr  tuple.Addr
	Zone  uint16
	Proto uint8 // 0: blocks of ports, whose ports count for all protocols

	taken nat.PortSet // somebody has it, or it is kept for somebody
	live  nat.PortSet // somebody has it
	alone nat.PortSet // it has one owner, or is kept for him

	claims sync.Mutex // of blocks, which are under several locks of shards: taken after these
}

// Used returns how many ports are not to be had, those that are kept for who had
// them last included, and how many these are.
func (sp *Space) Used() (used, kept int) {
	used = sp.taken.Len()
	return used, max(used-sp.live.Len(), 0)
}

// Taken returns the ports that nobody can have for himself. They change while
// the caller looks. A nil Space has none, here and below.
func (sp *Space) Taken() *nat.PortSet {
	if sp == nil {
		return nil
	}
	return &sp.taken
}

// Live returns the ports that somebody has; the others of Taken are kept for the
// client that had them.
func (sp *Space) Live() *nat.PortSet {
	if sp == nil {
		return nil
	}
	return &sp.live
}

// Alone returns the ports that have one owner, and that nobody can share.
func (sp *Space) Alone() *nat.PortSet {
	if sp == nil {
		return nil
	}
	return &sp.alone
}

type spaceKey struct {
	addr  tuple.Addr
	zone  uint16
	proto uint8
}

// space returns which space the ports of a key are in: those of blocks, which have no
// protocol, in one of their own.
func (k *key) space() spaceKey { return spaceKey{k.addr, k.zone, k.proto} }

// spaces finds the space of a port. A space is made with the first port of it
// that is taken and stays; the map is replaced as a whole then, so that nobody
// waits for anybody.
type spaces struct {
	mu  sync.Mutex
	all atomic.Pointer[map[spaceKey]*Space]
}

// maxSpaces bounds the memory of spaces: about 25 KB each. Searches in more go
// from port to port.
const maxSpaces = 1 << 14

func (x *spaces) init() { x.all.Store(&map[spaceKey]*Space{}) }

func (x *spaces) get(k spaceKey) *Space { return (*x.all.Load())[k] }

func (x *spaces) of(k spaceKey) *Space {
	if sp := x.get(k); sp != nil {
		return sp
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := *x.all.Load()
	if sp := old[k]; sp != nil || len(old) == maxSpaces {
		return sp
	}
	all := make(map[spaceKey]*Space, len(old)+1)
	for k, sp := range old {
		all[k] = sp
	}
	sp := &Space{Addr: k.addr, Zone: k.zone, Proto: k.proto}
	all[k] = sp
	x.all.Store(&all)
	return sp
}

// Space returns the space of an external endpoint, nil if none of its ports was
// taken yet.
func (s *Set) Space(proto uint8, e *Endpoint) *Space {
	return s.spaces.get(spaceKey{e.Addr, e.Zone, proto})
}

// BlocksOf returns the ports of an external address that lie in somebody's block.
func (s *Set) BlocksOf(e Endpoint) *nat.PortSet {
	return s.spaces.get(spaceKey{e.Addr, e.Zone, 0}).Taken()
}

// Empty reports whether no port was ever anybody's.
func (s *Set) Empty() bool { return len(*s.spaces.all.Load()) == 0 }

// Kept returns how many leases are kept for who had them.
func (s *Set) Kept() int { return int(s.kept.Load()) }

// Spaces returns all spaces. They change while the caller looks.
func (s *Set) Spaces() []*Space {
	var all []*Space
	for _, sp := range *s.spaces.all.Load() {
		if sp.Proto != 0 {
			all = append(all, sp)
		}
	}
	return all
}

// entered says that somebody has a lease from now on. The lock of its shard is
// held, so that a space always agrees with the leases.
func (s *Set) entered(l *lease) {
	switch l.key.kind {
	case kindOwner:
		if sp := s.spaces.of(l.key.space()); sp != nil {
			sp.taken.Add(l.key.port)
			sp.live.Add(l.key.port)
			if l.value != (Endpoint{}) {
				sp.alone.Add(l.key.port)
			} else {
				sp.alone.Remove(l.key.port)
			}
		}
	case kindBlock:
		s.events.tell(BlockAllocated, l)
	case kindPin, kindTie:
		if c := s.pinCrowd(l.key); c != nil {
			c.seen.Add(l.key.port)
		}
	case kindTold:
		s.told.Add(1)
	}
}

// rested says that nobody has a lease that is kept. As entered.
func (s *Set) rested(l *lease) {
	switch l.key.kind {
	case kindOwner:
		if sp := s.spaces.get(l.key.space()); sp != nil {
			sp.live.Remove(l.key.port)
		}
	case kindBlock:
		s.events.tell(BlockReleased, l)
	}
}

// left says that a lease ends, which may have been kept since it rested. As
// entered.
func (s *Set) left(l *lease, kept bool) {
	switch l.key.kind {
	case kindOwner:
		if sp := s.spaces.get(l.key.space()); sp != nil {
			sp.taken.Remove(l.key.port)
			sp.live.Remove(l.key.port)
			sp.alone.Remove(l.key.port)
		}
	case kindBlock:
		if !kept {
			s.events.tell(BlockReleased, l)
		}
		s.unclaimBlock(&l.key)
	case kindMap:
		s.notices.mapping(MappingEnded, l)
	case kindHint:
		s.hints.Add(-1)
	case kindTold:
		s.told.Add(-1)
	case kindPin, kindTie:
		if c := s.pinCrowd(l.key); c != nil {
			c.seen.Remove(l.key.port)
		}
	}
}
