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

// started finds the first word of commands that tests, the lab and the demo run.
var started = regexp.MustCompile(`(?:(?:Start|exec\.Command)\(|(?:Exec|CommandContext)\((?:ctx|\w+\.Context\(\)), |\bexec\(t, \w+, )` +
	`(?:append\(\[\]string\{)?"([a-z0-9_.-]+)"|args = \[\]string\{"([a-z0-9_.-]+)"`)

// always are commands that every machine with Go has.
var always = []string{"go", "sh", "bash", "cat", "ls", "sleep"}

// indirect are tools that no Go code starts by name, with who needs them.
var indirect = []string{
	"gcc",                 // go test -race
	"nft",                 // test/netns, for kernel gateways
	"curl", "lftp", "ftp", // test/netns/e2e, the ways of FTP
	"sipp", "baresip", // test/netns/e2e, peers of SIP
	"nmap",   // test/netns/e2e/box, scan
	"strace", // test/netns/e2e/box, beneath setpriv
}

func TestToolsOfTheTestsAreInstalled(t *testing.T) {
	list, err := os.ReadFile("../../scripts/install-test-tools")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(list), "tools='")
	table, _, _ := strings.Cut(rest, "'")
	var installed []string
	for line := range strings.Lines(table) {
		if words := strings.Fields(line); len(words) > 0 {
			installed = append(installed, words[0])
		}
	}
	used := map[string]string{} // command: a file that runs it
	for _, name := range indirect {
		used[name] = "archtest"
	}
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		inTests := strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/test/")
		if err != nil || d.IsDir() || !inTests || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range started.FindAllStringSubmatch(string(text), -1) {
			used[m[1]+m[2]] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range used {
		if !slices.Contains(installed, name) && !slices.Contains(always, name) {
			t.Errorf("%s runs %s, which scripts/install-test-tools does not install", path, name)
		}
	}
	for _, name := range installed {
		if used[name] == "" {
			t.Errorf("scripts/install-test-tools installs %s, which no test runs", name)
		}
	}
}
