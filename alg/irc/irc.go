package irc

import (
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "irc".
type Helper struct{}

const (
	maxLine   = 8191 + 512 // bytes: tags of IRCv3 and a message (RFC 1459 section 2.3)
	maxOffers = 8          // as netfilter
)

// Spec implements alg.Helper.
func (Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: "irc", Protos: []uint8{tuple.TCP}, Port: 6667, Limit: maxLine,
		Classes: []alg.Class{{Name: "dcc", Max: maxOffers, Timeout: 5 * time.Minute, Peers: alg.Anyone}},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return &parser{} }

// parser is a session.
type parser struct {
	Stage  stage
	Offers [maxOffers]offer // of the client, the latest ones
	Next   uint8            // where the next one goes
	text   []byte           // of the replacement
}

// stage says how far a session has come.
type stage uint8

const (
	begun stage = iota // the client has to register
	open
)

// offer is a port that the client has offered.
type offer struct {
	Own  uint16 // as the client calls it
	Seen uint16 // as the others do
}

// Inspect implements alg.Parser. It settles one line at a time, so that a call has
// at most one announcement.
func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	if c.Gap {
		return leave
	}
	line, n, st := alg.Line(b, maxLine)
	switch {
	case st == alg.LineLong:
		return unread
	case st == alg.LineOpen && mayBeDCC(line):
		return alg.Edit{Rest: alg.Hold}
	case st == alg.LineOpen:
		return alg.Edit{}
	case len(line) == 0:
		return alg.Edit{Done: n} // empty messages are ignored (RFC 2812 section 2.3.1)
	}
	m, ok := parse(line)
	if !ok || p.Stage == begun && c.Dir == tuple.Original && !m.registers() {
		return unread
	}
	if c.Dir == tuple.Original {
		p.Stage = open
	}
	e := alg.Edit{Done: n}
	d, is := parseDCC(line, m.text)
	switch {
	case p.Stage == begun || is == noDCC:
	case is == brokenDCC:
		e.Unread = 1
	case c.Dir == tuple.Original && d.offers:
		e.Replace = p.offer(c, &d)
	case !d.offers:
		e.Replace = p.rename(c.Dir, &d)
	}
	return e
}

var (
	leave  = alg.Edit{Rest: alg.Leave}
	unread = alg.Edit{Rest: alg.Leave, Unread: 1} // what was said is not IRC
)

// offer announces the connection that the client offers.
func (p *parser) offer(c *alg.Context, d *dcc) []alg.Replacement {
	seen, err := c.Announce(alg.Expectation{Proto: tuple.TCP, To: d.to, From: alg.Anybody(d.to.Addr())})
	if err != nil {
		return nil // the engine counts what it refuses
	}
	p.Offers[p.Next] = offer{d.to.Port(), seen.Port()}
	p.Next = (p.Next + 1) % maxOffers
	if seen == d.to {
		return nil
	}
	p.text = appendSocket(p.text[:0], seen)
	return []alg.Replacement{{From: d.from, To: d.end, Text: p.text}}
}

// rename replaces the port by which an offer is named in a message that d is about.
func (p *parser) rename(d tuple.Direction, m *dcc) []alg.Replacement {
	for i := range p.Offers {
		// the latest one first
		o := p.Offers[(int(p.Next)+2*maxOffers-1-i)%maxOffers]
		from, to := o.Own, o.Seen
		if d == tuple.Reply {
			from, to = to, from
		}
		if from != m.to.Port() || from == 0 {
			continue
		}
		if from == to {
			return nil
		}
		p.text = appendPort(p.text[:0], to)
		return []alg.Replacement{{From: m.from, To: m.end, Text: p.text}}
	}
	return nil
}
