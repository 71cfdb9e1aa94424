package api

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.com/culvert/internal/nearest"
)

// Match says which packets a trace or a capture is about: those that have all that is
// set. Addresses and ports are held against a packet as it came and as it left.
type Match struct {
	Family, Proto      uint8 // 0: any
	Src, Dst, Host     netip.Prefix
	Sport, Dport, Port uint16
	In, Out, Interface string
	Dropped            bool
	Reason             string
	Flow               uint32
	Helper             string
	Helped             bool // its helper did something with it
}

// matchWord is a word of a Match that takes a value.
type matchWord struct {
	name, value string // for people
	set         func(m *Match, value string) error
}

var matchWords = []matchWord{
	{"proto", "PROTOCOL", func(m *Match, v string) (err error) { m.Proto, err = parseProto(v, m.Family); return err }},
	{"host", "ADDRESS[/LENGTH]", func(m *Match, v string) error { return setPrefix(&m.Host, v) }},
	{"src", "ADDRESS[/LENGTH]", func(m *Match, v string) error { return setPrefix(&m.Src, v) }},
	{"dst", "ADDRESS[/LENGTH]", func(m *Match, v string) error { return setPrefix(&m.Dst, v) }},
	{"port", "N", func(m *Match, v string) error { return setNumber(&m.Port, v, 16) }},
	{"sport", "N", func(m *Match, v string) error { return setNumber(&m.Sport, v, 16) }},
	{"dport", "N", func(m *Match, v string) error { return setNumber(&m.Dport, v, 16) }},
	{"in", "INTERFACE", func(m *Match, v string) error { m.In = v; return nil }},
	{"out", "INTERFACE", func(m *Match, v string) error { m.Out = v; return nil }},
	{"interface", "INTERFACE", func(m *Match, v string) error { m.Interface = v; return nil }},
	{"reason", "REASON", func(m *Match, v string) error { m.Reason = v; return nil }},
	{"flow", "ID", func(m *Match, v string) error { return setNumber(&m.Flow, v, 32) }},
	{"helper", "NAME", func(m *Match, v string) error { m.Helper = v; return nil }},
}

// MatchSyntax says how ParseMatch wants its words.
const MatchSyntax = "[PROTOCOL] [ipv4|ipv6] [SOURCE > DESTINATION] [host|src|dst ADDRESS[/LENGTH]] [port|sport|dport N] " +
	"[in|out|interface INTERFACE] [dropped] [reason REASON] [flow ID] [helper NAME [helped]]"

// ParseMatch reads which packets somebody wants: tcp host 10.0.0.5 port 443 dropped; udp
// 10.0.0.5:4000 > 198.51.100.7:53. No words stand for all.
func ParseMatch(text string) (m Match, err error) {
	words := strings.Fields(text)
	for len(words) > 0 {
		n, err := m.word(words)
		if err != nil {
			return m, fmt.Errorf("filter %q: %w; write %s", text, err, MatchSyntax)
		}
		words = words[n:]
	}
	return m, nil
}

// word takes the first of words, and what belongs to it, and returns how many it took.
func (m *Match) word(words []string) (int, error) {
	word := words[0]
	if len(words) > 2 && words[1] == ">" {
		if err := m.ends(word, words[2]); err != nil {
			return 0, err
		}
		return 3, nil
	}
	switch word {
	case "ipv4", "ipv6":
		m.Family = familyNames[word]
		return 1, nil
	case "dropped":
		m.Dropped = true
		return 1, nil
	case "helped":
		m.Helped = true
		return 1, nil
	}
	if i := slices.IndexFunc(matchWords, func(w matchWord) bool { return w.name == word }); i >= 0 {
		if len(words) < 2 {
			return 0, fmt.Errorf("%s needs a value: %s", word, matchWords[i].value)
		}
		if err := matchWords[i].set(m, words[1]); err != nil {
			return 0, fmt.Errorf("%s %q: %w", word, words[1], err)
		}
		return 2, nil
	}
	proto, err := parseProto(word, m.Family)
	if err != nil {
		names := []string{"ipv4", "ipv6", "dropped", "helped", "tcp", "udp", "icmp"}
		for _, w := range matchWords {
			names = append(names, w.name)
		}
		if best := nearest.To(word, names); best != "" {
			return 0, fmt.Errorf("unknown word %q; did you mean %s?", word, best)
		}
		return 0, fmt.Errorf("unknown word %q", word)
	}
	m.Proto = proto
	return 1, nil
}

// ends takes SOURCE > DESTINATION, either of which may be * or have no port.
func (m *Match) ends(src, dst string) error {
	for _, end := range []struct {
		text   string
		prefix *netip.Prefix
		port   *uint16
	}{{src, &m.Src, &m.Sport}, {dst, &m.Dst, &m.Dport}} {
		if end.text == "*" {
			continue
		}
		if setPrefix(end.prefix, end.text) == nil {
			continue
		}
		at, err := parseEnd(end.text)
		if err != nil {
			return fmt.Errorf("%q: %w", end.text, err)
		}
		*end.prefix, *end.port = netip.PrefixFrom(at.Addr(), at.Addr().BitLen()), at.Port()
	}
	return nil
}

// setPrefix reads an address or a prefix.
func setPrefix(to *netip.Prefix, s string) error {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		*to = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return errors.New("want an address such as 10.0.0.5, or a prefix such as 10.0.0.0/24")
	}
	*to = p.Masked()
	return nil
}
