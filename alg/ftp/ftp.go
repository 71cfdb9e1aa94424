package ftp

import (
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "ftp".
type Helper struct{}

const (
	maxLine = 8 << 10 // bytes, with its end: a command and a path (PATH_MAX), and more than that
)

// Spec implements alg.Helper. One data connection at a time, for five minutes: as
// netfilter.
func (Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: "ftp", Protos: []uint8{tuple.TCP}, Port: 21, Limit: maxLine,
		Classes: []alg.Class{{Name: "data", Max: 1, Timeout: 5 * time.Minute}},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return &parser{} }

// stage says how far a session has come.
type stage uint8

const (
	silent  stage = iota // nothing was said: the server has to greet
	greeted              // the client has to begin with a command
	open                 // commands and replies
)

// parser is a session.
type parser struct {
	Stage stage
	Multi int   // code of the reply of several lines that is being read, 0: none
	Asked queue // commands without a final reply
	All   scope
	text  []byte // of the replacement
}

// scope is what EPSV ALL leaves of the commands that announce.
type scope uint8

const (
	anyCommand scope = iota
	onlyEPSV
)

// Inspect implements alg.Parser. It settles one line at a time, so that a call has
// at most one announcement.
func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	if c.Gap {
		return leave
	}
	line, n, st := alg.Line(b, maxLine)
	switch st {
	case alg.LineOpen:
		return alg.Edit{Rest: p.rest(c.Dir, line)}
	case alg.LineLong:
		return unread
	}
	if c.Dir == tuple.Original {
		return p.command(c, line, n)
	}
	return p.reply(c, line, n)
}

var (
	leave  = alg.Edit{Rest: alg.Leave}
	unread = alg.Edit{Rest: alg.Leave, Unread: 1} // what was said is not FTP
)

// rest says what happens to the beginning of a line: it waits if it may become one
// that has to be written anew.
func (p *parser) rest(d tuple.Direction, line []byte) alg.Rest {
	if d == tuple.Original {
		if _, rest := telnet(line); p.Stage != silent && p.All == anyCommand && (alg.HasVerb(rest, "PORT ") || alg.HasVerb(rest, "EPRT ")) {
			return alg.Hold
		}
		return alg.Pass
	}
	switch p.Asked.first() {
	case askedPASV:
		if alg.HasVerb(line, "227 ") {
			return alg.Hold
		}
	case askedEPSV:
		if alg.HasVerb(line, "229 ") {
			return alg.Hold
		}
	}
	return alg.Pass
}

// command reads a line of the client, which takes n bytes.
func (p *parser) command(c *alg.Context, line []byte, n int) alg.Edit {
	skipped, line := telnet(line)
	w := verbOf(line)
	if w == notFTP || p.Stage == silent || w == unknown && p.Stage == greeted {
		return unread
	}
	p.Stage = open
	e := alg.Edit{Done: n}
	if !p.Asked.add(kindOf(w, line)) {
		return leave
	}
	switch {
	case w == verbEPSV && isAll(line):
		p.All = onlyEPSV
	case w == verbPORT && p.All == anyCommand:
		p.announce(c, &e, line, skipped, findPort)
	case w == verbEPRT && p.All == anyCommand:
		p.announce(c, &e, line, skipped, findEPRT)
	}
	return e
}

// reply reads a line of the server, which takes n bytes.
func (p *parser) reply(c *alg.Context, line []byte, n int) alg.Edit {
	e := alg.Edit{Done: n}
	code, end := codeOf(line)
	switch {
	case p.Multi != 0 && (code != p.Multi || end != lastLine):
		return e // whatever it says (RFC 959 section 4.2)
	case end == noReply:
		return unread
	case p.Multi == 0 && end == moreLines:
		p.Multi = code
		return e
	}
	p.Multi = 0
	if p.Stage == silent {
		if code == 220 {
			p.Stage = greeted
		} else if code != 120 {
			return leave // it refuses
		}
		return e
	}
	if code < 200 {
		return e // the final one is yet to come
	}
	switch asked := p.Asked.take(); {
	case asked == askedAUTH && (code == 234 || code == 334):
		return leave // RFC 2228: what comes is not for us
	case asked == askedPASV && code == 227:
		p.announce(c, &e, line, 0, find227)
	case asked == askedEPSV && code == 229:
		p.announce(c, &e, line, 0, find229)
	}
	return e
}

// announce announces the data connection that line names where find says, and has e
// write its text anew if the other side has to use another one. skipped bytes come
// before line.
func (p *parser) announce(c *alg.Context, e *alg.Edit, line []byte, skipped int, find finder) {
	s, ok := find(line, c)
	if !ok {
		e.Unread++
		return
	}
	seen, err := c.Announce(alg.Expectation{Proto: tuple.TCP, To: s.to})
	if err != nil || seen == s.to {
		return // the engine counts what it refuses
	}
	p.text = s.appendAs(p.text[:0], seen)
	e.Replace = []alg.Replacement{{From: skipped + s.first, To: skipped + s.end, Text: p.text}}
}
