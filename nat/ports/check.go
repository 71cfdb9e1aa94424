package ports

import "fmt"

// Check verifies the invariants of a set and returns what is wrong: every lease is
// found by its key, slots are in one chain or free, and the sets of ports agree
// with the owner leases. Nobody may change the set meanwhile.
func (s *Set) Check() (faults []error) {
	fault := func(format string, args ...any) {
		if len(faults) < 100 {
			faults = append(faults, fmt.Errorf("ports: "+format, args...))
		}
	}
	held, hints, told := int64(0), int64(0), int64(0)
	owners := map[spaceKey]int{}
	for i := range s.shards {
		sh, base := &s.shards[i], uint32(i)*s.perShard
		n := 0
		for slot := uint32(1); slot <= sh.high.Load(); slot++ {
			l := &s.leases[base+slot]
			if l.key.kind == 0 {
				continue
			}
			n++
			kept := s.until[base+slot] != 0
			if kept {
				held++
			}
			if kept != (l.refs == 0) {
				fault("%v lease in slot %d: %d flows, kept %v", l.key.kind, base+slot, l.refs, kept)
			}
			c := s.open(&l.key)
			found := false
			for x, at := s.find(c, &l.key, 0); x != nil; x, at = s.find(c, &l.key, at) {
				found = found || x == l
			}
			c.sh.mu.Unlock()
			if !found {
				fault("%v lease in slot %d is not found by its key", l.key.kind, base+slot)
			}
			switch l.key.kind {
			case kindHint:
				hints++
			case kindTold:
				told++
			case kindOwner:
				k := l.key.space()
				owners[k]++
				if sp := s.spaces.get(k); sp != nil && (!sp.taken.Has(l.key.port) || sp.live.Has(l.key.port) == kept ||
					sp.alone.Has(l.key.port) != (l.value != Endpoint{})) {
					fault("port %d of %v is not in its space as it should be", l.key.port, l.key.addr)
				}
			}
		}
		if n != sh.n {
			fault("shard %d counts %d leases, has %d", i, sh.n, n)
		}
	}
	if got := s.kept.Load(); got != held {
		fault("%d leases kept, counted %d", held, got)
	}
	if got := s.hints.Load(); got != hints {
		fault("%d hints, counted %d", hints, got)
	}
	if got := s.told.Load(); got != told {
		fault("%d announced endpoints, counted %d", told, got)
	}
	for k, sp := range *s.spaces.all.Load() {
		if k.proto != 0 && sp.taken.Len() != owners[k] {
			fault("%v proto %d: %d ports in the space, %d owner leases", k.addr, k.proto, sp.taken.Len(), owners[k])
		}
	}
	return faults
}

// held is a lease as flows know it.
type held struct {
	key   key
	value Endpoint
}

// CheckFlows compares the leases with the flows that there are: every flow holds
// what its Use says, nothing else is held, and clients and blocks count the ports
// that they have. Nobody may change the set meanwhile.
func (s *Set) CheckFlows(each func(yield func(f *Flow, u Use))) (faults []error) {
	want := map[held]uint32{}
	each(func(f *Flow, u Use) {
		for l := hasOwner; l <= lastLease; l <<= 1 {
			if leasesOf[u]&l != 0 {
				var h held
				h.value = f.lease(l, &h.key)
				want[h]++
			}
		}
	})
	s.eachHeld(func(l *lease) { s.expectCounts(l, want) })
	s.eachHeld(func(l *lease) {
		h := held{l.key, l.value}
		if want[h] != l.refs {
			faults = append(faults, fmt.Errorf("ports: %v lease %+v -> %v: held %d times, by %d flows or ports", l.key.kind, l.key, l.value, l.refs, want[h]))
		}
		delete(want, h)
	})
	for h, n := range want {
		faults = append(faults, fmt.Errorf("ports: %v lease %+v -> %v: %d flows or ports hold it, and it is not there", h.key.kind, h.key, h.value, n))
	}
	return faults
}

// eachHeld calls f for the leases that somebody has.
func (s *Set) eachHeld(f func(*lease)) {
	for i := range s.shards {
		for slot := uint32(1); slot <= s.shards[i].high.Load(); slot++ {
			if l := &s.leases[uint32(i)*s.perShard+slot]; l.refs != 0 {
				f(l)
			}
		}
	}
}

// expectCounts adds to want what a lease that stands for a port counts in: its
// client and its block.
func (s *Set) expectCounts(l *lease, want map[held]uint32) {
	f := Flow{Proto: l.key.proto}
	switch l.key.kind {
	case kindOwner:
		f.Inside, f.External = l.value, Endpoint{l.key.addr, l.key.port, l.key.zone}
	case kindPair:
		f.Inside, f.External = Endpoint{l.key.addr, l.key.port, l.key.zone}, Endpoint{l.key.other, l.key.otherPort, l.key.zone}
		var k key
		f.lease(hasOwner, &k)
		if owner, _, _, ok := s.peek(&k); ok && owner != (Endpoint{}) && l.value != (Endpoint{}) {
			return // the owner lease stands for the port
		}
	}
	if f.Inside == (Endpoint{}) {
		return
	}
	var client, block, blocks key
	if l.terms&termsCounted != 0 {
		v := clientKey(&f, &client)
		want[held{client, v}]++
	}
	if p := l.terms.block(); p != 0 {
		who, which := blockKeys(&f, p, &block, &blocks)
		want[held{block, who}]++
		want[held{blocks, which}]++
	}
}

var kindNames = [numKinds]string{
	kindOwner: "owner", kindPin: "pin", kindTie: "tie", kindPair: "pair", kindMap: "map", kindMapAddr: "map-addr",
	kindHint: "hint", kindClient: "client", kindBlock: "block", kindBlocks: "blocks",
	kindTold: "told",
}

func (k kind) String() string { return kindNames[k] }
