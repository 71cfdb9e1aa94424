package conntrack

import "fmt"

// maxPolicies is how many different sets of timeouts rules may use.
const maxPolicies = 1 << 16

// policies are the sets of timeouts that rules asked for. Flows keep the number
// of theirs, so a set is never changed and never taken away.
type policies struct {
	timeouts []Timeouts
	ticks    []idleTicks
}

// Policy returns the number of a set of timeouts for Proposal.Policy: the
// same number for the same set. Zero fields are those of the table. It may be
// called while packets pass; there can be 65,535 different sets.
func (t *Table) Policy(timeouts Timeouts) (uint32, error) {
	timeouts = timeouts.or(&t.cfg.Timeouts)
	if timeouts == t.cfg.Timeouts {
		return 0, nil
	}
	t.control.mu.Lock()
	defer t.control.mu.Unlock()
	old := t.policies.Load()
	for i := range old.timeouts {
		if old.timeouts[i] == timeouts {
			return uint32(i), nil
		}
	}
	if len(old.timeouts) == maxPolicies {
		return 0, fmt.Errorf("conntrack: more than %d different sets of timeouts", maxPolicies-1)
	}
	if err := t.keepPolicy(len(old.timeouts), &timeouts); err != nil {
		return 0, err
	}
	t.policies.Store(&policies{
		timeouts: append(old.timeouts[:len(old.timeouts):len(old.timeouts)], timeouts),
		ticks:    append(old.ticks[:len(old.ticks):len(old.ticks)], timeouts.ticks()),
	})
	return uint32(len(old.timeouts)), nil
}

// policy returns the timeouts with number n.
func (t *Table) policy(n uint32) *idleTicks { return &t.policies.Load().ticks[n] }
