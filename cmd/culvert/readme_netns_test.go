//go:build netns

package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"example.com/culvert/control/api/apitest"
)

// readmeCommand finds the commands of the README: lines that are indented by four
// blanks and no more, which drawings and continuations are.
var readmeCommand = regexp.MustCompile(`(?m)^    (\S[^\n]*)$`)

// root is the directory of the module.
const root = "../.."

// readmeSite is where the commands of the README run: beside a gateway, with its paths
// and addresses in place of those that the README invents.
type readmeSite struct {
	site
	dir   string
	names *strings.Replacer
}

// readmeWay is how a command of the README is run. Those that want more than a gateway
// are cut to what a test may do; stands names the test that does the rest.
type readmeWay struct {
	line   *regexp.Regexp
	run    func(t *testing.T, s *readmeSite, line string)
	stands string // FILE:TEST
}

var readmeWays = []readmeWay{
	{regexp.MustCompile(`^go run \./cmd/culvert demo$`), rewritten(" demo", " version"), "cmd/culvert/demo/demo_test.go:TestEveryStepPasses"},
	{regexp.MustCompile(`^go build .* && sudo \S+ demo$`), rewritten("sudo ", "", " demo", " version"), "cmd/culvert/demo/demo_test.go:TestEveryStepPasses"},
	{regexp.MustCompile(`^make `), rewritten("make ", "make -n "), "cmd/culvert/readme_test.go:TestMakeTargetsOfTheREADMEExist"},
	{regexp.MustCompile(`^culvert run `), runsUntilTold, ""},
	{regexp.MustCompile(`^culvert conntrack -E`), streams, ""},
	{regexp.MustCompile(`^culvert events`), streams, ""},
	{regexp.MustCompile(`^culvert top *(#.*)?$`), streams, ""},
	{regexp.MustCompile(`^curl .*/events`), streams, ""},
	{regexp.MustCompile(`^culvert (trace|capture) `), watches, ""},
	{regexp.MustCompile(`^culvert upgrade `), rewritten(" upgrade", " upgrade --help"), "test/netns/e2e/scenario_upgrade_test.go:TestConnectionsGoOnInAnotherProcess"},
	{regexp.MustCompile(`^(culvert|curl) `), succeeds, ""},
	{regexp.MustCompile(`^(go mod edit|grep -rl) `), inACopy, ""},
}

// TestEveryCommandOfTheREADMERuns runs each of them as it is written there, comment
// and all. A command that no way is for fails.
func TestEveryCommandOfTheREADMERuns(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := newReadmeSite(t)
	used := make(map[*regexp.Regexp]bool)
	for _, m := range readmeCommand.FindAllStringSubmatch(string(text), -1) {
		line, known := m[1], false
		for i := range readmeWays {
			if w := &readmeWays[i]; w.line.MatchString(line) {
				known, used[w.line] = true, true
				begun := time.Now()
				w.run(t, s, line)
				t.Logf("%6d ms  %s", time.Since(begun).Milliseconds(), line)
				w.check(t)
				break
			}
		}
		if !known {
			t.Errorf("README.md: nothing runs %q: add a way", line)
		}
	}
	for _, w := range readmeWays {
		if !used[w.line] {
			t.Errorf("README.md has no command like %v any more", w.line)
		}
	}
}

// check sees to it that the test which does the rest is there.
func (w *readmeWay) check(t *testing.T) {
	t.Helper()
	if w.stands == "" {
		return
	}
	file, name, _ := strings.Cut(w.stands, ":")
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil || !bytes.Contains(text, []byte("func "+name+"(t *testing.T)")) {
		t.Errorf("%s has no %s, which is to run %v: %v", file, name, w.line, err)
	}
}

// newReadmeSite runs a gateway with a TCP listener, in a namespace.
func newReadmeSite(t *testing.T) *readmeSite {
	t.Helper()
	s := &readmeSite{site: newSite(t), dir: t.TempDir()}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	apitest.Certificate(t, s.dir, "api", time.Now().Add(time.Hour))
	const token = "a-token-that-nobody-else-knows"
	for name, text := range map[string]string{"api.token": token, "api.header": "Authorization: Bearer " + token} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(s.dir, "culvert")); err != nil {
		t.Fatal(err)
	}
	s.names = strings.NewReplacer("/run/culvert/culvert.sock", s.socket, "/run/culvert/state", s.dir+"/state", "/etc/culvert/", s.dir+"/", "192.0.2.1:9465", "127.0.0.1:9465",
		"/tmp/culvert", filepath.Join(s.dir, "built"), "FILE", s.config, "eth1", "lan0", "eth0", "wan0")
	s.write(t, siteConfig+masqueradeRule+s.names.Replace(`
[api]
listen = "192.0.2.1:9465"
tls_cert = "/etc/culvert/api.crt"
tls_key = "/etc/culvert/api.key"
token_file = "/etc/culvert/api.token"
`))
	s.run(t)
	return s
}

// shell returns a shell that runs line, with this program as culvert.
func (s *readmeSite) shell(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", s.names.Replace(line))
	cmd.Env = append(os.Environ(), asCulvert+"=1", "PATH="+s.dir+":"+os.Getenv("PATH"), "CULVERT_SOCKET="+s.socket)
	cmd.Dir = root
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

const readmePatience = 2 * time.Minute

func succeeds(t *testing.T, s *readmeSite, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readmePatience)
	defer cancel()
	if out, err := s.shell(ctx, line).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
}

// rewritten is succeeds for a line in which words have been replaced.
func rewritten(oldnew ...string) func(*testing.T, *readmeSite, string) {
	return func(t *testing.T, s *readmeSite, line string) {
		t.Helper()
		succeeds(t, s, strings.NewReplacer(oldnew...).Replace(line))
	}
}

// streams is for commands that print events until they are stopped.
func streams(t *testing.T, s *readmeSite, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readmePatience)
	defer cancel()
	cmd := s.shell(ctx, line)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	some := make(chan int, 1)
	go func() {
		n, err := out.Read(make([]byte, 4096)) // an error: it ended without an event
		if err != nil {
			n = 0
		}
		some <- n
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for sport := uint16(40000); ; sport++ { // until it listens, and hears of one
		select {
		case n := <-some:
			if n == 0 {
				t.Errorf("%s printed no event", line)
			}
			_ = cmd.Cancel() // it may have ended by itself
			_ = cmd.Wait()   // the status is ours
			return
		case <-tick.C:
			knock(t, sport)
		}
	}
}

// watches is for commands that look at packets until they are interrupted, of which some
// may never see one: they say when they have begun.
func watches(t *testing.T, s *readmeSite, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readmePatience)
	defer cancel()
	cmd := s.shell(ctx, "exec "+line)
	cmd.Dir = s.dir // for the file of a capture
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewReader(said)
	if text, err := log.ReadString('\n'); text != "culvert: watching\n" {
		t.Errorf("%s: says %q: %v", line, text, err)
	}
	_ = cmd.Process.Signal(unix.SIGINT) // an error: it has ended, which Wait tells
	rest, _ := io.ReadAll(log)          // an error: likewise
	if err := cmd.Wait(); err != nil || len(rest) > 0 {
		t.Errorf("%s: after an interrupt: %v\n%s", line, err, rest)
	}
}

// runsUntilTold is for culvert run: it has a namespace of its own.
func runsUntilTold(t *testing.T, s *readmeSite, line string) {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	defer func() {
		if err := netns.Set(here); err != nil {
			t.Fatal(err)
		}
	}()
	other := &readmeSite{site: newSite(t), dir: s.dir, names: s.names}
	ctx, cancel := context.WithTimeout(t.Context(), readmePatience)
	defer cancel()
	other.write(t, siteConfig+masqueradeRule)
	cmd := other.shell(ctx, "exec "+strings.ReplaceAll(line, "FILE", other.config))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	other.ask(t, "status", "--wait", "20s")
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: after SIGTERM: %v\n%s", line, err, &log)
	}
}

// inACopy is for commands that change the source. They run one after the other in the
// same copy; after the last one nothing has the old path.
func inACopy(t *testing.T, s *readmeSite, line string) {
	t.Helper()
	copied := filepath.Join(s.dir, "copy")
	if _, err := os.Stat(copied); err != nil {
		copySource(t, copied)
	}
	ctx, cancel := context.WithTimeout(t.Context(), readmePatience)
	defer cancel()
	cmd := s.shell(ctx, line)
	cmd.Dir = copied
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	if !strings.HasPrefix(line, "grep") {
		return
	}
	list := s.shell(ctx, "go list ./... && ! grep -rl 'example.com/culvert' --include='*.go' --include=go.mod .")
	list.Dir = copied
	if out, err := list.CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("your.host/culvert/")) {
		t.Errorf("the module under its new path: %v\n%s", err, out)
	}
}

// copySource copies what the go command needs to list the module.
func copySource(t *testing.T, to string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == ".git" || name == "bin" || name == "testdata"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(to, filepath.Dir(rel)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
