package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/rules"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file, or writes it with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update to accept)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

func samples(t testing.TB, patterns ...string) []string {
	t.Helper()
	var paths []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", p, len(found), err)
		}
		paths = append(paths, found...)
	}
	return paths
}

func TestGoodFilesHaveTheirNormalForm(t *testing.T) {
	for _, path := range samples(t, "testdata/good/*.toml") {
		c, err := Load(path)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		golden(t, strings.TrimSuffix(path, ".toml")+".want", c.Normal())
		if _, err := rules.Compile(&c.Rules, &rules.Binding{}, 1); err != nil {
			t.Errorf("%s is accepted but does not compile: %v", path, err)
		}
	}
}

func TestBadFilesHaveTheirMessages(t *testing.T) {
	for _, path := range samples(t, "testdata/bad/*.toml") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse(filepath.Base(path), text)
		if err == nil || c != nil {
			t.Errorf("%s is accepted", path)
			continue
		}
		golden(t, strings.TrimSuffix(path, ".toml")+".err", err.Error()+"\n")
		checkPlaces(t, text, err)
	}
}

// checkPlaces wants every error to point into the text.
func checkPlaces(t *testing.T, text []byte, err error) {
	t.Helper()
	lines := strings.Split(string(text), "\n")
	var errs Errors
	if !errors.As(err, &errs) {
		t.Errorf("error is a %T, want Errors", err)
	}
	for _, e := range errs {
		lines := lines
		if strings.HasPrefix(e.File, "testdata/sets/") {
			text, err := os.ReadFile(e.File)
			if err != nil {
				t.Error(err)
			}
			lines = strings.Split(string(text), "\n")
		}
		if e.Pos.Line < 1 || e.Pos.Line > len(lines) || e.Pos.Column < 1 || e.Pos.Column > len(lines[e.Pos.Line-1])+1 {
			t.Errorf("%v points outside the text", e)
		}
		if strings.Contains(e.Message, exampleMark) || strings.Contains(e.Message, "\n") || strings.HasSuffix(e.Message, ".") {
			t.Errorf("message %q is not one clean line", e.Message)
		}
	}
}

func TestReference(t *testing.T) {
	golden(t, "testdata/reference.md", Reference())
}

// Every example of the reference is accepted by the reader of its key.
func TestExamplesOfTheReferenceAreRead(t *testing.T) {
	checkExamples(t, gatewayKeys)
	checkExamples(t, areaKeys)
	checkExamples(t, interfaceKeys)
	checkExamples(t, checkKeys)
	checkExamples(t, routeKeys)
	checkExamples(t, conntrackKeys)
	checkExamples(t, sharesKeys)
	checkExamples(t, timeoutKeys)
	checkExamples(t, hostKeys)
	checkExamples(t, logKeys)
	checkExamples(t, componentKeys)
	checkExamples(t, flowLogKeys)
	checkExamples(t, ipfixKeys)
	checkExamples(t, setKeys)
	checkExamples(t, pcpKeys)
	checkExamples(t, apiKeys)
	checkExamples(t, helperKeys)
	checkExamples(t, limitKeys)
	for list := range rules.NumLists {
		for _, k := range ruleKeys(list) {
			d := decoder{reporter: reporter{file: "reference"}}
			n := parseSource(&d.reporter, k.name+" = "+k.example)
			r := draft{list: list, node: n}
			table(&d, n, "table", []key[draft]{k}, &r)
			if err := d.result(); err != nil {
				t.Error(err)
			}
		}
	}
}

func checkExamples[T any](t *testing.T, keys []key[T]) {
	t.Helper()
	for _, k := range keys {
		var v T
		d := decoder{reporter: reporter{file: "reference"}}
		if n := parseSource(&d.reporter, k.name+" = "+k.example); n != nil {
			table(&d, n, "table", keys, &v)
		}
		if err := d.result(); err != nil {
			t.Error(err)
		}
		if k.typ == "" || !strings.HasSuffix(k.doc, ".") {
			t.Errorf("%s: type %q, meaning %q", k.name, k.typ, k.doc)
		}
	}
}

func TestEverythingIsRead(t *testing.T) {
	c, err := Load("testdata/good/everything.toml")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v\n", c.Gateway)
	for _, i := range c.Interfaces {
		got += fmt.Sprintf("%+v\n", i)
	}
	for _, r := range c.Routes {
		got += fmt.Sprintf("%+v\n", r)
	}
	got += fmt.Sprintf("%+v\n%+v\n%+v\n%+v\n%+v\n%+v\n%+v\n", c.Conntrack, c.Host, c.PCP, c.API, c.Helpers, c.Limits, c.Rules.Areas)
	got += fmt.Sprintf("%+v\n%+v\n%+v\n%+v\n", c.Events, c.Log, c.FlowLogs, c.IPFIX)
	golden(t, "testdata/everything.values", got)
}

func TestDefaults(t *testing.T) {
	c, err := Parse("x", []byte("[[interface]]\nname = \"eth1\"\narea = \"lan\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	i := c.Interfaces[0]
	if i.AddressFrom != FromKernel || i.Driver != AFPacket || i.RPF != RPFStrict || i.Source.Line != 1 {
		t.Errorf("interface %+v", i)
	}
	if c.Gateway.ICMPRate != 1000 || c.Gateway.OnExit != Release || c.Conntrack.Max != 0 || !c.Conntrack.TCPLoose || c.Host.Enabled {
		t.Errorf("%+v %+v %+v", c.Gateway, c.Conntrack, c.Host)
	}
}

func TestQuick(t *testing.T) {
	c := Quick([]string{"eth1", "veth*"}, []string{"eth0"})
	if got, want := c.Normal(), "1 snat out-area wan family ipv4 masquerade\n"; got != want {
		t.Errorf("rules %q, want %q", got, want)
	}
	p, err := rules.Compile(&c.Rules, &rules.Binding{Ports: []rules.BoundPort{{Index: 1, Name: "eth1", Area: "lan"}, {Index: 2, Name: "eth0", Area: "wan"}}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	k := rules.Key{Tuple: tuple.Tuple{Proto: tuple.TCP, Family: tuple.IPv4}, In: 1, Out: 2, InArea: rules.AreaLAN, OutArea: rules.AreaWAN}
	var d rules.Decision
	if p.Filter(&k, &d) != rules.Accept || p.Snat(&k, &d) == nil {
		t.Error("inside does not go out masqueraded")
	}
	k.Tuple.Family = tuple.IPv6
	if p.Filter(&k, &d) != rules.Accept || p.Snat(&k, &d) != nil {
		t.Error("IPv6 is translated or does not go out")
	}
}

func TestQuickIsWhatItsTextSays(t *testing.T) {
	c := Quick([]string{"eth1", "veth*"}, []string{"eth0", "eth2"})
	read, err := Parse("quick", []byte(c.Text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, c.Text)
	}
	if read.Normal() != c.Normal() {
		t.Errorf("rules of the text %q, want %q", read.Normal(), c.Normal())
	}
	for i := range read.Interfaces {
		read.Interfaces[i].Source = rules.Location{}
	}
	if got, want := fmt.Sprintf("%+v", read.Interfaces), fmt.Sprintf("%+v", c.Interfaces); got != want {
		t.Errorf("interfaces of the text\n%s\nwant\n%s", got, want)
	}
}

func TestFileWithoutEndIsRefused(t *testing.T) {
	if _, err := Load("/dev/zero"); err == nil || !strings.Contains(err.Error(), "longer than 64 MiB") {
		t.Errorf("/dev/zero: %v, want a refusal for its length", err)
	}
}

func TestSetFromAFIFOIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := Parse(filepath.Join(dir, "x.toml"), []byte("[[set]]\nname = \"s\"\nfile = \"fifo\"\n"))
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "fifo is not a file") {
			t.Errorf("%v, want a refusal that names the FIFO", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting for somebody who writes into the FIFO")
	}
}

func TestUnreadableFileIsNotAnErrors(t *testing.T) {
	_, err := Load("testdata/none.toml")
	var errs Errors
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &errs) {
		t.Errorf("%v", err)
	}
}

// Values at every place of TOML stand where the scanner says.
func TestScannerAgreesWithTheDecoder(t *testing.T) {
	text := `
top = 1 # comment
"quo ted".'dotted' = """a ] = [ # no
comment"""
[a.b]
list = [ "x]", # comment ]
  'y"', ["z", {k = 1, "l m" = [2]}],
]
[[a.c]]
k = 'one'
[[a.c]]
k = '''
two'''''
[a.c.sub]
deep = { x.y = 1979-05-27T07:32:00Z }
`
	var r reporter
	root := parseSource(&r, text)
	if err := r.result(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		got  *node
		at   Pos
		want string
	}{
		{root.table["top"], Pos{2, 7}, "1"},
		{root.table["quo ted"].table["dotted"], Pos{3, 22}, "a ] = [ # no\ncomment"},
		{root.table["a"].table["b"].table["list"].array[0], Pos{6, 10}, "x]"},
		{root.table["a"].table["b"].table["list"].array[1], Pos{7, 3}, `y"`},
		{root.table["a"].table["b"].table["list"].array[2].array[0], Pos{7, 10}, "z"},
		{root.table["a"].table["b"].table["list"].array[2].array[1].table["l m"].array[0], Pos{7, 32}, "2"},
		{root.table["a"].table["c"].array[0].table["k"], Pos{10, 5}, "one"},
		{root.table["a"].table["c"].array[1].table["k"], Pos{12, 5}, "two''"},
		{root.table["a"].table["c"].array[1].table["sub"].table["deep"].table["x"].table["y"], Pos{15, 16}, "1979-05-27 07:32:00 +0000 UTC"},
	} {
		if tt.got.at != tt.at || fmt.Sprint(tt.got.value) != tt.want {
			t.Errorf("%v at %v, want %s at %v", tt.got.value, tt.got.at, tt.want, tt.at)
		}
	}
	if header := root.table["a"].table["c"].array[1].key; header != (Pos{11, 1}) {
		t.Errorf("second [[a.c]] at %v, want 11:1", header)
	}
}

// accepts parses text and checks what must hold for any text.
func accepts(t *testing.T, name string, text []byte) bool {
	t.Helper()
	c, err := Parse(name, text)
	if (err == nil) == (c == nil) {
		t.Fatalf("config %v with error %v", c, err)
	}
	if err != nil {
		checkPlaces(t, text, err)
		return false
	}
	if _, err := rules.Compile(&c.Rules, &rules.Binding{}, 1); err != nil {
		t.Fatalf("accepted, but does not compile: %v\n%s", err, text)
	}
	var again map[string]any
	if _, err := toml.Decode(string(text), &again); err != nil {
		t.Fatalf("accepted, but not TOML: %v", err)
	}
	return true
}

// mutate changes a few bytes of text.
func mutate(r *rand.Rand, text []byte) []byte {
	out := slices.Clone(text)
	for range 1 + r.IntN(3) {
		if len(out) == 0 {
			return out
		}
		i, j := r.IntN(len(out)), r.IntN(len(out))
		i, j = min(i, j), min(max(i, j), i+60)
		switch r.IntN(6) {
		case 0:
			out[i] = byte(r.Uint32())
		case 1:
			out[i] ^= 1 << r.IntN(8)
		case 2:
			out = slices.Delete(out, i, j)
		case 3:
			out = slices.Insert(out, i, out[i:j]...)
		case 4:
			out = slices.Insert(out, i, []byte(tokens[r.IntN(len(tokens))])...)
		case 5:
			out = out[:i]
		}
	}
	return out
}

var tokens = []string{"\n[[interface]]\n", "[", "]", "\"", "'''", "=", "\n", "0", "-1", "!", "{", "}", "*", "/33", "\x00", "\xff", ".", "65536", "true", "[[dnat]]", "1e9", "::", "#"}

func TestMutatedFilesGiveAnErrorOrAConfig(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, path := range samples(t, "testdata/good/*.toml", "../../configs/*.toml") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		accepted := 0
		deadline := time.Now().Add(20 * time.Second)
		for i := range 1000 {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d mutations took 20 s", path, i)
			}
			if accepts(t, path, mutate(r, text)) {
				accepted++
			}
		}
		if accepted == 0 || accepted == 1000 {
			t.Errorf("%s: %d of 1000 mutations are accepted: the test has no force", path, accepted)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, path := range samples(f, "testdata/good/*.toml", "testdata/bad/*.toml", "../../configs/*.toml") {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("interface=[{}]"))                                            // tables inside a list had no place
	f.Add([]byte("\"\\"))                                                      // the decoder quotes a character that is not there
	f.Add([]byte("[[filter]]\nproto=\"icmp\"\nicmp_type=[]\naction=\"drop\"")) // the message showed no example
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Count(text, []byte("[")) < 1000 { // the decoder's own recursion is not ours to test
			accepts(t, "m.toml", text)
		}
	})
}

func TestTableIsAsLargeAsNetfiltersOnTheSameMachine(t *testing.T) {
	for memory, want := range map[uint64]int{
		8 << 20: 1024, 512 << 20: 32768, 1 << 30: 65536, 2 << 30: 65536, 4 << 30: 65536, 4<<30 + 1: 262144, 24 << 30: 262144,
	} {
		if got := limitFor(memory); got != want {
			t.Errorf("%d MiB: %d flows, want %d", memory>>20, got, want)
		}
	}
	if c := (&Conntrack{Max: 100}).Limit(); c != 100 {
		t.Errorf("a configured limit of 100 became %d", c)
	}
}
