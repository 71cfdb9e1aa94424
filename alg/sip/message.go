package sip

import (
	"bytes"

	"example.com/culvert/alg"
)

// span is a part of a message: raw[from:to].
type span struct{ from, to int }

func (s span) of(raw []byte) []byte { return raw[s.from:s.to] }

// headerKind is a header that matters here.
type headerKind uint8

const (
	otherHeader headerKind = iota
	via
	from
	to
	contact
	route
	callID
	cseq
	expires
	contentLength
	contentType
	contentEncoding
)

// headerNames has the names in lower case, compact forms too (RFC 3261 section 7.3.3).
var headerNames = map[string]headerKind{
	"via": via, "v": via, "from": from, "f": from, "to": to, "t": to, "contact": contact, "m": contact,
	"route": route, "record-route": route, "path": route, "service-route": route,
	"refer-to": route, "r": route, "referred-by": route, "b": route,
	"call-id": callID, "i": callID, "cseq": cseq, "expires": expires,
	"content-length": contentLength, "l": contentLength, "content-type": contentType, "c": contentType,
	"content-encoding": contentEncoding, "e": contentEncoding,
}

const longestName = len("content-encoding")

// header is the value of a header, folded lines included.
type header struct {
	kind headerKind
	span
}

// message is a SIP message.
type message struct {
	raw     []byte
	method  []byte // of a response: of the request that it answers
	code    int    // of a response, 0 for a request
	uri     span   // of a request
	headers []header
	length  span // of Content-Length, the digits
	body    span
}

func (m *message) request() bool { return m.code == 0 }

// is reports whether m is about a method.
func (m *message) is(method string) bool { return string(m.method) == method }

// first returns the value of the first header of a kind, nil if there is none.
func (m *message) first(k headerKind) []byte {
	for i := range m.headers {
		if m.headers[i].kind == k {
			return m.headers[i].of(m.raw)
		}
	}
	return nil
}

// reading says how far the reading of a message got.
type reading uint8

const (
	whole  reading = iota
	short          // more bytes are needed
	notSIP         // this is no message
)

const maxHeaders = 128

var (
	crlf    = []byte("\r\n")
	version = []byte("SIP/2.0")
)

// read reads the message that b begins with into m, whose headers it reuses, and
// returns its length. Of a short one m.body is known when its headers are whole. Without Content-Length the body reaches to the end of a datagram;
// a stream must have one (RFC 3261 section 18.3).
func (m *message) read(b []byte, stream bool) (n int, st reading) {
	*m = message{raw: b, headers: m.headers[:0]}
	line, rest, ok := bytes.Cut(b, crlf)
	if !ok {
		if mayStart(b) {
			return 0, short
		}
		return 0, notSIP
	}
	if bytes.IndexByte(line, '\n') >= 0 || !m.start(line) {
		return 0, notSIP
	}
	at := len(b) - len(rest)
	for {
		end, st := lineEnd(b, at)
		if st != whole {
			return 0, st
		}
		if end == at {
			at += len(crlf)
			break
		}
		if len(m.headers) == maxHeaders || !m.header(at, end) {
			return 0, notSIP
		}
		at = end + len(crlf)
	}
	m.body = span{at, len(b)}
	if m.length.to > 0 {
		size, digits := number(m.length.of(b))
		if digits != m.length.to-m.length.from || size > alg.MaxLimit {
			return 0, notSIP
		}
		if m.body.to = at + size; m.body.to > len(b) {
			return 0, short
		}
	} else if stream {
		return 0, notSIP
	}
	if !m.request() {
		m.method = cseqMethod(m.first(cseq))
	}
	return m.body.to, whole
}

// lineEnd returns where the header at b[at:] ends, before its CR LF; a line that begins
// with a space continues the one before. An empty line ends where it begins.
func lineEnd(b []byte, at int) (end int, st reading) {
	for end = at; ; {
		n := bytes.Index(b[end:], crlf)
		line := b[end:]
		if n >= 0 {
			line = line[:n]
		}
		if bytes.IndexByte(line, '\n') >= 0 {
			return 0, notSIP // lines end with both: what comes may never be whole
		}
		if n < 0 {
			return 0, short
		}
		end += n
		if end == at {
			return end, whole
		}
		next := end + len(crlf)
		if next == len(b) {
			return 0, short // the next line may continue this one
		}
		if b[next] != ' ' && b[next] != '\t' {
			return end, whole
		}
		end = next
	}
}

// mayStart reports whether b may become a start line: a method or the version, and no end
// of a line but CR LF, which b does not have.
func mayStart(b []byte) bool {
	if bytes.IndexByte(b, '\n') >= 0 {
		return false
	}
	if len(b) <= len(version) && bytes.HasPrefix(version, b) || bytes.HasPrefix(b, version) {
		return true
	}
	method, _, _ := bytes.Cut(b, space)
	return isMethod(method)
}

var space = []byte{' '}

// isMethod reports whether b is a method as they are written: capitals.
func isMethod(b []byte) bool {
	if len(b) == 0 || len(b) > 16 {
		return false
	}
	for _, x := range b {
		if x < 'A' || x > 'Z' {
			return false
		}
	}
	return true
}

// start reads the start line, which m.raw begins with.
func (m *message) start(line []byte) bool {
	first, rest, ok := bytes.Cut(line, space)
	if bytes.Equal(first, version) {
		code, digits := number(rest)
		m.code = code
		return digits == 3 && code >= 100 && code < 700
	}
	if !ok || !isMethod(first) {
		return false
	}
	uri, last, ok := bytes.Cut(rest, space)
	m.method = first
	m.uri = span{len(first) + 1, len(first) + 1 + len(uri)}
	scheme, _, colon := bytes.Cut(uri, []byte{':'})
	return ok && colon && len(scheme) > 0 && bytes.Equal(last, version)
}

// header reads the header in m.raw[at:end].
func (m *message) header(at, end int) bool {
	line := m.raw[at:end]
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return false
	}
	var lower [longestName]byte
	name := bytes.TrimRight(line[:colon], " \t")
	kind := otherHeader
	if len(name) <= len(lower) {
		for i, b := range name {
			if 'A' <= b && b <= 'Z' {
				b += 'a' - 'A'
			}
			lower[i] = b
		}
		kind = headerNames[string(lower[:len(name)])]
	}
	v := trim(m.raw, span{at + colon + 1, end})
	if kind == contentLength {
		if m.length.to > 0 {
			return false // two of them: somebody wants to be misunderstood
		}
		m.length = v
	}
	if kind != otherHeader {
		m.headers = append(m.headers, header{kind, v})
	}
	return true
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }

// unspaced takes the space before s away. Unlike trim it does not look at the other end.
func unspaced(raw []byte, s span) span {
	for s.from < s.to && isSpace(raw[s.from]) {
		s.from++
	}
	return s
}

// trim takes the space around s away.
func trim(raw []byte, s span) span {
	s = unspaced(raw, s)
	for s.from < s.to && isSpace(raw[s.to-1]) {
		s.to--
	}
	return s
}

// cseqMethod returns the method of a CSeq value.
func cseqMethod(v []byte) []byte {
	_, n := number(v)
	method := bytes.TrimSpace(v[n:])
	if !isMethod(method) {
		return nil
	}
	return method
}

// number reads the digits that b begins with, nine at most.
func number(b []byte) (x, digits int) { return alg.Number(b, 9) }

// description finds the session description in the body: all of it, or the part of a
// multipart body (RFC 5621 section 3.1). One that is compressed cannot be read.
func (m *message) description() (span, bool) {
	kind := m.first(contentType)
	switch {
	case m.body.from == m.body.to || m.first(contentEncoding) != nil:
		return span{}, false
	case isType(kind, "application/sdp"):
		return m.body, true
	case !hasPrefixFold(kind, "multipart/"):
		return span{}, false
	}
	b, ok := param(kind, span{0, len(kind)}, "boundary")
	if !ok {
		return span{}, false
	}
	fence := append([]byte("--"), bytes.Trim(b.of(kind), `"`)...)
	for at := m.body.from; ; {
		n := bytes.Index(m.raw[at:m.body.to], fence)
		if n < 0 {
			return span{}, false
		}
		at += n + len(fence)
		end := bytes.Index(m.raw[at:m.body.to], fence)
		if end < 0 {
			return span{}, false
		}
		part := span{at, at + end}
		head := bytes.Index(part.of(m.raw), []byte("\r\n\r\n"))
		if head < 0 {
			continue
		}
		for line := range bytes.SplitSeq(m.raw[at:at+head], crlf) {
			name, value, _ := bytes.Cut(line, []byte{':'})
			if bytes.EqualFold(bytes.TrimSpace(name), []byte("content-type")) && isType(bytes.TrimSpace(value), "application/sdp") {
				part.from += head + 2*len(crlf)
				part.to = max(part.from, part.to-len(crlf))
				return part, true
			}
		}
	}
}

// isType reports whether a Content-Type is of a media type, with or without parameters.
func isType(kind []byte, name string) bool {
	return hasPrefixFold(kind, name) && (len(kind) == len(name) || kind[len(name)] == ';' || isSpace(kind[len(name)]))
}
