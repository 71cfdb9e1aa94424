package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"example.com/culvert/conntrack/tuple"
)

// Probe is a packet to explain.
type Probe struct {
	Tuple    tuple.Tuple // as received
	In       string      // interface it comes in by; GatewayItself; empty: where routes to its source lead
	TCPFlags uint8       // 0: SYN
	TTL      uint8       // 0: 64
	TOS      uint8
	Length   uint16
	Mark     uint32 // of its flow, with Assume
	Assume   string // "established", "related", "invalid": what the table is taken to say; empty: what it says
}

// GatewayItself as Probe.In says that the gateway sends the packet.
const GatewayItself = "gateway"

// Explanation says what becomes of a packet.
type Explanation struct {
	Packet     string      `json:"packet"`
	Generation uint32      `json:"generation"` // of the configuration
	Steps      []Explained `json:"steps"`
	Verdict    string      `json:"verdict"`          // forwarded, delivered, dropped, rejected
	Reason     string      `json:"reason,omitempty"` // why it is dropped or rejected; see Counter
	Advice     string      `json:"advice,omitempty"`
	Out        string      `json:"out,omitempty"` // interface it leaves by
	Leaves     string      `json:"leaves_as,omitempty"`
}

// Explained is what one step of the walk says.
type Explained struct {
	Step  string    `json:"step"`
	Text  string    `json:"text"`
	Rules []RuleRef `json:"rules,omitempty"` // that apply, in their order
}

// RuleRef names a rule.
type RuleRef struct {
	ID       uint32 `json:"id"`
	List     string `json:"list"`
	Index    int    `json:"index"`
	Name     string `json:"name,omitempty"`
	Text     string `json:"text"`               // normal form, with position and list
	Position string `json:"position,omitempty"` // file:line; empty: built in
}

// String returns the rule with its place.
func (r RuleRef) String() string {
	if r.Position == "" {
		return r.Text + " (built in)"
	}
	return r.Text + " (" + r.Position + ")"
}

// probeWord is a word of a Probe that takes a value.
type probeWord struct {
	name, value string // for people
	set         func(p *Probe, value string) error
}

var probeWords = []probeWord{
	{"in", "INTERFACE", func(p *Probe, v string) error { p.In = v; return nil }},
	{"flags", "LETTERS", setFlags},
	{"ttl", "N", func(p *Probe, v string) error { return setNumber(&p.TTL, v, 8) }},
	{"tos", "N", func(p *Probe, v string) error { return setNumber(&p.TOS, v, 8) }},
	{"dscp", "N", func(p *Probe, v string) error {
		err := setNumber(&p.TOS, v, 6)
		p.TOS <<= 2
		return err
	}},
	{"len", "N", func(p *Probe, v string) error { return setNumber(&p.Length, v, 16) }},
	{"mark", "N", func(p *Probe, v string) error { return setNumber(&p.Mark, v, 32) }},
	{"type", "N", func(p *Probe, v string) error {
		var n uint8
		err := setNumber(&n, v, 8)
		p.Tuple.DstPort = uint16(n)<<8 | p.Tuple.DstPort&0xff
		return err
	}},
	{"code", "N", func(p *Probe, v string) error {
		var n uint8
		err := setNumber(&n, v, 8)
		p.Tuple.DstPort = p.Tuple.DstPort&0xff00 | uint16(n)
		return err
	}},
	{"id", "N", func(p *Probe, v string) error { return setNumber(&p.Tuple.SrcPort, v, 16) }},
	{"call", "N", setCall},
}

var assumptions = []string{"established", "related", "invalid"}

// ProbeSyntax says how ParseProbe wants a packet.
const ProbeSyntax = "PROTOCOL SOURCE > DESTINATION [in INTERFACE] [flags S] [ttl N] [tos N] [dscp N] [len N] " +
	"[type N] [code N] [id N] [call N] [established|related|invalid [mark N]]"

// ParseProbe reads a packet as people write it: tcp 10.0.0.5:40000 > 198.51.100.7:443
// in lan0; icmp 10.0.0.5 > 198.51.100.7 id 7. A packet of PPTP names the call by the id
// of its receiver (RFC 2637 section 4.1): gre 10.0.0.5 > 198.51.100.7 call 21. The
// flow of a call, gre 10.0.0.5:7 > 198.51.100.7:21, stands for such a packet.
func ParseProbe(text string) (Probe, error) {
	p, err := parseProbe(strings.Fields(text))
	if err != nil {
		return p, fmt.Errorf("packet %q: %w; write %s", text, err, ProbeSyntax)
	}
	return p, nil
}

func parseProbe(words []string) (p Probe, err error) {
	if len(words) < 4 || words[2] != ">" {
		return p, errors.New("want a protocol, a source, > and a destination")
	}
	t := &p.Tuple
	src, err := parseEnd(words[1])
	if err != nil {
		return p, fmt.Errorf("source %q: %w", words[1], err)
	}
	dst, err := parseEnd(words[3])
	if err != nil {
		return p, fmt.Errorf("destination %q: %w", words[3], err)
	}
	if src.Addr().Is4() != dst.Addr().Is4() {
		return p, errors.New("source and destination are of different address families")
	}
	t.Src, t.Dst, t.Family = tuple.AddrFrom(src.Addr()), tuple.AddrFrom(dst.Addr()), tuple.IPv6
	if src.Addr().Is4() {
		t.Family = tuple.IPv4
	}
	if t.Proto, err = parseProto(words[0], t.Family); err != nil {
		return p, err
	}
	switch hasPorts := src.Port() != 0 && dst.Port() != 0; {
	case tuple.HasPorts(t.Proto) && !hasPorts:
		return p, fmt.Errorf("%s needs ports, as in 10.0.0.5:40000", words[0])
	case t.Proto == tuple.GRE && src.Port() != 0 && dst.Port() == 0:
		return p, errors.New("gre names a call by the id of its receiver, as in 198.51.100.7:21 or call 21")
	case !tuple.HasPorts(t.Proto) && t.Proto != tuple.GRE && src.Port()|dst.Port() != 0:
		return p, fmt.Errorf("%s has no ports", words[0])
	}
	t.SrcPort, t.DstPort = src.Port(), dst.Port()
	switch t.Proto {
	case tuple.ICMP:
		t.DstPort = 8 << 8 // RFC 792: echo
	case tuple.ICMPv6:
		t.DstPort = 128 << 8 // RFC 4443: echo request
	}
	return p, p.qualify(words[4:])
}

// qualify reads what follows the addresses.
func (p *Probe) qualify(words []string) error {
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if slices.Contains(assumptions, word) {
			p.Assume = word
			continue
		}
		i := slices.IndexFunc(probeWords, func(w probeWord) bool { return w.name == word })
		if i < 0 {
			return fmt.Errorf("unknown word %q", word)
		}
		if len(words) == 0 {
			return fmt.Errorf("%s needs a value: %s", word, probeWords[i].value)
		}
		if err := probeWords[i].set(p, words[0]); err != nil {
			return fmt.Errorf("%s %q: %w", word, words[0], err)
		}
		words = words[1:]
	}
	if p.Mark != 0 && p.Assume == "" {
		return errors.New("mark is that of a flow: say established, related or invalid, too")
	}
	return nil
}

func parseEnd(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 0), nil
	}
	end, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		return end, errors.New("want an address, or an address and a port such as 10.0.0.5:40000 or [2001:db8::5]:40000")
	case end.Port() == 0:
		return end, errors.New("port 0 is no port")
	}
	return end, nil
}

// parseProto returns the number of a protocol; icmp is that of the family.
func parseProto(name string, family uint8) (uint8, error) {
	switch {
	case name == "icmp" && family == tuple.IPv6:
		return tuple.ICMPv6, nil
	case name == "esp":
		return 50, nil
	case name == "ah":
		return 51, nil
	}
	for proto := range 256 {
		if tuple.ProtoName(uint8(proto)) == name && name != "unknown" {
			return uint8(proto), nil
		}
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("unknown protocol %q", name)
	}
	return uint8(n), nil
}

// setNumber parses a number of some bits, decimal or hexadecimal.
func setNumber[T uint8 | uint16 | uint32](to *T, s string, bits int) error {
	n, err := strconv.ParseUint(s, 0, bits)
	if err != nil {
		return fmt.Errorf("want a number up to %d", uint64(1)<<bits-1)
	}
	*to = T(n)
	return nil
}

func setCall(p *Probe, id string) error {
	if p.Tuple.Proto != tuple.GRE {
		return errors.New("only gre has calls")
	}
	return setNumber(&p.Tuple.DstPort, id, 16)
}

// tcpFlagLetters are the flags of a TCP segment from the lowest bit on (RFC 9293).
const tcpFlagLetters = "FSRPAU"

func setFlags(p *Probe, letters string) error {
	if p.Tuple.Proto != tuple.TCP {
		return errors.New("only tcp has flags")
	}
	for _, c := range letters {
		bit := strings.IndexRune(tcpFlagLetters, c)
		if bit < 0 {
			return fmt.Errorf("want letters of %s", tcpFlagLetters)
		}
		p.TCPFlags |= 1 << bit
	}
	return nil
}

// explain answers what would become of the packet in the query.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	p, err := ParseProbe(r.URL.Query().Get("packet"))
	if err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	x, err := s.backend.Explain(p)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, x)
	return nil
}
