package sip

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "sip".
type Helper struct{}

// Classes of what is announced.
const (
	classSignalling = iota
	classMedia
)

const (
	maxContacts   = 4
	maxMedia      = 16 // sockets: four calls of audio and video
	mediaTime     = 3 * time.Minute
	registration  = time.Hour // without Expires (RFC 3261 section 10.2)
	longestExpiry = 24 * time.Hour
)

// Spec implements alg.Helper.
func (Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: "sip", Protos: []uint8{tuple.UDP, tuple.TCP}, Port: defaultPort, Limit: alg.MaxLimit,
		Classes: []alg.Class{
			classSignalling: {Name: "signalling", Max: maxContacts, Timeout: mediaTime},
			classMedia:      {Name: "media", Max: maxMedia, Timeout: mediaTime},
		},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return &parser{seed: maphash.MakeSeed()} }

// parser is the signalling of one flow.
type parser struct {
	seed  maphash.Seed
	msg   message
	edits []alg.Replacement
	text  []byte // of the replacements
	calls [maxMedia]medium
	next  uint8 // where the next one of calls goes
	desc  description
}

// medium is a socket that a call has announced.
type medium struct {
	call uint64 // hash of Call-ID
	dir  tuple.Direction
	to   netip.AddrPort
}

var leave = alg.Edit{Rest: alg.Leave}

// Inspect implements alg.Parser. It settles one message at a time.
func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	if !c.Stream() {
		if n, st := p.msg.read(b, false); st == whole {
			return alg.Edit{Done: len(b), Replace: p.message(c, b[:n])}
		}
		return alg.Edit{Done: len(b)}
	}
	if c.Gap {
		return leave
	}
	if n := keepAlive(b); n > 0 {
		return alg.Edit{Done: n}
	}
	switch n, st := p.msg.read(b, true); st {
	case short:
		return alg.Edit{Rest: alg.Hold}
	case notSIP:
		return leave
	default:
		return alg.Edit{Done: n, Replace: p.message(c, b[:n])}
	}
}

// keepAlive counts the bytes of empty lines at the start of b (RFC 5626 section 3.5.1,
// RFC 3261 section 7.5).
func keepAlive(b []byte) int {
	n := 0
	for n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		n++
	}
	return n
}

// message rewrites p.msg and announces what it speaks of.
func (p *parser) message(c *alg.Context, raw []byte) []alg.Replacement {
	m := &p.msg
	p.edits, p.text = p.edits[:0], p.text[:0]
	if m.request() {
		p.uris(c, raw, m.uri, nil)
	}
	call := maphash.Bytes(p.seed, m.first(callID))
	for _, h := range m.headers {
		switch h.kind {
		case via:
			p.via(c, raw, h.span)
		case from, to, route:
			p.uris(c, raw, h.span, nil)
		case contact:
			p.uris(c, raw, h.span, p.reachable)
		}
	}
	p.registered(c)
	if p.ends() {
		p.forget(c, call)
	} else if p.describes() {
		p.describe(c, raw, call)
	}
	slices.SortFunc(p.edits, func(a, b alg.Replacement) int { return a.From - b.From })
	return p.edits
}

// replace puts text, which ends p.text and begins at p.text[begin], in the place of s.
func (p *parser) replace(s span, begin int) {
	p.edits = append(p.edits, alg.Replacement{From: s.from, To: s.to, Text: p.text[begin:len(p.text):len(p.text)]})
}

// ours returns what the receiver calls a socket that the sender named: the sender's
// own, or its own.
func ours(c *alg.Context, ap netip.AddrPort) (netip.AddrPort, bool) {
	switch ap {
	case c.Self():
		return c.SelfSeen(), true
	case c.Peer():
		return c.PeerSelf(), true
	}
	return c.SeenAs(c.Tuple[tuple.Original].Proto, ap)
}

// oursAddr is ours for an address without a port.
func oursAddr(c *alg.Context, a netip.Addr) (netip.Addr, bool) {
	switch a {
	case c.Self().Addr():
		return c.SelfSeen().Addr(), true
	case c.Peer().Addr():
		return c.PeerSelf().Addr(), true
	}
	return a, false
}

// reach makes a socket of the sender's reachable, and returns how.
type reach func(c *alg.Context, raw []byte, u *uri, value span) (netip.AddrPort, bool)

// uris rewrites the SIP URIs in a value.
func (p *parser) uris(c *alg.Context, raw []byte, value span, how reach) {
	for at := value.from; at < value.to; {
		u, ok := nextURI(raw, at, value.to)
		if !ok {
			return
		}
		at = u.after
		if u.addr.IsValid() {
			seen, known := netip.AddrPort{}, false
			if how != nil {
				seen, known = how(c, raw, &u, value)
			}
			if !known {
				seen, known = ours(c, u.effective(u.def))
			}
			if known && seen != u.effective(u.def) {
				begin := len(p.text)
				p.text = u.appendAs(p.text, seen, u.def)
				p.replace(u.text, begin)
			}
		}
		p.addrParam(c, raw, u.params, "maddr")
	}
}

// addrParam rewrites an address in a parameter.
func (p *parser) addrParam(c *alg.Context, raw []byte, in span, name string) {
	v, ok := param(raw, in, name)
	if !ok {
		return
	}
	text := v.of(raw)
	bare := bytes.TrimSuffix(bytes.TrimPrefix(text, []byte{'['}), []byte{']'})
	a, err := netip.ParseAddr(string(bare))
	if err != nil || a.Zone() != "" {
		return
	}
	seen, ok := oursAddr(c, a)
	if !ok || seen == a {
		return
	}
	begin := len(p.text)
	if len(bare) == len(text) { // received may have an IPv6 address without brackets
		p.text = seen.AppendTo(p.text)
	} else {
		p.text = append(seen.AppendTo(append(p.text, '[')), ']')
	}
	p.replace(v, begin)
}

// via rewrites the hops of a Via value: SIP/2.0/UDP host:port;params, ...
func (p *parser) via(c *alg.Context, raw []byte, value span) {
	for at := value.from; at < value.to; {
		end := at
		for end < value.to && raw[end] != ',' {
			end++
		}
		hop := trim(raw, span{at, end})
		at = end + 1
		n := bytes.LastIndexByte(raw[hop.from:paramsOf(raw, hop)], '/')
		if n < 0 {
			continue
		}
		host := hop.from + n + 1
		for host < hop.to && !isSpace(raw[host]) { // the transport
			host++
		}
		sent := trim(raw, span{host, hop.to})
		s, ok := readSocket(raw, sent.from, sent.to)
		if !ok {
			continue
		}
		whose := s.effective(defaultPort)
		if seen, ok := ours(c, whose); ok && seen != whose {
			begin := len(p.text)
			p.text = s.appendAs(p.text, seen, defaultPort)
			p.replace(s.text, begin)
		}
		params := span{s.text.to, hop.to}
		p.addrParam(c, raw, params, "maddr")
		p.addrParam(c, raw, params, "received")
		if v, ok := param(raw, params, "rport"); ok { // RFC 3581
			if port, digits := number(v.of(raw)); digits > 0 && port == int(c.Peer().Port()) && c.Peer().Port() != c.PeerSelf().Port() {
				begin := len(p.text)
				p.text = strconv.AppendUint(p.text, uint64(c.PeerSelf().Port()), 10)
				p.replace(v, begin)
			}
		}
	}
}

// paramsOf returns where the parameters of a hop begin.
func paramsOf(raw []byte, hop span) int {
	if n := bytes.IndexByte(hop.of(raw), ';'); n >= 0 {
		return hop.from + n
	}
	return hop.to
}

// reachable announces signalling to a Contact that is the sender's own, where a message
// begins to use it.
func (p *parser) reachable(c *alg.Context, raw []byte, u *uri, value span) (netip.AddrPort, bool) {
	m, to := &p.msg, u.effective(u.def)
	register := m.request() && m.is("REGISTER")
	if to.Addr() != c.Self().Addr() || !register && (to == c.Self() || !m.is("INVITE") || m.code >= 300) {
		return to, false
	}
	life := registration
	if register {
		if life = p.expires(raw, u, value); life == 0 {
			c.Withdraw(classSignalling, to)
			return to, false
		}
	}
	e := alg.Expectation{Class: classSignalling, Proto: c.Tuple[tuple.Original].Proto, To: to, Permanent: true, Timeout: life, Child: "sip"}
	if c.Options.AnySignalling {
		e.From = alg.Anybody(to.Addr())
	}
	seen, err := c.Announce(e)
	return seen, err == nil
}

// expires returns how long a binding is to last: by the parameter of its Contact, or
// the header Expires (RFC 3261 section 10.2.1.1). u nil means the header alone.
func (p *parser) expires(raw []byte, u *uri, value span) time.Duration {
	v := p.msg.first(expires)
	if u != nil {
		end := u.after
		for end < value.to && raw[end] != ',' {
			end++
		}
		if s, ok := param(raw, span{u.text.to, end}, "expires"); ok {
			v = s.of(raw)
		}
	}
	seconds, digits := number(v)
	if digits == 0 {
		return registration
	}
	return min(time.Duration(seconds)*time.Second, longestExpiry)
}

// registered keeps the flow for as long as a registrar says that it may be used.
func (p *parser) registered(c *alg.Context) {
	m := &p.msg
	if !m.is("REGISTER") || m.request() && c.Dir == tuple.Reply || m.code >= 300 || m.code > 0 && m.code < 200 {
		return
	}
	life := time.Duration(0)
	for _, h := range m.headers {
		if h.kind != contact {
			continue
		}
		v := h.span
		for at := v.from; at < v.to; {
			u, ok := nextURI(m.raw, at, v.to)
			if !ok {
				break
			}
			at = u.after
			life = max(life, p.expires(m.raw, &u, v))
		}
	}
	if life > 0 {
		c.Keep(life)
	}
}

// ends reports whether the message ends the call that it belongs to.
func (p *parser) ends() bool {
	m := &p.msg
	return m.request() && (m.is("BYE") || m.is("CANCEL")) || m.is("INVITE") && m.code >= 300 && m.code != 401 && m.code != 407
}

// remember notes that a call has announced a socket, and forget ends all of a call.
func (p *parser) remember(c *alg.Context, call uint64, to netip.AddrPort) {
	k := medium{call, c.Dir, to}
	if slices.Contains(p.calls[:], k) {
		return
	}
	p.calls[p.next] = k
	p.next = (p.next + 1) % maxMedia
}

func (p *parser) forget(c *alg.Context, call uint64) {
	for i := range p.calls {
		k := &p.calls[i]
		if k.call != call || !k.to.IsValid() {
			continue
		}
		as := *c
		as.Dir = k.dir // in whose words it was announced
		c.Gateway.Withdraw(&as, classMedia, k.to)
		*k = medium{}
	}
}
