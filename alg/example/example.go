// Package example is a helper for a made-up protocol, to start a new one from. A
// host asks for a call on another port with a line "CALL address:port", over TCP:
//
//	CALL 10.0.0.5:4000
//
// and its peer connects to there. All other lines mean nothing here.
package example

import (
	"net/netip"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "example".
type Helper struct{}

const (
	verb    = "CALL "
	maxLine = 256 // bytes, with its end
)

// Spec implements alg.Helper.
func (Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: "example", Protos: []uint8{tuple.TCP}, Port: 7000, Limit: maxLine,
		Classes: []alg.Class{{Name: "call", Max: 1, Timeout: time.Minute}},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return &parser{} }

// parser remembers, of each direction, whether the next byte starts a line.
type parser struct {
	Inside [tuple.NumDirections]bool
	text   []byte // of the replacement
}

// Inspect implements alg.Parser. It settles one line at a time, so that each call
// has at most one announcement.
func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	inside := &p.Inside[c.Dir]
	*inside = *inside || c.Gap // what comes now may be the middle of a line
	line, n, st := alg.Line(b, maxLine)
	switch {
	case st == alg.LineOpen && !*inside && alg.HasVerb(line, verb):
		return alg.Edit{Rest: alg.Hold}
	case st != alg.LineDone:
		*inside = true // nothing of ours: no need to see its beginning again
		return alg.Edit{Done: n}
	case *inside:
		*inside = false
		return alg.Edit{Done: n}
	}
	e := alg.Edit{Done: n}
	if len(line) >= len(verb) && alg.HasVerb(line, verb) {
		p.call(c, &e, line)
	}
	return e
}

// call announces the connection that a line asks for, and has e write the line anew if
// the peer has to connect to somewhere else.
func (p *parser) call(c *alg.Context, e *alg.Edit, line []byte) {
	to, err := netip.ParseAddrPort(string(line[len(verb):]))
	if err != nil {
		e.Unread = 1
		return
	}
	seen, err := c.Announce(alg.Expectation{Proto: tuple.TCP, To: to})
	if err != nil || seen == to {
		return
	}
	p.text = seen.AppendTo(p.text[:0])
	e.Replace = []alg.Replacement{{From: len(verb), To: len(line), Text: p.text}}
}
