package ftp

import (
	"bytes"
	"net/netip"
	"strconv"

	"example.com/culvert/alg"
)

// socket is an address and port in a line.
type socket struct {
	to         netip.AddrPort
	first, end int // line[first:end] is its text, or the port alone of style229
	style      style
	delim      byte // of styleEPRT
}

// style is how an address is written.
type style uint8

const (
	stylePORT style = iota // h1,h2,h3,h4,p1,p2 (RFC 959 section 4.1.2)
	styleEPRT              // |2|address|port| (RFC 2428 section 2)
	style229               // port (RFC 2428 section 3)
)

// appendAs appends seen in the style of s.
func (s *socket) appendAs(b []byte, seen netip.AddrPort) []byte {
	switch s.style {
	case stylePORT:
		for _, h := range seen.Addr().AsSlice() {
			b = append(strconv.AppendUint(b, uint64(h), 10), ',')
		}
		b = append(strconv.AppendUint(b, uint64(seen.Port()>>8), 10), ',')
		return strconv.AppendUint(b, uint64(seen.Port()&0xff), 10)
	case styleEPRT:
		b = append(b, s.delim, familyOf(seen.Addr()), s.delim)
		b = append(seen.Addr().AppendTo(b), s.delim)
		b = strconv.AppendUint(b, uint64(seen.Port()), 10)
		return append(b, s.delim)
	default:
		return strconv.AppendUint(b, uint64(seen.Port()), 10)
	}
}

// familyOf is the address family number of RFC 2428.
func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return '1'
	}
	return '2'
}

// finder looks for a socket in a line. The address has the family of the flow.
type finder func(line []byte, c *alg.Context) (socket, bool)

// argument returns where the argument of a command of four letters begins.
func argument(line []byte) int {
	at := len("PORT")
	for at < len(line) && line[at] == ' ' {
		at++
	}
	return at
}

// findPort reads PORT: nothing but spaces may be around the six numbers.
func findPort(line []byte, c *alg.Context) (socket, bool) {
	at := argument(line)
	s, ok := sixNumbers(line, at, c)
	return s, ok && len(bytes.TrimRight(line[s.end:], " ")) == 0
}

// find227 reads the first six numbers in the text of a reply: servers do not agree on
// what is around them (RFC 1123 section 4.1.2.6).
func find227(line []byte, c *alg.Context) (socket, bool) {
	for i := 4; i < len(line); i++ {
		if !isDigit(line[i]) || isDigit(line[i-1]) || line[i-1] == ',' {
			continue
		}
		if s, ok := sixNumbers(line, i, c); ok {
			return s, true
		}
	}
	return socket{}, false
}

// sixNumbers reads h1,h2,h3,h4,p1,p2 at line[at:].
func sixNumbers(line []byte, at int, c *alg.Context) (socket, bool) {
	var v [6]byte
	s := socket{first: at, end: at}
	for i := range v {
		if i > 0 {
			if s.end == len(line) || line[s.end] != ',' {
				return s, false
			}
			s.end++
		}
		x, n := alg.Number(line[s.end:], 3)
		if n == 0 || x > 255 {
			return s, false
		}
		v[i], s.end = byte(x), s.end+n
	}
	if s.end < len(line) && (isDigit(line[s.end]) || line[s.end] == ',') {
		return s, false
	}
	s.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(v[:4])), uint16(v[4])<<8|uint16(v[5]))
	return s, c.Self().Addr().Is4()
}

// findEPRT reads EPRT.
func findEPRT(line []byte, c *alg.Context) (socket, bool) {
	at := argument(line)
	if at == len(line) || !isDelim(line[at]) {
		return socket{}, false
	}
	s := socket{style: styleEPRT, delim: line[at], first: at}
	f := bytes.SplitN(line[at+1:], line[at:at+1], 4)
	if len(f) != 4 || len(f[0]) != 1 || len(bytes.TrimRight(f[3], " ")) != 0 {
		return s, false
	}
	addr, err := netip.ParseAddr(string(f[1]))
	port, n := alg.Number(f[2], 5)
	if err != nil || addr.Zone() != "" || addr.Is4In6() || n == 0 || n != len(f[2]) || port > 0xffff || familyOf(addr) != f[0][0] {
		return s, false
	}
	s.to, s.end = netip.AddrPortFrom(addr, uint16(port)), len(line)-len(f[3])
	return s, addr.Is4() == c.Self().Addr().Is4()
}

// find229 reads the port in parentheses; the address is the server's own.
func find229(line []byte, c *alg.Context) (socket, bool) {
	open := bytes.IndexByte(line, '(')
	if open < 0 || len(line) < open+4 || !isDelim(line[open+1]) {
		return socket{}, false
	}
	d := line[open+1]
	s := socket{style: style229, first: open + 4}
	port, n := alg.Number(line[s.first:], 5)
	s.end = s.first + n
	if line[open+2] != d || line[open+3] != d || n == 0 || port > 0xffff || !bytes.HasPrefix(line[s.end:], []byte{d, ')'}) {
		return s, false
	}
	s.to = netip.AddrPortFrom(c.Self().Addr(), uint16(port))
	return s, true
}

// isDelim reports whether b may delimit the fields of RFC 2428 (section 2: ASCII 33 to
// 126). A digit would be part of them.
func isDelim(b byte) bool { return 33 <= b && b <= 126 && !isDigit(b) }

func isDigit(b byte) bool { return '0' <= b && b <= '9' }
