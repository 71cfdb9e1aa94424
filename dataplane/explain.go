package dataplane

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// Probe is a packet that somebody wants to know the fate of.
type Probe struct {
	Tuple    tuple.Tuple // as received; DstPort of GRE is the call id that it names, 0 for none
	In       uint16      // port it comes in by; HostPort: the gateway's own stack sends it
	TCPFlags uint8       // 0: SYN
	TTL      uint8       // 0: 64
	TOS      uint8
	Length   uint16 // of the IP packet, bytes
	Mark     uint32 // of its flow, with Assume
	Assume   Assumption
}

// Assumption replaces the table's word on a Probe.
type Assumption uint8

const (
	AssumeNothing     Assumption = iota
	AssumeEstablished            // it belongs to a flow that has been answered and is not translated
	AssumeRelated                // it is the first one of a flow that some other announced
	AssumeInvalid                // the tracker does not like it
)

// Fate is what becomes of a packet.
type Fate uint8

const (
	Dropped Fate = iota
	Rejected
	Forwarded
	Delivered // to the gateway itself
	Kept      // for a while, for the address of its next hop or for other fragments; only of a packet that came
	numFates
)

var fateNames = [...]string{Dropped: "dropped", Rejected: "rejected", Forwarded: "forwarded", Delivered: "delivered", Kept: "kept"}

var _ [numFates]string = fateNames

func (f Fate) String() string { return fateNames[f] }

// Explanation says what becomes of a packet, step by step of its walk.
type Explanation struct {
	Steps  []ExplainedStep
	Fate   Fate
	Reason Reason       // why it goes no further
	Out    string       // the port it leaves by
	Leaves tuple.Tuple  // as it leaves
	Flow   *tuple.Tuple // original tuple of the flow it belongs to; nil: it begins one, or has none
	Choice nat.Choice   // why it leaves with its source port
}

// ExplainedStep is one step of the walk.
type ExplainedStep struct {
	Name  string
	Text  string
	Rules []*rules.Rule // that apply to the packet, in order
}

// PortTowards returns the port that packets from an address should come in by: where
// packets to it leave, HostPort for the gateway's own. It reports false when no
// route leads there.
func (e *Engine) PortTowards(a tuple.Addr) (uint16, bool) {
	v := e.view.Load()
	if _, own := v.own(&a); own {
		return HostPort, true
	}
	hop, ok := v.routeTo(&a)
	return hop.Port, ok
}

// Explain says what would become of a packet that came now. It runs what workers
// run (decide.go) over the rules, routes and flows in force and changes none of
// them: no rule is hit, no port claimed, no neighbour asked, no expectation used up.
// What it cannot know is chance, whose turn it is among balanced targets, whether a
// limit is reached (it takes none to be), and whether the tracker likes a packet's
// sequence numbers.
func (e *Engine) Explain(q *Probe) (Explanation, error) {
	x := explainer{e: e, v: e.view.Load(), q: *q}
	if x.in = x.v.portOf(q.In); x.in == nil {
		return Explanation{}, fmt.Errorf("there is no port %d", q.In)
	}
	x.p.Tuple, x.p.In, x.p.TTL, x.p.TOS = q.Tuple, q.In, q.TTL, q.TOS
	if x.p.TTL == 0 {
		x.p.TTL = 64
	}
	if q.In == HostPort {
		x.role = roleHost
	}
	x.p.End = int(q.Length)
	x.ruling = rules.Decision{Page: x.v.ledger.Reader(e.Now(), e.cfg.Wall()), Purpose: rules.Ask, Applied: &x.applied}
	x.out.Reason = x.walk()
	x.end()
	return x.out, nil
}

// explainer takes a Probe through the walk.
type explainer struct {
	e      *Engine
	v      *view
	q      Probe
	in     *portEntry
	p      packet.Packet // with as much of q as the steps look at
	role   role
	ruling rules.Decision
	out    Explanation

	applied []*rules.Rule // since the last step
	egress  *portEntry
}

// say adds a step.
func (x *explainer) say(step, format string, args ...any) {
	x.out.Steps = append(x.out.Steps, ExplainedStep{Name: step, Text: fmt.Sprintf(format, args...)})
}

// ruled adds the step of a list, with the rules there that apply to the packet.
func (x *explainer) ruled(list rules.List, format string, args ...any) {
	x.say(list.String(), format, args...)
	step := &x.out.Steps[len(x.out.Steps)-1]
	for _, r := range x.applied {
		if r.List == list && !slices.Contains(step.Rules, r) {
			step.Rules = append(step.Rules, r)
		}
	}
}

// end says what the walk came to.
func (x *explainer) end() {
	switch {
	case x.out.Reason == RuleRejected:
		x.out.Fate = Rejected
	case x.out.Reason != None:
		x.out.Fate = Dropped
	case x.egress.id == HostPort:
		x.out.Fate = Delivered
	default:
		x.out.Fate = Forwarded
	}
	if x.egress != nil {
		x.out.Out = x.egress.name
	}
}

// walk is the walk of the packet, as in Worker.receive and Worker.finish.
func (x *explainer) walk() Reason {
	x.say("arrive", "on %s, area %s", x.in.name, x.v.prog.Area(x.in.area).Name)
	if x.v.groupAddressed(&x.p.Tuple) && !x.v.asksSubnet(&x.p, x.role) {
		return Multicast
	}
	if x.p.Tuple.Src == x.p.Tuple.Dst {
		return LandPacket
	}
	if why := martian(&x.p.Tuple); why != None {
		return why
	}
	flow, found := x.find(0)
	if x.v.prog.Len(rules.Pre) > 0 {
		k := x.v.key(&x.p, x.role, rules.New)
		k.Mark = flow.Mark
		x.v.prog.Pre(&k, &x.ruling)
		x.ruled(rules.Pre, "%s", x.preText(flow.Mark))
		if x.ruling.Tracking == rules.NoTrack {
			return x.untracked()
		}
		if x.ruling.Zone != 0 {
			flow, found = x.findZoned()
		}
	}
	if x.ofPPTP() {
		x.called()
	}
	switch x.q.Assume {
	case AssumeEstablished:
		x.say("lookup", "taken for a packet of an established flow")
		return x.known(&later{to: x.p.Tuple, state: rules.Established, mark: x.q.Mark, filtered: true})
	case AssumeRelated:
		x.say("lookup", "taken for the first packet of a flow that another one announced")
		return x.first()
	case AssumeInvalid:
		x.say("lookup", "taken for a packet that the tracker does not like")
		return x.invalid(InvalidState)
	}
	if !found {
		x.say("lookup", "no flow has it")
		return x.first()
	}
	dir := tuple.Original
	if flow.Tuple[dir] != x.p.Tuple {
		dir = tuple.Reply
	}
	x.out.Flow = &flow.Tuple[tuple.Original]
	x.say("lookup", "%s direction of %s%s", dir, strings.TrimSpace(string(ctfmt.AppendList(nil, &flow, ctfmt.Options{}))), x.by(flow.Rule))
	l := later{
		dir: dir, state: ruleState(flow.Status, dir), mark: x.ruling.ApplyFlowMark(flow.Mark),
		hint: route.Hint(flow.Hint[dir]), back: route.Hint(flow.Hint[dir.Other()]),
		filtered: flow.User&perPacketFilter != 0,
	}
	l.to, _ = flow.Tuple[dir.Other()].Inverse()
	if master, err := x.e.table.Get(flow.Master); err == nil {
		l.helper = master.Helper
	}
	return x.known(&l)
}

// find looks the packet up in a zone.
func (x *explainer) find(zone uint16) (conntrack.Flow, bool) {
	x.inZone(zone)
	flow, err := x.e.table.Get(x.p.Tuple)
	return flow, err == nil
}

// inZone puts the packet into a zone. One of PPTP gets the ids of its call there.
func (x *explainer) inZone(zone uint16) {
	x.p.Tuple.Zone = zone
	if x.ofPPTP() {
		x.e.calls.give(&x.p.Tuple, zone, x.q.Tuple.DstPort)
	}
}

// ofPPTP reports whether the packet names a call.
func (x *explainer) ofPPTP() bool { return x.q.Tuple.Proto == tuple.GRE && x.q.Tuple.DstPort != 0 }

// called says which call the packet is of.
func (x *explainer) called() {
	t, id := &x.p.Tuple, x.q.Tuple.DstPort
	switch {
	case t.DstPort == 0:
		x.say("call", "none that %v takes part in has id %d: known by its addresses, as other gre", t.Dst, id)
	case x.q.Tuple.SrcPort != 0 && x.q.Tuple.SrcPort != t.SrcPort:
		x.say("call", "%d of %v, which is %d of %v, not %d", id, t.Dst, t.SrcPort, t.Src, x.q.Tuple.SrcPort)
	default:
		x.say("call", "%d of %v, which is %d of %v", id, t.Dst, t.SrcPort, t.Src)
	}
}

// findZoned is Worker.findZoned.
func (x *explainer) findZoned() (conntrack.Flow, bool) {
	zone, other := x.ruling.ZoneOf(tuple.Original), x.ruling.ZoneOf(tuple.Reply)
	flow, found := x.find(zone)
	if !found && other != zone {
		if flow, found = x.find(other); !found {
			x.inZone(zone)
		}
	}
	return flow, found
}

// later is a packet of a flow.
type later struct {
	to         tuple.Tuple // as it leaves
	dir        tuple.Direction
	state      rules.State
	helper     string // that announced its flow
	mark       uint32
	hint, back route.Hint // cached next hops, of its direction and the other one
	filtered   bool       // packets of its flow meet the filter
}

func (x *explainer) preText(mark uint32) string {
	var said []string
	if x.ruling.MarkMask != 0 {
		said = append(said, fmt.Sprintf("mark %#x", x.ruling.ApplyMark(mark)))
	}
	if x.ruling.Zone != 0 {
		said = append(said, fmt.Sprintf("zone %d", x.ruling.Zone))
	}
	if x.ruling.Tracking == rules.NoTrack {
		said = append(said, "not tracked")
	}
	if len(said) == 0 {
		return "no rule changes anything"
	}
	return strings.Join(said, ", ")
}

// by names the rule with an id.
func (x *explainer) by(id uint32) string {
	if id == 0 {
		return ""
	}
	if r := x.v.prog.Rule(id); r != nil {
		return ", by " + RuleText(r)
	}
	return ", by a rule that is gone"
}

// RuleText returns a rule with where it is written: "2 filter dport 22 drop (culvert.toml:9)".
func RuleText(r *rules.Rule) string {
	if r.Source.Line == 0 {
		return r.String() + " (built in)"
	}
	return fmt.Sprintf("%s (%s:%d)", r, r.Source.File, r.Source.Line)
}

// known is Worker.known and Worker.forward.
func (x *explainer) known(l *later) Reason {
	_, settled := x.e.neigh.Valid(l.hint)
	back, answered := x.e.neigh.Valid(l.back)
	if !settled || x.role == roleWire && answered && back != x.p.In {
		if why := x.reversePath(); why != None {
			return why
		}
	}
	k := x.v.key(&x.p, x.role, l.state)
	k.Mark, k.Dir, k.Helper = l.mark, l.dir, l.helper
	was := x.e.lastWay(l.hint, new(last))
	hop, eg, why := x.v.routeAgain(&k, &x.ruling, &l.to, was)
	x.routed(&k, hop, eg, why)
	if why != None {
		return why
	}
	x.out.Leaves = l.to
	if x.v.prog.Follow() == rules.PerPacket && (l.filtered || !settled) || x.out.Flow == nil {
		if why := x.filter(&k); why != None {
			return why
		}
	} else {
		x.say("filter", "the verdict on the flow holds for its packets")
	}
	if cause := x.v.doomed(&x.p, &l.to, hop, was); !settled && cause != conntrack.Unspecified {
		x.say("end", "the flow ends with notice: %v", cause)
		return FlowEnded
	}
	return x.transmit()
}

// reversePath says so if the source may not be where the packet comes from.
func (x *explainer) reversePath() Reason {
	why := x.v.reversePath(&x.p, x.role)
	if why != None {
		x.say("source", "%v does not live behind %s", x.p.Tuple.Src, x.in.name)
	}
	return why
}

// untracked is Worker.untracked.
func (x *explainer) untracked() Reason {
	if why := x.reversePath(); why != None {
		return why
	}
	k := x.v.key(&x.p, x.role, rules.Untracked)
	hop, eg, why := x.v.route(&k, x.ruling.ApplyMark(0), unknown)
	x.routed(&k, hop, eg, why)
	if why != None {
		return why
	}
	if why := x.filter(&k); why != None {
		return why
	}
	x.out.Leaves = x.p.Tuple
	return x.transmit()
}

// invalid is Worker.invalid for a packet without a flow.
func (x *explainer) invalid(why Reason) Reason {
	if !x.v.prog.Judges(rules.Invalid) || x.v.reversePath(&x.p, x.role) != None {
		return why
	}
	k := x.v.key(&x.p, x.role, rules.Invalid)
	hop, eg, unroutable := x.v.route(&k, x.ruling.ApplyMark(0), unknown)
	x.routed(&k, hop, eg, unroutable)
	if unroutable != None {
		return why
	}
	switch x.filter(&k) {
	case None:
	case RuleRejected:
		return RuleRejected
	default:
		return why
	}
	if hop.Port == HostPort || !x.v.plain(&k, &rules.Decision{Page: x.ruling.Page, Purpose: rules.Ask}) {
		x.say("snat", "rules translate such packets when they are valid: it would show an inside address")
		return Untranslated
	}
	x.out.Leaves = x.p.Tuple
	return x.transmit()
}

// first is Worker.admit.
func (x *explainer) first() Reason {
	seg := conntrack.Segment{Flags: x.q.TCPFlags}
	if seg.Flags == 0 {
		seg.Flags = packet.SYN
	}
	seg.SCTP.Add(conntrack.ChunkInit, 0)
	if v := x.e.table.MayBegin(&x.p.Tuple, &seg); v.Invalid() {
		x.say("track", "it can not begin a flow")
		return x.invalid(ofVerdict[v])
	}
	if why := x.reversePath(); why != None {
		return why
	}
	f := first{key: x.v.key(&x.p, x.role, rules.New), in: x.p.In, role: x.role, ruling: &x.ruling, rnd: rand.NewPCG(rand.Uint64(), rand.Uint64())}
	var a conntrack.Announced
	switch {
	case x.q.Assume == AssumeRelated:
		f.key.State, f.key.Mark = rules.Related, x.q.Mark
	case x.e.table.Announced(f.key.Tuple, &a):
		f.expect(&a, x.e.table.HelperName(a.Helper))
		x.say("expect", "announced by %v: related, mark %#x", a.Master.Original, a.Mark)
	}
	why := x.v.decide(&f)
	x.decided(&f, why)
	if why != None {
		return why
	}
	if why := x.bind(&f); why != None {
		return why
	}
	return x.transmit()
}

// decided tells what decide has said.
func (x *explainer) decided(f *first, why Reason) {
	x.ruled(rules.Dnat, "%s", x.destinationText(f, why))
	if f.egress == nil && (why == SourceNeeded || why == NoMapping) {
		return
	}
	if f.egress == nil {
		x.routed(&f.key, f.hop, nil, why)
		return
	}
	x.routed(&f.key, f.hop, f.egress, None)
	x.filtered(&f.key, f.verdict)
	switch {
	case why == SourceNeeded:
		x.ruled(rules.Snat, "%s has no %s address to take the source from", f.egress.name, familyName(f.key.Tuple.Family))
	case why == NoMapping:
		x.ruled(rules.Snat, "the rule has no other source for %v", f.key.Tuple.Src)
	case why == None:
		x.ruled(rules.Snat, "%s", x.sourceText(f))
	}
}

func familyName(family uint8) string {
	if family == tuple.IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

func (x *explainer) destinationText(f *first, why Reason) string {
	before := &f.prop.Original
	switch {
	case why == NoMapping && f.egress == nil:
		return fmt.Sprintf("the rule has no other destination for %v", before.Dst)
	case why == SourceNeeded && f.egress == nil:
		return fmt.Sprintf("%s has no %s address to redirect to", x.in.name, familyName(before.Family))
	case f.heir.Says&nat.DstEnd != 0:
		return fmt.Sprintf("as its master: %s becomes %s", destinationText(before), destinationText(&f.key.Tuple))
	case f.prop.Status&conntrack.DstNATDone == 0:
		return "the destination stays"
	case f.dnat == nat.None || f.dnat == nat.AddressOnly:
		return fmt.Sprintf("%s becomes %s", destinationText(before), destinationText(&f.key.Tuple))
	}
	return fmt.Sprintf("%s becomes %s, port %s", destinationText(before), destinationText(&f.key.Tuple), f.dnat)
}

func destinationText(t *tuple.Tuple) string { return endText(t, t.Dst, t.DstPort) }
func sourceText(t *tuple.Tuple) string      { return endText(t, t.Src, t.SrcPort) }

func endText(t *tuple.Tuple, a tuple.Addr, port uint16) string {
	switch {
	case !tuple.HasPorts(t.Proto) && (t.Proto != tuple.GRE || port == 0):
		return a.String()
	case a.Is4():
		return fmt.Sprintf("%v:%d", a, port)
	}
	return fmt.Sprintf("[%v]:%d", a, port)
}

// routed says where the packet goes.
func (x *explainer) routed(k *rules.Key, hop *route.NextHop, eg *portEntry, why Reason) {
	x.egress = eg
	switch {
	case why == NoRoute:
		x.say("route", "none to %v", k.Tuple.Dst)
	case why != None:
		x.say("route", "to port %d, which is not there", hop.Port)
	case eg.id == HostPort:
		x.say("route", "%v is the gateway itself", k.Tuple.Dst)
	case eg.pointToPoint:
		x.say("route", "to %v by %s, area %s, point to point", k.Tuple.Dst, eg.name, x.v.prog.Area(eg.area).Name)
	default:
		next := hop.Neighbour(k.Tuple.Dst)
		link := "on the link of"
		if hop.Via {
			link = fmt.Sprintf("via %v by", next)
		}
		x.say("route", "to %v %s %s, area %s; neighbour %s", k.Tuple.Dst, link, eg.name, x.v.prog.Area(eg.area).Name, x.e.neigh.Peek(eg.id, next))
	}
}

// filter runs the filter for what is not the first packet of a flow.
func (x *explainer) filter(k *rules.Key) Reason {
	verdict := x.v.prog.Filter(k, &x.ruling)
	x.filtered(k, verdict)
	if verdict != rules.Accept {
		return refusal(verdict, k, &x.ruling)
	}
	return None
}

// filtered says what the filter said.
func (x *explainer) filtered(k *rules.Key, verdict rules.Verdict) {
	scope := ""
	if x.ruling.Scope == rules.PerPacket {
		scope = "; later packets meet the filter again"
	}
	if x.ruling.FilterRule != nil {
		x.ruled(rules.Filter, "%s%s", verdict, scope)
		return
	}
	x.ruled(rules.Filter, "%s by the default policy: %s, %s to %s%s", verdict, k.State,
		x.v.prog.Area(k.InArea).Name, x.v.prog.Area(k.OutArea).Name, scope)
}

func (x *explainer) sourceText(f *first) string {
	switch {
	case f.heir.Says&nat.SrcEnd != 0:
		return "as its master"
	case f.prop.Status&conntrack.SrcNATDone == 0:
		return "the source stays"
	case x.ruling.SnatRule == nil:
		return "turned round inside: the source that it would have outside"
	case x.ruling.SnatRule.Action() == rules.ActMasquerade:
		return "masquerade as the address of " + f.egress.name
	}
	return "from the rule's addresses"
}

// transmit says how the packet leaves.
func (x *explainer) transmit() Reason {
	if x.role == roleWire && x.egress.id != HostPort && x.p.TTL <= 1 {
		return TTLExceeded
	}
	if x.egress.id != HostPort {
		x.say("transmit", "by %s, up to %d bytes", x.egress.name, x.egress.mtu)
	}
	return None
}
