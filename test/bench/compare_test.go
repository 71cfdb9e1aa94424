package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// module is a Go module with one benchmark of two revisions: the second one takes a tenth
// of the time.
var module = map[string]string{
	"go.mod": "module example.com/tiny\n\ngo 1.26\n",
	"sub/tiny_test.go": `package tiny

import "testing"

var sum int

func BenchmarkSum(b *testing.B) {
	for range b.N {
		for i := range 10000 {
			sum += i
		}
	}
}
`,
}

// run has a command do something in a folder.
func run(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestCompareTellsWhichRevisionIsFasterAndLeavesNothing(t *testing.T) {
	dir, temp := t.TempDir(), t.TempDir()
	benchstat := filepath.Join(t.TempDir(), "benchstat")
	run(t, ".", nil, "go", "build", "-buildvcs=false", "-o", benchstat, "golang.org/x/perf/cmd/benchstat")
	for _, name := range []string{"bench-facts", "bench-compare"} {
		text, err := os.ReadFile(filepath.Join("../../scripts", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "scripts", name), string(text))
	}
	for name, text := range module {
		write(t, filepath.Join(dir, name), text)
	}
	git := func(args ...string) string {
		return run(t, dir, nil, append([]string{"git", "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-qm", "slow")
	write(t, filepath.Join(dir, "sub/tiny_test.go"), strings.ReplaceAll(module["sub/tiny_test.go"], "10000", "1000"))
	git("commit", "-qam", "fast")
	write(t, filepath.Join(dir, "sub/tiny_test.go"), "package broken") // not committed: not measured

	out := run(t, dir, []string{"BENCHSTAT=" + benchstat, "BENCHTIME=2000x", "ROUNDS=3", "TMPDIR=" + temp},
		"scripts/bench-compare", "HEAD~1")
	for _, want := range []string{"kernel: ", "base: ", "head: ", "what is not committed is not measured", "Sum", "sec/op", "vs base", "n=6", "-"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if i := strings.Index(out, "Sum"); i >= 0 && !strings.Contains(out[i:], "-9") && !strings.Contains(out[i:], "-8") {
		t.Errorf("a tenth of the work is not some 90 %% faster in\n%s", out)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if trees := git("worktree", "list"); strings.Count(trees, "\n") != 1 {
		t.Errorf("worktrees are left:\n%s", trees)
	}
}

func TestCompareRefusesWhatIsNoRevision(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "../../scripts/bench-compare", "no-such-revision")
	if out, err := cmd.CombinedOutput(); err == nil || string(out) != "no-such-revision is no revision\n" {
		t.Errorf("%v: %s", err, out)
	}
}
