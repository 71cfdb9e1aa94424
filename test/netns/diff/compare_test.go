//go:build netns

package diff

import (
	"fmt"
	"slices"
	"strings"

	"example.com/culvert/test/netns"
)

// timeoutSlack is how far the seconds left of a flow may be apart: a second
// may end between the two lists.
const timeoutSlack = 1

// same reports whether both gateways did the same with a sequence.
func (t *trial) same() bool { return t.samePackets() && t.sameFlows() }

func (t *trial) samePackets() bool {
	return slices.Equal(t.outcomes[kernel].arrivals, t.outcomes[ours].arrivals)
}

// sameFlows compares lines without the use count, which is the kernel's affair. A
// flow with no more than a second to live may be in one table only.
func (t *trial) sameFlows() bool {
	alive := func(flows []netns.Flow) []netns.Flow {
		return slices.DeleteFunc(slices.Clone(flows), func(f netns.Flow) bool { return f.Timeout <= timeoutSlack })
	}
	if slices.EqualFunc(t.outcomes[kernel].flows, t.outcomes[ours].flows, sameFlow) {
		return true
	}
	return slices.EqualFunc(alive(t.outcomes[kernel].flows), alive(t.outcomes[ours].flows), sameFlow)
}

func sameFlow(a, b netns.Flow) bool {
	diff := int64(a.Timeout) - int64(b.Timeout)
	return diff >= -timeoutSlack && diff <= timeoutSlack && words(a) == words(b)
}

// words is a flow line without its timeout and use count.
func words(f netns.Flow) string {
	w := strings.Fields(f.Line)
	if len(w) > 2 {
		w = slices.Delete(w, 2, 3)
	}
	return strings.Join(slices.DeleteFunc(w, func(s string) bool { return strings.HasPrefix(s, "use=") }), " ")
}

// at returns what came out at a step.
func (o *outcome) at(step int) []arrival {
	var all []arrival
	for _, a := range o.arrivals {
		if a.step == step {
			all = append(all, a)
		}
	}
	return all
}

// script is the trial as somebody wants to read it: what was sent, what came
// of it where the gateways differ, and the flows.
func (t *trial) script() string {
	var b strings.Builder
	c := t.slot.ends(client, t.family)
	fmt.Fprintf(&b, "# sequence %d, %v, %v to %v\n", t.number, t.family, c.src, c.dst)
	for i, e := range t.events {
		if e.step >= ageStep && (i == 0 || t.events[i-1].step < ageStep) {
			fmt.Fprintf(&b, "--  %v pass\n", age)
		}
		fmt.Fprintf(&b, "%2d  %v> %v%v\n", e.step, e.from, e.what, e.ip)
		k, o := t.outcomes[kernel].at(e.step), t.outcomes[ours].at(e.step)
		if slices.Equal(k, o) {
			fmt.Fprintf(&b, "    %s\n", summary(k))
			continue
		}
		fmt.Fprintf(&b, "    kernel:  %s\n    culvert: %s   <<<\n", summary(k), summary(o))
		if len(k) == 1 && len(o) == 1 {
			fmt.Fprintf(&b, "      %x\n      %x\n", k[0].ip, o[0].ip)
		}
	}
	lines := func(name string, flows []netns.Flow) {
		for _, f := range flows {
			fmt.Fprintf(&b, "flow %s %s\n", name, f.Line)
		}
	}
	if t.sameFlows() {
		lines("both   ", t.outcomes[ours].flows)
	} else {
		lines("kernel ", t.outcomes[kernel].flows)
		lines("culvert", t.outcomes[ours].flows)
	}
	return b.String()
}

// summary says how many packets came out where.
func summary(all []arrival) string {
	if len(all) == 0 {
		return "nothing"
	}
	var words []string
	for _, a := range all {
		words = append(words, fmt.Sprintf("%d bytes to the %v", len(a.ip), a.at))
	}
	return strings.Join(words, ", ")
}
