package route

import (
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/fair"
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
	used atomic.Uint32 // usedSinceUpkeep, usedSinceHand
	port atomic.Uint32

	tag       uint16
	state     State
	static    bool // never fails, never needs upkeep (point-to-point links, the host)
	addr      tuple.Addr
	mac       [6]byte
	asked     int64       // while Incomplete: when Find or Ask last said fresh, ns
	open      fair.Handle // its place among its port's open questions, while Incomplete
	owner     uint32      // counts the neighbours that had the slot
	idle      int64       // when the hand last found it used, or it was asked for, ns
	confirmed int64       // what the last Learn said, ns
}

// Bits of slot.used: a packet went there since ...
const (
	usedSinceUpkeep = 1 << iota // the last Upkeep
	usedSinceHand               // the clock hand passed
	usedNow         = usedSinceUpkeep | usedSinceHand
)

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
	free  []uint32 // indexes given back
	next  uint32   // first index never used
	hand  uint32   // clock hand for reclaiming

	asked    map[uint16]*questions // open ones, of each port
	failed   failures
	replaced func()
}

// NewNeighbours returns a table for at most max neighbours (1..MaxNeighbours),
// whose slot 0 is the gateway's own host.
func NewNeighbours(max int) *Neighbours {
	n := &Neighbours{
		slots: make([]slot, min(max, MaxNeighbours-1)+1),
		index: make(map[neighbourKey]uint32),
		next:  1,
		asked: make(map[uint16]*questions),
	}
	n.failed.slots = make([]uint32, len(n.slots))
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
	port, number, ok := n.Next(h)
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], number<<16) // one store: the next to read it is near
	return port, [6]byte(b[:6]), ok
}

// Next is Get with the MAC as a number of 48 bits.
func (n *Neighbours) Next(h Hint) (port uint16, mac uint64, ok bool) {
	i := h.Slot()
	if uint16(h) == 0 || int(i) >= len(n.slots) {
		return 0, 0, false
	}
	s := &n.slots[i]
	w := s.word.Load()
	if uint16(w) != uint16(h) {
		return 0, 0, false
	}
	port = uint16(s.port.Load())
	if s.used.Load() != usedNow {
		s.used.Store(usedNow)
	}
	if s.word.Load() != w { // reused for another port meanwhile
		return 0, 0, false
	}
	return port, w >> 16, true
}

// Stale returns a hint that is not valid and names the same slot.
func (h Hint) Stale() Hint { return h &^ 0xffff }

// Where returns the neighbour that the slot of a hint stands for now: the one that the
// hint was made for, valid or not, unless that has lost its slot meanwhile.
func (n *Neighbours) Where(h Hint) (port uint16, addr tuple.Addr, ok bool) {
	i := h.Slot()
	if i == 0 || int(i) >= len(n.slots) {
		return 0, addr, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.slots[i]
	return uint16(s.port.Load()), s.addr, s.state != Unknown
}

// Valid is Get for who only wants to know the port.
func (n *Neighbours) Valid(h Hint) (port uint16, ok bool) {
	if uint16(h) == 0 || int(h.Slot()) >= len(n.slots) {
		return 0, false
	}
	s := &n.slots[h.Slot()]
	w := s.word.Load()
	port = uint16(s.port.Load())
	return port, uint16(w) == uint16(h) && s.word.Load() == w
}

// HostHint returns the hint of the gateway's own host.
func (n *Neighbours) HostHint() Hint { return Hint(uint16(n.slots[0].word.Load())) }

// OnReplace has f called whenever an open question was given up for another one:
// packets that waited for its answer have to ask anew. It must be called before
// the first Ask; f is called by Ask, with no lock held.
func (n *Neighbours) OnReplace(f func()) { n.replaced = f }

// Find returns the slot of addr on port and its state at time now (ns): Reachable,
// and the hint is valid, or Incomplete, and the hint only names the slot. fresh
// reports that the caller should have the address resolved. With Unknown nobody
// has asked yet: see Ask.
func (n *Neighbours) Find(port uint16, addr tuple.Addr, now int64) (h Hint, st State, fresh bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, known := n.index[neighbourKey{port, addr}]
	if !known || n.slots[i].state == Failed {
		return 0, Unknown, false
	}
	return n.knownLocked(i, now)
}

// Peek returns the state of addr on port for who only wants to know.
func (n *Neighbours) Peek(port uint16, addr tuple.Addr) State {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, known := n.index[neighbourKey{port, addr}]
	if !known {
		return Unknown
	}
	return n.slots[i].state
}

// Ask is Find for a neighbour that Find did not know: it opens a question on behalf
// of asker, if nobody else has done so meanwhile.
//
// A question needs a place among the port's open ones. An asker has at most
// openShare; when all are taken, the oldest of the heaviest asker gives way to one
// who has fewer. It also needs a slot: that of a neighbour that failed, or that was
// not used lately. With Unknown the question cannot be asked now.
func (n *Neighbours) Ask(port uint16, addr tuple.Addr, asker Asker, now int64) (h Hint, st State, fresh bool) {
	n.mu.Lock()
	i, known := n.index[neighbourKey{port, addr}]
	if known && n.slots[i].state != Failed {
		defer n.mu.Unlock()
		return n.knownLocked(i, now)
	}
	var ok, replaced bool
	if known {
		ok, replaced = n.reopenLocked(i, asker, now)
	} else {
		i, ok, replaced = n.newLocked(port, addr, asker, now)
	}
	n.mu.Unlock()
	if replaced && n.replaced != nil {
		n.replaced()
	}
	if !ok {
		return 0, Unknown, false
	}
	return Hint(i << 16), Incomplete, true
}

// knownLocked is Find for a neighbour that is reachable or asked for.
func (n *Neighbours) knownLocked(i uint32, now int64) (h Hint, st State, fresh bool) {
	s := &n.slots[i]
	s.used.Store(usedNow)
	if s.state == Reachable {
		return Hint(i<<16 | uint32(s.tag)), Reachable, false
	}
	if now-s.asked >= askAgain {
		n.repeatLocked(i, now)
		fresh = true
	}
	return Hint(i << 16), Incomplete, fresh
}

// reopenLocked asks again for a neighbour that failed.
func (n *Neighbours) reopenLocked(i uint32, asker Asker, now int64) (ok, replaced bool) {
	q, replaced, ok := n.admitLocked(uint16(n.slots[i].port.Load()), asker, now)
	if ok {
		n.openLocked(i, q, asker, now)
	}
	return ok, replaced
}

// newLocked asks for a neighbour that has no slot.
func (n *Neighbours) newLocked(port uint16, addr tuple.Addr, asker Asker, now int64) (i uint32, ok, replaced bool) {
	q, replaced, ok := n.admitLocked(port, asker, now)
	if !ok {
		return 0, false, replaced
	}
	if i, ok = n.takeLocked(now); !ok {
		return 0, false, replaced
	}
	s := &n.slots[i]
	s.addr, s.mac = addr, [6]byte{}
	s.owner++
	s.port.Store(uint32(port)) // no hint is valid: takeLocked has seen to it
	n.openLocked(i, q, asker, now)
	s.retag()
	n.index[neighbourKey{port, addr}] = i
	return i, true, replaced
}

// reclaimSteps bounds the search for a slot to reclaim: a scan of a large prefix
// must not make each packet walk the whole table.
const reclaimSteps = 1024

// idleFor is how long a neighbour has not been used when it may lose its slot.
const idleFor = 10 * int64(time.Second)

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
	if i, ok := n.takeFailedLocked(); ok {
		n.clearLocked(i)
		return i, true
	}
	// Second chance: the first slot that was not used since the hand last passed,
	// and that was some time ago.
	for range min(len(n.slots)-1, reclaimSteps) {
		n.hand++
		if int(n.hand) >= len(n.slots) {
			n.hand = 1
		}
		if !n.slots[n.hand].mayGo(now) {
			continue
		}
		n.clearLocked(n.hand)
		return n.hand, true
	}
	return 0, false
}

// atAnyPrice as the time lets open questions and neighbours in use give way.
const atAnyPrice = math.MaxInt64

// mayGo reports at time now whether the clock hand, which is passing, may give the
// slot away.
func (s *slot) mayGo(now int64) bool {
	if s.static || now == atAnyPrice {
		return !s.static
	}
	switch s.state {
	case Incomplete:
		return now-s.asked >= giveUp
	case Reachable:
		if s.used.And(^uint32(usedSinceHand))&usedSinceHand != 0 {
			s.idle = now
		}
		return now-s.idle >= idleFor
	}
	return true
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
	n.closeLocked(i)
	s.mac, s.state = mac, Reachable
	s.retag()
	return i, true
}

// Static declares a neighbour that needs no resolution: the far end of a
// point-to-point port (zero mac), or an address the user fixed. It reports false
// when the table has no room. Hints of one that is there already stay valid.
func (n *Neighbours) Static(port uint16, addr tuple.Addr, mac [6]byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok := n.index[neighbourKey{port, addr}]
	if !ok {
		if i, ok = n.takeLocked(atAnyPrice); !ok {
			return false
		}
		n.slots[i].owner++
		n.index[neighbourKey{port, addr}] = i
	}
	s := &n.slots[i]
	if s.static && s.mac == mac {
		return true
	}
	n.closeLocked(i)
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
	if s.state != Failed {
		n.failed.add(i)
	}
	n.closeLocked(i)
	s.state = Failed
	s.retag()
	return i, true
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
		if k.port == port {
			n.clearLocked(i)
			n.free = append(n.free, i)
		}
	}
	delete(n.asked, port)
}

// Upkeep calls ask for every reachable neighbour that packets used since the
// last Upkeep and that was last confirmed before the given time (ns), so that
// the host stack can verify it.
func (n *Neighbours) Upkeep(before int64, ask func(port uint16, addr tuple.Addr)) {
	var due []neighbourKey
	n.mu.Lock()
	for k, i := range n.index {
		s := &n.slots[i]
		if s.state == Reachable && !s.static && s.confirmed < before && s.used.And(^uint32(usedSinceUpkeep))&usedSinceUpkeep != 0 {
			due = append(due, k)
		}
	}
	n.mu.Unlock()
	for _, k := range due {
		ask(k.port, k.addr)
	}
}

// Known is a neighbour whose address is known, as it outlives a table.
type Known struct {
	Port      uint16
	Addr      tuple.Addr
	MAC       [6]byte
	Confirmed int64 // as Learn was told
}

// Known returns the neighbours that are reachable and were learned.
func (n *Neighbours) Known() (all []Known) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, i := range n.index {
		if s := &n.slots[i]; s.state == Reachable && !s.static {
			all = append(all, Known{k.port, k.addr, s.mac, s.confirmed})
		}
	}
	return all
}

// Adopt takes over what another table knew of a neighbour, unless this one knows of it or
// has no room.
func (n *Neighbours) Adopt(k *Known) {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := neighbourKey{k.Port, k.Addr}
	if _, known := n.index[at]; known {
		return
	}
	i, ok := n.takeLocked(k.Confirmed)
	if !ok {
		return
	}
	s := &n.slots[i]
	s.addr, s.mac, s.state, s.confirmed = k.Addr, k.MAC, Reachable, k.Confirmed
	s.owner++
	s.port.Store(uint32(k.Port))
	s.retag()
	n.index[at] = i
}
