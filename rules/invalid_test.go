package rules

import "testing"

func TestOnlyRulesThatNameInvalidAcceptIt(t *testing.T) {
	not := func(s ...State) Match[State] { return Match[State]{Sense: IsNot, Values: s} }
	for _, tt := range []struct {
		claim  string
		rule   RuleSpec
		want   Verdict
		judges bool
	}{
		{"its name lets it pass", RuleSpec{If: Conditions{State: is(Invalid)}, Then: ActAccept}, Accept, true},
		{"also among others", RuleSpec{If: Conditions{State: is(New, Invalid)}, Then: ActAccept}, Accept, true},
		{"accepting everything does not", RuleSpec{Then: ActAccept}, Drop, false},
		{"nor does accepting all but new", RuleSpec{If: Conditions{State: not(New)}, Then: ActAccept}, Drop, false},
		{"a reject of everything is for it, too", RuleSpec{Then: ActReject}, RejectReset, true},
		{"a reject of all but established as well", RuleSpec{If: Conditions{State: not(Established)}, Then: ActReject}, RejectReset, true},
		{"but not one of what is new", RuleSpec{If: Conditions{State: is(New)}, Then: ActReject}, Drop, false},
		{"a mark decides nothing", RuleSpec{Then: ActMark, Mark: 1, MarkMask: 1}, Drop, true},
	} {
		p := compile(t, map[List][]RuleSpec{Filter: {tt.rule}})
		k := key(p, 1, 2, Invalid)
		var d Decision
		if got := p.Filter(&k, &d); got != tt.want || p.Judges(Invalid) != tt.judges {
			t.Errorf("%s: %v, judged %t; want %v, %t", tt.claim, got, p.Judges(Invalid), tt.want, tt.judges)
		}
	}
	if p := compile(t, nil); p.Judges(Invalid) || p.Judges(New) {
		t.Error("without rules something is judged")
	}
}

func TestRulesThatSpareInvalidAcceptTheRest(t *testing.T) {
	p := compile(t, map[List][]RuleSpec{Filter: {{If: Conditions{InArea: is("wan")}, Then: ActAccept}}})
	for state := range numStates {
		k := key(p, 2, 1, state)
		var d Decision
		want := Accept
		if state == Invalid {
			want = Drop
		}
		if got := p.Filter(&k, &d); got != want || d.Scope != PerFlow {
			t.Errorf("%v: %v with scope %d, want %v for the flow", state, got, d.Scope, want)
		}
	}
	if p.Follow() != PerFlow {
		t.Error("established packets have to meet the filter")
	}
}
