package main

import (
	"strings"
	"testing"

	"example.com/culvert/control/api"
)

func TestExplanationIsPrintedStepByStep(t *testing.T) {
	x := api.Explanation{
		Packet: "tcp 10.0.0.5:40000 > 198.51.100.7:25",
		Steps: []api.Explained{
			{Step: "arrive", Text: "on lan0, area lan"},
			{Step: "filter", Text: "reject tcp-reset", Rules: []api.RuleRef{
				{Text: "1 filter dport 25 log", Position: "culvert.toml:15"}, {Text: "2 filter dport 25 reject"},
			}},
		},
		Verdict: "rejected", Reason: "rule-rejected", Advice: "your rule; see culvert rules",
	}
	var b strings.Builder
	if err := explainText(&b, &x); err != nil {
		t.Fatal(err)
	}
	want := `arrive   on lan0, area lan
filter   reject tcp-reset
           rule 1 filter dport 25 log (culvert.toml:15)
           rule 2 filter dport 25 reject (built in)
verdict  rejected: rule-rejected (your rule; see culvert rules)
`
	if b.String() != want {
		t.Errorf("printed\n%s, want\n%s", b.String(), want)
	}
}

func TestExplainRefusesWhatIsNoPacket(t *testing.T) {
	_, stderr, code := culvert(t, "explain", "tcp 10.0.0.5 > 198.51.100.7:443")
	if code != exitMisused || !strings.Contains(stderr, "tcp needs ports, as in 10.0.0.5:40000") {
		t.Errorf("status %d, stderr %q", code, stderr)
	}
}

func TestChangesOfAReloadArePrintedByRule(t *testing.T) {
	refused := api.Change{What: "refused", Reason: "rule-denied", New: &api.RuleRef{Text: "1 filter dport 80 drop", Position: "culvert.toml:9"}, Fate: "keep"}
	moved := api.Change{What: "other-destination", Old: &api.RuleRef{Text: "1 dnat dport 53 dnat to 10.0.0.6", Position: "culvert.toml:4"}, Fate: "reevaluate"}
	c := api.Changes{Flows: 20, Kept: 3, Reevaluated: 1, Groups: []api.ChangedFlows{{Change: refused, Flows: 3}, {Change: moved, Flows: 1}},
		Sample: []api.ChangedFlow{{Change: moved, ID: 7, Flow: "udp 198.51.100.7:5000 > 203.0.113.1:53"}}}
	var b strings.Builder
	if err := changesText(&b, &c); err != nil {
		t.Fatal(err)
	}
	want := `4 of 20 live flows differ: 3 kept, 0 ended, 1 reevaluated
FLOWS  FATE        RULES
3      keep        refused (rule-denied) by 1 filter dport 80 drop (culvert.toml:9)
1      reevaluate  other-destination, was 1 dnat dport 53 dnat to 10.0.0.6 (culvert.toml:4)

FLOW                                    FATE        RULES
udp 198.51.100.7:5000 > 203.0.113.1:53  reevaluate  other-destination, was 1 dnat dport 53 dnat to 10.0.0.6 (culvert.toml:4)
`
	if b.String() != want {
		t.Errorf("printed\n%s, want\n%s", b.String(), want)
	}
}
