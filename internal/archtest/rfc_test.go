package archtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// requirement is a line of the table in package nat's documentation.
var requirement = regexp.MustCompile(`^//\t(\d{4}) (\S+) +(MUST|SHOULD|MAY) +(met in rfc profile|met|by choice not|not yet)  +(.*?)(?: - (\w+)\.(Test\w+))?$`)

// openRequirements are those that nothing meets so far. It may only get shorter.
var openRequirements []string

// demanded are the requirements that each RFC has, without those with letters.
func demanded() []string {
	var all []string
	for rfc, last := range map[int]int{4787: 14, 5382: 10, 5508: 11, 6888: 15} {
		for n := range last {
			all = append(all, fmt.Sprintf("%d REQ-%d", rfc, n+1))
		}
	}
	for _, section := range []string{"2", "2.1", "2.2", "3", "4", "5", "6", "7", "7.1", "8", "9", "10", "11", "12"} {
		all = append(all, "7857 "+section)
	}
	return all
}

func TestRequirementsOfTheRFCsAreMetByTests(t *testing.T) {
	text, err := os.ReadFile("../../nat/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	tests := testsByPackage(t)
	missing := demanded()
	var open []string
	_, table, _ := strings.Cut(string(text), "# What the RFCs demand")
	for line := range strings.Lines(table) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, "//\t") {
			continue
		}
		m := requirement.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("nat/doc.go: this line of the table is none: %q", line)
			continue
		}
		name, level, status, test := m[1]+" "+m[2], m[3], m[4], m[6]+"."+m[7]
		missing = slices.DeleteFunc(missing, func(s string) bool { return s == name })
		switch {
		case status == "not yet":
			open = append(open, name)
		case status == "by choice not":
			if level == "MUST" {
				t.Errorf("RFC %s is no choice: it says MUST", name)
			}
		case !slices.Contains(tests, test):
			t.Errorf("RFC %s: there is no test %s", name, test)
		}
	}
	for _, name := range missing {
		t.Errorf("RFC %s is not in the table", name)
	}
	if !slices.Equal(open, openRequirements) {
		t.Errorf("not yet met: %q, known are %q", open, openRequirements)
	}
}

// testsByPackage returns the names of all tests as "package.TestName", those in namespaces too.
func testsByPackage(t *testing.T) []string {
	t.Helper()
	name := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	var all []string
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			all = append(all, filepath.Base(filepath.Dir(path))+"."+m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
