package ports

import (
	"sync"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// Crowd is the ports of one external address that were seen taken towards one
// remote endpoint or host: one that so many flows go to that a search for a free
// port is long. There are crowds of tuples in the connection table, and of pins and
// ties. A crowd may lack ports that are taken. It never has one that is free for
// longer than it takes to say so: who adds a port that he found taken looks once
// more afterwards, and who ends a flow removes its port after that.
type Crowd struct {
	key  key
	used atomic.Uint32 // tick
	seen nat.PortSet
}

// crowds holds the crowds of a set: few, found without a lock, the one that was
// not used for longest gives way.
type crowds struct {
	n   atomic.Int32
	mu  sync.Mutex // of who makes one
	all [crowdSets][crowdWays]atomic.Pointer[Crowd]
}

const (
	crowdSets = 64 // some 9 KB for each of the 256
	crowdWays = 4
	crowdRest = TicksPerSecond // a crowd in use does not give way
)

// crowdKey returns which crowd packets with tuple t from outside belong to, and
// the external port they go to.
func crowdKey(t *tuple.Tuple) (key, uint16) {
	k := key{addr: t.Dst, other: t.Src, otherPort: t.SrcPort, zone: t.Zone, proto: t.Proto}
	if tuple.IsICMP(t.Proto) {
		k.otherPort = t.DstPort // the type of the message
		return k, t.SrcPort
	}
	return k, t.DstPort
}

func (s *Set) crowdSet(k *key) *[crowdWays]atomic.Pointer[Crowd] {
	return &s.crowds.all[s.hash(k)%crowdSets]
}

// Crowd returns the crowd that answers with tuple t belong to, nil if there is
// none.
func (s *Set) Crowd(t *tuple.Tuple) *Crowd {
	if s.crowds.n.Load() == 0 {
		return nil
	}
	k, _ := crowdKey(t)
	return s.findCrowd(&k)
}

func (s *Set) findCrowd(k *key) *Crowd {
	ways := s.crowdSet(k)
	for i := range ways {
		if c := ways[i].Load(); c != nil && c.key == *k {
			return c
		}
	}
	return nil
}

// Gather returns the crowd that answers with tuple t belong to and makes one if
// there is none. Nil: all that could give way are in use.
func (s *Set) Gather(t *tuple.Tuple, now Tick) *Crowd {
	k, _ := crowdKey(t)
	return s.gather(&k, now)
}

// Pinned returns the ports that are pinned or tied to where a flow goes, for uses
// that take pins or ties, as far as they are known; nil: none are.
func (s *Set) Pinned(f *Flow, u Use) *nat.PortSet {
	if s.crowds.n.Load() == 0 || leasesOf[u]&(hasPin|hasTie) == 0 {
		return nil
	}
	k := pinKey(f, u)
	return s.findCrowd(&k).Ports()
}

// GatherPinned is Pinned for a search that takes long: from now on they are known.
func (s *Set) GatherPinned(f *Flow, u Use, now Tick) *nat.PortSet {
	if leasesOf[u]&(hasPin|hasTie) == 0 {
		return nil
	}
	k := pinKey(f, u)
	return s.gather(&k, now).Ports()
}

// pinKey returns the crowd of a flow's pin or tie: its key without the port.
func pinKey(f *Flow, u Use) key {
	var k key
	f.lease(leasesOf[u]&(hasPin|hasTie), &k)
	k.port = 0
	return k
}

// pinCrowd returns the crowd of a pin or tie, nil if there is none.
func (s *Set) pinCrowd(k key) *Crowd {
	if s.crowds.n.Load() == 0 || k.kind != kindPin && k.kind != kindTie {
		return nil
	}
	k.port = 0
	return s.findCrowd(&k)
}

// pinBusy has the crowd of a pin or tie that somebody else has learn of it. The
// port is added and then looked for once more, so that it is out again if the lease
// has ended just before: who ends it takes it out after that.
func (s *Set) pinBusy(k *key, now Tick) {
	crowd := s.pinCrowd(*k)
	if crowd == nil {
		return
	}
	crowd.seen.Add(k.port)
	crowd.used.Store(uint32(now))
	c := s.open(k)
	defer c.sh.mu.Unlock()
	if l, _ := s.find(c, k, 0); l == nil {
		crowd.seen.Remove(k.port)
	}
}

// gather returns the crowd with a key and makes one if it can.
func (s *Set) gather(k *key, now Tick) *Crowd {
	s.crowds.mu.Lock()
	defer s.crowds.mu.Unlock()
	if c := s.findCrowd(k); c != nil {
		return c
	}
	ways := s.crowdSet(k)
	oldest := &ways[0]
	for i := range ways {
		c := ways[i].Load()
		if c == nil {
			oldest = &ways[i]
			s.crowds.n.Add(1)
			break
		}
		if int32(c.used.Load()-oldest.Load().used.Load()) < 0 {
			oldest = &ways[i]
		}
	}
	if c := oldest.Load(); c != nil && !now.reached(Tick(c.used.Load())+crowdRest) {
		return nil
	}
	c := &Crowd{key: *k}
	c.used.Store(uint32(now))
	oldest.Store(c)
	return c
}

// Ports returns the ports of the crowd, nil if there is none.
func (c *Crowd) Ports() *nat.PortSet {
	if c == nil {
		return nil
	}
	return &c.seen
}

// Has reports whether the port that answers with tuple t go to was seen taken. No
// crowd has none.
func (c *Crowd) Has(t *tuple.Tuple) bool {
	if c == nil {
		return false
	}
	_, port := crowdKey(t)
	return c.seen.Has(port)
}

// Add adds the port that answers with tuple t go to. See Crowd for what else has
// to be done if the flow is not the caller's own.
func (c *Crowd) Add(t *tuple.Tuple, now Tick) {
	if c == nil {
		return
	}
	_, port := crowdKey(t)
	c.seen.Add(port)
	if c.used.Load() != uint32(now) {
		c.used.Store(uint32(now))
	}
}

// Hinted reports whether there are hints.
func (s *Set) Hinted() bool { return s.hints.Load() != 0 }

// Crowded reports whether there are crowds.
func (s *Set) Crowded() bool { return s.crowds.n.Load() != 0 }

// Ended takes a tuple that is free again out of its crowd, if it has one.
func (s *Set) Ended(t *tuple.Tuple) {
	if s.crowds.n.Load() == 0 {
		return
	}
	k, port := crowdKey(t)
	if c := s.findCrowd(&k); c != nil {
		c.seen.Remove(port)
	}
}
