package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// readmeLines finds command lines of culvert in the README: indented, up to a comment.
var readmeLines = regexp.MustCompile(`(?m)^    (?:.*sudo \S*/culvert|culvert|go run \./cmd/culvert) ([^#\n]*)`)

func TestCommandsOfTheREADMEParse(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	all := readmeLines.FindAllStringSubmatch(string(text), -1)
	if len(all) < 8 {
		t.Fatalf("README.md shows %d command lines, want those of the demo, run, check and others", len(all))
	}
	for _, m := range all {
		line := strings.TrimSpace(m[0])
		found, rest, err := newRoot().Find(strings.Fields(m[1]))
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if !found.Runnable() {
			t.Errorf("%q does nothing", line)
		}
		if found.DisableFlagParsing {
			continue // conntrack reads its own: its examples are tested with it
		}
		if err := found.ParseFlags(rest); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// readmeTargets finds the targets of make that the README tells to call.
var readmeTargets = regexp.MustCompile(`(?m)^    make ([a-z-]+)$`)

func TestMakeTargetsOfTheREADMEExist(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	all := readmeTargets.FindAllStringSubmatch(string(text), -1)
	if len(all) == 0 {
		t.Fatal("README.md calls no target of make, not even test")
	}
	for _, m := range all {
		if !strings.Contains(string(makefile), "\n"+m[1]+":") {
			t.Errorf("make %s: the Makefile has no such target", m[1])
		}
	}
}
