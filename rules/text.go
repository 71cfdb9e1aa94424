package rules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"example.com/culvert/alg"
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
	condition(&w, "length", &c.Length, ShortRange.String)
	condition(&w, "ct-zone", &c.Zone, ShortRange.String)
	condition(&w, "direction", &c.Direction, tuple.Direction.String)
	condition(&w, "ct-helper", &c.Helper, identity)
	if window := c.Window.text(); window != "" {
		w.add(window)
	}
	if c.Limit != nil {
		w.add("limit " + c.Limit.String())
	}
	if c.Flows != nil {
		not := ""
		if c.Flows.Sense == IsNot {
			not = "!"
		}
		w.add(fmt.Sprintf("flows-per-source %s%d", not, c.Flows.Most))
	}
	if rs.Then.Terminal() {
		w.add(rs.Then.String())
	}
	rs.arguments(&w)
	rs.attributes(&w)
	return w.String()
}

func (rs *RuleSpec) arguments(w *words) {
	switch rs.Then {
	case ActReject:
		if rs.Reject != RejectAuto {
			w.add(rs.Reject.String())
		}
	case ActZone:
		w.add(strconv.Itoa(int(rs.Zone)))
		if rs.ZoneSide != ZoneBoth {
			w.add(rs.ZoneSide.String())
		}
	}
	w.destination(rs)
	w.source(rs)
}

// attributes adds what the rule does beside its action. Rules that have nothing
// else do the same whatever their action is called, and have the same text.
func (rs *RuleSpec) attributes(w *words) {
	if rs.MarkMask != 0 {
		w.add("mark " + MarkMatch{rs.Mark, rs.MarkMask}.String())
	}
	if rs.PacketMark.Mask != 0 {
		w.add("packet-mark " + rs.PacketMark.String())
	}
	if rs.Helper != "" {
		w.add("helper " + rs.Helper)
		for _, option := range HelperOptions {
			if *option.Of(&rs.HelperOptions) {
				w.add(option.Name)
			}
		}
	}
	if rs.Count != "" {
		w.add("count " + rs.Count)
	}
	if rs.Log != nil {
		w.add(fmt.Sprintf("log %q rate %s", rs.Log.Prefix, rs.Log.Rate))
	}
	if rs.Timeouts != nil {
		w.add("timeout " + timeoutsText(rs.Timeouts))
	}
	if rs.OnChange != ChangeDefault {
		w.add("on-change " + rs.OnChange.String())
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
	parts := make([]string, 0, len(m.Values)+len(m.Sets))
	for _, v := range m.Values {
		parts = append(parts, text(v))
	}
	for _, set := range m.Sets {
		parts = append(parts, "@"+set)
	}
	w.add(name + " " + not + strings.Join(parts, ","))
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

// String returns "value" or "first-last".
func (r ShortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// HelperOption is a switch of alg.Options as rules spell it.
type HelperOption struct {
	Name string
	Of   func(*alg.Options) *bool
}

// HelperOptions are all of them.
var HelperOptions = [...]HelperOption{
	{"foreign", func(o *alg.Options) *bool { return &o.Foreign }},
	{"low-ports", func(o *alg.Options) *bool { return &o.LowPorts }},
	{"any-signalling", func(o *alg.Options) *bool { return &o.AnySignalling }},
	{"any-media", func(o *alg.Options) *bool { return &o.AnyMedia }},
}
