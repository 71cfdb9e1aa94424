package control

import (
	"fmt"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// maxPastRules bounds how many rules that are no longer in force are remembered for
// the flows that they have made.
const maxPastRules = 4096

// origins are the rules that live flows may have been made by. Immutable.
type origins struct {
	rules map[uint32]*rules.Rule
	past  []*rules.Rule // no longer in force, those that left last first
}

// next returns the origins once p is in force.
func (o *origins) next(p *rules.Program) *origins {
	n := &origins{rules: make(map[uint32]*rules.Rule, len(o.rules))}
	for _, r := range p.Rules() {
		n.rules[r.ID] = r
	}
	keep := func(r *rules.Rule) {
		if n.rules[r.ID] == nil && len(n.past) < maxPastRules {
			n.rules[r.ID] = r
			n.past = append(n.past, r)
		}
	}
	before := make(map[uint32]struct{}, len(o.past))
	for _, r := range o.past {
		before[r.ID] = struct{}{}
	}
	for id, r := range o.rules {
		if _, gone := before[id]; !gone {
			keep(r)
		}
	}
	for _, r := range o.past {
		keep(r)
	}
	return n
}

// Why says who made a flow.
func (g *Gateway) Why(f *conntrack.Flow) api.Why {
	why := api.Why{Generation: f.Generation, PortChoice: nat.Choice(f.Choice).String()}
	if f.Rule == 0 {
		return why
	}
	r := g.current.Load().origins.rules[f.Rule]
	if r == nil {
		why.Rule = fmt.Sprintf("%#x", f.Rule) // it left long ago
		return why
	}
	why.Rule, why.Text, why.Position = r.Name, r.Text, position(r)
	if why.Rule == "" {
		why.Rule = fmt.Sprintf("%v/%d", r.List, r.Pos)
	}
	return why
}

// InsertFlow makes a flow without a packet.
func (g *Gateway) InsertFlow(in *api.Insertion) error {
	if g.current.Load().generation == 0 {
		return ErrNotRunning
	}
	to := dataplane.Insertion{Insertion: in.Insertion}
	if in.AnyPort {
		to.Move = dataplane.MovedIfTaken
	}
	return g.engine.Insert(&to)
}
