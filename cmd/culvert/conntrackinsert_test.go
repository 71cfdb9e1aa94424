package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const insertedFlow = "-p udp -s 10.0.0.5 -d 203.0.113.9 --sport 40000 --dport 53 -t 99"

func TestInsertedFlowTranslatesItsFirstPacket(t *testing.T) {
	g := runGateway(t)
	said := func(text string) string { return conntrackName + ": " + text + "\n" }
	for _, tt := range []struct {
		claim, line, stderr string
		code                int
	}{
		{"a flow is made", "-I " + insertedFlow + " -n 203.0.113.1:7777", said("1 flow entries have been created."), exitDone},
		{"not twice", "-I " + insertedFlow, said("Operation failed: Such conntrack exists, try -U to update"), exitFailed},
		{"nor added", "-A " + insertedFlow, said("0 flow entries have been added."), exitDone},
	} {
		stdout, stderr, code := g.conntrack(t, tt.line)
		if stdout != "" || stderr != tt.stderr || code != tt.code {
			t.Errorf("%s: status %d, %q, %q", tt.claim, code, stdout, stderr)
		}
	}
	if !g.pass(t, g.wan, g.lan, "203.0.113.9", 53, "203.0.113.1", 7777) {
		t.Error("an answer to the flow does not get in")
	}
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) {
		t.Error("a packet of the flow does not get out")
	}
	if list, _, _ := g.conntrack(t, "-L"); strings.Count(list, "\n") != 1 || !strings.Contains(list, "dport=7777") {
		t.Errorf("the packets went by other flows: %s", list)
	}
}

func TestFlowsComeBackFromTheFileThatSavedThem(t *testing.T) {
	g := runGateway(t)
	for _, line := range []string{
		"-I " + insertedFlow + " -n 203.0.113.1:7777",
		"-I " + strings.Replace(insertedFlow, "40000", "40001", 1) + " -n 203.0.113.1:7778 -g 203.0.113.8:5353 -u SEEN_REPLY,ASSURED",
		"-I -p tcp -s 10.0.0.5 -d 203.0.113.9 --sport 1 --dport 2 -t 99 --state FIN_WAIT",
		"-I -p icmp -s 10.0.0.5 -d 203.0.113.9 --icmp-type 8 --icmp-code 0 --icmp-id 7 -t 99 -n 203.0.113.1",
		"-I -p sctp -s 10.0.0.5 -d 203.0.113.9 --sport 1 --dport 2 -t 99 --state ESTABLISHED --orig-vtag 11 --reply-vtag 22",
		"-I -p dccp -s 10.0.0.5 -d 203.0.113.9 --sport 1 --dport 2 -t 99 --state OPEN --role client",
		"-I -p gre -s 10.0.0.5 -d 203.0.113.9 --srckey 1 --dstkey 2 -t 99",
	} {
		if _, stderr, code := g.conntrack(t, line); code != exitDone {
			t.Fatalf("%s: %s", line, stderr)
		}
	}
	saved := func() string {
		stdout, _, _ := g.conntrack(t, "-L -o save")
		return regexp.MustCompile(`-t [0-9]+`).ReplaceAllString(stdout, "-t 99")
	}
	before := saved()
	if n := strings.Count(before, "\n"); n != 7 {
		t.Fatalf("%d flows were saved: %s", n, before)
	}
	g.conntrack(t, "-F")
	// The state of DCCP has no role in the file, as with the real one.
	file := filepath.Join(t.TempDir(), "flows")
	text := "# saved\n\n" + strings.Replace(before, "--state OPEN", "--state OPEN --role client", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := g.conntrack(t, "-R "+file); stdout+stderr != "" || code != exitDone {
		t.Errorf("status %d, %q, %q", code, stdout, stderr)
	}
	if after := saved(); after != before {
		t.Errorf("flows came back as\n%swere\n%s", after, before)
	}
}

func TestFileOfCommandsIsParsedBeforeItIsDone(t *testing.T) {
	g := runGateway(t)
	for _, tt := range []struct{ claim, last, want string }{
		{"a list", "-L", "Cannot use command `-L' with --load-file"},
		{"an expectation", "-F expect", "Cannot use command `-F expect' with --load-file"},
		{"no command", "nothing", "Cannot use command `unknown' with --load-file"},
		{"a mistake", "-I -t 5", "You need to supply the `--protonum' option for this command"},
	} {
		file := filepath.Join(t.TempDir(), "commands")
		if err := os.WriteFile(file, []byte("-I "+insertedFlow+"\n"+tt.last+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := g.conntrack(t, "-R "+file)
		if want := conntrackName + ": " + tt.want + "\n" + conntrackHint + "\n"; stderr != want || code != exitMisused {
			t.Errorf("%s: status %d, %q, want %q", tt.claim, code, stderr, want)
		}
		if n, _, _ := g.conntrack(t, "-C"); n != "0\n" {
			t.Errorf("%s: %s flows were made", tt.claim, n)
		}
	}
}

// TestSavedFlowLosesWhatJSONKeeps: the holes of conntrack(8)'s forms.
func TestSavedFlowLosesWhatJSONKeeps(t *testing.T) {
	g := runGateway(t)
	g.conntrack(t, "-I -p icmp -s 10.0.0.5 -d 203.0.113.9 --icmp-type 8 --icmp-code 0 --icmp-id 7 -t 99 -m 21")
	for _, tt := range []struct{ form, missing string }{{"xml", "<icmp"}, {"save", "21"}} {
		if got, _, _ := g.conntrack(t, "-L -o "+tt.form); got == "" || strings.Contains(got, tt.missing) {
			t.Errorf("-o %s has %s: %s", tt.form, tt.missing, got)
		}
	}
	got, _, _ := g.conntrack(t, "-L -o json")
	for _, want := range []string{`"type":8`, `"code":0`, `"icmp_id":7`, `"mark":21`} {
		if !strings.Contains(got, want) {
			t.Errorf("-o json has no %s: %s", want, got)
		}
	}
}

func TestFlowSaysWhyItIsAsItIs(t *testing.T) {
	g := runGateway(t)
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) {
		t.Fatal("the flow does not get out")
	}
	g.conntrack(t, "-I -p udp -s 10.0.0.5 -d 203.0.113.9 --sport 41000 --dport 53 -t 99 -n 203.0.113.1:7777")
	got, _, _ := g.conntrack(t, "-L -o why")
	for _, want := range []string{
		"sport=53 dport=40000 mark=0 use=1 rule=snat/1 at=test.toml:15 generation=1 port=preserved\n",
		"sport=53 dport=7777 mark=0 use=1 rule=snat/1 at=test.toml:15 generation=1 port=commanded\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the list has no %q:\n%s", want, got)
		}
	}
}

func TestStatsHaveALineForEachWorker(t *testing.T) {
	g := runGateway(t)
	g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53)
	want := "cpu=0   \tfound=0 invalid=0 insert=1 insert_failed=0 drop=0 early_drop=0 error=0 search_restart=0 clash_resolve=0 chaintoolong=0 \n"
	if got, stderr, code := g.conntrack(t, "-S"); got != want || stderr != "" || code != exitDone {
		t.Errorf("status %d, %q, %q; want %q", code, got, stderr, want)
	}
}

// endless are lines without an end.
type endless string

func (e endless) Read(b []byte) (n int, err error) {
	for n < len(b) {
		n += copy(b[n:], e)
	}
	return n, nil
}

func TestTooLongFileOfCommandsIsRefusedWhole(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.SetIn(endless("#" + strings.Repeat("x", 254) + "\n"))
	if err := load(cmd, "-", nil); err == nil || !strings.Contains(err.Error(), "longer than 512 MiB") {
		t.Errorf("a file without an end: %v, want it refused for its length", err)
	}
}
