package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/rules"
)

// invalid ends a packet that is no part of a flow and begins none; why is what is
// wrong with it. ref is the flow whose tuple it has, if there is one. Filter rules
// may count it, tell its sender, and let it pass.
func (w *Worker) invalid(p *packet.Packet, ref conntrack.Ref, why Reason, r role) {
	if !w.v.prog.Judges(rules.Invalid) || w.v.reversePath(p, r) != None {
		w.drop(why)
		return
	}
	d := w.reconsider()
	k := w.v.key(p, r, rules.Invalid)
	hop, _, unroutable := w.v.route(&k, d.ApplyMark(0), unknown)
	if unroutable != None {
		w.drop(why)
		return
	}
	switch verdict := w.v.prog.Filter(&k, d); verdict {
	case rules.Drop:
		w.drop(why)
	case rules.Accept:
		if !w.fitAsItIs(&k, ref, hop) {
			w.drop(Untranslated)
			return
		}
		w.forwardPlain(p, hop, r)
	default: // never a RST: it would end the connection that a forged segment names
		w.unreachable(p, ofReject[verdict], r)
		w.drop(RuleRejected)
	}
}

// fitAsItIs reports whether an invalid packet may go on untranslated. It may not
// when its flow, or the rules if it has none, would translate it: then it would show
// an inside address. Nor to the gateway itself, which would answer with a RST.
func (w *Worker) fitAsItIs(k *rules.Key, ref conntrack.Ref, hop *route.NextHop) bool {
	if hop.Port == HostPort {
		return false
	}
	if ref.Found() {
		e := w.e.table.Entry(ref.Slot)
		there, back := e.Tuple(tuple.Original), e.Tuple(tuple.Reply)
		plain, ok := there.Inverse()
		return ok && plain == back
	}
	return w.v.plain(k, &rules.Decision{Page: w.page, Purpose: rules.Ask})
}

// plain reports whether a packet goes on as it is, for all that snat rules say of it
// and of what it may belong to: an ICMP error is about a packet of another protocol,
// and shows an address that rules for that one translate.
func (v *view) plain(k *rules.Key, asked *rules.Decision) bool {
	as := *k
	for _, proto := range [...]uint8{k.Tuple.Proto, tuple.TCP, tuple.UDP, tuple.ICMP, tuple.ICMPv6} {
		if as.Tuple.Proto = proto; v.prog.Snat(&as, asked) != nil {
			return false
		}
	}
	return true
}
