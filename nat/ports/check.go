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
	held, hints := int64(0), int64(0)
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
			case kindOwner:
				k := spaceKey{l.key.addr, l.key.zone, l.key.proto}
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
	if got := s.held.Load(); got != held {
		fault("%d leases kept, counted %d", held, got)
	}
	if got := s.hints.Load(); got != hints {
		fault("%d hints, counted %d", hints, got)
	}
	for k, sp := range *s.spaces.all.Load() {
		if k.proto != 0 && sp.taken.Len() != owners[k] {
			fault("%v proto %d: %d ports in the space, %d owner leases", k.addr, k.proto, sp.taken.Len(), owners[k])
		}
	}
	return faults
}

// CheckFlows compares the leases with the flows that there are: every flow holds
// what its Use says, and nothing else is held. Nobody may change the set meanwhile.
func (s *Set) CheckFlows(each func(yield func(f *Flow, u Use))) (faults []error) {
	type held struct {
		key   key
		value Endpoint
	}
	want := map[held]uint32{}
	each(func(f *Flow, u Use) {
		for l := hasOwner; l <= lastLease; l <<= 1 {
			var h held
			if leasesOf[u]&l != 0 && l != hasCharge {
				h.value = f.lease(l, &h.key)
				want[h]++
			}
		}
	})
	for i := range s.shards {
		for slot := uint32(1); slot <= s.shards[i].high.Load(); slot++ {
			l := &s.leases[uint32(i)*s.perShard+slot]
			switch h := (held{l.key, l.value}); {
			case l.key.kind == 0 || l.refs == 0 || l.key.kind >= kindClient: // free, kept, or a count of others
			case want[h] != l.refs:
				faults = append(faults, fmt.Errorf("ports: %v lease %+v -> %v: held %d times, by %d flows", l.key.kind, l.key, l.value, l.refs, want[h]))
			default:
				delete(want, h)
			}
		}
	}
	for h, n := range want {
		faults = append(faults, fmt.Errorf("ports: %v lease %+v -> %v: %d flows hold it, and it is not there", h.key.kind, h.key, h.value, n))
	}
	return faults
}

var kindNames = [numKinds]string{
	kindOwner: "owner", kindPin: "pin", kindTie: "tie", kindPair: "pair", kindMap: "map", kindMapAddr: "map-addr",
	kindHint: "hint", kindClient: "client", kindBlock: "block", kindBlocks: "blocks",
}

func (k kind) String() string { return kindNames[k] }
