package ports

import "example.com/culvert/nat"

// An explicit mapping is one that its host has asked for (RFC 6887): an owner and a
// map lease that belong to no flow. Flows join them like those of any other
// mapping. Their terms say that they are explicit, so that flows under rules whose
// own mapping is another one find them, too.

// useExplicit is what an explicit mapping holds.
const useExplicit = useOut

// Open takes the leases of an explicit mapping from f.Inside to f.External, which
// lets in what filtering admits: no address counts, so it is endpoint-independent
// or, for none beside the flows of the host, address-and-port-dependent. Elsewhere:
// the inside endpoint has a mapping already, to the endpoint returned, and can
// have that one.
func (s *Set) Open(f *Flow, t *Terms, fits Fits, now Tick) (Outcome, Endpoint) {
	asked := *t
	asked.Mapping, asked.Filtering = nat.EndpointIndependent, nat.EndpointIndependent
	out, at := s.Take(f, useExplicit, &asked, fits, now)
	if out == Granted {
		s.amend(f, t.Rule, nat.EndpointIndependent, termsExplicit)
		s.explicit.Add(1)
	}
	return out, at
}

// Reopen gives the leases of an explicit mapping another rule: flows that it lets
// in from now on are that rule's.
func (s *Set) Reopen(f *Flow, rule uint32) {
	s.amend(f, rule, nat.EndpointIndependent, termsExplicit)
}

// Shut gives back what Open took. Flows of the mapping keep it, and from now on its
// filtering is that of their rule.
func (s *Set) Shut(f *Flow, t *Terms, now Tick) {
	s.amend(f, t.Rule, t.Filtering, 0)
	s.explicit.Add(-1)
	s.Release(f, useExplicit, now)
}

// amend changes the rule and the filtering of the leases of an explicit mapping. What
// was counted for them stays so.
func (s *Set) amend(f *Flow, rule uint32, filtering nat.Behaviour, explicit terms) {
	const changed = 3<<termsFilter | termsExplicit
	for _, kind := range [...]leases{hasOwner, hasMap} {
		var k key
		v := f.lease(kind, &k)
		c := s.open(&k)
		l, at := s.find(c, &k, 0)
		for l != nil && l.value != v {
			l, at = s.find(c, &k, at)
		}
		if l != nil {
			l.rule = rule
			l.terms = l.terms&^changed | terms(filtering)<<termsFilter | explicit
		}
		c.sh.mu.Unlock()
	}
}

// HasExplicit reports whether there are explicit mappings.
func (s *Set) HasExplicit() bool { return s.explicit.Load() != 0 }

// Explicit returns the external endpoint of an explicit mapping of the inside
// endpoint of a flow.
func (s *Set) Explicit(f *Flow, fits Fits) (Endpoint, bool) {
	var k key
	f.lease(hasMap, &k)
	c := s.open(&k)
	defer c.sh.mu.Unlock()
	for l, at := s.find(c, &k, 0); l != nil; l, at = s.find(c, &k, at) {
		if l.terms&termsExplicit != 0 && l.value.Zone == f.External.Zone && fits.allows(&l.value) {
			return l.value, true
		}
	}
	return Endpoint{}, false
}

// Mapped returns the external endpoint of any mapping that an explicit one of the
// same inside endpoint would have to be the same as.
func (s *Set) Mapped(f *Flow, fits Fits) (Endpoint, bool) { return s.Mapping(f, useExplicit, fits) }
