package rules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// Text returns the rule in normal form: conditions in a fixed order, then the
// action. Equal rules have equal texts, however they were written; name and
// comment are left out, and so is what the profile adds.
func (rs *RuleSpec) Text() string {
	var w words
	c := &rs.If
	condition(&w, "iif", &c.In, identity)
	condition(&w, "oif", &c.Out, identity)
	condition(&w, "in-area", &c.InArea, identity)
	condition(&w, "out-area", &c.OutArea, identity)
	switch c.Family {
	case tuple.IPv4:
		w.add("family ipv4")
	case tuple.IPv6:
		w.add("family ipv6")
	}
	condition(&w, "proto", &c.Proto, ProtoName)
	condition(&w, "src", &c.Src, RangeText)
	condition(&w, "sport", &c.SrcPort, nat.PortRange.String)
	condition(&w, "dst", &c.Dst, RangeText)
	condition(&w, "dst", &c.Local, func(Delivery) string { return "gateway" })
	condition(&w, "dport", &c.DstPort, nat.PortRange.String)
	condition(&w, "icmp-type", &c.ICMP, ICMPType.String)
	condition(&w, "state", &c.State, State.String)
	condition(&w, "mark", &c.Mark, MarkMatch.String)
	condition(&w, "ttl", &c.TTL, ByteRange.String)
	condition(&w, "dscp", &c.DSCP, ByteRange.String)
	w.add(rs.Then.String())
	rs.arguments(&w)
	return w.String()
}

func (rs *RuleSpec) arguments(w *words) {
	switch rs.Then {
	case ActMark:
		w.add(MarkMatch{rs.Mark, rs.MarkMask}.String())
	case ActZone:
		w.add(strconv.Itoa(int(rs.Zone)))
	}
	w.destination(rs)
	w.source(rs)
	if rs.Timeouts != nil {
		w.add("timeout " + timeoutsText(rs.Timeouts))
	}
}

type words struct{ strings.Builder }

func (w *words) add(s string) {
	if w.Len() > 0 {
		w.WriteByte(' ')
	}
	w.WriteString(s)
}

// condition adds "name value,value" or "name !value,value".
func condition[T any](w *words, name string, m *Match[T], text func(T) string) {
	if m.IsAny() {
		return
	}
	not := ""
	if m.Sense == IsNot {
		not = "!"
	}
	w.add(name + " " + not + join(m.Values, text))
}

func join[T any](values []T, text func(T) string) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = text(v)
	}
	return strings.Join(parts, ",")
}

func identity(s string) string { return s }

// ProtoName returns the name of an IP protocol as rules spell it: its number if
// it has no name.
func ProtoName(proto uint8) string {
	switch name := tuple.ProtoName(proto); {
	case name != "unknown":
		return name
	case proto == 50:
		return "esp"
	case proto == 51:
		return "ah"
	}
	return strconv.Itoa(int(proto))
}

// RangeText returns the shortest form of r: address, prefix or range.
func RangeText(r nat.AddrRange) string {
	if r.First == r.Last {
		return r.First.String()
	}
	if p, ok := PrefixOf(r); ok {
		return p.String()
	}
	return r.String()
}

// PrefixOf returns the prefix that has the addresses of r, if there is one.
func PrefixOf(r nat.AddrRange) (netip.Prefix, bool) {
	first := r.First.Netip()
	for bits := range first.BitLen() + 1 {
		if p := netip.PrefixFrom(first, bits); Prefix(p) == r {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// String returns "type" or "type/code" or "type/code-code".
func (i ICMPType) String() string {
	switch {
	case i.MinCode == 0 && i.MaxCode == 255:
		return strconv.Itoa(int(i.Type))
	case i.MinCode == i.MaxCode:
		return fmt.Sprintf("%d/%d", i.Type, i.MinCode)
	}
	return fmt.Sprintf("%d/%d-%d", i.Type, i.MinCode, i.MaxCode)
}

// String returns "0xvalue" or "0xvalue/0xmask".
func (m MarkMatch) String() string {
	if m.Mask == 0xffffffff {
		return fmt.Sprintf("0x%x", m.Value)
	}
	return fmt.Sprintf("0x%x/0x%x", m.Value, m.Mask)
}

// String returns "value" or "first-last".
func (r ByteRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}
