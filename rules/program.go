package rules

import (
	"errors"
	"fmt"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// Rule is a rule of a Program.
type Rule struct {
	ID     uint32 // hash of the list and Text, never 0: the same rule has it in every generation
	Index  uint32 // dense index over all lists, 0 <= Index < len(Program.Rules()); see Hits
	List   List
	Pos    int // position in its list, from 1
	Name   string
	Source Location
	Text   string // normal form, without name and comment

	match   matcher
	then    Action
	counter int16 // in Program.counters, -1: none
	logPace pace
	spec    *RuleSpec
}

// String returns the line that culvert check prints: position, list, text.
func (r *Rule) String() string { return fmt.Sprintf("%d %s %s", r.Pos, r.List, r.Text) }

// Action returns what r does.
func (r *Rule) Action() Action { return r.then }

// OnChange returns what becomes of live flows of r that a reload treats otherwise.
func (r *Rule) OnChange() OnChange { return r.spec.OnChange }

// Timeouts returns the timeouts that r gives to the flows it applies to, nil if
// it leaves them alone. Zero fields are the table's. The caller must not change
// them.
func (r *Rule) Timeouts() *conntrack.Timeouts { return r.spec.Timeouts }

// NewSource returns how r, an snat rule, translates sources. The caller must not
// change it.
func (r *Rule) NewSource() *nat.Source { return &r.spec.Src }

// Helper returns the helper that r gives to the flows it applies to, "" if it
// leaves them alone.
func (r *Rule) Helper() (name string, o alg.Options) { return r.spec.Helper, r.spec.HelperOptions }

// Counter returns the name of the counter that r counts on, "" if none.
func (r *Rule) Counter() string { return r.spec.Count }

// LogPrefix returns what the lines begin with that r logs, "" if it logs none.
func (r *Rule) LogPrefix() string {
	if r.spec.Log == nil {
		return ""
	}
	return r.spec.Log.Prefix
}

// translates reports whether r is a dnat rule that changes the packet.
func (r *Rule) translates() bool { return r.List == Dnat && r.spec.TranslatesDestination() }

// Hairpins reports whether r is a dnat rule that holds for inside hosts that use
// the outside address, too.
func (r *Rule) Hairpins() bool { return r.translates() && r.spec.Hairpin == Hairpinned }

// NamesDestination reports whether r looks for particular destinations.
func (r *Rule) NamesDestination() bool {
	return !r.spec.If.Dst.IsAny() && r.spec.If.Dst.Sense == Is
}

// Program is a compiled ruleset. It is immutable, so any number of goroutines
// may use it; it is replaced as a whole.
type Program struct {
	Generation uint32

	areas     []Area
	portArea  [MaxPorts]AreaID
	lists     [NumLists][]*Rule
	index     [NumLists]index
	all       []*Rule
	byID      map[uint32]*Rule
	windows   []Window // of all rules, each once
	windowOf  map[string]int32
	counters  []string // of all rules, each once
	counterOf map[string]int16
	follow    Scope   // PerPacket: some filter rule may treat established packets differently
	judged    uint8   // 1<<State: some filter rule may apply to its packets
	turns     [2]bool // by Delivery: see TurnsRound
}

// Errors of Compile. They are wrapped with the rule's position.
var (
	ErrArea     = errors.New("unknown area")
	ErrPort     = errors.New("port index out of range, or bound twice")
	ErrFamilies = errors.New("addresses of both families in one rule")
	ErrAction   = errors.New("action does not belong in this list")
	ErrSet      = errors.New("no such set, or one that holds something else")
	ErrCounters = errors.New("too many counters")
)

// Compile binds spec to the interfaces of b. The Program keeps spec's rules: the
// caller must not change them any more. Rules that name an interface which b does
// not have match nothing there; compile again when it appears.
func Compile(spec *Spec, b *Binding, generation uint32) (*Program, error) {
	p := &Program{Generation: generation, areas: spec.Areas, byID: map[uint32]*Rule{}, windowOf: map[string]int32{}, counterOf: map[string]int16{}}
	if len(spec.Areas) < int(NumWellKnown) || len(spec.Areas) > maxAreas {
		return nil, fmt.Errorf("%d areas, want %d to %d", len(spec.Areas), NumWellKnown, maxAreas)
	}
	bound := [MaxPorts]bool{HostPort: true}
	for _, port := range b.Ports {
		area, ok := spec.AreaID(port.Area)
		if !ok {
			return nil, fmt.Errorf("interface %s: area %q: %w", port.Name, port.Area, ErrArea)
		}
		if port.Index >= MaxPorts || bound[port.Index] {
			return nil, fmt.Errorf("interface %s: port %d: %w", port.Name, port.Index, ErrPort)
		}
		bound[port.Index] = true
		p.portArea[port.Index] = area
	}
	for list := range NumLists {
		for i := range spec.Lists[list] {
			rs := &spec.Lists[list][i]
			r, err := p.compileRule(spec, b, list, rs)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %s rule %d: %w", rs.Source.File, rs.Source.Line, list, i+1, err)
			}
			p.add(r)
		}
		p.index[list] = newIndex(p.lists[list])
	}
	return p, nil
}

func (p *Program) compileRule(spec *Spec, b *Binding, list List, rs *RuleSpec) (*Rule, error) {
	if !allowed[list][rs.Then] {
		return nil, fmt.Errorf("%s: %w", rs.Then, ErrAction)
	}
	r := &Rule{List: list, Pos: len(p.lists[list]) + 1, Name: rs.Name, Source: rs.Source, Text: rs.Text(), then: rs.Then, spec: rs}
	var err error
	if r.match, err = compileMatch(spec, b, rs); err != nil {
		return nil, err
	}
	if list == Filter && rs.Then == ActAccept {
		r.match.spareInvalid(&rs.If)
	}
	r.match.window = p.window(&rs.If.Window)
	if rs.Log != nil {
		r.logPace = rs.Log.Rate.pace()
	}
	r.counter, err = p.counter(rs.Count)
	return r, err
}

// MaxCounters bounds how many different counters the rules of a Program name.
const MaxCounters = 4096

// window returns the number of w among the windows of p.
func (p *Program) window(w *Window) int32 {
	if w.IsAny() {
		return 0
	}
	n, known := p.windowOf[w.text()]
	if !known {
		n = int32(len(p.windows))
		p.windowOf[w.text()] = n
		p.windows = append(p.windows, *w)
	}
	return n
}

// counter returns the number of a counter of p, -1 for "".
func (p *Program) counter(name string) (int16, error) {
	if name == "" {
		return -1, nil
	}
	n, known := p.counterOf[name]
	switch {
	case known:
	case len(p.counters) == MaxCounters:
		return 0, ErrCounters
	default:
		n = int16(len(p.counters))
		p.counterOf[name] = n
		p.counters = append(p.counters, name)
	}
	return n, nil
}

// add appends r to its list and gives it its numbers.
func (p *Program) add(r *Rule) {
	r.ID = ruleID(r.List, r.Text)
	for p.byID[r.ID] != nil || r.ID == 0 {
		r.ID++ // two texts with one hash, or one rule twice
	}
	r.Index = uint32(len(p.all))
	p.byID[r.ID] = r
	p.all = append(p.all, r)
	p.lists[r.List] = append(p.lists[r.List], r)
	if c := &r.spec.If; r.Hairpins() && !(c.In.IsAny() && c.InArea.IsAny()) {
		p.turns[ToLocal] = true
		p.turns[Forward] = p.turns[Forward] || r.NamesDestination()
	}
	if r.List != Filter {
		return
	}
	p.judges(&r.match)
	if r.changes() {
		p.follow = PerPacket
	}
}

// TurnsRound reports whether a dnat rule for packets from some interfaces may hold
// for packets from inside, too (see Hairpin): to the gateway's own addresses, or
// to others.
func (p *Program) TurnsRound(d Delivery) bool { return p.turns[d] }

// ruleID hashes a rule's content (FNV-1a).
func ruleID(list List, text string) uint32 {
	h := uint32(2166136261)
	for _, s := range [...]string{list.String(), " ", text} {
		for i := range len(s) {
			h = (h ^ uint32(s[i])) * 16777619
		}
	}
	return h
}

// allowed says which actions a list takes.
var allowed = [NumLists][numActions]bool{
	Pre: {ActAccept: true, ActMark: true, ActCount: true, ActLog: true, ActZone: true, ActNoTrack: true},
	Dnat: {ActNone: true, ActMark: true, ActCount: true, ActLog: true, ActHelper: true, ActTimeout: true,
		ActDnat: true, ActRedirect: true, ActNetmap: true, ActNPTv6: true},
	Filter: {ActAccept: true, ActDrop: true, ActReject: true, ActMark: true, ActCount: true, ActLog: true,
		ActHelper: true, ActTimeout: true},
	Snat: {ActNone: true, ActMark: true, ActCount: true, ActLog: true, ActHelper: true, ActTimeout: true,
		ActSnat: true, ActMasquerade: true, ActNetmap: true, ActNPTv6: true},
}

// Allowed reports whether rules of list may have action a.
func Allowed(list List, a Action) bool { return a < numActions && allowed[list][a] }

// Rule returns the rule with the given id, nil if there is none.
func (p *Program) Rule(id uint32) *Rule { return p.byID[id] }

// Rules returns all rules by Rule.Index: list after list. The caller must not
// change the slice.
func (p *Program) Rules() []*Rule { return p.all }

// Len returns how many rules a list has. An engine need not call Pre when there
// are no pre rules.
func (p *Program) Len(list List) int { return len(p.lists[list]) }

// AreaOf returns the area of a bound port; AreaHost for HostPort and for ports
// that are not bound.
func (p *Program) AreaOf(port uint16) AreaID {
	if port >= MaxPorts {
		return AreaHost
	}
	return p.portArea[port]
}

// Area returns the properties of an area.
func (p *Program) Area(id AreaID) *Area { return &p.areas[id] }

// Follow says whether any filter rule may treat packets of an established flow
// in another way than its first packet. When it is PerFlow, established packets
// need not meet Filter.
func (p *Program) Follow() Scope { return p.follow }

// Pre walks the pre list: mark, zone and notrack. It runs before the lookup of
// the flow.
func (p *Program) Pre(k *Key, d *Decision) {
	d.PreRule = p.first(Pre, k, d)
	if d.PreRule == nil {
		return
	}
	switch d.PreRule.then {
	case ActZone:
		d.Zone, d.ZoneSide = d.PreRule.spec.Zone, d.PreRule.spec.ZoneSide
	case ActNoTrack:
		d.Tracking = NoTrack
	}
}

// Dnat walks the dnat list for the first packet of a flow. It returns nil when
// the destination stays. What it returns has no map.
func (p *Program) Dnat(k *Key, d *Decision) *nat.Destination {
	d.DnatRule = p.first(Dnat, k, d)
	if d.DnatRule == nil || d.DnatRule.then == ActNone {
		return nil
	}
	return d.DnatRule.spec.Dest.For(&k.Tuple)
}

// first returns the rule of a list that decides, nil if none does, after those
// before it that go on.
func (p *Program) first(list List, k *Key, d *Decision) *Rule {
	if len(p.lists[list]) == 0 {
		return nil
	}
	var c candidates
	p.candidates(list, k, &c)
	for r := c.next(); r != nil; r = c.next() {
		if !r.match.holds(k, d) || !d.grants(r, k) {
			continue
		}
		d.meet(r, k)
		if r.then.Terminal() {
			return r
		}
	}
	return nil
}

// Filter walks the filter list and, if no rule there decides, the default
// policy. See the package comment for which packets must meet it, and
// Decision.Scope for whether later packets of the flow must.
func (p *Program) Filter(k *Key, d *Decision) Verdict {
	d.Scope = PerFlow
	var c candidates
	p.candidates(Filter, k, &c)
	for r := c.next(); r != nil; r = c.next() {
		m := &r.match
		if !m.static(k) {
			continue
		}
		if k.State == Established && !r.touches() {
			continue // decides about flows, and this one is decided
		}
		if r.mayDiffer(k.State) {
			d.Scope = PerPacket
		}
		if !m.perPacket(k, d) || !d.grants(r, k) {
			continue
		}
		d.meet(r, k)
		if !r.then.Terminal() {
			continue
		}
		d.FilterRule = r
		if r.then == ActAccept && m.acceptMayEnd(k.State) {
			d.Scope = PerPacket
		}
		return r.verdict(k)
	}
	return p.policy(k, d)
}

// Settles reports whether later packets of the direction of a first one that the
// filter accepts need not meet it, although the verdict was for the one packet: once
// established they are accepted whatever they are. So "accept what is established,
// then what lan begins" costs the packets of a flow nothing.
func (p *Program) Settles(k *Key, d *Decision) bool {
	later, ask := *k, Decision{Page: d.Page, Purpose: Ask}
	later.State = Established
	return p.Filter(&later, &ask) == Accept && ask.Scope == PerFlow
}

// watches reports whether r wants to see each packet: it counts or logs them.
func (r *Rule) watches() bool { return r.spec.Count != "" || r.spec.Log != nil }

// touches reports whether a filter rule is for established packets, too.
func (r *Rule) touches() bool {
	return r.then == ActAccept || r.match.moving() || !r.then.Terminal() && r.watches()
}

// acts reports whether r does something with an established packet that the
// default policy would not do.
func (r *Rule) acts() bool {
	return (r.then != ActAccept || r.watches() || r.marks()) && r.touches() && r.match.admits(Established)
}

// marks reports whether r changes marks.
func (r *Rule) marks() bool { return r.spec.MarkMask|r.spec.PacketMark.Mask != 0 }

// mayDiffer reports whether a rule whose static fields hold could treat a later
// established packet of the same direction differently from this one, which has
// state s, or must see it.
func (r *Rule) mayDiffer(s State) bool {
	m := &r.match
	return r.acts() && (m.looksAt(fVolatile) || !m.admits(s) || r.watches())
}

// changes reports whether a filter rule may treat an established packet in
// another way than the first of its flow.
func (r *Rule) changes() bool {
	return r.mayDiffer(New) || r.acts() && r.match.looksAt(fDirection) || r.then == ActAccept && r.match.acceptMayEnd(New)
}

func (r *Rule) verdict(k *Key) Verdict {
	switch r.then {
	case ActAccept:
		return Accept
	case ActReject:
		if r.spec.Reject == RejectAuto && k.Tuple.Proto == tuple.TCP {
			return RejectReset
		}
		return ofRejection[r.spec.Reject]
	}
	return Drop
}

var ofRejection = [numRejections]Verdict{
	RejectAuto: RejectProhibited, WithReset: RejectReset, WithNoRoute: RejectNoRoute,
	WithHostUnreachable: RejectHost, WithPortUnreachable: RejectPort, WithAdminProhibited: RejectProhibited,
}

// Snat walks the snat list for the first packet of a flow, unless the dnat rule
// that it met gives it a source, too. It returns nil when the source stays; see
// nat.NullSearch. What it returns has no map.
func (p *Program) Snat(k *Key, d *Decision) *nat.Source {
	if r := d.DnatRule; r != nil && r.spec.Twice != nil {
		d.SnatRule = r
		return r.spec.Twice
	}
	d.SnatRule = p.first(Snat, k, d)
	if d.SnatRule == nil || d.SnatRule.then == ActNone {
		return nil
	}
	return d.SnatRule.spec.Src.For(&k.Tuple)
}

// Enter says that the mapping of a flow of r, nil if r is no more, lets the packet
// in: it counts for r.
func (d *Decision) Enter(r *Rule, k *Key) {
	d.Entry = ByMapping
	if r != nil {
		d.meet(r, k)
	}
}

// meet notes that r applies to the packet, and does what r does beside its action.
func (d *Decision) meet(r *Rule, k *Key) {
	if d.Page != nil && d.Purpose == Act {
		d.Page.enter(r, k, d.ApplyMark(k.Mark))
	}
	if d.Applied != nil {
		*d.Applied = append(*d.Applied, r)
	}
	rs := r.spec
	if rs.Timeouts != nil {
		d.TimeoutRule = r
	}
	if rs.Helper != "" {
		d.HelperRule = r
	}
	if r.marks() {
		d.Mark = d.Mark&^rs.MarkMask | rs.Mark
		d.Mark = d.Mark&^rs.PacketMark.Mask | rs.PacketMark.Value
		d.MarkMask |= rs.MarkMask | rs.PacketMark.Mask
		d.FlowMark = d.FlowMark&^rs.MarkMask | rs.Mark
		d.FlowMarkMask |= rs.MarkMask
	}
}
