package pptp

import (
	"net/netip"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "pptp".
type Helper struct{}

// Spec implements alg.Helper. A call is two expectations, one for each direction, for
// five minutes: as netfilter.
func (Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: "pptp", Protos: []uint8{tuple.TCP}, Port: 1723, Limit: maxMessage,
		Classes: []alg.Class{{Name: "call", Max: 2, Timeout: 5 * time.Minute}},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return &parser{} }

// stage says how far a control connection has come.
type stage uint8

const (
	silent  stage = iota // who opened it has to ask for a start
	asked                // the other side has to agree
	started              // calls
)

// parser is a control connection.
type parser struct {
	Stage stage
	Call  call
	edits [2]alg.Replacement // of this message
	text  [2 * idLen]byte    // of the edits
}

// call is the call that a connection has.
type call struct {
	State state
	By    tuple.Direction // who asked for it
	Reply kind            // that has to come
	Ends  [tuple.NumDirections]end
}

// end is the call id of one side.
type end struct{ Own, Seen uint16 } // as itself and as the other side knows it

// state says what is known of the call.
type state uint8

const (
	none    state = iota // there is none
	wanted               // one side has asked for it
	granted              // both ids are known
)

var (
	leave  = alg.Edit{Rest: alg.Leave}
	unread = alg.Edit{Rest: alg.Leave, Unread: 1} // what was said is not PPTP
)

// Inspect implements alg.Parser. It settles one message at a time, so that a call has
// at most one announcement.
func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	if c.Gap {
		return leave
	}
	k, n, is := message(b)
	switch {
	case is == broken:
		return unread
	case is == open && (k == 0 || layout[k].ids != 0):
		return alg.Edit{Rest: alg.Hold}
	case is == open:
		return alg.Edit{}
	case p.Stage == asked && c.Dir == tuple.Reply && k == startReply && b[startResultAt] != agreed:
		return leave
	case !p.starts(c.Dir, k):
		return unread
	}
	e := alg.Edit{Done: n, Replace: p.edits[:0]}
	switch k {
	case outgoingRequest, incomingRequest:
		p.request(c, k, b)
	case outgoingReply, incomingReply:
		p.answer(c, k, b)
	}
	e.Replace = p.rename(e.Replace, c.Dir, k, b)
	switch k {
	case disconnectNotify, stopRequest, stopReply:
		p.end(c)
	}
	return e
}

// starts takes the connection through its beginning, and reports whether a message of
// kind k may come now.
func (p *parser) starts(d tuple.Direction, k kind) bool {
	switch {
	case p.Stage == started:
		return k != startRequest && k != startReply
	case p.Stage == silent && k == startRequest && d == tuple.Original:
		p.Stage = asked
		return true
	case p.Stage == asked && k == startReply && d == tuple.Reply:
		p.Stage = started
		return true
	}
	return false
}

// request begins a call: packets of it will come to the id that b names.
func (p *parser) request(c *alg.Context, k kind, b []byte) {
	p.end(c)
	own := be.Uint16(b[headerLen:])
	seen, err := c.Announce(packetsTo(c, own))
	if err != nil {
		return // the engine counts what it refuses
	}
	p.Call = call{State: wanted, By: c.Dir, Reply: k + 1}
	p.Call.Ends[c.Dir] = end{own, seen.Port()}
}

// answer ends the wait for a reply to a request. One that agrees names the id that
// packets of the other direction come to.
func (p *parser) answer(c *alg.Context, k kind, b []byte) {
	own, asker := be.Uint16(b[headerLen:]), p.Call.Ends[c.Dir.Other()]
	if p.Call.State != wanted || p.Call.By == c.Dir || p.Call.Reply != k || be.Uint16(b[headerLen+idLen:]) != asker.Seen {
		return
	}
	p.Call.State = granted
	if b[callResultAt] != agreed {
		c.Withdraw(0, netip.AddrPort{})
		return // the id in it is still to be translated
	}
	x := packetsTo(c, own)
	x.From = netip.AddrPortFrom(c.Peer().Addr(), asker.Seen)
	seen, err := c.Announce(x)
	if err != nil {
		return
	}
	p.Call.Ends[c.Dir] = end{own, seen.Port()}
}

// packetsTo is the GRE that comes to an id of the sender.
func packetsTo(c *alg.Context, own uint16) alg.Expectation {
	x := alg.Expectation{Proto: tuple.GRE, To: netip.AddrPortFrom(c.Self().Addr(), own)}
	if c.Dir == tuple.Original && c.Self().Addr() != c.SelfSeen().Addr() {
		x.Seen = c.SelfSeen().Port() // no other connection to this peer has it
	}
	return x
}

// end forgets the call, and that it was announced.
func (p *parser) end(c *alg.Context) {
	if p.Call.State != none {
		c.Withdraw(0, netip.AddrPort{})
		p.Call = call{}
	}
}

// rename appends what makes the ids in message b of direction d those that its
// receiver knows.
func (p *parser) rename(edits []alg.Replacement, d tuple.Direction, k kind, b []byte) []alg.Replacement {
	if p.Call.State == none {
		return edits
	}
	at, own, peer := headerLen, p.Call.Ends[d], p.Call.Ends[d.Other()]
	if layout[k].ids&ownID != 0 {
		edits = p.replace(edits, b, at, own.Own, own.Seen)
		at += idLen
	}
	if layout[k].ids&peerID != 0 {
		edits = p.replace(edits, b, at, peer.Seen, peer.Own)
	}
	return edits
}

// replace appends that id from becomes id to, if b has from at a place.
func (p *parser) replace(edits []alg.Replacement, b []byte, at int, from, to uint16) []alg.Replacement {
	if from == to || be.Uint16(b[at:]) != from {
		return edits
	}
	text := p.text[len(edits)*idLen:][:idLen]
	be.PutUint16(text, to)
	return append(edits, alg.Replacement{From: at, To: at + idLen, Text: text})
}
