package sip

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "sip".
type Helper struct{}

// Classes of what is announced.
const (
	classSignalling = iota
	classAudio
	classVideo
	classImage
	classData // of other media
)

const (
	maxContacts   = 4
	maxEdits      = 256          // replacements in a message
	maxMedia      = 16           // sockets of a class: eight calls with RTCP
	maxSockets    = 2 * maxMedia // of all classes
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
			classAudio:      {Name: "audio", Max: maxMedia, Timeout: mediaTime},
			classVideo:      {Name: "video", Max: maxMedia, Timeout: mediaTime},
			classImage:      {Name: "image", Max: maxMedia, Timeout: mediaTime},
			classData:       {Name: "data", Max: maxMedia, Timeout: mediaTime},
		},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return &parser{seed: newSeed()} }

// parser is the signalling of one flow.
type parser struct {
	seed   seed
	hashed []byte // by hash
	msg    message
	edits  []alg.Replacement
	text   []byte // of the replacements
	calls  [maxSockets]medium
	next   uint8 // where the next one of calls goes
	desc   description
	open   [tuple.NumDirections]openMessage

	contacts    [maxContacts]binding
	nextContact uint8 // where the next one of contacts goes
}

// medium is a socket that a call has announced.
type medium struct {
	call uint64      // hash of Call-ID
	by   transaction // that announced it first
	mediumSocket
	seen     uint16 // its external port, which it keeps while the call lasts
	tag      uint64 // of the phone that announced it: a call may be forked to several
	answered bool   // that phone has answered the call, or made it
}

// mediumSocket names a socket of a medium.
type mediumSocket struct {
	dir   tuple.Direction // whose it is
	class uint8
	to    netip.AddrPort
}

// binding is a contact that a phone has registered.
type binding struct {
	by      transaction // that announced it first
	dir     tuple.Direction
	to      netip.AddrPort
	seen    netip.AddrPort
	life    time.Duration
	granted bool // by the registrar
}

// transaction names a request of a call, its answers and its CANCEL: by the number in
// CSeq and the side that chose it.
type transaction struct {
	number int
	asker  tuple.Direction
}

var leave = alg.Edit{Rest: alg.Leave, Unread: 1}

// Inspect implements alg.Parser. It settles one message at a time.
func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	if !c.Stream() {
		if n, st := p.msg.read(b, false); st == whole {
			return p.message(c, b[:n], len(b))
		}
		e := alg.Edit{Done: len(b)}
		if !keepsAlive(b) {
			e.Unread = 1
		}
		return e
	}
	if c.Gap {
		return leave
	}
	if n := keepAlive(b); n > 0 {
		return alg.Edit{Done: n}
	}
	open := &p.open[c.Dir]
	if !open.worthReading(b) {
		return alg.Edit{Rest: alg.Hold}
	}
	switch n, st := p.msg.read(b, true); st {
	case short:
		open.note(&p.msg)
		return alg.Edit{Rest: alg.Hold}
	case notSIP:
		return leave
	default:
		*open = openMessage{}
		return p.message(c, b[:n], n)
	}
}

// openMessage is how much of a message in a stream has come, so that one in many small
// segments is not read again with each of them.
type openMessage struct {
	need    int // bytes with its body, 0: its headers have no end yet
	read    int // bytes when it was read last
	scanned int // bytes in which the end of the headers was looked for
}

// worthReading reports whether more can be said of a message that b begins with than when
// it was read last: it is whole, its headers are, or it is twice as long.
func (o *openMessage) worthReading(b []byte) bool {
	if o.need > 0 {
		return len(b) >= o.need
	}
	from := max(o.scanned-len(emptyLine)+1, 0)
	o.scanned = len(b)
	return len(b) >= 2*o.read || bytes.Contains(b[from:], emptyLine)
}

var emptyLine = []byte("\r\n\r\n")

// note keeps what is known of a message that is short. Its start line is read until it
// has an end: another protocol has another one, perhaps, and must not wait.
func (o *openMessage) note(m *message) {
	if m.method != nil || m.code != 0 {
		o.need, o.read = m.body.to, len(m.raw)
	}
}

// Size implements alg.Sized.
func (p *parser) Size() int {
	const replacement, field = int(unsafe.Sizeof(alg.Replacement{})), int(unsafe.Sizeof(header{}))
	return int(unsafe.Sizeof(*p)) + cap(p.edits)*replacement + cap(p.text) + cap(p.hashed) + cap(p.msg.headers)*field
}

// keepsAlive reports whether a datagram is one that phones send to keep their mapping:
// empty lines, zeros, or STUN (RFC 5626 section 3.5.2, whose first octet is below 4).
func keepsAlive(b []byte) bool {
	return len(bytes.Trim(b, "\r\n\x00")) == 0 || len(b) >= 20 && b[0] < 4 && binary.BigEndian.Uint32(b[4:]) == stunCookie
}

const stunCookie = 0x2112a442 // RFC 8489 section 5

// keepAlive counts the bytes of empty lines at the start of b (RFC 5626 section 3.5.1,
// RFC 3261 section 7.5).
func keepAlive(b []byte) int {
	n := 0
	for n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		n++
	}
	return n
}

// message rewrites p.msg, which raw holds, announces what it speaks of, and settles
// done bytes.
func (p *parser) message(c *alg.Context, raw []byte, done int) alg.Edit {
	m := &p.msg
	e := alg.Edit{Done: done}
	p.edits, p.text = p.edits[:0], p.text[:0]
	if m.request() {
		p.uris(c, raw, m.uri, nil)
	}
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
	call := p.hash(m.first(callID))
	if p.ends(c, call) {
		return p.settle(e)
	}
	if body, ok := m.description(); ok && !p.describe(c, raw, body, call) {
		e.Unread = 1
	}
	if m.is("INVITE") && 200 <= m.code && m.code < 300 {
		p.answered(call)
	}
	return p.settle(e)
}

// settle gives e the replacements, in order. A message that would need more than anybody
// has reason to write stays as it is.
func (p *parser) settle(e alg.Edit) alg.Edit {
	if len(p.edits) == maxEdits {
		e.Unread = 1
		return e
	}
	slices.SortFunc(p.edits, func(a, b alg.Replacement) int { return a.From - b.From })
	e.Replace = p.edits
	return e
}

// transaction names that of p.msg.
func (p *parser) transaction(c *alg.Context) transaction {
	n, _ := number(p.msg.first(cseq))
	if p.msg.request() {
		return transaction{n, c.Dir}
	}
	return transaction{n, c.Dir.Other()}
}

// replace puts text, which ends p.text and begins at p.text[begin], in the place of s.
func (p *parser) replace(s span, begin int) {
	if len(p.edits) == maxEdits {
		p.text = p.text[:begin]
		return
	}
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
	element := value.from // where the next of those that commas separate may begin
	for at := value.from; at < value.to; {
		u, ok := nextURI(raw, at, value.to)
		if !ok {
			return
		}
		at = u.after
		begins := u.text.from >= element
		if begins {
			element = until(raw, span{at, value.to}, ',')
		}
		if u.addr.IsValid() {
			seen, known := netip.AddrPort{}, false
			if how != nil && begins {
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
		end := until(raw, span{at, value.to}, ',')
		hop := trim(raw, span{at, end})
		at = end + 1
		n := bytes.LastIndexByte(raw[hop.from:until(raw, hop, ';')], '/') // its parameters may have some, too
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
			if port, digits := number(v.of(raw)); digits > 0 && port == int(c.Peer().Port()) {
				p.port(v, c.Peer().Port(), c.PeerSelf().Port())
			}
		}
	}
}

// until returns where mark is in s, the end of s if it is not.
func until(raw []byte, s span, mark byte) int {
	if n := bytes.IndexByte(s.of(raw), mark); n >= 0 {
		return s.from + n
	}
	return s.to
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
			p.unbind(c, func(b *binding) bool { return b.to == to })
			return to, false
		}
	}
	seen, err := announceContact(c, to, life)
	if register && err == nil {
		p.bind(binding{by: p.transaction(c), dir: c.Dir, to: to, seen: seen, life: life})
	}
	return seen, err == nil
}

// announceContact says that calls may come to a contact of c.Dir's for a time.
func announceContact(c *alg.Context, to netip.AddrPort, life time.Duration) (netip.AddrPort, error) {
	e := alg.Expectation{Class: classSignalling, Proto: c.Tuple[tuple.Original].Proto, To: to, Permanent: true, Timeout: life, Child: "sip"}
	if c.Options.AnySignalling {
		e.From = alg.Anybody(to.Addr())
	}
	return c.Announce(e)
}

// bind notes a registration that is asked for, or again.
func (p *parser) bind(b binding) {
	for i := range p.contacts {
		if old := &p.contacts[i]; old.to == b.to && old.dir == b.dir {
			old.seen, old.life = b.seen, b.life
			if !old.granted {
				old.by = b.by
			}
			return
		}
	}
	p.contacts[p.nextContact] = b
	p.nextContact = (p.nextContact + 1) % maxContacts
}

// unbind ends the registrations that match.
func (p *parser) unbind(c *alg.Context, match func(*binding) bool) {
	for i := range p.contacts {
		if b := &p.contacts[i]; b.to.IsValid() && match(b) {
			as := *c
			as.Dir = b.dir
			as.Withdraw(classSignalling, b.to)
			*b = binding{}
		}
	}
}

// granted makes a registration last for as long as the registrar says.
func (p *parser) granted(c *alg.Context, contact netip.AddrPort, life time.Duration) {
	for i := range p.contacts {
		b := &p.contacts[i]
		if b.to.IsValid() && b.dir != c.Dir && (b.seen == contact || b.to == contact) {
			b.granted = true
			if life > 0 && life != b.life {
				as := *c
				as.Dir = b.dir
				if _, err := announceContact(&as, b.to, life); err == nil {
					b.life = life
				}
			}
		}
	}
}

// expires returns how long a binding is to last: by the parameter of its Contact, or
// the header Expires (RFC 3261 section 10.2.1.1).
func (p *parser) expires(raw []byte, u *uri, value span) time.Duration {
	v := p.msg.first(expires)
	end := until(raw, span{u.after, value.to}, ',')
	if s, ok := param(raw, span{u.text.to, end}, "expires"); ok {
		v = s.of(raw)
	}
	seconds, digits := number(v)
	if digits == 0 {
		return registration
	}
	return min(time.Duration(seconds)*time.Second, longestExpiry)
}

// registered follows a registration: it lasts for as long as the registrar says, and the
// flow with it. One that he refuses has not begun.
func (p *parser) registered(c *alg.Context) {
	m := &p.msg
	switch {
	case !m.is("REGISTER"), m.request() && c.Dir == tuple.Reply, m.code > 0 && m.code < 200, challenges(m.code):
		return
	case m.code >= 300:
		by := p.transaction(c)
		p.unbind(c, func(b *binding) bool { return !b.granted && b.by == by })
		return
	}
	life := time.Duration(0)
	for _, h := range m.headers {
		if h.kind != contact {
			continue
		}
		v := h.span
		if m.request() && string(v.of(m.raw)) == "*" { // RFC 3261 section 10.2.2
			p.unbind(c, func(b *binding) bool { return b.dir == c.Dir })
		}
		for at := v.from; at < v.to; {
			u, ok := nextURI(m.raw, at, v.to)
			if !ok {
				break
			}
			at = until(m.raw, span{u.after, v.to}, ',') // the rest are its parameters
			lasts := p.expires(m.raw, &u, v)
			if !m.request() {
				p.granted(c, u.effective(u.def), lasts)
			}
			life = max(life, lasts)
		}
	}
	if life > 0 {
		c.Keep(life)
	}
}

// challenges reports whether a request comes again at once, with credentials.
func challenges(code int) bool { return code == 401 || code == 407 }

// ends ends what a message takes back, and reports whether there is such: BYE all of the
// dialog, CANCEL and a final refusal what their request and its answers announced. A
// call goes on as it was when a later request is refused (RFC 3261 section 14.1).
func (p *parser) ends(c *alg.Context, call uint64) bool {
	m, by := &p.msg, p.transaction(c)
	switch {
	case m.request() && m.is("BYE"):
		p.hangUp(c, call)
	case m.request() && m.is("CANCEL"), m.code >= 300 && !challenges(m.code) && (m.is("INVITE") || m.is("UPDATE") || m.is("PRACK")):
		p.forget(c, func(k *medium) bool { return k.call == call && k.by == by })
	default:
		return false
	}
	return true
}

// tags returns the tags of who sends p.msg and of who gets it, 0 for none.
func (p *parser) tags() (own, other uint64) {
	own, other = p.tag(from), p.tag(to)
	if !p.msg.request() {
		own, other = other, own
	}
	return own, other
}

// tag returns the tag in a header of p.msg, which follows its URI.
func (p *parser) tag(k headerKind) uint64 {
	v := p.msg.first(k)
	at, ok := param(v, span{bytes.LastIndexByte(v, '>') + 1, len(v)}, "tag")
	if !ok {
		return 0
	}
	return p.hash(at.of(v))
}

// answered notes that the sender of p.msg has answered a call.
func (p *parser) answered(call uint64) {
	own, _ := p.tags()
	for i := range p.calls {
		if k := &p.calls[i]; k.call == call && k.tag == own {
			k.answered = true
		}
	}
}

// hangUp ends the media of a dialog. When a call was forked and another phone has answered
// it as well, only those of the phone that the dialog was with: the other side's are those
// of both dialogs (RFC 3261 section 13.2.2.4).
func (p *parser) hangUp(c *alg.Context, call uint64) {
	own, other := p.tags()
	of := func(k *medium) bool { return k.tag == own || k.tag == other }
	lives := func(k medium) bool { return k.call == call && k.answered && !of(&k) }
	i := slices.IndexFunc(p.calls[:], lives)
	if i < 0 || own == 0 || other == 0 {
		p.forget(c, func(k *medium) bool { return k.call == call })
		return
	}
	side := p.calls[i].dir
	p.forget(c, func(k *medium) bool { return k.call == call && k.dir == side && of(k) })
}

// find returns the medium of a call with a socket, nil if it has announced none.
func (p *parser) find(call uint64, s mediumSocket) *medium {
	for i := range p.calls {
		if k := &p.calls[i]; k.call == call && k.mediumSocket == s {
			return k
		}
	}
	return nil
}

// known returns the external port of a socket that the call has announced, 0 if it has
// not.
func (p *parser) known(call uint64, s mediumSocket) uint16 {
	if k := p.find(call, s); k != nil {
		return k.seen
	}
	return 0
}

// remember notes that a call has announced a socket, and reports whether that is new.
func (p *parser) remember(m medium) bool {
	if k := p.find(m.call, m.mediumSocket); k != nil {
		k.seen, k.tag = m.seen, m.tag
		return false
	}
	p.calls[p.next] = m
	p.next = (p.next + 1) % maxSockets
	return true
}

// forget ends the media that match.
func (p *parser) forget(c *alg.Context, match func(*medium) bool) {
	for i := range p.calls {
		if k := &p.calls[i]; k.to.IsValid() && match(k) {
			as := *c
			as.Dir = k.dir // in whose words it was announced
			as.Withdraw(k.class, k.to)
			*k = medium{}
		}
	}
}
