package sip

import (
	"bytes"
	"iter"
	"net/netip"
	"slices"
	"strconv"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// description is a session description (RFC 8866) while it is rewritten.
type description struct {
	session netip.Addr // of the session-level c=
	media   [maxMedia / 2]mediaDesc
	n       int
}

// mediaDesc is a medium of a description.
type mediaDesc struct {
	class uint8
	addr  netip.Addr // where it is to be received
	port  uint16
	rtcp  uint16 // its companion, 0: none
	own   bool   // it has a c= of its own
	seen  netip.AddrPort
	peer  uint16 // seen port of rtcp
}

// describe announces the media of the sender and rewrites the description in
// raw[in.from:in.to]. One that cannot be announced whole stays as it is. It reports
// false if it cannot be read.
func (p *parser) describe(c *alg.Context, raw []byte, in span, call uint64) bool {
	d := &p.desc
	*d = description{}
	if !d.read(raw, in) {
		return false
	}
	if !p.announce(c, call) {
		return true
	}
	before := len(p.edits)
	p.rewrite(c, raw, in)
	grown := 0
	for _, e := range p.edits[before:] {
		grown += len(e.Text) - (e.To - e.From)
	}
	if grown != 0 && p.msg.length.to > 0 {
		begin := len(p.text)
		p.text = strconv.AppendInt(p.text, int64(p.msg.body.to-p.msg.body.from+grown), 10)
		p.replace(p.msg.length, begin)
	}
	return true
}

// sdpLines yields the lines of the description in raw[in.from:in.to]: the type of each
// and its value. What has no type is left out.
func sdpLines(raw []byte, in span) iter.Seq2[byte, words] {
	return func(yield func(byte, words) bool) {
		for at := in.from; at < in.to; {
			line, n, _ := alg.Line(raw[at:in.to], in.to-at+1) // no line is too long
			if len(line) >= 2 && line[1] == '=' && !yield(line[0], words{raw, at + 2, at + len(line)}) {
				return
			}
			at += n
		}
	}
}

// words splits a line into its words.
type words struct {
	raw     []byte
	at, end int
}

func (w *words) next() span {
	for w.at < w.end && w.raw[w.at] == ' ' {
		w.at++
	}
	s := span{w.at, w.at}
	for s.to < w.end && w.raw[s.to] != ' ' {
		s.to++
	}
	w.at = s.to
	return s
}

// rest is what was not read yet.
func (w *words) rest() []byte { return w.raw[w.at:w.end] }

// skip steps over n words.
func (w *words) skip(n int) {
	for range n {
		w.next()
	}
}

// address reads "IN IP4 address" or "IN IP6 address".
func (w *words) address() (netip.Addr, span, bool) {
	if string(w.next().of(w.raw)) != "IN" {
		return netip.Addr{}, span{}, false
	}
	kind, text := w.next(), w.next()
	a, err := netip.ParseAddr(string(text.of(w.raw)))
	if err != nil || a.Zone() != "" || a.Is4() != (string(kind.of(w.raw)) == "IP4") {
		return netip.Addr{}, span{}, false
	}
	return a, text, true
}

// port reads a port.
func (w *words) port() (uint16, span, bool) {
	s := w.next()
	port, digits := number(s.of(w.raw))
	return uint16(port), span{s.from, s.from + digits}, digits > 0 && port <= 0xffff
}

// read collects the media of the description in raw[in.from:in.to].
func (d *description) read(raw []byte, in span) bool {
	if !bytes.HasPrefix(in.of(raw), []byte("v=0")) {
		return false
	}
	var m *mediaDesc
	for kind, w := range sdpLines(raw, in) {
		switch kind {
		case 'c':
			a, _, ok := w.address()
			if !ok {
				return false
			}
			if m == nil {
				d.session = a
			} else {
				m.addr, m.own = a, true
			}
		case 'm':
			if d.n == len(d.media) {
				return false
			}
			m = &d.media[d.n]
			d.n++
			if !m.read(w) {
				return false
			}
			m.addr = d.session
		case 'a':
			if m != nil && m.rtcp != 0 && bytes.HasPrefix(w.rest(), []byte("rtcp:")) {
				w.at += len("rtcp:")
				port, _, ok := w.port() // RFC 3605
				if !ok || port == 0 {
					return false
				}
				m.rtcp = port
			}
		}
	}
	return true
}

// read reads "audio 49170/2 RTP/AVP 0". A medium that is not over UDP has no port here.
func (m *mediaDesc) read(w words) bool {
	switch string(w.next().of(w.raw)) {
	case "audio":
		m.class = classAudio
	case "video":
		m.class = classVideo
	case "image":
		m.class = classImage
	default:
		m.class = classData
	}
	port, _, ok := w.port()
	if !ok {
		return false
	}
	switch proto := w.next().of(w.raw); {
	case bytes.Contains(proto, []byte("TCP")) || bytes.Contains(proto, []byte("tcp")):
	case bytes.Contains(proto, []byte("RTP/")):
		if m.port = port; port != 0 && port < 0xffff {
			m.rtcp = port + 1 // RFC 3550 section 11
		}
	case bytes.EqualFold(proto, []byte("udptl")), bytes.HasPrefix(proto, []byte("UDP")), bytes.EqualFold(proto, []byte("udp")):
		m.port = port
	}
	return true
}

// announce announces all media of the sender. When one is refused it takes the others
// back, and reports false.
func (p *parser) announce(c *alg.Context, call uint64) bool {
	d, by := &p.desc, p.transaction(c)
	tag, _ := p.tags()
	var fresh [maxMedia]mediumSocket
	made := 0
	for i := range d.media[:d.n] {
		m := &d.media[i]
		to := netip.AddrPortFrom(m.addr, m.port)
		m.seen, m.peer = to, m.rtcp
		if m.port == 0 || !m.addr.IsValid() || m.addr.IsUnspecified() {
			continue // refused, or held (RFC 3264 sections 6 and 8.4)
		}
		if m.addr != c.Self().Addr() && !c.Options.Foreign {
			if seen, ok := c.SeenAs(tuple.UDP, to); ok { // a phone behind the same gateway
				m.seen = seen
				if m.rtcp != 0 {
					m.peer = seen.Port() + (m.rtcp - m.port)
				}
			}
			continue
		}
		var group [2]alg.Expectation
		group[0] = alg.Expectation{Class: m.class, Proto: tuple.UDP, To: to, Seen: p.known(call, mediumSocket{c.Dir, m.class, to})}
		if c.Options.AnyMedia {
			group[0].From = alg.Anybody(m.addr)
		}
		n := 1
		if m.rtcp != 0 && m.rtcp != m.port { // one port for both: RFC 5761 section 5.1.1
			group[1] = group[0]
			group[1].To, group[1].Seen = netip.AddrPortFrom(m.addr, m.rtcp), 0
			n = 2
		}
		seen, err := c.Announce(group[:n]...)
		if err != nil {
			p.forget(c, func(k *medium) bool { return k.call == call && slices.Contains(fresh[:made], k.mediumSocket) })
			return false
		}
		m.seen = seen
		m.peer = seen.Port() + (m.rtcp - m.port)
		for _, e := range group[:n] {
			s := mediumSocket{c.Dir, m.class, e.To}
			if p.remember(medium{call: call, by: by, mediumSocket: s, seen: seen.Port() + (e.To.Port() - to.Port()), tag: tag}) {
				fresh[made] = s
				made++
			}
		}
	}
	return true
}

// outside returns the address that a session-level c= becomes: that of the first medium
// that uses it, else the sender's.
func (d *description) outside(c *alg.Context) netip.Addr {
	for i := range d.media[:d.n] {
		if m := &d.media[i]; !m.own && m.port != 0 && m.seen.IsValid() {
			return m.seen.Addr()
		}
	}
	a, _ := oursAddr(c, d.session)
	return a
}

// origin returns what the address of o= becomes: what the same address becomes
// elsewhere in the description, else what the receiver calls it.
func (d *description) origin(c *alg.Context, a netip.Addr) netip.Addr {
	for i := range d.media[:d.n] {
		if m := &d.media[i]; m.addr == a && m.port != 0 && m.seen.IsValid() {
			return m.seen.Addr()
		}
	}
	seen, _ := oursAddr(c, a)
	return seen
}

// rewrite writes the description in raw[in.from:in.to] as the receiver has to see it.
func (p *parser) rewrite(c *alg.Context, raw []byte, in span) {
	d := &p.desc
	session := d.outside(c)
	var m *mediaDesc
	n := 0
	for kind, w := range sdpLines(raw, in) {
		switch kind {
		case 'o':
			w.skip(3)
			if a, text, ok := w.address(); ok {
				p.address(text, a, d.origin(c, a))
			}
		case 'c':
			a, text, ok := w.address()
			switch {
			case !ok:
			case m == nil:
				p.address(text, a, session)
			case m.port != 0:
				p.address(text, a, m.seen.Addr())
			default:
				seen, _ := oursAddr(c, a)
				p.address(text, a, seen)
			}
		case 'm':
			m = &d.media[n]
			n++
			w.skip(1)
			if _, text, ok := w.port(); ok && m.port != 0 {
				p.port(text, m.port, m.seen.Port())
			}
			if m.port != 0 && !m.own && m.seen.Addr() != session {
				p.ownAddress(w.end, m.seen.Addr())
			}
		case 'a':
			p.attribute(m, w)
		}
	}
}

// ownAddress gives a medium that ends at raw[at] a c= of its own.
func (p *parser) ownAddress(at int, a netip.Addr) {
	begin := len(p.text)
	p.text = append(p.text, "\r\nc=IN IP4 "...)
	if a.Is6() {
		p.text[len(p.text)-2] = '6'
	}
	p.text = a.AppendTo(p.text)
	p.replace(span{at, at}, begin)
}

// attribute rewrites a=rtcp (RFC 3605) and the candidates of ICE (RFC 8839 section 5.1)
// that are media of the description.
func (p *parser) attribute(m *mediaDesc, w words) {
	attr := w.rest()
	switch {
	case m == nil || m.port == 0:
	case bytes.HasPrefix(attr, []byte("rtcp:")):
		w.at += len("rtcp:")
		if port, text, ok := w.port(); ok && port == m.rtcp {
			p.port(text, port, m.peer)
			if a, text, ok := w.address(); ok && a == m.addr {
				p.address(text, a, m.seen.Addr())
			}
		}
	case bytes.HasPrefix(attr, []byte("candidate:")):
		w.skip(4) // foundation, component, transport, priority
		addr := w.next()
		port, text, ok := w.port()
		if a, err := netip.ParseAddr(string(addr.of(w.raw))); !ok || err != nil || a != m.addr {
			return
		}
		switch port {
		case m.port:
			p.address(addr, m.addr, m.seen.Addr())
			p.port(text, port, m.seen.Port())
		case m.rtcp:
			p.address(addr, m.addr, m.seen.Addr())
			p.port(text, port, m.peer)
		}
	}
}

// address puts seen in the place of an address.
func (p *parser) address(at span, was, seen netip.Addr) {
	if was == seen || was.IsUnspecified() {
		return
	}
	begin := len(p.text)
	p.text = seen.AppendTo(p.text)
	p.replace(at, begin)
}

// port puts seen in the place of a port.
func (p *parser) port(at span, was, seen uint16) {
	if was == seen {
		return
	}
	begin := len(p.text)
	p.text = strconv.AppendUint(p.text, uint64(seen), 10)
	p.replace(at, begin)
}
