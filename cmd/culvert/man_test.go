package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestManualPagesAreClean lets the formatter of man(1) read every page.
func TestManualPagesAreClean(t *testing.T) {
	dir := t.TempDir()
	if _, stderr, code := culvert(t, "man", dir); code != exitDone || stderr != "" {
		t.Fatalf("status %d: %s", code, stderr)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "man?", "*"))
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v; want one for each command and one for the file", len(pages), err)
	}
	for _, path := range pages {
		out, err := exec.CommandContext(t.Context(), "groff", "-man", "-ww", "-t", "-z", "-Tutf8", path).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("groff %s: %v\n%s", filepath.Base(path), err, out)
		}
	}
}

// TestManualSaysWhatTheHelpSays compares the printed page of a command with its help.
func TestManualSaysWhatTheHelpSays(t *testing.T) {
	dir := t.TempDir()
	if _, stderr, code := culvert(t, "man", dir); code != exitDone {
		t.Fatal(stderr)
	}
	for page, want := range map[string][]string{
		"man1/culvert.1":               {"culvert - Translate and filter packets", "culvert-conntrack(1)", "EXIT STATUS"},
		"man1/culvert-conntrack.1":     {"culvert conntrack (-L | -G | ", "-d, --dst ADDRESS[/LEN]", "original direction"},
		"man1/culvert-interface-add.1": {"--driver DRIVER", "af_packet or tun (default af_packet)", "culvert interface add veth7 --area guest --address 10.7.0.1/24"},
		"man5/culvert.toml.5":          {"[[interface]]", `name: string; default "culvert".`, `on_exit = "hold"`},
	} {
		cmd := exec.CommandContext(t.Context(), "groff", "-man", "-t", "-Tascii", "-P-c", "-P-b", "-P-u", "-rLL=200n", filepath.Join(dir, page))
		cmd.Env = append(os.Environ(), "GROFF_NO_SGR=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(string(out)), " ")
		for _, w := range want {
			if !strings.Contains(text, strings.Join(strings.Fields(w), " ")) {
				t.Errorf("%s does not say %q", page, w)
			}
		}
	}
}
