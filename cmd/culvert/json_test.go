package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// wordless are the commands without an answer of data, with the reason.
var wordless = map[string]string{
	"culvert run":              "it is the gateway; its log has --log-format json",
	"culvert demo":             "it tells a story",
	"culvert interface add":    "it says nothing",
	"culvert interface remove": "it says nothing",
	"culvert man":              "its answer is a manual page",
	"culvert capture":          "its answer is a capture",
	"culvert conntrack":        "it has the -o of conntrack(8), with json",
}

func TestEveryAnswerComesAsJSON(t *testing.T) {
	left := maps.Clone(wordless)
	visit(newRoot(), nil, func(c *cobra.Command, _ []string) {
		if c.HasAvailableSubCommands() || strings.HasPrefix(c.CommandPath(), "culvert completion") {
			return // it only leads to others, or its answer is a script
		}
		if left[c.CommandPath()] != "" {
			delete(left, c.CommandPath())
			return
		}
		f := c.Flags().Lookup("output")
		if f == nil || f.Shorthand != "o" || f.Value.Set("json") != nil {
			t.Errorf("%s has no -o json", c.CommandPath())
		}
	})
	for path := range left {
		t.Errorf("there is no command %s", path)
	}
}

// shapeOf is what a value of JSON is made of: the names of fields and the kinds of
// values, those of all elements of a list together.
func shapeOf(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, field := range v {
			out[name] = shapeOf(field)
		}
		return out
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		sum := shapeOf(v[0])
		for _, element := range v[1:] {
			sum = mergeShapes(sum, shapeOf(element))
		}
		return []any{sum}
	case float64:
		return "number"
	case bool:
		return "boolean"
	}
	return fmt.Sprintf("%T", v) // string, or nil
}

// mergeShapes is the shape of two elements of a list.
func mergeShapes(a, b any) any {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return fmt.Sprintf("%v or %v", a, b)
		}
		for name, field := range y {
			if x[name] == nil {
				x[name] = field
			} else {
				x[name] = mergeShapes(x[name], field)
			}
		}
		return x
	case []any:
		y, ok := b.([]any)
		switch {
		case !ok:
			return fmt.Sprintf("%v or %v", a, b)
		case len(x) == 0:
			return y
		case len(y) == 0:
			return x
		}
		return []any{mergeShapes(x[0], y[0])}
	}
	if a != b {
		return fmt.Sprintf("%v or %v", a, b)
	}
	return a
}

// TestJSONKeepsItsShape asks a running gateway, and compares names and kinds of all
// fields with files: programs read them.
func TestJSONKeepsItsShape(t *testing.T) {
	g := runGateway(t)
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) || g.pass(t, g.wan, g.lan, "203.0.113.77", 1, "203.0.113.1", 9) {
		t.Fatal("the packets do not go where they should")
	}
	other := textFile(t, relatedOnly+"src = \"10.0.9.0/24\"\non_change = \"end\"\n") // no more for 10.0.0.5
	shared := textFile(t, sharedPorts)
	for name, line := range map[string]string{
		"status":      "status",
		"rules":       "rules",
		"counters":    "counters",
		"explain":     "explain udp 10.0.0.5:40001 > 198.51.100.7:53 in lan0",
		"debug-check": "debug check",
		"top-flows":   "top --once --interval 100ms",
		"top-talkers": "top --once --interval 100ms --view talkers",
		"top-rules":   "top --once --interval 100ms --view rules",
		"top-drops":   "top --once --interval 100ms --view drops",
		"conntrack":   "conntrack -L",
		"log":         "log",
		"reload":      "reload --dry-run -c " + other,
		"selftest":    "selftest --quick",
		"debug-owner": "debug owner -c " + shared + " 100.64.0.0",
		"check":       "check -c " + filepath.Join("testdata", "good.toml"),
		"version":     "version",
	} {
		args := append(strings.Fields(line), "-o", "json")
		if !slices.Contains([]string{"check", "version", "debug-owner"}, name) {
			args = append(args, "--socket", g.socket)
		}
		stdout, stderr, code := culvert(t, args...)
		var v any
		if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitDone {
			t.Errorf("%s: status %d, stderr %q, %v in\n%s", name, code, stderr, err, stdout)
			continue
		}
		shape := shapeOf(v)
		if top, ok := shape.(map[string]any); ok && name == "version" {
			top["settings"], top["modules"] = "of the build", "of the build"
		}
		keepsShape(t, name, shape)
	}
	keepsShape(t, "release", shapeOf(decoded(t, released{2}))) // the command would release what this machine has
}

// decoded is a value as those see it who read it as JSON.
func decoded(t *testing.T, v any) (out any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// textFile is a file with a text.
func textFile(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "test.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// keepsShape compares a shape with that in a file.
func keepsShape(t *testing.T, name string, shape any) {
	t.Helper()
	text, err := json.MarshalIndent(shape, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	goldenFile(t, filepath.Join("testdata", "json", name+".json"), string(text)+"\n")
}

// TestLinesOfStreamsKeepTheirShape is TestJSONKeepsItsShape for answers that go on: the
// shape is that of all lines together.
func TestLinesOfStreamsKeepTheirShape(t *testing.T) {
	g := runGateway(t)
	begin := func(port uint16) {
		if !g.pass(t, g.lan, g.wan, "10.0.0.5", port, "203.0.113.9", 53) {
			t.Fatal("the packet does not go out")
		}
	}
	begin(40000)
	keepsShape(t, "trace", g.lines(t, "trace --count 1", func(line string) bool {
		if line == "culvert: watching\n" {
			begin(40001)
		}
		return false
	}))
	keepsShape(t, "events", g.lines(t, "events --snapshot --about all", func(line string) bool {
		switch {
		case strings.Contains(line, `"type":"READY"`):
			begin(40002)
		case strings.Contains(line, `"type":"NEW"`):
			if _, stderr, code := culvert(t, "conntrack", "-F", "--socket", g.socket); code != exitDone {
				t.Errorf("status %d, stderr %q", code, stderr)
			}
		}
		return strings.Contains(line, `"type":"DESTROY"`)
	}))
}

// lines runs a command and returns the shape of all lines of JSON that it printed until
// it ended by itself, or last said that it was enough. last sees those on stderr, too.
func (g *gateway) lines(t *testing.T, command string, last func(line string) bool) any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, notes := make(chan string), make(chan string)
	to := func(c chan string) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			for line := range strings.Lines(string(p)) {
				select {
				case c <- line:
				case <-ctx.Done():
				}
			}
			return len(p), nil
		})
	}
	done := make(chan int, 1)
	go func() {
		done <- execute(ctx, append(strings.Fields(command), "-o", "json", "--socket", g.socket), to(out), to(notes))
	}()
	var all []any
	for {
		select {
		case line := <-notes:
			last(line)
		case line := <-out:
			var v any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatalf("%s: %v in %s", command, err, line)
			}
			if all = append(all, v); last(line) {
				cancel()
			}
		case code := <-done:
			if code != exitDone || len(all) == 0 {
				t.Errorf("%s: status %d after %d lines", command, code, len(all))
			}
			return shapeOf(all)
		}
	}
}

func TestShapesAreThoseOfAllElements(t *testing.T) {
	var v any
	if err := json.Unmarshal([]byte(`[{"a":1},{"a":2,"b":[]},{"b":["x"]}]`), &v); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(shapeOf(v))
	if want := `[{"a":"number","b":["string"]}]`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	if s := mergeShapes("string", "number"); !slices.Contains([]any{"string or number"}, s) {
		t.Errorf("of two kinds: %v", s)
	}
}
