package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var quotedFile = regexp.MustCompile("`([A-Za-z0-9_/.-]+\\.(?:go|service))`")

// TestThreatModelNamesWhatExists looks for every file that SECURITY.md names by its
// path or the end of it.
func TestThreatModelNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		files = append(files, filepath.ToSlash(path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := quotedFile.FindAllStringSubmatch(string(text), -1)
	if len(named) < 8 {
		t.Fatalf("SECURITY.md names %d files, want a test for each threat", len(named))
	}
	for _, m := range named {
		if !slices.ContainsFunc(files, func(f string) bool { return strings.HasSuffix(f, "/"+m[1]) }) {
			t.Errorf("SECURITY.md names %s, which is nowhere", m[1])
		}
	}
}
