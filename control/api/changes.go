package api

import "fmt"

// Changes says which live flows the rules of a reload treat otherwise than they were
// treated, and what becomes of them.
type Changes struct {
	Flows       int            `json:"flows"` // that were looked at
	Kept        int            `json:"kept"`
	Ended       int            `json:"ended"`
	Reevaluated int            `json:"reevaluated"`
	Groups      []ChangedFlows `json:"groups"`           // by what differs and by rule, the largest first
	Sample      []ChangedFlow  `json:"sample,omitempty"` // some of them
}

// Changed returns how many flows differ.
func (c *Changes) Changed() int { return c.Kept + c.Ended + c.Reevaluated }

// Change is how flows differ.
type Change struct {
	What   string   `json:"what"`             // refused, other-destination, other-source, other-zone, other-helper
	Reason string   `json:"reason,omitempty"` // of refused; see Counter
	Old    *RuleRef `json:"old,omitempty"`    // rule that decided; none: the default
	New    *RuleRef `json:"new,omitempty"`    // rule that decides now
	Fate   string   `json:"fate"`             // keep, end, reevaluate; see on_change
}

// ChangedFlows are flows that differ in the same way.
type ChangedFlows struct {
	Change
	Flows int `json:"flows"`
}

// ChangedFlow is one of them.
type ChangedFlow struct {
	Change
	ID   uint32 `json:"id"`
	Flow string `json:"flow"` // original tuple

	Generation uint32 `json:"generation"` // of the rules that admitted it
}

// String says in words what the rules of the reload say: "refused (rule-denied) by 1
// filter dport 80 drop (culvert.toml:9), was 1 filter accept (culvert.toml:4)".
func (c *Change) String() string {
	text := c.What
	if c.Reason != "" {
		text += " (" + c.Reason + ")"
	}
	if c.New != nil {
		text += fmt.Sprintf(" by %v", c.New)
	}
	if c.Old != nil {
		text += fmt.Sprintf(", was %v", c.Old)
	}
	return text
}
