package ports

import "example.com/culvert/conntrack/tuple"

// Promise takes the leases of an external endpoint that a helper announces to a remote
// address, for an inside endpoint; a remote address of zero is anybody. first says that
// it was promised to nobody there before: the caller then has to see whether another
// flow has it in the connection table. From now on none can get it (Promised).
func (s *Set) Promise(f *Flow, u Use, t *Terms, fits Fits, now Tick) (out Outcome, at Endpoint, first bool) {
	var k key
	v := f.lease(hasTold, &k)
	packed := t.pack(u)
	if s.Promised(f) { // to anybody
		return Busy, Endpoint{}, false
	}
	switch s.take(&k, &v, t.Rule, packed, now) {
	case taken:
		return Busy, Endpoint{}, false
	case noRoom:
		return Full, Endpoint{}, false
	case made:
		first = true
	}
	if out, at = s.takeSet(f, leasesOf[u]&^hasTold, t, packed, fits, now); out != Granted {
		s.release(&k, &v, forget, now)
	}
	return out, at, first
}

// Promised reports whether the external endpoint of a flow was announced to its remote
// address, or to anybody, for another inside endpoint than the flow's own.
func (s *Set) Promised(f *Flow) bool {
	inside, ok := s.PromisedTo(f)
	return ok && inside != f.Inside
}

// PromisedTo returns the inside endpoint that the external one of f was announced for to
// its remote address, or to anybody.
func (s *Set) PromisedTo(f *Flow) (Endpoint, bool) {
	if s.told.Load() == 0 {
		return Endpoint{}, false
	}
	var k key
	f.lease(hasTold, &k)
	if inside, _, _, ok := s.peek(&k); ok {
		return inside, true
	}
	k.other = tuple.Addr{}
	inside, _, _, ok := s.peek(&k)
	return inside, ok
}

// Promises reports whether external endpoints are promised.
func (s *Set) Promises() bool { return s.told.Load() != 0 }

// Seen returns the external endpoint, at the address of that of f, which the inside
// endpoint of f has towards the remote one, as far as leases tell.
func (s *Set) Seen(f *Flow) (Endpoint, bool) {
	for _, l := range [...]leases{hasMapAddr, hasMap, hasHint} {
		if l == hasHint && s.hints.Load() == 0 {
			break
		}
		if e, ok := s.seenBy(f, l); ok {
			return e, true
		}
	}
	return Endpoint{}, false
}

func (s *Set) seenBy(f *Flow, lease leases) (Endpoint, bool) {
	var k key
	f.lease(lease, &k)
	c := s.open(&k)
	defer c.sh.mu.Unlock()
	for l, at := s.find(c, &k, 0); l != nil; l, at = s.find(c, &k, at) {
		if l.value.Addr == f.External.Addr && l.value.Zone == f.External.Zone {
			return l.value, true
		}
	}
	return Endpoint{}, false
}
