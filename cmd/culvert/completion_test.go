package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBashCompletes has a real shell complete lines, with this program in its path.
func TestBashCompletes(t *testing.T) {
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "culvert"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script, stderr, code := culvert(t, "completion", "bash")
	if code != exitDone {
		t.Fatal(stderr)
	}
	file := filepath.Join(dir, "completion.bash")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	// _init_completion is what distributions' bash-completion brings.
	const complete = `source "$0"
_init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=63
compopt() { :; }
__start_culvert
printf '%s\n' "${COMPREPLY[@]}"`
	for _, tt := range []struct {
		claim string
		words []string
		want  []string // among the answers
		not   string
	}{
		{"a command", []string{"sta"}, []string{"status"}, "run"},
		{"a subcommand", []string{"interface", ""}, []string{"add", "remove"}, "status"},
		{"a flag", []string{"status", "--wa"}, []string{"--wait"}, "--socket"},
		{"a form of output", []string{"rules", "-o", ""}, []string{"json", "text"}, "xml"},
		{"a driver", []string{"interface", "add", "x", "--driver", ""}, []string{"af_packet", "tun"}, ""},
		{"an interface", []string{"run", "--lan", ""}, []string{"lo"}, ""},
		{"an interface to remove", []string{"interface", "remove", ""}, []string{"lo"}, ""},
		{"a helper", []string{"alg", "replay", "--helper", ""}, []string{"ftp", "sip"}, ""},
		{"a helper's option", []string{"alg", "replay", "--helper-options", ""}, []string{"low-ports"}, ""},
		{"a level", []string{"run", "--log-level", "d"}, []string{"debug"}, "info"},
		{"a table of conntrack", []string{"conntrack", "-L", ""}, []string{"dying", "expect"}, "tcp"},
		{"a protocol of conntrack", []string{"conntrack", "-L", "-p", "ud"}, []string{"udp", "udplite"}, "tcp"},
		{"an option of conntrack", []string{"conntrack", "-L", "--reply-p"}, []string{"--reply-port-src"}, "--dst"},
		{"a shell", []string{"completion", ""}, []string{"bash", "zsh", "fish"}, ""},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "bash", append([]string{"--norc", "-c", complete, file, "culvert"}, tt.words...)...)
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got []string
			for line := range strings.Lines(string(out)) {
				word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
				got = append(got, word)
			}
			for _, w := range tt.want {
				if !slices.Contains(got, w) {
					t.Errorf("culvert %q: %q, want %s among them", tt.words, got, w)
				}
			}
			if tt.not != "" && slices.Contains(got, tt.not) {
				t.Errorf("culvert %q: %q, want no %s", tt.words, got, tt.not)
			}
		})
	}
}

func TestEveryShellGetsAScript(t *testing.T) {
	for shell, want := range map[string]string{"bash": "__start_culvert", "zsh": "#compdef culvert", "fish": "complete -c culvert"} {
		if stdout, stderr, code := culvert(t, "completion", shell); code != exitDone || !strings.Contains(stdout, want) {
			t.Errorf("%s: status %d, %s", shell, code, stderr)
		}
	}
	if _, stderr, code := culvert(t, "completion", "fsih"); code != exitMisused || !strings.Contains(stderr, "use bash or zsh or fish; did you mean fish?") {
		t.Errorf("an unknown shell: status %d, %q", code, stderr)
	}
}
