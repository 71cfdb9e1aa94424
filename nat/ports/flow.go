package ports

import (
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// Flow is what of a flow leases are about.
type Flow struct {
	Proto                    uint8
	Inside, External, Remote Endpoint
}

// Of returns the ends of a flow with these tuples that holds u.
func Of(original, reply *tuple.Tuple, u Use) Flow {
	if u.Inbound() {
		return Flow{original.Proto, source(reply), destination(original), source(original)}
	}
	return Flow{original.Proto, source(original), destination(reply), source(reply)}
}

// source returns the end that packets with tuple t come from. An ICMP query has
// one identifier, which belongs to both ends; the remote one is told apart by its
// address alone.
func source(t *tuple.Tuple) Endpoint { return Endpoint{t.Src, t.SrcPort, t.Zone} }

func destination(t *tuple.Tuple) Endpoint {
	if tuple.IsICMP(t.Proto) {
		return Endpoint{t.Dst, t.SrcPort, t.Zone}
	}
	return Endpoint{t.Dst, t.DstPort, t.Zone}
}

// Terms are what a rule says about the ports of its flows.
type Terms struct {
	Mapping, Filtering nat.Behaviour
	Hold               time.Duration // for how long a port is kept for the client that had it
	Quota              uint32        // ports of one client for one protocol; 0: no limit
	BlockSize          uint16        // ports are taken in blocks of so many, a power of two; 0: one by one
	MaxBlocks          uint8         // of one client
	Rule               uint32        // that the flow met
}

// terms are what a lease keeps of Terms.
type terms uint32

const (
	termsHold     = 0xffff // seconds
	termsBlock    = 16     // binary logarithm of the size of blocks, 0: none; 4 bits
	termsFilter   = 20     // nat.Behaviour; 2 bits
	termsMapped   = 1 << 22
	termsCounted  = 1 << 23
	termsFresh    = 1 << 24 // it is being counted; nobody else may join it, who would not know whether it stays
	termsExplicit = 1 << 25 // a host has asked for it
	maxHold       = termsHold * time.Second
	maxBlockPower = 15
)

func (t *Terms) pack(u Use) terms {
	p := terms(min(t.Hold, maxHold)/time.Second) | terms(power(t.BlockSize))<<termsBlock | terms(t.Filtering)<<termsFilter
	if leasesOf[u]&hasMap != 0 {
		p |= termsMapped
	}
	if t.Quota != 0 {
		p |= termsCounted
	}
	return p
}

// counts reports whether ports under t are counted, for a client or in a block.
func (t terms) counts() bool { return t&termsCounted != 0 || t.block() != 0 }

func (t terms) hold() Tick               { return Tick(t&termsHold) * TicksPerSecond }
func (t terms) block() uint8             { return uint8(t >> termsBlock & 15) }
func (t terms) filtering() nat.Behaviour { return nat.Behaviour(t >> termsFilter & 3) }

// power returns the binary logarithm of a power of two, 0 for 0.
func power(n uint16) (p uint8) {
	for ; n > 1; n >>= 1 {
		p++
	}
	return p
}

// Use says which leases a flow holds. It fits into six bits, so that the flow's
// record can keep it; Release knows from it and the tuples what to give back.
type Use uint8

// NoUse is that of a flow without leases.
const NoUse Use = 0

// Uses. A flow under mapping linux has any of three leases; the others are one
// number for each combination of mapping and filtering.
const (
	useShare Use                        = 1 << iota // it tells exclusive owners that the port is not free
	usePair                                         // it is counted for its client
	useHint                                         // its port is tried first for other flows of the same inside endpoint
	useOut                                          // + 3*(mapping-1) + filtering-1
	useIn    = useOut + 9                           // + 2*entry + 1 if it is counted
	useTold  = useIn + 2*numEntries                 // + useShare and usePair; what a helper has announced
	useKeep  = useTold + toldMapped + 1             // + that of a flow from inside without useHint; from what was announced for it
	useAny   = useKeep + keepUses                   // as useKeep: to anybody
	numUses  = useAny + keepUses

	toldMapped = 4                    // + useTold: under endpoint-independent mapping
	keepUses   = useOut + 9 - useHint // 0 to useHint-1, then useOut to useIn-1
)

var _ [64 - numUses]struct{} // six bits

// Ways into a mapping from outside.
const (
	enterMapped    = iota // endpoint-independent mapping and filtering
	enterMappedPin        // endpoint-independent mapping, address-dependent filtering
	enterOwner            // any other mapping, endpoint-independent filtering
	enterPin              // any other mapping, address-dependent filtering
	numEntries
)

// leases is a set of the leases of one flow, in the order in which they are
// taken. They are given back in reverse: a mapping is never there without the
// port it leads to.
type leases uint16

const (
	hasOwner leases = 1 << iota // the external endpoint, alone
	hasShare                    // the external endpoint, with others that share it
	hasPin
	hasTie
	hasPairAny  // the external endpoint is one of this inside endpoint's
	hasPairAddr // the same, and for one remote address only
	hasPairPort // the same, and for one remote endpoint only
	hasMap
	hasMapAddr
	hasHint
	hasCharge // it counts for its client without a port of its own
	hasTold   // the external endpoint was announced to the remote address
	hasAny    // the external endpoint was announced to anybody

	lastLease = hasAny
	hasPair   = hasPairAny | hasPairAddr | hasPairPort
)

// leasesOf says what each Use holds.
var leasesOf = makeLeases()

func makeLeases() (all [numUses]leases) {
	for u := range useOut {
		if u&useShare != 0 {
			all[u] |= hasShare
		}
		if u&usePair != 0 {
			all[u] |= hasPairAny
		}
		if u&useHint != 0 {
			all[u] |= hasHint
		}
	}
	mapping := [...]leases{hasMap, hasPairAddr | hasMapAddr, hasPairPort}
	filtering := [...]leases{hasOwner, hasShare | hasPin, hasShare | hasTie}
	for m := range mapping {
		for f := range filtering {
			all[useOut+Use(3*m+f)] = mapping[m] | filtering[f]
		}
	}
	// An endpoint-independent mapping has its port for itself, whoever is let in.
	all[useOut] = hasOwner | hasMap
	all[useOut+1] = hasOwner | hasMap | hasPin
	all[useOut+2] = hasOwner | hasMap
	for i, l := range [...]leases{hasOwner | hasMap, hasOwner | hasMap | hasPin, hasOwner, hasShare | hasPin} {
		all[useIn+Use(2*i)] = l
		all[useIn+Use(2*i)+1] = l | hasCharge
	}
	for u := range Use(toldMapped) {
		all[useTold+u] = all[u] | hasHint | hasTold
	}
	all[useTold+toldMapped] = hasOwner | hasMap | hasTold
	for u := range useHint {
		all[u.keeping(useKeep)] = all[u] | hasHint | hasTold
		all[u.keeping(useAny)] = all[u] | hasHint | hasAny
	}
	for u := useOut; u < useIn; u++ {
		all[u.keeping(useKeep)] = all[u] | hasTold
		all[u.keeping(useAny)] = all[u] | hasAny
	}
	return all
}

// keeping returns u, that of a flow from inside, with what keeps a promise: useKeep or
// useAny.
func (u Use) keeping(how Use) Use {
	if u < useOut {
		return how + u&^useHint
	}
	return how + u - (useOut - useHint)
}

// Announced returns the leases of an external endpoint that was announced for an inside
// one, and of the flows that come because of that.
func (t *Terms) Announced(shared Sharing) Use {
	if t.Mapping == nat.EndpointIndependent {
		return useTold + toldMapped
	}
	linux := Terms{Quota: t.Quota, BlockSize: t.BlockSize}
	return useTold + linux.Outbound(shared)
}

// Outbound returns the leases that a flow from inside has to hold under a rule.
// shared says whether ports that have one owner exist at all, so that flows
// under mapping linux must not meet them.
func (t *Terms) Outbound(shared Sharing) Use {
	if t.Mapping != nat.Linux {
		return useOut + Use(3*(t.Mapping-nat.EndpointIndependent)+t.Filtering-nat.EndpointIndependent)
	}
	u := NoUse
	if shared == Mixed {
		u |= useShare
	}
	if t.Quota != 0 || t.BlockSize != 0 {
		u |= usePair
	}
	return u
}

// Sharing says what kinds of mapping the rules make.
type Sharing uint8

const (
	LinuxOnly Sharing = iota // linux
	Mixed                    // others, too
)

// WithHint returns u for a flow whose port other flows of the same inside endpoint
// shall try first.
func (u Use) WithHint() Use {
	if u < useOut {
		u |= useHint
	}
	return u
}

// Inbound reports whether u is of a flow that a mapping has let in.
func (u Use) Inbound() bool { return u >= useIn && u < useKeep }

// Exclusive reports whether the external endpoint must be the flow's alone.
func (u Use) Exclusive() bool { return leasesOf[u]&hasOwner != 0 }

// lease returns the key and the value of one lease of a flow.
func (f *Flow) lease(l leases, k *key) Endpoint {
	external, inside := &f.External, &f.Inside
	switch l {
	case hasOwner:
		k.begin(external, f.Proto, kindOwner)
		return f.Inside
	case hasShare:
		k.begin(external, f.Proto, kindOwner)
		return Endpoint{}
	case hasPin:
		k.begin(external, f.Proto, kindPin)
		k.other = f.Remote.Addr
		return f.Inside
	case hasTie:
		k.begin(external, f.Proto, kindTie)
		k.other, k.otherPort = f.Remote.Addr, f.Remote.Port
		return f.Inside
	case hasMap:
		k.begin(inside, f.Proto, kindMap)
		return f.External
	case hasMapAddr:
		k.begin(inside, f.Proto, kindMapAddr)
		k.other = f.Remote.Addr
		return f.External
	case hasHint:
		k.begin(inside, f.Proto, kindHint)
		return f.External
	case hasCharge:
		return clientKey(f, k)
	case hasTold:
		k.begin(external, f.Proto, kindTold)
		k.other = f.Remote.Addr
		return f.Inside
	case hasAny:
		k.begin(external, f.Proto, kindTold)
		return f.Inside
	}
	k.begin(inside, f.Proto, kindPair)
	k.other, k.otherPort = f.External.Addr, f.External.Port
	switch l {
	case hasPairAddr:
		return Endpoint{Addr: f.Remote.Addr}
	case hasPairPort:
		return Endpoint{Addr: f.Remote.Addr, Port: f.Remote.Port}
	}
	return Endpoint{}
}

func clientKey(f *Flow, k *key) Endpoint {
	*k = key{addr: client(f.Inside.Addr), zone: f.Inside.Zone, proto: f.Proto, kind: kindClient}
	return Endpoint{}
}

// Outcome is the answer to Take.
type Outcome uint8

const (
	Granted       Outcome = iota // the flow holds its leases
	Busy                         // the external endpoint is somebody else's: try another one
	Elsewhere                    // the inside endpoint has a mapping already, to the endpoint returned
	QuotaReached                 // the client has as many ports as it may
	BlocksReached                // the client has as many blocks as it may
	Full                         // there is no room for leases
)

// Take takes the leases of a flow, or none. fits says which mappings the flow may
// have instead.
func (s *Set) Take(f *Flow, u Use, t *Terms, fits Fits, now Tick) (Outcome, Endpoint) {
	return s.takeSet(f, leasesOf[u], t, t.pack(u), fits, now)
}

func (s *Set) takeSet(f *Flow, set leases, t *Terms, packed terms, fits Fits, now Tick) (Outcome, Endpoint) {
	var k key
	for l := hasOwner; l <= lastLease; l <<= 1 {
		if set&l == 0 {
			continue
		}
		v := f.lease(l, &k)
		out, at := Granted, Endpoint{}
		switch l {
		case hasMap, hasMapAddr, hasHint:
			out, at = s.takeMapping(&k, &v, fits, t.Rule, packed)
		case hasCharge:
			out = s.charge(&k, t.Quota)
		case hasTold, hasAny: // a promise is made by Promise only
			if !s.join(&k, &v) {
				out = Busy
			}
		default:
			out = s.takePort(f, l, &k, &v, set, t, packed, now)
		}
		if out != Granted {
			s.giveBack(f, set&(l-1), forget, now)
			return out, at
		}
	}
	return Granted, Endpoint{}
}

// Would says what Take would, and takes nothing.
func (s *Set) Would(f *Flow, u Use, t *Terms, fits Fits, now Tick) (Outcome, Endpoint) {
	var k key
	set, packed := leasesOf[u], t.pack(u)
	for l := hasOwner; l <= lastLease; l <<= 1 {
		if set&l == 0 {
			continue
		}
		v := f.lease(l, &k)
		out, at := Granted, Endpoint{}
		switch l {
		case hasMap, hasMapAddr, hasHint:
			out, at = s.wouldMap(&k, &v, fits)
		case hasCharge:
			out = s.wouldCharge(&k, t.Quota)
		case hasTold, hasAny:
			if held, free := s.wouldTake(&k, &v, now); !held || !free {
				out = Busy
			}
		default:
			held, free := s.wouldTake(&k, &v, now)
			switch {
			case !free:
				out = Busy
			case !held && l == countedBy(set):
				out = s.wouldCount(f, t, packed, now)
			}
		}
		if out != Granted {
			return out, at
		}
	}
	return Granted, Endpoint{}
}

// wouldMap is takeMapping for Would, wouldCharge charge, and so on.
func (s *Set) wouldMap(k *key, v *Endpoint, fits Fits) (Outcome, Endpoint) {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	if l := s.findMapping(c, k, v, fits); l != nil && l.value != *v {
		return Elsewhere, l.value
	}
	return Granted, *v
}

func (s *Set) wouldCharge(k *key, quota uint32) Outcome {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	if l, _ := s.find(c, k, 0); l != nil && l.refs >= quota {
		return QuotaReached
	}
	return Granted
}

// wouldTake reports whether a lease could be had with value v, and whether somebody
// has it so already.
func (s *Set) wouldTake(k *key, v *Endpoint, now Tick) (held, free bool) {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	l, slot := s.find(c, k, 0)
	switch {
	case l == nil:
		return false, k.kind != kindBlock || s.blockFree(k)
	case l.refs == 0:
		return false, now.reached(Tick(s.until[c.base+slot])) || client(l.value.Addr) == client(v.Addr)
	}
	return true, l.value == *v
}

func (s *Set) wouldCount(f *Flow, t *Terms, packed terms, now Tick) Outcome {
	if t.Quota != 0 {
		var k key
		clientKey(f, &k)
		if out := s.wouldCharge(&k, t.Quota); out != Granted {
			return out
		}
	}
	if packed.block() == 0 {
		return Granted
	}
	var block, blocks key
	who, which := blockKeys(f, packed.block(), &block, &blocks)
	if _, free := s.wouldTake(&block, &who, now); !free {
		return Busy
	}
	c := s.open(&blocks)
	defer c.sh.mu.Unlock()
	if l, n := s.findBlock(c, &blocks, &which); l == nil && n >= int(t.MaxBlocks) {
		return BlocksReached
	}
	return Granted
}

// takePort takes one of the leases that make a port the flow's, and counts the
// port for its client if it has not been.
func (s *Set) takePort(f *Flow, l leases, k *key, v *Endpoint, set leases, t *Terms, packed terms, now Tick) Outcome {
	counts := l == countedBy(set) && packed.counts()
	if counts {
		packed |= termsFresh
	}
	switch s.take(k, v, t.Rule, packed, now) {
	case taken:
		s.pinBusy(k, now)
		return Busy
	case noRoom:
		return Full
	case joined:
		return Granted
	}
	if !counts {
		return Granted
	}
	packed &^= termsFresh
	out := s.count(f, t, packed, now)
	if out != Granted {
		s.release(k, v, forget, now)
		return out
	}
	s.counted(k)
	return Granted
}

// countedBy returns which lease of a set stands for its port.
func countedBy(set leases) leases {
	if set&hasOwner != 0 {
		return hasOwner
	}
	return set & hasPair
}

// count counts a port that a client has from now on: in its quota and its block.
func (s *Set) count(f *Flow, t *Terms, packed terms, now Tick) Outcome {
	var k key
	if t.Quota != 0 {
		clientKey(f, &k)
		if out := s.charge(&k, t.Quota); out != Granted {
			return out
		}
	}
	if packed.block() == 0 {
		return Granted
	}
	out := s.enterBlock(f, t, packed, now)
	if out != Granted && t.Quota != 0 {
		s.release(&k, &Endpoint{}, forget, now)
	}
	return out
}

// uncount is the inverse of count.
func (s *Set) uncount(f *Flow, packed terms, how resting, now Tick) {
	if packed.block() != 0 {
		s.leaveBlock(f, packed, how, now)
	}
	if packed&termsCounted != 0 {
		var k key
		v := clientKey(f, &k)
		s.release(&k, &v, forget, now)
	}
}

// charge counts one more for a client that may have so many.
func (s *Set) charge(k *key, quota uint32) Outcome {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	l, _ := s.find(c, k, 0)
	if l == nil {
		if l = s.make(c, k, &Endpoint{}, quota, 0); l == nil {
			return Full
		}
		s.notices.grown(l)
		return Granted
	}
	l.rule = quota
	if l.refs >= quota {
		return QuotaReached
	}
	l.refs++
	s.notices.grown(l)
	return Granted
}

// Fits says which external endpoints a flow may have: those that its rule allows, none
// but its own without a Source.
type Fits struct {
	Source *nat.Source
	Egress tuple.Addr // for masquerade
}

func (f Fits) allows(e *Endpoint) bool {
	return f.Source != nil && f.Source.Allows(e.Addr, e.Port, f.Egress)
}

// takeMapping takes a lease that says where an inside endpoint is mapped to. A key
// has several of these when rules with different pools map the same endpoint, or
// addresses have changed; among those that fit there is one.
func (s *Set) takeMapping(k *key, v *Endpoint, fits Fits, rule uint32, t terms) (Outcome, Endpoint) {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	l := s.findMapping(c, k, v, fits)
	switch {
	case l == nil:
		if l = s.make(c, k, v, rule, t); l == nil {
			return Full, Endpoint{}
		}
		switch k.kind {
		case kindHint:
			s.hints.Add(1)
		case kindMap:
			s.notices.mapping(MappingBegun, l)
		}
	case l.value == *v:
		l.refs++
	default:
		return Elsewhere, l.value
	}
	return Granted, *v
}

// findMapping returns the lease that maps the inside endpoint of k to v already, or
// to where it must be mapped instead; nil: there is none.
func (s *Set) findMapping(c chain, k *key, v *Endpoint, fits Fits) *lease {
	for l, at := s.find(c, k, 0); l != nil; l, at = s.find(c, k, at) {
		if l.value == *v || k.kind != kindHint && l.value.Zone == v.Zone && fits.allows(&l.value) {
			return l
		}
	}
	return nil
}

// Mapping returns the external endpoint that the inside endpoint of a flow has
// already and that the flow must have, too: that it should try first, under
// mapping linux.
func (s *Set) Mapping(f *Flow, u Use, fits Fits) (Endpoint, bool) {
	var k key
	set := leasesOf[u]
	switch {
	case set&hasMap != 0:
		f.lease(hasMap, &k)
	case set&hasMapAddr != 0:
		f.lease(hasMapAddr, &k)
	case set&hasHint != 0 && u >= useTold, u < useOut && s.hints.Load() != 0:
		f.lease(hasHint, &k)
	default:
		return Endpoint{}, false
	}
	c := s.open(&k)
	defer c.sh.mu.Unlock()
	for l, at := s.find(c, &k, 0); l != nil; l, at = s.find(c, &k, at) {
		if l.value.Zone == f.External.Zone && fits.allows(&l.value) {
			return l.value, true
		}
	}
	return Endpoint{}, false
}

// Release gives back what a flow holds that has ended.
func (s *Set) Release(f *Flow, u Use, now Tick) { s.giveBack(f, leasesOf[u], rest, now) }

// Abandon gives back what a flow took that did not come about.
func (s *Set) Abandon(f *Flow, u Use, now Tick) { s.giveBack(f, leasesOf[u], forget, now) }

// giveBack releases the leases of a set, the last one first.
func (s *Set) giveBack(f *Flow, set leases, how resting, now Tick) {
	var k key
	for l := lastLease; l != 0; l >>= 1 {
		if set&l == 0 {
			continue
		}
		v := f.lease(l, &k)
		if last, t := s.release(&k, &v, how, now); last && l == countedBy(set) {
			s.uncount(f, t, how, now)
		}
	}
}

// Entry is what a mapping says about a packet from outside.
type Entry struct {
	Inside Endpoint
	Use    Use // to take for the flow
	Terms  Terms
}

// Inbound returns where the mapping of an external endpoint leads for packets
// from a remote one, if its filtering lets them in. A packet from outside makes no
// mapping.
func (s *Set) Inbound(f *Flow) (Entry, bool) {
	var k key
	f.lease(hasOwner, &k)
	inside, rule, t, ok := s.peek(&k)
	if !ok {
		return Entry{}, false
	}
	e := Entry{Inside: inside, Use: useIn, Terms: Terms{Rule: rule}}
	shared := inside == Endpoint{}
	if shared || t.filtering() != nat.EndpointIndependent {
		if !shared && t.filtering() != nat.AddressDependent {
			return Entry{}, false
		}
		f.lease(hasPin, &k)
		pinned, rule, pin, ok := s.peek(&k)
		if !ok || !shared && pinned != inside {
			return Entry{}, false
		}
		e.Inside, e.Terms.Rule, t = pinned, rule, t&termsMapped|pin&^termsMapped
		e.Use += 2
	}
	if t&termsMapped == 0 || shared {
		e.Use += 4
	}
	if t&termsCounted != 0 {
		e.Use++
		e.Terms.Quota = s.quota(f.Proto, e.Inside)
	}
	return e, true
}

// Owner returns the inside endpoint that an external one stands for, whatever the
// filtering says: what inside hosts send each other does not come from outside. It
// reports false when nobody has the external endpoint, or several share it.
func (s *Set) Owner(f *Flow) (Endpoint, bool) {
	var k key
	f.lease(hasOwner, &k)
	inside, _, _, ok := s.peek(&k)
	return inside, ok && inside != Endpoint{}
}

// quota returns how much the client of an inside endpoint may have.
func (s *Set) quota(proto uint8, inside Endpoint) uint32 {
	var k key
	clientKey(&Flow{Proto: proto, Inside: inside}, &k)
	_, quota, _, _ := s.peek(&k)
	return quota
}

// Enter takes the leases of a flow that a mapping lets in, or none when the
// mapping has ended meanwhile.
func (s *Set) Enter(f *Flow, e *Entry, now Tick) Outcome {
	var k key
	set := leasesOf[e.Use]
	for l := hasOwner; l <= lastLease; l <<= 1 {
		if set&l == 0 {
			continue
		}
		v := f.lease(l, &k)
		out := Busy
		switch {
		case l == hasCharge:
			out = s.charge(&k, e.Terms.Quota)
		case l == hasTold: // it may have been told to anybody, of whom this is one
			if t := s.take(&k, &v, e.Terms.Rule, 0, now); t == joined || t == made {
				out = Granted
			}
		case s.join(&k, &v):
			out = Granted
		}
		if out != Granted {
			s.giveBack(f, set&(l-1), rest, now)
			return out
		}
	}
	return Granted
}

// join takes a lease that others hold already.
func (s *Set) join(k *key, v *Endpoint) bool {
	c := s.open(k)
	defer c.sh.mu.Unlock()
	for l, at := s.find(c, k, 0); l != nil; l, at = s.find(c, k, at) {
		if l.value == *v && l.held() {
			l.refs++
			return true
		}
	}
	return false
}

var outcomeNames = [...]string{
	Granted: "granted", Busy: "busy", Elsewhere: "elsewhere", QuotaReached: "quota", BlocksReached: "blocks", Full: "full",
}

func (o Outcome) String() string { return outcomeNames[o] }
