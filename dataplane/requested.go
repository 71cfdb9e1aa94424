package dataplane

import (
	"errors"
	"math/rand/v2"
	"net/netip"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// Requested ports: a host inside asks for an external port for one of its own (RFC
// 6887 section 11). It gets one that its first packet towards the default route could
// have, and the leases of it (package ports) are held until they are given back, by no
// flow. Workers learn nothing of it: packets from outside find the leases like those
// of any mapping (view.entry), flows of the inside endpoint in view.lease.

// Requests says whether hosts may be given ports at their request.
type Requests uint8

const (
	NoRequests Requests = iota
	TakeRequests
)

// PortRequest is what a host asks for.
type PortRequest struct {
	Proto     uint8 // one that has ports
	Inside    netip.AddrPort
	Suggested netip.AddrPort // address and port that it would like; zero parts: any
	Choice    PortChoice
}

// PortChoice says whether another port than the suggested one will do.
type PortChoice uint8

const (
	AnyPort PortChoice = iota
	SuggestedOnly
)

// RequestedPort is a port that was given. It belongs to who asked for it until
// ReturnPort.
type RequestedPort struct {
	flow  ports.Flow
	terms ports.Terms
}

// External returns where the outside reaches the host.
func (r *RequestedPort) External() netip.AddrPort {
	return netip.AddrPortFrom(r.flow.External.Addr.Netip(), r.flow.External.Port)
}

// Rule returns the id of the rule that it was given by, 0 if by none.
func (r *RequestedPort) Rule() uint32 { return r.terms.Rule }

// Why no port was given.
var (
	ErrNotTranslated = errors.New("no rule translates the host towards the default route")
	ErrNotAllowed    = errors.New("the host may not send there")
	ErrNoNetwork     = errors.New("there is no way out")
	ErrPortTaken     = errors.New("the suggested port is not to be had")
	ErrNoPort        = errors.New("no port is left")
	ErrPortQuota     = errors.New("the client has as many ports as it may")
)

// AreaTowards returns the name of the area that an address lies in, "" if no route
// leads there.
func (e *Engine) AreaTowards(a netip.Addr) string {
	v, addr := e.view.Load(), tuple.AddrFrom(a)
	if p := v.portTo(&addr); p != nil {
		return v.prog.Area(p.area).Name
	}
	return ""
}

// RequestPort gives a host a port. One who has a mapping already gets that one.
func (e *Engine) RequestPort(q PortRequest) (*RequestedPort, error) {
	v := e.view.Load()
	var ruling rules.Decision
	f, err := e.imagine(v, &q, &ruling)
	if err != nil {
		return nil, err
	}
	r := requesting{e: e, v: v, f: f, q: q, flow: f.flow()}
	return r.find()
}

// KeepPort gives a port the rule that would give it now. It reports false when none
// would: the port has to be returned.
func (e *Engine) KeepPort(r *RequestedPort) bool {
	v := e.view.Load()
	q := PortRequest{Proto: r.flow.Proto, Inside: netip.AddrPortFrom(r.flow.Inside.Addr.Netip(), r.flow.Inside.Port)}
	var ruling rules.Decision
	f, err := e.imagine(v, &q, &ruling)
	if err != nil || f.prop.Original.Zone != r.flow.Inside.Zone || f.ruling.ZoneOf(tuple.Reply) != r.flow.External.Zone ||
		!f.fits.Source.Allows(r.flow.External.Addr, r.flow.External.Port, f.fits.Egress) {
		return false
	}
	r.terms.Rule, r.terms.Filtering = f.terms.Rule, f.terms.Filtering
	e.leases.Reopen(&r.flow, r.terms.Rule)
	return true
}

// ReturnPort ends what RequestPort gave. Flows go on.
func (e *Engine) ReturnPort(r *RequestedPort) {
	e.leases.Shut(&r.flow, &r.terms, ports.Tick(tickAt(e.Now())))
}

// imagine takes the packet that the host would send towards the default route through
// the rules. Nothing counts it.
func (e *Engine) imagine(v *view, q *PortRequest, ruling *rules.Decision) (*first, error) {
	t := tuple.Tuple{Src: tuple.AddrFrom(q.Inside.Addr()), SrcPort: q.Inside.Port(), Family: tuple.IPv4, Proto: q.Proto}
	if q.Inside.Addr().Is4() {
		t.Dst = tuple.AddrFrom4([4]byte{})
	} else {
		t.Family = tuple.IPv6
	}
	in := v.portTo(&t.Src)
	if _, own := v.own(&t.Src); own || in == nil || in.outside {
		return nil, ErrNotAllowed
	}
	*ruling = rules.Decision{Page: v.ledger.Reader(e.Now(), e.cfg.Wall()), Purpose: rules.Ask}
	p := packet.Packet{Tuple: t, In: in.id, TTL: 64}
	f := &first{key: v.key(&p, roleWire, rules.New), in: in.id, role: roleWire, ruling: ruling, rnd: rand.NewPCG(rand.Uint64(), rand.Uint64())}
	v.prog.Pre(&f.key, ruling)
	if ruling.Tracking == rules.NoTrack {
		return nil, ErrNotTranslated
	}
	f.key.Tuple.Zone = ruling.ZoneOf(tuple.Original)
	f.prop.Original = f.key.Tuple
	switch {
	case v.way(f) != None:
		return nil, ErrNoNetwork
	case v.admission(f) != None:
		return nil, ErrNotAllowed
	case v.source(f) != None:
		return nil, ErrNoNetwork
	case f.fits.Source == nil:
		return nil, ErrNotTranslated
	}
	return f, nil
}

// requesting is the search for a port that a host has asked for.
type requesting struct {
	e    *Engine
	v    *view
	f    *first
	q    PortRequest
	flow ports.Flow

	// How it ended: a step that says it is over has set one of them.
	given *RequestedPort
	err   error
}

// find tries what the host has, what it would like, and then what the rule allows.
func (r *requesting) find() (*RequestedPort, error) {
	src, set := r.f.fits.Source, r.e.leases
	if at, ok := set.Mapped(&r.flow, r.f.fits); ok && r.try(at) {
		return r.given, r.err
	}
	if want, ok := r.suggestion(); ok && r.try(want) {
		return r.given, r.err
	}
	if r.q.Choice == SuggestedOnly {
		return nil, ErrPortTaken
	}
	if src.BlockSize == 0 {
		if r.search(&r.f.search, everyPort) {
			return r.given, r.err
		}
		return nil, ErrNoPort
	}
	var blocks [ports.MaxBlocks]ports.Block
	n := set.Blocks(&r.flow, &r.f.terms, r.f.fits, &blocks)
	for i := range n {
		in := src.SearchIn(r.f.key.Tuple, blocks[i].Addr, blocks[i].Ports, r.f.rnd.Uint64())
		if r.search(&in, everyPort) {
			return r.given, r.err
		}
	}
	switch {
	case n >= int(src.MaxBlocks):
		return nil, ErrPortQuota
	case r.search(&r.f.search, newBlocks):
		return r.given, r.err
	}
	return nil, ErrNoPort
}

// suggestion returns the endpoint that the host would like, as far as its rule allows
// it. Ports below 1024 are only for such (RFC 4787 REQ-3).
func (r *requesting) suggestion() (ports.Endpoint, bool) {
	src, want := r.f.fits.Source, r.q.Suggested
	at := ports.Endpoint{Addr: r.f.search.Addr(), Port: want.Port(), Zone: r.flow.External.Zone}
	if a := want.Addr(); a.IsValid() && !a.IsUnspecified() {
		at.Addr = tuple.AddrFrom(a)
	}
	if at.Port == 0 {
		at.Port = r.q.Inside.Port()
	}
	if src.Fit == nat.Neutral || at.Port < 1024 && r.q.Inside.Port() >= 1024 || !src.Allows(at.Addr, at.Port, r.f.fits.Egress) {
		return at, false
	}
	if src.Plan != nil {
		addr, among, ok := src.Plan.Block(r.flow.Inside.Addr)
		return at, ok && addr == at.Addr && among.Contains(at.Port)
	}
	return at, true
}

// search tries the candidates of a search. It reports whether r is over.
func (r *requesting) search(s *nat.Search, which among) bool {
	var last tuple.Addr
	for {
		if at := s.Addr(); at != last {
			r.avoid(s, which)
			last = at
		}
		cand, _, ok := s.Next()
		if !ok {
			return false
		}
		if r.try(ports.Endpoint{Addr: cand.Src, Port: cand.SrcPort, Zone: r.flow.External.Zone}) {
			return true
		}
	}
}

// avoid is Engine.avoid for a port that nobody shares.
func (r *requesting) avoid(s *nat.Search, which among) {
	at := ports.Endpoint{Addr: s.Addr(), Zone: r.flow.External.Zone}
	if which == newBlocks {
		s.Avoid(r.e.leases.BlocksOf(at), nil, nil)
		return
	}
	s.Avoid(r.e.leases.Space(r.q.Proto, &at).Taken(), nil, nil)
}

// try takes the leases of an external endpoint. It reports whether r is over.
func (r *requesting) try(at ports.Endpoint) bool {
	for range remapTries {
		if r.q.Choice == SuggestedOnly && !r.suggested(at) {
			r.err = ErrPortTaken
			return true
		}
		if r.promised(at) {
			return false
		}
		r.flow.External = at
		var out ports.Outcome
		switch out, at = r.e.leases.Open(&r.flow, &r.f.terms, r.f.fits, ports.Tick(tickAt(r.e.Now()))); out {
		case ports.Granted:
			r.given = &RequestedPort{flow: r.flow, terms: r.f.terms}
			return true
		case ports.Busy:
			return false
		case ports.QuotaReached, ports.BlocksReached:
			r.err = ErrPortQuota
			return true
		case ports.Full:
			r.err = ErrNoPort
			return true
		}
	}
	return false
}

// suggested reports whether an endpoint is the one that the host insists on.
func (r *requesting) suggested(at ports.Endpoint) bool {
	a, port := r.q.Suggested.Addr(), r.q.Suggested.Port()
	return (port == 0 || port == at.Port) && (!a.IsValid() || a.IsUnspecified() || tuple.AddrFrom(a) == at.Addr)
}

// promised reports whether packets from outside to an endpoint have somewhere else to
// go: to the target of a dnat rule, or to a service of the gateway.
func (r *requesting) promised(at ports.Endpoint) bool {
	t := r.f.prop.Original
	t.Src, t.Dst, t.SrcPort, t.DstPort, t.Zone = t.Dst, at.Addr, 0, at.Port, at.Zone
	ruling := rules.Decision{Page: r.f.ruling.Page, Purpose: rules.Ask}
	p := packet.Packet{Tuple: t, In: r.f.egress.id, TTL: 64}
	f := first{key: r.v.key(&p, roleWire, rules.New), in: p.In, role: roleWire, ruling: &ruling}
	return r.v.prog.Dnat(&f.key, &ruling) != nil || ruling.DnatRule != nil || f.key.Local == rules.ToLocal && r.v.locallyTaken(&f)
}

// ExternalAddress returns the address that an inside host appears with.
func (e *Engine) ExternalAddress(inside netip.Addr) (netip.Addr, error) {
	var ruling rules.Decision
	f, err := e.imagine(e.view.Load(), &PortRequest{Proto: tuple.UDP, Inside: netip.AddrPortFrom(inside, 0)}, &ruling)
	if err != nil {
		return netip.Addr{}, err
	}
	return f.search.Addr().Netip(), nil
}
