package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/culvert/control/api"
)

// file writes a configuration and returns its name.
func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "culvert.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const refusing = masquerading + `
[[filter]]
proto = "udp"
dport = 53
action = "drop"
on_change = "end"
`

func TestDryRunForeseesWhatAReloadDoes(t *testing.T) {
	b := start(t)
	b.send(t, 40000)
	b.received(t)
	name := file(t, refusing)
	foreseen, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: name, DryRun: true, Flows: 5})
	if err != nil {
		t.Fatal(err)
	}
	c := foreseen.Changes
	want := fmt.Sprintf("refused (rule-denied) by 1 filter proto udp dport 53 drop on-change end (%s:20)", name)
	if foreseen.Generation != 2 || c.Flows != 1 || c.Ended != 1 || len(c.Groups) != 1 || c.Groups[0].String() != want {
		t.Errorf("foreseen %+v, want generation 2 and one flow %s", foreseen, want)
	}
	if len(c.Sample) != 1 || c.Sample[0].Flow != "udp 10.0.0.5:40000 > 203.0.113.9:53" || c.Sample[0].Generation != 1 {
		t.Errorf("sample %+v, want the flow, of generation 1", c.Sample)
	}
	if st := b.Status(); st.Generation != 1 || st.Flows != 1 || st.Changes != nil {
		t.Errorf("after the dry run: generation %d, %d flows, changes %v", st.Generation, st.Flows, st.Changes)
	}
	done, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: name})
	if err != nil || done.Changes.Ended != 1 {
		t.Errorf("reload: %+v, %v; want what was foreseen", done, err)
	}
	if st := b.Status(); st.Flows != 0 || st.Changes == nil || st.Changes.Ended != 1 {
		t.Errorf("after the reload: %d flows, changes %+v; want none, and one ended", st.Flows, st.Changes)
	}
	if len(b.ports["lan0"].Take()) != 1 {
		t.Error("the client was not told")
	}
}

func TestDryRunOfABrokenFileIsRefusedWithItsPosition(t *testing.T) {
	b := start(t)
	name := file(t, masquerading+"[[filter]]\nacton = \"drop\"\n")
	_, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: name, DryRun: true})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "culvert.toml:20:1: ") {
		t.Errorf("%v, want a refusal with its position", err)
	}
}

func TestDryRunKnowsInterfacesThatAreNotOpenYet(t *testing.T) {
	b := newBench(t, masquerading, Options{}, "lan0", "wan0", "wan1")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.send(t, 40000)
	b.received(t)
	name := file(t, masquerading+"[[interface]]\nname = \"wan1\"\narea = \"wan\"\naddresses = [\"192.0.2.1/24\"]\n")
	got, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: name, DryRun: true})
	if err != nil || got.Interfaces != 3 || got.Changes.Changed() != 0 {
		t.Errorf("%+v, %v; want three interfaces and no flow that differs", got, err)
	}
	if n := len(b.Status().Interfaces); n != 2 {
		t.Errorf("%d interfaces are served, want 2 still", n)
	}
}

func TestAnEditedCommentChangesNothing(t *testing.T) {
	b := start(t)
	b.send(t, 40000)
	b.received(t)
	before := b.Rules()
	edited := strings.Replace(masquerading, "[[snat]]", "# out with it\n[[snat]]\nname = \"internet\"\ncomment = \"what users see\"", 1)
	got, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: file(t, edited)})
	if err != nil || got.Changes.Flows != 1 || got.Changes.Changed() != 0 {
		t.Errorf("%+v, %v; want one flow that does not differ", got, err)
	}
	if after := b.Rules(); len(after) != 1 || after[0].ID != before[0].ID || after[0].Hits != 1 {
		t.Errorf("rule %+v became %+v, want the same one with its hit", before, after)
	}
}

// bigRuleset has n filter rules that no packet of the test meets, and what follows.
func bigRuleset(n, port int) string {
	var b strings.Builder
	b.WriteString(masquerading)
	for i := range n {
		fmt.Fprintf(&b, "[[filter]]\ndst = \"172.%d.%d.0/24\"\nproto = \"tcp\"\ndport = %d\naction = \"drop\"\n", 16+i>>8, i&255, port)
	}
	return b.String()
}

// Packets go on while 10,000 rules are put in force again and again, with a broken
// file in between.
func TestReloadsOfTenThousandRulesLoseNoPacket(t *testing.T) {
	b := start(t)
	files := []string{file(t, bigRuleset(10000, 22)), file(t, bigRuleset(10000, 23)+"broken"), file(t, bigRuleset(10000, 24))}
	done := make(chan error, 1)
	go func() {
		for i := range 2 {
			for j, name := range files {
				_, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: name})
				if broken := j == 1; broken != errors.Is(err, ErrRefused) {
					done <- fmt.Errorf("reload %d of file %d: %w", i, j, err)
					return
				}
			}
		}
		done <- nil
	}()
	longest, packets := time.Duration(0), 0
	for reloading := true; reloading; packets++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			reloading = false
		default:
		}
		begun := time.Now()
		b.send(t, uint16(20000+packets%40000))
		b.received(t)
		longest = max(longest, time.Since(begun))
	}
	t.Logf("%d packets during 4 reloads, the slowest took %v", packets, longest)
	if st := b.Status(); st.Generation != 5 || st.Dropped != 0 {
		t.Errorf("generation %d, %d packets dropped; want 5 and none", st.Generation, st.Dropped)
	}
}

func TestExplainNamesTheRuleAndItsPlace(t *testing.T) {
	b := start(t)
	name := file(t, refusing)
	if _, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: name}); err != nil {
		t.Fatal(err)
	}
	probe, err := api.ParseProbe("udp 10.0.0.5:40000 > 203.0.113.9:53 in lan0")
	if err != nil {
		t.Fatal(err)
	}
	x, err := b.Explain(probe)
	if err != nil || x.Verdict != "dropped" || x.Reason != "rule-denied" || x.Generation != 2 {
		t.Fatalf("%+v, %v; want it dropped by a rule of generation 2", x, err)
	}
	last := x.Steps[len(x.Steps)-1]
	if len(last.Rules) != 1 || last.Rules[0].Position != name+":20" {
		t.Errorf("the last step is %+v, want the rule of line 20", last)
	}
	probe.In = "lan9"
	if _, err := b.Explain(probe); !errors.Is(err, ErrNotFound) {
		t.Errorf("by an interface that is not there: %v", err)
	}
	probe.In = ""
	if x, err := b.Explain(probe); err != nil || x.Steps[0].Text != "on lan0, area lan" {
		t.Errorf("without an interface: %+v, %v; want the one that routes name", x, err)
	}
}
