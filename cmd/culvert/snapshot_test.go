package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSnapshotIsSavedAndRestored(t *testing.T) {
	g := runGateway(t)
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) {
		t.Fatal("the packet does not go where it should")
	}
	file := filepath.Join(t.TempDir(), "flows.snapshot")
	run := func(want string, args ...string) {
		t.Helper()
		stdout, stderr, code := culvert(t, append(args, "--socket", g.socket)...)
		if code != exitDone || !strings.Contains(stdout, want) {
			t.Fatalf("%v: status %d, %q, stderr %q, want %q", args, code, stdout, stderr, want)
		}
	}
	run("saved 1 flow, 0 expectations and 0 kept ports to "+file+"\n", "snapshot", "save", file)
	info, err := os.Stat(file)
	if err != nil || info.Mode() != snapshotMode {
		t.Errorf("the file: %v, %v, want mode %o", info, err, snapshotMode)
	}
	run("restored 0 flows, 0 expectations and 0 kept ports; left out 1 whose tuple", "snapshot", "restore", file)
	run("", "conntrack", "-F")
	run("restored 1 flow, 0 expectations and 0 kept ports\n", "snapshot", "restore", file)
	run(`"flows": 1`, "snapshot", "save", file, "-o", "json")
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) != 0 {
		t.Errorf("%v are left beside the file", left)
	}

	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, snapshotMode); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := culvert(t, "snapshot", "restore", file, "--socket", g.socket)
	if code != exitFailed || !strings.Contains(stderr, "the snapshot is damaged") || stdout != "" {
		t.Errorf("damaged: status %d, %q, stderr %q", code, stdout, stderr)
	}
}
