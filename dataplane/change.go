package dataplane

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// A reload does not touch live flows: they were decided once. But then some may be
// what the new rules would not make them, and nobody would know. So every flow's
// first packet is put together again as far as it is remembered, and goes through
// decide under the new view. What the flow is, is compared with what it would be:
// whether it would be refused, and whether its destination and source are among
// those that the rules may give. That the same comes about by another rule makes no
// difference. What only the packet had (TTL, DSCP, length) is taken to be usual, a
// time window to be as now, and no limit to be reached. A flow without a helper gets none
// by a reload: it would begin in the middle.

// Difference says what the rules would do otherwise with a flow.
type Difference uint8

const (
	NoDifference     Difference = iota
	WouldBeRefused              // its first packet would go no further
	WouldGoElsewhere            // its destination is not one that the rules give: its dnat target is gone, or it gets one
	WouldLookOther              // its source is not one that the rules give
	WouldBeTracked              // in another zone, or not at all
	WouldBeHelped               // it has a helper, and would get none, another one, or other options
	numDifferences
)

var differenceNames = [...]string{
	NoDifference: "none", WouldBeRefused: "refused", WouldGoElsewhere: "other-destination", WouldLookOther: "other-source",
	WouldBeTracked: "other-zone", WouldBeHelped: "other-helper",
}

var _ [numDifferences]string = differenceNames

func (d Difference) String() string { return differenceNames[d] }

// Change is what makes a live flow differ, and what becomes of it.
type Change struct {
	What   Difference
	Reason Reason      // of WouldBeRefused
	Old    *rules.Rule // that decided in this matter; nil: the default policy, or none
	New    *rules.Rule // that decides now
	Fate   rules.OnChange
}

// ChangedFlow is a flow that differs.
type ChangedFlow struct {
	Change
	Flow conntrack.Flow
}

// ChangedFlows are how many flows differ in the same way.
type ChangedFlows struct {
	Change
	Flows int
}

// Survey says which live flows the rules would treat otherwise.
type Survey struct {
	Flows  int            // all that were looked at
	Groups []ChangedFlows // the largest first
	Sample []ChangedFlow  // the first ones found
}

// Changed returns how many flows differ.
func (s *Survey) Changed() (n int) {
	for i := range s.Groups {
		n += s.Groups[i].Flows
	}
	return n
}

// Meet returns how many flows meet a fate.
func (s *Survey) Meet(fate rules.OnChange) (n int) {
	for i := range s.Groups {
		if s.Groups[i].Fate == fate {
			n += s.Groups[i].Flows
		}
	}
	return n
}

// Ruleset is what decided about flows at some time.
type Ruleset struct{ v *view }

// Ruleset returns what decides about flows now.
func (e *Engine) Ruleset() Ruleset { return Ruleset{e.view.Load()} }

// Foresee says which live flows st would treat otherwise than the rules in force,
// and what Settle would do with them. Nothing changes; ports need not be open. At
// most sample flows are returned.
func (e *Engine) Foresee(st State, sample int) (Survey, error) {
	v, err := e.describe(st, 0)
	if err != nil {
		return Survey{}, err
	}
	if err := v.addHelpers(e.helpers.set); err != nil {
		return Survey{}, err
	}
	v.policies = make([]uint32, len(v.prog.Rules()))
	v.ledger = rules.NewLedger(v.prog, 0, nil, nil)
	j := e.newJury(e.view.Load(), v, sample)
	e.table.Dump(func(f *conntrack.Flow) bool {
		j.judge(f)
		return true
	})
	return j.result(), nil
}

// Settle finds the live flows that the rules in force treat otherwise than those of
// before did, and does with them as the rules say (rules.OnChange). Workers go on
// meanwhile. At most sample flows are returned.
func (e *Engine) Settle(before Ruleset, sample int) Survey {
	j := e.newJury(before.v, e.view.Load(), sample)
	e.End(func(f *conntrack.Flow) conntrack.Cause {
		if j.judge(f) == rules.EndFlows {
			return conntrack.RulesChanged
		}
		return conntrack.Unspecified
	})
	s := j.result()
	if s.Meet(rules.ReevaluateFlows) > 0 {
		again := e.newJury(before.v, j.now.v, 0)
		e.table.DeleteIf(func(f *conntrack.Flow) bool {
			return again.judge(f) == rules.ReevaluateFlows && !again.helpers.note(f)
		})
		again.helpers.settle(e)
	}
	return s
}

// otherHelpers are flows that go on with other helpers.
type otherHelpers struct {
	found uint32 // by the last judgement: number of the helper
	is    bool   // there was one
	flows []otherHelper
}

type otherHelper struct {
	flow   tuple.Tuple
	number uint32
}

// note reports whether a flow, which was just judged, gets another helper and no more.
func (o *otherHelpers) note(f *conntrack.Flow) bool {
	if o.is {
		o.flows = append(o.flows, otherHelper{f.Tuple[tuple.Original], o.found})
	}
	return o.is
}

// settle has the flows have their helpers. What the old ones have announced and has not
// begun is not expected any more.
func (o *otherHelpers) settle(e *Engine) {
	for _, x := range o.flows {
		_ = e.table.SetHelper(x.flow, x.number) // or it has ended
	}
	if len(o.flows) > 0 {
		e.helpers.follow(e.table)
	}
}

// jury compares flows with rules.
type jury struct {
	e        *Engine
	was, now court
	survey   Survey
	groups   map[Change]int
	sample   int
	helpers  otherHelpers
}

// court is a view with what deciding needs.
type court struct {
	v    *view
	page *rules.Page
	rnd  *rand.PCG
}

func (e *Engine) newCourt(v *view) court {
	return court{v, v.ledger.Reader(e.Now(), e.cfg.Wall()), rand.NewPCG(1, 1)}
}

func (e *Engine) newJury(was, now *view, sample int) *jury {
	return &jury{e: e, was: e.newCourt(was), now: e.newCourt(now), groups: make(map[Change]int), sample: sample}
}

// judge notes whether a flow differs, and returns its fate: ChangeDefault if it does
// not.
func (j *jury) judge(f *conntrack.Flow) rules.OnChange {
	j.survey.Flows++
	c := j.change(f)
	if c.What == NoDifference {
		return rules.ChangeDefault
	}
	j.groups[c]++
	if len(j.survey.Sample) < j.sample {
		j.survey.Sample = append(j.survey.Sample, ChangedFlow{c, *f})
	}
	return c.Fate
}

// result returns the survey.
func (j *jury) result() Survey {
	for c, n := range j.groups {
		j.survey.Groups = append(j.survey.Groups, ChangedFlows{c, n})
	}
	slices.SortFunc(j.survey.Groups, func(a, b ChangedFlows) int {
		return cmp.Or(b.Flows-a.Flows, int(a.What)-int(b.What), int(a.Reason)-int(b.Reason),
			cmp.Compare(idOf(a.Old), idOf(b.Old)), cmp.Compare(idOf(a.New), idOf(b.New)), int(a.Fate)-int(b.Fate))
	})
	return j.survey
}

func idOf(r *rules.Rule) uint32 {
	if r == nil {
		return 0
	}
	return r.ID
}

// change finds out how a flow differs.
func (j *jury) change(f *conntrack.Flow) (c Change) {
	var d rules.Decision
	now, why := j.now.decide(j.e, f, &d)
	c.What = difference(f, &now, why)
	if j.helpers.is = false; c.What == NoDifference && j.helped(f, &now) {
		c.What, j.helpers.is = WouldBeHelped, true
	}
	if c.What == NoDifference {
		return c
	}
	var then rules.Decision
	j.was.decide(j.e, f, &then)
	switch c.What {
	case WouldBeRefused:
		c.Reason = why
		c.Old, c.New = cmp.Or(then.FilterRule, then.DnatRule), d.FilterRule
	case WouldGoElsewhere:
		c.Old, c.New = then.DnatRule, d.DnatRule
	case WouldLookOther:
		c.Old, c.New = then.SnatRule, d.SnatRule
	case WouldBeTracked:
		c.Old, c.New = then.PreRule, d.PreRule
	case WouldBeHelped:
		c.Old, c.New = then.HelperRule, d.HelperRule
	}
	c.Fate = fateOf(f.Tuple[tuple.Original].Proto, &c)
	return c
}

// fateOf returns what becomes of a flow that differs: as the new rule says, or the
// old one, or the default.
func fateOf(proto uint8, c *Change) rules.OnChange {
	for _, r := range [...]*rules.Rule{c.New, c.Old} {
		if r != nil && r.OnChange() != rules.ChangeDefault {
			return r.OnChange()
		}
	}
	switch {
	case c.What == WouldBeHelped:
		return rules.ReevaluateFlows // it loses no packet: see otherHelpers
	case proto == tuple.TCP || proto == tuple.SCTP || proto == tuple.DCCP:
		return rules.KeepFlows // its hosts would not begin anew in the middle of it
	case c.What == WouldGoElsewhere:
		return rules.ReevaluateFlows
	}
	return rules.KeepFlows
}

// helped reports whether a flow that has a helper by a rule would have another one now,
// which goes on in the middle only if it is the same with other options.
func (j *jury) helped(f *conntrack.Flow, now *first) bool {
	if f.Attached == 0 || f.Status&conntrack.Expected != 0 {
		return false
	}
	set, number := j.e.helpers.set, j.e.helperBy(j.now.v, now)
	if number == f.Attached {
		return false
	}
	if j.helpers.found = number; set.Name(number) != f.Helper {
		j.helpers.found = 0
	}
	return true
}

// difference compares a flow with what was decided about its first packet.
func difference(f *conntrack.Flow, now *first, why Reason) Difference {
	if now.ruling.Tracking == rules.NoTrack || now.prop.Original.Zone != f.Tuple[tuple.Original].Zone {
		return WouldBeTracked
	}
	was := &f.Tuple[tuple.Original]
	is, _ := f.Tuple[tuple.Reply].Inverse()
	switch {
	case why != None:
		return WouldBeRefused
	case f.Status&conntrack.Expected != 0: // translated as its master was
		return NoDifference
	case now.dst == nil && !sameDestination(&is, &now.key.Tuple),
		now.dst != nil && !now.dst.Allows(was, is.Dst, is.DstPort, now.local):
		return WouldGoElsewhere
	case now.fits.Source == nil && is.Src != was.Src, // its port may have moved: it was taken
		now.fits.Source != nil && !allowsSource(&now.fits, &is):
		return WouldLookOther
	}
	return NoDifference
}

// allowsSource reports whether the rules may give the source of is.
func allowsSource(fits *ports.Fits, is *tuple.Tuple) bool {
	if !leasable(is.Proto) {
		return fits.Source.AllowsAddr(is.Src, fits.Egress)
	}
	return fits.Source.Allows(is.Src, is.SrcPort, fits.Egress)
}

// sameDestination compares destinations, with their ports where there are some.
func sameDestination(a, b *tuple.Tuple) bool {
	return a.Dst == b.Dst && (a.DstPort == b.DstPort || !tuple.HasPorts(a.Proto))
}

// decide says what would become of the first packet of a flow.
func (c *court) decide(e *Engine, f *conntrack.Flow, d *rules.Decision) (first, Reason) {
	*d = rules.Decision{Page: c.page, Purpose: rules.Ask}
	p := packet.Packet{Tuple: f.Tuple[tuple.Original], TTL: 64}
	p.Tuple.Zone = 0
	var r role
	p.In, r = c.v.cameBy(f, e.neigh)
	if c.v.prog.Len(rules.Pre) > 0 {
		k := c.v.key(&p, r, rules.New)
		c.v.prog.Pre(&k, d)
		p.Tuple.Zone = d.ZoneOf(tuple.Original)
	}
	x := first{key: c.v.key(&p, r, rules.New), in: p.In, role: r, ruling: d, rnd: c.rnd}
	x.prop.Original = x.key.Tuple
	if c.v.portOf(p.In) == nil {
		return x, EgressDown
	}
	if why := c.v.reversePath(&p, r); why != None || d.Tracking == rules.NoTrack {
		return x, why
	}
	if f.Status&conntrack.Expected == 0 {
		why := c.v.decide(&x)
		return x, why
	}
	to, _ := f.Tuple[tuple.Reply].Inverse()
	x.key.Tuple.Dst, x.key.Tuple.DstPort, x.key.State, x.key.Mark = to.Dst, to.DstPort, rules.Related, f.Mark
	if why := c.v.way(&x); why != None {
		return x, why
	}
	return x, c.v.admission(&x)
}

// cameBy returns by which port the first packet of a flow came: where its answers
// go, or would go.
func (v *view) cameBy(f *conntrack.Flow, neigh *route.Neighbours) (uint16, role) {
	src := &f.Tuple[tuple.Original].Src
	if _, own := v.own(src); own {
		return HostPort, roleHost
	}
	if port, _, known := neigh.Where(route.Hint(f.Hint[tuple.Reply])); known {
		return port, roleWire
	}
	hop, _ := v.routeTo(src)
	return hop.Port, roleWire
}
