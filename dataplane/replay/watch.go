package replay

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/culvert/alg"
	"example.com/culvert/alg/offline"
)

// gateway is what the helper of one flow asks, and what it said since it was last
// looked at.
type gateway struct {
	offline.Gateway
	r       *replay
	changes []Change
	edits   int
}

// Announce implements alg.Gateway. It remembers what the other side is told.
func (g *gateway) Announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	seen, err := g.Gateway.Announce(c, group)
	if err != nil {
		return seen, err
	}
	for i := range group {
		x := &group[i]
		if x.Way == alg.Inbound {
			g.Mapped[c.Real(x.To)] = netip.AddrPortFrom(seen.Addr(), seen.Port()+x.To.Port()-group[0].To.Port())
		}
		if x.Child == g.Spec.Name {
			g.r.awaited[socket{x.Proto, x.To}] = true
		}
	}
	return seen, nil
}

// watcher is a helper that shows what its parsers do.
type watcher struct {
	alg.Helper
	g *gateway
}

// New implements alg.Helper.
func (w *watcher) New(f *alg.Flow) alg.Parser { return &watched{w.Helper.New(f), w.g} }

type watched struct {
	alg.Parser
	g *gateway
}

// Inspect implements alg.Parser.
func (w *watched) Inspect(c *alg.Context, b []byte) alg.Edit {
	e := w.Parser.Inspect(c, b)
	whole := e
	if !c.Stream() {
		whole.Done = len(b)
	}
	if len(e.Replace) > 0 && whole.Fits(len(b)) {
		w.g.edits++
		w.g.changes = append(w.g.changes, changes(b, e.Replace)...)
	}
	return e
}

// Change is a part of a message before and after. Of text it is whole lines, of
// other messages the bytes that are replaced, in hexadecimal.
type Change struct {
	At  int    `json:"at"` // of the first byte, in the message
	Old string `json:"old"`
	New string `json:"new"`
	Hex bool   `json:"hex,omitempty"` // Old and New are
}

// changes returns what edits make of b.
func changes(b []byte, edits []alg.Replacement) (all []Change) {
	text := isText(b)
	for i := 0; i < len(edits); {
		from, to := edits[i].From, edits[i].To
		if text {
			from, to = lineAround(b, from, to)
		}
		var now []byte
		at := from
		for first := true; first || i < len(edits) && edits[i].From < to; first = false {
			if text {
				_, to = lineAround(b, from, max(to, edits[i].To))
			}
			now = append(append(now, b[at:edits[i].From]...), edits[i].Text...)
			at = edits[i].To
			i++
		}
		now = append(now, b[at:to]...)
		c := Change{At: from, Old: string(b[from:to]), New: string(now)}
		if !text {
			c = Change{At: from, Old: hex.EncodeToString(b[from:to]), New: hex.EncodeToString(now), Hex: true}
		}
		all = append(all, c)
	}
	return all
}

// lineAround widens a range to whole lines.
func lineAround(b []byte, from, to int) (int, int) {
	from = bytes.LastIndexByte(b[:from], '\n') + 1
	if to > from && b[to-1] == '\n' {
		return from, to
	}
	if i := bytes.IndexByte(b[to:], '\n'); i >= 0 {
		return from, to + i + 1
	}
	return from, len(b)
}

// isText reports whether b is made of lines that a terminal can show.
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) && !strings.ContainsRune("\r\n\t\x01", r) { // 1: marks of CTCP
			return false
		}
	}
	return true
}
