package route

import (
	"time"

	"example.com/culvert/dataplane/fair"
)

// Limits of open questions: neighbours that are asked for and have not answered
// (RFC 6583 sections 6.2 and 7.1). Neighbours that live answer within
// milliseconds, so only what does not exist takes places for long.
const (
	maxOpen   = 512                    // of a port
	openShare = 64                     // of one asker on a port
	askEvery  = 2 * time.Millisecond   // new questions of a port in the long run: 500 a second
	askBurst  = int64(time.Second)     // as many may come at once
	askAgain  = int64(time.Second)     // a question or its answer may be lost: repeat it while packets come
	giveUp    = 5 * int64(time.Second) // an open question this old may lose its slot
)

// questions are the open ones of a port.
type questions struct {
	open  *fair.Queue // of slots, by who asked first
	share int         // most of one asker
	spent int64       // when the allowance of new questions will be whole again, ns
}

func newQuestions(slots int) *questions {
	n := min(slots, maxOpen)
	return &questions{open: fair.New(n), share: min(n, openShare)}
}

// allow takes a new question at time now (ns) from the port's allowance. Who has
// many open may not use all of it: half is for those who have few.
func (q *questions) allow(now int64, mine int) bool {
	next := max(q.spent, now) + int64(askEvery)
	if next-now > askBurst-int64(mine)*(askBurst/2)/int64(q.share) {
		return false
	}
	q.spent = next
	return true
}

// admitLocked decides whether asker may open one more question on port, and makes
// room for it. replaced reports that another one was given up for it.
func (n *Neighbours) admitLocked(port uint16, asker fair.Owner, now int64) (q *questions, replaced, ok bool) {
	q = n.asked[port]
	if q == nil {
		q = newQuestions(len(n.slots) - 1)
		n.asked[port] = q
	}
	mine := q.open.Count(asker)
	if mine > 0 && (mine >= q.share || q.open.Full()) {
		oldest := q.open.Value(q.open.Oldest(asker))
		if now-n.slots[oldest].asked >= giveUp { // nobody has told us how it ended
			n.vacateLocked(oldest)
			replaced, mine = true, mine-1
		}
	}
	if mine >= q.share {
		return q, replaced, false
	}
	heaviest, most := q.open.Heaviest()
	if q.open.Full() && most <= mine || !q.allow(now, mine) {
		return q, replaced, false
	}
	if q.open.Full() {
		n.vacateLocked(q.open.Value(q.open.Oldest(heaviest)))
		replaced = true
	}
	return q, replaced, true
}

// openLocked makes slot i a question of asker's, to which q has room.
func (n *Neighbours) openLocked(i uint32, q *questions, asker fair.Owner, now int64) {
	s := &n.slots[i]
	s.state, s.asked, s.idle = Incomplete, now, now
	s.used.Store(0)
	s.open = q.open.Add(asker, i)
}

// repeatLocked notes that the question of slot i is asked once more.
func (n *Neighbours) repeatLocked(i uint32, now int64) {
	s := &n.slots[i]
	q := n.asked[uint16(s.port.Load())].open
	asker := q.Owner(s.open)
	q.Remove(s.open)
	s.open = q.Add(asker, i)
	s.asked = now
}

// closeLocked ends the question of slot i, if there is one.
func (n *Neighbours) closeLocked(i uint32) {
	s := &n.slots[i]
	if s.open != 0 {
		n.asked[uint16(s.port.Load())].open.Remove(s.open)
		s.open = 0
	}
}

// vacateLocked takes slot i from its neighbour and frees it. Packets that wait for
// it see that it has another owner.
func (n *Neighbours) vacateLocked(i uint32) {
	n.clearLocked(i)
	n.slots[i].owner++
	n.free = append(n.free, i)
}

// clearLocked takes slot i from its neighbour: all hints miss.
func (n *Neighbours) clearLocked(i uint32) {
	s := &n.slots[i]
	n.closeLocked(i)
	delete(n.index, neighbourKey{uint16(s.port.Load()), s.addr})
	s.state, s.static = Unknown, false
	s.retag() // before its port changes: Get reads the two one after the other
}

// failures remembers which slots failed, oldest first: they are the first to get
// another owner. It may forget some when there are very many.
type failures struct {
	slots      []uint32 // ring
	head, tail uint32
}

func (f *failures) add(i uint32) {
	f.slots[f.tail%uint32(len(f.slots))] = i
	f.tail++
	if f.tail-f.head > uint32(len(f.slots)) {
		f.head++
	}
}

// takeFailedLocked finds a slot whose neighbour failed and was not asked for since.
func (n *Neighbours) takeFailedLocked() (uint32, bool) {
	for f := &n.failed; f.head != f.tail; {
		i := f.slots[f.head%uint32(len(f.slots))]
		f.head++
		if n.slots[i].state == Failed {
			return i, true
		}
	}
	return 0, false
}

// Asker names who asks for neighbours, by a hash of what it cannot choose. It is
// the owner of the questions that its packets open.
type Asker = fair.Owner

// Waits says which neighbour a packet waits for: a slot, and who has it.
type Waits struct {
	slot, owner uint32
}

// Waits returns what stands for the neighbour of a slot while packets wait for it.
func (n *Neighbours) Waits(slot uint32) Waits {
	n.mu.Lock()
	defer n.mu.Unlock()
	return Waits{slot, n.slots[slot].owner}
}

// State returns what has become of a neighbour that packets wait for: Unknown when
// its port has gone. same is false when it has lost its slot to another one, and
// has to be asked for anew.
func (n *Neighbours) State(w Waits) (st State, same bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.slots[w.slot]
	return s.state, s.owner == w.owner
}
