package discover

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Dependence says what a mapping or a filter depends on (RFC 4787 sections 4.1 and 5).
type Dependence string

// What mappings and filters depend on.
const (
	Endpoint       Dependence = "endpoint-independent"
	Address        Dependence = "address-dependent"
	AddressAndPort Dependence = "address-and-port-dependent"

	Linux        Dependence = "linux"        // mapping: endpoint-independent until ports collide
	Untranslated Dependence = "untranslated" // mapping: there is none
	Irregular    Dependence = "irregular"    // none of these
	NoTraffic    Dependence = "no traffic"   // nothing passes from inside to outside
)

// Hairpinning is what becomes of packets from the inside to an external endpoint of the inside.
type Hairpinning string

// Ways of hairpinning.
const (
	NoHairpin       Hairpinning = "no"
	HairpinInternal Hairpinning = "internal source"               // against RFC 4787 REQ-9a
	HairpinExternal Hairpinning = "external source"               // as RFC 4787 asks for
	HairpinOpened   Hairpinning = "external source, once allowed" // after the other host has sent to the first: filtering holds inside too
)

// Pooling is how external addresses are given to inside hosts.
type Pooling string

// Kinds of pooling.
const (
	OneAddress Pooling = "one address"
	Paired     Pooling = "paired"
	Arbitrary  Pooling = "arbitrary"
)

// Quantity says for how many of the tries something held.
type Quantity string

// Quantities.
const (
	Always    Quantity = "always"
	Sometimes Quantity = "sometimes"
	Never     Quantity = "never"
	Untested  Quantity = "not seen" // there was no occasion
)

// SYN is what becomes of a SYN that nobody asked for.
type SYN string

// What becomes of it.
const (
	SYNSilent   SYN = "dropped silently"
	SYNAdmitted SYN = "admitted"
	SYNAtOnce   SYN = "refused at once" // against RFC 5382 REQ-4
	SYNHeld     SYN = "held, then refused"
	SYNReset    SYN = "reset" // against RFC 5382 REQ-4
)

// Lifetime is how long something lasts. Forever is more than was waited for.
type Lifetime time.Duration

// Forever stands for what outlived the longest wait.
const Forever = Lifetime(1<<63 - 1)

// String returns the lifetime in words.
func (l Lifetime) String() string {
	if l == Forever {
		return fmt.Sprintf("more than %v", longest)
	}
	return time.Duration(l).String()
}

// MarshalJSON writes seconds, null for Forever.
func (l Lifetime) MarshalJSON() ([]byte, error) {
	if l == Forever {
		return []byte("null"), nil
	}
	return json.Marshal(time.Duration(l).Seconds())
}

// Lifetimes are those of the flows of a protocol, idle at the stage that the field names. Zero: not measured.
type Lifetimes struct {
	Opened   Lifetime `json:"opened_seconds,omitzero"`
	Answered Lifetime `json:"answered_seconds,omitzero"`
	Lasting  Lifetime `json:"lasting_seconds,omitzero"` // UDP: a stream; TCP: established
	Closed   Lifetime `json:"closed_seconds,omitzero"`
	Reset    Lifetime `json:"reset_seconds,omitzero"`
}

// Refresh says what prolongs a flow.
type Refresh struct {
	Outbound bool `json:"outbound"`
	Inbound  bool `json:"inbound"`
	Error    bool `json:"icmp_error"`
}

// Transport is the behaviour for UDP or TCP.
type Transport struct {
	Mapping      Dependence  `json:"mapping"`
	Filtering    Dependence  `json:"filtering"`
	Hairpin      Hairpinning `json:"hairpin"`
	Pooling      Pooling     `json:"pooling"`
	Overload     bool        `json:"port_overload"`     // one external port stands for two inside endpoints
	Preservation Quantity    `json:"port_preservation"` // of ports that are free
	Class        Quantity    `json:"class_kept"`        // by ports that had to change: 0-1023, 1024-65535
	Parity       Quantity    `json:"parity_kept"`       // by ports that had to change
	Contiguity   Quantity    `json:"contiguity_kept"`   // by neighbours that had to change
	Lifetimes    Lifetimes   `json:"lifetimes"`
	HoldDown     Lifetime    `json:"hold_down_seconds"` // before a freed port goes to another inside host
	Refresh      Refresh     `json:"refresh"`
	Errors       Errors      `json:"icmp_errors"`
	Forwards     []Forward   `json:"forwarded_ports,omitempty"`
}

// Errors is how ICMP errors about flows are treated.
type Errors struct {
	Inbound    []string `json:"inbound"`     // kinds that arrive with a right embedded packet, from the other end
	FromRouter []string `json:"from_router"` // the same from a router on the way
	Outbound   bool     `json:"outbound"`    // those of the inside arrive, with a right embedded packet
	Survives   bool     `json:"survives"`    // the mapping is there after an error
	Unrelated  bool     `json:"unrelated"`   // errors about no flow get in
}

// Connections is what TCP has beside the other protocols.
type Connections struct {
	SimultaneousOpen bool     `json:"simultaneous_open"`
	UnsolicitedSYN   SYN      `json:"unsolicited_syn"`          // to a mapping that does not admit it
	SYNWait          Lifetime `json:"unsolicited_syn_seconds"`  // before it was refused
	SYNForgotten     bool     `json:"unsolicited_syn_forgiven"` // no refusal when the inside opens the same connection meanwhile
}

// Queries is the behaviour for ICMP echo.
type Queries struct {
	Mapping      Dependence `json:"mapping"`
	Preservation Quantity   `json:"id_preservation"`
	Overload     bool       `json:"id_overload"`
	Lifetimes    Lifetimes  `json:"lifetimes"`
	Errors       Errors     `json:"icmp_errors"`
}

// Fragments says in which orders fragmented datagrams pass.
type Fragments struct {
	InOrder    [2]bool `json:"in_order"` // to the outside, to the inside
	OutOfOrder [2]bool `json:"out_of_order"`
}

// Sizes is what becomes of packets longer than the path takes.
type Sizes struct {
	MTU        int  `json:"mtu"` // as told to the sender, 0: nothing was told
	Fragmented bool `json:"fragmented"`
	TimeExceed bool `json:"time_exceeded"` // a packet whose TTL ends at the NAT is answered
}

// Report is how a NAT behaves for one family of addresses.
type Report struct {
	Family      string      `json:"family"`
	UDP         Transport   `json:"udp"`
	TCP         Transport   `json:"tcp"`
	Connections Connections `json:"connections"`
	ICMP        Queries     `json:"icmp"`
	Fragments   Fragments   `json:"fragments"`
	Sizes       Sizes       `json:"sizes"`
	Faults      []string    `json:"faults"` // broken packets that the NAT let out
}

// Verdict says whether a behaviour complies with a requirement.
type Verdict struct {
	RFC         int    `json:"rfc"`
	Requirement string `json:"requirement"`
	Complies    bool   `json:"complies"`
}

// String returns "complies with RFC 4787 REQ-1", "against RFC 4787 REQ-1".
func (v Verdict) String() string {
	if v.Complies {
		return fmt.Sprintf("complies with RFC %d %s", v.RFC, v.Requirement)
	}
	return fmt.Sprintf("against RFC %d %s", v.RFC, v.Requirement)
}

// Line is one behaviour with what the requirements say to it.
type Line struct {
	Protocol string    `json:"protocol"`
	Test     string    `json:"test"`
	Result   string    `json:"result"`
	Verdicts []Verdict `json:"verdicts,omitempty"`
}

// lines collects Lines of a protocol.
type lines struct {
	all   []Line
	proto string
}

func (l *lines) add(test string, result any, verdicts ...Verdict) {
	l.all = append(l.all, Line{l.proto, test, fmt.Sprint(result), slices.DeleteFunc(verdicts, func(v Verdict) bool { return v.RFC == 0 })})
}

// met returns the verdict about a requirement.
func met(rfc int, requirement string, complies bool) Verdict {
	return Verdict{rfc, requirement, complies}
}

// Least lifetimes.
const (
	udpLeast        = 2 * time.Minute             // RFC 4787 REQ-5
	tcpLeast        = 2*time.Hour + 4*time.Minute // RFC 5382 REQ-5
	transitoryLeast = 4 * time.Minute             // RFC 5382 REQ-5, RFC 7857 section 2.2
	queryLeast      = 60 * time.Second            // RFC 5508 REQ-2
	holdLeast       = 119 * time.Second           // RFC 6888 REQ-8 says 120; what was measured is rounded
	synLeast        = 6 * time.Second             // RFC 5382 REQ-4
)

func (l Lifetime) atLeast(d time.Duration) bool { return time.Duration(l) >= d }

// Lines returns the report line by line.
func (r *Report) Lines() []Line {
	var l lines
	l.proto = "udp"
	l.transport(&r.UDP, 4787)
	if u := &r.UDP; u.Mapping.translates() {
		l.add("lifetime, unanswered", u.Lifetimes.Opened, met(4787, "REQ-5", u.Lifetimes.Opened.atLeast(udpLeast)))
		l.add("lifetime, answered", u.Lifetimes.Answered, met(4787, "REQ-5", u.Lifetimes.Answered.atLeast(udpLeast)))
		l.add("lifetime, stream", u.Lifetimes.Lasting, met(4787, "REQ-5", u.Lifetimes.Lasting.atLeast(udpLeast)))
		l.add("refresh", u.Refresh.String(), met(4787, "REQ-6", u.Refresh.Outbound), met(5508, "REQ-6", !u.Refresh.Error))
	}
	if u := &r.UDP; r.Family == "ipv4" && u.Preservation == Always && u.Lifetimes != (Lifetimes{}) { // hosts of an IPv6 prefix are one client
		l.add("freed ports are kept from others", u.HoldDown, met(6888, "REQ-8", u.HoldDown.atLeast(holdLeast)))
	}
	l.errors(&r.UDP.Errors, met(4787, "REQ-12", r.UDP.Errors.Survives), met(4787, "REQ-12a", len(r.UDP.Errors.FromRouter) > 0))

	l.proto = "tcp"
	l.transport(&r.TCP, 5382)
	if t := &r.TCP; t.Mapping.translates() {
		l.add("lifetime, SYN sent", t.Lifetimes.Opened, met(5382, "REQ-5", t.Lifetimes.Opened.atLeast(transitoryLeast)))
		l.add("lifetime, half open", t.Lifetimes.Answered, met(5382, "REQ-5", t.Lifetimes.Answered.atLeast(transitoryLeast)))
		l.add("lifetime, established", t.Lifetimes.Lasting, met(5382, "REQ-5", t.Lifetimes.Lasting.atLeast(tcpLeast)))
		l.add("lifetime, closed", t.Lifetimes.Closed, met(5382, "REQ-5", t.Lifetimes.Closed.atLeast(transitoryLeast)))
		l.add("lifetime, reset", t.Lifetimes.Reset, met(7857, "section 2.2", t.Lifetimes.Reset.atLeast(transitoryLeast)))
		l.add("refresh", t.Refresh.String(), met(7857, "section 7.1", t.Refresh.Outbound && !t.Refresh.Error))
	}
	c := &r.Connections
	l.add("simultaneous open", yes(c.SimultaneousOpen), met(5382, "REQ-2", c.SimultaneousOpen))
	syn := fmt.Sprint(c.UnsolicitedSYN)
	if c.SYNWait != 0 {
		syn += " after " + c.SYNWait.String()
	}
	patient := c.UnsolicitedSYN != SYNReset && c.UnsolicitedSYN != SYNAtOnce && (c.UnsolicitedSYN != SYNHeld || c.SYNWait.atLeast(synLeast))
	l.add("unsolicited SYN", syn, met(5382, "REQ-4", patient && c.SYNForgotten))
	l.errors(&r.TCP.Errors, met(5382, "REQ-9", len(r.TCP.Errors.Inbound) > 0), met(5382, "REQ-10", r.TCP.Errors.Survives))

	l.proto = "icmp"
	q := &r.ICMP
	l.add("query mapping", q.Mapping, met(5508, "REQ-1", q.Mapping != NoTraffic), met(5508, "REQ-1a", q.Mapping == Endpoint || q.Mapping == Untranslated))
	if q.Mapping.translates() {
		l.add("identifiers kept when free", q.Preservation)
		l.add("one external identifier for two", yes(q.Overload))
		l.add("lifetime, unanswered", q.Lifetimes.Opened, met(5508, "REQ-2", q.Lifetimes.Opened.atLeast(queryLeast)))
	}
	l.errors(&q.Errors, met(5508, "REQ-4", len(q.Errors.Inbound) > 0 && !q.Errors.Unrelated))

	l.proto = "ip"
	f := &r.Fragments
	l.add("fragments in order", bothWays(f.InOrder), met(4787, "REQ-14", f.InOrder == [2]bool{true, true}))
	l.add("fragments out of order", bothWays(f.OutOfOrder), met(4787, "REQ-14", f.OutOfOrder == [2]bool{true, true}))
	mtu := "nothing told"
	if r.Sizes.MTU > 0 {
		mtu = fmt.Sprintf("MTU %d told", r.Sizes.MTU)
	}
	l.add("too long, must not be fragmented", mtu, met(4787, "REQ-13", r.Sizes.MTU > 0))
	if r.Family == "ipv4" {
		l.add("too long, may be fragmented", map[bool]string{true: "fragmented", false: "lost"}[r.Sizes.Fragmented], met(4787, "REQ-13a", r.Sizes.Fragmented))
	}
	l.add("time to live ends here", map[bool]string{true: "told", false: "nothing told"}[r.Sizes.TimeExceed])
	if len(r.Faults) > 0 {
		l.add("broken packets", strings.Join(r.Faults, "; "))
	}
	return l.all
}

// transport adds what UDP and TCP have in common; rfc is the one for the protocol.
func (l *lines) transport(t *Transport, rfc int) {
	req := func(udp, tcp string, complies bool) Verdict {
		if rfc == 5382 {
			udp = tcp
		}
		if udp == "" {
			return Verdict{}
		}
		return met(rfc, udp, complies)
	}
	if !t.Mapping.translates() {
		l.add("mapping", t.Mapping)
		if t.Mapping == Untranslated {
			l.add("filtering", t.Filtering)
		}
		return
	}
	l.add("mapping", t.Mapping, req("REQ-1", "REQ-1", t.Mapping == Endpoint), req("REQ-11", "", t.Mapping != Linux))
	l.add("filtering", t.Filtering, req("REQ-8", "REQ-3", t.Filtering == Endpoint || t.Filtering == Address))
	l.add("hairpin", t.Hairpin, req("REQ-9", "REQ-8", t.Hairpin == HairpinExternal || t.Hairpin == HairpinOpened))
	l.add("pooling", t.Pooling, met(6888, "REQ-2", t.Pooling != Arbitrary), req("REQ-2", "", t.Pooling != Arbitrary))
	l.add("one external port for two", yes(t.Overload), req("REQ-3", "REQ-7", !t.Overload))
	l.add("ports kept when free", t.Preservation)
	l.add("class kept when taken", t.Class, req("REQ-3a", "", t.Class == Always || t.Class == Untested))
	l.add("parity kept when taken", t.Parity, req("REQ-4", "", t.Parity == Always || t.Parity == Untested))
	l.add("contiguity kept when taken", t.Contiguity)
	for _, f := range t.Forwards {
		l.add("forwarded port", f, req("REQ-9", "REQ-8", f.Hairpin == HairpinExternal))
	}
}

func (l *lines) errors(e *Errors, verdicts ...Verdict) {
	l.add("errors from the other end", list(e.Inbound))
	l.add("errors from a router", list(e.FromRouter), verdicts...)
	l.add("errors of the inside", map[bool]string{true: "translated", false: "lost or wrong"}[e.Outbound], met(5508, "REQ-5", e.Outbound))
	l.add("errors about no flow", map[bool]string{true: "let in", false: "dropped"}[e.Unrelated], met(5508, "REQ-4", !e.Unrelated))
}

// translates reports whether there is a mapping to speak of.
func (d Dependence) translates() bool { return d != NoTraffic && d != Untranslated && d != "" }

// String returns what refreshes.
func (r Refresh) String() string {
	var by []string
	for _, x := range []struct {
		is   bool
		name string
	}{{r.Outbound, "outbound"}, {r.Inbound, "inbound"}, {r.Error, "ICMP errors"}} {
		if x.is {
			by = append(by, x.name)
		}
	}
	return list(by)
}

func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func yes(b bool) string { return map[bool]string{true: "yes", false: "no"}[b] }

func bothWays(b [2]bool) string {
	switch b {
	case [2]bool{true, true}:
		return "both ways"
	case [2]bool{true, false}:
		return "to the outside only"
	case [2]bool{false, true}:
		return "to the inside only"
	}
	return "no"
}
