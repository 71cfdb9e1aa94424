package route

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// Hint is a cached next hop: slot index << 16 | tag. The zero Hint is never
// valid. It is what a flow keeps for each direction.
type Hint uint32

// Slot returns the index of the neighbour's slot.
func (h Hint) Slot() uint32 { return uint32(h >> 16) }

// MaxNeighbours bounds the table; a Hint has 16 bits for the index.
const MaxNeighbours = 1 << 16

// State of a neighbour.
type State uint8

const (
	Unknown    State = iota // slot not in use
	Incomplete              // asked for, no answer yet: packets wait
	Reachable               // MAC is valid
	Failed                  // nobody answered: packets are refused until asked again
)

var stateNames = [...]string{Unknown: "unknown", Incomplete: "incomplete", Reachable: "reachable", Failed: "failed"}

func (s State) String() string { return stateNames[s] }

// slot is one neighbour. word and used are what the data path reads; the rest
// belongs to Neighbours.mu.
//
// word is mac<<16 | tag. The tag is the generation that hints must carry, so one
// load answers "is my hint still good, and which MAC". Tag 0 is no generation:
// a word with tag 0 has no usable address.
type slot struct {
	word atomic.Uint64
	used atomic.Uint32 // 1: a packet went there since the last Upkeep
	port atomic.Uint32

	tag       uint16
	state     State
	static    bool // never fails, never needs upkeep (point-to-point links, the host)
	addr      tuple.Addr
	mac       [6]byte
	asked     int64 // while Incomplete: when Find last said fresh, ns
	confirmed int64 // what the last Learn said, ns
}

type neighbourKey struct {
	port uint16
	addr tuple.Addr
}

// Neighbours maps (port, address) to link-layer addresses. Reads by Hint are
// lock-free; everything else takes a mutex and belongs to first packets and the
// control path.
type Neighbours struct {
	slots []slot

	mu    sync.Mutex // guards all below and the non-atomic fields of slots
	index map[neighbourKey]uint32
	free  []uint32 // indexes given back by Forget
	next  uint32   // first index never used
	hand  uint32   // clock hand for reclaiming
}

// NewNeighbours returns a table for at most max neighbours (1..MaxNeighbours),
// whose slot 0 is the gateway's own host.
func NewNeighbours(max int) *Neighbours {
	n := &Neighbours{
		slots: make([]slot, min(max, MaxNeighbours-1)+1),
		index: make(map[neighbourKey]uint32),
		next:  1,
	}
	host := &n.slots[0]
	host.state, host.static = Reachable, true
	host.retag()
	return n
}

// retag gives the slot a new generation: hints that carry the old one miss.
func (s *slot) retag() {
	s.tag++
	if s.tag == 0 {
		s.tag = 1
	}
	s.publish()
}

func (s *slot) publish() {
	if s.state != Reachable {
		s.word.Store(0)
		return
	}
	w := uint64(s.tag)
	for i, b := range s.mac {
		w |= uint64(b) << (56 - 8*i)
	}
	s.word.Store(w)
}

// Get returns the port and MAC that h stands for and reports whether h is still
// valid. It takes no lock.
func (n *Neighbours) Get(h Hint) (port uint16, mac [6]byte, ok bool) {
	i := h.Slot()
	if uint16(h) == 0 || int(i) >= len(n.slots) {
		return 0, mac, false
	}
	s := &n.slots[i]
	w := s.word.Load()
	if uint16(w) != uint16(h) {
		return 0, mac, false
	}
	port = uint16(s.port.Load())
	if s.used.Load() == 0 {
		s.used.Store(1)
	}
	if s.word.Load() != w { // reused for another port meanwhile
		return 0, mac, false
	}
	return port, [6]byte{byte(w >> 56), byte(w >> 48), byte(w >> 40), byte(w >> 32), byte(w >> 24), byte(w >> 16)}, true
}

// HostHint returns the hint of the gateway's own host.
func (n *Neighbours) HostHint() Hint { return Hint(uint16(n.slots[0].word.Load())) }

const (
	askAgain = int64(time.Second)     // a question or its answer may be lost: repeat it while packets come
	giveUp   = 5 * int64(time.Second) // an open question this old may lose its slot
)

// Find returns the slot of addr on port, making one if there is none, and its
// state at time now (ns). With Reachable the hint is valid; otherwise it only
// names the slot. When a new neighbour is wanted and the table is full, one that
// failed or was not used lately is replaced; ok is false when there is none near.
// fresh reports that the caller should have the address resolved.
func (n *Neighbours) Find(port uint16, addr tuple.Addr, now int64) (h Hint, st State, fresh, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, known := n.index[neighbourKey{port, addr}]
	if !known {
		if i, ok = n.takeLocked(now); !ok {
			return 0, Unknown, false, false
		}
		s := &n.slots[i]
		s.addr, s.mac, s.static, s.asked = addr, [6]byte{}, false, now
		s.port.Store(uint32(port)) // no hint is valid: takeLocked has seen to it
		s.state = Incomplete
		s.retag()
		n.index[neighbourKey{port, addr}] = i
		return Hint(i << 16), Incomplete, true, true
	}
	s := &n.slots[i]
	s.used.Store(1)
	switch s.state {
	case Reachable:
		return Hint(i<<16 | uint32(s.tag)), Reachable, false, true
	case Failed:
		s.state, s.asked = Incomplete, now // this packet asks again
		return Hint(i << 16), Incomplete, true, true
	}
	if now-s.asked >= askAgain {
		s.asked, fresh = now, true
	}
	return Hint(i << 16), s.state, fresh, true
}

// reclaimSteps bounds the search for a slot to reclaim: a scan of a large prefix
// must not make each packet walk the whole table.
const reclaimSteps = 1024

// takeLocked finds a slot for a new neighbour, whose old hints all miss. n.mu
// must be held.
func (n *Neighbours) takeLocked(now int64) (uint32, bool) {
	if k := len(n.free); k > 0 {
		i := n.free[k-1]
		n.free = n.free[:k-1]
		return i, true
	}
	if int(n.next) < len(n.slots) {
		n.next++
		return n.next - 1, true
	}
	// Second chance: the first slot that failed, or was not used since the hand last passed.
	for range min(2*len(n.slots), reclaimSteps) {
		n.hand++
		if int(n.hand) >= len(n.slots) {
			n.hand = 1
		}
		s := &n.slots[n.hand]
		if s.static || s.state == Incomplete && now-s.asked < giveUp {
			continue
		}
		if s.state != Reachable || s.used.Swap(0) == 0 {
			delete(n.index, neighbourKey{uint16(s.port.Load()), s.addr})
			s.state = Unknown
			s.publish() // before its port changes: Get reads the two one after the other
			return n.hand, true
		}
	}
	return 0, false
}

// Learn records the link-layer address of a neighbour, confirmed at the given
// time (ns), and returns its slot.
// Addresses nobody asked for, and static ones, are ignored (ok false): a stranger's
// announcements cannot fill the table or take over what the user fixed.
func (n *Neighbours) Learn(port uint16, addr tuple.Addr, mac [6]byte, confirmed int64) (i uint32, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok = n.index[neighbourKey{port, addr}]
	if !ok || n.slots[i].static {
		return 0, false
	}
	s := &n.slots[i]
	s.confirmed = confirmed
	if s.state == Reachable && s.mac == mac {
		return i, true
	}
	s.mac, s.state = mac, Reachable
	s.retag()
	return i, true
}

// Static declares a neighbour that needs no resolution: the far end of a
// point-to-point port (zero mac), or an address the user fixed. It reports false
// when the table has no room.
func (n *Neighbours) Static(port uint16, addr tuple.Addr, mac [6]byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok := n.index[neighbourKey{port, addr}]
	if !ok {
		if i, ok = n.takeLocked(math.MaxInt64); !ok { // open questions give way
			return false
		}
		n.index[neighbourKey{port, addr}] = i
	}
	s := &n.slots[i]
	s.addr, s.mac, s.state, s.static = addr, mac, Reachable, true
	s.port.Store(uint32(port))
	s.retag()
	return true
}

// Fail records that nobody answered for addr. Its slot's packets are refused
// until one asks again.
func (n *Neighbours) Fail(port uint16, addr tuple.Addr) (i uint32, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok = n.index[neighbourKey{port, addr}]
	if !ok || n.slots[i].static {
		return 0, false
	}
	s := &n.slots[i]
	s.state = Failed
	s.retag()
	return i, true
}

// Peek returns the state of a slot, and the valid hint when it is Reachable.
func (n *Neighbours) Peek(i uint32) (Hint, State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.slots[i]
	if s.state == Reachable {
		return Hint(i<<16 | uint32(s.tag)), Reachable
	}
	return Hint(i << 16), s.state
}

// Invalidate makes every cached hint miss: routes or ports have changed. What is
// known of the neighbours stays.
func (n *Neighbours) Invalidate() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.slots[:n.next] {
		n.slots[i].retag()
	}
}

// Forget drops all neighbours of a port that went away.
func (n *Neighbours) Forget(port uint16) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, i := range n.index {
		if k.port != port {
			continue
		}
		s := &n.slots[i]
		s.state, s.static = Unknown, false
		s.retag()
		n.free = append(n.free, i)
		delete(n.index, k)
	}
}

// Neighbour is a copy of one entry.
type Neighbour struct {
	Port  uint16
	Addr  tuple.Addr
	MAC   [6]byte
	State State
}

// Upkeep calls ask for every reachable neighbour that packets used since the
// last Upkeep and that was last confirmed before the given time (ns), so that
// the host stack can verify it.
func (n *Neighbours) Upkeep(before int64, ask func(port uint16, addr tuple.Addr)) {
	var due []neighbourKey
	n.mu.Lock()
	for k, i := range n.index {
		s := &n.slots[i]
		if s.state == Reachable && !s.static && s.confirmed < before && s.used.Swap(0) != 0 {
			due = append(due, k)
		}
	}
	n.mu.Unlock()
	for _, k := range due {
		ask(k.port, k.addr)
	}
}

// All returns a copy of every entry, in no order.
func (n *Neighbours) All() []Neighbour {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]Neighbour, 0, len(n.index))
	for k, i := range n.index {
		all = append(all, Neighbour{Port: k.port, Addr: k.addr, MAC: n.slots[i].mac, State: n.slots[i].state})
	}
	return all
}
