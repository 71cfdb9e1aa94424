package ports

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
	inside, _, ok := s.promisedTo(f)
	return inside, ok
}

// promisedTo is PromisedTo, and says which flows keep the promise: useKeep or useAny.
func (s *Set) promisedTo(f *Flow) (inside Endpoint, how Use, ok bool) {
	if s.told.Load() == 0 {
		return Endpoint{}, NoUse, false
	}
	var k key
	f.lease(hasTold, &k)
	if inside, _, _, ok := s.peek(&k); ok {
		return inside, useKeep, true
	}
	f.lease(hasAny, &k)
	inside, _, _, ok = s.peek(&k)
	return inside, useAny, ok
}

// Keeping returns what a flow from inside takes that would hold u: the promise beside it,
// if its external endpoint was announced for its inside one. It reports false if that was
// announced for another one. Under endpoint-independent mapping the promise has the port
// for itself, else it shares it; a flow of another kind than its promise takes what goes
// with that.
func (s *Set) Keeping(f *Flow, u Use, t *Terms) (Use, bool) {
	inside, how, ok := s.promisedTo(f)
	switch {
	case !ok:
		return u, true
	case inside != f.Inside:
		return u, false
	}
	owner, alone := s.Owner(f)
	switch {
	case alone && owner != inside:
		return u, false
	case alone && leasesOf[u]&hasMap == 0:
		u = useOut + 1 // who has sent to a host hears from it, if the port's filtering is by address
	case !alone && (u.Exclusive() || leasesOf[u]&(hasPairAddr|hasPairPort) != 0 && s.paired(f)):
		linux := Terms{Quota: t.Quota, BlockSize: t.BlockSize}
		u = linux.Outbound(Mixed)
	}
	return u.keeping(how), true
}

// paired reports whether the external endpoint of f is one of its inside one's for any
// remote address.
func (s *Set) paired(f *Flow) bool {
	var k key
	v := f.lease(hasPairAny, &k)
	to, _, _, ok := s.peek(&k)
	return ok && to == v
}

// PromisedAt returns the external endpoint, of those that fit, which was announced for
// the inside endpoint of f to its remote address, or to anybody.
func (s *Set) PromisedAt(f *Flow, fits Fits) (Endpoint, bool) {
	if s.told.Load() == 0 {
		return Endpoint{}, false
	}
	for _, l := range [...]leases{hasMap, hasHint} {
		var some [promisedTries]Endpoint
		at := *f
		for _, at.External = range some[:s.mapped(f, l, fits, &some)] {
			if inside, ok := s.PromisedTo(&at); ok && inside == f.Inside {
				return at.External, true
			}
		}
	}
	return Endpoint{}, false
}

// promisedTries is how many ports of an inside endpoint are looked at for one that was
// promised.
const promisedTries = 8

// mapped finds external endpoints that the inside endpoint of f has and that fit, and
// returns how many.
func (s *Set) mapped(f *Flow, lease leases, fits Fits, to *[promisedTries]Endpoint) (n int) {
	var k key
	f.lease(lease, &k)
	c := s.open(&k)
	defer c.sh.mu.Unlock()
	for l, at := s.find(c, &k, 0); l != nil && n < len(to); l, at = s.find(c, &k, at) {
		if l.value.Zone == f.External.Zone && fits.allows(&l.value) {
			to[n] = l.value
			n++
		}
	}
	return n
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
