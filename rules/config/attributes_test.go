package config

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// ruleWords are keys of filter rules with values in any order; those of one key
// mean different things.
var ruleWords = map[string][][]string{
	"src":             {{`"10.0.0.0/8"`, `"192.0.2.1"`}, {`"!@hosts"`, `"!192.0.2.1"`}, {`"@hosts"`}},
	"dport":           {{`80`, `"443"`}, {`"80-443"`}, {`"@web"`, `22`}},
	"iif":             {{`"@lans"`, `"eth0"`}, {`"!eth1"`}},
	"in_area":         {{`"lan"`, `"guest"`}, {`"!lan"`}},
	"proto":           {{`"tcp"`, `"udp"`}, {`6`}},
	"state":           {{`"new"`, `"established"`}, {`"!invalid"`}},
	"mark":            {{`1`, `"0x2/0x2"`}, {`"!1"`}},
	"ttl":             {{`1`, `"5-9"`}},
	"dscp":            {{`46`}, {`"!46"`}},
	"length":          {{`"0-100"`, `1500`}, {`"!1500"`}},
	"zone":            {{`7`}, {`"1-6"`}},
	"direction":       {{`"reply"`}, {`"original"`}},
	"ct_helper":       {{`"ftp"`, `"sip"`}, {`"!ftp"`}},
	"hours":           {{`"08:00-12:00"`, `"13:00-17:00"`}, {`"22:00-06:00"`}},
	"weekdays":        {{`"sat"`, `"sun"`}, {`"!mon"`}},
	"limit":           {{`"10/s"`}, {`"!10/minute"`}},
	"set_mark":        {{`"0x10/0xff"`}, {`16`}},
	"set_packet_mark": {{`1`}},
	"count":           {{`"web"`}, {`"all"`}},
	"log":             {{`"seen"`}, {`"a \"b\""`}},
}

// write returns a rule in TOML: its keys, and the values of each, in random order.
func writeRule(r *rand.Rand, rule map[string]int) string {
	var lines []string
	for name, which := range rule {
		values := strings.Join(shuffled(r, ruleWords[name][which]), ", ")
		if len(ruleWords[name][which]) > 1 {
			values = "[" + values + "]"
		}
		lines = append(lines, name+" = "+values)
	}
	return "[[filter]]\n" + strings.Join(shuffled(r, lines), "\n") + "\naction = \"accept\"\n"
}

func shuffled(r *rand.Rand, s []string) []string {
	out := make([]string, len(s))
	for i, j := range r.Perm(len(s)) {
		out[i] = s[j]
	}
	return out
}

const setsForRules = `
[[interface]]
name = "eth0"
area = "guest"
[[interface]]
name = "eth1"
area = "lan"
[[set]]
name = "hosts"
elements = ["10.9.0.0/16", "fd00::/8"]
[[set]]
name = "web"
type = "ports"
elements = [80, 443]
[[set]]
name = "lans"
type = "interfaces"
elements = "eth1"
`

// Equal rules have equal normal forms, however they are written, and different
// rules have different ones: a rule's identity is made from it.
func TestNormalFormIsWhatTheRuleMeans(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	meaning := map[string]string{}
	for range 400 {
		rule := map[string]int{}
		for name, values := range ruleWords {
			if r.IntN(5) == 0 {
				rule[name] = r.IntN(len(values))
			}
		}
		var texts [2]string
		for i := range texts {
			text := setsForRules + writeRule(r, rule)
			c, err := Parse("rule.toml", []byte(text))
			if err != nil {
				if strings.Contains(err.Error(), "has no ports") || strings.Contains(err.Error(), "no such interface") {
					delete(rule, "dport")
					delete(rule, "iif")
					text = setsForRules + writeRule(r, rule)
					c, err = Parse("rule.toml", []byte(text))
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
			}
			texts[i] = c.Rules.Lists[rules.Filter][0].Text()
			if _, err := rules.Compile(&c.Rules, &rules.Binding{}, 1); err != nil {
				t.Fatal(err)
			}
		}
		if texts[0] != texts[1] {
			t.Fatalf("one rule has the normal forms\n%s\n%s", texts[0], texts[1])
		}
		key := fmt.Sprint(rule) // maps print sorted
		if other, known := meaning[texts[0]]; known && other != key {
			t.Fatalf("%s and %s have the normal form %s", other, key, texts[0])
		}
		meaning[texts[0]] = key
	}
}

// A set may have a million prefixes, and a file that changed is read by the next load.
func TestSetsOfFilesAreReadAnew(t *testing.T) {
	dir := t.TempDir()
	list, path := filepath.Join(dir, "list.txt"), filepath.Join(dir, "culvert.toml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	n := 1 << 20
	if testing.Short() {
		n = 1 << 16
	}
	for i := range n {
		fmt.Fprintf(&b, "%d.%d.%d.%d/30\n", 16+i>>19&15, i>>11&255, i>>3&255, i<<5&255)
	}
	write(list, b.String())
	write(path, setsForRules+"[[set]]\nname = \"many\"\nfile = \"list.txt\"\n[[filter]]\nsrc = \"@many\"\naction = \"drop\"\n")
	load := func() (*rules.Set, string) {
		t.Helper()
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return c.Rules.Set("many"), c.Normal()
	}
	many, text := load()
	if many.Len() != n {
		t.Errorf("%d prefixes, want %d", many.Len(), n)
	}
	in := tuple.AddrFrom4([4]byte{16, 0, 3, 33})
	if !many.Addrs.Has(&in) {
		t.Error("an address of the list is missing")
	}
	write(list, "192.0.2.1\n")
	few, again := load()
	if few.Len() != 1 || few.Addrs.Has(&in) {
		t.Error("the file is not read anew")
	}
	if text != again {
		t.Errorf("the rules have changed with the set:\n%s\n%s", text, again)
	}
	write(list, "192.0.2.1\n192.0.2.\n")
	if _, err := Load(path); err == nil || err.Error() != list+`:2:1: "192.0.2." is not an address, prefix or range of addresses` {
		t.Errorf("a broken list gives %v", err)
	}
	write(list, strings.Repeat("x\n", 100))
	if _, err := Load(path); err == nil || strings.Count(err.Error(), "\n") != maxSetErrors || !strings.Contains(err.Error(), "is it the right file?") {
		t.Errorf("a wrong file gives %v", err)
	}
}

// A file of a set is read or refused, with places inside of it; what is accepted is
// in the set.
func FuzzSetFile(f *testing.F) {
	for _, name := range []string{"testdata/sets/blocklist.txt", "testdata/sets/broken.txt"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("10.0.0.0/8 # \r\n\t::/0\r\n0.0.0.0-255.255.255.255")
	f.Add("\xff\xfe1\x000.0.0.1") // a file of another encoding
	f.Fuzz(func(t *testing.T, text string) {
		d := decoder{reporter: reporter{file: "culvert.toml"}}
		s := rules.Set{Name: "s"}
		var addrs []nat.AddrRange
		if err := d.readElements("set.txt", strings.NewReader(text), func(e string) error { return addElement(nil, &s, &addrs, e) }); err != nil {
			return
		}
		lines := strings.Split(text, "\n")
		for _, e := range d.errs {
			if e.Pos.Line < 1 || e.Pos.Line > len(lines) || e.Pos.Column < 1 || e.Pos.Column > len([]rune(lines[e.Pos.Line-1])) || strings.ContainsAny(e.Message, "\n\x00") {
				t.Errorf("%v points outside the text, or is not one line", e)
			}
		}
		set := rules.NewAddrSet(addrs)
		for _, r := range addrs {
			if !set.Has(&r.First) || !set.Has(&r.Last) {
				t.Errorf("%v is missing", r)
			}
		}
	})
}
