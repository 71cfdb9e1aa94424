package dataplane

import (
	"errors"
	"iter"
	"slices"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// Image is the state of flows as it outlives an engine. Origin and Helpers say what
// the numbers in it mean. The sequences can be walked more than once, and what they
// yield is valid until the next step.
type Image struct {
	conntrack.Origin
	Helpers []string // names by number

	Flows   iter.Seq[*conntrack.Saved]
	Expects iter.Seq[*conntrack.SavedExpect]
	Kept    iter.Seq[*ports.Saved] // ports that nobody has and that are kept for who had them
}

// Image returns the state of the engine's flows. Workers go on while it is walked:
// flows that begin or end meanwhile may or may not be in it.
func (e *Engine) Image() Image {
	im := Image{
		Origin: conntrack.Origin{Policies: e.table.Policies()},
		Flows:  func(yield func(*conntrack.Saved) bool) { e.table.Save(yield) },
		Expects: func(yield func(*conntrack.SavedExpect) bool) {
			all := e.table.SaveExpects()
			for i := range all {
				if !yield(&all[i]) {
					return
				}
			}
		},
		Kept: func(yield func(*ports.Saved) bool) { e.leases.EachKept(yield) },
	}
	if e.helpers.set != nil {
		im.Helpers = e.helpers.set.All()
	}
	return im
}

// Restored says what became of an image.
type Restored struct {
	Flows, Expectations, Ports int // that are there again
	Expired                    int // their time was over
	Taken                      int // their tuples, ports or masters are other flows', or gone
	Full                       int // there was no room for them
	Torn                       int // their records made no sense
}

// Restore takes the flows of an image into the table, with the ports that they hold,
// then expectations and ports that are kept. Rules are not asked: the flows were
// admitted. The engine has a view; it may run. An error: nothing was restored.
func (e *Engine) Restore(im *Image) (Restored, error) {
	v, now := e.view.Load(), tickAt(e.Now())
	a, err := e.table.Adopt(&im.Origin, v.prog.Generation, now)
	if err != nil {
		return Restored{}, err
	}
	r := restoring{e: e, v: v, im: im, adoption: a, now: now, court: e.newCourt(v)}
	for rank := range conntrack.Ranks {
		for s := range im.Flows {
			if s.Rank() == rank {
				r.flow(s)
			}
		}
	}
	for x := range im.Expects {
		r.expect(x)
	}
	for l := range im.Kept {
		r.kept(l)
	}
	return r.did, nil
}

// restoring is a Restore under way.
type restoring struct {
	e        *Engine
	v        *view
	im       *Image
	adoption *conntrack.Adoption
	now      conntrack.Tick
	court    court
	did      Restored
}

// flow restores a flow: its leases first, as admit does.
func (r *restoring) flow(s *conntrack.Saved) {
	if err := r.adoption.Verify(s); err != nil {
		r.count(err)
		return
	}
	original, reply, use := s.Tuple(tuple.Original), s.Tuple(tuple.Reply), ports.Use(s.Holds())
	ends := ports.Of(&original, &reply, use)
	if !r.take(&ends, use, s.Rule()) {
		return
	}
	if err := r.adoption.Flow(s, r.helperOf(s)); err != nil {
		if use != ports.NoUse {
			r.e.leases.Abandon(&ends, use, ports.Tick(r.now))
		}
		r.count(err)
		return
	}
	r.did.Flows++
	if original.Proto == tuple.GRE && original.SrcPort|original.DstPort != 0 {
		r.e.calls.add(original)
		r.e.calls.add(reply)
	}
}

// take takes the leases of what is restored under a rule, and reports whether it could.
func (r *restoring) take(ends *ports.Flow, use ports.Use, rule uint32) bool {
	if use == ports.NoUse {
		return true
	}
	var terms *ports.Terms
	if by := r.v.prog.Rule(rule); by != nil && by.List == rules.Snat {
		terms = &r.v.terms[by.Index]
	}
	switch r.e.leases.Resume(ends, use, terms, ports.Tick(r.now)) {
	case ports.Granted:
		return true
	case ports.Full:
		r.did.Full++
	default:
		r.did.Taken++
	}
	return false
}

// expect restores an expectation with what it promises.
func (r *restoring) expect(s *conntrack.SavedExpect) { r.expectBy(s, r.adoption.Expect) }

// expectBy is expect for who has the table take it by a method.
func (r *restoring) expectBy(s *conntrack.SavedExpect, take func(x *conntrack.SavedExpect, helper, child uint32) error) {
	x := &s.Expectation
	use := holds(x)
	ends := ends(x)
	if !r.take(&ends, use, 0) {
		return
	}
	if err := take(s, r.named(x.Helper), r.named(x.Child)); err != nil {
		if use != ports.NoUse {
			r.e.leases.Abandon(&ends, use, ports.Tick(r.now))
		}
		r.count(err)
		return
	}
	r.did.Expectations++
	if x.Tuple.Proto == tuple.GRE && x.Tuple.SrcPort != 0 && x.Flags&conntrack.ExpectInactive == 0 {
		r.e.calls.add(x.Tuple)
	}
}

// kept restores a port that is kept.
func (r *restoring) kept(l *ports.Saved) {
	if err := r.e.leases.Keep(l, ports.Tick(r.im.Shift), ports.Tick(r.now)); err != nil {
		r.count(err)
		return
	}
	r.did.Ports++
}

// count counts what was not restored.
func (r *restoring) count(err error) {
	switch {
	case errors.Is(err, conntrack.ErrTorn), errors.Is(err, ports.ErrTorn):
		r.did.Torn++
	case errors.Is(err, conntrack.ErrExpired), errors.Is(err, ports.ErrOver):
		r.did.Expired++
	case errors.Is(err, conntrack.ErrNoMemory), errors.Is(err, conntrack.ErrExpectFull), errors.Is(err, ports.ErrTooMany):
		r.did.Full++
	default:
		r.did.Taken++
	}
}

// helperOf returns the number that the helper of a flow has now: by the rules in force,
// as after a reload, or for a flow that was announced by its name alone.
func (r *restoring) helperOf(s *conntrack.Saved) uint32 {
	name := r.nameOf(s.Helper())
	if name == "" {
		return 0
	}
	if s.Expected() {
		return r.named(s.Helper())
	}
	var d rules.Decision
	f := conntrack.Flow{Tuple: [...]tuple.Tuple{s.Tuple(tuple.Original), s.Tuple(tuple.Reply)}}
	now, _ := r.court.decide(r.e, &f, &d)
	if number := r.e.helperBy(r.v, &now); r.e.helpers.set.Name(number) == name {
		return number
	}
	return 0
}

// nameOf returns the name of the helper with a number in the image.
func (r *restoring) nameOf(number uint32) string {
	if r.e.helpers.set == nil || int64(number) >= int64(len(r.im.Helpers)) {
		return ""
	}
	return r.im.Helpers[number]
}

// named returns a number of the helper that has this one in the image: one that a rule
// gives it, else with the default options.
func (r *restoring) named(number uint32) uint32 {
	name := r.nameOf(number)
	if name == "" {
		return 0
	}
	if i := slices.IndexFunc(r.v.helpers, func(n uint32) bool { return r.e.helpers.set.Name(n) == name }); i >= 0 {
		return r.v.helpers[i]
	}
	number, err := r.e.helpers.set.Number(name, alg.Options{})
	if err != nil {
		return 0 // this program does not have it
	}
	return number
}
