package dataplane

import (
	"fmt"

	"example.com/culvert/conntrack"
	"example.com/culvert/rules"
)

// addPolicies makes the timeouts that rules ask for known to the table. Sets
// that were known before keep their numbers, so flows and later views share them.
func (v *view) addPolicies(table *conntrack.Table) error {
	v.policies = make([]uint32, len(v.prog.Rules()))
	for _, r := range v.prog.Rules() {
		t := r.Timeouts()
		if t == nil {
			continue
		}
		n, err := table.Policy(*t)
		if err != nil {
			return fmt.Errorf("%s rule %d: timeout: %w", r.List, r.Pos, err)
		}
		v.policies[r.Index] = n
	}
	return nil
}

// policyOf returns the number of the timeouts that r gives, the table's own if r
// is nil.
func (v *view) policyOf(r *rules.Rule) uint32 {
	if r == nil {
		return 0
	}
	return v.policies[r.Index]
}
