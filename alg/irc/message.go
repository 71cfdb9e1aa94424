package irc

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"

	"example.com/culvert/alg"
)

// message is a line: [@tags] [:prefix] command parameters (RFC 2812 section 2.3.1).
type message struct {
	command string // in capitals
	text    int    // where the text of PRIVMSG or NOTICE begins, 0: none
}

// registrations are the commands that a client begins with (RFC 2812 section 3.1, IRCv3).
var registrations = map[string]bool{
	"PASS": true, "NICK": true, "USER": true, "SERVICE": true, "CAP": true, "WEBIRC": true, "STARTTLS": true,
}

func (m *message) registers() bool { return registrations[m.command] }

// start steps over tags and prefix of a line and over the spaces after them. It
// reports false when they have no end.
func start(line []byte) (at int, ok bool) {
	for _, mark := range []byte{'@', ':'} {
		if at == len(line) || line[at] != mark {
			continue
		}
		n := bytes.IndexByte(line[at:], ' ')
		if n < 0 {
			return at, false
		}
		at += n
		for at < len(line) && line[at] == ' ' {
			at++
		}
	}
	return at, true
}

// parse reads a line. It reports false for what is no message of IRC.
func parse(line []byte) (message, bool) {
	at, ok := start(line)
	if !ok {
		return message{}, false
	}
	word, rest, _ := bytes.Cut(line[at:], space)
	if len(word) == 0 || len(word) > 16 {
		return message{}, false
	}
	for _, b := range word {
		if !('A' <= b && b <= 'Z' || 'a' <= b && b <= 'z' || '0' <= b && b <= '9') {
			return message{}, false
		}
	}
	m := message{command: string(bytes.ToUpper(word))}
	if m.command == "PRIVMSG" || m.command == "NOTICE" {
		target, text, ok := bytes.Cut(rest, space)
		if ok && len(target) > 0 {
			text = bytes.TrimPrefix(text, colon)
			m.text = len(line) - len(text)
		}
	}
	return m, true
}

var (
	space = []byte{' '}
	colon = []byte{':'}
)

const opening = "\x01DCC "

// mayBeDCC reports whether an open line may become a message of ours.
func mayBeDCC(line []byte) bool {
	at, ok := start(line)
	if !ok {
		return true
	}
	line = line[at:]
	verb := ""
	switch {
	case alg.HasVerb(line, "PRIVMSG "):
		verb = "PRIVMSG "
	case alg.HasVerb(line, "NOTICE "):
		verb = "NOTICE "
	default:
		return false
	}
	if len(line) <= len(verb) {
		return true
	}
	_, text, ok := bytes.Cut(line[len(verb):], space)
	return !ok || alg.HasVerb(bytes.TrimPrefix(text, colon), opening)
}

// dcc is a direct connection that a message is about.
type dcc struct {
	offers    bool           // it tells where to connect to; else it names a port alone
	to        netip.AddrPort // without address if it is a port alone
	from, end int            // where in the line address and port are
}

// kinds of DCC messages: whether they offer, and of what.
var dccKinds = map[string]bool{
	"SEND": true, "TSEND": true, "CHAT": true, "SCHAT": true, "MOVE": true,
	"RESUME": false, "ACCEPT": false,
}

// reading says what a message has of a direct connection.
type reading uint8

const (
	noDCC     reading = iota // nothing, or of a kind or a way that needs no help
	someDCC                  // one
	brokenDCC                // its address or port makes no sense
)

// parseDCC reads what is between the two control bytes of a message whose text begins
// at line[at:].
func parseDCC(line []byte, at int) (dcc, reading) {
	if at == 0 || len(line)-at < len(opening)+1 || line[len(line)-1] != 1 || !alg.HasVerb(line[at:], opening) {
		return dcc{}, noDCC
	}
	f := fields{line[:len(line)-1], at + len(opening)}
	from, end := f.next()
	offers, ours := dccKinds[string(bytes.ToUpper(line[from:end]))]
	if !ours {
		return dcc{}, noDCC
	}
	f.next() // of which file, or "chat"
	d := dcc{offers: offers}
	addr, ok := netip.Addr{}, true
	d.from, d.end = f.next()
	if offers {
		addr, ok = parseAddr(line[d.from:d.end])
		from, end = f.next()
	} else {
		from, end = d.from, d.end
	}
	port, err := strconv.ParseUint(string(line[from:end]), 10, 16)
	switch {
	case !ok || err != nil:
		return d, brokenDCC
	case port == 0: // the other side is to listen
		return d, noDCC
	}
	d.to, d.end = netip.AddrPortFrom(addr, uint16(port)), end
	return d, someDCC
}

// fields walks over words that single spaces separate; one in quotes may contain some.
type fields struct {
	line []byte
	at   int
}

// next returns where the next word is; it is empty after the last one.
func (f *fields) next() (from, end int) {
	from, end = f.at, f.at
	if from < len(f.line) && f.line[from] == '"' {
		if n := bytes.IndexByte(f.line[from+1:], '"'); n >= 0 {
			end = from + n + 2
		}
	}
	for end < len(f.line) && f.line[end] != ' ' {
		end++
	}
	f.at = min(end+1, len(f.line))
	return from, end
}

// parseAddr reads an address as a decimal number or as IPv6 text.
func parseAddr(b []byte) (netip.Addr, bool) {
	if bytes.IndexByte(b, ':') >= 0 {
		a, err := netip.ParseAddr(string(b))
		return a, err == nil && a.Zone() == "" && !a.Is4In6()
	}
	n, err := strconv.ParseUint(string(b), 10, 32)
	if err != nil || n == 0 {
		return netip.Addr{}, false
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(n))
	return netip.AddrFrom4(a), true
}

// appendSocket writes an address and port as offers do.
func appendSocket(b []byte, s netip.AddrPort) []byte {
	if s.Addr().Is4() {
		a := s.Addr().As4()
		b = strconv.AppendUint(b, uint64(binary.BigEndian.Uint32(a[:])), 10)
	} else {
		b = s.Addr().AppendTo(b)
	}
	return appendPort(append(b, ' '), s.Port())
}

func appendPort(b []byte, port uint16) []byte { return strconv.AppendUint(b, uint64(port), 10) }
