// Package report writes for people what helpers do: the bytes that they replace, the
// flows that they announce, and what happens to them.
package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"example.com/culvert/alg"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// Work is what a helper did with one packet.
type Work struct {
	Changes  []Change `json:"changes,omitempty"`
	Expected []string `json:"expected,omitempty"` // and withdrawn
	Refused  []string `json:"refused,omitempty"`
	Happened []string `json:"happened,omitempty"` // to the helper
}

// Empty reports whether the helper did nothing.
func (w *Work) Empty() bool {
	return len(w.Changes)+len(w.Expected)+len(w.Refused)+len(w.Happened) == 0
}

// String returns w as the lines of a diff: those that begin with - and + are bytes before
// and after, with > what is expected, with ! what went wrong.
func (w *Work) String() string {
	var b strings.Builder
	for _, c := range w.Changes {
		if c.Hex {
			fmt.Fprintf(&b, "-%d: %s\n+%d: %s\n", c.At, c.Old, c.At, c.New)
			continue
		}
		for line := range strings.Lines(c.Old) {
			fmt.Fprintf(&b, "-%s\n", visible(line))
		}
		for line := range strings.Lines(c.New) {
			fmt.Fprintf(&b, "+%s\n", visible(line))
		}
	}
	for _, text := range w.Expected {
		fmt.Fprintf(&b, "> %s\n", text)
	}
	for _, text := range slices.Concat(w.Refused, w.Happened) {
		fmt.Fprintf(&b, "! %s\n", text)
	}
	return b.String()
}

// visible returns a line without its end, and with control characters as in Go.
func visible(line string) string {
	quoted := strconv.Quote(strings.TrimRight(line, "\r\n"))
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// Announcement returns how an expectation is written: class, protocol, from where to
// which address it comes, and where it goes from there. to is what the receiver is told.
//
//	data tcp 198.51.100.7:* > 203.0.113.1:40001 = 10.0.0.5:40001
func Announcement(spec *alg.Spec, c *alg.Context, x *alg.Expectation, to netip.AddrPort) string {
	from := x.From
	if !from.Addr().IsValid() {
		addr := c.PeerSelf().Addr()
		if x.Way == alg.Outbound {
			addr = c.Self().Addr()
		}
		from = netip.AddrPortFrom(addr, x.From.Port())
	}
	port := "*"
	if from.Port() != 0 {
		port = fmt.Sprint(from.Port())
	}
	addr := from.Addr().String()
	if x.FromBits != 0 {
		addr += fmt.Sprintf("/%d", x.FromBits)
	}
	text := fmt.Sprintf("%s %s %s:%s > %v", spec.Classes[x.Class].Name, tuple.ProtoName(x.Proto), addr, port, to)
	if real := c.Real(x.To); real != to {
		text += fmt.Sprintf(" = %v", real)
	}
	if x.Permanent {
		text += " permanent"
	}
	if x.Timeout != 0 {
		text += fmt.Sprintf(" for %v", x.Timeout)
	}
	if x.Child != "" {
		text += " helper " + x.Child
	}
	return text
}

// Refusal returns how an announcement is written that was refused.
func Refusal(spec *alg.Spec, group []alg.Expectation, why error) string {
	class := "?"
	if int(group[0].Class) < len(spec.Classes) {
		class = spec.Classes[group[0].Class].Name
	}
	return fmt.Sprintf("%s %v: %v", class, group[0].To, why)
}

// Withdrawal returns how the end of the expectations of a class to one socket, or of all
// if to is invalid, is written.
func Withdrawal(spec *alg.Spec, class uint8, to netip.AddrPort) string {
	text := "withdraw " + spec.Classes[class].Name
	if to.IsValid() {
		text += " " + to.String()
	}
	return text
}

// eventTexts say what may happen to a helper.
var eventTexts = [...]string{
	stream.Edited:   "",
	stream.Refused:  "an edit came too late: the bytes had been forwarded",
	stream.Overflow: "a message is longer than the helper reads",
	stream.Left:     "the helper leaves the flow",
	stream.Panicked: "the helper panicked",
	stream.Broken:   "the helper returned an edit that cannot be",
	stream.Starved:  "",
	stream.Unread:   "the helper cannot read a message",
}

var _ [stream.NumEvents]string = eventTexts

// Happened says what happened to a helper while its counters went from was to is.
func Happened(was, is *[stream.NumEvents]uint32) (all []string) {
	for i, text := range eventTexts {
		if is[i] != was[i] && text != "" {
			all = append(all, text)
		}
	}
	return all
}
