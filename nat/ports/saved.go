package ports

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"example.com/culvert/nat"
)

// Saved is a lease that nobody has and that is kept for who had it, as it outlives a
// Set: in a file, for another process. It has no pointers.
type Saved struct {
	key   key
	value Endpoint
	until Tick
	rule  uint32
	terms terms
}

// SavedSize is the size of a Saved, bytes. It is part of file formats.
const SavedSize = int(unsafe.Sizeof(Saved{}))

var _ [72]byte = [unsafe.Sizeof(Saved{})]byte{}

// Bytes views l in the byte order of the machine.
func (l *Saved) Bytes() *[SavedSize]byte { return (*[SavedSize]byte)(unsafe.Pointer(l)) }

// KeptSince reports whether the lease may have been kept since a moment, not only before.
func (l *Saved) KeptSince(at Tick) bool { return int32(l.until-l.terms.hold()-at) >= 0 }

// EachKept calls f with every lease that is kept until it returns false.
func (s *Set) EachKept(f func(*Saved) bool) {
	if s.kept.Load() == 0 {
		return
	}
	for i := range s.shards {
		for _, l := range s.keptIn(i) {
			if !f(&l) {
				return
			}
		}
	}
}

func (s *Set) keptIn(shard int) (all []Saved) {
	sh, base := &s.shards[shard], uint32(shard)*s.perShard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for slot := base + 1; slot <= base+sh.high.Load(); slot++ {
		if until := s.until[slot]; until != 0 {
			l := &s.leases[slot]
			all = append(all, Saved{l.key, l.value, Tick(until), l.rule, l.terms})
		}
	}
	return all
}

// Why a saved lease is not kept again.
var (
	ErrTorn = errors.New("the record of a kept port makes no sense")
	ErrOver = errors.New("it is not kept any more, or somebody has it")
)

// Keep keeps a lease again that another Set kept. Its time is moved by shift. Flows
// that hold leases are resumed before it: what they hold is not kept. Errors wrap
// ErrTorn, ErrOver, or ErrTooMany: there is no room.
func (s *Set) Keep(l *Saved, shift, now Tick) error {
	until := max(l.until+shift, 1)
	switch {
	case !l.key.kind.rests() || l.terms&(termsFresh|termsExplicit) != 0 || l.value == Endpoint{} && l.key.kind != kindOwner:
		return fmt.Errorf("%w: kind %d", ErrTorn, l.key.kind)
	case int32(until-now) > int32(Ticks(maxHold)):
		return fmt.Errorf("%w: it is kept for longer than can be", ErrTorn)
	case l.key.kind == kindBlock && (l.key.otherPort > maxBlockPower || int(l.key.port)+1 > 1<<(16-l.key.otherPort)):
		return fmt.Errorf("%w: block %d of 2^%d ports", ErrTorn, l.key.port, l.key.otherPort)
	case now.reached(until):
		return ErrOver
	}
	c := s.open(&l.key)
	defer c.sh.mu.Unlock()
	if have, _ := s.find(c, &l.key, 0); have != nil {
		return ErrOver
	}
	if l.key.kind == kindBlock && !s.claimBlock(&l.key) {
		return ErrOver
	}
	made := s.make(c, &l.key, &l.value, l.rule, l.terms)
	if made == nil {
		if l.key.kind == kindBlock {
			s.unclaimBlock(&l.key)
		}
		return ErrTooMany
	}
	if l.key.kind != kindBlock { // its log knows already that it was given back
		s.entered(made)
		s.rested(made)
	}
	made.refs = 0
	s.kept.Add(1)
	atomic.StoreUint32(&s.until[c.base+*c.head], uint32(until))
	return nil
}

// Resume takes the leases of a flow that has held u since before this Set was made, or
// none. t is what its rule says now, nil if there is no such rule any more; a limit of
// t ends no flow. Outcomes are Granted, Busy: somebody else has them, and Full.
func (s *Set) Resume(f *Flow, u Use, t *Terms, now Tick) Outcome {
	if u >= numUses {
		return Busy
	}
	var terms Terms
	if t != nil {
		terms = *t
	} else {
		terms.Mapping, terms.Filtering = u.behaviour()
	}
	packed := terms.pack(u)
	terms.MaxBlocks = math.MaxUint8
	if terms.Quota != 0 {
		terms.Quota = math.MaxUint32
	}
	if leasesOf[u]&hasCharge != 0 && terms.Quota == 0 { // it was counted by terms that are gone
		terms.Quota = math.MaxUint32
		packed |= termsCounted
	}
	var k key
	var inside Endpoint
	promise := leasesOf[u] & (hasTold | hasAny)
	if promise != 0 { // takeSet only joins one
		inside = f.lease(promise, &k)
		switch s.take(&k, &inside, terms.Rule, packed, now) {
		case taken:
			return Busy
		case noRoom:
			return Full
		}
	}
	out, _ := s.takeSet(f, leasesOf[u]&^promise, &terms, packed, Fits{}, now)
	if out != Granted && promise != 0 {
		s.release(&k, &inside, forget, now)
	}
	return out
}

// behaviour returns what flows that hold u were mapped and filtered by.
func (u Use) behaviour() (mapping, filtering nat.Behaviour) {
	if u >= useKeep { // as who keeps no promise
		if u = (u - useKeep) % keepUses; u < useHint {
			return nat.Linux, nat.Linux
		}
		u += useOut - useHint
	}
	switch {
	case u >= useTold:
		if u == useTold+toldMapped {
			return nat.EndpointIndependent, nat.AddressDependent
		}
	case u >= useIn:
		filtering = nat.EndpointIndependent
		if entry := (u - useIn) / 2; entry == enterMappedPin || entry == enterPin {
			filtering = nat.AddressDependent
		}
		return nat.EndpointIndependent, filtering
	case u >= useOut:
		n := nat.Behaviour(u - useOut)
		return nat.EndpointIndependent + n/3, nat.EndpointIndependent + n%3
	}
	return nat.Linux, nat.Linux
}
