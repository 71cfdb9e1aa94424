package archtest

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// licences that what we build with may have, by words of their texts.
// A text with words of a copyleft licence is refused first.
var licences = []struct{ name, words string }{
	{"Apache-2.0", "Apache License Version 2"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"BSD", "Redistribution and use in source and binary forms, with or without modification, are permitted provided that"},
}

var copyleft = regexp.MustCompile(`(?i)GNU (?:Lesser |Affero |Library )?General Public|Mozilla Public|European Union Public`)

// TestBinaryNamesItsModules reads the list that go version -m shows.
func TestBinaryNamesItsModules(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "culvert")
	build(t, "../..", binary)
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) < 10 {
		t.Fatalf("%d modules in the binary, want those of go.mod", len(info.Deps))
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			t.Errorf("%s is replaced by %s: what is built is not what go.sum pins", m.Path, m.Replace.Path)
			continue
		}
		if m.Sum == "" {
			t.Errorf("%s %s has no sum", m.Path, m.Version)
		}
	}
}

// licencesOf reads the licences in a folder. A text that is none known here is an error.
func licencesOf(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		if e.IsDir() || strings.HasSuffix(upper, ".GO") || !strings.HasPrefix(upper, "LICENSE") && !strings.HasPrefix(upper, "LICENCE") && !strings.HasPrefix(upper, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		name, err := licenceOf(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s %w", e.Name(), err)
		}
		names = append(names, name)
	}
	return names, nil
}

// licenceOf names the licence that a text is.
func licenceOf(text string) (string, error) {
	words := wordsOf(text)
	if m := copyleft.FindString(words); m != "" {
		return "", fmt.Errorf("speaks of the %s Licence", m)
	}
	for _, l := range licences {
		if strings.Contains(words, wordsOf(l.words)) {
			return l.name, nil
		}
	}
	return "", errors.New("is no licence known here")
}

func TestOtherLicencesAreRefused(t *testing.T) {
	for _, tt := range []struct{ claim, text, want string }{
		{"a permissive one is known by its words", "MIT\n\nPermission is hereby granted, free of\n charge, to any person obtaining a copy\n", ""},
		{"copyleft is refused", "GNU GENERAL PUBLIC LICENSE\nVersion 2, June 1991\n", "GNU GENERAL PUBLIC"},
		{"also the lesser one", "GNU Lesser\n  General Public License, version 3", "GNU Lesser General Public"},
		{"and that of networks", "GNU AFFERO GENERAL PUBLIC LICENSE", "GNU AFFERO GENERAL PUBLIC"},
		{"also beside a permissive one", "Apache License, Version 2.0\nor the Mozilla Public License", "Mozilla Public"},
		{"what nobody knows is refused", "All rights reserved.", "no licence known"},
		{"nothing is refused", "", "no licence known"},
	} {
		name, err := licenceOf(tt.text)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %q, %v, want %q", tt.claim, name, err, tt.want)
		}
	}
}

// TestEverythingThatIsCompiledMayBe reads the licences of every package that the program,
// its tests and its tools are made of: those of its module, and any on the way to it.
func TestEverythingThatIsCompiledMayBe(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-test", "-tags", "netns",
		"-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Dir}}\t{{$.Dir}}{{end}}{{end}}", "./...", "tool")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	modules, read := map[string][]string{}, map[string]bool{}
	for line := range strings.Lines(string(out)) {
		words := strings.Split(strings.TrimSpace(line), "\t")
		if len(words) != 3 || words[0] == "" {
			continue
		}
		module, top, dir := words[0], words[1], words[2]
		for ; !read[dir]; dir = filepath.Dir(dir) {
			read[dir] = true
			names, err := licencesOf(dir)
			if err != nil {
				t.Errorf("%s: %s: %v", module, dir, err)
			}
			modules[module] = append(modules[module], names...)
			if dir == top {
				break
			}
		}
	}
	if len(modules) < 20 {
		t.Errorf("%d modules were found, want those of go.mod", len(modules))
	}
	for module, names := range modules {
		if len(names) == 0 {
			t.Errorf("%s has no licence", module)
		}
		t.Logf("%s: %v", module, names)
	}
}

// wordsOf leaves out how a text is punctuated, quoted and wrapped.
func wordsOf(text string) string { return strings.Join(strings.FieldsFunc(text, notInWords), " ") }

func notInWords(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// TestSameSourceGivesTheSameBinary builds two copies of the source in different
// places, as make build does.
func TestSameSourceGivesTheSameBinary(t *testing.T) {
	var sums [2][sha256.Size]byte
	for i, name := range []string{"a", "elsewhere/b"} {
		dir := filepath.Join(t.TempDir(), name)
		copySource(t, "../..", dir)
		binary := filepath.Join(dir, "culvert")
		build(t, dir, binary)
		text, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(dir)) {
			t.Errorf("the binary names %s, where it was built", dir)
		}
		sums[i] = sha256.Sum256(text)
	}
	if sums[0] != sums[1] {
		t.Errorf("SHA-256 %x and %x, want the same", sums[0], sums[1])
	}
}

// build links the binary as the Makefile does, without a commit.
func build(t *testing.T, dir, to string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-o", to, "./cmd/culvert")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// copySource copies what go build reads.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == ".git" || n == "testdata" || rel == "bin" || rel == "dist" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
