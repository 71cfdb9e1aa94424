//go:build netns

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"example.com/culvert/test/netns"
)

// marking forwards a port and marks the flows to another one.
var marking = setup{
	config: `
[conntrack]
acct = true
timestamp = true

[conntrack.timeouts]
udp = "600s"
icmp = "600s"
icmpv6 = "600s"

[[dnat]]
in_area = "wan"
family = "ipv4"
dst = "gateway"
proto = "tcp"
dport = 8080
action = "dnat"
to = "10.1.0.11:80"

[[filter]]
proto = "udp"
dport = 53
action = "mark"
set_mark = 21
`,
	prerouting: `
		iifname "wan0" ip daddr 203.0.113.1 tcp dport 8080 dnat ip to 10.1.0.11:80`,
	// Labels are kept while a rule of the table is about them.
	forward: `udp dport 53 ct state new ct mark set 21
		udp dport 60000 ct label set 3`,
}

// conntrackMasks are all the words that may differ between the real conntrack(8) and
// ours.
var conntrackMasks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\buse=[0-9]+`), "use=N"},
	{regexp.MustCompile(`<(use|id)>[0-9]+`), "<$1>N"},
	{regexp.MustCompile(`\bid=[0-9]{6,}`), "id=N"}, // not that of a ping
	{regexp.MustCompile(`\bdelta-time=[0-9]+`), "delta-time=N"},
	{regexp.MustCompile(`<(deltatime|start|stop)>[0-9]+`), "<$1>N"},
	{regexp.MustCompile(`\[(start|stop)=[^]]+\]`), "[$1=T]"},
	{regexp.MustCompile(`(?m)^\[[0-9]{10}\.[0-9]{1,6} *\]\t`), "[T]\t"},
	{regexp.MustCompile(`<when>.*?</when>`), "<when>T</when>"},
	{regexp.MustCompile(`\bportid=[0-9]+( progname=\S+)?`), "portid=N"}, // a name is there if the process still is
}

// TestConntrackAnswersAsTheRealOne asks two gateways with the same traffic, ours by a
// program of the name conntrack.
func TestConntrackAnswersAsTheRealOne(t *testing.T) {
	real, ours := marking.build(t, netns.Kernel), marking.build(t, netns.Culvert)
	for name, value := range map[string]string{"acct": "1", "timestamp": "1", "udp_timeout": "600", "icmp_timeout": "600", "icmpv6_timeout": "600"} {
		_, err := real.gw.Exec(t.Context(), "sh", "-c", "echo "+value+" >/proc/sys/net/netfilter/nf_conntrack_"+name)
		must(t, err)
	}
	program := filepath.Join(t.TempDir(), "conntrack")
	must(t, os.Symlink(ours.gw.Binary(), program))
	settle(t, program, real, ours)
	differ := func(lines []string) []difference { return compare(t, real, ours, program, lines) }
	for _, lines := range [][]string{conntrackLines, conntrackMistakes, legality(), {"-S", "-S expect"}} {
		for piece := range slices.Chunk(lines, 30) {
			for _, d := range differ(piece) { // one may have been behind the other
				report(t, stillDiffer(differ, d.line))
			}
		}
	}
	for _, line := range conntrackChanges {
		report(t, differ([]string{line}))
	}
	nameLabels(t, real)
	nameLabels(t, ours)
	for _, line := range conntrackUpdates {
		report(t, differ([]string{line}))
	}
}

// stillDiffer asks again, three times at most: a listing of the kernel's misses flows
// while its table is being changed.
func stillDiffer(differ func(lines []string) []difference, line string) (all []difference) {
	for range 3 {
		if all = differ([]string{line}); all == nil {
			break
		}
	}
	return all
}

// nameLabels gives the gateway's host names of labels, in an /etc that only it sees.
func nameLabels(t *testing.T, h *house) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "xtables"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "xtables", "connlabel.conf"), []byte(connlabels), 0o644))
	_, err := h.gw.Exec(t.Context(), "mount", "-t", "overlay", "overlay", "-o", "lowerdir="+dir+":/etc", "/etc")
	must(t, err)
}

// difference is a line that was answered in two ways.
type difference struct{ line, got, want string }

func report(t *testing.T, all []difference) {
	t.Helper()
	for _, d := range all {
		t.Errorf("conntrack %s\ngot\n%s\nwant\n%s", d.line, d.got, d.want)
	}
}

// compare asks both in the same moment, and returns which answers differ.
func compare(t *testing.T, real, ours *house, program string, lines []string) (all []difference) {
	t.Helper()
	var want, got []string
	var err, wantErr error
	var both sync.WaitGroup
	both.Go(func() { want, wantErr = real.answers(t, "conntrack", lines) })
	both.Go(func() { got, err = ours.answers(t, program, lines) })
	both.Wait()
	must(t, wantErr)
	must(t, err)
	for i, line := range lines {
		if strings.HasPrefix(line, "-S") { // a line for each processor, or worker
			got[i], want[i] = formOf(got[i]), formOf(want[i])
		}
		if !sameAnswer(got[i], want[i]) {
			all = append(all, difference{line, got[i], want[i]})
		}
	}
	return all
}

// statistic is a number in an answer of -S.
var statistic = regexp.MustCompile(`(cpu|[a-z_]+)=[0-9]+ *`)

// formOf returns what an answer is without its numbers, lines that are then the same
// once.
func formOf(text string) string {
	return strings.Join(slices.Compact(strings.Split(statistic.ReplaceAllString(text, "$1=N "), "\n")), "\n")
}

// settle makes flows of every kind, which live until the end, in each house in the same
// moment. How many segments a connection takes is up to the hosts, so its counters begin
// anew when it is idle.
func settle(t *testing.T, program string, real, ours *house) {
	t.Helper()
	each := func(do func(h *house)) {
		do(real)
		do(ours)
	}
	for _, f := range families {
		web := at(f.server, 80)
		each(func(h *house) { serveTCP(t, h.server, web, greetOnly) })
		each(func(h *house) { silent(t, talk(t, h.first, at(f.first, 40001), web).Conn) })
	}
	each(func(h *house) { serveTCP(t, h.first, at(ipv4.first, 80), greetOnly) })
	each(func(h *house) { silent(t, talk(t, h.server, at(ipv4.server, 40004), at(ipv4.outside, 8080)).Conn) })
	each(func(h *house) {
		until(t, "both ends have acknowledged everything", func() bool {
			flows, err := h.gw.Flows(t.Context(), "-p", "tcp")
			must(t, err)
			return !slices.ContainsFunc(flows, func(f netns.Flow) bool { return strings.Contains(f.Line, " 299 ") || strings.Contains(f.Line, " 300 ") })
		})
	})
	_, err := real.answers(t, "conntrack", []string{"-L -z"})
	must(t, err)
	_, err = ours.answers(t, program, []string{"-L -z"})
	must(t, err)
	for _, f := range families {
		dns := at(f.server, 53)
		each(func(h *house) { serveUDP(t, h.server, dns) })
		each(func(h *house) {
			client := bindUDP(t, h.first, at(f.first, 40002))
			client.ask(t, dns, "a")
		})
		each(func(h *house) {
			silent := bindUDP(t, h.first, at(f.first, 40003))
			_, err := silent.WriteToUDPAddrPort([]byte("b"), at(f.server, 9))
			must(t, err)
		})
		each(func(h *house) { openPing(t, h.first, f, f.first).ping(t, f.server, 77, 1) })
	}
}

// silent has a connection ask after nobody while it is idle, which would be counted.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.(*net.TCPConn).SetKeepAlive(false))
}

// greetOnly is greet of a server that is silent, too.
func greetOnly(c net.Conn) {
	if c.(*net.TCPConn).SetKeepAlive(false) == nil {
		greet(c)
	}
}

// answers runs commands on the gateway's host and returns all that each of them said.
func (h *house) answers(t *testing.T, program string, lines []string) ([]string, error) {
	const script = `set -f; export CULVERT_SOCKET="$4"
while read -r line; do
	"$1" $line 2>"$2.err" </dev/null; echo "status $?"
	sed 's/^/stderr: /' "$2.err"; echo "$3"
done <"$2"`
	const end = "-- that was all --"
	file := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	out, err := h.gw.Exec(t.Context(), "sh", "-c", script, "sh", program, file, end, h.gw.Socket())
	if err != nil {
		return nil, err
	}
	for _, m := range conntrackMasks {
		out = m.what.ReplaceAllString(out, m.by)
	}
	all := strings.Split(strings.TrimSuffix(strings.TrimSpace(out), end), end)
	if len(all) != len(lines) {
		return nil, fmt.Errorf("%d answers to %d commands: %s", len(all), len(lines), out)
	}
	for i := range all {
		text := strings.Split(strings.TrimSpace(all[i]), "\n")
		slices.SortFunc(text, func(a, b string) int { return strings.Compare(withoutTimeout(a), withoutTimeout(b)) }) // tables have no order
		all[i] = strings.Join(text, "\n")
	}
	return all, nil
}

// timeoutWord is the timeout in a line of text.
var timeoutWord = regexp.MustCompile(`^((?:(?:\[T\]\t)? *\[[A-Z]+\] )?(?:ipv[46] +[0-9]+ )?[a-z0-9]+ +[0-9]+ |-[AUD] -t |.*<timeout>|(?:\[T\]\t)? *\[[A-Z]+\] )([0-9]+)\b`)

func withoutTimeout(line string) string { return timeoutWord.ReplaceAllString(line, "${1}N") }

// sameAnswer compares lines, in which timeouts may differ by a second.
func sameAnswer(got, want string) bool {
	return slices.EqualFunc(strings.Split(got, "\n"), strings.Split(want, "\n"), func(g, w string) bool {
		gt, wt := timeoutWord.FindStringSubmatch(g), timeoutWord.FindStringSubmatch(w)
		if gt == nil || wt == nil {
			return g == w
		}
		seconds, err1 := strconv.Atoi(gt[2])
		others, err2 := strconv.Atoi(wt[2])
		return err1 == nil && err2 == nil && max(seconds, others)-min(seconds, others) <= 1 && withoutTimeout(g) == withoutTimeout(w)
	})
}
