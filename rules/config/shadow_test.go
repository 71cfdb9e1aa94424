package config

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"example.com/culvert/rules"
)

// decidingSlowly is what earlier.deciding finds, by comparing r with all rules.
func decidingSlowly(before []*draft, r *draft) *draft {
	e := &earlier{rules: before, marked: -1}
	for i, b := range before {
		if !b.Then.Terminal() && b.MarkMask != 0 {
			e.marked = i
		}
	}
	for i := len(before) - 1; i >= 0; i-- {
		switch b := before[i]; {
		case !b.Then.Terminal():
			if b.Text() == r.Text() {
				return b
			}
		case e.decides(i, r):
			return b
		}
	}
	return nil
}

// randomRule is a filter rule in TOML over few values, so that rules often cover
// one another.
func randomRule(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("[[filter]]\n")
	for _, k := range [...]struct {
		name   string
		values []string
	}{
		{"src", []string{`"10.0.0.0/8"`, `"10.1.0.0/16"`, `"10.1.2.3"`, `"10.1.2.3-10.1.3.9"`, `"fd00::/8"`, `"!10.1.0.0/16"`, `["10.1.2.3", "10.9.0.0/16"]`}},
		{"dst", []string{`"192.0.2.0/24"`, `"192.0.2.1"`, `"192.0.2.1-192.0.2.2"`, `"2001:db8::/32"`, `"2001:db8::1"`}},
		{"dport", []string{`80`, `443`, `"80-443"`, `"1-65535"`, `[80, 443]`, `"!80"`}},
		{"sport", []string{`"1024-65535"`, `"2000-3000"`}},
		{"in_area", []string{`"lan"`, `"wan"`, `"!wan"`}},
		{"iif", []string{`"eth*"`, `"eth1"`, `"e*"`}},
		{"proto", []string{`"tcp"`, `"udp"`, `["tcp", "udp"]`}},
		{"mark", []string{`1`, `2`}},
		{"state", []string{`"new"`, `"established"`}},
		{"family", []string{`"ipv4"`, `"ipv6"`}},
	} {
		if r.IntN(5) == 0 {
			fmt.Fprintf(&b, "%s = %s\n", k.name, k.values[r.IntN(len(k.values))])
		}
	}
	if b.Len() == len("[[filter]]\n") {
		b.WriteString("in_area = \"lan\"\n")
	}
	switch r.IntN(12) {
	case 0:
		b.WriteString("action = \"mark\"\nset_mark = 1\n")
	case 1, 2, 3, 4:
		b.WriteString("action = \"drop\"\n")
	default:
		b.WriteString("action = \"accept\"\n")
	}
	return b.String()
}

const twoInterfaces = "[[interface]]\nname = \"eth1\"\narea = \"lan\"\n[[interface]]\nname = \"eth0\"\narea = \"wan\"\n"

// drafts returns the filter rules of text that can stand.
func drafts(t testing.TB, text string) []*draft {
	t.Helper()
	d := &decoder{reporter: reporter{file: "test.toml"}}
	if d.root = parseSource(&d.reporter, text); d.root == nil {
		t.Fatal(d.result())
	}
	c := Defaults()
	d.decodeInterfaces(c)
	return d.drafts(c, rules.Filter)
}

func TestShadowsAreThoseOfAllPairs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	shadowed := 0
	for range 200 {
		text := twoInterfaces
		for range 60 {
			text += randomRule(r)
		}
		before := newEarlier()
		var kept []*draft
		for _, rule := range drafts(t, text) {
			got, want := before.deciding(rule), decidingSlowly(kept, rule)
			if got != want {
				t.Fatalf("rule %q is decided by %v, want %v", rule.Text(), describe(got), describe(want))
			}
			if got != nil {
				shadowed++
			}
			if got == nil || r.IntN(4) == 0 { // else wide rules crowd out all others
				before.add(rule)
				kept = append(kept, rule)
			}
		}
	}
	if shadowed < 1000 {
		t.Errorf("only %d rules were shadowed: the test compares too little", shadowed)
	}
}

func describe(r *draft) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%d %s", r.pos, r.Text())
}

func TestContrivedListsKeepTheSurestChecks(t *testing.T) {
	text := twoInterfaces
	for i := range 3 * maxCompared {
		text += fmt.Sprintf("[[filter]]\nsrc = \"!10.0.%d.%d\"\nstate = \"new\"\naction = \"accept\"\n", i/250, i%250)
	}
	text += "[[filter]]\nsrc = \"!10.0.0.0\"\nstate = \"new\"\naction = \"drop\"\n"
	_, err := Parse("test.toml", []byte(text))
	if err == nil || !strings.Contains(err.Error(), "rule 1 in line") {
		t.Errorf("a repeated rule of a long list gives %v, want the place of the first", err)
	}
}

func BenchmarkParseRules(b *testing.B) {
	forms := map[string]func(i int) string{
		"sources": func(i int) string { return fmt.Sprintf("src = \"10.%d.%d.0/24\"\n", i>>8, i&255) },
		"ports": func(i int) string {
			return fmt.Sprintf("in_area = \"wan\"\nproto = \"tcp\"\ndst = \"192.0.2.%d\"\ndport = %d\n", i/1000, 1000+i%1000)
		},
		"negated": func(i int) string { return fmt.Sprintf("src = \"!10.%d.%d.0/24\"\n", i>>8, i&255) },
	}
	for name, form := range forms {
		for _, n := range []int{10, 10_000} {
			var text strings.Builder
			text.WriteString(twoInterfaces)
			for i := range n {
				text.WriteString("[[filter]]\n" + form(i) + "action = \"accept\"\n")
			}
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					if _, err := Parse("test.toml", []byte(text.String())); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
