package sip

import (
	"bytes"
	"net/netip"
	"strconv"
)

// socket is a host and perhaps a port in a text.
type socket struct {
	addr netip.Addr
	port uint16 // 0: none is written
	text span   // of both
}

// Default ports of RFC 3261 section 19.1.2.
const (
	defaultPort       = 5060
	defaultSecurePort = 5061
)

// readSocket reads host [":" port] at raw[at:end]. It reports false for names: only
// addresses are anybody's here.
func readSocket(raw []byte, at, end int) (socket, bool) {
	s := socket{text: span{at, at}}
	stop := at
	if at < end && raw[at] == '[' {
		n := bytes.IndexByte(raw[at:end], ']')
		if n < 0 {
			return s, false
		}
		stop = at + n + 1
		a, err := netip.ParseAddr(string(raw[at+1 : stop-1]))
		if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return s, false
		}
		s.addr = a
	} else {
		for stop < end && (raw[stop] == '.' || '0' <= raw[stop] && raw[stop] <= '9') {
			stop++
		}
		a, err := netip.ParseAddr(string(raw[at:stop]))
		if err != nil || !a.Is4() || stop < end && isNameByte(raw[stop]) {
			return s, false
		}
		s.addr = a
	}
	if stop < end && raw[stop] == ':' {
		port, digits := number(raw[stop+1 : end])
		if digits == 0 || port == 0 || port > 0xffff {
			return s, false
		}
		s.port, stop = uint16(port), stop+1+digits
	}
	s.text.to = stop
	return s, true
}

// isNameByte reports whether b would make an address part of a longer name.
func isNameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || b == '-' || b == '_'
}

// effective is the socket that s means when def is the default port.
func (s *socket) effective(def uint16) netip.AddrPort {
	if s.port != 0 {
		def = s.port
	}
	return netip.AddrPortFrom(s.addr, def)
}

// appendAs writes ap in the style of s: without a port if s has none and it is the
// default.
func (s *socket) appendAs(b []byte, ap netip.AddrPort, def uint16) []byte {
	if ap.Addr().Is6() {
		b = append(ap.Addr().AppendTo(append(b, '[')), ']')
	} else {
		b = ap.Addr().AppendTo(b)
	}
	if s.port == 0 && ap.Port() == def {
		return b
	}
	return strconv.AppendUint(append(b, ':'), uint64(ap.Port()), 10)
}

// uri is a SIP URI in a text.
type uri struct {
	socket
	def    uint16 // default port of the scheme
	params span   // what follows the host, up to the end of the URI
	after  int    // where the text goes on behind it
}

// nextURI finds the first SIP URI in raw[at:end] that is not in a quoted string. It
// reports false when there is none. One whose host is a name has no address.
func nextURI(raw []byte, at, end int) (uri, bool) {
	quoted := false
	for ; at < end; at++ {
		switch b := raw[at]; {
		case b == '\\' && quoted:
			at++
			continue
		case b == '"':
			quoted = !quoted
			continue
		case quoted || b != 's' && b != 'S':
			continue
		}
		u := uri{def: defaultPort}
		host := 0
		switch {
		case hasPrefixFold(raw[at:end], "sip:"):
			host = at + len("sip:")
		case hasPrefixFold(raw[at:end], "sips:"):
			host, u.def = at+len("sips:"), defaultSecurePort
		default:
			continue
		}
		stop := host
		for stop < end && raw[stop] != '>' && raw[stop] != '"' && !isSpace(raw[stop]) {
			stop++
		}
		if i := bytes.IndexByte(raw[host:stop], '@'); i >= 0 {
			host += i + 1
		}
		s, ok := readSocket(raw, host, stop)
		if !ok {
			s = socket{text: span{host, host}}
		}
		u.socket, u.params, u.after = s, span{s.text.to, stop}, stop
		return u, true
	}
	return uri{}, false
}

func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && bytes.EqualFold(b[:len(prefix)], []byte(prefix))
}

// param finds the value of ;name= in raw[in.from:in.to]. It ends at the next separator.
func param(raw []byte, in span, name string) (span, bool) {
	for at := in.from; at < in.to; at++ {
		if raw[at] != ';' {
			continue
		}
		p := unspaced(raw, span{at + 1, in.to})
		if !hasPrefixFold(raw[p.from:p.to], name) {
			continue
		}
		p.from += len(name)
		p = unspaced(raw, p)
		if p.from == p.to || raw[p.from] != '=' {
			continue
		}
		p.from++
		p = unspaced(raw, p)
		stop := p.from
		for stop < p.to && bytes.IndexByte([]byte(";,>? \t\r\n"), raw[stop]) < 0 {
			stop++
		}
		return span{p.from, stop}, stop > p.from
	}
	return span{}, false
}
