package archtest

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
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

// licences that what is linked into the binary may have, by words of their texts.
// A text with words of a copyleft licence is refused first.
var licences = []struct{ name, words string }{
	{"Apache-2.0", "Apache License Version 2"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"BSD", "Redistribution and use in source and binary forms, with or without modification, are permitted provided that"},
}

var copyleft = regexp.MustCompile(`(?i)GNU (?:Lesser |Affero |Library )?General Public|Mozilla Public|European Union Public`)

func TestModulesOfTheBinaryMayBeLinked(t *testing.T) {
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
		if name, err := licenceOf(t, m.Path); err != nil {
			t.Errorf("%s: %v", m.Path, err)
		} else {
			t.Logf("%s %s: %s", m.Path, m.Version, name)
		}
	}
}

// licenceOf finds and reads the licence of a module.
func licenceOf(t *testing.T, path string) (string, error) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	dir := strings.TrimSpace(string(out))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(upper, "LICENSE") && !strings.HasPrefix(upper, "LICENCE") && !strings.HasPrefix(upper, "COPYING") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		words := wordsOf(string(text))
		if m := copyleft.FindString(words); m != "" {
			return "", fmt.Errorf("%s speaks of the %s Licence", e.Name(), m)
		}
		for _, l := range licences {
			if strings.Contains(words, wordsOf(l.words)) {
				return l.name, nil
			}
		}
		return "", fmt.Errorf("%s is no licence known here", e.Name())
	}
	return "", fmt.Errorf("%s has no licence", dir)
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
