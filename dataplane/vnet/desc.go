package vnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// desc is a packet in words, as scripts write it: protocol, ends, and whatever else
// is worth saying.
//
//	tcp 10.0.0.5:40000 > 203.0.113.1:443 S seq 1 ttl 64
//	udp [2001:db8::5]:4000 > [2001:db8:1::9]:53 data "question"
//	icmp 10.0.0.5 > 203.0.113.1 echo id 7
//	icmp 203.0.113.9 > 10.0.0.5 error 3/1 { udp 10.0.0.5:4000 > 203.0.113.9:53 }
//	proto 47 10.0.0.5 > 203.0.113.1
type desc struct {
	proto    string // tcp, udp, icmp (of either family), or a number
	src, dst netip.AddrPort
	attrs    map[string]string // see attrNames
	inner    *desc             // of an ICMP error
}

// Attributes that take a value. "flags" (of TCP) and "kind" (of ICMP: echo,
// reply, error 3/1) are written without their name.
var attrNames = []string{"seq", "ack", "win", "mss", "len", "data", "ttl", "id", "mtu"}

// tokens cuts a line at white space, but not within quotes. Braces are tokens.
func tokens(line string) ([]string, error) {
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] == '"' {
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("%s: no closing quote", line)
			}
			out, line = append(out, q), line[len(q):]
			continue
		}
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			end = len(line)
		}
		out, line = append(out, line[:end]), line[end:]
	}
	return out, nil
}

// parseDesc reads a packet from words and returns the words that follow it.
func parseDesc(words []string) (d *desc, rest []string, err error) {
	next := func() string {
		if len(words) == 0 {
			return ""
		}
		w := words[0]
		words = words[1:]
		return w
	}
	d = &desc{proto: next(), attrs: make(map[string]string)}
	if d.proto == "proto" {
		d.proto = next()
	}
	parse := parseAddr
	if d.proto == "tcp" || d.proto == "udp" {
		parse = netip.ParseAddrPort
	}
	if d.src, err = parse(next()); err != nil {
		return nil, nil, err
	}
	if w := next(); w != ">" {
		return nil, nil, fmt.Errorf("%q where > must stand", w)
	}
	if d.dst, err = parse(next()); err != nil {
		return nil, nil, err
	}
	for len(words) > 0 && words[0] != "}" {
		w := next()
		switch {
		case w == "{":
			if d.inner, words, err = parseDesc(words); err != nil {
				return nil, nil, err
			}
			if next() != "}" {
				return nil, nil, fmt.Errorf("no } after the embedded packet")
			}
		case slices.Contains(attrNames, w):
			d.attrs[w] = next()
		case w == "error":
			d.attrs["kind"] = "error " + next()
		case d.proto == "icmp":
			d.attrs["kind"] = w
		case d.proto == "tcp" && strings.Trim(w, "FSRPAU.") == "":
			d.attrs["flags"] = w
		default:
			return nil, nil, fmt.Errorf("unknown word %q", w)
		}
	}
	return d, words, nil
}

func parseAddr(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(s)
	return netip.AddrPortFrom(a, 0), err
}

// number returns an attribute as a number, def if it is not given.
func (d *desc) number(name string, def int) (int, error) {
	s, ok := d.attrs[name]
	if !ok {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%s %q is no number", name, s)
	}
	return n, nil
}

// payload returns the bytes that follow the transport header.
func (d *desc) payload() ([]byte, error) {
	if q, ok := d.attrs["data"]; ok {
		s, err := strconv.Unquote(q)
		return []byte(s), err
	}
	n, err := d.number("len", 0)
	if err != nil || n < 0 || n > 65000 {
		return nil, fmt.Errorf("len %d is not possible: %w", n, err)
	}
	return slices.Repeat([]byte{'x'}, n), nil
}

// differs returns what want says about a packet and got does not, empty if nothing.
func (want *desc) differs(got *desc) string {
	if want.proto != got.proto || want.src != got.src || want.dst != got.dst {
		return fmt.Sprintf("%s is not %s", got.head(), want.head())
	}
	for k, v := range want.attrs {
		if got.attrs[k] != v {
			return fmt.Sprintf("%s is %q, not %q", k, got.attrs[k], v)
		}
	}
	if want.inner != nil {
		if got.inner == nil {
			return "no embedded packet"
		}
		return want.inner.differs(got.inner)
	}
	return ""
}

func (d *desc) head() string {
	if d.proto == "tcp" || d.proto == "udp" {
		return fmt.Sprintf("%s %v > %v", d.proto, d.src, d.dst)
	}
	proto := d.proto
	if proto != "icmp" {
		proto = "proto " + proto
	}
	return fmt.Sprintf("%s %v > %v", proto, d.src.Addr(), d.dst.Addr())
}

func (d *desc) String() string {
	s := d.head()
	for _, name := range []string{"kind", "flags"} {
		if v, ok := d.attrs[name]; ok {
			s += " " + v
		}
	}
	for _, name := range attrNames {
		if v, ok := d.attrs[name]; ok {
			s += " " + name + " " + v
		}
	}
	if d.inner != nil {
		s += " { " + d.inner.String() + " }"
	}
	return s
}
