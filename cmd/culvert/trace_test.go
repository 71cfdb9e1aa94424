package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/alg/report"
	"example.com/culvert/control/api"
)

// tracedLines are packets as the gateway tells them.
func tracedLines(t *testing.T, packets ...api.TracedPacket) io.Reader {
	t.Helper()
	var b bytes.Buffer
	for i := range packets {
		if err := json.NewEncoder(&b).Encode(&packets[i]); err != nil {
			t.Fatal(err)
		}
	}
	return &b
}

var helpedPacket = api.TracedPacket{
	Time: time.Date(2030, 1, 2, 3, 4, 5, 6000, time.Local), Packet: "tcp 10.0.0.5:40000 > 198.51.100.7:21", In: "lan0", Out: "wan0",
	Leaves: "tcp 203.0.113.1:40000 > 198.51.100.7:21", Verdict: "forwarded", Flow: 9, Of: "tcp 10.0.0.5:40000 > 198.51.100.7:21",
	Steps:  []api.Explained{{Step: "arrive", Text: "on lan0"}, {Step: "snat", Text: "masquerade", Rules: []api.RuleRef{{Text: "1 snat masquerade", Position: "c.toml:9"}}}},
	Helper: &api.HelperWork{Changes: []report.Change{{Old: "PORT 10,0,0,5,156,65\r\n", New: "PORT 203,0,113,1,156,65\r\n"}}, Expected: []string{"data tcp 198.51.100.7:* > 203.0.113.1:40001"}},
}

func TestWalkIsPrintedAsAnExplanation(t *testing.T) {
	var b strings.Builder
	err := traceTo(&b, tracedLines(t, helpedPacket, api.TracedPacket{Steps: []api.Explained{}, Missed: &api.Missed{Unread: 3, Beyond: 4}}), traceText)
	if err != nil {
		t.Fatal(err)
	}
	want := `03:04:05.000006 tcp 10.0.0.5:40000 > 198.51.100.7:21
arrive   on lan0
snat     masquerade
           rule 1 snat masquerade (c.toml:9)
verdict  forwarded by wan0 as tcp 203.0.113.1:40000 > 198.51.100.7:21
-PORT 10,0,0,5,156,65
+PORT 203,0,113,1,156,65
> data tcp 198.51.100.7:* > 203.0.113.1:40001

# missed 3 packets that were not read in time, 4 beyond the rate
`
	if b.String() != want {
		t.Errorf("printed\n%s, want\n%s", b.String(), want)
	}
}

func TestWorkOfAHelperIsPrintedAsADiff(t *testing.T) {
	p := helpedPacket
	p.Time = p.Time.In(time.UTC)
	var b strings.Builder
	if err := traceTo(&b, tracedLines(t, p), traceDiff); err != nil {
		t.Fatal(err)
	}
	want := "@@ flow 9, " + p.Time.Format(time.RFC3339Nano) + ", tcp 10.0.0.5:40000 > 198.51.100.7:21, in lan0 @@\n" +
		"-PORT 10,0,0,5,156,65\n+PORT 203,0,113,1,156,65\n> data tcp 198.51.100.7:* > 203.0.113.1:40001\n"
	if b.String() != want {
		t.Errorf("printed\n%s, want\n%s", b.String(), want)
	}
}

func TestWrongFiltersAreRefusedBeforeTheGatewayIsAsked(t *testing.T) {
	for args, want := range map[string]string{
		"trace hots 10.0.0.5":                   `unknown word "hots"; did you mean host?`,
		"trace host everywhere":                 "want an address such as 10.0.0.5",
		"trace port":                            "port needs a value: N",
		"trace --helper ftb":                    "use ",
		"capture host 10.0.0.5":                 "-w FILE is missing",
		"capture -w - -C 5":                     "--file-size is for files",
		"capture -w x -W 5":                     "--files needs --file-size",
		"capture -w x -s 1":                     "--snaplen 1: want 64 to",
		"capture -w x --count -1":               "--count -1: want 1 or more",
		"trace 10.0.0.5:70000 > 198.51.100.7:1": "want an address, or an address and a port",
	} {
		_, stderr, code := culvert(t, strings.Fields(args)...)
		if code != exitMisused || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d, stderr %q, want %q", args, code, stderr, want)
		}
	}
}

func TestFilesOfACaptureArePrivateAndAsManyAsWanted(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lan.pcapng")
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	files := captureFiles{path: path, most: 2}
	for i := range 4 {
		w, err := files.next()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(files.name(i))
		if err != nil || info.Mode() != captureMode {
			t.Errorf("file %d: %v, %v, want mode %o", i, info, err, captureMode)
		}
	}
	if err := files.close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "lan*"))
	if err != nil || len(names) != 2 || filepath.Base(names[0]) != "lan.2.pcapng" || filepath.Base(names[1]) != "lan.3.pcapng" {
		t.Errorf("kept %v, %v, want the last two", names, err)
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "untouched" {
		t.Errorf("the file that a link named says %q, %v", b, err)
	}
}

// As root -w /dev/null used to replace the device by a file, and -w DIRECTORY an empty
// directory.
func TestCaptureTakesNothingAwayButFiles(t *testing.T) {
	dir := t.TempDir()
	fifo, empty, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "empty"), filepath.Join(dir, "link")
	err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Mkdir(empty, 0o700), os.Symlink(fifo, link))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, empty, link} {
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		files := captureFiles{path: path}
		if _, err := files.next(); err == nil || !strings.Contains(err.Error(), "-w -") {
			t.Errorf("%s: %v, want a refusal that names -w -", path, err)
		}
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s was taken away: %v", path, err)
		}
	}
}
