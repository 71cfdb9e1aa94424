package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// Hairpin: a flow between inside hosts by an outside address (RFC 4787 REQ-9). It
// is treated as if it went out by the outside port that the address is behind,
// turned round there and came in again, without doing so:
//
//   - a dnat rule for packets from outside holds for it, if none for packets from
//     inside does (turnRound), or else the mapping of an inside host whose external
//     endpoint it is for, whatever that mapping's filtering: it comes from inside
//     (turnRoundByMapping);
//   - it gets the source that it would go out with, unless the snat list has
//     one for its real way (turnedSource). So the target answers to the gateway
//     even when it shares a link with the client, and under endpoint-independent
//     mapping it sees the client's mapping.
//
// For destinations other than the gateway's own addresses only a rule that names
// the destination counts: "port 443 from wan" says nothing about other servers.
//
// A flow that was turned round by a mapping holds the mapping of its sender, not the
// one it goes to: that ends with its own flows. The two hosts go on; a reload then
// finds that the flow would go elsewhere.

// masqueraded takes the address that it is told.
var masqueraded nat.Source

// turnRound returns what the dnat list has for a packet from inside that would
// come in again from outside, nil if nothing. It asks first, so that the rules
// count only what they decide about.
func (v *view) turnRound(f *first) *nat.Destination {
	if !v.fromInside(&f.key) || !v.prog.TurnsRound(f.key.Local) {
		return nil
	}
	out, own := v.outer(&f.key.Tuple.Dst)
	if out == nil {
		return nil
	}
	k, asked := f.key, *f.ruling
	k.In, k.InArea = out.id, out.area
	asked.Purpose = rules.Ask
	if v.prog.Dnat(&k, &asked) == nil {
		return nil
	}
	if r := asked.DnatRule; !r.Hairpins() || !own && !r.NamesDestination() {
		return nil
	}
	dst := v.prog.Dnat(&k, f.ruling)
	if f.ruling.DnatRule != asked.DnatRule {
		f.ruling.DnatRule = nil // a limit was reached between asking and deciding
		return nil
	}
	return dst
}

// turnRoundByMapping sends f to the inside endpoint whose external one it is for.
func (v *view) turnRoundByMapping(f *first, flow *ports.Flow) {
	k := &f.key
	out, _ := v.outer(&k.Tuple.Dst)
	if out == nil {
		return
	}
	inside, ok := v.leases.Owner(flow)
	if !ok || k.Local == rules.ToLocal && v.locallyTaken(f) {
		return
	}
	to := k.Tuple
	to.Dst, to.DstPort = inside.Addr, inside.Port
	f.redirect(to)
	f.dnat, f.turned = nat.Reused, out
}

// turnedSource returns the source of a flow that a dnat rule or a mapping keeps
// inside, and the address that masquerade means; nil if it keeps its own.
func (v *view) turnedSource(f *first) (*nat.Source, tuple.Addr, Reason) {
	if f.turned != nil {
		return v.sourceOutside(f, f.turned)
	}
	rule := f.ruling.DnatRule
	if rule == nil || !rule.Hairpins() || f.prop.Status&conntrack.DstNAT == 0 || f.egress.outside || !v.fromInside(&f.key) {
		return nil, tuple.Addr{}, None
	}
	was := &f.prop.Original
	out, own := v.outer(&was.Dst)
	switch {
	case out != nil && (own || rule.NamesDestination()):
		return v.sourceOutside(f, out)
	case f.egress.id == f.key.In: // the target would answer the client itself
		return sourceAt(&masqueraded, f.egress, was)
	}
	return nil, tuple.Addr{}, None
}

// sourceOutside returns the source that f would go out with by an outside port, to
// where it was sent: the address it was sent to if no rule has one.
func (v *view) sourceOutside(f *first, out *portEntry) (*nat.Source, tuple.Addr, Reason) {
	k, was := f.key, &f.prop.Original
	k.Tuple.Dst, k.Tuple.DstPort, k.Local = was.Dst, was.DstPort, rules.Forward
	k.Out, k.OutArea = out.id, out.area
	if src := v.prog.Snat(&k, f.ruling); src != nil {
		return sourceAt(src, out, was)
	}
	return &masqueraded, was.Dst, None
}

// sourceAt adds to src the one address that it has for t: for masquerade that of a
// port, for a netmap that of t's host.
func sourceAt(src *nat.Source, at *portEntry, t *tuple.Tuple) (*nat.Source, tuple.Addr, Reason) {
	if src.Fit != nat.Choose {
		addr, ok := src.Netmapped(t.Src)
		if !ok {
			return nil, addr, NoMapping
		}
		return src, addr, None
	}
	addr, ok := at.primary(t.Family)
	if !ok && src.Masquerade() {
		return nil, addr, SourceNeeded
	}
	return src, addr, None
}

// fromInside reports whether a packet comes from a host of an inside area.
func (v *view) fromInside(k *rules.Key) bool {
	return k.InArea != rules.AreaHost && v.prog.Area(k.InArea).Side == rules.Inside
}

// outer returns the outside port that a is behind, nil if there is none, and
// whether a is the gateway's own address there.
func (v *view) outer(a *tuple.Addr) (out *portEntry, own bool) {
	id, own := v.own(a)
	if own {
		out = v.portOf(id)
	} else {
		out = v.portTo(a)
	}
	if out == nil || !out.outside {
		return nil, own
	}
	return out, own
}
