package dataplane

import (
	"net/netip"
	"slices"

	"example.com/culvert/conntrack/tuple"
)

// TraceFilter says which packets a Trace is about: those for which everything holds
// that is set. The zero TraceFilter takes all.
//
// Addresses, ports and the protocol are held against the packet as it came, as it
// left or would have, and against the one that an ICMP error quotes: one of them has
// to have all that is asked for.
type TraceFilter struct {
	Family, Proto    uint8        // tuple.IPv4 or IPv6; 0: any
	Src, Dst         netip.Prefix // invalid: any
	Host             netip.Prefix // either end
	SrcPort, DstPort uint16       // 0: any; of ICMP there are none
	Port             uint16       // either end
	In, Out          string       // names of interfaces; "": any
	Interface        string       // either of the two
	Dropped          bool         // no packet that went on
	Reasons          []Reason     // empty: any
	Flow             uint32       // id of the flow; 0: any
	Helper           string       // of the flow; "": any
	Helped           bool         // only packets that its helper changed or announced something in
}

// has reports whether all that f says of tuples holds for t.
func (f *TraceFilter) has(t *tuple.Tuple) bool {
	if f.Family != 0 && t.Family != f.Family || f.Proto != 0 && t.Proto != f.Proto {
		return false
	}
	src, dst := t.Src.Netip(), t.Dst.Netip()
	if f.Src.IsValid() && !f.Src.Contains(src) || f.Dst.IsValid() && !f.Dst.Contains(dst) ||
		f.Host.IsValid() && !f.Host.Contains(src) && !f.Host.Contains(dst) {
		return false
	}
	if f.SrcPort|f.DstPort|f.Port == 0 {
		return true
	}
	return tuple.HasPorts(t.Proto) && (f.SrcPort == 0 || f.SrcPort == t.SrcPort) && (f.DstPort == 0 || f.DstPort == t.DstPort) &&
		(f.Port == 0 || f.Port == t.SrcPort || f.Port == t.DstPort)
}

// asksTuple reports whether f says anything of tuples.
func (f *TraceFilter) asksTuple() bool {
	return f.Family|f.Proto != 0 || f.Src.IsValid() || f.Dst.IsValid() || f.Host.IsValid() || f.SrcPort|f.DstPort|f.Port != 0
}

// wants reports whether f takes what a worker has in hand.
func (f *TraceFilter) wants(t *tracer) bool {
	w := &t.walk
	if f.Flow != 0 && (!w.flow.found || w.flow.id != f.Flow) {
		return false
	}
	if f.Helper != "" && (!w.flow.found || t.w.e.table.HelperName(w.flow.helper) != f.Helper) {
		return false
	}
	if f.Helped && w.told == nil {
		return false
	}
	if f.Dropped && w.drops == 0 || len(f.Reasons) > 0 && !slices.ContainsFunc(w.why[:min(w.drops, walkReasons)], func(r Reason) bool {
		return slices.Contains(f.Reasons, r)
	}) {
		return false
	}
	return f.wantsPorts(t) && (!f.asksTuple() || f.wantsTuple(t))
}

func (f *TraceFilter) wantsPorts(t *tracer) bool {
	if f.In == "" && f.Out == "" && f.Interface == "" {
		return true
	}
	in := t.v.nameOf(t.walk.in)
	leaves := func(name string) bool {
		return slices.ContainsFunc(t.sent, func(s traceSent) bool { return !s.answer && t.v.nameOf(s.out) == name })
	}
	return (f.In == "" || f.In == in) && (f.Out == "" || leaves(f.Out)) &&
		(f.Interface == "" || f.Interface == in || leaves(f.Interface))
}

func (f *TraceFilter) wantsTuple(t *tracer) bool {
	w := &t.walk
	if w.reached && f.has(&w.packet.Tuple) || t.quotes() && f.has(&w.packet.Embedded) {
		return true
	}
	if w.flow.found {
		if to, ok := w.flow.tuple[w.flow.dir.Other()].Inverse(); ok && f.has(&to) {
			return true
		}
	}
	for i := range t.sent {
		if f.has(&t.sent[i].tuple) {
			return true
		}
	}
	return false
}

// nameOf returns the name of a port, "" if there is no such port.
func (v *view) nameOf(id uint16) string {
	if p := v.portOf(id); p != nil {
		return p.name
	}
	return ""
}

// wantsRefused reports whether f takes packets that are not told one by one.
func (f *TraceFilter) wantsRefused(w *traceWalk) bool {
	if f.asksTuple() || f.Flow != 0 || f.Helper != "" || f.Helped || f.In != "" {
		return false
	}
	name := w.view.nameOf(w.in)
	return (f.Out == "" || f.Out == name) && (f.Interface == "" || f.Interface == name) &&
		(len(f.Reasons) == 0 || slices.Contains(f.Reasons, w.why[0]))
}
