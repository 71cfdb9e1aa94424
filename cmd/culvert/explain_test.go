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
