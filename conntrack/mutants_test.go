package conntrack

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutation is a mistake somebody could make in the TCP tracker.
type mutation struct {
	name     string
	file     string
	old, new string // old is there once
}

const (
	stateFile  = "tcp.go"
	windowFile = "tcpwindow.go"
	trackFile  = "track.go"
)

// mutations begins with those that are tried in every run.
var mutations = []mutation{
	{"the right edge is not checked", windowFile, "case before(from.maxEnd, seq):", "case false && before(from.maxEnd, seq):"},
	{"a RST behind the last acknowledgement ends the flow", stateFile, "if before(s.Seq, peer.maxAck) && !l.ignoreInvalidRST {", "if false {"},
	{"a SYN reopens whatever is closed", stateFile, "return c.flags[tuple.Original]&flagFIN != 0 || c.noted(d, noteEnd)", "return true"},

	{"acknowledgements of unsent data pass", windowFile, "case before(peer.end, sack):\n\t\treturn InvalidAck", "case false:\n\t\treturn InvalidAck"},
	{"unsent data is off by one", windowFile, "case before(peer.end, sack):\n\t\treturn InvalidAck", "case before(peer.end+1, sack):\n\t\treturn InvalidAck"},
	{"the right edge is off by one", windowFile, "case before(from.maxEnd, seq):", "case before(from.maxEnd+1, seq):"},
	{"old data is off by one", windowFile, "case peer.maxWin != 0 && before(end, from.end-peer.maxWin):", "case peer.maxWin != 0 && before(end, from.end-peer.maxWin+1):"},
	{"old acknowledgements are off by one", windowFile, "case before(sack, peer.end-backlog):", "case before(sack, peer.end-backlog+1):"},
	{"old acknowledgements are judged by the wrong side", windowFile, "backlog := max(from.maxWin, minAckWindow)\n\tswitch {", "backlog := max(peer.maxWin, minAckWindow)\n\tswitch {"},
	{"the window of a SYN is scaled", windowFile, "if s.Flags&SYN == 0 {\n\t\twin <<= c.scale[d]", "{\n\t\twin <<= c.scale[d]"},
	{"windows are scaled by the wrong side", windowFile, "win <<= c.scale[d] // ", "win <<= c.scale[o] // "},
	{"the scale is not bounded", stateFile, "c.scale[d] = min(s.WindowScale, 14)", "c.scale[d] = min(s.WindowScale, 15)"},
	{"one side alone can scale", windowFile, "if d == tuple.Reply && c.flags[d]&c.flags[o]&sideScale == 0 {", "if false {"},
	{"SACK counts without being permitted", windowFile, "if s.Options&OptSACK != 0 && c.flags[o]&sideSACK != 0 && before(sack, s.SACK) {", "if s.Options&OptSACK != 0 && before(sack, s.SACK) {"},
	{"SACK does not count", windowFile, "if s.Options&OptSACK != 0 && c.flags[o]&sideSACK != 0 && before(sack, s.SACK) {", "if false {"},
	{"a zero window cannot be probed", windowFile, "peer.maxEnd++ // a zero window probe", "_ = peer"},
	{"a picked-up flow is judged strictly", windowFile, "if v != Accept && (c.flags[d]&sideLoose != 0 ||", "if v != Accept && (false ||"},
	{"liberal mode takes no old data", windowFile, "if v != Accept && (c.flags[d]&sideLoose != 0 ||", "if v.Invalid() && (c.flags[d]&sideLoose != 0 ||"},
	{"data too far ahead is not noted", windowFile, "from.end = end\n\tc.flags[d] |= sideUnacked\n\treturn Ignore", "return Ignore"},
	{"data may be any number of windows ahead", windowFile, "end-from.maxEnd+1 > peer.maxWin ||", ""},
	{"the highest acknowledgement goes back", windowFile, "if s.Flags&ACK != 0 && (c.flags[d]&sideAcked == 0 || before(from.maxAck, ack)) {", "if s.Flags&ACK != 0 {"},
	{"a RST without acknowledgement is judged by it", windowFile, "if s.Flags&ACK == 0 || s.Flags&RST != 0 && ack == 0 {", "if s.Flags&ACK == 0 {"},
	{"acknowledged data stays unacknowledged", windowFile, "if ack == peer.end {\n\t\tc.flags[o] &^= sideUnacked", "if false {\n\t\tc.flags[o] &^= sideUnacked"},
	{"other segments count as retransmissions", windowFile, "if c.last == h && c.noted(d, 0) {", "if c.noted(d, 0) {"},
	{"a SYN takes no number", stateFile, "if s.Flags&SYN != 0 {\n\t\tn++", "if false {\n\t\tn++"},
	{"a FIN takes no number", stateFile, "if s.Flags&FIN != 0 {\n\t\tn++", "if false {\n\t\tn++"},
	{"numbers do not wrap", stateFile, "return int32(a-b) < 0", "return a < b"},
	{"any RST ends an established flow", stateFile, "if !proven || s.Seq == peer.maxAck || c.follows(d, s) {", "if true {"},
	{"only an exact RST ends a closing flow", stateFile, "if closing(c.state) {\n", "if false {\n"},
	{"any SYN+ACK makes the entry follow", stateFile, "if class != segSYNACK || !c.noted(o, noteSYN) || !c.answers(o, s) {", "if class != segSYNACK || !c.noted(o, noteSYN) {"},
	{"the scale of an ignored SYN is lost", stateFile, "c.scale[o] = uint8(c.last >> synScaleOff & 0xf)", "_ = synScaleOff"},
	{"a challenge ACK closes the entry", stateFile, "case next == TimeWait && old == LastAck && class == segACK && c.doubt && c.noted(d.Other(), noteSYN):", "case false:"},
	{"a simultaneous open is forgotten", stateFile, "case next == SynSent2:\n\t\tc.doubt = true", "case next == SynSent2:"},
	{"a retransmitted SYN refreshes", stateFile, "r.idle = idleKeep", "r.idle = idleRefresh"},
	{"a refused flow lives on", stateFile, "r.idle = idleEnd", "r.idle = idleRefresh"},
	{"a picked-up flow lives for days unanswered", stateFile, "r.timer = timerUnacked // picked up", "r.timer = timerState // picked up"},
	{"a SYN proves a flow", stateFile, "case status&(SeenReply|Assured) == SeenReply && (old == SynRecv || old == Established) && next == Established:", "case status&Assured == 0:"},
	{"strays never shorten", stateFile, "r.idle = idleShorten", "_ = r.idle"},
	{"a pickup passes in strict mode", stateFile, "if class != segSYN && l.pickup == Strict {", "if false {"},
	{"an ignored reply is none", trackFile, "w.replied(r, e, status, 0, now)", "_ = w"},
}

// mutantTests are the tests that have to notice.
const mutantTests = "TCP|RST|FIN|Window|Pick|SYN|Peers|Restart|Simultaneous|Open|Challenge|Ignored|Retransmi"

// ciMutations is how many of the mutations every run tries; CULVERT_LONG=1 tries all.
const ciMutations = 3

// TestMutantsAreCaught makes mistakes in the tracker, one at a time, and runs its
// tests on each. A mistake that no test notices is a test that is missing.
func TestMutantsAreCaught(t *testing.T) {
	todo := mutations
	switch {
	case os.Getenv("CULVERT_LONG") != "":
	case testing.Short():
		todo = mutations[:1]
	default:
		todo = mutations[:ciMutations]
	}
	for _, m := range todo {
		t.Run(m.name, func(t *testing.T) {
			out, err := m.run(t)
			switch {
			case err == nil:
				t.Error("no test noticed")
			case !strings.Contains(out, "--- FAIL"):
				t.Errorf("the tests did not run: %v\n%s", err, out)
			}
		})
	}
}

// run tests the package with the mutation in place of its file.
func (m *mutation) run(t *testing.T) (string, error) {
	t.Helper()
	path, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		t.Fatalf("%s has %d times %q, the mutation wants it once", m.file, n, m.old)
	}
	dir := t.TempDir()
	mutant, overlay := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json")
	replaced, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		mutant:  strings.Replace(string(source), m.old, m.new, 1),
		overlay: string(replaced),
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay="+overlay, "-vet=off", "-short", "-failfast", "-count=1", "-run="+mutantTests, ".")
	cmd.Env = append(os.Environ(), "CULVERT_LONG=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
