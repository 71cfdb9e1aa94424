package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// culvert runs a command line and returns what it printed and its exit status.
func culvert(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = execute(t.Context(), args, &out, &err)
	return out.String(), err.String(), code
}

// visit calls f for every command that users see, with the words that name it.
func visit(c *cobra.Command, words []string, f func(c *cobra.Command, words []string)) {
	f(c, words)
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			visit(child, append(words[:len(words):len(words)], child.Name()), f)
		}
	}
}

func TestHelpTexts(t *testing.T) {
	visit(newRoot(), nil, func(c *cobra.Command, words []string) {
		name := strings.Join(append([]string{"culvert"}, words...), "-")
		stdout, stderr, code := culvert(t, append(words[:len(words):len(words)], "--help")...)
		if code != exitDone || stderr != "" {
			t.Errorf("%s --help: status %d, stderr %q", name, code, stderr)
		}
		golden(t, name+".txt", stdout)
	})
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "help", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./cmd/culvert -update makes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s changed; go test ./cmd/culvert -update accepts it\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestEveryCommandHasASentenceAndAnExample(t *testing.T) {
	visit(newRoot(), nil, func(c *cobra.Command, _ []string) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q: want a sentence without its full stop", c.CommandPath(), c.Short)
		}
		if !strings.HasPrefix(c.Example, "  ") {
			t.Errorf("%s: want an example, indented by two blanks", c.CommandPath())
		}
	})
}

func TestEveryExampleParses(t *testing.T) {
	visit(newRoot(), nil, func(c *cobra.Command, _ []string) {
		for line := range strings.Lines(c.Example) {
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "culvert" {
				continue
			}
			found, rest, err := newRoot().Find(words[1:])
			if err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	})
}

func TestMisuseNamesTheNearest(t *testing.T) {
	for _, tt := range []struct {
		claim string
		args  []string
		want  string
	}{
		{"a command", []string{"staus"}, "culvert: unknown command \"staus\"; did you mean status?\nTry 'culvert --help'.\n"},
		{"a subcommand", []string{"interface", "ad", "veth1"}, "culvert: unknown command \"ad\"; did you mean add?\nTry 'culvert interface --help'.\n"},
		{"a flag", []string{"status", "--wiat=3s"}, "culvert: unknown flag: --wiat; did you mean --wait?\nTry 'culvert status --help'.\n"},
		{"nothing is near", []string{"frobnicate"}, "culvert: unknown command \"frobnicate\"\nTry 'culvert --help'.\n"},
		{"a stray word", []string{"status", "now"}, "culvert: unexpected argument \"now\"\nTry 'culvert status --help'.\n"},
		{"a missing file", []string{"check"}, "culvert: -c FILE is missing\nTry 'culvert check --help'.\n"},
		{"a missing interface", []string{"run", "--lan", "eth1"}, "culvert: want -c FILE, or both --lan and --wan\nTry 'culvert run --help'.\n"},
		{"a file and interfaces", []string{"run", "-c", "x.toml", "--lan", "eth1"}, "culvert: --lan and --wan are for running without a file; drop them or -c\nTry 'culvert run --help'.\n"},
		{"an interface on both sides", []string{"run", "--lan", "eth1,eth2", "--wan", "eth2"}, "culvert: --lan and --wan both name eth2; an interface is inside or outside\nTry 'culvert run --help'.\n"},
		{"a stray word for the demo", []string{"demo", "now"}, "culvert: unexpected argument \"now\"\nTry 'culvert demo --help'.\n"},
		{"conntrack, in its own words", []string{"conntrack", "--dmup"}, conntrackName + ": unknown option `--dmup'\n" + conntrackHint + "\n"},
		{"two conntrack commands", []string{"conntrack", "-L", "-C"}, conntrackName + ": Invalid commands combination\n" + conntrackHint + "\n"},
		{"an unknown form of output", []string{"rules", "-o", "yaml"}, "culvert: invalid argument \"yaml\" for \"-o, --output\" flag: use text or json\nTry 'culvert rules --help'.\n"},
		{"an unknown driver", []string{"interface", "add", "veth1", "--area", "lan", "--driver", "dpdk"}, "culvert: invalid argument \"dpdk\" for \"--driver\" flag: use af_packet or tun\nTry 'culvert interface add --help'.\n"},
		{"an unknown driver of the demo", []string{"demo", "--driver", "foo"}, "culvert: --driver foo: use af_packet or tun\nTry 'culvert demo --help'.\n"},
		{"an unknown option of conntrack", []string{"conntrack", "-L", "-o", "foo"}, conntrackName + ": Bad parameter `foo'\n" + conntrackHint + "\n"},
		{"an unknown event", []string{"conntrack", "-E", "-e", "foo"}, conntrackName + ": Bad parameter `foo'\n" + conntrackHint + "\n"},
		{"an unknown log format", []string{"run", "--log-format", "xml"}, "culvert: invalid argument \"xml\" for \"--log-format\" flag: use text or json\nTry 'culvert run --help'.\n"},
		{"an unknown protocol", []string{"conntrack", "-L", "-p", "tpc"}, conntrackName + ": `tpc' unsupported protocol\n" + conntrackHint + "\n"},
	} {
		stdout, stderr, code := culvert(t, tt.args...)
		if code != exitMisused || stdout != "" || stderr != tt.want {
			t.Errorf("%s: status %d, stdout %q, stderr %q; want status %d, stderr %q", tt.claim, code, stdout, stderr, exitMisused, tt.want)
		}
	}
}

func TestNoGatewayIsAFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	for _, args := range [][]string{
		{"status"}, {"reload"}, {"rules"}, {"counters"}, {"debug", "check"}, {"conntrack", "-L"}, {"interface", "remove", "veth1"},
	} {
		stdout, stderr, code := culvert(t, append(args, "--socket", path)...)
		if code != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "culvert: no gateway answers at "+path) {
			t.Errorf("%v: status %d, stdout %q, stderr %q; want status %d and the socket's path", args, code, stdout, stderr, exitFailed)
		}
	}
}

func TestSocketOfTheEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	t.Setenv("CULVERT_SOCKET", path)
	if _, stderr, _ := culvert(t, "status"); !strings.Contains(stderr, path) {
		t.Errorf("stderr %q does not name CULVERT_SOCKET", stderr)
	}
}

func TestCheckPrintsTheNormalForm(t *testing.T) {
	stdout, stderr, code := culvert(t, "check", "-c", filepath.Join("testdata", "good.toml"))
	if want := "1 snat out-area wan family ipv4 masquerade\n"; code != exitDone || stdout != want || stderr != "" {
		t.Errorf("status %d, stdout %q, stderr %q; want %q", code, stdout, stderr, want)
	}
}

func TestCheckPointsAtMistakes(t *testing.T) {
	file := filepath.Join("testdata", "bad.toml")
	stdout, stderr, code := culvert(t, "check", "-c", file)
	if code != exitFailed || stdout != "" || !strings.HasPrefix(stderr, file+":5:1: ") || !strings.Contains(stderr, "address") {
		t.Errorf("status %d, stdout %q, stderr %q; want the place and the nearest key", code, stdout, stderr)
	}
}

func TestVersion(t *testing.T) {
	stdout, _, code := culvert(t, "version")
	if code != exitDone || !strings.HasPrefix(stdout, "culvert ") || !strings.Contains(stdout, runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH) {
		t.Errorf("status %d, stdout %q", code, stdout)
	}
	stdout, _, code = culvert(t, "version", "-o", "json")
	var v version
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitDone {
		t.Fatalf("status %d, %v: %s", code, err, stdout)
	}
	i := slices.IndexFunc(v.Modules, func(m module) bool { return m.Path == "github.com/spf13/cobra" })
	if i < 0 || !strings.HasPrefix(v.Modules[i].Sum, "h1:") || v.Settings["GOOS"] != runtime.GOOS {
		t.Errorf("modules %v, settings %v; want those of the build", v.Modules, v.Settings)
	}
}

func TestInvokedAsConntrack(t *testing.T) {
	got := arguments([]string{"/usr/sbin/conntrack", "-L"})
	if strings.Join(got, " ") != "conntrack -L" {
		t.Errorf("arguments %q, want those of culvert conntrack", got)
	}
}

func TestWaitGivesUpInTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, err bytes.Buffer
	path := filepath.Join(t.TempDir(), "none.sock")
	if code := execute(ctx, []string{"status", "--wait", "50ms", "--socket", path}, &out, &err); code != exitFailed {
		t.Errorf("status %d, want %d", code, exitFailed)
	}
	if !strings.Contains(err.String(), path) {
		t.Errorf("stderr %q, want what it waited for", err.String())
	}
}
